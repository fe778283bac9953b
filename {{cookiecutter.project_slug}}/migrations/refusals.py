"""What models can say and PostgreSQL cannot keep: each in one sentence, before there is a revision."""

import re
from collections.abc import Iterator
from typing import Any

from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import UpgradeOps
from alembic.util import CommandError, PriorityDispatchResult
from sqlalchemy import ForeignKeyConstraint, Index, PrimaryKeyConstraint, Table, UniqueConstraint
from sqlalchemy.dialects.postgresql import DOMAIN, ENUM, ExcludeConstraint
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import NullType

from migrations.comparison import explained
from migrations.errors import reason, sqlstate
from migrations.rest import EXTENSIONS
from migrations.target import is_apart
from migrations.types import cast, element_type

UNKNOWN = "42704"  # undefined_object
HINT = '; if an extension has it, op.execute("CREATE EXTENSION ...") in a revision of its own, and run that first'


def refuse_models(context: AutogenContext, _: object) -> PriorityDispatchResult:
    """Refuse two things of one name, a column without a type, an index on nothing, a foreign key to what is not unique.

    Raises:
        CommandError: there is one.
    """
    found: dict[object, tuple[str, object]] = {}
    for table in _tables(context):
        for key in table.foreign_key_constraints:
            _refuse_key(table, key)
        for kind, schema, name, where, thing in _named(table):
            other, same = found.setdefault((kind, schema, name), (where, thing))
            if thing != same:
                raise CommandError(f"{other} and {where} are both named {name}: PostgreSQL keeps one thing of a name")
    return PriorityDispatchResult.CONTINUE


def _tables(context: AutogenContext) -> list[Table]:
    target: Any = context.metadata
    return [table for table in target.tables.values() if not is_apart(table)]


def _named(table: Table) -> Iterator[tuple[str, str | None, str, str, object]]:
    """Yield what needs a name of its own: its kind, schema and name, where the models say it, and what it is."""
    place = f"table {table.fullname}"
    yield "relation", table.schema, table.name, place, table
    yield "type", table.schema, table.name, place, table  # the type of its rows
    for item in [*table.indexes, *table.constraints]:
        if isinstance(item, Index) and not item.expressions:
            raise CommandError(f"{place}: the index {item.name} is on nothing")
        if isinstance(item, Index | PrimaryKeyConstraint | UniqueConstraint | ExcludeConstraint) and item.name:
            yield "relation", table.schema, str(item.name), f"the {type(item).__name__} of {place}", item
    for column in table.columns:
        type_ = element_type(column)
        if isinstance(type_, NullType):
            raise CommandError(f"{table.fullname}.{column.name} has no type")
        if isinstance(type_, DOMAIN | ENUM):
            yield "type", type_.schema, str(type_.name), f"{type_!r} of {table.fullname}.{column.name}", repr(type_)


def _refuse_key(table: Table, key: ForeignKeyConstraint) -> None:
    there = key.referred_table
    keys = [one for one in there.constraints if isinstance(one, PrimaryKeyConstraint | UniqueConstraint)]
    indexes = [one for one in there.indexes if one.unique and one.kwargs.get("postgresql_where") is None]
    referred = {element.column for element in key.elements}
    if not is_apart(there) and referred not in [set(one.columns) for one in [*keys, *indexes]]:
        raise CommandError(
            f"{table.fullname}: a foreign key is on {', '.join(element.target_fullname for element in key.elements)}, "
            "which no key and no unique index is on"
        )


def refuse_types(context: AutogenContext, upgrade_ops: UpgradeOps) -> PriorityDispatchResult:
    """Refuse a type that PostgreSQL does not take, unless an extension that is known here brings it.

    Raises:
        CommandError: there is one.
    """
    known = {mark for marks in EXTENSIONS.values() for mark in marks.split()}
    columns = {
        cast("NULL", column.type): f"{table.fullname}.{column.name}"
        for table in (_tables(context) if upgrade_ops.ops else ())
        for column in table.columns
        if not isinstance(element_type(column), DOMAIN | ENUM)
    }
    for sql, column in columns.items():
        if known.isdisjoint(re.findall(r"\w+", sql.lower())):
            output = explained([sql])
            if isinstance(output, DBAPIError):
                raise CommandError(
                    f"{column}: {reason(output)}{HINT if sqlstate(output) == UNKNOWN else ''}"
                ) from output
    return PriorityDispatchResult.CONTINUE
