"""What `migrations/env.py` needs beyond alembic's recipe: any caller, one migrator at a time, short waits, short errors."""

import asyncio
import logging
import signal
import threading
import time
import traceback
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
from alembic import context
from alembic.script.revision import MultipleHeads
from alembic.util import CommandError, to_tuple
from sqlalchemy import Connection, event, pool, text
from sqlalchemy.exc import DBAPIError, NoReferenceError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.engine import DatabaseUnavailable, create_engine
from app.settings import ConfigurationError, Environment, MigrationSettings, load_settings

LOCK = int.from_bytes(b"alembic", "big")
LOCK_FAILURES = {"55P03", "40P01"}  # lock_not_available, deadlock_detected
REFUSALS = {"42501", "25006"}  # insufficient_privilege, read_only_sql_transaction

# Whoever holds LOCK, in words; a role of no privilege sees less of the others.
HOLDER = f"""
    SELECT coalesce(string_agg(format('process %s of %s', pid, usename) || CASE WHEN backend_start IS NULL THEN '' ELSE
        format(' (%s) from %s, connected since %s', coalesce(nullif(application_name, ''), '?'),
        coalesce(host(client_addr), 'a socket'), backend_start::timestamp(0)) END, '; '), 'it has just ended')
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND (classid::bigint << 32) + objid::bigint = {LOCK}
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# Lets the server notice within seconds that its client is gone (on Windows it cannot), and others who is there.
SESSION = r"""
    SELECT set_config(name, value, false)
    FROM (VALUES ('client_connection_check_interval', '2s'), ('application_name', 'alembic')) AS wanted (name, value)
    JOIN pg_settings USING (name)
    WHERE CASE name WHEN 'application_name' THEN setting = '' ELSE version() !~* 'visual c|msvc|mingw|windows' END
