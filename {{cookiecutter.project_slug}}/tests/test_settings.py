"""What is missing or wrong in the settings is named, and no secret is shown."""

import pytest

from app.overview import env_example
from app.project import ROOT
from app.settings import ConfigurationError, Settings, all_settings, load_settings


@pytest.mark.parametrize(
    ("environment", "missing"),
    [
        ("development", "DATABASE_URL and DATABASE_URL_DEV are"),
        ("staging", "DATABASE_URL and DATABASE_URL_STAGING are"),
        ("production", "DATABASE_URL and DATABASE_URL_PROD are"),
        ("test", "DATABASE_URL is"),
    ],
)
def test_no_environment_starts_without_its_database(
    monkeypatch: pytest.MonkeyPatch, environment: str, missing: str
) -> None:
    monkeypatch.setenv("ENVIRONMENT", environment)
    with pytest.raises(ConfigurationError, match=rf"^{missing} not set.*={environment}"):
        load_settings(Settings)


def test_malformed_variables_are_named_and_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "prod")
    monkeypatch.setenv("DATABASE_URL", "mysql://root:hunter2@localhost/shop")
    with pytest.raises(ConfigurationError) as error:
        load_settings(Settings)
    environment, database_url = str(error.value).split("\n")
    assert environment.startswith("ENVIRONMENT: ")
    assert database_url.startswith("DATABASE_URL: ")
    assert "hunter2" not in database_url


def test_the_example_of_an_env_file_is_up_to_date() -> None:
    """`uv run python -m app.settings --env-example > .env.example` writes it."""
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == env_example(all_settings())
