"""Imports flow one way: db.url -> settings -> db -> registry, http -> domains -> main; models -> schemas -> service -> router."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import ROOT

LAYERS = {"db.url": 0, "settings": 1, "db": 2, "registry": 3, "http": 3, "main": 5}
DOMAIN, STEPS = 4, ["models", "schemas", "service", "router"]
SOURCES = sorted((ROOT / "app").rglob("*.py"))


def may_import(importer: str, name: str) -> bool:
    """Modules that are in neither list may be imported by any, and may import any."""
    here, there = layer(importer), layer(name)
    if here is None or there is None or here != there:
        return here is None or there is None or here > there
    steps = [[STEPS.index(part) for part in module.split(".") if part in STEPS] for module in (importer, name)]
    return here != DOMAIN or not all(steps) or steps[0][0] >= steps[1][0]


def layer(module: str) -> int | None:
    _, name, inner, *_ = [*module.split("."), "", ""]
    return LAYERS.get(f"{name}.{inner}", LAYERS.get(name, DOMAIN if (ROOT / "app" / name).is_dir() else None))


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
    against = [name for name in imported(source) if name.startswith("app.") and not may_import(module, name)]
    assert not against, f"{module} must not import {against}"
