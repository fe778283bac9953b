"""Where the service lies, and what its files say of it."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@cache
def project() -> dict[str, Any]:
    """Return the table `project` of `pyproject.toml`, with the title from the table `tool.app`."""
    pyproject: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {**pyproject["project"], **pyproject["tool"]["app"]}


@cache
def version_table() -> tuple[str | None, str]:
    """Return where the database keeps the applied revisions: a schema, None for the connection's, and a table.

    Raises:
        ValueError: the file that says so is malformed.
    """
    path = ROOT / "migrations/versions/version_table.toml"
    table = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not table.keys() <= {"schema", "name"} or not all(isinstance(text, str) and text for text in table.values()):
        raise ValueError("it may have a `name` and a `schema`, each a text")
    return table.get("schema"), table.get("name", "alembic_version")
