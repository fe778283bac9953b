"""What `--sql` writes does what the migration does online, or is refused where that fails."""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any
from uuid import UUID

import asyncpg
from alembic.util.sqla_compat import _literal_bindparam
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.base import PGCompiler, PGDDLCompiler
from sqlalchemy.exc import CompileError
from sqlalchemy.schema import DDLElement
from sqlalchemy.sql.functions import FunctionElement

from migrations import callers
from migrations.comparison import PostgresqlComparison
from migrations.errors import SEVERAL

# What may hold a semicolon that ends no statement, but for the body of BEGIN ATOMIC.
NESTED = re.compile(
    r"""\bE'(?:[^'\\]|\\.|'')*'|'[^']*'|"[^"]*"|(\$\w*\$).*?\1|--[^\n]*|/\*.*?\*/|\([^()]*\)""",
    re.DOTALL | re.IGNORECASE,
)
TWO = re.compile(r"^(?!.*\bBEGIN\s+ATOMIC\b).*;\s*[^\s;]", re.DOTALL | re.IGNORECASE)
AS_TEXT = (str, int, float, Decimal, date, time, UUID)
ADDRESSES = (IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)


def version_table() -> dict[str, Any]:
    """Return alembic's options of the table that keeps the applied revisions."""
    schema, name = callers.version_table()
    return {"version_table": name, "version_table_schema": schema}


class PostgresqlImpl(PostgresqlComparison):
    """Writes a statement for `--sql` as SQLAlchemy and asyncpg would send it, with its values in their places."""

    __dialect__ = "postgresql"

    def _exec(self, construct: Any, *arguments: Any, **options: Any) -> Any:
        self.dialect.dbapi = self.dialect.dbapi or self.dialect.import_dbapi()  # which some types ask
        if isinstance(construct, DDLElement):
            DDLCompiler(self.dialect, construct)
        if not self.as_sql:
            return super()._exec(construct, *arguments, **options)
        if isinstance(construct, str):
            construct = text(construct)
        elif isinstance(construct, FunctionElement):
            construct = construct.select()
        if isinstance(construct, DDLElement):
            sql = str(construct.compile(dialect=self.dialect)).strip()
        else:
            compiled = Compiler(self.dialect, construct, compile_kwargs={"literal_binds": True})
            if defaults := [*compiled.insert_prefetch, *compiled.update_prefetch]:
                raise CompileError(f"only Python knows the default of {defaults[0]}: give a value")
            sql = str(compiled).strip()
        refuse_several_statements(sql)
        self.static_output(sql + ("\n;" if "--" in sql.rpartition("\n")[2] else ";"))
        return None

    def bulk_insert(self, table: Any, rows: list[dict[str, Any]], multiinsert: bool = True) -> None:
        if not self.as_sql or not isinstance(rows, list):
            return super().bulk_insert(table, rows, multiinsert)
        for row in rows:
            if multiinsert and (missing := rows[0].keys() - row.keys()):
                raise CompileError(f"A value is required for bind parameter '{min(missing)}'")
            self._exec(table.insert().inline().values(**{k: row[k] for k in (rows[0] if multiinsert else row)}))


class Compiler(PGCompiler):
    """Renders values as literals, of the type and with the cast that asyncpg sends them with."""

    def render_literal_bindparam(self, bindparam: Any, *args: Any, **options: Any) -> Any:
        sqlalchemys: Any = super()
        value = (self._collect_params and self._collected_params.get(bindparam.key)) or bindparam.effective_value
        if value is None and bindparam.required:
            raise CompileError(f"A value is required for bind parameter '{bindparam.key}'")
        if isinstance(bindparam, _literal_bindparam):  # op.inline_literal, which is SQLAlchemy's online, too
            return sqlalchemys.render_literal_value(value, bindparam.type)
        return sqlalchemys.render_literal_bindparam(bindparam, render_literal_value=value, **options)

    def render_literal_value(self, value: Any, type_: Any) -> Any:
        sqlalchemys: Any = super()
        impl = type_._unwrapped_dialect_impl(self.dialect)
        process = type_._cached_bind_processor(self.dialect)
        sent = process(value) if process else value
        if isinstance(sent, datetime) and getattr(impl, "timezone", False):
            sent = sent.astimezone(UTC)
        elif isinstance(sent, datetime) and sent.tzinfo:
            raise CompileError(f"{sent} has a time zone, and {type_!r} has none")
        try:
            literal = "NULL" if sent is None else "'" + _text(sent).replace("'", "''") + "'"
        except TypeError:
            return sqlalchemys.render_literal_value(value, type_)
        return sqlalchemys.render_bind_cast(type_, impl, literal) if impl.render_bind_cast else literal


class DDLCompiler(PGDDLCompiler):
    """Refuses a parameter without a value, as `:name` in a text, which SQLAlchemy would write as NULL."""

    @property
    def sql_compiler(self) -> Any:
        return Compiler(self.dialect, None)


def _text(value: Any) -> str:
    """Return what PostgreSQL reads as `value`.

    Raises:
        TypeError: it is of another type than asyncpg takes.
    """
    match value:
        case bool():
            return str(value).lower()
        case bytes() | bytearray() | memoryview():
            return rf"\x{value.hex()}"
        case timedelta():
            return f"{value.days} days {value.seconds} seconds {value.microseconds} microseconds"
        case asyncpg.Range() if value.isempty:
            return "empty"
        case asyncpg.Range():
            lower, upper = ("" if end is None else _quoted(end) for end in (value.lower, value.upper))
            return f"{'[' if value.lower_inc else '('}{lower},{upper}{']' if value.upper_inc else ')'}"
        case list() | tuple():
            return "{" + ",".join("NULL" if element is None else _quoted(element) for element in value) + "}"
    if isinstance(value, AS_TEXT + ADDRESSES):
        return str(value)
    raise TypeError


def _quoted(element: Any) -> str:
    """Return the text of an element of an array or a range; an inner array is no string."""
    element_text = _text(element)
    if isinstance(element, Sequence) and not isinstance(element, str | bytes):
        return element_text
    return '"' + element_text.replace("\\", r"\\").replace('"', r"\"") + '"'


def refuse_several_statements(sql: str) -> None:
    """Raise CompileError if `sql` is more than one statement, which asyncpg refuses."""
    found = 1
    while found:
        sql, found = NESTED.subn(" ", sql)
    if TWO.search(sql):
        raise CompileError(SEVERAL)
