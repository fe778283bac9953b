"""Runs the migrations on the database that the settings name."""

import atexit
import gc

from alembic import context
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.base import Base
from app.registry import import_all_models
from migrations import autogenerate, callers, errors, locking, offline

config = context.config
target_metadata = Base.metadata  # only autogenerate and check import the models

if config.cmd_opts is not None:  # the command line; a program that embeds alembic keeps its own logging
    callers.configure_logging()
    gc.set_threshold(100_000)  # Python's own would walk through all tables time and again, and find nothing
    atexit.register(gc.freeze)  # nor is there anything to find at the end


def run_migrations_offline() -> None:
    """Write SQL for `--sql`, with no database."""
    context.configure(
        url="postgresql+asyncpg://",
        target_metadata=target_metadata,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        transaction_per_migration=True,
        **offline.version_table(),
    )

    with context.begin_transaction(), errors.short_errors():
        context.run_migrations()


def do_run_migrations(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=target_metadata,
        transaction_per_migration=True,
        import_models=import_all_models,
        **autogenerate.OPTIONS,
        **locking.version_table(connection),
    )

    with context.begin_transaction():
        locking.run_migrations(connection)


async def run_async_migrations(connectable: AsyncEngine | AsyncConnection | None) -> None:
    async with callers.connect(connectable) as connection:
        await connection.run_sync(do_run_migrations)


def run_migrations_online() -> None:
    connectable = config.attributes.get("connection")
    if isinstance(connectable, Connection):
        do_run_migrations(connectable)
    elif isinstance(connectable, Engine):
        with connectable.connect() as connection:
            do_run_migrations(connection)
    else:
        callers.run(run_async_migrations(connectable), connectable)


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
