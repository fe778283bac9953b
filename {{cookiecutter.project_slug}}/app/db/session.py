"""Sessions: one transaction for each request, or none to read; and the same for whatever is no request."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from typing import Annotated, Any, cast

from fastapi import Depends
from sqlalchemy import event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction
from sqlalchemy.util.concurrency import in_greenlet
from starlette.requests import HTTPConnection

from app.db.engine import FAILED_TRANSACTION

ANEW = "`async with database.session() as session`, where `database` is `app.state.database`"
ENDED = f"this session has ended with what it was made for: to go on later, take another, {ANEW}"
SHARED = f"two tasks use one session at once: await one after the other, or give each its own, {ANEW}"
UNFINISHED = f"a task still uses the session, which ends here: await it before, or give it its own, {ANEW}"
ROLLED_BACK = (
    "the session was rolled back, so what it did is not stored: where you catch an error to go on without a statement, "
    f"execute the statement in `async with session.begin_nested()`; to begin anew, take another session, {ANEW}"
)


class NoLazyLoading(Session):
    """A session that says what was not loaded, where SQLAlchemy would raise MissingGreenlet."""


@event.listens_for(NoLazyLoading, "do_orm_execute")
def refuse_to_load_late(state: ORMExecuteState) -> None:
    if not in_greenlet() and state.is_select and (state.lazy_loaded_from or state.is_column_load):
        what = state.lazy_loaded_from.mapper.class_.__name__ if state.lazy_loaded_from else "an object"
        raise InvalidRequestError(
            f"{what} has an attribute that was not loaded: name it in `options(selectinload(...))`"
        )


@event.listens_for(NoLazyLoading, "after_soft_rollback")
def note_the_rollback(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info["rolled_back"] = True


class ReadOnly(NoLazyLoading):
    """A session that writes nothing."""


@event.listens_for(ReadOnly, "before_flush")
def refuse_to_write(session: Session | AsyncSession, *_: Any) -> None:
    if session.new or session.dirty or session.deleted:
        raise InvalidRequestError("a ReadSessionDep only reads: take a SessionDep to write")


class WriteSession(AsyncSession):
    """A session that one task at a time uses, and none after its end; whoever does is told at once."""

    task: asyncio.Task[Any] | None = None  # that uses it now
    sessions: "Sessions"

    async def prepare(self) -> None:
        """Refuse what would not be committed, and wait for no connection while holding one to read."""
        if "rolled_back" in self.sync_session.info:
            raise InvalidRequestError(ROLLED_BACK)
        if self.sessions.reader and not self.sync_session.in_transaction():
            await self.sessions.reader.let_go()

    async def cancel_others(self) -> bool:
        """Cancel what still uses the session, and return whether anything did."""
        if self.task is None:
            return False
        self.task.cancel()
        await asyncio.wait({self.task})
        return True

    async def end(self) -> None:
        """Close the session for good."""
        await self.cancel_others()
        await self.close()
        self._proxied = self.sync_session = cast(Session, Ended())


class ReadSession(WriteSession):
    """A session in which each statement sees what is committed by then."""

    is_streaming = False

    async def prepare(self) -> None:
        """Nothing will be committed."""

    async def let_go(self) -> None:
        """Return the connection to the pool; the next statement has another."""
        if not self.is_streaming:
            await self.commit()

    async def stream(self, *arguments: Any, **options: Any) -> Any:
        """Stream from a transaction: without one, PostgreSQL has no cursor."""
        if not self.is_streaming:
            await self.commit()
            await self.connection(execution_options={"isolation_level": "READ COMMITTED"})
            self.is_streaming = True
        return await super().stream(*arguments, **options)


class Ended:
    """Stands in the place of what a session worked with."""

    def __getattr__(self, name: str) -> Any:
        raise InvalidRequestError(ENDED)


def by_one_task(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return `method` of a session such that a second task cannot call any while it runs."""

    @wraps(method)
    async def call(session: WriteSession, *arguments: Any, **options: Any) -> Any:
        task = asyncio.current_task()
        if session.task is not None:
            if session.task is not task:
                raise InvalidRequestError(SHARED)
            return await method(session, *arguments, **options)
        session.task = task
        try:
            await session.prepare()
            return await method(session, *arguments, **options)
        finally:
            session.task = None

    return call


