"""The application as servers find it: whole, in a process of its own."""

import os
import subprocess
import sys
import tomllib

import pytest
from fastapi import FastAPI

from app.project import ROOT

SCRIPT = """
from importlib import import_module
from pathlib import Path
from sqlalchemy import Table
from app.registry import import_all_models

known = set(import_all_models().tables.values())
for path in Path("app").rglob("*.py"):
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    for thing in vars(import_module(name)).values():
        table = getattr(thing, "__table__", thing)
        if isinstance(table, Table) and table not in known:
            print(f"{name}: {table.name}")

from app.main import app
print(type(app).__name__)
"""


@pytest.fixture(scope="module")
def process() -> subprocess.CompletedProcess[str]:
    """A process that imports all of the application; unlike in this one, no test has imported a model before."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": "postgresql://nobody@database.invalid/nothing"},
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
    )


def test_no_model_escapes_the_registry(process: subprocess.CompletedProcess[str]) -> None:
    assert process.returncode == 0, process.stderr
    *strays, _ = process.stdout.splitlines()
    assert not strays, "move these tables to a `models` module, on app.db.base.Base"


def test_the_app_is_built_from_the_environment_and_connects_to_nothing(
    process: subprocess.CompletedProcess[str],
) -> None:
    assert process.stdout.splitlines()[-1:] == ["FastAPI"], process.stderr
    assert process.stderr == ""


async def test_the_api_has_the_name_of_the_project(app: FastAPI) -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    info = app.openapi()["info"]
    assert info["title"] == pyproject["tool"]["app"]["title"]
    assert info["version"] == pyproject["project"]["version"]
