"""What `alembic revision --autogenerate` and `alembic check` see, and what they refuse to write."""

import ast
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
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
from migrations.errors import sqlstate

# What SQL creates, or renames to: TABLE or TYPE, its schema if it is named, its name.
CREATED = re.compile(
    r"""CREATE\s+(?:UNLOGGED\s+)?(TABLE|TYPE)\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:"?(\w+)"?\.)?"?(\w+)"""
    r"""|ALTER\s+(TABLE|TYPE)\s+(?:IF\s+EXISTS\s+)?(?:"?(\w+)"?\.)?"?\w+"?\s+RENAME\s+TO\s+"?(\w+)""",
    re.IGNORECASE,
)
# Partitions belong to their table, and an extension's tables to the extension.
DEPENDENT = text("""
    SELECT relname FROM pg_class
    WHERE relispartition OR oid IN
        (SELECT objid FROM pg_depend WHERE classid = 'pg_class'::regclass AND deptype = 'e')
""")
Names = set[tuple[str | None, str]]  # of tables or types: the schema, None for the default one, and the name

logger = logging.getLogger(__name__)


def import_models(autogen_context: AutogenContext, _: object) -> PriorityDispatchResult:
    """Import the models by the option `import_models`; only a comparison needs them.

    Raises:
        CommandError: a table is defined where the registry does not see it.
    """
    autogen_context.opts["import_models"]()
    if strays := sorted(set(_tables_outside_the_registry())):
        raise CommandError(f"move to a `models` module, on the metadata of app.db.base.Base: {', '.join(strays)}")
    for cached in (_of_models, _of_revisions, _dependent_tables):
        cached.cache_clear()
    return PriorityDispatchResult.CONTINUE


def _tables_outside_the_registry() -> Iterator[str]:
    for path in sorted((ROOT / "app").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module := sys.modules.get(name):
            for key, thing in vars(module).items():
                table = getattr(thing, "__table__", None) if isinstance(thing, type) else thing
                if isinstance(table, Table) and table.metadata is not Base.metadata:
                    yield f"{name}.{key} ({table.name})"
        else:
            for statement in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(statement, ast.ClassDef) and (table_name := _table_name(statement)):
                    yield f"{name}.{statement.name} ({table_name})"


def _table_name(definition: ast.ClassDef) -> str | None:
    """Return the table that a class statement defines, by `__tablename__ = ...` or as SQLModel's `table=True`."""
    for line in definition.body:
        if isinstance(line, ast.Assign | ast.AnnAssign) and isinstance(line.value, ast.Constant):
            targets = line.targets if isinstance(line, ast.Assign) else [line.target]
            if any(isinstance(target, ast.Name) and target.id == "__tablename__" for target in targets):
                return str(line.value.value)
    is_table = any(keyword.arg == "table" and ast.unparse(keyword.value) == "True" for keyword in definition.keywords)
    return definition.name.lower() if is_table else None


@cache
def _of_models() -> tuple[Names, Names]:
    """Return the tables and the enums of the models."""
    tables = Base.metadata.tables.values()
    types: list[Any] = [column.type for table in tables for column in table.columns]
    types += [inner for outer in types for inner in (getattr(outer, "item_type", None), getattr(outer, "impl", None))]
    enums = {(type_.schema, str(type_.name)) for type_ in types if isinstance(type_, Enum)}
    return {_key(table.schema, table.name) for table in tables}, {_key(*enum) for enum in enums}


@cache
def _of_revisions() -> tuple[Names, Names]:
    """Return the tables and the enums that the revisions create, as far as they name them in so many words."""
    tables: Names = set()
    enums: Names = set()
    for script in context.script.walk_revisions():
        for node in ast.walk(ast.parse(Path(script.path).read_bytes())):
            if isinstance(node, ast.Call):
                function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
                names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                keywords = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
                schema = keywords.get("schema")
                if function == "create_table" and names:
                    tables.add(_key(schema, names[0]))
                elif function == "rename_table" and names[1:]:
                    tables.add(_key(schema, names[1]))
                elif function in ("Enum", "ENUM") and "name" in keywords:
                    enums.add(_key(schema, keywords["name"]))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                for created in CREATED.findall(node.value):
                    kind, schema, name = created[:3] if created[0] else created[3:]
                    (tables if kind.upper() == "TABLE" else enums).add(_key(schema or None, name))
    return tables, enums


def _key(schema: Any, name: Any) -> tuple[str | None, str]:
    return None if schema == context.get_bind().dialect.default_schema_name else schema, str(name)


@cache
def _dependent_tables() -> set[str]:
    return set(context.get_bind().scalars(DEPENDENT))


def include_name(name: str | None, kind: str, parents: Any) -> bool:
    """Say whether a schema or table of the database is this service's."""
    of_models, _ = _of_models()
    if kind == "schema":
        return name is None or name in {schema for schema, _ in of_models}
    key = (parents.get("schema_name"), str(name))
    if kind != "table" or key in of_models:
        return True
    ours = key in _of_revisions()[0] and key[1] not in _dependent_tables()
    if not ours:
        logger.info(f"left alone: table {'.'.join(filter(None, key))}, which is in neither the models nor a revision")
    return ours


def include_enum(name: str) -> bool:
    """Say whether an enum type of the database is this service's."""
    return name in {known for _, enums in (_of_models(), _of_revisions()) for _, known in enums}


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
        self, inspector_column: Column[Any], metadata_column: Column[Any], _: str | None, existing: str | None
    ) -> bool:
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
