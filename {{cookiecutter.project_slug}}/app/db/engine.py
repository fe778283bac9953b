"""The engine, as the application and the migrations create it."""

import asyncio
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.db.url import database_url
from app.settings import Settings

TIME_LIMIT = 10  # seconds, to connect


class DatabaseUnavailable(Exception):
    """There is no connection to be had; the message says why in one line."""


def create_engine(settings: Settings, **options: Any) -> AsyncEngine:
    """Return an engine for the database that `settings` name; nothing connects yet.

    `options` go to `sqlalchemy.ext.asyncio.create_async_engine`. Connecting raises DatabaseUnavailable.
    """

    async def connect() -> Any:
        # asyncpg, not SQLAlchemy, parses the URL: it knows sslmode, several hosts, sockets and any password.
        try:
            return await asyncpg.connect(await asyncio.to_thread(database_url, settings), timeout=TIME_LIMIT)
        except TimeoutError as error:
            raise DatabaseUnavailable(f"cannot connect to the database: no answer within {TIME_LIMIT} s") from error
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseUnavailable(f"cannot connect to the database: {error}") from error
        except (ValueError, OverflowError) as error:  # the message may hold a piece of the password
            raise DatabaseUnavailable("cannot connect to the database: its URL is malformed") from error

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, **options)
