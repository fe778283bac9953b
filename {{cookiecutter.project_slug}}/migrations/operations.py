"""The operations of a revision: SQL that can be undone, and the order in which they can run."""

from collections.abc import Iterator
from typing import Any

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import (
    AddConstraintOp,
    CreateForeignKeyOp,
    CreateIndexOp,
    CreateTableOp,
    DropConstraintOp,
    DropIndexOp,
    DropTableOp,
    MigrateOperation,
    ModifyTableOps,
    UpgradeOps,
)
from alembic.util import PriorityDispatchResult
from alembic_postgresql_enum.operations.create_enum import CreateEnumOp
from sqlalchemy import Column, ForeignKeyConstraint, Table
from sqlalchemy.schema import sort_tables_and_constraints

from migrations.target import escaped

Name = tuple[str | None, str]  # of a table: its schema, None for the default one, and its name


class SQLOp(MigrateOperation):
    """SQL for the way up and for the way down; empty: nothing is to be done."""

    def __init__(self, up: str, down: str = "") -> None:
        self.up, self.down = up, down

    def reverse(self) -> "SQLOp":
        return SQLOp(self.down, self.up)

    def to_diff_tuple(self) -> tuple[str, str]:
        return "execute", self.up


@renderers.dispatch_for(SQLOp)
def _render_sql(_: AutogenContext, operation: SQLOp) -> list[str]:
    return [f"op.execute({escaped(operation.up)!r})"] if operation.up else []


def put_in_order(_: AutogenContext, upgrade_ops: UpgradeOps) -> PriorityDispatchResult:
    """Sort the operations so that each finds what it needs, on the way up and, reversed, on the way down."""
    operations = upgrade_ops.ops
    created = {_name(operation) for operation in operations if isinstance(operation, CreateTableOp)}
    drops = {_name(operation): operation for operation in operations if isinstance(operation, DropTableOp)}
    stages: dict[str, list[Any]] = {
        stage: [] for stage in ("sql", "enums", "unlink", "drop", "clear", "modify", "create", "index", "link", "last")
    }
    of_dropped: dict[Name, list[Any]] = {name: [] for name in _order_of_drops(drops, stages["unlink"])}
    for operation in operations:
        if isinstance(operation, CreateTableOp):
            stages["create"].append(operation)
            stages["link"] += _taken_out(operation)
        elif isinstance(operation, DropTableOp | ModifyTableOps) and _name(operation) in drops:
            of_dropped[_name(operation)].append(operation)
        elif isinstance(operation, ModifyTableOps) and _name(operation) in created:
            stages["create"].append(operation)
        elif isinstance(operation, ModifyTableOps):
            for part in operation.ops:
                stages[_stage(part)].append(ModifyTableOps(operation.table_name, [part], schema=operation.schema))
        else:
            stage = (
                "sql" if isinstance(operation, SQLOp) else "enums" if isinstance(operation, CreateEnumOp) else "last"
            )
            stages[stage].append(operation)
    stages["drop"] = [operation for operations in of_dropped.values() for operation in operations]
    upgrade_ops.ops = [operation for operations in stages.values() for operation in operations]
    return PriorityDispatchResult.CONTINUE


def _stage(operation: MigrateOperation) -> str:
    if isinstance(operation, CreateForeignKeyOp):
        return "link"
    if isinstance(operation, DropConstraintOp) and operation.constraint_type == "foreignkey":
        return "unlink"
    if isinstance(operation, DropIndexOp | DropConstraintOp):
        return "clear"
    return "index" if isinstance(operation, CreateIndexOp | AddConstraintOp) else "modify"


def _name(operation: Any) -> Name:
    return operation.schema, operation.table_name


def _taken_out(operation: CreateTableOp) -> Iterator[ModifyTableOps]:
    """Take the foreign keys that close a circle out of a new table, and yield what creates them later."""
    closing = [one for one in operation.columns if getattr(one, "use_alter", False)]
    operation.columns = [one for one in operation.columns if not getattr(one, "use_alter", False)]
    for key in closing:
        create = CreateForeignKeyOp.from_constraint(key)  # type: ignore[arg-type]
        create.kw.pop("use_alter")
        yield ModifyTableOps(operation.table_name, [create], schema=operation.schema)


def _order_of_drops(drops: dict[Name, DropTableOp], unlink: list[Any]) -> list[Name]:
    """Return the tables in the order in which they can be dropped, after the foreign keys that go to `unlink`."""

    def leaves(key: ForeignKeyConstraint) -> bool:
        return key.elements[0].target_tokens[:2] not in drops

    tables = [_reflected(operation) for _, operation in sorted(drops.items(), key=str)]
    *order, (_, closing) = sort_tables_and_constraints(  # type: ignore[no-untyped-call]
        tables, filter_fn=lambda key: leaves(key) or None
    )
    for key in closing:
        if not leaves(key):
            drop = drops[key.table.schema, key.table.name]
            assert drop._reverse
            drop._reverse.columns = [one for one in drop._reverse.columns if one is not key]
            unlink.append(ModifyTableOps(drop.table_name, [DropConstraintOp.from_constraint(key)], schema=drop.schema))
    return [(table.schema, table.name) for table, _ in reversed(order) if table is not None]


def _reflected(operation: DropTableOp) -> Table:
    columns = operation._reverse.columns if operation._reverse else []
    tables: list[Table] = [one.table for one in columns if isinstance(one, Column)]
    return tables[0] if tables else operation.to_table()
