"""What alembic's comparison leaves out: schemas, extensions, sequences, keys, EXCLUDE and computed columns."""

import re
from collections.abc import Iterator
from typing import Any

from alembic.autogenerate.api import AutogenContext
from alembic.ddl.postgresql import CreateExcludeConstraintOp
from alembic.operations.ops import AddColumnOp, CreateIndexOp, DropColumnOp, DropIndexOp, ModifyTableOps, UpgradeOps
from alembic.util import PriorityDispatchResult
from sqlalchemy import ClauseElement, Column, MetaData, PrimaryKeyConstraint, Sequence, Table, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import DOMAIN, CreateDomainType, DropDomainType, ExcludeConstraint, NamedType
from sqlalchemy.schema import CreateSequence, DropSequence

from app.db.base import Base
from migrations.comparison import are_alike, deferral
from migrations.operations import SQLOp
from migrations.target import COMPILER, PREPARER, compiled, is_apart, made_here
from migrations.types import DIALECT, element_type, kept_schema

# The extensions that tables use most, by types, functions and operator classes of theirs.
EXTENSIONS = {
    "btree_gist": "exclude_equal",
    "citext": "citext",
    "cube": "cube",
    "earthdistance": "ll_to_earth earth_box",
    "hstore": "hstore",
    "ltree": "ltree lquery ltxtquery",
    "pg_trgm": "gin_trgm_ops gist_trgm_ops similarity",
    "pgcrypto": "gen_random_bytes digest",
    "postgis": "geometry geography",
    "unaccent": "unaccent",
    "uuid-ossp": "uuid_generate_v1 uuid_generate_v1mc uuid_generate_v4 uuid_generate_v5",
    "vector": "vector halfvec sparsevec",
}
QUOTE: Any = PREPARER.quote


def sequences() -> Iterator[Sequence]:
    """Yield the sequences of the models that PostgreSQL has, but for those of tables that something else makes."""
    for sequence in Base.metadata._sequences.values():
        column = getattr(sequence, "column", None)
        if not sequence.optional and (column is None or not is_apart(column.table)):
            yield sequence


def create_what_columns_use(
    context: AutogenContext, upgrade_ops: UpgradeOps, compared: set[str | None]
) -> PriorityDispatchResult:
    """Create the sequences and the domains of the models that are not there, and have all their enums compared."""
    target: Any = context.metadata
    compared.update(_schemas(target, context))
    things: dict[str, tuple[Any, Any, Any]] = {}  # by the name in SQL: what creates it, what drops it, the thing
    for sequence in sequences():
        things[PREPARER.format_sequence(sequence)] = CreateSequence, DropSequence, sequence
    for table in target.tables.values():
        for type_ in map(element_type, table.columns):
            if isinstance(type_, DOMAIN):
                things[PREPARER.format_type(type_)] = CreateDomainType, DropDomainType, type_
    for name, (create, drop, thing) in things.items():
        find = text(f"SELECT pg_catalog.{'to_regclass' if create is CreateSequence else 'to_regtype'}(:name) IS NULL")
        if context.connection and context.connection.scalar(find, {"name": name}):
            up, down = (str(form(thing).compile(dialect=DIALECT)) for form in (create, drop))
            upgrade_ops.ops.append(SQLOp(up, down))
    return PriorityDispatchResult.CONTINUE


def require(context: AutogenContext, upgrade_ops: UpgradeOps) -> PriorityDispatchResult:
    """Create the schemas and extensions that a revision needs; nothing drops them, for others may use them too."""
    target: Any = context.metadata
    if not upgrade_ops.ops or context.connection is None:
        return PriorityDispatchResult.CONTINUE
    there = {*context.inspector.get_schema_names(), None}
    schemas = set(_schemas(target, context))
    words = set(_words(target))
    installed = set(context.connection.scalars(text("SELECT extname FROM pg_catalog.pg_extension")))
    extensions = [name for name, marks in EXTENSIONS.items() if words.intersection(marks.split())]
    creation = [f"CREATE SCHEMA IF NOT EXISTS {QUOTE(schema)}" for schema in sorted(filter(None, schemas - there))]
    creation += [f"CREATE EXTENSION IF NOT EXISTS {QUOTE(name)}" for name in extensions if name not in installed]
    upgrade_ops.ops[:0] = [SQLOp(sql) for sql in creation]
    return PriorityDispatchResult.CONTINUE


def _schemas(target: MetaData, context: AutogenContext) -> Iterator[str | None]:
    tables = made_here(target)
    yield from (table.schema for table in tables)
    for sequence in sequences():
        yield kept_schema(sequence.schema, context.dialect.default_schema_name)
    for table in tables:
        for column in table.columns:
            yield getattr(element_type(column), "schema", None)


