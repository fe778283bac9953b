"""One migration at a time, and never in the way of others for long."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alembic import context
from alembic.util import CommandError, to_tuple
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError

from app.settings import MigrationSettings
from migrations import callers
from migrations.errors import reason, short_errors, sqlstate

LOCK = int.from_bytes(b"alembic", "big")
LOCK_FAILURES = {"55P03", "40P01"}  # lock_not_available, deadlock_detected

# Whoever holds LOCK, in words; a role of no privilege sees less of the others.
HOLDER = f"""
    SELECT coalesce(pg_catalog.string_agg(pg_catalog.format('process %s of %s', pid, usename)
        || CASE WHEN backend_start IS NULL THEN '' ELSE pg_catalog.format(' (%s) from %s, connected since %s',
        coalesce(nullif(application_name, ''), '?'), coalesce(pg_catalog.host(client_addr), 'a socket'),
        backend_start::pg_catalog.timestamp(0)) END, '; '), 'it has just ended')
    FROM pg_catalog.pg_locks JOIN pg_catalog.pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND (classid::pg_catalog.int8 << 32) + objid::pg_catalog.int8 = {LOCK} AND database =
            (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""
# Lets the server notice within seconds that its client is gone (on Windows it cannot), and others who is there.
SESSION = r"""
    SELECT pg_catalog.set_config(name, value, false)
    FROM (VALUES ('client_connection_check_interval', '2s'), ('application_name', 'alembic')) AS wanted (name, value)
    JOIN pg_catalog.pg_settings USING (name)
    WHERE CASE name WHEN 'application_name' THEN setting = ''
        ELSE pg_catalog.version() !~* 'visual c|msvc|mingw|windows' END
"""
TIME_LIMITS = """
    SELECT pg_catalog.concat(pg_catalog.current_setting('lock_timeout'), ' ', pg_catalog.current_setting('statement_timeout'))
"""

logger = logging.getLogger(__name__)


def run_migrations(connection: Connection) -> None:
    """Run what the alembic command asks for. What changes the database runs alone, and waits for no lock for long.

    In a transaction of the caller's, time limits and retries are the caller's.

    Raises:
        CommandError: for what a user can mend, saying how.
    """
    callers_transaction = connection.in_transaction()
    try:
        with short_errors():
            if not _changes_the_database():
                context.run_migrations()
            elif callers_transaction:
                _lock(connection, "pg_try_advisory_xact_lock", callers.migration_settings().migration_lock_wait)
                context.run_migrations()
            else:
                connection.rollback()  # what asking for the heads began
                _run_alone(connection, callers.migration_settings())
            if not callers_transaction:
                connection.commit()  # `ensure_version` has begun a transaction, too
    finally:
        if not callers_transaction and not connection.invalidated:
            connection.rollback()


def version_table(connection: Connection) -> dict[str, Any]:
    """Return alembic's options of the table that keeps the applied revisions, which is where `connection` creates tables."""
    schema, name = callers.version_table()
    schema = schema or _ask(connection, "SELECT pg_catalog.current_schema()")
    return {"version_table": name, "version_table_schema": schema}


def _changes_the_database() -> bool:
    try:
        target = context.get_revision_argument()
    except KeyError:  # only the commands that change it have one
        return False
    heads = context.get_context().get_current_heads()
    return not heads or set(heads) != set(to_tuple(target, default=()))


def _run_alone(connection: Connection, settings: MigrationSettings) -> None:
    _refuse_transaction_pooler(connection)
    before = _ask(connection, TIME_LIMITS)
    if "connection" not in context.config.attributes:
        _ask(connection, SESSION)
    _ask(connection, _time_limits("0", "0", is_local=False))  # the role or the database may have others than none
    try:
        _lock(connection, "pg_try_advisory_lock", settings.migration_lock_wait)
        _run_until_locks_are_had(connection, settings)
    finally:
        if not connection.invalidated:
            connection.rollback()
            _ask(connection, _time_limits(*before.split(), is_local=False))
            _ask(connection, f"SELECT pg_catalog.pg_advisory_unlock({LOCK})")


def _time_limits(lock_timeout: str, statement_timeout: str, *, is_local: bool) -> str:
    """Return the query that sets the time limits, of the transaction if `is_local`, or else of the session."""
    limits = {"lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
    return "SELECT " + ", ".join(
        f"pg_catalog.set_config('{name}', '{limit}', {is_local})" for name, limit in limits.items()
    )


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
    server_pid = "SELECT pg_catalog.pg_backend_pid()"
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
    while not _ask(connection, f"SELECT pg_catalog.{try_lock}({LOCK})"):
        if time.monotonic() >= deadline:
            holder = _ask(connection, HOLDER)
            raise CommandError(f"another migration still runs after {wait:g} s (MIGRATION_LOCK_WAIT): {holder}")
        if not waiting:
            logger.info(f"waiting for another migration: {_ask(connection, HOLDER)}")
            waiting = True
        _ask(connection, "SELECT pg_catalog.pg_sleep(0.2)")


@contextmanager
def _limited_transactions(connection: Connection, settings: MigrationSettings) -> Iterator[None]:
    """Set each transaction's time limits, so that a migration may change its own, and autocommit blocks have none.

    A time limit would leave an invalid index behind a CREATE INDEX CONCURRENTLY, which blocks no one while it waits.
    """
    query = _time_limits(
        f"{settings.migration_lock_timeout}s", f"{settings.migration_statement_timeout}s", is_local=True
    )

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
    pause = deadline = 0.0
    while True:
        try:
            with _limited_transactions(connection, settings):
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
            logger.warning(f"starting again in {pause:g} s: {reason(error)}")
        _ask(connection, f"SELECT pg_catalog.pg_sleep({pause})")
        pause = min(2 * pause, 5)
