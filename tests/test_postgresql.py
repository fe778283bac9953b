"""The machinery keeps its promises on the PostgreSQL of the wheel and of Debian, over TLS, and behind PgBouncer."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from conftest import ROOT, TIME_LIMIT, Service

IS_ROOT = hasattr(os, "getuid") and os.getuid() == 0
USER = "nobody" if IS_ROOT else getpass.getuser()  # PostgreSQL and PgBouncer refuse to run as root
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
needs_postgresql = pytest.mark.skipif(not BINARIES, reason="there is no PostgreSQL of the system's")
needs_pgbouncer = pytest.mark.skipif(not (BINARIES and PGBOUNCER), reason="there is no PgBouncer")
PASSWORD = "p@ss w%rd/"
QUOTED = "p%40ss%20w%25rd%2F"


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, user=USER, capture_output=True, timeout=TIME_LIMIT, cwd="/")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # the path of a socket must be short
        shutil.chown(name, USER)
        yield Path(name)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """The system's newest PostgreSQL, with a certificate for `localhost`; yields `user:password@localhost:port`."""
    binaries, data, port = BINARIES[-1], folder / "data", free_port()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "root.pem")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    (folder / "server.pem").chmod(0o600)
    (folder / "password").write_text(PASSWORD)
    for path in folder.iterdir():
        shutil.chown(path, USER)
    run(
        binaries / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "-A",
        "scram-sha-256",
        f"--pwfile={folder}/password",
        "-E",
        "UTF8",
    )
    with (data / "postgresql.conf").open("a") as conf:
        conf.write(
            f"port = {port}\nlisten_addresses = 'localhost'\nunix_socket_directories = '{folder}'\nfsync = off\n"
            f"ssl = on\nssl_cert_file = '{folder}/server.pem'\nssl_key_file = '{folder}/server.pem'\nmax_connections = 200\n"
        )
    run(binaries / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "start")
    yield f"postgres:{QUOTED}@localhost:{port}"
    run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def pgbouncer(folder: Path, server: str, mode: str) -> Iterator[str]:
    """Run PgBouncer in front of `server`, and yield `user:password@localhost:port`."""
    port, config = free_port(), folder / "pgbouncer.ini"
    users = folder / "users.txt"
    users.write_text(f'"postgres" "{PASSWORD}"\n')
    config.write_text(
        f"[databases]\n* = host=localhost port={server.rpartition(':')[2]}\n"
        f"[pgbouncer]\nlisten_addr = localhost\nlisten_port = {port}\nauth_type = plain\nauth_file = {users}\n"
        f"pool_mode = {mode}\ndefault_pool_size = 4\nmax_client_conn = 200\nunix_socket_dir =\n"
    )
    with subprocess.Popen(
        [str(PGBOUNCER), "-q", str(config)], user=USER, cwd="/", stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + TIME_LIMIT
            while not listens(port):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield f"postgres:{QUOTED}@localhost:{port}"
        finally:
            process.terminate()


# Files of `tests/service` besides the one on safety; each group takes about as long as another.
GROUPS = [
    ["callers", "comparison"],
    ["autogenerate", "brought_databases", "migrations", "offline", "planted_functions"],
    [
        "engine",
        "errors",
        "document",
        "fixtures",
        "health",
        "items",
        "own_settings",
        "session",
        "sessions_in_use",
        "telemetry",
        "url",
    ],
    ["models_of_others"],
]
WITHOUT_DATABASE = ["logs", "middleware", "migration_lint", "settings"]


@pytest.fixture
def complete(service: Service) -> Service:
    """A service with the tests of its machinery beside its own."""
    shutil.copytree(ROOT / "tests/service", service.path / "tests/service")
    return service


def run_inside(service: Service, names: list[str], url: str = "") -> None:
    """Run files of `tests/service` on the server at `url`, or else on one that the tests start."""
    files = [f"tests/service/test_{name}.py" for name in names]
    service.run("pytest", *files, env={"TEST_DATABASE_URL": url}, timeout=900)


def test_every_test_of_the_machinery_is_clean_and_runs(complete: Service) -> None:
    complete.run("ruff", "check")
    complete.run("ruff", "format", "--check")
    complete.run("mypy")
    files = {path.stem.removeprefix("test_") for path in (ROOT / "tests/service").glob("test_*.py")}
    assert files == {"safety", *WITHOUT_DATABASE, *(name for group in GROUPS for name in group)}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to end a migration by")
def test_the_migrations_are_safe_on_the_development_database(complete: Service) -> None:
    run_inside(complete, ["safety"])


@needs_postgresql
def test_the_migrations_are_safe_on_the_system_s_postgresql(complete: Service, server: str) -> None:
    url = f"postgresql://{server}/postgres"
    complete.run("pytest", "--ignore=tests/service", env={"TEST_DATABASE_URL": url})
    run_inside(complete, ["safety"], url)


@pytest.mark.parametrize("group", [*GROUPS, WITHOUT_DATABASE], ids="-".join)
def test_the_machinery_works_on_the_development_database(complete: Service, group: list[str]) -> None:
    run_inside(complete, group)


@needs_postgresql
@pytest.mark.parametrize("group", GROUPS, ids="-".join)
def test_the_machinery_works_on_the_system_s_postgresql(complete: Service, server: str, group: list[str]) -> None:
    run_inside(complete, group, f"postgresql://{server}/postgres")


@needs_postgresql
def test_tls_is_what_the_url_asks_for(service: Service, server: str, folder: Path) -> None:
    root = f"sslrootcert={folder}/root.pem"
    tls = "import asyncio, sqlalchemy as sa; from app.db.engine import create_engine; from app.settings import *\n" + (
        "async def ask():\n"
        "    async with create_engine(load_settings(Settings)).connect() as connection:\n"
        "        print(await connection.scalar(sa.text('SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()')))\n"
        "asyncio.run(ask())"
    )

    def ask(query: str, host: str = "localhost") -> str:
        url = f"postgresql://{server.replace('localhost', host)}/postgres?{query}"
        done = service.run("python", "-W", "ignore", "-c", tls, check=False, env={"DATABASE_URL": url})
        return (done.stdout + done.stderr).strip().split("\n")[-1]

    for query in ("sslmode=disable", f"host={folder}"):
        assert ask(query) == "False"
    for query in ("", "sslmode=prefer", "sslmode=require", f"sslmode=verify-ca&{root}", f"sslmode=verify-full&{root}"):
        assert ask(query) == "True"
    assert ask(f"sslmode=require&channel_binding=require&{root}") == "True"
    assert "does not exist" in ask("sslmode=verify-full")
    assert "CERTIFICATE_VERIFY_FAILED" in ask(f"sslmode=verify-full&{root}", host="127.0.0.1")
    # Nobody vouches for this certificate, so channel binding cannot be replaced by verifying it.
    assert "channel_binding=require" in ask("sslmode=require&channel_binding=require")
    assert "CERTIFICATE_VERIFY_FAILED" in ask("sslrootcert=system")


@needs_pgbouncer
def test_a_transaction_pooler_is_refused_by_migrations_and_served_by_the_application(
    service: Service, server: str, folder: Path
) -> None:
    direct = {"MIGRATION_DATABASE_URL": f"postgresql://{server}/postgres?sslmode=disable"}
    with pgbouncer(folder, server, "transaction") as pooler:
        pooled = {"DATABASE_URL": f"postgresql://{pooler}/postgres?sslmode=disable"}
        refused = service.alembic("upgrade", "head", check=False, env=pooled)
        assert refused.returncode != 0
        assert "a pooler in transaction mode" in refused.stderr
        assert "MIGRATION_DATABASE_URL" in refused.stderr
        assert service.alembic("current", env=pooled).stdout == ""
        service.alembic("upgrade", "head", env=pooled | direct)

        with service.serve(pooled | {"DATABASE_POOLER": "transaction"}) as client:

            def write_and_read(number: int) -> int:
                item = client.post("/api/v1/items", json={"name": f"item {number}", "price": 1}).json()
                client.get("/api/v1/items")
                return client.get(f"/api/v1/items/{item['id']}").status_code

            with ThreadPoolExecutor(16) as threads:
                assert set(threads.map(write_and_read, range(300))) == {200}


@needs_pgbouncer
def test_a_session_pooler_will_do_for_migrations(service: Service, server: str, folder: Path) -> None:
    with pgbouncer(folder, server, "session") as pooler:
        env = {"DATABASE_URL": f"postgresql://{pooler}/template1?sslmode=disable"}
        service.alembic("upgrade", "head", env=env)
        assert "(head)" in service.alembic("current", env=env).stdout
        service.alembic("downgrade", "base", env=env)
