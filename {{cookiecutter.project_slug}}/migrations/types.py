"""What SQLAlchemy lacks: types of columns, for revisions without the application, and a compiler that leaves colons."""

from typing import Any

from sqlalchemy import Column
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.types import UserDefinedType


def element_type(column: Column[Any]) -> Any:
    """Return the type of a column, or of its elements if it is an array."""
    return getattr(column.type, "item_type", column.type)


class SQLType(UserDefinedType[object]):
    """A type by its name in SQL."""

    cache_ok = True

    def __init__(self, sql: str) -> None:
        self.sql = sql

    def get_col_spec(self, **_: object) -> str:
        return self.sql


class Compiler(PGCompiler):
    """Leaves `:name` in a text as it is, which is no parameter where nothing gives it a value."""

    def render_literal_bindparam(self, bindparam: Any, *args: Any, **options: Any) -> Any:
        if bindparam.required:
            return f":{bindparam.key}"
        return super().render_literal_bindparam(bindparam, *args, **options)  # type: ignore[no-untyped-call]
