"""How `alembic revision --autogenerate` and `alembic check` compare, and what they refuse to write."""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import alembic_postgresql_enum
from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.ddl.postgresql import PostgresqlImpl
from alembic.operations.ops import DropColumnOp, DropTableOp, ExecuteSQLOp, MigrationScript, OpContainer
from alembic.runtime.migration import MigrationContext
from alembic.runtime.plugins import Plugin
from alembic.util import CommandError, DispatchPriority
from alembic_postgresql_enum.operations.add_enum_values import AddEnumValuesOp
from sqlalchemy import Column, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONPATH
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.exc import DBAPIError

from app.db.base import Base
from migrations.errors import sqlstate
from migrations.ownership import import_models, include_enum, include_name

logger = logging.getLogger(__name__)


def process_revision_directives(
    migration_context: MigrationContext, _: object, directives: list[MigrationScript]
) -> None:
    """Write no empty revision, and none that drops every table unasked; announce what is dropped.

    Raises:
        CommandError: there is no model, but there are tables, and no `-x drop_all=yes`.
    """
    drops = [drop for script in directives if script.upgrade_ops for drop in _drops(script.upgrade_ops.ops)]
    drop_all = bool(drops and not Base.metadata.tables)
    if drop_all and context.get_x_argument(as_dictionary=True).get("drop_all") != "yes":
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
            yield f"table {'.'.join(filter(None, (operation.schema, operation.table_name)))}"
        elif isinstance(operation, DropColumnOp):
            yield f"column {'.'.join(filter(None, (operation.schema, operation.table_name, operation.column_name)))}"
        elif isinstance(operation, OpContainer):
            yield from _drops(operation.ops)


def _in_place(operation: Any) -> Iterator[Any]:
    """Replace an operation that adds enum values: alembic-postgresql-enum 1.11 puts them after what they should precede."""
    if not isinstance(operation, AddEnumValuesOp):
        yield operation
        return
    name = ".".join('"' + part.replace('"', '""') + '"' for part in (operation.schema, operation.name))
    values = ["'" + value.replace("'", "''").replace(":", r"\:") + "'" for value in operation.new_values]
    for index, value in reversed(list(enumerate(operation.new_values))):
        if value not in operation.old_values:
            place = f" BEFORE {values[index + 1]}" if values[index + 1 :] else ""
            yield ExecuteSQLOp(f"ALTER TYPE {name} ADD VALUE {values[index]}{place}")


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
        self,
        inspector_column: Column[Any],
        metadata_column: Column[Any],
        rendered_metadata_default: str | None,
        rendered_inspector_default: str | None,
    ) -> bool:
        existing = rendered_inspector_default
        compiler: Any = self.dialect.ddl_compiler(self.dialect, None)  # type: ignore[arg-type]
        default = compiler.get_column_default_string(metadata_column)
        if existing is None or default is None:
            return existing != default and metadata_column is not metadata_column.table._autoincrement_column
        if default in (existing, f"'{existing}'", re.sub(r"::[\w ]+$", "", existing)):
            return False  # as most are: no need to ask
        type_ = self.dialect.type_compiler_instance.process(metadata_column.type)
        return not _are_alike(existing, default, type_, type_)


def _are_alike(left: str, right: str, left_type: str, right_type: str) -> bool:
    """Say whether PostgreSQL writes two expressions alike, each cast to its type."""
    connection = context.get_bind()
    autocommit = connection.get_isolation_level() == "AUTOCOMMIT"
    try:
        with nullcontext() if autocommit else connection.begin_nested():
            [plan] = connection.exec_driver_sql(
                f"EXPLAIN (VERBOSE, FORMAT JSON) SELECT CAST({left} AS {left_type}), CAST({right} AS {right_type})"
            ).scalar_one()
    except DBAPIError as error:
        if sqlstate(error)[:2] not in ("22", "42"):
            raise
        return False  # a type that does not exist yet, or a default that does not suit it
    left, right = plan["Plan"]["Output"]
    return left == right


ischema_names["jsonpath"] = JSONPATH  # or SQLAlchemy 2.1 does not recognize it in the database
alembic_postgresql_enum.set_configuration(alembic_postgresql_enum.Config(include_name=include_enum))
Plugin(__name__).add_autogenerate_comparator(import_models, "autogenerate", priority=DispatchPriority.FIRST)
OPTIONS: dict[str, Any] = {
    "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname", __name__],
    "compare_server_default": True,
    "include_name": include_name,
    "include_schemas": True,
    "process_revision_directives": process_revision_directives,
    "render_item": render_item,
}