METHODS = "connection delete execute flush get get_one merge refresh run_sync scalar scalars stream stream_scalars"
for _class, _name in [*((WriteSession, name) for name in METHODS.split()), (ReadSession, "stream")]:
    setattr(_class, _name, by_one_task(getattr(_class, _name)))


class Sessions:
    """The sessions of one request or block: what one may not do, the other does not commit."""

    def __init__(self, database: "Database") -> None:
        self.database = database
        self.writer: WriteSession | None = None
        self.reader: ReadSession | None = None

    def write(self) -> WriteSession:
        """Return the session of the transaction that is committed in the end."""
        if self.writer is None:
            options: dict[str, Any] = {
                "bind": self.database.engine,
                "sync_session_class": NoLazyLoading,
            } | self.database.options
            self.writer = WriteSession(**options)
            self.writer.sessions = self
        return self.writer

    def read(self) -> ReadSession:
        """Return the session to read with, which may be behind the other."""
        if self.reader is None:
            options: dict[str, Any] = {
                "bind": self.database.read_engine,
                "sync_session_class": ReadOnly,
            } | self.database.options
            self.reader = ReadSession(**options)
        return self.reader

    async def commit(self) -> None:
        """Commit.

        Raises:
            InvalidRequestError: what was to be written would be lost, wholly or in part.
        """
        for session in filter(None, (self.reader, self.writer)):
            if await session.cancel_others():
                raise InvalidRequestError(UNFINISHED)
        if self.reader:
            refuse_to_write(self.reader)
        if self.writer:
            await self.writer.prepare()
            if not self.writer.is_active:  # a flush has failed, and the session would end without a word
                raise InvalidRequestError(FAILED_TRANSACTION)
            await self.writer.commit()

    async def end(self) -> None:
        for session in filter(None, (self.reader, self.writer)):
            await session.end()


class Database:
    """What `create_app` makes of the settings: two engines, and the sessions on them, with SQLAlchemy's `options`.

    On `probes`, to the database and to its replica if it has one, app.web.health asks whether they can serve.
    """

    probe: asyncio.Task[str | None] | None = None

    def __init__(
        self, engine: AsyncEngine, read_engine: AsyncEngine, probes: Sequence[AsyncEngine] = (), **options: Any
    ) -> None:
        self.engine, self.read_engine, self.probes = engine, read_engine, probes or [engine]
        self.options = {"expire_on_commit": False, "close_resets_only": False} | options

    async def close(self) -> None:
        if self.probe:
            self.probe.cancel()
            await asyncio.wait({self.probe})
        await asyncio.gather(*(engine.dispose() for engine in (self.engine, self.read_engine, *self.probes)))

    @asynccontextmanager
    async def sessions(self) -> AsyncIterator[Sessions]:
        """Yield sessions that are committed at the end of the block, or rolled back if it raises, and then ended."""
        sessions = Sessions(self)
        try:
            yield sessions
            await sessions.commit()
        finally:
            await sessions.end()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """Yield a session whose transaction is committed at the end of the block, or rolled back if it raises."""
        async with self.sessions() as sessions:
            yield sessions.write()

    @asynccontextmanager
    async def read_session(self) -> AsyncIterator[AsyncSession]:
        """Yield a session in which each statement sees what is committed by then, and none may write."""
        async with self.sessions() as sessions:
            yield sessions.read()


async def get_sessions(connection: HTTPConnection) -> AsyncIterator[Sessions]:
    async with connection.state.database.sessions() as sessions:
        yield sessions


# Of function scope: the commit comes before the response, so a commit that fails is never a 2xx.
SessionsDep = Annotated[Sessions, Depends(get_sessions, scope="function")]


async def get_session(sessions: SessionsDep) -> AsyncSession:
    """Return the session whose transaction is committed after the path function, or rolled back if it raises."""
    return sessions.write()


async def get_read_session(sessions: SessionsDep) -> AsyncSession:
    """Return a session in which each statement sees what is committed by then, and none may write."""
    return sessions.read()


SessionDep = Annotated[AsyncSession, Depends(get_session)]
ReadSessionDep = Annotated[AsyncSession, Depends(get_read_session)]
