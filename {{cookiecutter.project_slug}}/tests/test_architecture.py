"""Imports flow one way: settings -> db -> registry, http -> domains -> main; models -> schemas -> service -> router."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import ROOT

LAYERS = {"settings": 0, "db": 1, "registry": 2, "http": 2, "main": 4}
DOMAIN, FILES = 3, ["models", "schemas", "service", "router"]
SOURCES = sorted((ROOT / "app").rglob("*.py"))


def rank(module: str) -> tuple[int, int]:
    """Return where a module of `app` stands; it may import what stands no higher."""
    _, name, *rest = [*module.split("."), ""]
    layer = LAYERS.get(name, DOMAIN)
    steps = [FILES.index(part) for part in rest if part in FILES] if layer == DOMAIN else []
    return layer, steps[0] if steps else len(FILES)


def imported(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{source}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_imports_flow_one_way(source: Path) -> None:
    module = ".".join(source.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    against = [name for name in imported(source) if name.startswith("app.") and rank(name) > rank(module)]
    assert not against, f"{module} must not import {against}"
