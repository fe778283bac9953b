"""Compares the models with the database as PostgreSQL writes both down; it runs nothing of either, and locks nothing."""

import logging
import re
from collections.abc import Iterable
from contextlib import nullcontext
from functools import cached_property
from typing import Any

from alembic import context
from alembic.ddl._autogen import ComparisonResult
from alembic.ddl.postgresql import PostgresqlImpl
from sqlalchemy import CheckConstraint, Column, ColumnClause, Date, DateTime, Index, Table, Time, UniqueConstraint, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import NullType

from migrations.errors import sqlstate
from migrations.target import COMPILER, PREPARER, SORTING, compiled, escaped
from migrations.types import SQLType, cast

OPERATORS = re.compile(r"\s+(?:\w+\.)?(\w+_ops)$")  # by which an index sorts
MOMENT = re.compile(r"'(now|today|tomorrow|yesterday)\b", re.IGNORECASE)  # PostgreSQL stores the moment itself
TYPE = text("""
    SELECT pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute
    WHERE attrelid = pg_catalog.to_regclass(:table) AND attname = CAST(:column AS pg_catalog.name)
""")
SPECIAL = text("""
    SELECT nspname, relname, conname, contype = 'x', condeferrable, condeferred, pg_catalog.pg_get_constraintdef(c.oid)
    FROM pg_catalog.pg_constraint c
    JOIN pg_catalog.pg_class t ON t.oid = conrelid JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
    WHERE contype = 'x' OR condeferrable AND contype IN ('p', 'u')
""")


# Of a default: it does not suit the type (cannot_coerce and others), or the type does not exist yet.
UNSUITABLE = ("22", "42846", "42704")
Special = tuple[bool, bool, bool, str]  # whether a constraint is EXCLUDE, deferrable, deferred; its definition
UNSPECIAL: Special = (False, False, False, "")

logger = logging.getLogger(__name__)


