"""One request, one transaction, as a client sees it: with real commits, on a database of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from fastapi import FastAPI, HTTPException
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import Executable, FetchedValue, ForeignKey, delete, insert, select, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

from app.application import create_app
from app.db.session import ReadSessionDep, SessionDep
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

    @app.post("/caught/{parent}")
    async def add_child_and_catch(parent: int, session: SessionDep) -> None:
        await session.execute(INSERT, {"parent": 1})
        with suppress(DBAPIError):
            await session.execute(INSERT, {"parent": parent})

    @app.post("/flushed/{parent}")
    async def flush_and_catch(parent: int, session: SessionDep) -> None:
        await session.execute(INSERT, {"parent": 1})
        session.add(Parent(id=parent))
        with suppress(DBAPIError):
            await session.flush()

    @app.post("/caught-in-a-savepoint/{parent}")
    async def add_child_in_a_savepoint(parent: int, session: SessionDep) -> None:
        await session.execute(INSERT, {"parent": 1})
        with suppress(DBAPIError):
            async with session.begin_nested():
                await session.execute(INSERT, {"parent": parent})

    async with app.router.lifespan_context(app):
        async with app.state.database.engine.begin() as connection:
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
        ("/caught/-1", 500, 0),
        ("/flushed/1", 500, 0),
        ("/caught-in-a-savepoint/-1", 200, 1),
    ],
    ids=[
        "committed",
        "the commit fails",
        "the statement fails",
        "an HTTPException",
        "a bug",
        "an error is caught",
        "a flush's error is caught",
        "in a savepoint",
    ],
)
async def test_a_row_is_there_if_and_only_if_the_answer_says_so(
    app: FastAPI, path: str, status: int, rows: int
) -> None:
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.post(path)).status_code == status
    async with app.state.database.engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM children")) == rows


class Own(DeclarativeBase):
    pass


class Parent(Own):
    __tablename__ = "parents"

    id: Mapped[int] = mapped_column(primary_key=True)
    children: Mapped[list["Child"]] = relationship()


class Child(Own):
    __tablename__ = "children"

    id: Mapped[int] = mapped_column(ForeignKey("parents.id"), primary_key=True)
    parent: Mapped[Parent] = relationship(viewonly=True)


class Count(Own):
    """A model whose server makes values, and which fetches none with an UPDATE, unlike those on `app.db.base.Base`."""

    __tablename__ = "counts"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]
    double: Mapped[int] = mapped_column(server_default=text("2"), server_onupdate=FetchedValue())
    note: Mapped[str | None] = mapped_column(deferred=True)


async def test_a_relationship_that_was_not_loaded_is_named(app: FastAPI) -> None:
    for take in (app.state.database.session, app.state.database.read_session):
        async with take() as session:
            parent = (await session.scalars(select(Parent))).one()
            with pytest.raises(InvalidRequestError, match=r"^Parent\.children was .*selectinload\(Parent\.children\)"):
                _ = parent.children
            [parent] = await session.scalars(
                select(Parent).options(selectinload(Parent.children)), execution_options={"populate_existing": True}
            )
            assert parent.children == []


async def test_what_is_missing_after_a_flush_comes_as_the_error_says(app: FastAPI) -> None:
    async with app.state.database.session() as session:
        parent = Parent(id=5)
        session.add(parent)
        await session.flush()
        with pytest.raises(InvalidRequestError, match=r"^Parent\.children .*refresh\(parent, \[\"children\"\]\)"):
            _ = parent.children
        await session.refresh(parent, ["children"])
        assert parent.children == []
        child = Child(id=5)
        session.add(child)
        await session.flush()
        session.expunge(parent)
        with pytest.raises(InvalidRequestError, match=r"^Child\.parent .*refresh\(child, \[\"parent\"\]\)"):
            _ = child.parent


async def test_a_column_that_the_database_made_is_named(app: FastAPI) -> None:
    async with app.state.database.session() as session:
        await session.execute(
            text("CREATE TEMP TABLE counts (id int PRIMARY KEY, number int, double int DEFAULT 2, note text)")
        )
        count = Count(id=1, number=1)
        session.add(count)
        await session.flush()
        assert count.double == 2
        count.number = 2
        await session.flush()
        with pytest.raises(InvalidRequestError, match=r"^Count\.double: .*refresh\(count, \['double'\]\)"):
            _ = count.double
        await session.refresh(count, ["double"])
        with pytest.raises(InvalidRequestError, match=r"^Count\.note: .*refresh\(count, \['note'\]\)"):
            _ = count.note
        session.expire(count)
        with pytest.raises(InvalidRequestError, match=r"Count\.id, Count\.number: .*refresh"):
            _ = count.number


@pytest.mark.parametrize("flushed", [True, False])
async def test_a_read_session_refuses_to_write_objects(app: FastAPI, flushed: bool) -> None:
    @app.post("/parents")
    async def add_parent(session: ReadSessionDep) -> None:
        session.add(Parent(id=2))
        if flushed:
            await session.flush()

    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        with pytest.raises(InvalidRequestError, match="take a SessionDep to write"):
            await client.post("/parents")


@pytest.mark.parametrize("statement", [text("DELETE FROM parents"), delete(Parent), insert(Parent).values(id=3)])
async def test_a_read_session_refuses_to_execute_a_write(app: FastAPI, statement: Executable) -> None:
    async with app.state.database.read_session() as session:
        with pytest.raises(DBAPIError, match="in a read-only transaction"):
            await session.execute(statement)


async def test_a_client_that_leaves_commits_nothing(app: FastAPI) -> None:
    left = asyncio.Event()

    @app.post("/parents")
    async def add_parent(session: SessionDep) -> None:
        session.add(Parent(id=4))
        await session.flush()
        left.set()
        await asyncio.sleep(60)

    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        request = asyncio.create_task(client.post("/parents"))
        await left.wait()
        request.cancel()
        await asyncio.wait([request])
    async with app.state.database.engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM parents WHERE id = 4")) == 0
