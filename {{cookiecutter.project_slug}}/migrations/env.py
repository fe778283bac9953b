"""Runs the migrations on the database that the settings name."""

import asyncio
import logging

import alembic_postgresql_enum  # noqa: F401 - lets autogenerate see native enums
from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, pool

from app.db.base import Base
from app.db.engine import DatabaseUnavailable, create_engine
from app.registry import import_all_models
from app.settings import ConfigurationError, load_settings

config = context.config

if config.cmd_opts is not None:  # the command line; a program that embeds alembic keeps its own logging
    logging.basicConfig(format="%(levelname)-5.5s [%(name)s] %(message)s")
    logging.getLogger("alembic").setLevel(logging.INFO)
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)


def run_migrations_offline() -> None:
    """Write SQL for `--sql`, with no database."""
    context.configure(
        url="postgresql+asyncpg://",
        target_metadata=Base.metadata,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        transaction_per_migration=True,
    )

    with context.begin_transaction():
        context.run_migrations()


def do_run_migrations(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=import_all_models(),
        transaction_per_migration=True,
    )

    with context.begin_transaction():
        context.run_migrations()


async def run_async_migrations() -> None:
    try:
        connection = await create_engine(load_settings(), poolclass=pool.NullPool).connect()
    except (ConfigurationError, DatabaseUnavailable) as error:
        raise CommandError(str(error)) from error

    try:
        await connection.run_sync(do_run_migrations)
    finally:
        await connection.close()


def run_migrations_online() -> None:
    asyncio.run(run_async_migrations())


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
