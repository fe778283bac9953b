"""Whoever runs the migrations: the command line, a program with a connection of its own, a running event loop."""

import asyncio
import logging
import signal
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app import project
from app.db.engine import DatabaseUnavailable, create_engine
from app.overview import lookalikes
from app.settings import DEPLOYED, ConfigurationError, MigrationSettings, Settings, load_settings

# What a server that is starting, or one that takes over from another, answers.
PASSING = (
    OSError,
    asyncpg.CannotConnectNowError,
    asyncpg.PostgresConnectionError,
    asyncpg.TargetServerAttributeNotMatched,
)

logger = logging.getLogger(__name__)


def configure_logging() -> None:
    """Log as the service does where machines read it, and in alembic's own format elsewhere.

    Raises:
        CommandError: the settings are wrong.
    """
    logging.basicConfig(format="%(levelname)-5.5s [%(name)s] %(message)s")
    settings = migration_settings()
    logging.getLogger().setLevel(settings.log_level)
    for sentence in lookalikes([Settings, MigrationSettings]):
        logger.warning(sentence)
    for name in ("alembic.runtime.plugins", "alembic.ddl.postgresql"):  # a line for each plugin, and for each SERIAL
        logging.getLogger(name).setLevel(logging.WARNING)
    if settings.environment in DEPLOYED:
        from app.logs import configure_logging  # takes a tenth of a second to import

        configure_logging(settings)


def migration_settings() -> MigrationSettings:
    """Return the settings of this process.

    Raises:
        CommandError: they are wrong.
    """
    try:
        return load_settings(MigrationSettings)
    except ConfigurationError as error:
        raise CommandError(str(error)) from error


def version_table() -> tuple[str | None, str]:
    """Return where the database keeps the applied revisions: a schema, None for the connection's, and a table.

    Raises:
        CommandError: the file that says so is malformed, or cannot be read.
    """
    try:
        return project.version_table()
    except ConfigurationError as error:
        raise CommandError(str(error)) from error


def run(migrations: Coroutine[Any, Any, None], connectable: AsyncEngine | AsyncConnection | None) -> None:
    """Run a coroutine that uses `connectable` to its end, also where an event loop runs.

    Raises:
        CommandError: it was interrupted, by SIGINT or SIGTERM; or `connectable` is async, and an event loop runs.
    """
    if _is_in_event_loop():
        if connectable is not None:
            migrations.close()
            raise CommandError("inside an event loop, hand over a sync connection, as `connection.run_sync()` gives it")
        with ThreadPoolExecutor(1) as executor:
            executor.submit(asyncio.run, migrations).result()
    elif isinstance(connectable, AsyncConnection) and connectable.sync_connection:
        # It works on the loop that it was opened on, which asyncpg does not tell otherwise.
        asyncpg_connection: Any = connectable.sync_connection.connection.driver_connection
        asyncpg_connection._loop.run_until_complete(migrations)
    else:
        try:
            asyncio.run(_until_terminated(migrations))
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise CommandError("interrupted; the revisions that had ended before are applied") from None


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _until_terminated(migrations: Coroutine[Any, Any, None]) -> None:
    """Await the coroutine; on the command line, cancel it on SIGTERM, for which process 1 of a container has no default."""
    if context.config.cmd_opts is not None and threading.current_thread() is threading.main_thread():
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task
        signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(task.cancel))
    await migrations


@asynccontextmanager
async def connect(connectable: AsyncEngine | AsyncConnection | None) -> AsyncIterator[AsyncConnection]:
    """Yield a connection of `connectable`, or else one to the database of the settings, and close what it opened.

    Raises:
        CommandError: the settings are wrong, or there is no connection to be had within MIGRATION_WAIT.
    """
    if isinstance(connectable, AsyncConnection) and connectable.sync_connection:
        yield connectable
    elif connectable is not None:
        async with connectable.connect() if isinstance(connectable, AsyncEngine) else connectable as connection:
            await connection.run_sync(Connection.detach)  # its pool must not keep a connection of this event loop
            yield connection
    else:
        connection = await _connect_patiently(migration_settings())
        try:
            yield connection
        finally:
            await connection.close()


async def _connect_patiently(settings: MigrationSettings) -> AsyncConnection:
    deadline = time.monotonic() + settings.migration_wait
    try:
        engine = create_engine(settings, poolclass=pool.NullPool)
    except ConfigurationError as error:
        raise CommandError(str(error)) from error
    while True:
        try:
            return await engine.connect()
        except DatabaseUnavailable as error:
            starting = isinstance(error.__cause__, PASSING)
            if not starting or time.monotonic() >= deadline:
                raise CommandError(str(error)) from error
            logger.info(f"waiting: {error}")
            await asyncio.sleep(0.5)
