"""What models can say and PostgreSQL cannot keep: each in one sentence, before there is a revision."""

import re
from collections.abc import Iterator
from typing import Any

from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import UpgradeOps
from alembic.util import CommandError, PriorityDispatchResult
from sqlalchemy import ForeignKeyConstraint, Index, MetaData, PrimaryKeyConstraint, Table, UniqueConstraint
from sqlalchemy.dialects.postgresql import DOMAIN, ENUM, CreateDomainType, ExcludeConstraint
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import NullType

from migrations.comparison import explained
from migrations.errors import reason, sqlstate
from migrations.rest import EXTENSIONS, sequences
from migrations.target import is_apart, is_unique, made_here
from migrations.types import DIALECT, cast, element_type, kept, kept_schema

UNKNOWN = ("42704", "3F000")  # undefined_object, invalid_schema_name
HINT = '; what makes it, as op.execute("CREATE EXTENSION ..."), goes into a revision of its own, which runs first'
Named = tuple[object, str, str, object]  # what no two things of one name share, the name, where it is said, the thing


def refuse_models(context: AutogenContext, _: object) -> PriorityDispatchResult:
    """Refuse two things of one name, a column without a type, an index on nothing, a foreign key to what is not unique.

    Raises:
        CommandError: there is one.
    """
    target: Any = context.metadata
    found: dict[object, tuple[str, object]] = {}
    for space, name, where, thing in _named(target, context.dialect.default_schema_name):
        other, same = found.setdefault((space, name), (where, thing))
        if thing != same:
            raise CommandError(f"{other} and {where} are both named {name}: PostgreSQL keeps one thing of a name")
    for table in made_here(target):
        for key in table.foreign_key_constraints:
            _refuse_key(table, key)
    return PriorityDispatchResult.CONTINUE


def _named(target: MetaData, default_schema: str | None) -> Iterator[Named]:
    for sequence in sequences():
        schema = kept_schema(sequence.schema, default_schema)
        yield ("relation", schema), kept(sequence.name), f"a Sequence of {sequence.name}", sequence
    for table in made_here(target):
        place = f"table {table.fullname}"
        yield ("relation", table.schema), table.name, place, table
        yield ("type", table.schema), table.name, place, table  # the type of its rows
        indexes = sorted(table.indexes, key=lambda one: str(one.name))
        items: list[Any] = [*indexes, *sorted(table.constraints, key=lambda one: one._creation_order)]
        for item in items:
            where = f"the {type(item).__name__} of {place}"
            if isinstance(item, Index) and not item.expressions:
                raise CommandError(f"{place}: the index {item.name} is on nothing")
            if not isinstance(item, Index) and item.name:
                yield place, str(item.name), where, item
            if isinstance(item, Index | PrimaryKeyConstraint | UniqueConstraint | ExcludeConstraint) and item.name:
                yield ("relation", table.schema), str(item.name), where, item
        for column in table.columns:
            type_ = element_type(column)
            if isinstance(type_, NullType):
                raise CommandError(f"{table.fullname}.{column.name} has no type")
            if isinstance(type_, DOMAIN | ENUM):
                is_domain = isinstance(type_, DOMAIN)
                made = str(CreateDomainType(type_).compile(dialect=DIALECT)) if is_domain else repr(type_)
                schema = kept_schema(type_.schema, default_schema)
                yield ("type", schema), kept(str(type_.name)), f"{type_!r} of {table.fullname}.{column.name}", made


def _refuse_key(table: Table, key: ForeignKeyConstraint) -> None:
    there = key.referred_table
    if not is_apart(there) and not is_unique(there, [element.column for element in key.elements], at_once=True):
        raise CommandError(
            f"{table.fullname}: a foreign key is on {', '.join(element.target_fullname for element in key.elements)}, "
            "which no key and no unique index is on"
        )


def refuse_types(context: AutogenContext, upgrade_ops: UpgradeOps) -> PriorityDispatchResult:
    """Refuse a type or a collation that PostgreSQL does not take, unless an extension that is known here brings it.

    Raises:
        CommandError: there is one.
    """
    target: Any = context.metadata
    known = {mark for marks in EXTENSIONS.values() for mark in marks.split()}
    columns = {
        cast("NULL", column.type, collated=True): f"{table.fullname}.{column.name}"
        for table in (made_here(target) if upgrade_ops.ops else ())
        for column in table.columns
        if not isinstance(element_type(column), DOMAIN | ENUM)
    }
    for sql, column in columns.items():
        if known.isdisjoint(re.findall(r"\w+", sql.lower())):
            output = explained([sql])
            if isinstance(output, DBAPIError):
                hint = HINT if sqlstate(output) in UNKNOWN else ""
                raise CommandError(f"{column}: {reason(output)}{hint}") from output
    return PriorityDispatchResult.CONTINUE
