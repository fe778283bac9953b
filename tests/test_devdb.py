"""The development database starts on demand, and survives what happens to it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import TIME_LIMIT, Service

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="root's rights are at stake")


def devdb(service: Service, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return service.run("python", "-m", "devdb", *arguments, check=check)


def superuser_sql(service: Service, query: str) -> str:
    return devdb(service, "psql", "-U", "postgres", "-XAtc", query).stdout.strip()


def start_client(service: Service, command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [service.python, "-m", "devdb", command],
        cwd=service.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIME_LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_concurrent_first_starts_share_one_server(service: Service) -> None:
    starts = [start_client(service, "url") for _ in range(6)]
    answers = [start.communicate(timeout=TIME_LIMIT) for start in starts]
    assert [start.returncode for start in starts] == [0] * len(starts), answers
    assert len({url for url, _ in answers}) == 1
    assert sum("it runs until `python -m devdb stop`" in said for _, said in answers) == 1


def test_it_keeps_its_data_and_its_address_until_it_is_reset(service: Service) -> None:
    assert devdb(service, "status", check=False).returncode == 3
    url = devdb(service, "url").stdout
    service.sql("CREATE TABLE kept ()")
    assert "running" in devdb(service, "status").stdout
    assert devdb(service, "stop").stdout == "stopped\n"
    assert devdb(service, "status", check=False).returncode == 3
    assert devdb(service, "stop").stdout == "it did not run\n"
    assert devdb(service, "url").stdout == url
    assert service.sql("SELECT count(*) FROM kept") == "0"
    devdb(service, "reset")
    assert service.sql("SELECT to_regclass('kept') IS NULL") == "t"


def test_it_listens_to_this_machine_only_and_asks_for_a_password(service: Service) -> None:
    devdb(service, "start")
    assert service.sql("SHOW listen_addresses") == "127.0.0.1"
    assert superuser_sql(service, "SELECT DISTINCT auth_method FROM pg_hba_file_rules") == "scram-sha-256"
    assert (service.path / ".devdb/password").stat().st_mode & 0o777 == 0o600


def test_it_survives_the_death_of_the_server(service: Service) -> None:
    devdb(service, "start")
    service.sql("CREATE TABLE kept ()")
    pid = int((service.path / ".devdb/data/postmaster.pid").read_text().split()[0])
    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    assert service.sql("SELECT count(*) FROM kept") == "0"


def test_it_survives_the_death_of_a_client_that_starts_it(service: Service) -> None:
    for moment in (0.1, 0.2, 0.3, 0.4, 0.5):  # seconds: in initdb, in pg_ctl, and between
        with start_client(service, "start") as client:
            time.sleep(moment)
            client.kill()
    assert service.sql("SELECT 1") == "1"


def test_a_server_with_no_connection_left_still_runs_and_stops(service: Service) -> None:
    devdb(service, "start")
    superuser_sql(service, "ALTER SYSTEM SET max_connections = 4")
    superuser_sql(service, "ALTER SYSTEM SET superuser_reserved_connections = 0")
    superuser_sql(service, "ALTER SYSTEM SET max_wal_senders = 0")
    devdb(service, "stop")
    url = devdb(service, "url").stdout.strip()
    code = f"""
import asyncio, asyncpg

