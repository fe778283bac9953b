"""The application: settings in, ASGI app out."""

import logging
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import async_sessionmaker

from app.db.engine import create_engine
from app.http import errors, health
from app.registry import import_all_routers
from app.settings import ROOT, ConfigurationError, Settings, load_settings

logger = logging.getLogger("uvicorn.error")


def create_app(settings: Settings) -> FastAPI:
    """Return the application for `settings`; nothing connects before its lifespan.

    Raises:
        ConfigurationError: the settings name no database.
    """
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    app = FastAPI(
        title=pyproject["tool"]["app"]["title"],
        description=pyproject["project"]["description"],
        version=pyproject["project"]["version"],
        lifespan=lifespan,
    )
    app.state.engine = create_engine(settings)
    app.state.sessionmaker = async_sessionmaker(app.state.engine, expire_on_commit=False)
    errors.add_error_handlers(app)
    app.include_router(health.router)
    for router in import_all_routers():
        app.include_router(router, prefix="/api/v1")
    return app


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    if reason := await health.why_not_ready(app.state.engine):
        logger.warning(f"not ready yet: {reason}")
    yield
    await app.state.engine.dispose()


def __dir__() -> list[str]:
    return [*globals(), "app"]


def __getattr__(name: str) -> FastAPI:
    """Build `app` for the server that asks for it; importing this module reads and connects to nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        globals()["app"] = app = create_app(load_settings(Settings))
    except ConfigurationError as error:
        sys.exit(str(error))
    except AttributeError as error:  # or servers would say that this module has no app
        raise RuntimeError("the application cannot be built") from error
    return app
