"""Which tables and types of a database are this service's; the others are left alone."""

import ast
import logging
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.util import CommandError, PriorityDispatchResult
from sqlalchemy import Enum, Table, text

from app.db.base import Base
from app.project import ROOT
from app.settings import ConfigurationError
from migrations.target import as_postgresql_keeps, is_apart, made_here
from migrations.types import element_type

# What SQL creates, or renames to: TABLE or TYPE, its schema if it is named, its name.
CREATED = re.compile(
    r"""CREATE\s+(?:UNLOGGED\s+)?(TABLE|TYPE)\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:"?(\w+)"?\.)?"?(\w+)"""
    r"""|ALTER\s+(TABLE|TYPE)\s+(?:IF\s+EXISTS\s+)?(?:"?(\w+)"?\.)?"?\w+"?\s+RENAME\s+TO\s+"?(\w+)""",
    re.IGNORECASE,
)
# How a class statement defines a table: by its name, or as SQLModel's do.
NAMED = re.compile(r"""^    __tablename__.* = ['"](\w+)['"]$""", re.MULTILINE)
UNNAMED = re.compile("^class .*table=True()")
# Partitions belong to their table, and an extension's tables to the extension.
DEPENDENT = text("""
    SELECT relname FROM pg_class
    WHERE relispartition OR oid IN
        (SELECT objid FROM pg_depend WHERE classid = 'pg_class'::pg_catalog.regclass::pg_catalog.oid AND deptype = 'e')
""")
Tables = set[tuple[str | None, str]]  # the schema, None for the default one, and the name

logger = logging.getLogger(__name__)


def import_models(autogen_context: AutogenContext, _: object) -> PriorityDispatchResult:
    """Import the models by the option `import_models`; only a comparison needs them.

    Raises:
        CommandError: a table is defined where the registry does not see it, or a check has no name.
    """
    try:
        autogen_context.opts["import_models"]()
    except ConfigurationError as error:
        raise CommandError(str(error)) from error
    if strays := sorted(set(_tables_outside_the_registry())):
        raise CommandError(f"move to a `models` module, on the metadata of app.db.base.Base: {', '.join(strays)}")
    target = as_postgresql_keeps(Base.metadata, autogen_context.dialect.default_schema_name)
    autogen_context.metadata = autogen_context.opts["target_metadata"] = target
    for cached in (_of_models, _of_revisions, _dependent_tables):
        cached.cache_clear()
    return PriorityDispatchResult.CONTINUE


def _tables_outside_the_registry() -> Iterator[str]:
    for path in sorted((ROOT / "app").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module := sys.modules.get(name):
            for key, thing in vars(module).items():
                table = getattr(thing, "__table__", None) if isinstance(thing, type) else thing
                if isinstance(table, Table) and table.metadata is not Base.metadata and not is_apart(table):
                    yield f"{name}.{key} ({table.name})"
        else:
            for node in ast.walk(ast.parse(path.read_bytes())):
                if not isinstance(node, ast.ClassDef):
                    continue
                source = ast.unparse(node)
                if found := NAMED.search(source) or UNNAMED.search(source):
                    yield f"{name}.{node.name} ({found[1] or node.name.lower()})"


@cache
def _of_models() -> tuple[Tables, set[str]]:
    """Return the tables and the names of the enums of the models."""
    target = context.get_context().opts["target_metadata"]
    tables = made_here(target)
    types = [element_type(column) for table in tables for column in table.columns]
    enums = {str(type_.name) for type_ in types if isinstance(type_, Enum)}
    return {(table.schema, table.name) for table in tables}, enums


@cache
def _of_revisions() -> tuple[Tables, set[str]]:
    """Return the tables and the names of the enums that the revisions create, as far as they name them in so many words."""
    tables: Tables = set()
    enums: set[str] = set()
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
                    enums.add(str(keywords["name"]))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                for created in CREATED.findall(node.value):
                    kind, schema, name = created[:3] if created[0] else created[3:]
                    if kind.upper() == "TABLE":
                        tables.add(_key(schema or None, name))
                    else:
                        enums.add(name)
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
        return name is None or name in {schema for schema, _ in of_models | _of_revisions()[0]}
    key = (parents.get("schema_name"), str(name))
    if kind != "table" or key in of_models:
        return True
    if name == context.get_context().version_table:
        return False
    ours = key in _of_revisions()[0] and key[1] not in _dependent_tables()
    if not ours:
        logger.info(f"left alone: table {'.'.join(filter(None, key))}, which is in neither the models nor a revision")
    return ours


def include_object(item: Any, name: str | None, kind: str, reflected: bool, _: object) -> bool:
    """Say whether a table of the models is made here, and not a view, or something apart."""
    return kind != "table" or not is_apart(item)


def include_enum(name: str) -> bool:
    """Say whether an enum type of the database is this service's."""
    return name in _of_models()[1] or name in _of_revisions()[1]
