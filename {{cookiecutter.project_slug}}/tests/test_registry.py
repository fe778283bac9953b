"""Every model is found, wherever it is."""

import subprocess
import sys

from app.project import ROOT

# In a process of its own: there, no other test has imported a model yet.
SCRIPT = """
from importlib import import_module
from pathlib import Path
from sqlalchemy import Table
from app.registry import import_all_models

known = set(import_all_models().tables.values())
for path in Path("app").rglob("*.py"):
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    if name == "app.main":
        continue  # it wants a whole environment
    for thing in vars(import_module(name)).values():
        table = getattr(thing, "__table__", thing)
        if isinstance(table, Table) and table not in known:
            print(f"{name}: {table.name}")
"""


def test_no_model_escapes_the_registry() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, check=True, capture_output=True, text=True)
    assert not found.stdout, "move these tables to a `models` module, on app.db.base.Base"
