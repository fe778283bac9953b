"""The pool that serves requests: it hands out no connection that is dead, and takes none back that is in use."""

import logging
import re
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import Any

import asyncpg
from sqlalchemy import Connection, ExceptionContext, event
from sqlalchemy.exc import InvalidatePoolError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState

from app.db.engine import NO_ANSWER, DatabaseUnavailable, OutcomeUnknown, create_engine
from app.settings import Settings
from app.text import one_line

FAILED_TRANSACTION = (
    "a statement before has failed, and the transaction with it: "
    "where you catch such an error, execute the statement in `async with session.begin_nested()`"
)
OUTLASTING = re.compile(
    r"^(?:\s|--[^\n]*\n|/\*(?:(?!\*/).)*\*/)*(?:SET(?!\s+(?:LOCAL|CONSTRAINTS|TRANSACTION)\b)|LISTEN|DECLARE|DO)\b"
    r"|\bset_config\s*\((?![^()]*,\s*true\s*\))|advisory_lock|\bpg_temp\b|\b(?:CREATE(?:\s+\w+)?|INTO)\s+TEMP(?:ORARY)?\b",
    re.IGNORECASE | re.DOTALL,
)
ENDED_BY_HAND = "a statement has ended the transaction: leave COMMIT and ROLLBACK to the session"
IN_USE = "a connection was given back in use, and is closed: a statement or a transaction on it was not awaited"
FRESH = 1.0  # seconds in which a connection is taken for alive, as HikariCP does
IN_FAILED_TRANSACTION = "25P02"  # https://www.postgresql.org/docs/current/errcodes-appendix.html
READ_ONLY = "25006"
# By a deploy; the next request prepares its statements anew.
SCHEMA_CHANGED = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)
PING = 2.0  # seconds that the server has to show that one is

logger = logging.getLogger(__name__)


def create_pool(settings: Settings, *, read_only: bool = False) -> AsyncEngine:
    """Return the engine that serves requests: from a pool, whose connections are tried only if they have idled.

    One for reading goes to the replica, if there is one, and each statement is a transaction of its own.

    Raises:
        ConfigurationError: the settings name no database.
    """
    server_settings = {"application_name": settings.database_application_name}
    if not settings.database_pooler:
        server_settings["statement_timeout"] = str(round(settings.database_statement_timeout * 1000))
    options: dict[str, Any] = {}
    if read_only and settings.database_pooler:
        # It forgets a setting of the session, and a statement outside of a transaction may be executed elsewhere.
        options["execution_options"] = {"postgresql_readonly": True}
    elif read_only:
        options["isolation_level"] = "AUTOCOMMIT"
        server_settings["default_transaction_read_only"] = "on"
    engine = create_engine(
        settings,
        settings.database_replica_url if read_only else None,
        server_settings,
        settings.database_statement_timeout or None,
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_pool_max_overflow,
        pool_timeout=settings.database_pool_timeout,
        pool_recycle=settings.database_pool_recycle,
        pool_use_lifo=True,  # so that what a peak has opened may idle
        **options,
    )
    listeners: dict[str, Callable[..., Any]] = {
        "connect": listen,
        "handle_error": partial(tell_what_passes, read_only),
        "commit": commit_no_failed_transaction,
        "rollback": commit_no_more,
        "before_cursor_execute": note_what_outlasts,
        "reset": undo,
        "checkin": take_back,
        "checkout": try_what_has_idled,
    }
    for name, listener in listeners.items():
        event.listen(engine.sync_engine, name, listener)
    return engine


class Listener:
    """Stands before asyncpg's protocol, which drops the server's last words where they come to an idle connection."""

    def __init__(self, protocol: Any, info: dict[str, Any]) -> None:
        self.protocol, self.info = protocol, info

    def __getattr__(self, name: str) -> Any:
        return getattr(self.protocol, name)

    def data_received(self, data: bytes) -> None:
        # https://www.postgresql.org/docs/current/protocol-error-fields.html: an error ends so, other answers seldom.
        if data.endswith(b"\0\0") and b"\0VFATAL\0" in data:
            words = data.rpartition(b"\0VFATAL\0")[2].partition(b"\0M")[2].partition(b"\0")[0]
            self.info["last_words"] = words.decode(errors="replace")
        self.protocol.data_received(data)


def listen(connection: Any, record: ConnectionPoolEntry) -> None:
    transport = connection.driver_connection._transport
    transport.set_protocol(Listener(transport.get_protocol(), record.info))


