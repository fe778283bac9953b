"""A session ends with what it was made for; whoever uses it later, or in two tasks, is told, and the pool stays whole."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from secrets import token_hex
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import String, bindparam, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError, MultipleResultsFound
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.types import Message

from app.application import create_app
from app.db.session import ReadSessionDep, SessionDep, get_read_session, get_session
from app.settings import Settings

SIZE = 2
INSERT = text("INSERT INTO words VALUES (:word)")
LOCKS = text("""
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
""")
ONE, SLEEP = text("SELECT 1"), text("SELECT pg_sleep(30)")
either = pytest.mark.parametrize("dependency", [SessionDep, ReadSessionDep], ids=["write", "read"])


class Own(DeclarativeBase): ...


class Word(Own):
    __tablename__ = "words"

    word: Mapped[str] = mapped_column(String(9), primary_key=True)


@pytest.fixture
async def app(empty_database_url: str) -> AsyncIterator[FastAPI]:
    """An application with a table of words, and pools that two lost connections exhaust."""
    settings = Settings(database_url=empty_database_url)
    app = create_app(settings.model_copy(update={"database_pool_size": SIZE, "database_pool_timeout": 5}))
    async with app.router.lifespan_context(app):
        async with app.state.database.session() as session:
            await session.execute(text("CREATE TABLE words (word varchar(9) PRIMARY KEY)"))
        yield app
        await assert_whole(app)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def assert_whole(app: FastAPI) -> None:
    """Have every connection of both pools at once, idle and as new."""
    for take, read_only in ((app.state.database.session, "off"), (app.state.database.read_session, "on")):
        async with asyncio.TaskGroup() as tasks:
            barrier = asyncio.Barrier(SIZE)

            async def look(take: Any = take, read_only: str = read_only, barrier: asyncio.Barrier = barrier) -> None:
                async with take() as session:
                    found = await session.scalar(text("SELECT current_setting('default_transaction_read_only')"))
                    assert found == read_only
                    assert not await session.scalar(text("SELECT current_setting('app.tenant', true)"))
                    assert not await session.scalar(LOCKS)
                    assert await session.scalar(text("SELECT current_user = session_user"))
                    await barrier.wait()

            for _ in range(SIZE):
                tasks.create_task(look())


async def words(app: FastAPI) -> list[str]:
    async with app.state.database.read_session() as session:
        return list(await session.scalars(text("SELECT word FROM words ORDER BY 1")))


async def test_a_response_that_streams_from_the_session_is_told(app: FastAPI, client: AsyncClient) -> None:
    told = []

    @app.get("/late")
    async def stream(session: ReadSessionDep) -> StreamingResponse:
        async def rows() -> AsyncIterator[str]:
            try:
                await session.execute(ONE)
            except InvalidRequestError as error:
                told.append(str(error))
            yield "done"

        return StreamingResponse(rows())

    for _ in range(2 * SIZE):
        assert (await client.get("/late")).text == "done"
    assert len(told) == 2 * SIZE
    assert "async with database.session()" in told[0]


@pytest.mark.parametrize("use", ["execute", "add", "flush", "get", "commit", "begin_nested", "stream"])
async def test_whatever_is_done_with_a_session_that_has_ended_is_told(
    app: FastAPI, client: AsyncClient, use: str
) -> None:
    arguments: dict[str, list[Any]] = {
        "execute": [ONE],
        "add": [Word(word="late")],
        "get": [Word, "l"],
        "stream": [ONE],
    }
    told: list[str] = []

    async def later(session: AsyncSession) -> None:
        try:
            result = getattr(session, use)(*arguments.get(use, []))
            if use != "add":
                await result
        except InvalidRequestError as error:
            told.append(str(error))

    @app.post("/late")
    async def write_later(session: SessionDep, tasks: BackgroundTasks) -> None:
        tasks.add_task(later, session)

    assert (await client.post("/late")).status_code == 200
    assert len(told) == 1
    assert "has ended" in told[0]
    assert await words(app) == []


async def test_a_session_in_a_task_that_goes_on_is_told(app: FastAPI, client: AsyncClient) -> None:
    tasks: list[asyncio.Task[Any]] = []
    go_on = asyncio.Event()

    async def write(session: AsyncSession) -> None:
        await go_on.wait()
        await session.execute(INSERT, {"word": "late"})

    @app.post("/late")
    async def write_in_a_task(session: SessionDep) -> None:
        tasks.append(asyncio.create_task(write(session)))

    assert (await client.post("/late")).status_code == 200
    go_on.set()
    with pytest.raises(InvalidRequestError, match="has ended"):
        await tasks[0]
    assert await words(app) == []


@either
async def test_a_statement_that_still_runs_ends_with_the_session(
    app: FastAPI, client: AsyncClient, dependency: Any
) -> None:
    tasks: list[asyncio.Task[Any]] = []

    @app.post("/unfinished")
    async def leave(session: dependency) -> None:
        await session.execute(ONE)
        tasks.append(asyncio.create_task(session.execute(SLEEP)))
        await asyncio.sleep(0.2)

    for _ in range(2 * SIZE):
        assert (await client.post("/unfinished")).status_code == 500
    assert all(task.cancelled() for task in tasks)


async def test_a_statement_on_a_connection_of_one_s_own_that_still_runs_spoils_no_pool(
    app: FastAPI, client: AsyncClient
) -> None:
    tasks: list[asyncio.Task[Any]] = []

    @app.post("/unfinished")
    async def leave() -> None:
        for engine in (app.state.database.engine, app.state.database.read_engine):
            connection = await engine.connect()
            tasks.append(asyncio.create_task(connection.execute(SLEEP)))
            await asyncio.sleep(0.2)
            await connection.close()

    for _ in range(SIZE):
        await client.post("/unfinished")
    await asyncio.wait(tasks, timeout=10)
    assert all(task.done() for task in tasks)
    for task in tasks:
        task.exception()


@either
@pytest.mark.parametrize("warm", [True, False])
async def test_two_statements_at_once_are_told(app: FastAPI, client: AsyncClient, dependency: Any, warm: bool) -> None:
    told: list[str] = []

    @app.get("/shared")
    async def gather(session: dependency) -> None:
        if warm:
            await session.execute(ONE)
        found = await asyncio.gather(session.execute(ONE), session.execute(ONE), return_exceptions=True)
        told.extend(str(error) for error in found if isinstance(error, InvalidRequestError))

    for _ in range(2 * SIZE):
        assert (await client.get("/shared")).status_code == 200
    assert len(told) == 2 * SIZE
    assert "two tasks" in told[0]


async def test_a_branch_that_raises_stops_the_others(app: FastAPI, client: AsyncClient) -> None:
    @app.post("/gather")
    async def gather(session: SessionDep) -> None:
        async def fail() -> None:
            await asyncio.sleep(0.2)
            raise RuntimeError

        await session.execute(INSERT, {"word": "lost"})
        await asyncio.gather(session.execute(SLEEP), fail())

    for _ in range(2 * SIZE):
        assert (await client.post("/gather")).status_code == 500
    assert await words(app) == []


async def test_one_task_after_the_other_may_use_a_session(app: FastAPI, client: AsyncClient) -> None:
    @app.post("/tasks")
    async def use_tasks(session: SessionDep) -> None:
        await asyncio.wait_for(session.execute(INSERT, {"word": "one"}), 10)
        await asyncio.create_task(session.execute(INSERT, {"word": "two"}))

    assert (await client.post("/tasks")).status_code == 200
    assert await words(app) == ["one", "two"]


async def test_a_transaction_that_was_rolled_back_is_no_success(app: FastAPI, client: AsyncClient) -> None:
    @app.post("/words/{word}")
    async def add_word(word: str, session: SessionDep, then: str = "return") -> None:
        session.add(Word(word="first"))
        await session.flush()
        session.add(Word(word=word))
        try:
            await session.flush()
        except IntegrityError:
            await session.rollback()
            if then == "go on":
                await session.execute(INSERT, {"word": "other"})

    async with app.state.database.session() as session:
        await session.execute(INSERT, {"word": "taken"})
    assert (await client.post("/words/taken")).status_code == 500
    assert (await client.post("/words/taken?then=go on")).status_code == 500
    assert await words(app) == ["taken"]
    assert (await client.post("/words/free")).status_code == 200
    assert await words(app) == ["first", "free", "taken"]


@pytest.mark.parametrize("end", ["close", "reset", "invalidate", "block", "ROLLBACK", "COMMIT"])
async def test_a_transaction_that_was_ended_by_hand_is_no_success(app: FastAPI, client: AsyncClient, end: str) -> None:
    @app.post("/words")
    async def add_word(session: SessionDep) -> None:
        session.add(Word(word="lost"))
        await session.flush()
        if end == "block":
            async with session:
                pass
        elif end.isupper():
            await session.execute(text(end))
        else:
            await getattr(session, end)()

    assert (await client.post("/words")).status_code == 500
    assert await words(app) == (["lost"] if end == "COMMIT" else [])


async def test_a_savepoint_that_was_rolled_back_is_a_success(app: FastAPI, client: AsyncClient) -> None:
    @app.post("/words")
    async def add_word(session: SessionDep) -> None:
        session.add(Word(word="first"))
        savepoint = await session.begin_nested()
        session.add(Word(word="second"))
        await savepoint.rollback()

    assert (await client.post("/words")).status_code == 200
    assert await words(app) == ["first"]


async def test_a_commit_of_one_s_own_stays(app: FastAPI, client: AsyncClient) -> None:
    @app.post("/words")
    async def add_words(session: SessionDep) -> None:
        session.add(Word(word="first"))
        await session.commit()
        session.add(Word(word="second"))

    assert (await client.post("/words")).status_code == 200
    assert await words(app) == ["first", "second"]


async def test_a_web_socket_has_sessions(app: FastAPI) -> None:
    @app.websocket("/words")
    async def add_word(socket: WebSocket, session: SessionDep, read: ReadSessionDep) -> None:
        await socket.accept()
        await session.execute(INSERT, {"word": "socket"})
        await socket.send_text(str(await read.scalar(text("SELECT count(*) FROM words"))))
        await socket.close()

    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/words", "headers": [], "query_string": b"", "subprotocols": []}
    await app(scope, receive, send)
    assert [message.get("text") for message in sent] == [None, "0", None]
    assert await words(app) == ["socket"]


async def test_a_mounted_application_has_sessions(app: FastAPI, client: AsyncClient) -> None:
    mounted = FastAPI()

    @mounted.post("/words")
    async def add_word(session: SessionDep) -> None:
        await session.execute(INSERT, {"word": "mounted"})

    app.mount("/inner", mounted)
    assert (await client.post("/inner/words")).status_code == 200
    assert await words(app) == ["mounted"]


@pytest.mark.parametrize("order", ["read first", "write first"])
async def test_what_may_not_be_read_so_commits_nothing(app: FastAPI, client: AsyncClient, order: str) -> None:
    async def work(read: AsyncSession, session: AsyncSession) -> None:
        session.add(Word(word="written"))
        await session.flush()
        read.add(Word(word="refused"))

    if order == "read first":

        @app.post("/both")
        async def both(read: ReadSessionDep, session: SessionDep) -> None:
            await work(read, session)
    else:

        @app.post("/both")
        async def both_turned(session: SessionDep, read: ReadSessionDep) -> None:
            await work(read, session)

    assert (await client.post("/both")).status_code == 500
    assert await words(app) == []


@pytest.mark.parametrize("scope", [None, "request", "function"])
async def test_the_commit_comes_first_however_the_session_is_depended_on(
    app: FastAPI, client: AsyncClient, scope: Any
) -> None:
    async with app.state.database.session() as session:
        await session.execute(text("ALTER TABLE words ADD CONSTRAINT late UNIQUE (word) DEFERRABLE INITIALLY DEFERRED"))
        await session.execute(text("ALTER TABLE words DROP CONSTRAINT words_pkey"))

    @app.post("/words")
    async def add_word(session: Annotated[AsyncSession, Depends(get_session, scope=scope)]) -> None:
        await session.execute(INSERT, {"word": "same"})

    @app.get("/words")
    async def read_words(session: Annotated[AsyncSession, Depends(get_read_session, scope=scope)]) -> int | None:
        count: int | None = await session.scalar(text("SELECT count(*) FROM words"))
        return count

    assert [(await client.post("/words")).status_code for _ in range(2)] == [200, 409]
    assert (await client.get("/words")).json() == 1


@pytest.mark.parametrize(("scope", "stored"), [("request", ["before"]), ("function", ["after", "before"])])
async def test_a_dependency_of_one_s_own_has_the_session(
    app: FastAPI, client: AsyncClient, scope: Any, stored: list[str]
) -> None:
    told: list[InvalidRequestError] = []

    async def around(session: SessionDep) -> AsyncIterator[None]:
        await session.execute(INSERT, {"word": "before"})
        yield
        try:
            await session.execute(INSERT, {"word": "after"})
        except InvalidRequestError as error:
            told.append(error)

    @app.post("/words", dependencies=[Depends(around, scope=scope)])
    async def add_word() -> None: ...

    assert (await client.post("/words")).status_code == 200
    assert await words(app) == stored
    assert len(told) + len(stored) == 2


async def test_sessions_taken_in_any_order_do_not_wait_for_each_other(app: FastAPI, client: AsyncClient) -> None:
    async def use(session: AsyncSession) -> None:
        await session.execute(text("SELECT pg_sleep(0.01)"))

    @app.get("/write-read")
    async def write_read(session: SessionDep, read: ReadSessionDep) -> None:
        await use(session)
        await use(read)

    @app.get("/read-write")
    async def read_write(session: SessionDep, read: ReadSessionDep) -> None:
        await use(read)
        await use(session)

    @app.get("/read-add")
    async def read_add(session: SessionDep, read: ReadSessionDep) -> None:
        await use(read)
        session.add(Word(word=token_hex(4)))

    @app.get("/read-begin")
    async def read_begin(session: SessionDep, read: ReadSessionDep) -> None:
        await use(read)
        async with session.begin_nested():
            session.add(Word(word=token_hex(4)))

    paths = ["/write-read", "/read-write", "/read-add", "/read-begin"]
    answers = await asyncio.gather(*(client.get(path) for path in paths * 10))
    assert {answer.status_code for answer in answers} == {200}


async def test_two_tasks_may_each_have_a_session_of_the_request(app: FastAPI, client: AsyncClient) -> None:
    @app.get("/both")
    async def both(session: SessionDep, read: ReadSessionDep) -> None:
        for _ in range(3):
            await asyncio.gather(read.execute(text("SELECT pg_sleep(0.02)")), session.execute(ONE))

    answers = await asyncio.gather(*(client.get("/both") for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}


async def test_who_has_committed_keeps_nobody_waiting(app: FastAPI, client: AsyncClient) -> None:
    done, go_on = asyncio.Barrier(SIZE + 1), asyncio.Event()

    async def work() -> None:
        async with app.state.database.session() as session:
            await session.execute(ONE)
            await session.commit()
            await done.wait()
            await go_on.wait()
            await session.execute(ONE)

    @app.get("/words")
    async def read_words(session: SessionDep) -> None:
        await session.execute(ONE)

    workers = [asyncio.create_task(work()) for _ in range(SIZE)]
    await done.wait()
    assert (await client.get("/words")).status_code == 200
    go_on.set()
    await asyncio.gather(*workers)


def test_an_application_may_live_twice(empty_database_url: str) -> None:
    app = create_app(Settings(database_url=empty_database_url).model_copy(update={"database_pool_size": 1}))

    async def live() -> list[Any]:
        async def ask() -> Any:
            async with app.state.database.read_session() as session:
                return await session.scalar(ONE)

        async with app.router.lifespan_context(app):
            return await asyncio.gather(*(ask() for _ in range(4)))

    assert [asyncio.run(live()) for _ in range(2)] == [[1] * 4] * 2


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT set_config('app.tenant', 'mine', false)",
        "SET app.tenant = 'mine'",
        "SET SESSION app.tenant = 'mine'",
        "/* mine */ SET app.tenant = 'mine'",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_lock_shared(1)",
        "SET default_transaction_read_only = off",
        "SET ROLE pg_database_owner",
        "DO $$ BEGIN SET app.tenant = 'mine'; END $$",
    ],
)
@either
async def test_what_a_request_sets_is_gone_after_it(
    app: FastAPI, client: AsyncClient, dependency: Any, statement: str
) -> None:
    @app.post("/set")
    async def set_something(session: dependency) -> None:
        await session.execute(text(statement))

    for _ in range(2 * SIZE):
        assert (await client.post("/set")).status_code == 200


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
async def test_what_a_connection_of_one_s_own_sets_is_gone_after_it(app: FastAPI, end: str) -> None:
    for engine in (app.state.database.engine, app.state.database.read_engine):
        for _ in range(2 * SIZE):
            connection = await engine.connect()
            await connection.execute(text("SELECT set_config('app.tenant', 'mine', false), pg_advisory_lock(1)"))
            await getattr(connection, end)()
            await connection.close()


async def test_a_read_session_streams(app: FastAPI, client: AsyncClient) -> None:
    @app.get("/numbers")
    async def add_up(session: ReadSessionDep) -> int:
        await session.execute(ONE)
        numbers = await session.stream_scalars(text("SELECT generate_series(1, 1000)"))
        total: int = sum([number async for number in numbers])
        with pytest.raises(DBAPIError, match="read-only"):
            await session.execute(INSERT, {"word": "never"})
        return total

    for _ in range(2 * SIZE):
        assert (await client.get("/numbers")).json() == 500_500


async def test_a_block_has_a_session_as_a_request_has(app: FastAPI) -> None:
    database = app.state.database
    async with database.session() as session:
        session.add(Word(word="kept"))
    with suppress(RuntimeError):
        async with database.session() as session:
            session.add(Word(word="lost"))
            await session.flush()
            raise RuntimeError
    with pytest.raises(InvalidRequestError, match="has ended"):
        await session.scalar(select(Word.word))
    async with database.read_session() as session:
        assert (await session.scalars(select(Word.word))).all() == ["kept"]


@pytest.mark.parametrize("has_replica", [False, True])
async def test_a_row_is_found_in_turn_and_nobody_who_leaves_takes_a_connection_along(
    app: FastAPI, has_replica: bool
) -> None:
    url = app.state.settings.database_url
    settings = app.state.settings.model_copy(update={"database_replica_url": url if has_replica else None})
    other = create_app(settings)
    async with other.router.lifespan_context(other):
        database = other.state.database
        waiting = [asyncio.create_task(database.find(select(func.pg_sleep(30)))) for _ in range(2 * SIZE)]
        await asyncio.sleep(0.2)
        late = asyncio.create_task(database.find(select(Word).where(Word.word == "none")))
        await asyncio.sleep(0.2)
        assert not late.done()
        for task in waiting:
            task.cancel()
        assert await late is None
        assert await database.find(select(bindparam("word")), {"word": "some"}) == ("some",)
        with pytest.raises(MultipleResultsFound):
            await database.find(select(func.generate_series(1, 2)))
        with suppress(RuntimeError):
            async with database.session() as session:
                await session.execute(INSERT, {"word": "undone"})
                raise RuntimeError
        assert await database.find(select(Word)) is None
        await assert_whole(other)