class PostgresqlComparison(PostgresqlImpl):
    """Compares what alembic does not, and asks PostgreSQL where two texts differ."""

    __dialect__ = "postgresql"

    def autogen_column_reflect(self, inspector: Any, table: Table, column_info: Any) -> None:
        super().autogen_column_reflect(inspector, table, column_info)  # type: ignore[no-untyped-call]
        if isinstance(column_info["type"], NullType):  # which is how SQLAlchemy says that it does not know it
            place = {"table": PREPARER.format_table(table), "column": column_info["name"]}
            column_info["type"] = SQLType(inspector.bind.scalar(TYPE, place))

    def compare_type(self, inspector_column: Column[Any], metadata_column: Column[Any]) -> bool:
        if not super().compare_type(inspector_column, metadata_column):
            return False
        return not _are_alike([(cast("NULL", inspector_column.type), cast("NULL", metadata_column.type))])

    def compare_server_default(
        self,
        inspector_column: Column[Any],
        metadata_column: Column[Any],
        rendered_metadata_default: str | None,
        rendered_inspector_default: str | None,
    ) -> bool:
        existing, default = map(COMPILER.get_column_default_string, (inspector_column, metadata_column))
        if existing is None or default is None:
            return existing != default and metadata_column is not metadata_column.table._autoincrement_column
        if default in (existing, f"'{existing}'", re.sub(r"::[\w ]+$", "", existing)):
            return False  # as most are: no need to ask
        if (
            MOMENT.match(default)
            and existing.startswith("'")
            and isinstance(metadata_column.type, (DateTime, Date, Time))
        ):
            place = f"{metadata_column.table.fullname}.{metadata_column.name}"
            logger.warning(f"{place}: {default} stays the time of its revision; sa.func.now() is that of each row")
            return False
        type_ = metadata_column.type
        return not _are_alike([(cast(existing, type_), cast(default, type_))], forgiven=UNSUITABLE)

    def render_ddl_sql_expr(self, expr: Any, is_server_default: bool = False, is_index: bool = False, **kw: Any) -> str:
        sql = compiled(expr.self_group() if is_index and not isinstance(expr, ColumnClause) else expr)
        return sql if is_index else escaped(sql)

    def adjust_reflected_dialect_options(self, reflected_object: Any, kind: str) -> dict[str, Any]:
        options = super().adjust_reflected_dialect_options(reflected_object, kind)
        return {name: text(value) if name == "postgresql_where" else value for name, value in options.items()}

    def compare_check_constraint(
        self, metadata_constraint: CheckConstraint, reflected_constraint: CheckConstraint
    ) -> Any:
        pair = compiled(metadata_constraint.sqltext), compiled(reflected_constraint.sqltext)
        if are_alike(metadata_constraint.table, reflected_constraint.table, [pair]):
            return ComparisonResult.Equal()
        return ComparisonResult.Different(f"{pair[1]} to {pair[0]}")

    def compare_unique_constraint(
        self, metadata_constraint: UniqueConstraint, reflected_constraint: UniqueConstraint
    ) -> ComparisonResult:
        result = super().compare_unique_constraint(metadata_constraint, reflected_constraint)
        ours, theirs = metadata_constraint, reflected_constraint
        if result.is_equal and _included(ours) != _included(theirs):
            return ComparisonResult.Different(f"INCLUDE {_included(theirs)} to {_included(ours)}")
        self.complete(theirs)
        if result.is_equal and deferral(ours) != deferral(theirs):
            return ComparisonResult.Different("DEFERRABLE")
        return result

    def complete(self, reflected: Any) -> None:
        """Say of a constraint of the database whether it is deferrable, which SQLAlchemy does not read."""
        _, deferrable, deferred, _ = self.special_of(reflected.table).get(str(reflected.name), UNSPECIAL)
        reflected.deferrable, reflected.initially = deferrable or None, "DEFERRED" if deferred else None

    def compare_indexes(self, metadata_index: Index, reflected_index: Index) -> ComparisonResult:
        ours, theirs = self._described(metadata_index), self._described(reflected_index)
        for name, value in ours.items():
            if name not in ("on", "WHERE") and value != theirs[name]:
                return ComparisonResult.Different(f"{name} {theirs[name]} to {value}")
        if len(ours["on"]) != len(theirs["on"]) or (ours["WHERE"] is None) != (theirs["WHERE"] is None):
            return ComparisonResult.Different(f"{theirs['on'], theirs['WHERE']} to {ours['on'], ours['WHERE']}")
        pairs = [*zip(ours["on"], theirs["on"], strict=True), (ours["WHERE"] or "", theirs["WHERE"] or "")]
        assert metadata_index.table is not None
        assert reflected_index.table is not None
        if are_alike(metadata_index.table, reflected_index.table, pairs):
            return ComparisonResult.Equal()
        return ComparisonResult.Different(f"{[pair[1] for pair in pairs]} to {[pair[0] for pair in pairs]}")

    def _described(self, index: Index) -> dict[str, Any]:
        options = {name.removeprefix("postgresql_"): value for name, value in index.kwargs.items()}
        on, sorting, operators = [], [], []
        for expression in index.expressions:
            sql = compiled(expression)
            [descends, nulls] = (SORTING.search(sql) or [""] * 3).groups()  # type: ignore[union-attr]
            sql = SORTING.sub("", sql)
            named = OPERATORS.search(sql)
            sql = OPERATORS.sub("", sql)
            of_options = options.get("ops") or {}
            operator = of_options.get(getattr(expression, "key", None)) or of_options.get(sql.strip('"'))
            operators.append(self._operators(named[1] if named else operator))
            falls = bool(descends) and descends.lower() == "desc"
            sorting.append((falls, (nulls or ("first" if falls else "last")).lower()))
            on.append(sql)
        where = options.get("where")
        return {
            "UNIQUE": bool(index.unique),
            "USING": (options.get("using") or "btree").lower(),
            "INCLUDE": _included(index),
            "WITH": {name: str(value).lower() for name, value in (options.get("with") or {}).items()},
            "NULLS NOT DISTINCT": bool(options.get("nulls_not_distinct")),
            "sorted": sorting,
            "operators": operators,
            "on": on,
            "WHERE": where if where is None or isinstance(where, str) else compiled(where),
        }

    def _operators(self, name: str | None) -> str | None:
        """Return the operator class `name`; None if it is what PostgreSQL takes unasked."""
        return None if name is None or name in self._default_operators else name.rpartition(".")[2]

    @cached_property
    def _default_operators(self) -> set[str]:
        query = "SELECT opcname FROM pg_catalog.pg_opclass GROUP BY opcname HAVING pg_catalog.bool_and(opcdefault)"
        return set(context.get_bind().scalars(text(query)))

    @cached_property
    def special(self) -> dict[tuple[str, str], dict[str, Special]]:
        """The constraints that alembic does not compare, by the schema and the name of their table."""
        found: dict[tuple[str, str], dict[str, Special]] = {}
        for schema, table, name, *rest in context.get_bind().execute(SPECIAL):
            found.setdefault((schema, table), {})[name] = (rest[0], rest[1], rest[2], rest[3])
        return found

    def special_of(self, table: Table) -> dict[str, Special]:
        return self.special.get((table.schema or str(self.dialect.default_schema_name), table.name), {})


