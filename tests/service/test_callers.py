"""Whoever runs the migrations, and from wherever, finds them working."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

from app.db.engine import create_engine
from app.project import ROOT, version_table
from app.settings import Settings

TABLE = version_table()[1]
VERSION = text(f"SELECT version_num FROM {TABLE}")
LOCKS = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture
def config(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    return Config(toml_file=ROOT / "pyproject.toml")


@pytest.fixture
def head(config: Config) -> str | None:
    return ScriptDirectory.from_config(config).get_current_head()


@pytest.fixture
async def own_engine(empty_database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(Settings(database_url=empty_database_url))
    yield engine
    await engine.dispose()


def upgrade(connection: Connection, config: Config) -> None:
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def test_a_coroutine(config: Config, head: str, own_engine: AsyncEngine) -> None:
    command.upgrade(config, "head")
    command.check(config)
    async with own_engine.connect() as connection:
        assert await connection.scalar(VERSION) == head


async def test_a_transaction_is_left_to_its_owner(config: Config, head: str, own_engine: AsyncEngine) -> None:
    async with own_engine.connect() as connection:
        async with connection.begin() as transaction:
            await connection.run_sync(upgrade, config)
            assert await connection.scalar(VERSION) == head
            assert await connection.scalar(LOCKS) == 1
            await transaction.rollback()
        assert await connection.scalar(LOCKS) == 0
        assert await connection.scalar(text(f"SELECT to_regclass('{TABLE}')")) is None


async def test_a_connection_without_a_transaction(config: Config, head: str, own_engine: AsyncEngine) -> None:
    async with own_engine.connect() as connection:
        await connection.run_sync(upgrade, config)
        assert not connection.in_transaction()
        assert await connection.scalar(text("SELECT current_setting('lock_timeout')")) == "0"
        assert await connection.scalar(LOCKS) == 0
    async with own_engine.connect() as connection:
        assert await connection.scalar(VERSION) == head


def test_an_async_engine(config: Config, head: str, empty_database_url: str) -> None:
    engine = create_engine(Settings(database_url=empty_database_url))
    config.attributes["connection"] = engine
    command.upgrade(config, "head")
    command.check(config)

    async def version() -> str | None:
        async with engine.connect() as connection:
            version: str | None = await connection.scalar(VERSION)
        await engine.dispose()
        return version

    assert asyncio.run(version()) == head


@pytest.mark.parametrize("started", [True, False])
def test_an_async_connection(config: Config, head: str, empty_database_url: str, started: bool) -> None:
    engine = create_engine(Settings(database_url=empty_database_url), poolclass=NullPool)
    with asyncio.Runner() as runner:
        connection = engine.connect()
        if started:

            async def start() -> None:
                await connection

            runner.run(start())
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

        async def version() -> str | None:
            if started:
                await connection.close()
            async with engine.connect() as other:
                version: str | None = await other.scalar(VERSION)
                return version

        assert runner.run(version()) == head


async def test_an_async_engine_in_a_coroutine_is_refused(config: Config, own_engine: AsyncEngine) -> None:
    config.attributes["connection"] = own_engine
    with pytest.raises(CommandError, match="hand over a sync connection"):
        command.upgrade(config, "head")


async def test_an_embedding_program_keeps_its_logging(config: Config) -> None:
    loggers = {
        name: (logger.level, logger.disabled)
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
    }
    handlers = list(logging.root.handlers)
    command.upgrade(config, "head")
    assert logging.root.handlers == handlers
    for name, before in loggers.items():
        logger = logging.getLogger(name)
        assert (logger.level, logger.disabled) == before


def test_offline_sql_needs_neither_a_database_nor_a_url(
    config: Config, head: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.delenv("DATABASE_URL")
    command.upgrade(config, "head", sql=True)
    command.downgrade(config, f"{head}:base", sql=True)
    sql = capsys.readouterr().out
    assert f"INSERT INTO {TABLE} (version_num) VALUES" in sql
    assert f"DELETE FROM {TABLE}" in sql


async def test_a_caller_s_connection_needs_no_url(
    config: Config, head: str, own_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.delenv("DATABASE_URL")
    async with own_engine.begin() as connection:
        await connection.run_sync(upgrade, config)
        assert await connection.scalar(VERSION) == head