def tell_what_passes(read_only: bool, context: ExceptionContext) -> None:
    error, cause = context.original_exception, context.original_exception.__cause__
    sqlstate = getattr(error, "sqlstate", None)
    connection = context.connection
    info = {} if connection is None or connection.invalidated else connection.info
    info["has_failed"] = True
    if sqlstate == IN_FAILED_TRANSACTION:
        raise InvalidRequestError(FAILED_TRANSACTION) from error
    if isinstance(error, TimeoutError):
        reason = NO_ANSWER
    elif isinstance(cause, SCHEMA_CHANGED):
        reason = "its schema has just changed"
    elif sqlstate == READ_ONLY and not read_only:
        reason = "its server only reads"
    elif isinstance(error, OSError) or (context.is_disconnect and isinstance(error, Exception)):
        reason = one_line(cause or error)
        if (words := info.get("last_words", "")) not in reason:
            reason += f": {words}"
    else:
        return
    is_commit = context.statement is None and info.get("is_committing", False)
    # The pool gives up all connections of before, but for a statement that is slow.
    context.is_disconnect = context.statement is None or not isinstance(error, TimeoutError)
    raise (OutcomeUnknown if is_commit else DatabaseUnavailable)(reason) from error


def commit_no_failed_transaction(connection: Connection) -> None:
    # PostgreSQL would roll it back, and say so in no way that SQLAlchemy notices.
    if connection.info.pop("has_failed", False):
        try:
            connection.exec_driver_sql("SELECT 1")
        except BaseException:
            connection.invalidate()  # or the pool would hand it on, in its failed transaction
            raise
    adapter: Any = connection.connection.dbapi_connection
    driver = adapter.driver_connection
    if adapter._transaction and not driver.is_closed() and not driver.is_in_transaction():
        connection.invalidate()
        raise InvalidRequestError(ENDED_BY_HAND)
    connection.info["is_committing"] = True


def commit_no_more(connection: Connection) -> None:
    if not connection.invalidated:
        connection.info["is_committing"] = False


def note_what_outlasts(connection: Connection, _: Any, statement: str, *__: Any) -> None:
    if outlasts_its_request(statement):
        connection.info["is_altered"] = True


def take_back(connection: Any, record: ConnectionPoolEntry) -> None:
    if connection is None or connection.driver_connection.is_closed():
        return  # whoever asks for it next has another
    record.info["idle_since"] = time.monotonic()
    record.info["is_committing"] = False
    # Whoever had it may have left a statement that still runs, or a transaction that SQLAlchemy does not know of.
    if connection._execute_mutex.locked() or connection.driver_connection.is_in_transaction():
        logger.error(IN_USE)
        record.invalidate()
    elif record.info.get("is_altered"):
        record.invalidate()


def undo(connection: Any, record: ConnectionPoolEntry | None, state: PoolResetState) -> None:
    """Undo what statements have changed; what cannot be undone here is not taken back."""
    # Not at check-in: a connection would be lost to the pool whose reset is cancelled there.
    driver = connection.driver_connection
    is_idle = state.asyncio_safe and not driver.is_closed() and not driver.is_in_transaction()
    if record and is_idle and record.info.get("is_altered") and _succeeds(connection, reset):
        del record.info["is_altered"]


def try_what_has_idled(connection: Any, record: Any, proxy: Any) -> None:
    idle = time.monotonic() - record.info.get("idle_since", time.monotonic())
    if connection.driver_connection.is_closed() or (idle > FRESH and not _is_alive(connection)):
        raise InvalidatePoolError


@lru_cache(200)
def outlasts_its_request(statement: str) -> bool:
    """Say whether a statement may change the session on the server: a setting, a lock, a temporary table."""
    return bool(OUTLASTING.search(statement))


def _is_alive(connection: Any) -> bool:
    return _succeeds(connection, lambda driver: driver.execute("SELECT 1", timeout=PING))


async def reset(driver: Any) -> None:
    """Undo what statements have changed of the session on the server."""
    roles = "RESET SESSION AUTHORIZATION; RESET ROLE"  # which RESET ALL leaves
    await driver.execute(f"{roles}; {driver.get_reset_query()}; DISCARD TEMP", timeout=PING)


def _succeeds(connection: Any, call: Callable[[Any], Awaitable[Any]]) -> bool:
    try:
        connection.run_async(call)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # TimeoutError is an OSError
        return False
    return True
