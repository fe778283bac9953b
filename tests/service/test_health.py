"""The probes tell an orchestrator the truth."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from alembic import command
from alembic.config import Config
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import NullPool, text

from app.application import create_app
from app.db.engine import create_engine
from app.project import ROOT, version_table
from app.settings import Settings
from app.web import health
from tests.conftest import execute

KILL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
TABLE = version_table()[1]
NOWHERE = "postgresql://127.0.0.1:1/nowhere"


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[FastAPI, AsyncClient]]:
    app = create_app(Settings(**settings))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://test") as client,
    ):
        yield app, client


async def get(path: str, url: str, replica_url: str | None = None) -> tuple[int, str]:
    """Ask a service whose database is at `url`; return the status code and the reason."""
    async with serving(database_url=url, database_replica_url=replica_url) as (_, client):
        response = await client.get(path)
    return response.status_code, response.json()["reason"] or ""


async def sql(url: str, *statements: str) -> None:
    engine = create_engine(Settings(database_url=url), poolclass=NullPool)
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


@pytest.fixture
def migrated_url(empty_database_url: str, alembic_config: Config, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    command.upgrade(alembic_config, "head")
    return empty_database_url


async def test_live_does_not_ask_the_database() -> None:
    assert await get("/health/live", NOWHERE) == (200, "")


async def test_a_monitor_may_ask_for_the_headers_only(app: FastAPI) -> None:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        assert (await client.head("/health/live")).status_code == 200
        assert (await client.head("/health/ready")).status_code in (200, 503)


async def test_ready_when_the_schema_is_at_head(database_url: str) -> None:
    assert await get("/health/ready", database_url) == (200, "")


async def test_not_ready_when_the_database_is_down() -> None:
    status, reason = await get("/health/ready", NOWHERE)
    assert status == 503
    assert "cannot be reached" in reason


async def test_not_ready_when_the_database_does_not_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TIME_LIMIT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        status, reason = await get("/health/ready", f"postgresql://127.0.0.1:{silent.getsockname()[1]}/nowhere")
    assert status == 503
    assert "the database did not answer in time" in reason


async def test_not_ready_when_the_database_has_no_schema(empty_database_url: str) -> None:
    status, reason = await get("/health/ready", empty_database_url)
    assert status == 503
    assert "alembic upgrade head" in reason


@pytest.fixture
def revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of revisions that the code knows, in the place of its own."""
    (tmp_path / "migrations/versions").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.alembic]\nscript_location = "%(here)s/migrations"\n')
    monkeypatch.setattr(health, "ROOT", tmp_path)
    health.scripts.cache_clear()
    yield tmp_path / "migrations/versions"
    health.scripts.cache_clear()


@pytest.mark.parametrize(
    ("applied", "is_behind"),
    [(["b2"], False), (["b2", "a1"], False), (["b1", "a1"], True), (["b1"], True), ([], True), (["b1", "new"], False)],
)
async def test_what_alembic_counts_as_applied_is_applied(
    migrated_url: str, revisions: Path, applied: list[str], is_behind: bool
) -> None:
    for name, down, depends_on in (("a1", None, None), ("b1", None, None), ("b2", "b1", "a1")):
        lines = f"revision, down_revision, depends_on = {name!r}, {down!r}, {depends_on!r}"
        (revisions / f"{name}.py").write_text(lines)
    rows = [f"INSERT INTO {TABLE} VALUES ('{name}')" for name in applied]
    await sql(migrated_url, f"DELETE FROM {TABLE}", *rows)
    status, reason = await get("/health/ready", migrated_url)
    assert status == (503 if is_behind else 200)
    assert ("behind" in reason) == is_behind


async def test_ready_when_the_schema_is_newer_than_the_code(migrated_url: str) -> None:
    await sql(migrated_url, f"UPDATE {TABLE} SET version_num = 'from_the_future'")
    assert await get("/health/ready", migrated_url) == (200, "")


async def test_ready_while_all_requests_wait(database_url: str) -> None:
    small = {"database_pool_size": 1, "database_pool_timeout": 0}
    async with serving(database_url=database_url, **small) as (app, client):
        async with app.state.database.engine.connect(), app.state.database.read_engine.connect():
            answers = await asyncio.gather(*(client.get("/health/ready") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        connections = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        async with app.state.database.session() as session:
            assert await session.scalar(connections) == 3


async def test_a_dead_replica_is_named(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await get("/health/ready", database_url, database_url) == (200, "")
    assert await get("/health/ready", database_url, NOWHERE) == (503, "the replica cannot be reached")
    monkeypatch.setattr(health, "TIME_LIMIT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/nowhere"
        assert await get("/health/ready", database_url, url) == (503, "the replica did not answer in time")


async def test_a_probe_that_hangs_leaves_nothing_behind(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TIME_LIMIT", 0.4)
    async with serving(database_url=migrated_url) as (app, client):
        async with app.state.database.engine.begin() as connection:
            await connection.execute(text(f"LOCK TABLE {TABLE}"))
            for _ in range(3):
                answer = await client.get("/health/ready")
                assert answer.status_code == 503
                assert answer.json()["reason"] == "the database did not answer in time"
        await asyncio.wait({app.state.database.probe})
        assert app.state.database.probes[0].pool.checkedout() == 0
        assert (await client.get("/health/ready")).status_code == 200


async def test_not_ready_while_the_server_only_reads(migrated_url: str) -> None:
    database = urlsplit(migrated_url).path[1:]
    async with serving(database_url=migrated_url) as (_, client):
        await execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        await sql(migrated_url, "SET default_transaction_read_only = off", KILL)
        for _ in range(2):
            answer = await client.get("/health/ready")
            assert (answer.status_code, answer.json()["reason"]) == (503, "the database only reads")
        await execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
        assert (await client.get("/health/ready")).status_code == 200


async def test_the_readme_s_grants_are_what_two_roles_need(
    empty_database_url: str, alembic_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = urlsplit(empty_database_url)
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    [grants] = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    role = f"service_{parts.path[1:]}"
    url = parts._replace(netloc=f"{role}:{role}@{parts.netloc.rpartition('@')[2]}").geturl()
    await execute(f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    try:
        monkeypatch.setenv("DATABASE_URL", empty_database_url)
        await asyncio.to_thread(command.upgrade, alembic_config, "head")
        await sql(empty_database_url, "REVOKE ALL ON SCHEMA public FROM PUBLIC")
        assert "GRANT USAGE ON SCHEMA" in (await get("/health/ready", url))[1]
        await sql(empty_database_url, f"GRANT USAGE ON SCHEMA public TO {role}")
        assert f"GRANT SELECT ON {TABLE}" in (await get("/health/ready", url))[1]
        await asyncio.to_thread(command.downgrade, alembic_config, "base")
        await sql(empty_database_url, f"DROP TABLE {TABLE}")
        await sql(empty_database_url, *grants.replace(" service", f" {role}").split(";")[:-1])
        await asyncio.to_thread(command.upgrade, alembic_config, "head")
        assert await get("/health/ready", url) == (200, "")
        async with serving(database_url=url) as (_, client):
            assert (await client.post("/api/v1/items", json={"name": "granted", "price": 1})).status_code == 201
    finally:
        await sql(empty_database_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
