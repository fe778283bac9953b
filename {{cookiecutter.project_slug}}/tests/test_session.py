"""A request is one transaction."""

from fastapi import FastAPI, HTTPException
from httpx2 import AsyncClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.session import SessionDep


async def test_a_request_is_committed_unless_it_raises(
    app: FastAPI, client: AsyncClient, session: AsyncSession
) -> None:
    @app.post("/words/{word}")
    async def add_word(word: str, session: SessionDep) -> None:
        await session.execute(text("INSERT INTO words VALUES (:word)"), {"word": word})
        if word == "rude":
            raise HTTPException(403)

    await session.execute(text("CREATE TABLE words (word text)"))
    await session.commit()
    assert (await client.post("/words/kind")).status_code == 200
    assert (await client.post("/words/rude")).status_code == 403
    assert (await session.scalars(text("SELECT word FROM words"))).all() == ["kind"]
