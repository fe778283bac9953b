"""The probes tell an orchestrator the truth."""

import socket

import pytest
from alembic import command
from alembic.config import Config
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import NullPool, text

from app.application import create_app
from app.db.engine import create_engine
from app.settings import Settings
from app.web import health
from app.web.health import known_revisions

NOWHERE = "postgresql://127.0.0.1:1/nowhere"


async def get(path: str, url: str) -> tuple[int, str]:
    """Ask a service whose database is at `url`; return the status code and the reason."""
    app = create_app(Settings(database_url=url))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://test") as client,
    ):
        response = await client.get(path)
    return response.status_code, response.json()["reason"] or ""


async def set_revision(url: str, revision: str) -> None:
    engine = create_engine(Settings(database_url=url), poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


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
    assert "did not answer, or no connection was free, within 0.1 s" in reason


async def test_not_ready_when_the_database_has_no_schema(empty_database_url: str) -> None:
    status, reason = await get("/health/ready", empty_database_url)
    assert status == 503
    assert "alembic upgrade head" in reason


async def test_not_ready_when_the_schema_is_behind(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "known_revisions", lambda: ({*known_revisions()[0], "next"}, {"next"}))
    status, reason = await get("/health/ready", database_url)
    assert status == 503
    assert "behind" in reason


async def test_ready_when_the_schema_is_newer_than_the_code(migrated_url: str) -> None:
    await set_revision(migrated_url, "from_the_future")
    assert await get("/health/ready", migrated_url) == (200, "")
