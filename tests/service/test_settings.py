"""The settings come from where they should, and what is wrong with them is said in one line each."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.project import ROOT
from app.settings import ConfigurationError, DatabaseSettings, Environment, MigrationSettings, Settings, load_settings


@pytest.fixture(autouse=True)
def no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ENV_FILE": "", "ENVIRONMENT": "test", "ALLOWED_HOSTS": "*"}.items():
        monkeypatch.setenv(name, value)


def test_a_missing_database_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    with pytest.raises(ConfigurationError, match=r"^DATABASE_URL and DATABASE_URL_PROD are not set.*=production\n"):
        load_settings(Settings)


def test_an_error_in_the_settings_does_not_show_a_secret() -> None:
    with pytest.raises(ValidationError) as error:
        Settings(database_url="mysql://root:hunter2@localhost/shop")
    assert "hunter2" not in str(error.value)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_BODY_SIZE", "")
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/shop")
    assert load_settings(Settings).max_body_size == 1_000_000


@pytest.mark.parametrize("of", [Settings, MigrationSettings])
@pytest.mark.parametrize("in_file", [True, False])
def test_an_empty_environment_is_not_the_local_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, of: type[Settings], in_file: bool
) -> None:
    monkeypatch.delenv("ENVIRONMENT")
    if in_file:
        file = tmp_path / ".env"
        file.write_text("environment=\n")
        monkeypatch.setenv("ENV_FILE", str(file))
    else:
        monkeypatch.setenv("ENVIRONMENT", "")
    with pytest.raises(ConfigurationError, match=r"^ENVIRONMENT must not be empty: [^\n]*$"):
        load_settings(of)


@pytest.mark.parametrize("environment", ["local", "development", "staging", "test"])
def test_only_this_machine_is_a_host_by_default(monkeypatch: pytest.MonkeyPatch, environment: str) -> None:
    monkeypatch.delenv("ALLOWED_HOSTS")
    monkeypatch.setenv("ENVIRONMENT", environment)
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/shop")
    assert load_settings(Settings).allowed_hosts == ["localhost", "127.0.0.1", "[::1]"]


def test_the_process_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("ENVIRONMENT=staging\nDATABASE_URL=postgresql://file/shop\nOF_ANOTHER_PROGRAM=1\n")
    monkeypatch.setenv("ENV_FILE", str(file))
    monkeypatch.delenv("ENVIRONMENT")
    monkeypatch.setenv("DATABASE_URL", "postgresql://process/shop")
    settings = load_settings(Settings)
    assert settings.environment is Environment.STAGING
    assert settings.database_url
    assert settings.database_url.get_secret_value() == "postgresql://process/shop"


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ("local", "DATABASE_URL_LOCAL"),
        ("development", "DATABASE_URL_DEV"),
        ("staging", "DATABASE_URL_STAGING"),
        ("production", "DATABASE_URL_PROD"),
    ],
)
def test_each_environment_has_its_database(monkeypatch: pytest.MonkeyPatch, environment: str, variable: str) -> None:
    for name in ("LOCAL", "DEV", "STAGING", "PROD"):
        monkeypatch.setenv(f"DATABASE_URL_{name}", f"postgresql:///DATABASE_URL_{name}")
    monkeypatch.setenv("ENVIRONMENT", environment)
    monkeypatch.setenv("ALLOWED_HOSTS", "example.com")
    assert database(Settings) == f"postgresql:///{variable}"
    monkeypatch.delenv(variable)
    if environment != "local":
        with pytest.raises(ConfigurationError, match=rf"^DATABASE_URL and {variable} are not set"):
            database(Settings)
    monkeypatch.setenv("DATABASE_URL", "postgresql:///wins")
    assert database(Settings) == database(MigrationSettings) == "postgresql:///wins"
    monkeypatch.setenv("MIGRATION_DATABASE_URL", "postgresql:///migrations")
    assert database(Settings) == "postgresql:///wins"
    assert database(MigrationSettings) == "postgresql:///migrations"


def test_the_tests_take_no_other_environment_s_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL_LOCAL", "postgresql://local")
    with pytest.raises(ConfigurationError, match=r"^DATABASE_URL is not set"):
        database(Settings)


def database(of: type[DatabaseSettings]) -> str | None:
    url = load_settings(of).database
    return url.get_secret_value() if url else None


@pytest.mark.parametrize("value", ["a.com,b.com", " a.com , b.com ,", '["a.com", "b.com"]'])
def test_a_list_is_json_or_separated_by_commas(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ALLOWED_HOSTS", value)
    assert Settings().allowed_hosts == ["a.com", "b.com"]


def test_every_problem_is_listed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ENVIRONMENT": "production",
        "DEBUG": "yes",
        "CORS_ORIGINS": "*",
        "MAX_BODY_SIZE": "big",
        "ALLOWED_HOSTS": "[1",
        "DATABASE_URL": "postgresql://user:hunter2@database.example.com/shop",
        "DATABASE_REPLICA_URL": "postgresql://user:hunter2@replica.example.com/shop?sslmode=prefer",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as error:
        load_settings(Settings)
    problems = str(error.value).split("\n")
    named = [problem.replace(":", " ").split()[0] for problem in problems]
    assert sorted(named) == sorted(
        [
            "ALLOWED_HOSTS",
            "CORS_ORIGINS",
            "DATABASE_REPLICA_URL",
            "DATABASE_URL",
            "DEBUG",
            "MAX_BODY_SIZE",
        ]
    )
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://localhost/db",
        "postgresql://127.0.0.1:5432/db",
        "postgresql://[::1]/db",
        "postgresql://[::1]:5432,LOCALHOST/db",
        "postgresql:///db",
        "postgresql:///db?host=/run/postgresql",
        "postgresql:///db?host=::1",
        "postgresql://h/db?host=localhost",
        "postgresql://h/db?sslmode=require",
        "postgresql://h/db?channel_binding=require",
    ],
)
def test_a_database_in_production_is_near_or_encrypted(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name, value in {"ENVIRONMENT": "production", "ALLOWED_HOSTS": "example.com", "DATABASE_URL": url}.items():
        monkeypatch.setenv(name, value)
    assert load_settings(Settings).database


FOREIGN = [
    "h",
    "localhost.evil.com",
    "localhost-evil.com",
    "127.0.0.1.nip.io",
    "127.evil.com",
    "localhost@evil.com",
    "localhost:x%40evil.com@evil.com",
    "localhost,evil.com",
    "evil.com/db?sslmode=allow",
    "localhost%2Eevil.com",
    "[::1]evil.com",
    "[::2]",
    "localhost/db?host=evil.com",
    "localhost/db?host=localhost,evil.com",
    "localhost/db?host=evil.com&host=127.0.0.1.nip.io",
    "evil.com/db?sslmode=prefer",
    "evil.com/db?sslmode=require&sslmode=disable",
    "",  # PGHOST's
]


@pytest.mark.parametrize("variable", ["DATABASE_URL", "DATABASE_REPLICA_URL", "MIGRATION_DATABASE_URL"])
@pytest.mark.parametrize("foreign", FOREIGN)
def test_a_database_elsewhere_must_be_encrypted_in_production(
    monkeypatch: pytest.MonkeyPatch, variable: str, foreign: str
) -> None:
    near = {"ENVIRONMENT": "production", "ALLOWED_HOSTS": "example.com", "DATABASE_URL": "postgresql://localhost/db"}
    for name, value in {
        **near,
        "PGHOST": "evil.com",
        variable: f"postgresql://{foreign}",
    }.items():
        monkeypatch.setenv(name, value)
    for of in (Settings, MigrationSettings):
        if variable.lower() in of.model_fields:
            with pytest.raises(ConfigurationError, match=rf"^{variable} must have sslmode=require or stricter in prod"):
                load_settings(of)
    monkeypatch.setenv("PGSSLMODE", "require")  # asyncpg heeds it where the URL says nothing
    if "?sslmode" not in foreign:
        load_settings(Settings)


def test_the_command_shows_values_and_sources_but_no_secret(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("LOG_LEVEL=debug\n")
    env = {"ENV_FILE": str(file), "DATABASE_URL": "postgresql://u:hunter2@h/db", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "app.settings"]
    shown = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    assert re.search(r"^LOG_LEVEL +DEBUG +.*\.env$", shown, re.MULTILINE)
    assert re.search(r"^DATABASE_URL +\*+ +environment$", shown, re.MULTILINE)
    assert re.search(r"^MIGRATION_LOCK_WAIT +60.0 +default$", shown, re.MULTILINE)
    assert "hunter2" not in shown
    wrong = subprocess.run(
        command, env=env | {"ENVIRONMENT": "production"}, check=False, capture_output=True, text=True
    )
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-2] == "ALLOWED_HOSTS must be set in production"
    variables = env | {"ENVIRONMENT": "production", "DOCS": "perhaps", "MIGRATION_LOCK_WAIT": "long"}
    every = subprocess.run(command, env=variables, check=False, capture_output=True, text=True).stderr.splitlines()
    named = [line.replace(":", " ").split()[0] for line in every]
    assert named == ["DOCS", "ALLOWED_HOSTS", "DATABASE_URL", "MIGRATION_LOCK_WAIT"]


def test_the_command_needs_a_file_of_text(tmp_path: Path) -> None:
    (tmp_path / "bad.env").write_bytes(b"\xff\xfe")
    env = {"ENV_FILE": str(tmp_path / "bad.env"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "app.settings"], env=env, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"{tmp_path / 'bad.env'} must be UTF-8 text\n")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("ALLOWED_HOSTS", "*example.com", "*example.com must look like example.com, *.example.com, [::1] or *"),
        ("ALLOWED_HOSTS", "a.com,https://b.com", "https://b.com must look like"),
        ("ALLOWED_HOSTS", "::1", "::1 must look like"),
        ("ALLOWED_HOSTS", "[::1", "[::1 must look like"),
        ("ALLOWED_HOSTS", "[::1]:8000", "[::1]:8000 must look like"),
        ("ALLOWED_HOSTS", ",", "at least 1 item"),
        ("ALLOWED_HOSTS", '["a.com"', "must be a JSON list, or separated by commas"),
        ("CORS_ORIGINS", "example.com", "example.com must look like https://example.com or *"),
        ("CORS_ORIGINS", "https://example.com/", "must look like https://example.com"),
        ("CORS_ORIGINS", "https://*.example.com", "must look like https://example.com"),
    ],
)
def test_a_host_or_origin_that_none_could_match_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as error:
        load_settings(Settings)
    assert str(error.value).startswith(f"{name}: ")
    assert problem in str(error.value)


def test_hosts_and_origins_are_compared_in_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_HOSTS", "[::ABC], API.Example.com, localhost, my_host")
    monkeypatch.setenv("CORS_ORIGINS", "https://Example.com:8443, capacitor://localhost, http://[::1]:3000")
    settings = Settings()
    assert settings.allowed_hosts == ["[::abc]", "api.example.com", "localhost", "my_host"]
    assert settings.cors_origins == ["https://example.com:8443", "capacitor://localhost", "http://[::1]:3000"]
