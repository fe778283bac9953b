"""Finds what every domain brings: its models and its router. Adding a domain is adding a folder."""

from importlib import import_module
from typing import TYPE_CHECKING

from sqlalchemy import MetaData

from app.db.base import Base
from app.project import ConfigurationError, modules

if TYPE_CHECKING:
    from fastapi import APIRouter  # for the type only: migrations must not wait for FastAPI's import


def import_all_models() -> MetaData:
    """Import every `models` module and package under `app`, and return the metadata of their tables.

    An error in one of them propagates: a model that cannot be imported must not look like a dropped table.
    """
    for name in modules("models"):
        import_module(name)
    return Base.metadata


def import_all_routers() -> "list[APIRouter]":
    """Import every `router` module under `app`, and return the `router` of each.

    Raises:
        ConfigurationError: one has none.
    """
    found = [import_module(name) for name in modules("router") if ".router." not in name]
    for module in found:
        if not hasattr(module, "router"):
            raise ConfigurationError(f"{module.__name__} must define router = APIRouter(...)")
    return [module.router for module in found]
