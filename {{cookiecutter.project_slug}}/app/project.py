"""Where the service lies, and what its `pyproject.toml` says of it."""

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
