"""What `alembic revision --autogenerate` and `alembic check` see, and what they refuse to write."""

import logging
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import alembic_postgresql_enum
from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.ddl.postgresql import PostgresqlImpl
from alembic.operations.ops import DropColumnOp, DropTableOp, ExecuteSQLOp, MigrationScript, OpContainer
from alembic.runtime.migration import MigrationContext
from alembic.runtime.plugins import Plugin
from alembic.util import CommandError, DispatchPriority, PriorityDispatchResult
from alembic_postgresql_enum.operations.add_enum_values import AddEnumValuesOp
from sqlalchemy import Column, Enum, Table, TypeDecorator, text
from sqlalchemy.dialects.postgresql import JSONPATH
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.exc import DBAPIError

from app.db.base import Base
from app.settings import ROOT

# A table or an enum that a revision creates, or renames to.
CREATED = re.compile(
    r"""create_table\(\s*["'](\w+)|rename_table\(\s*["']\w+["'],\s*["'](\w+)|name=["'](\w+)"""
    r"""|CREATE\s+(?:UNLOGGED\s+)?(?:TABLE|TYPE)\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:"?\w+"?\.)?"?(\w+)|RENAME\s+TO\s+"?(\w+)""",
    re.IGNORECASE,
)
# Partitions belong to their table, and an extension's tables to the extension.
DEPENDENT = text("""
    SELECT relname FROM pg_class
    WHERE relispartition OR oid IN
        (SELECT objid FROM pg_depend WHERE classid = 'pg_class'::regclass AND deptype = 'e')
""")
TABLE = re.compile(
    r"""^\s+__tablename__\s*(?::.*)?=\s*["'](\w+)|^class (\w+)\(.*\btable=True|\bTable\(\s*["'](\w+)""", re.MULTILINE
)

logger = logging.getLogger(__name__)


def import_models(autogen_context: AutogenContext, _: object) -> PriorityDispatchResult:
    """Import the models by the option `import_models`; only a comparison needs them.

    Raises:
        CommandError: a table is defined where the registry does not see it.
    """
    autogen_context.opts["import_models"]()
    if strays := sorted(set(_tables_outside_the_registry())):
        raise CommandError(f"move to a `models` module, on the metadata of app.db.base.Base: {', '.join(strays)}")
    for cached in (_tables_of_models, _enums_of_models, _created_by_revisions, _dependent_tables):
        cached.cache_clear()
    return PriorityDispatchResult.CONTINUE


