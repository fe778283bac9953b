"""The engine, as the application and the migrations create it."""

import asyncio
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.db.url import database_url
from app.settings import Settings


def create_engine(settings: Settings, **options: Any) -> AsyncEngine:
    """Return an engine for the database that `settings` name; nothing connects yet.

    `options` go to `sqlalchemy.ext.asyncio.create_async_engine`. Whatever keeps the engine from connecting, later,
    is raised as an OSError that says so in one line.
    """

    async def connect() -> Any:
        # asyncpg, not SQLAlchemy, parses the URL: it knows sslmode, several hosts, sockets and any password.
        url = await asyncio.to_thread(database_url, settings)
        try:
            return await asyncpg.connect(url)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise ConnectionError(str(error)) from error

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, **options)