async def main():
    connections = [await asyncpg.connect({url!r}) for _ in range(4)]
    print("full", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())"""
    with subprocess.Popen([service.python, "-c", code], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout
        assert client.stdout.readline() == "full\n"
        assert "running" in devdb(service, "status").stdout
        devdb(service, "reset")
        client.kill()
    assert not (service.path / ".devdb/data").exists()
    assert not listens(urlsplit(url).port or 0)


def test_a_project_may_be_moved_while_its_server_runs(service: Service) -> None:
    devdb(service, "start")
    service.sql("CREATE TABLE kept ()")
    old = service.path
    service.path = old.rename(old.parent / "moved")
    assert service.sql("SELECT count(*) FROM kept") == "0"
    (old / ".devdb/data").mkdir(parents=True)  # the old place is in use again
    assert service.sql("SELECT count(*) FROM kept") == "0"
    devdb(service, "reset")
    assert devdb(service, "status", check=False).returncode == 3


def test_a_copy_of_a_project_has_a_server_of_its_own(service: Service) -> None:
    devdb(service, "start")
    copy = Service(service.path.parent / "copy", service.env)
    subprocess.run(["cp", "-a", service.path, copy.path], check=True)
    url, copy_url = (devdb(each, "url").stdout for each in (service, copy))
    assert url != copy_url
    devdb(copy, "stop")
    assert "running" in devdb(service, "status").stdout


def test_a_pid_file_that_names_a_stranger_is_not_believed(service: Service) -> None:
    """As after a reboot: the pid lives again, as another program."""
    devdb(service, "start")
    pid_file = service.path / ".devdb/data/postmaster.pid"
    _, *rest = pid_file.read_text().split("\n")
    devdb(service, "stop")
    pid_file.write_text("\n".join([str(os.getpid()), *rest]))
    assert devdb(service, "status", check=False).returncode == 3
    assert service.sql("SELECT 1") == "1"


def test_another_program_on_its_port_moves_it(service: Service) -> None:
    devdb(service, "start")
    devdb(service, "stop")
    port = (service.path / ".devdb/port").read_text()
    with subprocess.Popen([sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1"]) as other:
        wait_until(lambda: listens(int(port)))
        assert service.sql("SELECT 1") == "1"
        other.terminate()
    assert (service.path / ".devdb/port").read_text() != port


def test_data_of_another_major_version_is_refused_in_one_sentence(service: Service) -> None:
    devdb(service, "start")
    devdb(service, "stop")
    (service.path / ".devdb/data/PG_VERSION").write_text("15\n")
    done = devdb(service, "start", check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"devdb: .*PostgreSQL 15.*`python -m devdb reset`.*\n", done.stderr)
    devdb(service, "reset")
    devdb(service, "start")


def test_a_throw_away_server_ends_with_its_client_however_that_dies(service: Service) -> None:
    code = "import devdb, time\nwith devdb.throwaway() as url: print(url, flush=True); time.sleep(600)"
    with subprocess.Popen([service.python, "-c", code], cwd=service.path, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout
        port = urlsplit(client.stdout.readline()).port
        assert port
        assert listens(port)
        client.kill()
    wait_until(lambda: not listens(port))


def test_a_folder_that_cannot_be_had_is_named_in_one_sentence(service: Service) -> None:
    service.write(".devdb", "in the way")
    done = devdb(service, "start", check=False)
    (service.path / ".devdb").unlink()
    assert done.returncode == 1
    assert re.fullmatch(r"devdb: .*my-service/.devdb.*\n", done.stderr)


BROKEN: dict[str, Callable[[Path, Path], object]] = {
    "empty": lambda path, _: path.write_text(""),
    "garbage": lambda path, _: path.write_bytes(bytes(range(256)) * 9),
    "a link": lambda path, victim: path.symlink_to(victim),
    "another name": lambda path, victim: path.hardlink_to(victim),
    "a pipe": lambda path, _: os.mkfifo(path),
    "a folder": lambda path, _: (path / "within").mkdir(parents=True),
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in folders")
@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_in_its_folder_is_mended_and_nothing_is_followed(
    service: Service, tmp_path: Path, kind: str
) -> None:
    devdb(service, "start")
    service.sql("CREATE TABLE kept ()")
    victim = tmp_path / "victim"
    for name in ("data/postmaster.pid", "port", "password", "role", "log", "lock"):
        for command in ("stop", "status"):  # and so with a server that runs, too
            devdb(service, command)
            victim.unlink(missing_ok=True)
            victim.write_text("root's")
            victim.chmod(0o600)
            path = service.path / ".devdb" / name
            path.unlink(missing_ok=True)
            BROKEN[kind](path, victim)
            assert service.sql("SELECT count(*) FROM kept") == "0"
            assert victim.read_text() == "root's"
            assert (victim.stat().st_uid, victim.stat().st_mode & 0o777) == (os.geteuid(), 0o600)
    assert "running" in devdb(service, "status").stdout


def test_a_lost_pid_file_does_not_hide_a_server(service: Service) -> None:
    url = devdb(service, "url").stdout
    (service.path / ".devdb/data/postmaster.pid").write_text("")
    assert devdb(service, "stop").stdout == "stopped\n"
    assert not listens(urlsplit(url).port or 0)


@as_root
def test_sql_gives_no_file_of_root_s_away(service: Service, tmp_path: Path) -> None:
    devdb(service, "start")
    victim = tmp_path / "victim"
    victim.write_text("root's")
    folder = service.path / ".devdb"
    for name in ("log", "lock", "port", "password", "data.0123", "extension/vector.control"):
        superuser_sql(service, f'COPY (SELECT 1) TO PROGRAM \'cat; ln -sf "{victim}" "{folder / name}"\'')
        for command in ("stop", "start"):
            devdb(service, command)
            assert (victim.read_text(), victim.stat().st_uid) == ("root's", 0)
    superuser_sql(
        service,
        f'COPY (SELECT 1) TO PROGRAM \'cat; mv "{folder}/data" "{folder}/old"; ln -s "{tmp_path}" "{folder}/data"\'',
    )
    (tmp_path / "postmaster.pid").write_text("")
    for command in ("status", "start", "stop"):
        assert "Traceback" not in devdb(service, command, check=False).stderr
    assert (tmp_path / "postmaster.pid").exists()
    devdb(service, "reset", "--yes")
    assert victim.exists()
    os.kill(int((folder / "old/postmaster.pid").read_text().split()[0]), signal.SIGINT)  # it serves what was moved


def test_a_stranger_s_lock_is_one_sentence(service: Service) -> None:
    devdb(service, "start")
    devdb(service, "stop")
    (service.path / "devdb/server.py").write_text(
        (service.path / "devdb/server.py").read_text().replace("TIME_LIMIT = 60", "TIME_LIMIT = 1")
    )
    code = "import filelock, time\nwith filelock.FileLock('.devdb/lock'): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([service.python, "-c", code], cwd=service.path, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        done = devdb(service, "start", check=False)
        holder.kill()
    assert done.returncode == 1
    assert re.fullmatch(r"devdb: another process has locked .*/.devdb/lock for 1 s: end it\n", done.stderr)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_throw_away_server_whose_keeper_was_killed_goes_with_the_next_start(service: Service, tmp_path: Path) -> None:
    folder = Path(f"/tmp/devdb{os.getpid()}")  # tmp_path is closed to others
    folder.mkdir()
    folder.chmod(0o755)
    service.env = {**service.env, "TMPDIR": str(folder)}
    try:
        command = [str(service.python), "-m", "devdb", "throwaway"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=service.path, env=service.env, stdin=pipe, stdout=pipe, text=True) as keeper:
            assert keeper.stdout
            port = urlsplit(keeper.stdout.readline()).port or 0
            assert devdb(service, "start").returncode == 0
            assert listens(port)  # its keeper lives
            keeper.kill()
        assert listens(port)
        devdb(service, "start")
        assert not listens(port)
        assert list(folder.glob("devdb-*")) == []
    finally:
        shutil.rmtree(folder)


@as_root
def test_what_a_throw_away_server_runs_has_no_capability(service: Service) -> None:
    """Nor below a closed folder, as that of this test is."""
    code = "import devdb, time\nwith devdb.throwaway() as url: print(url, flush=True); time.sleep(600)"
    with subprocess.Popen([service.python, "-c", code], cwd=service.path, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout
        url = client.stdout.readline().strip().replace("//application:", "//postgres:")
        find_psql = "import subprocess, sys, devdb.server as s; subprocess.run([s.program('psql'), *sys.argv[1:]])"
        asked = service.run(
            *("python", "-c", find_psql, url, "-XAtq", "-c", "CREATE TABLE said (line text)"),
            *("-c", "COPY said FROM PROGRAM 'grep CapEff /proc/self/status' (DELIMITER '|')", "-c", "TABLE said"),
        )
        client.kill()
    assert "0000000000000000" in asked.stdout, asked.stderr


def test_the_application_s_role_is_no_superuser(service: Service) -> None:
    superuser_sql(service, "CREATE TABLE not_granted ()")
    answers = ask(
        service,
        "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user",
        "CREATE TABLE owned AS SELECT generate_series(1, 2) AS tenant",
        "ALTER TABLE owned ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "CREATE POLICY one ON owned USING (tenant = 1)",
        "SELECT count(*) FROM owned",
        "SELECT * FROM not_granted",
        "COPY owned TO PROGRAM 'cat'",
        "CREATE EXTENSION pg_trgm",
        "CREATE EXTENSION vector",
        "CREATE EXTENSION dblink",
        "CREATE DATABASE other",
    )
    denied = "InsufficientPrivilegeError"
    none = "None"
    assert answers == ["False", none, none, none, "1", denied, denied, none, none, denied, none]


def ask(service: Service, *statements: str) -> list[str]:
    """Execute statements as the application does, and return their first values, or the names of their errors."""
    code = """
