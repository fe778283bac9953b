"""One request, one transaction, as a client sees it: with real commits, on a database of its own."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, HTTPException
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import text

from app.db.session import SessionDep
from app.main import create_app
from app.settings import Settings

INSERT = text("INSERT INTO children VALUES (:parent)")


@pytest.fixture
async def app(empty_database_url: str) -> AsyncIterator[FastAPI]:
    """An application whose one table refuses a child without a parent, but only at COMMIT."""
    app = create_app(Settings(database_url=empty_database_url))

    @app.post("/children/{parent}")
    async def add_child(parent: int, session: SessionDep) -> None:
        await session.execute(INSERT, {"parent": parent})

    @app.post("/refused/{parent}")
    async def add_child_and_refuse(parent: int, session: SessionDep) -> None:
        await session.execute(INSERT, {"parent": parent})
        raise HTTPException(409)

    @app.post("/broken/{parent}")
    async def add_child_and_break(parent: int, session: SessionDep) -> None:
        await session.execute(INSERT, {"parent": parent})
        raise RuntimeError("a bug")

    async with app.router.lifespan_context(app):
        async with app.state.engine.begin() as connection:
            await connection.execute(text("CREATE TABLE parents (id int PRIMARY KEY)"))
            await connection.execute(
                text("CREATE TABLE children (id int CHECK (id > 0) REFERENCES parents INITIALLY DEFERRED)")
            )
            await connection.execute(text("INSERT INTO parents VALUES (1)"))
        yield app


@pytest.mark.parametrize(
    ("path", "status", "rows"),
    [
        ("/children/1", 200, 1),
        ("/children/2", 409, 0),
        ("/children/-1", 500, 0),
        ("/refused/1", 409, 0),
        ("/broken/1", 500, 0),
    ],
    ids=["committed", "the commit fails", "the statement fails", "an HTTPException", "a bug"],
)
async def test_a_row_is_there_if_and_only_if_the_answer_says_so(
    app: FastAPI, path: str, status: int, rows: int
) -> None:
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.post(path)).status_code == status
    async with app.state.engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM children")) == rows
