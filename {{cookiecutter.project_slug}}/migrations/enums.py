"""Enums: alembic-postgresql-enum 1.11 compares them; here is what it would ask too often, or write wrongly."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import alembic_postgresql_enum
from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic_postgresql_enum import compare_dispatch
from alembic_postgresql_enum.get_enum_data.declared_enums import get_declared_enums
from alembic_postgresql_enum.get_enum_data.types import ColumnType, DeclaredEnumValues, TableReference
from alembic_postgresql_enum.operations.add_enum_values import AddEnumValuesOp
from alembic_postgresql_enum.operations.create_enum import CreateEnumOp
from alembic_postgresql_enum.operations.drop_enum import DropEnumOp
from sqlalchemy import Connection, DefaultClause, text
from sqlalchemy.dialects.postgresql import ENUM

from migrations.operations import SQLOp
from migrations.ownership import include_enum
from migrations.target import COMPILER
from migrations.types import element_type

DEFINED = text("""
    SELECT typname, pg_catalog.array_agg(enumlabel ORDER BY enumsortorder)
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_enum e ON enumtypid = t.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = typnamespace AND nspname = CAST(:schema AS pg_catalog.name)
    GROUP BY typname
""")


def defined(connection: Connection, schema: str, include: Callable[[str], bool]) -> dict[str, tuple[str, ...]]:
    """Return the values of the enums in the database, by their names as they are."""
    rows = connection.execute(DEFINED, {"schema": schema})
    return {name: tuple(values) for name, values in rows if include(name)}


def declared(
    metadata: Any, schema: str, default_schema: str, connection: Connection, operations: Any, include: Any
) -> DeclaredEnumValues:
    """Return the values of the enums in the models, and only if some have changed the columns that use them."""
    values: dict[str, tuple[str, ...]] = {}
    for table in metadata.tables.values():
        for type_ in map(element_type, table.columns):
            if isinstance(type_, ENUM) and (type_.schema or default_schema) == schema and include(type_.name):
                values.setdefault(str(type_.name), tuple(type_.enums))
    there = defined(connection, schema, include)
    if all(values[name] == there[name] for name in values.keys() & there.keys()):
        return DeclaredEnumValues(values, {})
    found = get_declared_enums(metadata, schema, default_schema, connection, operations, include)
    references = {
        name: frozenset(_with_typed_default(reference, name) for reference in columns)
        for name, columns in found.enum_table_references.items()
    }
    return replace(found, enum_table_references=references)


def _with_typed_default(reference: TableReference, type_: str) -> TableReference:
    """Give the package the default of a column as the SQL that it takes it for, which ends with the type."""
    default: Any = reference.existing_server_default
    if isinstance(default, DefaultClause):
        default = COMPILER.render_default_string(default.arg)
    if default and "::" not in default:
        default += f"::{type_}{'[]' if reference.column_type is ColumnType.ARRAY else ''}"
    return replace(reference, existing_server_default=default)


def in_place(operation: Any) -> Iterator[Any]:
    """Replace an operation that adds enum values: the package puts them after what they should precede."""
    if not isinstance(operation, AddEnumValuesOp):
        yield operation
        return
    name = ".".join('"' + part.replace('"', '""') + '"' for part in (operation.schema, operation.name))
    values = ["'" + value.replace("'", "''") + "'" for value in operation.new_values]
    for index, value in reversed(list(enumerate(operation.new_values))):
        if value not in operation.old_values:
            place = f" BEFORE {values[index + 1]}" if values[index + 1 :] else ""
            yield SQLOp(f"ALTER TYPE {name} ADD VALUE {values[index]}{place}")


@renderers.dispatch_for(CreateEnumOp, replace=True)
@renderers.dispatch_for(DropEnumOp, replace=True)
def _render(context: AutogenContext, operation: CreateEnumOp | DropEnumOp) -> str:
    """Write what the package writes, whatever the name holds."""
    schema = f", schema={operation.schema!r}" if operation.schema != context.dialect.default_schema_name else ""
    values = ", ".join(map(repr, operation.enum_values))
    action = operation.operation_name.removesuffix("_enum")
    return f"sa.Enum({values}, name={operation.name!r}{schema}).{action}(op.get_bind())"


alembic_postgresql_enum.set_configuration(alembic_postgresql_enum.Config(include_name=include_enum))
compare_dispatch.get_defined_enums = defined  # type: ignore[attr-defined, assignment]
compare_dispatch.get_declared_enums = declared  # type: ignore[attr-defined, assignment]
