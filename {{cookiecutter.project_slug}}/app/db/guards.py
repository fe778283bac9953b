"""Sessions that refuse what would be lost: to be used late, by two tasks at once, or after a rollback."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction
from sqlalchemy.util.concurrency import await_only, in_greenlet

if TYPE_CHECKING:
    from app.db.session import Sessions, Turns

ANEW = "`async with database.session() as session`, with a `database: DatabaseDep` or `app.state.database`"
ENDED = f"this session has ended with what it was made for: to go on later, take another, {ANEW}"
SHARED = f"two tasks use one session at once: await one after the other, or give each its own, {ANEW}"
UNFINISHED = f"a task still uses the session, which ends here: await it before, or give it its own, {ANEW}"
ROLLED_BACK = (
    "the session was rolled back, so what it did is not stored: where you catch an error to go on without a statement, "
    f"execute the statement in `async with session.begin_nested()`; to begin anew, take another session, {ANEW}"
)
NOT_LOADED = (
    "{model}.{name} was not loaded: `.options(selectinload({model}.{name}))` in the query loads it; after a `flush()`, "
    '`await session.refresh({object}, ["{name}"])` does, unless it is assigned before'
)
EXPIRED = (
    "{attributes}: to be loaded, since the database made it, the query deferred it or the object has expired: "
    "`await session.refresh({object}, {names})` before it is read"
)
PATIENCE = 5  # seconds, for a task that is cancelled


class NoLazyLoading(Session):
    """A session that says what was not loaded, where SQLAlchemy would raise MissingGreenlet."""

    def get_bind(self, *arguments: Any, **options: Any) -> Any:
        """Wait for the turn of whoever wants a connection, be it by a flush."""
        if (owner := self.info.get("owner")) and not owner.has_turn and in_greenlet():
            await_only(owner.take_turn())
        return super().get_bind(*arguments, **options)


@event.listens_for(NoLazyLoading, "do_orm_execute")
def refuse_to_load_late(state: ORMExecuteState) -> None:
    if in_greenlet() or not state.is_select:
        return
    if owner := state.lazy_loaded_from:
        model, name = owner.class_.__name__, cast(Any, state.loader_strategy_path)[-1].key
        raise InvalidRequestError(NOT_LOADED.format(model=model, name=name, object=model.lower()))
    if state.is_column_load:
        model = cast(Any, state.load_options)._refresh_state.class_.__name__
        names = sorted(cast(Any, state.statement)._compile_options._only_load_props)
        attributes = ", ".join(f"{model}.{name}" for name in names)
        raise InvalidRequestError(EXPIRED.format(attributes=attributes, names=names, object=model.lower()))


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
    has_turn = False

    def __init__(self, sessions: "Sessions", turns: "Turns", **options: Any) -> None:
        super().__init__(**options)
        self.sessions, self.turns = sessions, turns
        self.sync_session.info["owner"] = self

    def refuse_what_is_lost(self) -> None:
        if "rolled_back" in self.sync_session.info:
            raise InvalidRequestError(ROLLED_BACK)

    def note_what_is_lost(self) -> None:
        if self.in_transaction():
            self.sync_session.info["rolled_back"] = True

    async def commit(self) -> None:
        await super().commit()
        self.pass_turn()

    async def close(self) -> None:
        self.note_what_is_lost()
        await super().close()

    async def reset(self) -> None:
        self.note_what_is_lost()
        await super().reset()

    async def invalidate(self) -> None:
        self.note_what_is_lost()
        await super().invalidate()

    async def take_turn(self) -> None:
        """Wait for a connection; to write, not while the same request holds one to read."""
        if (reader := self.sessions.reader) and reader is not self:
            await reader.let_go()
        await self.turns.take()
        self.has_turn = True

    def pass_turn(self) -> None:
        if self.has_turn:
            self.turns.release()
            self.has_turn = False

    async def cancel_others(self) -> bool:
        """Cancel what still uses the session, and return whether anything did."""
        if self.task is None:
            return False
        self.task.cancel()
        await asyncio.wait({self.task}, timeout=PATIENCE)
        return True

    async def end(self) -> None:
        """Close the session for good."""
        try:
            await self.cancel_others()
            if self.in_transaction():
                await self.close()
            else:
                self.sync_session.close()  # which has nothing to await
        finally:
            self.pass_turn()
            self._proxied = self.sync_session = self.turns = cast(Any, Ended())


class ReadSession(WriteSession):
    """A session in which each statement sees what is committed by then."""

    is_streaming = False

    def refuse_what_is_lost(self) -> None:
        """Nothing is: it only reads."""

    async def let_go(self) -> None:
        """Return the connection to the pool; the next statement has another."""
        if not self.is_streaming and self.task is None:
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
            session.refuse_what_is_lost()
            return await method(session, *arguments, **options)
        finally:
            session.task = None

    return call


METHODS = (
    "connection delete delete_all execute flush get get_one merge merge_all refresh run_sync "
    "scalar scalars stream stream_scalars"
)
for _class, _name in [*((WriteSession, name) for name in METHODS.split()), (ReadSession, "stream")]:
    setattr(_class, _name, by_one_task(getattr(_class, _name)))