def deferral(constraint: Any) -> tuple[bool, bool]:
    """Say whether a constraint of the models is deferrable, and deferred."""
    deferred = (constraint.initially or "").upper() == "DEFERRED"
    return bool(constraint.deferrable) or deferred, deferred


def _included(item: Any) -> list[str]:
    return [getattr(column, "name", column) for column in item.kwargs.get("postgresql_include") or ()]


def are_alike(table: Table, found: Table, pairs: Iterable[tuple[str, str]]) -> bool:
    """Say whether PostgreSQL writes the expressions of each pair alike, of the columns that `table` has and had before.

    An expression that it cannot read, as one of another column, is like no other.
    """
    pairs = [pair for pair in pairs if _bare(pair[0]) != _bare(pair[1])]
    if not pairs:
        return True
    words = set(re.findall(r"\w+", str(pairs)))
    quote = PREPARER.quote
    columns = [
        f"{cast('NULL', column.type)} AS {quote(column.name)}"
        for column in table.columns
        if column.name in found.columns and words.issuperset(re.findall(r"\w+", column.name))
    ]
    # OFFSET keeps PostgreSQL from putting the NULLs in the place of the columns.
    return _are_alike(pairs, f"FROM (SELECT {', '.join(columns) or 1} OFFSET 0) AS {quote(table.name)}")


def _bare(sql: str) -> str:
    """Return `sql` without the spaces and the outer brackets that mean nothing."""
    sql = " ".join(sql.split())
    while sql.startswith("(") and sql.endswith(")"):
        depth = [sql[: end + 1].count("(") - sql[: end + 1].count(")") for end in range(len(sql) - 1)]
        if 0 in depth:
            break
        sql = sql[1:-1].strip()
    return sql


def _are_alike(pairs: Iterable[tuple[str, str]], source: str = "", forgiven: tuple[str, ...] = ()) -> bool:
    output = explained([expression for pair in pairs for expression in pair], source)
    if isinstance(output, DBAPIError):
        return sqlstate(output).startswith(forgiven)
    return output[::2] == output[1::2]


def explained(expressions: Iterable[str], source: str = "") -> list[str] | DBAPIError:
    """Return the expressions as PostgreSQL writes them, or why it cannot read them."""
    connection = context.get_bind()
    autocommit = connection.get_isolation_level() == "AUTOCOMMIT"
    query = f"EXPLAIN (VERBOSE, FORMAT JSON) SELECT {', '.join(f'({one})' for one in expressions)} {source}"
    try:
        with nullcontext() if autocommit else connection.begin_nested():
            [plan] = connection.exec_driver_sql(query).scalar_one()
    except DBAPIError as error:
        if sqlstate(error)[:2] not in ("22", "3F", "42"):
            raise
        return error
    return list(plan["Plan"]["Output"])
