"""The pool hands out connections that work, or says within the time limit that there is none."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application import create_app
from app.db import pool as module
from app.db.engine import DatabaseUnavailable
from app.db.pool import create_pool
from app.db.session import ReadSessionDep
from app.settings import Settings
from tests.service.conftest import TIME_LIMIT

KILL = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name = 'the pool under test'"
)


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[AsyncEngine]:
    pool = create_pool(settings.model_copy(update={"database_application_name": "the pool under test"}))
    yield pool
    await pool.dispose()


async def hold(pool: AsyncEngine) -> object:
    """Have a connection for a moment, and return asyncpg's."""
    async with pool.connect() as connection:
        await connection.execute(text("SELECT pg_sleep(0.05)"))
        return (await connection.get_raw_connection()).driver_connection


async def ask(pool: AsyncEngine, query: str) -> object:
    async with pool.connect() as connection:
        return await connection.scalar(text(query))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://me:hunter2@nowhere.invalid/db", "at nowhere.invalid:5432: [Errno"),
        ("postgresql://me:hunter2@127.0.0.1:1/db", "at 127.0.0.1:1: [Errno"),
        ("postgresql://me:hunter2@127.0.0.1:1,[::1]:2/db", "at 127.0.0.1:1, ::1:2: [Errno"),
        ("postgresql://me:hunter2@/db?host=/nowhere", "at /nowhere:5432: [Errno"),
        ("postgresql://me:hunter2@127.0.0.1,nowhere.invalid/db?port=1,2", "at 127.0.0.1:1, nowhere.invalid:2: [Errno"),
        ("postgresql://me:hunter2@%2Fnowhere/db", "at /nowhere:5432: [Errno"),
        ("postgresql:///db", "at elsewhere.invalid:7: [Errno"),
    ],
)
async def test_whoever_cannot_connect_is_told_where_to(monkeypatch: pytest.MonkeyPatch, url: str, said: str) -> None:
    if url == "postgresql:///db":
        monkeypatch.setenv("PGHOST", "elsewhere.invalid")
        monkeypatch.setenv("PGPORT", "7")
    with pytest.raises(DatabaseUnavailable) as raised:
        await ask(create_pool(Settings(database_url=url)), "SELECT 1")
    assert f"cannot connect to the database {said}" in str(raised.value)
    assert "me" not in str(raised.value).partition(": ")[0].split("at ")[1]
    assert "hunter2" not in str(raised.value)


