"""Each kind of error is a problem, as RFC 9457 has it."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import text

from app.db.session import SessionDep


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[AsyncClient]:
    """A client of an application with routes that fail."""

    @app.post("/things/{number}")
    async def add_thing_twice(number: int, session: SessionDep) -> None:
        await session.execute(text("CREATE TEMP TABLE things (number int PRIMARY KEY)"))
        for _ in range(2):
            await session.execute(text("INSERT INTO things VALUES (:number)"), {"number": number})

    @app.get("/broken")
    async def break_() -> None:
        raise RuntimeError("the secret plan")

    @app.get("/slow")
    async def ask_slowly(session: SessionDep) -> None:
        await session.execute(text("SET LOCAL statement_timeout = 10"))
        await session.execute(text("SELECT pg_sleep(10)"))

    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "length", "status"),
    [
        ("GET", "/nowhere", 0, 404),
        ("GET", "/things/1", 0, 405),
        ("POST", "/things/1", 0, 409),
        ("POST", "/things/1", 1_000_001, 413),
        ("POST", "/things/one", 0, 422),
        ("GET", "/broken", 0, 500),
        ("GET", "/slow", 0, 503),
    ],
)
async def test_an_error_is_a_problem(client: AsyncClient, method: str, path: str, length: int, status: int) -> None:
    response = await client.request(method, path, content=b" " * length)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["request_id"] == response.headers["x-request-id"]
    assert "secret" not in response.text
    assert ("retry-after" in response.headers) == (status == 503)