"""

logger = logging.getLogger(__name__)


def configure_logging() -> None:
    """Log as the service does where machines read it, and in alembic's own format elsewhere.

    Raises:
        CommandError: the settings are wrong.
    """
    logging.basicConfig(format="%(levelname)-5.5s [%(name)s] %(message)s")
    settings = _settings()
    logging.getLogger().setLevel(settings.log_level)
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    if settings.environment in (Environment.STAGING, Environment.PRODUCTION):
        from app.logs import configure_logging  # takes a tenth of a second to import

        configure_logging(settings)


def run(migrations: Coroutine[Any, Any, None], connectable: AsyncEngine | AsyncConnection | None) -> None:
    """Run a coroutine that uses `connectable` to its end, also where an event loop runs.

    Raises:
        CommandError: it was interrupted, by SIGINT or SIGTERM; or `connectable` is async, and an event loop runs.
    """
    if _is_in_event_loop():
        if connectable is not None:
            migrations.close()
            raise CommandError("inside an event loop, hand over a sync connection, as `connection.run_sync()` gives it")
        with ThreadPoolExecutor(1) as executor:
            executor.submit(asyncio.run, migrations).result()
    elif isinstance(connectable, AsyncConnection) and connectable.sync_connection:
        # It works on the loop that it was opened on, which asyncpg does not tell otherwise.
        asyncpg_connection: Any = connectable.sync_connection.connection.driver_connection
        asyncpg_connection._loop.run_until_complete(migrations)
    else:
        try:
            asyncio.run(_until_terminated(migrations))
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise CommandError("interrupted; the revisions that had ended before are applied") from None


async def _until_terminated(migrations: Coroutine[Any, Any, None]) -> None:
    """Await the coroutine; on the command line, cancel it on SIGTERM, for which process 1 of a container has no default."""
    if context.config.cmd_opts is not None and threading.current_thread() is threading.main_thread():
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task
        signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(task.cancel))
    await migrations


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@asynccontextmanager
async def connect(connectable: AsyncEngine | AsyncConnection | None) -> AsyncIterator[AsyncConnection]:
    """Yield a connection of `connectable`, or else one to the database of the settings, and close what it opened.

    Raises:
        CommandError: the settings are wrong, or there is no connection to be had within MIGRATION_WAIT.
    """
    if isinstance(connectable, AsyncConnection) and connectable.sync_connection:
        yield connectable
    elif connectable is not None:
        async with connectable.connect() if isinstance(connectable, AsyncEngine) else connectable as connection:
            await connection.run_sync(Connection.detach)  # its pool must not keep a connection of this event loop
            yield connection
    else:
        connection = await _connect_patiently(_settings())
        try:
            yield connection
        finally:
            await connection.close()


def _settings() -> MigrationSettings:
    try:
        return load_settings(MigrationSettings)
    except ConfigurationError as error:
        raise CommandError(str(error)) from error


async def _connect_patiently(settings: MigrationSettings) -> AsyncConnection:
    deadline = time.monotonic() + settings.migration_wait
    try:
        engine = create_engine(settings, poolclass=pool.NullPool)
    except ConfigurationError as error:
        raise CommandError(str(error)) from error
    while True:
        try:
            return await engine.connect()
        except DatabaseUnavailable as error:
            starting = isinstance(
                error.__cause__, OSError | asyncpg.CannotConnectNowError | asyncpg.PostgresConnectionError
            )
            if not starting or time.monotonic() >= deadline:
                raise CommandError(str(error)) from error
            logger.info(f"waiting: {error}")
            await asyncio.sleep(0.5)


def run_migrations(connection: Connection) -> None:
    """Run what the alembic command asks for. What changes the database runs alone, and waits for no lock for long.

    In a transaction of the caller's, time limits and retries are the caller's.

    Raises:
        CommandError: for what a user can mend, saying how.
    """
    callers_transaction = connection.in_transaction()
    try:
        with _short_errors():
            if not _changes_the_database():
                context.run_migrations()
            elif callers_transaction:
                _lock(connection, "pg_try_advisory_xact_lock", _settings().migration_lock_wait)
                context.run_migrations()
            else:
                connection.rollback()  # what asking for the heads began
                _run_alone(connection, _settings())
            if not callers_transaction:
                connection.commit()  # `ensure_version` has begun a transaction, too
    finally:
        if not callers_transaction and not connection.invalidated:
            connection.rollback()


def _changes_the_database() -> bool:
    try:
        target = context.get_revision_argument()
    except KeyError:  # only the commands that change it have one
        return False
    heads = context.get_context().get_current_heads()
    return not heads or set(heads) != set(to_tuple(target, default=()))


def _run_alone(connection: Connection, settings: MigrationSettings) -> None:
    _refuse_transaction_pooler(connection)
    before = _ask(connection, "SELECT current_setting('lock_timeout') || ' ' || current_setting('statement_timeout')")
    if "connection" not in context.config.attributes:
        _ask(connection, SESSION)
    _limit(connection, "0", "0")
    try:
        _lock(connection, "pg_try_advisory_lock", settings.migration_lock_wait)
        _run_until_locks_are_had(connection, settings)
    finally:
        if not connection.invalidated:
            connection.rollback()
            _limit(connection, *before.split())
            _ask(connection, f"SELECT pg_advisory_unlock({LOCK})")


def _limit(connection: Connection, lock_timeout: str, statement_timeout: str) -> None:
    """Set the session's time limits: the role or the database may have others than none."""
    _ask(connection, _setting(lock_timeout, statement_timeout, is_local=False))