def _words(target: MetaData) -> Iterator[str]:
    """Yield the names of types, functions and operator classes that the tables use."""
    for table in made_here(target):
        expressions: list[Any] = [expression for index in table.indexes for expression in index.expressions]
        expressions += [getattr(constraint, "sqltext", None) for constraint in table.constraints]
        for column in table.columns:
            inner = element_type(column)
            if not isinstance(inner, NamedType):
                yield from re.findall(r"\w+", DIALECT.type_compiler_instance.process(inner).lower())
            default = column.server_default
            expressions.append(getattr(default, "arg", getattr(default, "sqltext", None)))
        for expression in expressions:
            sql = compiled(expression) if isinstance(expression, ClauseElement) else ""
            yield from re.findall(r"\w+(?=\()|\w+_ops$", sql)
        for index in table.indexes:
            yield from (index.kwargs.get("postgresql_ops") or {}).values()
        for constraint in table.constraints:
            if isinstance(constraint, ExcludeConstraint) and any(sign == "=" for *_, sign in constraint._render_exprs):
                yield "exclude_equal"


def compare_table(
    context: AutogenContext,
    operations: ModifyTableOps,
    schema: str | None,
    name: str,
    found: Table | None,
    wanted: Table | None,
) -> PriorityDispatchResult:
    """Compare primary keys, EXCLUDE and computed columns of a table that is there."""
    if found is not None:
        impl: Any = context.migration_context.impl
        for constraint in found.constraints:
            if isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint):
                impl.complete(constraint)
        operations.ops += _excludes(context, found, wanted)
    if found is not None and wanted is not None:
        operations.ops += _primary_key(found, wanted)
        for column in wanted.columns:
            there = found.columns.get(column.name)
            if there is not None and _is_computed_otherwise(there, column):
                _make_anew(operations, there, column)
    return PriorityDispatchResult.CONTINUE


def _excludes(context: AutogenContext, found: Table, wanted: Table | None) -> Iterator[Any]:
    impl: Any = context.migration_context.impl
    there = {name: definition for name, (is_exclude, *_, definition) in impl.special_of(found).items() if is_exclude}
    models = (
        {one.name: one for one in wanted.constraints if isinstance(one, ExcludeConstraint)}
        if wanted is not None
        else {}
    )
    table = PREPARER.format_table(found)
    for name in sorted(there.keys() - models.keys()):
        alter = f"ALTER TABLE {table}"
        yield SQLOp(f"{alter} DROP CONSTRAINT {QUOTE(name)}", f"{alter} ADD CONSTRAINT {QUOTE(name)} {there[name]}")
    for name in models.keys() - there.keys():
        yield CreateExcludeConstraintOp.from_constraint(models[name])


def _primary_key(found: Table, wanted: Table) -> Iterator[Any]:
    before, after = ([column.name for column in table.primary_key.columns] for table in (found, wanted))
    if before == after and (not after or deferral(found.primary_key) == deferral(wanted.primary_key)):
        return
    table = PREPARER.format_table(found)

    def change(old: Any, new: Any) -> str:
        parts = [f"DROP CONSTRAINT {QUOTE(old.name)}"] if len(old.columns) else []
        parts += [f"ADD {COMPILER.process(new)}"] if len(new.columns) else []
        return f"ALTER TABLE {table} {', '.join(parts)}"

    keys = found.primary_key, wanted.primary_key
    yield SQLOp(change(*keys), change(*reversed(keys)))


def _is_computed_otherwise(found: Column[Any], wanted: Column[Any]) -> bool:
    before, after = found.computed, wanted.computed
    if before is None or after is None:
        return before is not after
    return not are_alike(wanted.table, found.table, [(compiled(before.sqltext), compiled(after.sqltext))])


def _make_anew(operations: ModifyTableOps, found: Column[Any], wanted: Column[Any]) -> None:
    """Drop a column and add it again, with its indexes: PostgreSQL cannot change what computes it before release 17."""
    indexes: list[Any] = [DropIndexOp.from_index(one) for one in found.table.indexes if found.name in one.columns]
    indexes += [CreateIndexOp.from_index(one) for one in wanted.table.indexes if wanted.key in one.columns]
    for index in indexes:
        same = [one for one in operations.ops if isinstance(one, type(index))]
        if index.index_name not in [getattr(one, "index_name", None) for one in same]:
            operations.ops.append(index)
    operations.ops.append(DropColumnOp.from_column_and_tablename(operations.schema, operations.table_name, found))
    operations.ops.append(AddColumnOp.from_column_and_tablename(operations.schema, operations.table_name, wanted))


def leave_computed(
    _: object, __: object, ___: object, ____: object, _____: object, found: Column[Any], wanted: Column[Any]
) -> PriorityDispatchResult:
    """Keep alembic from warning of what `compare_table` changes."""
    computed = found.computed is not None or wanted.computed is not None
    return PriorityDispatchResult.STOP if computed else PriorityDispatchResult.CONTINUE
