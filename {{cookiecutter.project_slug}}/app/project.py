"""Where the service lies, what its files say of it, and which modules it has."""

import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class ConfigurationError(Exception):
    """The service cannot run as it is set up; the message says why, a line a problem."""


@cache
def project() -> dict[str, Any]:
    """Return the table `project` of `pyproject.toml`, with the title from the table `tool.app`.

    Raises:
        ConfigurationError: it is not there, or lacks them.
    """
    file = ROOT / "pyproject.toml"
    try:
        pyproject: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        table: dict[str, Any] = {**pyproject["project"], **pyproject["tool"]["app"]}
        return {"version": "0", "description": "", **table, "name": table["name"], "title": table["title"]}
    except OSError as error:
        raise ConfigurationError(f"{file}, which the service needs beside its folder app: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{file}: {error}") from None
    except KeyError as error:
        raise ConfigurationError(f"{file} must say {error} in its tables project and tool.app") from None


@cache
def version_table() -> tuple[str | None, str]:
    """Return where the database keeps the applied revisions: a schema, None for the connection's, and a table.

    Raises:
        ConfigurationError: the file that says so is malformed, or cannot be read.
    """
    path = ROOT / "migrations/versions/version_table.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not table.keys() <= {"schema", "name"} or not all(isinstance(text, str) and text for text in table.values()):
            raise ValueError("it may have a `name` and a `schema`, each a text")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"migrations/versions/version_table.toml: {error}") from None
    return table.get("schema"), table.get("name", "alembic_version")


def modules(name: str) -> Iterator[str]:
    """Yield the dotted names of the modules called `name`, and of those in packages called `name`, sorted."""
    for path in sorted((ROOT / "app").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if name in parts[1:]:
            yield ".".join(parts).removesuffix(".__init__")