import asyncio, sys, asyncpg, devdb

async def main():
    connection = await asyncpg.connect(devdb.start())
    for statement in sys.argv[1:]:
        try:
            print(await connection.fetchval(statement))
        except asyncpg.PostgresError as error:
            print(type(error).__name__)

asyncio.run(main())"""
    return service.run("python", "-c", code, *statements).stdout.split()


def test_a_usual_index_finds_no_prefixes_as_on_most_databases(service: Service) -> None:
    service.sql(
        "CREATE TABLE names (name text); INSERT INTO names SELECT md5(n::text) FROM generate_series(1, 20000) n"
    )
    service.sql("CREATE INDEX usual ON names (name)")
    service.sql("ANALYZE names")
    query = "EXPLAIN SELECT FROM names WHERE name LIKE 'abc%'"
    assert "usual" not in service.sql(query)
    service.sql("CREATE INDEX special ON names (name text_pattern_ops)")
    assert "Index Cond" in service.sql(query)


# Each statement's object can be dropped by the application's role once that owns it.
MADE_BY_THE_SUPERUSER = {
    "CREATE TYPE mood AS ENUM ('a', 'b')": "TYPE mood CASCADE",
    "CREATE DOMAIN positive AS int CHECK (value > 0)": "DOMAIN positive CASCADE",
    "CREATE TYPE pair AS (a int, b text)": "TYPE pair",
    "CREATE TYPE span AS RANGE (subtype = float8)": "TYPE span",
    "CREATE TABLE serials (id serial, mood mood)": "TABLE serials",
    "CREATE TABLE identities (id int GENERATED ALWAYS AS IDENTITY)": "TABLE identities",
    "CREATE TABLE parts (id int, day date) PARTITION BY RANGE (day)": "TABLE parts CASCADE",
    "CREATE TABLE part PARTITION OF parts DEFAULT": "TABLE part",
    "CREATE SEQUENCE numbers": "SEQUENCE numbers",
    "CREATE VIEW seen AS SELECT 1 AS one": "VIEW seen",
    "CREATE MATERIALIZED VIEW stored AS SELECT 1 AS one": "MATERIALIZED VIEW stored",
    "CREATE FUNCTION f(int, text) RETURNS int LANGUAGE sql AS 'SELECT $1'": "FUNCTION f",
    "CREATE COLLATION letters (locale = 'C')": "COLLATION letters",
    "CREATE STATISTICS joint ON id, mood FROM serials": "STATISTICS joint",
    "CREATE OPERATOR ### (leftarg = int, rightarg = int, function = int4pl)": "OPERATOR ### (int, int)",
    "CREATE TEXT SEARCH CONFIGURATION words (copy = english)": "TEXT SEARCH CONFIGURATION words",
    "CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT 1'": "PROCEDURE p",
    """CREATE SCHEMA "odd ""Schema" CREATE TABLE "odd Table" (id int)""": """TABLE "odd ""Schema"."odd Table\"""",
}