def _setting(lock_timeout: str, statement_timeout: str, *, is_local: bool) -> str:
    """Return the query that sets the time limits, of the transaction if `is_local`, or else of the session."""
    limits = {"lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
    return "SELECT " + ", ".join(f"set_config('{name}', '{limit}', {is_local})" for name, limit in limits.items())


def _ask(connection: Connection, query: str) -> Any:
    """Return the scalar that `query` gives, in the caller's transaction or in one that ends at once.

    A transaction left open would hold a snapshot, and CREATE INDEX CONCURRENTLY waits for those.
    """
    callers_transaction = connection.in_transaction()
    answer = connection.scalar(text(query))
    if not callers_transaction:
        connection.commit()
    return answer


def _refuse_transaction_pooler(connection: Connection) -> None:
    """Raise CommandError where two statements of one connection may reach two servers' sessions: no lock lasts there."""
    server_pid = "SELECT pg_backend_pid()"
    pid = _ask(connection, server_pid)
    driver: Any = connection.connection.dbapi_connection
    driver = getattr(driver, "driver_connection", driver)  # asyncpg's, or psycopg's if a caller has it
    announced = driver.get_server_pid() if hasattr(driver, "get_server_pid") else driver.info.backend_pid
    if announced == pid:  # only a pooler announces another
        return
    with connection.engine.connect() as other:
        if other.scalar(text(server_pid)) == pid or _ask(connection, server_pid) != pid:
            raise CommandError(
                "this database is reached through a pooler in transaction mode, which cannot hold the lock that migrations "
                "need: set MIGRATION_DATABASE_URL to its direct URL, or to one that pools sessions"
            )


def _lock(connection: Connection, try_lock: str, wait: float) -> None:
    deadline = time.monotonic() + wait
    waiting = False
    # Polled: a blocked pg_advisory_lock() would hold a snapshot.
    while not _ask(connection, f"SELECT {try_lock}({LOCK})"):
        if time.monotonic() >= deadline:
            holder = _ask(connection, HOLDER)
            raise CommandError(f"another migration still runs after {wait:g} s (MIGRATION_LOCK_WAIT): {holder}")
        if not waiting:
            logger.info(f"waiting for another migration: {_ask(connection, HOLDER)}")
            waiting = True
        _ask(connection, "SELECT pg_sleep(0.2)")


@contextmanager
def _time_limits(connection: Connection, settings: MigrationSettings) -> Iterator[None]:
    """Set each transaction's time limits, so that a migration may change its own, and autocommit blocks have none.

    A time limit would leave an invalid index behind a CREATE INDEX CONCURRENTLY, which blocks no one while it waits.
    """
    limits = f"{settings.migration_lock_timeout}s", f"{settings.migration_statement_timeout}s"
    query = _setting(*limits, is_local=True)

    def limit(connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            cursor = connection.connection.cursor()
            cursor.execute(query)
            cursor.close()

    event.listen(connection, "begin", limit)
    try:
        yield
    finally:
        event.remove(connection, "begin", limit)


def _run_until_locks_are_had(connection: Connection, settings: MigrationSettings) -> None:
    """Run the migrations; one that could not have a lock starts again, while others may pass."""
    waiting: tuple[str, ...] | None = None
    while True:
        try:
            with _time_limits(connection, settings):
                return context.run_migrations()
        except DBAPIError as error:
            if sqlstate(error) not in LOCK_FAILURES:
                raise
            connection.rollback()
            heads = context.get_context().get_current_heads()
            connection.rollback()
            if heads != waiting:  # the first failure of this migration
                waiting, pause, deadline = heads, 0.2, time.monotonic() + settings.migration_lock_wait
            if time.monotonic() + pause > deadline:
                raise
            logger.warning(f"starting again in {pause:g} s: {_reason(error)}")
        _ask(connection, f"SELECT pg_sleep({pause})")
        pause = min(2 * pause, 5)


@contextmanager
def _short_errors() -> Iterator[None]:
    """Raise CommandError, which alembic prints as one line, for the mistakes of a user's that show here."""
    try:
        yield
    except (DBAPIError, PendingRollbackError) as raised:
        # Leaving an autocommit block on a connection that is gone raises the second in the place of what happened.
        error = raised.__context__ if isinstance(raised, PendingRollbackError) else raised
        if not isinstance(error, DBAPIError):
            raise error or raised from None
        if place := _place(error):
            raise CommandError(f"{place}: {_reason(error)}") from error
        if sqlstate(error) in REFUSALS or error.connection_invalidated:
            raise CommandError(_reason(error)) from error
        raise
    except NoReferenceError as error:  # names the foreign key, of which the traceback holds no line
        raise CommandError(str(error)) from error
    except CommandError as error:
        heads = context.script.get_heads()
        if isinstance(error.__cause__, MultipleHeads):
            raise CommandError(f"{' and '.join(heads)} are heads: join them by `alembic merge heads -m ...`") from error
        if not str(error).startswith("Can't locate revision"):
            raise
        known = {script.revision for script in context.script.walk_revisions()}
        if unknown := set(context.get_context().get_current_heads()) - known:
            raise CommandError(
                f"the database is at revision {' and '.join(unknown)}, which is not among the revisions here: newer code "
                "has migrated it. Deploy that code, or downgrade the database with it."
            ) from error
        raise


def _place(error: BaseException) -> str | None:
    """Return the file and line of the revision that raised `error`."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(context.script.dir).resolve() in Path(frame.filename).resolve().parents:
            return f"{Path(frame.filename).name}:{frame.lineno}"
    return None


def sqlstate(error: DBAPIError) -> str:
    """Return PostgreSQL's code for what went wrong; empty: the server did not say."""
    return getattr(error.orig, "sqlstate", None) or ""


def _reason(error: DBAPIError) -> str:
    """Return the server's message, its detail and its hint in one line."""
    orig = error.orig
    return " ".join(str(orig.__cause__ or orig).split()) if orig else str(error)