@pytest.fixture
def foreign_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A HOME that this process may not read."""
    if not hasattr(os, "seteuid"):
        pytest.skip("Windows has another kind of home")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ENV_FILE", "")
    tmp_path.chmod(0)
    me = os.geteuid()
    os.seteuid(me or 65534)
    yield tmp_path
    os.seteuid(me)
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("mode", ["prefer", "require"])
async def test_a_home_that_may_not_be_read_is_named(settings: Settings, foreign_home: Path, mode: str) -> None:
    assert settings.database
    url = settings.database.get_secret_value().replace("sslmode=disable", f"sslmode={mode}")
    with pytest.raises(
        DatabaseUnavailable, match=rf"denied.*asyncpg wants to read ~/.postgresql, where HOME={foreign_home}"
    ):
        await ask(create_pool(Settings(database_url=url)), "SELECT 1")


async def test_a_session_has_the_service_s_name_and_time_limit(pool: AsyncEngine) -> None:
    assert await ask(pool, "SELECT current_setting('application_name')") == "the pool under test"
    assert await ask(pool, "SELECT current_setting('statement_timeout')") == "30s"


@pytest.mark.parametrize("fresh", [True, False])
async def test_no_request_meets_a_connection_that_the_server_closed(
    pool: AsyncEngine, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    monkeypatch.setattr(module, "FRESH", 100 if fresh else 0)
    for _ in range(3):
        drivers: list[Any] = await asyncio.gather(*(hold(pool) for _ in range(3)))
        async with engine.connect() as connection:
            await connection.execute(KILL)
        # The server's farewell takes a moment.
        async with asyncio.timeout(TIME_LIMIT):
            while not all(driver.is_closed() for driver in drivers):
                await ask(engine, "SELECT 1")
        assert await ask(pool, "SELECT 1") == 1


@pytest.mark.parametrize(("idle", "pings"), [(0.0, 0), (5.0, 1)])
async def test_only_a_connection_that_has_idled_is_tried(
    pool: AsyncEngine, monkeypatch: pytest.MonkeyPatch, idle: float, pings: int
) -> None:
    counted = []
    is_alive = module._is_alive

    def count(connection: object) -> bool:
        counted.append(connection)
        return is_alive(connection)

    monkeypatch.setattr(module, "_is_alive", count)
    await ask(pool, "SELECT 1")
    now = time.monotonic
    monkeypatch.setattr("app.db.pool.time.monotonic", lambda: now() + idle)
    await ask(pool, "SELECT 1")
    assert len(counted) == pings


async def test_an_exhausted_pool_is_503_within_the_time_limit(settings: Settings) -> None:
    tight = {"database_pool_size": 1, "database_pool_max_overflow": 0, "database_pool_timeout": 0.1}
    app = create_app(settings.model_copy(update=tight))

    @app.get("/asks")
    async def ask_something(session: ReadSessionDep) -> None:
        await session.execute(text("SELECT 1"))

    async with (
        AsyncClient(transport=ASGITransport(app), base_url="http://test") as client,
        app.state.database.read_engine.connect(),
    ):
        response = await client.get("/asks")
        assert response.status_code == 503
        assert response.headers["retry-after"]
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/asks")).status_code == 200
    await app.state.database.read_engine.dispose()


async def test_a_database_that_does_not_answer_is_unavailable(settings: Settings) -> None:
    pool = create_pool(settings.model_copy(update={"database_statement_timeout": 1}))
    async with pool.connect() as connection:
        await connection.execute(text("SET statement_timeout = 0"))  # or the server would speak first
        with pytest.raises(DatabaseUnavailable, match="no answer in time"):
            await connection.execute(text("SELECT pg_sleep(60)"))
    # A round trip in which asyncpg's other connection, which cancels the statement, ends too: closing TLS takes one.
    assert await ask(pool, "SELECT 1") == 1
    await pool.dispose()


async def test_a_connection_that_does_not_answer_is_replaced(
    pool: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await ask(pool, "SELECT pg_backend_pid()")
    monkeypatch.setattr(module, "FRESH", 0)
    monkeypatch.setattr(module, "PING", 0)
    assert await ask(pool, "SELECT pg_backend_pid()") != first


async def test_no_one_is_handed_a_failed_transaction(pool: AsyncEngine) -> None:
    for _ in range(2):
        async with pool.connect() as connection:
            with suppress(DBAPIError):
                await connection.execute(text("SELECT 1/0"))
            with pytest.raises(InvalidRequestError, match="begin_nested"):
                await connection.commit()
        assert await ask(pool, "SELECT 1") == 1


async def test_reading_is_without_transactions_and_cannot_write(settings: Settings) -> None:
    pool = create_pool(settings, read_only=True)
    assert await ask(pool, "SELECT current_setting('transaction_read_only')") == "on"
    async with pool.connect() as connection:
        await connection.execute(text("SELECT 1"))
        assert not connection.sync_connection.connection.driver_connection.is_in_transaction()  # type: ignore[union-attr]
    await pool.dispose()


async def test_reads_go_to_the_replica(settings: Settings, empty_database_url: str) -> None:
    replica = Settings(database_url=empty_database_url).database_url
    both = settings.model_copy(update={"database_replica_url": replica})
    pools = [create_pool(both), create_pool(both, read_only=True)]
    names = [await ask(pool, "SELECT current_database()") for pool in pools]
    assert names[0] != names[1]
    assert str(names[1]) in empty_database_url
    for pool in pools:
        await pool.dispose()
