"""A request is one transaction, with real commits, on a database of its own."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, HTTPException
from httpx2 import AsyncClient
from sqlalchemy import text

from app.application import create_app
from app.db.session import SessionDep
from app.settings import Settings


@pytest.fixture
async def app(empty_database_url: str) -> AsyncIterator[FastAPI]:
    app = create_app(Settings(database_url=empty_database_url))

    @app.post("/words/{word}")
    async def add_word(word: str, session: SessionDep) -> None:
        await session.execute(text("INSERT INTO words VALUES (:word)"), {"word": word})
        if word == "rude":
            raise HTTPException(403)

    async with app.router.lifespan_context(app):
        async with app.state.database.engine.begin() as connection:
            await connection.execute(text("CREATE TABLE words (word text)"))
        yield app


async def test_a_request_is_committed_unless_it_raises(app: FastAPI, client: AsyncClient) -> None:
    assert (await client.post("/words/kind")).status_code == 200
    assert (await client.post("/words/rude")).status_code == 403
    async with app.state.database.engine.connect() as connection:
        assert (await connection.scalars(text("SELECT word FROM words"))).all() == ["kind"]
