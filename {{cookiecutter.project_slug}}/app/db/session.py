"""Sessions: one transaction for each request, or none to read; and the same for whatever is no request."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVarTuple

from fastapi import Depends
from sqlalchemy import Engine, Row, Select
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util.concurrency import greenlet_spawn
from starlette.requests import HTTPConnection

from app.db.engine import DatabaseUnavailable
from app.db.guards import UNFINISHED, NoLazyLoading, ReadOnly, ReadSession, WriteSession, refuse_to_write
from app.db.pool import FAILED_TRANSACTION, create_pool
from app.settings import Settings
from app.text import one_line

OTHER_LOOP = (
    "another event loop has used the database, and has not closed it: starlette's TestClient has a loop of its own, "
    "so a test of what asks the database is `async def`, and awaits the fixture `client`"
)

Columns = TypeVarTuple("Columns")

logger = logging.getLogger(__name__)


class Sessions:
    """The sessions of one request or block: what one may not do, the other does not commit."""

    def __init__(self, database: "Database") -> None:
        self.database = database
        self.writer: WriteSession | None = None
        self.reader: ReadSession | None = None

    def write(self) -> WriteSession:
        """Return the session of the transaction that is committed in the end."""
        if self.writer is None:
            self.writer = WriteSession(self, **self.database.write_options)
        return self.writer

    def read(self) -> ReadSession:
        """Return the session to read with, which may be behind the other."""
        if self.reader is None:
            self.reader = ReadSession(self, **self.database.read_options)
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
            self.writer.refuse_what_is_lost()
            if not self.writer.is_active:  # a flush has failed, and the session would end without a word
                raise InvalidRequestError(FAILED_TRANSACTION)
            if self.writer.in_transaction():
                await self.writer.commit()

    async def end(self) -> None:
        try:
            if self.reader:
                await self.reader.end()
        finally:
            if self.writer:
                await self.writer.end()


class Turns(asyncio.Semaphore):
    """As many turns as a pool has connections, in the order in which they were asked for: the pool has none."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.database_pool_size + settings.database_pool_max_overflow)
        self.patience = settings.database_pool_timeout

    async def take(self) -> None:
        """Wait for a turn.

        Raises:
            DatabaseUnavailable: none came within the time limit.
        """
        if not self.locked():
            await self.acquire()
            return
        try:
            async with asyncio.timeout(self.patience):
                await self.acquire()
        except TimeoutError:
            raise DatabaseUnavailable(f"no connection was free within {self.patience:g} s") from None

    __aenter__ = take


class Database:
    """What `create_app` makes of the settings: two engines, and the sessions on them, for one event loop at a time.

    Raises:
        ConfigurationError: the settings name no database.
    """

    write_options: dict[str, Any]
    read_options: dict[str, Any]
    probe: asyncio.Task[str | None] | None = None  # of app.web.health, on the engines `probes`
    loop: asyncio.AbstractEventLoop | None = None  # that uses it, until it is closed

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine, self.read_engine = create_pool(settings), create_pool(settings, read_only=True)
        options = {"expire_on_commit": False, "close_resets_only": False}
        self.write_options = {
            "bind": self.engine,
            "sync_session_class": NoLazyLoading,
            "turns": Turns(settings),
            **options,
        }
        self.read_options = {
            "bind": self.read_engine,
            "sync_session_class": ReadOnly,
            "turns": Turns(settings),
            **options,
        }
        # Where find() asks: on the primary, and without a transaction, unless a pooler wants one.
        self.primary, self.primary_options = self.read_engine, self.read_options
        if settings.database_replica_url:
            level = "READ COMMITTED" if settings.database_pooler else "AUTOCOMMIT"
            self.primary = self.engine.execution_options(isolation_level=level)
            self.primary_options = self.write_options
        # Requests that wait for a row may have all connections of a pool, and the service is well.
        alone = settings.model_copy(update={"database_pool_size": 1, "database_pool_max_overflow": 0})
        self.probes = [create_pool(alone)]
        if settings.database_replica_url:
            self.probes.append(create_pool(alone, read_only=True))

    async def close(self) -> None:
        if self.probe:
            self.probe.cancel()
            await asyncio.wait({self.probe})
        await asyncio.gather(*(engine.dispose() for engine in (self.engine, self.read_engine, *self.probes)))
        self.loop = None
        self.write_options["turns"], self.read_options["turns"] = Turns(self.settings), Turns(self.settings)

    def use(self) -> None:
        """Note that the running event loop uses the database.

        Raises:
            RuntimeError: it is another's.
        """
        loop = asyncio.get_running_loop()
        if self.loop not in (loop, None):
            raise RuntimeError(OTHER_LOOP)
        self.loop = loop

    @asynccontextmanager
    async def sessions(self) -> AsyncIterator[Sessions]:
        """Yield sessions that are committed at the end of the block, or rolled back if it raises, and then ended."""
        self.use()
        sessions = Sessions(self)
        try:
            yield sessions
            await sessions.commit()
        except BaseException:
            try:
                await asyncio.shield(asyncio.create_task(sessions.end()))  # whoever cancels may do so again
            except (DatabaseUnavailable, SQLAlchemyError) as error:
                logger.warning("what failed could not be rolled back: %s", one_line(error))
            raise
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

    async def find(self, statement: Select[*Columns], parameters: dict[str, Any] | None = None) -> Row[*Columns] | None:
        """Return the row of columns that a SELECT finds on the primary, or None, for half of what a session would cost.

        It is to read only, gives no objects, and has a connection of its own: to ask while a session holds one takes two.

        Raises:
            MultipleResultsFound: there are more.
            DatabaseUnavailable: no connection was to be had.
        """
        self.use()
        async with self.primary_options["turns"]:
            return await greenlet_spawn(_find, self.primary.sync_engine, statement, parameters)


def _find(engine: Engine, statement: Select[*Columns], parameters: dict[str, Any] | None) -> Row[*Columns] | None:
    with engine.connect() as connection:
        return connection.execute(statement, parameters).one_or_none()


async def get_database(connection: HTTPConnection) -> Database:
    """Return what gives sessions to whatever goes on after the path function."""
    database: Database = connection.state.database
    return database


DatabaseDep = Annotated[Database, Depends(get_database)]


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
