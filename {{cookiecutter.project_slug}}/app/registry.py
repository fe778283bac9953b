"""Finds what every domain brings: its models and its router. Adding a domain is adding a folder."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import MetaData

from app.db.base import Base
from app.settings import ConfigurationError

if TYPE_CHECKING:
    from fastapi import APIRouter  # for the type only: migrations must not wait for FastAPI's import

APP = Path(__file__).resolve().parent


def import_all_models() -> MetaData:
    """Import every `models` module and package under `app`, and return the metadata of their tables.

    An error in one of them propagates: a model that cannot be imported must not look like a dropped table.
    """
    for name in _modules("models"):
        import_module(name)
    return Base.metadata


def import_all_routers() -> "list[APIRouter]":
    """Import every `router` module under `app`, and return the `router` of each.

    Raises:
        ConfigurationError: one has none.
    """
    modules = [import_module(name) for name in _modules("router") if ".router." not in name]
    for module in modules:
        if not hasattr(module, "router"):
            raise ConfigurationError(f"{module.__name__} must define router = APIRouter(...)")
    return [module.router for module in modules]


def _modules(name: str) -> Iterator[str]:
    """Yield the dotted names of the modules called `name`, and of those in packages called `name`, sorted."""
    for path in sorted(APP.rglob("*.py")):
        parts = path.relative_to(APP.parent).with_suffix("").parts
        if name in parts[1:]:
            yield ".".join(parts).removesuffix(".__init__")
