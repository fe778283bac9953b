"""What the models describe, as PostgreSQL keeps it: one form for each thing that a model can say in several ways."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from alembic.util import CommandError
from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    DefaultClause,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    Table,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlalchemy.exc import ArgumentError, CompileError, InvalidRequestError
from sqlalchemy.schema import CreateIndex, sort_tables_and_constraints
from sqlalchemy.sql.elements import ColumnElement, conv, literal_column
from sqlalchemy.sql.schema import Constraint
from sqlalchemy.types import NullType

from migrations.types import DIALECT, kept, kept_schema, kept_type

COMPILER: Any = DIALECT.ddl_compiler(DIALECT, None)
PREPARER: Any = DIALECT.identifier_preparer
# How an index sorts what it is on.
SORTING = re.compile(r"(?:\s+(asc|desc))?(?:\s+nulls\s+(first|last))?$", re.IGNORECASE)


def as_postgresql_keeps(models: MetaData, default_schema: str | None) -> MetaData:
    """Return the tables of `models` in PostgreSQL's own types, names and constraints, none in `default_schema` by name.

    Foreign keys that close a circle have `use_alter`, and no others.

    Raises:
        CommandError: something lacks the name that a revision needs, or has another's, or a type that PostgreSQL lacks.
    """
    target = MetaData(naming_convention=models.naming_convention)
    for table in models.tables.values():
        _Copy(table, target, default_schema).make()
    tables = sorted(target.tables.values(), key=lambda table: table.fullname)
    *_, (_, closing) = sort_tables_and_constraints(tables)  # type: ignore[no-untyped-call]
    for constraint in closing:
        constraint.use_alter = True
    return target


def is_apart(table: Table) -> bool:
    """Say whether something else makes this table: it is a view, or one that says so."""
    infos = (table.info, table.metadata.info)
    return table.is_view or any(info.get("is_view") or info.get("skip_autogenerate") for info in infos)


class _Copy:
    """The copy of one table; its columns keep the keys that expressions and constraints know them by."""

    def __init__(self, source: Table, target: MetaData, default_schema: str | None) -> None:
        self.source, self.target, self.default_schema = source, target, default_schema

    def make(self) -> None:
        source, apart = self.source, is_apart(self.source)
        columns = [column for column in source.columns if not column.system]
        try:
            self.table: Table = Table(
                kept(source.name),
                self.target,
                *(self._column(column, apart) for column in columns),
                schema=kept_schema(source.schema, self.default_schema),
                comment=source.comment,
                prefixes=source._prefixes,
                info={"skip_autogenerate": True} if apart else {},
                **source.kwargs,
            )
        except (ArgumentError, InvalidRequestError) as error:
            said = str(error).partition(".")[0]
            raise CommandError(f"table {source.fullname}, by names as PostgreSQL keeps them: {said}") from error
        if apart:
            return
        for constraint in self._constraints(columns):
            self.table.append_constraint(constraint)
        for index in sorted(source.indexes, key=lambda index: str(index.name)):
            if index._ddl_if is None or index._ddl_if._should_execute(CreateIndex(index), index, None, COMPILER):
                Index(
                    self._name(index),
                    *map(self._expression, index.expressions),
                    unique=index.unique,
                    _table=self.table,
                    **index.kwargs,
                )

    def _column(self, column: Column[Any], apart: bool) -> Column[Any]:
        default: Any = column.server_default
        if isinstance(default, (Computed, Identity)):
            default = default._copy()
        elif isinstance(default, DefaultClause):
            default = default.arg
        else:
            default = None  # what the database is only said to fill in is no DDL
        try:
            type_ = NullType() if apart else kept_type(column.type, self.default_schema)
        except CompileError as error:
            where = f"{self.source.fullname}.{column.name}"
            raise CommandError(f"{where}: PostgreSQL has no type {column.type!r}") from error
        # A whole number that the application brings along is no SERIAL.
        brought = column.default is not None and not (isinstance(column.default, Sequence) and column.default.optional)
        number = column.primary_key and isinstance(type_, Integer)
        return Column(
            kept(column.name),
            type_,
            key=column.key,
            server_default=default,
            primary_key=column.primary_key,
            nullable=not column.primary_key and column.nullable,
            autoincrement=False if brought and number else column.autoincrement,
            comment=column.comment,
            **column.dialect_kwargs,
        )

    def _constraints(self, columns: list[Column[Any]]) -> Iterator[Constraint]:
        """Yield copies of what is made on PostgreSQL, wherever it is written; it makes one key of two that are alike."""
        constraints = [*self.source.constraints, *(one for column in columns for one in column.constraints)]
        keys = set()
        for constraint in sorted(constraints, key=_rank):
            if constraint._should_create_for_compiler(COMPILER) and (key := _index_of(constraint)) not in keys:
                keys.add(key)
                if not isinstance(constraint, PrimaryKeyConstraint) or constraint.columns:
                    yield self._constraint(constraint)

    def _constraint(self, source: Constraint) -> Constraint:
        keys = [column.key for column in getattr(source, "columns", ())]
        options: Any = {
            "name": self._name(source),
            "deferrable": source.deferrable,
            "initially": source.initially,
            **source.dialect_kwargs,
        }
        if isinstance(source, PrimaryKeyConstraint):
            return PrimaryKeyConstraint(*keys, **options)
        if isinstance(source, UniqueConstraint):
            return UniqueConstraint(*keys, **options)
        if isinstance(source, CheckConstraint):
            return CheckConstraint(sql_text(source.sqltext), **options)
        if isinstance(source, ForeignKeyConstraint):
            targets = [element.column for element in source.elements]
            there = targets[0].table
            table = ".".join(filter(None, (kept_schema(there.schema, self.default_schema), kept(there.name))))
            options |= {"onupdate": source.onupdate, "ondelete": source.ondelete, "match": source.match}
            return ForeignKeyConstraint(
                keys, [f"{table}.{kept(column.name)}" for column in targets], link_to_name=True, **options
            )
        if isinstance(source, ExcludeConstraint):
            elements = [
                (sql_text(expression, source.ops.get(name)), operator)
                for expression, name, operator in source._render_exprs
            ]
            options |= {"using": source.using, "where": None if source.where is None else sql_text(source.where)}
            return ExcludeConstraint(*elements, **options)
        raise CommandError(f"table {self.source.fullname}: a {type(source).__name__} is not known here")

    def _expression(self, expression: Any) -> Any:
        """Return what an index is on, as a column of the copy or as text."""
        if isinstance(expression, Column):
            return self.table.c[expression.key]
        literal: ColumnElement[Any] = literal_column(compiled(expression.self_group()))
        label = getattr(expression, "key", None) if expression.__visit_name__ == "label" else None
        return literal.label(label) if label else literal

    def _name(self, item: Constraint | Index) -> str | None:
        """Return the name that the database gets for a constraint or an index; None: it chooses one."""
        if isinstance(item.name, conv):  # by a convention, and SQLAlchemy shortens it
            return conv(kept(PREPARER.truncate_and_render_constraint_name(item.name, _alembic_quote=False)))
        if item.name is None or isinstance(item.name, str):
            return item.name and kept(item.name)
        raise CommandError(f"table {self.source.fullname}: give a name to the Enum that has create_constraint")


def _rank(constraint: Constraint) -> tuple[bool, int]:
    return not isinstance(constraint, PrimaryKeyConstraint), constraint._creation_order


def _index_of(constraint: Constraint) -> object:
    """Return what tells the index of a key from others; something of its own if `constraint` has none."""
    if not isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint):
        return constraint
    columns, options = (column.key for column in constraint.columns), sorted(constraint.dialect_kwargs.items())
    return tuple(columns), bool(constraint.deferrable), constraint.initially, str(options)


def made_here(models: MetaData) -> list[Table]:
    """Return the tables of `models` that nothing else makes."""
    return [table for table in models.tables.values() if not is_apart(table)]


def is_unique(table: Table, columns: Iterable[Column[Any]], *, at_once: bool = False) -> bool:
    """Say whether no two rows agree in these columns, by a key or an index of exactly them; `at_once`: by none that is deferrable."""
    keys = [one for one in table.constraints if isinstance(one, PrimaryKeyConstraint | UniqueConstraint)]
    whole = [one for one in table.indexes if one.unique and one.dialect_options["postgresql"]["where"] is None]
    late = {one for one in keys if at_once and (one.deferrable or str(one.initially).upper() == "DEFERRED")}
    parts: list[Any] = [one.columns for one in keys if one not in late]
    parts += [one.expressions for one in whole]
    return {*map(compiled, columns)} in [{SORTING.sub("", compiled(part)) for part in one} for one in parts]


def compiled(expression: Any) -> str:
    """Return an expression as SQL, its columns without their table."""
    if isinstance(expression, Column):  # most are, and to compile one is slow
        return str(PREPARER.format_column(expression))
    return str(expression.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True, "include_table": False}))


def sql_text(expression: Any, operator_class: str | None = None) -> Any:
    """Return an expression as text, which holds no column of the models."""
    return text(escaped(" ".join(filter(None, (compiled(expression), operator_class)))))


def escaped(sql: str) -> str:
    """Return `sql` for `sa.text()`, which takes `:name` for a parameter."""
    return re.sub(r"(?<![:\w$\\]):([\w$]+)(?![:\w$])", r"\\:\1", sql)
