"""How autogenerate writes down types and keys: without the application, and with what alembic leaves out."""

from typing import Any

from alembic.autogenerate import render
from alembic.autogenerate.api import AutogenContext
from alembic.ddl.postgresql import CreateExcludeConstraintOp
from alembic.operations.ops import CreateUniqueConstraintOp
from sqlalchemy import ARRAY, Column, Constraint, MetaData, PrimaryKeyConstraint, Table, UniqueConstraint
from sqlalchemy.dialects.postgresql import DOMAIN, ENUM, NamedType
from sqlalchemy.schema import AddConstraint
from sqlalchemy.types import TypeEngine

from migrations.target import escaped
from migrations.types import DIALECT


def render_item(kind: str, item: Any, context: AutogenContext) -> str | bool:
    """Render a type with the import that it needs, and a primary key with all its options; leave the rest to alembic."""
    if kind == "type":
        return _type(item, context)
    if kind == "primary_key":
        return _primary_key(item, context)
    return False


def _type(type_: TypeEngine[Any], context: AutogenContext) -> str | bool:
    if isinstance(type_, ENUM):
        arguments = [*map(repr, type_.enums), f"name={type_.name!r}"]
    elif isinstance(type_, DOMAIN):
        arguments = [repr(type_.name), render._repr_type(type_.data_type, context)]
    elif isinstance(type_, ARRAY):
        arguments = [render._repr_type(type_.item_type, context)]
        arguments += [f"dimensions={type_.dimensions}"] if type_.dimensions else []
    else:
        module = type(type_).__module__
        if not module.startswith("sqlalchemy."):
            context.imports.add(f"import {module}")
        return False
    if isinstance(type_, NamedType):
        arguments += [f"schema={type_.schema!r}"] if type_.schema else []
        arguments += ["create_type=False"]  # an operation of its own creates it
    context.imports.add("from sqlalchemy.dialects import postgresql")
    return f"postgresql.{type_.__visit_name__.upper()}({', '.join(arguments)})"


def _primary_key(key: PrimaryKeyConstraint, context: AutogenContext) -> str | bool:
    options = {"deferrable": key.deferrable, "initially": key.initially, **key.dialect_kwargs}
    given = {name: value for name, value in options.items() if value}
    if not given or not key.columns:
        return False
    arguments = [repr(column.name) for column in key.columns]
    arguments += [f"{name}={value!r}" for name, value in given.items()]
    arguments += [f"name={render._render_gen_name(context, key.name)!r}"] if key.name else []
    return f"sa.PrimaryKeyConstraint({', '.join(arguments)})"


@render.renderers.dispatch_for(CreateUniqueConstraintOp, replace=True)
def _add_unique(context: AutogenContext, operation: CreateUniqueConstraintOp) -> list[str]:
    """Write SQL where alembic's operation would miss the columns that the constraint includes."""
    included = operation.kw.get("postgresql_include")
    if not included:
        return render._add_unique_constraint(context, operation)
    options = {name: value for name, value in operation.kw.items() if name != "schema"}
    key = UniqueConstraint(*operation.columns, name=operation.constraint_name, **options)
    columns: list[Column[Any]] = [Column(name) for name in dict.fromkeys([*operation.columns, *included])]
    Table(operation.table_name, MetaData(), *columns, key, schema=operation.schema)
    return [_add(key)]


@render.renderers.dispatch_for(CreateExcludeConstraintOp, replace=True)
def _add_exclude(_: AutogenContext, operation: CreateExcludeConstraintOp) -> str:
    """Write SQL: alembic's operation takes no text in the place of a column."""
    return _add(operation.to_constraint())


def _add(constraint: Constraint) -> str:
    sql = str(AddConstraint(constraint, isolate_from_table=False).compile(dialect=DIALECT))
    return f"op.execute({escaped(sql)!r})"
