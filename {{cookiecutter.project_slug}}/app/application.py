"""The application: settings in, ASGI app out."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from importlib import import_module
from typing import Any

from fastapi import FastAPI

from app import telemetry
from app.db.session import Database
from app.project import project, version_table
from app.registry import import_all_routers
from app.settings import Environment, Settings
from app.web import document, errors, health, middleware

CLOSING = 5  # seconds, for the connections of the database

logger = logging.getLogger(__name__)


class Title(str):
    """A title that is escaped where the pages of the documentation add theirs."""

    def __add__(self, other: str) -> str:
        return escape(self) + other


def create_app(settings: Settings) -> FastAPI:
    """Return the application for `settings`; nothing connects before its lifespan.

    Raises:
        ConfigurationError: the settings name no database, or a `router` module has no router.
    """
    version_table()  # or each probe would find out what is wrong with it
    database = Database(settings)
    docs = settings.environment != Environment.PRODUCTION if settings.docs is None else settings.docs
    options: dict[str, Any] = {"docs_url": "/docs", "redoc_url": "/redoc"} if docs else {"openapi_url": None}
    # What only the documentation needs is not run where there is none.
    app: FastAPI = (import_module("fastapi_offline").FastAPIOffline if docs else FastAPI)(
        title=Title(project()["title"]),
        description=project()["description"],
        version=project()["version"],
        debug=settings.debug,
        lifespan=lifespan,
        responses=document.DEFAULT,
        telemetry=telemetry.configure([database.engine, database.read_engine], settings.environment),
        **options,
    )
    app.state.settings, app.state.database = settings, database
    middleware.add_middleware(app, settings)
    errors.add_error_handlers(app)
    app.include_router(health.router)
    for router in import_all_routers():
        app.include_router(router, prefix="/api/v1")
    document.complete(app)
    return app


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    database: Database = app.state.database
    if reason := await health.why_not_ready(database):
        logger.warning(f"not ready yet: {reason}")
    yield
    try:
        async with asyncio.timeout(CLOSING):
            await database.close()
    except TimeoutError:
        logger.warning("the database does not let go of its connections")
