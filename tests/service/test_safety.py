"""Migrations are never in the way of others, and end well however they end."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from app.db.engine import create_engine
from app.settings import Settings
from tests.conftest import execute
from tests.service.conftest import CONCURRENTLY, LOCKS, TABLE, TIME_LIMIT, Project, only_line

SLOW = 'op.execute("SELECT pg_sleep(60)")'


@asynccontextmanager
async def transaction(project: Project, statement: str) -> AsyncIterator[AsyncConnection]:
    """Yield a connection whose transaction has executed `statement`, and stays open."""
    engine = create_engine(Settings(database_url=project.url), poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.execute(text(statement))
        yield connection


async def waiting(project: Project, query: str) -> None:
    """Return once a session executes `query`."""
    await until(
        project,
        f"SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%{query}%' "
        "AND state = 'active' AND pid <> pg_backend_pid()",
    )


async def until(project: Project, query: str, rows: bool = True) -> None:
    """Return once `query` gives rows, or none."""
    async with asyncio.timeout(TIME_LIMIT):
        while True:
            if bool(await project.sql(query)) == rows:
                return
            await asyncio.sleep(0.05)


async def test_who_holds_the_lock_is_said_after_a_bounded_wait(project: Project) -> None:
    project.revision(SLOW)
    with project.start("upgrade", "head") as first:
        await waiting(project, "pg_sleep(60)")
        refusal = project.refusal("upgrade", "head", env={"MIGRATION_LOCK_WAIT": "0.5"})
        assert "another migration still runs after 0.5 s (MIGRATION_LOCK_WAIT): process " in refusal
        assert "(alembic)" in refusal
        project.alembic("current")
        project.alembic("history")
        first.kill()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda end: end.name)
async def test_an_end_in_the_middle_leaves_the_last_complete_revision_and_no_lock(project: Project, end: int) -> None:
    project.revision(TABLE)
    project.revision('op.add_column("things", sa.Column("half", sa.Integer)); ' + SLOW)
    process = project.start("upgrade", "head")
    await waiting(project, "pg_sleep(60)")
    process.send_signal(end)
    log = process.communicate(timeout=TIME_LIMIT)[1]
    assert process.returncode
    assert "Traceback" not in log
    await until(project, LOCKS, rows=False)
    assert await project.sql("SELECT version_num FROM alembic_version") == ["r0"]
    assert await project.sql("SELECT attname FROM pg_attribute WHERE attname = 'half'") == []


async def test_ddl_that_waits_for_a_lock_lets_others_pass_and_comes_back(project: Project) -> None:
    project.revision(TABLE)
    project.alembic("upgrade", "head")
    project.revision('op.add_column("things", sa.Column("name", sa.String))')
    async with transaction(project, "SELECT * FROM things") as blocker:
        process = project.start("upgrade", "head", env={"MIGRATION_LOCK_TIMEOUT": "0.3"})
        await waiting(project, "ALTER TABLE")
        for _ in range(3):
            async with asyncio.timeout(TIME_LIMIT):  # it would wait for as long as the blocker does
                await project.sql("SELECT id FROM things")
            await waiting(project, "ALTER TABLE")
        await blocker.rollback()
    log = process.communicate(timeout=TIME_LIMIT)[1]
    assert process.returncode == 0, log
    assert "starting again" in log
    project.alembic("current")
    assert await project.sql("SELECT name FROM things") == []


async def test_a_lock_that_cannot_be_had_is_given_up(project: Project) -> None:
    project.revision(TABLE)
    project.alembic("upgrade", "head")
    project.revision('op.drop_table("things")')
    async with transaction(project, "SELECT * FROM things"):
        limits = {"MIGRATION_LOCK_TIMEOUT": "0.2", "MIGRATION_LOCK_WAIT": "1"}
        refusal = await asyncio.to_thread(project.refusal, "upgrade", "head", env=limits)
    assert "r1.py:9: canceling statement due to lock timeout" in refusal
    assert await project.sql("SELECT version_num FROM alembic_version") == ["r0"]


async def test_time_limits_hold_in_a_transaction_unless_the_migration_sets_its_own(project: Project) -> None:
    show = "concat_ws(' ', current_setting('lock_timeout'), current_setting('statement_timeout'))"
    project.revision('op.execute("CREATE TABLE seen (n serial, limits text)")')
    insert = f'op.execute("INSERT INTO seen (limits) SELECT {show}")'
    project.revision(insert)
    project.revision(f"op.execute(\"SET LOCAL lock_timeout = '9s'\"); {insert}")
    project.revision(f"with op.get_context().autocommit_block(): {insert}\n    {insert}")
    project.alembic("upgrade", "head", env={"MIGRATION_STATEMENT_TIMEOUT": "7.5"})
    limits = await project.sql("SELECT limits FROM seen ORDER BY n")
    assert limits == ["3s 7500ms", "9s 7500ms", "0 0", "3s 7500ms"]


async def test_an_index_is_built_concurrently_behind_a_long_transaction(project: Project) -> None:
    """A time limit would leave it invalid; without one, it blocks nobody while it waits."""
    project.revision(TABLE)
    project.alembic("upgrade", "head")
    project.revision(CONCURRENTLY)
    async with transaction(project, "INSERT INTO things VALUES (1)") as blocker:
        process = project.start("upgrade", "head", env={"MIGRATION_LOCK_TIMEOUT": "0.2"})
        await waiting(project, "CREATE INDEX CONCURRENTLY")
        await asyncio.sleep(1)
        await blocker.commit()
    log = process.communicate(timeout=TIME_LIMIT)[1]
    assert process.returncode == 0, log
    assert await project.sql("SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_things'::regclass") == [True]


def test_an_error_is_placed_in_any_folder_of_revisions(project: Project) -> None:
    pyproject = project.path / "pyproject.toml"
    folders = 'version_locations = ["%(here)s/migrations/versions", "%(here)s/migrations/more"]\n[[tool.alembic'
    pyproject.write_text(pyproject.read_text(encoding="utf-8").replace("[[tool.alembic", folders, 1), encoding="utf-8")
    project.revision(TABLE)
    revision = project.revision('op.execute("SELECT 1/0")')
    (project.path / "migrations/more").mkdir()
    revision.rename(project.path / "migrations/more" / revision.name)
    assert "r1.py:9: division by zero" in project.refusal("upgrade", "head")


async def test_each_migration_is_a_transaction_of_its_own(project: Project) -> None:
    project.revision("op.execute(\"CREATE TYPE mood AS ENUM ('sad')\")")
    project.revision("op.execute(\"ALTER TYPE mood ADD VALUE 'happy'\")")
    project.revision("op.execute(\"SELECT 'happy'::mood\")")
    project.revision('op.execute("SELECT 1/0")')
    assert "r3.py:9: division by zero" in project.refusal("upgrade", "head")
    assert await project.sql("SELECT version_num FROM alembic_version") == ["r2"]


def test_a_server_that_does_not_answer_is_given_up(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/db?connect_timeout=1"
        refusal = project.refusal("current", env={"DATABASE_URL": url})
    assert "no answer in time" in refusal


async def test_a_server_that_is_still_starting_is_put_up_with(project: Project) -> None:
    parts = urlsplit(project.url)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError), closing(writer):
            while data := await reader.read(65536):
                writer.write(data)
        with suppress(ConnectionError):
            await writer.wait_closed()

    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))  # and kept, so that nobody else listens there meanwhile
    url = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{closed.getsockname()[1]}").geturl()
    with closed, project.start("current", env={"DATABASE_URL": url, "MIGRATION_WAIT": "60"}) as process:
        assert process.stderr
        waiting = await asyncio.to_thread(process.stderr.readline)
        # The server does not wait for its connections, and the event loop would end before them.
        async with (
            asyncio.TaskGroup() as connections,
            await asyncio.start_server(lambda *ends: connections.create_task(forward(*ends)), sock=closed),
        ):
            log = (await asyncio.to_thread(process.communicate, timeout=TIME_LIMIT))[1]
    assert "waiting: cannot connect" in waiting
    assert process.returncode == 0, log


async def test_a_server_that_takes_over_is_put_up_with(project: Project) -> None:
    database = urlsplit(project.url).path[1:]
    await execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    url = f"{project.url}{'&' if '?' in project.url else '?'}target_session_attrs=read-write"
    with project.start("current", env={"DATABASE_URL": url, "MIGRATION_WAIT": "60"}) as process:
        assert process.stderr
        waiting = await asyncio.to_thread(process.stderr.readline)
        await execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
        log = (await asyncio.to_thread(process.communicate, timeout=60))[1]
    assert "None of the hosts match" in waiting
    assert process.returncode == 0, log


async def test_a_role_that_may_not_write_is_told_so(project: Project) -> None:
    project.revision(TABLE)
    read_only = project.url + ("&" if "?" in project.url else "?") + "options=-cdefault_transaction_read_only%3Don"
    assert "read-only transaction" in project.refusal("upgrade", "head", env={"DATABASE_URL": read_only})


def test_an_exception_that_nobody_expected_keeps_its_traceback(project: Project) -> None:
    project.revision("raise RuntimeError('a bug')")
    with project.start("upgrade", "head") as process:
        log = process.communicate()[1]
        assert "Traceback" in log
        assert "RuntimeError: a bug" in log


def test_a_broken_model_stops_no_deployment(project: Project) -> None:
    project.revision(TABLE)
    project.models("import nothing_of_this_name")
    project.alembic("upgrade", "head")
    project.alembic("current")
    project.alembic("downgrade", "base")


async def test_the_migrations_have_a_url_of_their_own(project: Project) -> None:
    project.revision(TABLE)
    env = {"DATABASE_URL": "postgresql://nobody@database.invalid/db", "MIGRATION_DATABASE_URL": project.url}
    project.alembic("upgrade", "head", env=env)
    assert await project.sql("SELECT id FROM things") == []


@pytest.mark.parametrize("end", ["SIGTERM", "the server"])
async def test_an_end_in_an_autocommit_block_is_as_clean(project: Project, end: str) -> None:
    project.revision("with op.get_context().autocommit_block():\n        " + SLOW)
    process = project.start("upgrade", "head")
    await waiting(project, "pg_sleep(60)")
    if end == "SIGTERM":
        process.terminate()
    else:
        await project.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' "
            "AND datname = current_database() AND pid <> pg_backend_pid()"
        )
    line = only_line(process)
    assert "interrupted" in line or "r0.py:10: " in line


def test_sigterm_ends_also_what_was_started_with_sigint_ignored(project: Project) -> None:
    """As `&` in a script does."""
    project.revision(SLOW)
    script = f"{sys.executable} -m alembic upgrade head & wait_for=$!; trap 'kill -TERM $wait_for' TERM; wait; wait $wait_for"
    environment = {**os.environ, "DATABASE_URL": project.url}
    with subprocess.Popen(
        ["sh", "-c", script], cwd=project.path, env=environment, stderr=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stderr
        while "Running upgrade" not in shell.stderr.readline():
            pass
        shell.terminate()
        assert "interrupted" in shell.communicate(timeout=TIME_LIMIT)[1]


async def test_limits_of_the_role_and_of_statements_do_not_end_a_wait(project: Project) -> None:
    project.revision(TABLE)
    project.alembic("upgrade", "head")
    project.revision("op.execute('SELECT pg_sleep(1.5)')")
    project.revision('op.add_column("things", sa.Column("name", sa.String))')
    async with transaction(project, "SELECT * FROM things") as blocker:
        name = urlsplit(project.url).path[1:]
        await project.sql(f"ALTER DATABASE {name} SET statement_timeout = '100ms'")
        limits = {"MIGRATION_LOCK_TIMEOUT": "0.1", "MIGRATION_STATEMENT_TIMEOUT": "1.7", "MIGRATION_LOCK_WAIT": "30"}
        process = project.start("upgrade", "head", env=limits)
        assert process.stderr
        # Long enough for a pause of more than MIGRATION_STATEMENT_TIMEOUT.
        while "starting again in 3.2 s" not in await asyncio.to_thread(process.stderr.readline):
            assert process.poll() is None
        await blocker.rollback()
    log = (await asyncio.to_thread(process.communicate, timeout=TIME_LIMIT))[1]
    assert process.returncode == 0, log


async def test_each_migration_has_the_whole_wait(project: Project) -> None:
    project.revision(TABLE)
    project.alembic("upgrade", "head")
    project.revision("op.execute('SELECT pg_sleep(9)')")
    project.revision('op.add_column("things", sa.Column("name", sa.String))')
    async with transaction(project, "SELECT * FROM things") as blocker:
        process = project.start("upgrade", "head", env={"MIGRATION_LOCK_TIMEOUT": "0.1", "MIGRATION_LOCK_WAIT": "9"})
        assert process.stderr
        while "starting again" not in await asyncio.to_thread(process.stderr.readline):
            assert process.poll() is None
        await blocker.rollback()
    log = (await asyncio.to_thread(process.communicate, timeout=TIME_LIMIT))[1]
    assert process.returncode == 0, log


async def test_ensure_version_makes_the_table(project: Project) -> None:
    project.alembic("ensure_version")
    assert await project.sql("SELECT version_num FROM alembic_version") == []
