"""Imports flow one way: down this table, and in a domain from its router to its models."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.project import ROOT

TABLE = """
    scaffold
    migrations
    app.main app.shell
    app.application
    DOMAIN
    app.registry app.web
    app.db app.logs app.telemetry
    app.settings
    app.overview
    app.environment
    app.fields app.project
    app.text app.url
    devdb
"""
LAYERS = {name: layer for layer, names in enumerate(TABLE.split("\n")) for name in names.split()}
STEPS = ["router", "service", "schemas", "models"]
ROOMS = ["scaffold", "migrations", "app", "devdb"]
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def may_import(importer: str, name: str) -> bool:
    here, there = place(importer), place(name)
    if here == there == "DOMAIN":
        steps = [STEPS.index(part) for module in (importer, name) for part in module.split(".") if part in STEPS]
        return steps == sorted(steps)
    return LAYERS[here] < LAYERS[there] or here == there


def place(module: str) -> str:
    """Return what stands in the table for `module`; a folder of `app` that it does not name is a domain."""
    name = ".".join(module.split(".")[: 2 if module.startswith("app.") else 1])
    return name if name in LAYERS else "DOMAIN"


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
    ours = [name for name in imported(source) if name.split(".")[0] in ROOMS]
    against = [name for name in ours if not may_import(module, name)]
    assert not against, f"{module} must not import {against}"
