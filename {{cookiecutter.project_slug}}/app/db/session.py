"""One request, one transaction; or none, to read."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.util.concurrency import in_greenlet

from app.db.engine import FAILED_TRANSACTION


class NoLazyLoading(Session):
    """A session that says what was not loaded, where SQLAlchemy would raise MissingGreenlet."""


@event.listens_for(NoLazyLoading, "do_orm_execute")
def refuse_to_load_late(state: ORMExecuteState) -> None:
    if not in_greenlet() and state.is_select and (state.lazy_loaded_from or state.is_column_load):
        what = state.lazy_loaded_from.mapper.class_.__name__ if state.lazy_loaded_from else "an object"
        raise InvalidRequestError(
            f"{what} has an attribute that was not loaded: name it in `options(selectinload(...))`"
        )


class ReadOnlySession(NoLazyLoading):
    """A session that writes nothing."""


@event.listens_for(ReadOnlySession, "before_flush")
def refuse_to_write(session: Session | AsyncSession, *_: Any) -> None:
    if session.new or session.dirty or session.deleted:
        raise InvalidRequestError("a ReadSessionDep only reads: take a SessionDep to write")


def create_sessionmaker(
    engine: AsyncEngine, sync_session_class: type[Session] = NoLazyLoading
) -> async_sessionmaker[AsyncSession]:
    """Return what makes the sessions of requests."""
    return async_sessionmaker(engine, expire_on_commit=False, sync_session_class=sync_session_class)


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield a session whose transaction is committed after the path function, or rolled back if it raises."""
    async with request.app.state.sessionmaker.begin() as session:
        yield session
        if not session.is_active:  # a flush has failed, and the session would end without a word
            raise InvalidRequestError(FAILED_TRANSACTION)


async def get_read_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield a session in which each statement sees what is committed by then, and none may write."""
    async with request.app.state.read_sessionmaker() as session:
        yield session
        refuse_to_write(session)


# Of function scope: the commit comes before the response, so a commit that fails is never a 2xx.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]
ReadSessionDep = Annotated[AsyncSession, Depends(get_read_session, scope="function")]