def test_data_of_before_the_role_is_carried_over_while_its_server_runs(service: Service) -> None:
    """What the superuser alone made."""
    devdb(service, "start")
    old = "REASSIGN OWNED BY application TO postgres; DROP OWNED BY application; DROP ROLE application"
    superuser_sql(
        service, "; ".join([*MADE_BY_THE_SUPERUSER, "SELECT lo_create(47110)", "CREATE EXTENSION vector", old])
    )
    secret = (service.path / ".devdb/password").read_text()
    (service.path / ".devdb/role").unlink()
    drops = [f"DROP {what}" for what in reversed(MADE_BY_THE_SUPERUSER.values())]
    answers = ask(service, "SELECT count(*) FROM serials", "SELECT lo_unlink(47110)", *drops)
    assert answers == ["0", "1", *["None"] * len(drops)]
    assert (service.path / ".devdb/password").read_text() == secret


def test_reset_says_what_it_deleted_and_asks_at_a_terminal(service: Service) -> None:
    devdb(service, "start")
    code = (
        "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn([sys.executable, '-m', 'devdb', 'reset'])))"
    )
    for answer, status in (("n", 1), ("y", 0)):
        done = subprocess.run(
            [service.python, "-c", code],
            cwd=service.path,
            input=f"{answer}\n",
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Delete all databases in" in done.stdout
        assert done.returncode == status
        assert (service.path / ".devdb/data").exists() == (answer == "n")
    assert devdb(service, "reset").stdout == f"deleted {service.path}/.devdb/data\n"
