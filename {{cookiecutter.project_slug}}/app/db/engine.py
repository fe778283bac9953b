"""The engine, as the application and the migrations create it."""

import asyncio
import logging
import os
import re
import ssl
import time
from functools import cache
from typing import Any

import asyncpg
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.exc import InvalidatePoolError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from app.settings import MigrationSettings, Settings
from app.text import one_line
from app.url import addresses, connect_arguments, parameters

CERTIFICATE = "; sslmode=verify-... and channel_binding=require want one that sslrootcert (or the system) vouches for"
NO_ANSWER = "no answer in time"
FOREIGN = "; asyncpg wants to read ~/.postgresql, where HOME={}"
FAILED_TRANSACTION = (
    "a statement before has failed, and the transaction with it: "
    "where you catch such an error, execute the statement in `async with session.begin_nested()`"
)
OUTLASTING = re.compile(
    r"^(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:SET(?!\s+(?:LOCAL|CONSTRAINTS|TRANSACTION)\b)|LISTEN|DECLARE|PREPARE)\b"
    r"|\bset_config\s*\(|advisory_lock|\bTEMP(?:ORARY)?\b",
    re.IGNORECASE | re.DOTALL,
)
IN_USE = "a connection was given back in use, and is closed: a statement or a transaction on it was not awaited"
FRESH = 1.0  # seconds in which a connection is taken for alive, as HikariCP does
IN_FAILED_TRANSACTION = "25P02"  # https://www.postgresql.org/docs/current/errcodes-appendix.html
READ_ONLY = "25006"
# By a deploy; the next request prepares its statements anew.
SCHEMA_CHANGED = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)
PING = 2.0  # seconds that the server has to show that one is

logger = logging.getLogger(__name__)


class DatabaseUnavailable(Exception):
    """There is no connection to be had, or it is lost; the message says why in one line."""


class OutcomeUnknown(DatabaseUnavailable):
    """The answer to a COMMIT is lost, so what it was to store may be stored or not."""


def create_engine(
    settings: Settings,
    url: SecretStr | None = None,
    server_settings: dict[str, str] | None = None,
    command_timeout: float | None = None,
    **options: Any,
) -> AsyncEngine:
    """Return an engine for `url`, or else for the database that `settings` name; nothing connects yet.

    `server_settings` are PostgreSQL's, for each session, and `command_timeout` is in seconds; `options` go to
    `sqlalchemy.ext.asyncio.create_async_engine`. Connecting raises DatabaseUnavailable.

    Raises:
        ConfigurationError: the settings name no database.
    """
    url = url or settings.database
    arguments = connect_arguments(url.get_secret_value()) if url else {}
    named = parameters(arguments.get("dsn", ""))  # what the URL says of the session wins
    extra: dict[str, Any] = {
        "command_timeout": command_timeout,
        "server_settings": {k: v for k, v in (server_settings or {}).items() if k not in named},
    }
    adapter: dict[str, Any] = {}
    if settings.database_pooler or isinstance(settings, MigrationSettings):  # which look whether there is a pooler
        # Unnamed statements neither collide nor stay behind on a server connection that belongs to many clients.
        extra["statement_cache_size"] = 0
        adapter = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}

    async def connect() -> Any:
        return await _connect(**(arguments or await asyncio.to_thread(_devdb_arguments)), **extra)

    return create_async_engine(
        "postgresql+asyncpg://", connect_args={"async_creator_fn": connect, **adapter}, hide_parameters=True, **options
    )


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


async def _connect(**arguments: Any) -> Any:
    """Have asyncpg, not SQLAlchemy, parse the URL: it knows sslmode, several hosts, sockets and any password."""
    try:
        return await asyncpg.connect(**arguments)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        reason = NO_ANSWER if isinstance(error, TimeoutError) else one_line(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            reason += CERTIFICATE
        elif isinstance(error, PermissionError):
            reason += FOREIGN.format(os.environ.get("HOME"))
        raise DatabaseUnavailable(f"cannot connect to the database at {addresses(arguments)}: {reason}") from error
    except (OverflowError, ValueError):  # from None: asyncpg's message may hold a piece of the URL
        raise DatabaseUnavailable("cannot connect to the database: its URL, or PGPORT, is malformed") from None


def _devdb_arguments() -> dict[str, Any]:
    import devdb  # for development only, so absent from a deployed service; Settings sees to that

    return connect_arguments(devdb.start())


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
    _watch(engine.sync_engine, read_only)
    return engine


def _watch(engine: Engine, read_only: bool) -> None:
    """Have the pool hand out no connection that is dead, and commit no transaction that PostgreSQL has given up."""

    @event.listens_for(engine, "connect")
    def listen(connection: Any, record: ConnectionPoolEntry) -> None:
        transport = connection.driver_connection._transport
        transport.set_protocol(Listener(transport.get_protocol(), record.info))

    @event.listens_for(engine, "handle_error")
    def note_the_error(context: ExceptionContext) -> None:
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
        context.is_disconnect = is_commit or not isinstance(error, TimeoutError)
        raise (OutcomeUnknown if is_commit else DatabaseUnavailable)(reason) from error

    @event.listens_for(engine, "commit")
    def commit_no_failed_transaction(connection: Connection) -> None:
        # PostgreSQL would roll it back, and say so in no way that SQLAlchemy notices.
        if connection.info.pop("has_failed", False):
            try:
                connection.exec_driver_sql("SELECT 1")
            except BaseException:
                connection.invalidate()  # or the pool would hand it on, in its failed transaction
                raise
        connection.info["is_committing"] = True

    @event.listens_for(engine, "before_cursor_execute")
    def note_what_outlasts(connection: Connection, _: Any, statement: str, *__: Any) -> None:
        if outlasts_its_request(statement):
            connection.info["is_altered"] = True

    @event.listens_for(engine, "checkin")
    def take_back(connection: Any, record: ConnectionPoolEntry) -> None:
        if connection is None:  # it is lost
            return
        record.info["idle_since"] = time.monotonic()
        record.info["is_committing"] = False
        # Whoever had it may have left a statement that still runs, or a transaction that SQLAlchemy does not know of.
        if connection._execute_mutex.locked() or connection.driver_connection.is_in_transaction():
            logger.error(IN_USE)
            record.invalidate()
        elif record.info.pop("is_altered", False):
            connection.run_async(lambda driver: driver.execute(f"{driver.get_reset_query()}; DISCARD TEMP"))

    @event.listens_for(engine, "checkout")
    def try_what_has_idled(connection: Any, record: Any, proxy: Any) -> None:
        idle = time.monotonic() - record.info.get("idle_since", time.monotonic())
        if connection.driver_connection.is_closed() or (idle > FRESH and not _is_alive(connection)):
            raise InvalidatePoolError


@cache
def outlasts_its_request(statement: str) -> bool:
    """Say whether a statement may change the session on the server: a setting, a lock, a temporary table."""
    return bool(OUTLASTING.search(statement))


def _is_alive(connection: Any) -> bool:
    try:
        connection.run_async(lambda driver: driver.execute("SELECT 1", timeout=PING))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # TimeoutError is an OSError
        return False
    return True
