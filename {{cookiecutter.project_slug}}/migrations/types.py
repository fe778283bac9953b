"""What PostgreSQL keeps of names and types, types for revisions without the application, a compiler that leaves colons."""

from typing import Any

from alembic.util import CommandError
from sqlalchemy import ARRAY, Boolean, Column, Enum, String, TypeDecorator, types
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ENUM, REGCONFIG, asyncpg
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.types import UserDefinedType
from sqlalchemy.util import immutabledict

ABSTRACT = (types.NullType, types.UserDefinedType, types.TypeEngine)
LONGEST_NAME = 63  # bytes; PostgreSQL cuts off the rest


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

    def render_literal_value(self, value: Any, type_: Any) -> Any:
        """Write a text search configuration by its name, which SQLAlchemy 2.1 refuses."""
        return super().render_literal_value(value, String() if isinstance(type_, REGCONFIG) else type_)  # type: ignore[no-untyped-call]


DIALECT: Any = asyncpg.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
DIALECT.statement_compiler = Compiler


def element_type(column: Column[Any]) -> Any:
    """Return the type of a column, or of its elements if it is an array."""
    return getattr(column.type, "item_type", column.type)


def cast(sql: str, type_: types.TypeEngine[Any], *, collated: bool = False) -> str:
    """Return `sql` as a value of a type, whose collation is no part of a CAST."""
    name, collate, collation = DIALECT.type_compiler_instance.process(type_).partition(" COLLATE ")
    return f"CAST({sql} AS {name})" + (f"{collate}{collation}" if collated else "")


def kept(name: str) -> str:
    """Return `name` as PostgreSQL cuts it off."""
    return name.encode()[:LONGEST_NAME].decode(errors="ignore")


def kept_schema(schema: str | None, default_schema: str | None) -> str | None:
    """Return the schema by which a thing is found; None: the default one."""
    return None if schema is None or schema == default_schema else kept(schema)


def kept_type(type_: types.TypeEngine[Any], default_schema: str | None) -> types.TypeEngine[Any]:
    """Return the type of SQLAlchemy's that makes the same column as `type_` does on PostgreSQL, if there is one.

    Raises:
        CommandError: it is an enum without a name.
        CompileError: PostgreSQL has no such type.
    """
    if DIALECT.name in type_._variant_mapping:
        type_ = type_._variant_mapping[DIALECT.name]
    elif type_._variant_mapping:
        type_ = type_.copy()
        type_._variant_mapping = immutabledict()
    if isinstance(type_, TypeDecorator):
        return kept_type(type_.type_engine(DIALECT), default_schema)
    if isinstance(type_, ARRAY):
        return postgresql.ARRAY(kept_type(type_.item_type, default_schema), dimensions=type_.dimensions)
    if isinstance(type_, Boolean):
        return Boolean()
    if isinstance(type_, Enum):
        if not type_.native_enum:
            return String(type_.length)
        if not type_.name:
            raise CommandError(f"give a name to the type {type_!r}: PostgreSQL keeps enums by their names")
        schema = kept_schema(type_.schema, default_schema)
        return ENUM(*type_.enums, name=kept(type_.name), schema=schema)
    process = DIALECT.type_compiler_instance.process
    for base in type(type_).__mro__:
        if base in ABSTRACT:
            break
        named = getattr(types, base.__name__, None), getattr(postgresql, base.__name__, None)
        if base in named and issubclass(base, types.TypeEngine):
            if base is type(type_):
                return type_
            plain: types.TypeEngine[Any] = type_.adapt(base)
            if process(plain) == process(type_):
                return plain
    return SQLType(process(type_)) if type(type_).__module__.startswith("app.") else type_
