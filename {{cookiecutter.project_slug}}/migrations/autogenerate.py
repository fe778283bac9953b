"""How `alembic revision --autogenerate` and `alembic check` compare, and what they refuse to write."""

import logging
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from alembic import context
from alembic.operations.ops import AddColumnOp, DropColumnOp, DropTableOp, MigrationScript, OpContainer
from alembic.runtime.migration import MigrationContext
from alembic.runtime.plugins import Plugin
from alembic.util import CommandError, DispatchPriority
from sqlalchemy.dialects.postgresql.base import ischema_names

from app.db.base import Base
from migrations import erd, refusals, rest
from migrations.enums import in_place
from migrations.operations import put_in_order
from migrations.ownership import import_models, include_name, include_object
from migrations.rendering import render_item
from migrations.types import DIALECT

logger = logging.getLogger(__name__)


def process_revision_directives(
    migration_context: MigrationContext, _: object, directives: list[MigrationScript]
) -> None:
    """Write no empty revision, and none that drops every table unasked; announce what is dropped; redraw the diagram.

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
            script.upgrade_ops.ops = [other for operation in script.upgrade_ops.ops for other in in_place(operation)]
    renames = [line for script in directives if script.upgrade_ops for line in _renames(script.upgrade_ops.ops)]
    migration_context.opts["template_args"].update(drops=drops, drop_all=drop_all, renames=renames)
    if not migration_context.opts["fn"].__qualname__.startswith("revision."):
        return  # `alembic check` comes here too, and wants the empty script
    erd.refresh(Base.metadata)
    if all(script.upgrade_ops and script.upgrade_ops.is_empty() for script in directives):
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


def _renames(operations: Iterable[Any]) -> Iterator[str]:
    """Yield the operations that would keep the data, where a table loses one column and gets another of its type."""
    columns: dict[tuple[str | None, str], list[DropColumnOp | AddColumnOp]] = {}
    for group in operations:
        for operation in getattr(group, "ops", ()):
            if isinstance(operation, DropColumnOp | AddColumnOp):
                columns.setdefault((operation.schema, operation.table_name), []).append(operation)
    for (schema, table), changes in columns.items():
        dropped = [operation.to_column() for operation in changes if isinstance(operation, DropColumnOp)]
        added = [operation.column for operation in changes if isinstance(operation, AddColumnOp)]
        types = [str(column.type.compile(DIALECT)) for column in dropped + added]
        if len(dropped) == len(added) == 1 and types[0] == types[1] and dropped[0].name != added[0].name:
            place = f", schema={schema!r}" if schema else ""
            yield f"op.alter_column({table!r}, {dropped[0].name!r}, new_column_name={added[0].name!r}{place})"


# SQLAlchemy 2.1 takes `name` for a String; the types that it does not know, `PostgresqlComparison` does.
ischema_names.pop("name", None)
warnings.filterwarnings("ignore", "Did not recognize type")
plugin = Plugin(__name__)
plugin.add_autogenerate_comparator(import_models, "autogenerate", priority=DispatchPriority.FIRST)
plugin.add_autogenerate_comparator(refusals.refuse_models, "autogenerate", priority=DispatchPriority.FIRST)
plugin.add_autogenerate_comparator(rest.create_what_columns_use, "schema")
plugin.add_autogenerate_comparator(rest.compare_table, "table")
plugin.add_autogenerate_comparator(rest.leave_computed, "column", "server_default", priority=DispatchPriority.FIRST)
plugin.add_autogenerate_comparator(refusals.refuse_types, "autogenerate", priority=DispatchPriority.LAST)
plugin.add_autogenerate_comparator(rest.require, "autogenerate", priority=DispatchPriority.LAST)
plugin.add_autogenerate_comparator(put_in_order, "autogenerate", priority=DispatchPriority.LAST)
OPTIONS: dict[str, Any] = {
    "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname", __name__],
    "compare_server_default": True,
    "include_name": include_name,
    "include_object": include_object,
    "include_schemas": True,
    "process_revision_directives": process_revision_directives,
    "render_item": render_item,
}
