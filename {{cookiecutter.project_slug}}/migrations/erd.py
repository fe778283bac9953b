"""The schema as a diagram, in `docs/schema.md`. Autogenerate keeps it current; `python -m migrations.erd` writes it."""

import re
import sys
from collections.abc import Iterator

from alembic.util import CommandError
from sqlalchemy import Enum, MetaData, Table
from sqlalchemy.exc import CompileError, NoReferenceError

from app.project import ROOT, ConfigurationError
from app.registry import import_all_models
from migrations.target import is_apart, is_unique, made_here
from migrations.types import DIALECT

FILE = ROOT / "docs/schema.md"
TEXT = """\
# Schema

What the models say; `alembic revision --autogenerate` and `python -m migrations.erd` write it.

```mermaid
erDiagram
{}
```
"""


def diagram(models: MetaData) -> str:
    """Return the text of `FILE` for the tables of `models`, without views and what something else makes."""
    tables = sorted(made_here(models), key=lambda table: table.key)
    return TEXT.format("\n".join(line for table in tables for line in (*_entity(table), *_relations(table))))


def refresh(models: MetaData) -> None:
    """Write `FILE` anew, if there is one: a service that wants no diagram deletes it.

    Raises:
        CommandError: it cannot be written.
    """
    if FILE.exists():
        write(models)


def write(models: MetaData) -> None:
    """Write `FILE`.

    Raises:
        CommandError: it cannot be written.
    """
    try:
        text = diagram(models)
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(text, encoding="utf-8", newline="\n")
    except (CompileError, NoReferenceError, OSError) as error:
        raise CommandError(f"the diagram of the schema cannot be written: {error}") from error


def _entity(table: Table) -> Iterator[str]:
    yield "    " + _quoted(table.fullname) + " {"
    for column in table.columns:
        is_key = not column.primary_key and is_unique(table, [column])
        marks = {"PK": column.primary_key, "FK": column.foreign_keys, "UK": is_key}
        keys = ", ".join(mark for mark, holds in marks.items() if holds)
        values = ", ".join(column.type.enums) if isinstance(column.type, Enum) else ""
        notes = "; ".join(filter(None, ["null" if column.nullable else "", values, column.comment]))
        type_ = _word(str(column.type.compile(DIALECT)).lower())
        yield "        " + " ".join(filter(None, [type_, _word(column.name), keys, notes and _quoted(notes)]))
    yield "    }"


def _relations(table: Table) -> Iterator[str]:
    for key in sorted(table.foreign_key_constraints, key=lambda key: [*key.column_keys]):
        if not is_apart(key.referred_table):
            parent = "|o" if any(column.nullable for column in key.columns) else "||"
            child = "o|" if is_unique(table, key.columns) else "o{"
            names = _quoted(", ".join(key.column_keys))
            yield f"    {_quoted(key.referred_table.fullname)} {parent}--{child} {_quoted(table.fullname)} : {names}"


def _quoted(text: str) -> str:
    return '"' + " ".join(text.split()).replace('"', "'") + '"'


def _word(text: str) -> str:
    """Return `text` with what Mermaid takes for a name of a type or column."""
    return re.sub(r"^(?=\d)|[^\w()\[\]-]+", "_", text)


def main() -> None:
    write(import_all_models())
    print(FILE.relative_to(ROOT))


if __name__ == "__main__":
    try:
        main()
    except (CommandError, ConfigurationError) as error:
        sys.exit(f"migrations.erd: {error}")
