"""What a setting may hold, beyond what pydantic knows."""

import json
import re
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from app.url import connect_arguments


def _known_to_asyncpg(url: SecretStr) -> SecretStr:
    connect_arguments(url.get_secret_value())
    return url


def _split(value: Any) -> Any:
    """Take a list as JSON, or separated by commas."""
    if not isinstance(value, str):
        return value
    if re.match(r'\s*\[\s*["\]]', value):  # and not an address, as in [::1]
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("must be a JSON list, or separated by commas") from None
    return [item.strip() for item in value.split(",") if item.strip()]


def _like(pattern: str, examples: str, value: str) -> str:
    if not re.fullmatch(pattern, value.lower()):
        raise ValueError(f"{value} must look like {examples}")
    return value.lower()


DatabaseURL = Annotated[SecretStr, AfterValidator(_known_to_asyncpg)]
Seconds = Annotated[float, Field(ge=0, le=1_000_000)]
Host = Annotated[
    str,
    AfterValidator(
        partial(_like, r"\*|(\*\.)?[^*/:\s\[\]]+|\[[0-9a-f:.]+\]", "example.com, *.example.com, [::1] or *")
    ),
]
Origin = Annotated[
    str, AfterValidator(partial(_like, r"\*|[a-z][a-z0-9+.-]*://[^*/?#@\s]+", "https://example.com or *"))
]
Listed = BeforeValidator(_split)