def _tables_outside_the_registry() -> Iterator[str]:
    for path in sorted((ROOT / "app").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module := sys.modules.get(name):
            for thing in vars(module).values():
                table = getattr(thing, "__table__", thing)
                if isinstance(table, Table) and table.metadata is not Base.metadata:
                    yield f"{name}.{table.name}"
        else:
            for match in TABLE.finditer(path.read_text(encoding="utf-8")):
                yield f"{name}.{match[match.lastindex or 0]}"


@cache
def _tables_of_models() -> set[tuple[str | None, str]]:
    return {(table.schema, table.name) for table in Base.metadata.tables.values()}


@cache
def _enums_of_models() -> set[str | None]:
    types: list[Any] = [column.type for table in Base.metadata.tables.values() for column in table.columns]
    types += [inner for outer in types for inner in (getattr(outer, "item_type", None), getattr(outer, "impl", None))]
    return {type_.name for type_ in types if isinstance(type_, Enum)}


@cache
def _created_by_revisions() -> set[str]:
    texts = [Path(script.path).read_text(encoding="utf-8") for script in context.script.walk_revisions()]
    return {name for text in texts for match in CREATED.findall(text) for name in match if name}


@cache
def _dependent_tables() -> set[str]:
    return set(context.get_bind().scalars(DEPENDENT))


def include_name(name: str | None, kind: str, parents: Any) -> bool:
    """Say whether a schema or table of the database is this service's."""
    if kind == "schema":
        return name is None or name in {schema for schema, _ in _tables_of_models()}
    if kind != "table" or (parents["schema_name"], name) in _tables_of_models():
        return True
    ours = name in _created_by_revisions() - _dependent_tables()
    if not ours:
        logger.info(f"left alone: table {name}, which is in neither the models nor a revision")
    return ours


def include_enum(name: str) -> bool:
    """Say whether an enum type of the database is this service's."""
    return name in _enums_of_models() or name in _created_by_revisions()


def process_revision_directives(
    migration_context: MigrationContext, _: object, directives: list[MigrationScript]
) -> None:
    """Write no empty revision, and none that drops every table unasked; announce what is dropped.

    Raises:
        CommandError: there is no model, but there are tables, and no `-x drop_all=yes`.
    """
    drops = [drop for script in directives if script.upgrade_ops for drop in _drops(script.upgrade_ops.ops)]
    drop_all = context.get_x_argument(as_dictionary=True).get("drop_all")
    if drops and not Base.metadata.tables and drop_all != "yes":
        raise CommandError(f"no model was found, so this would drop {', '.join(drops)}; -x drop_all=yes if it shall")
    for drop in drops:
        logger.warning(f"the revision DROPS {drop}, with all data in it")
    for script in directives:
        if script.upgrade_ops:
            script.upgrade_ops.ops = [other for operation in script.upgrade_ops.ops for other in _in_place(operation)]
    migration_context.opts["template_args"].update(drops=drops, drop_all=drop_all)
    # `alembic check` comes here too, and wants the empty script.
    if migration_context.opts["fn"].__qualname__.startswith("revision.") and all(
        script.upgrade_ops and script.upgrade_ops.is_empty() for script in directives
    ):
        logger.info("no changes, so no revision")
        directives.clear()


def _drops(operations: Iterable[Any]) -> Iterator[str]:
    for operation in operations:
        if isinstance(operation, DropTableOp):
            yield f"table {operation.table_name}"
        elif isinstance(operation, DropColumnOp):
            yield f"column {operation.table_name}.{operation.column_name}"
        elif isinstance(operation, OpContainer):
            yield from _drops(operation.ops)


def _in_place(operation: Any) -> Iterator[Any]:
    """Replace an operation that adds enum values: alembic-postgresql-enum 1.11 puts them after what they should precede."""
    if not isinstance(operation, AddEnumValuesOp):
        yield operation
        return
    values = ["'" + value.replace("'", "''").replace(":", r"\:") + "'" for value in operation.new_values]
    for index, value in reversed(list(enumerate(operation.new_values))):
        if value not in operation.old_values:
            place = f" BEFORE {values[index + 1]}" if values[index + 1 :] else ""
            yield ExecuteSQLOp(f'ALTER TYPE "{operation.schema}"."{operation.name}" ADD VALUE {values[index]}{place}')


def render_item(kind: str, item: Any, autogen_context: AutogenContext) -> str | bool:
    """Render a type that SQLAlchemy lacks as the one that it decorates, or with the import that it needs."""
    module = type(item).__module__
    if kind != "type" or module.startswith("sqlalchemy."):
        return False
    if isinstance(item, TypeDecorator) and type(item.impl_instance).__module__ == "sqlalchemy.sql.sqltypes":
        return f"sa.{item.impl_instance!r}"
    autogen_context.imports.add(f"import {module}")
    return False


class PostgresqlComparison(PostgresqlImpl):
    """Compares types and server defaults as PostgreSQL writes them down, and evaluates nothing."""

    __dialect__ = "postgresql"

    def compare_type(self, inspector_column: Column[Any], metadata_column: Column[Any]) -> bool:
        if not super().compare_type(inspector_column, metadata_column):
            return False
        process = self.dialect.type_compiler_instance.process
        return not _are_alike("NULL", "NULL", process(inspector_column.type), process(metadata_column.type))

    def compare_server_default(
        self, inspector_column: Column[Any], metadata_column: Column[Any], _: str | None, existing: str | None
    ) -> bool:
        compiler: Any = self.dialect.ddl_compiler(self.dialect, None)  # type: ignore[arg-type]
        default = compiler.get_column_default_string(metadata_column)
        if existing is None or default is None or existing == default:
            return existing != default and metadata_column is not metadata_column.table._autoincrement_column
        type_ = self.dialect.type_compiler_instance.process(metadata_column.type)
        return not _are_alike(existing, default, type_, type_)


def _are_alike(left: str, right: str, left_type: str, right_type: str) -> bool:
    """Say whether PostgreSQL writes two expressions alike, each cast to its type."""
    connection = context.get_bind()
    try:
        with connection.begin_nested():
            [plan] = connection.exec_driver_sql(
                f"EXPLAIN (VERBOSE, FORMAT JSON) SELECT CAST({left} AS {left_type}), CAST({right} AS {right_type})"
            ).scalar_one()
    except DBAPIError:  # a type that does not exist yet, or a default that does not suit it
        return False
    left, right = plan["Plan"]["Output"]
    return left == right


ischema_names["jsonpath"] = JSONPATH  # or SQLAlchemy 2.1 does not recognize it in the database
alembic_postgresql_enum.set_configuration(alembic_postgresql_enum.Config(include_name=include_enum))
Plugin("app.db.autogenerate").add_autogenerate_comparator(
    import_models, "autogenerate", priority=DispatchPriority.FIRST
)
OPTIONS: dict[str, Any] = {
    "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname", "app.db.autogenerate"],
    "compare_server_default": True,
    "include_name": include_name,
    "include_schemas": True,
    "process_revision_directives": process_revision_directives,
    "render_item": render_item,
}
