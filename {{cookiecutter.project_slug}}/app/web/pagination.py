"""Keyset pagination: a page starts after the last row of the one before, whatever was inserted since."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Annotated, Any, Generic, Protocol, Self, TypeVar
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, BeforeValidator, Field
from sqlalchemy.orm import Mapped

CURSOR = "^[A-Za-z0-9_-]{21}[AQgw]$"  # 16 bytes as base64 has them, which fill a quarter of the last letter

Schema = TypeVar("Schema", bound=BaseModel)


class HasId(Protocol):
    @property
    def id(self) -> UUID | Mapped[UUID]: ...  # of a model, mypy takes the one, and pyright the other


def encode_cursor(key: UUID) -> str:
    return urlsafe_b64encode(key.bytes).decode().rstrip("=")


def decode_cursor(cursor: str) -> UUID:
    """Return the key that `cursor` was encoded from.

    Raises:
        ValueError: it was encoded from none.
    """
    if not re.fullmatch(CURSOR, cursor):
        raise ValueError("no page ended with this cursor")
    return UUID(bytes=urlsafe_b64decode(f"{cursor}=="))


Limit = Annotated[int, Query(ge=1, le=100)]
Cursor = Annotated[
    UUID | None,
    BeforeValidator(decode_cursor, json_schema_input_type=Annotated[str, Field(pattern=CURSOR)]),
    Query(description="The `next_cursor` of the page before"),
]


class Page(BaseModel, Generic[Schema]):
    items: list[Schema]
    next_cursor: str | None

    @classmethod
    def of(cls, rows: Sequence[HasId], limit: int) -> Self:
        """Return the page of the first `limit` rows; ask the database for one more, to see if there is a next page."""
        last: Any = rows[limit - 1].id if len(rows) > limit else None
        return cls.model_validate({"items": rows[:limit], "next_cursor": last and encode_cursor(last)})
