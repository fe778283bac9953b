"""Three processes of the service, a proxy, PgBouncer, a primary and a standby: what was acknowledged is there, whatever ends."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest
from conftest import TIME_LIMIT, Service, wait_for
from test_limits import CONFIGURATION, NGINX
from test_postgresql import BINARIES, PGBOUNCER, USER, free_port, listens, run
from test_robustness import ITEMS, wait_until

POOL = 10  # connections of PgBouncer to the primary
PASSING = {502, 503, 504}  # what says: again, please; the first and the last are the proxy's
BOUNCER = """\
[databases]
* = host=127.0.0.1 port={server} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = any
auth_file = /dev/null
pool_mode = transaction
default_pool_size = {pool}
server_login_retry = 1
unix_socket_dir =
"""
REVISION = """\
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "f00000000000", {head!r}, None, None


def upgrade() -> None:
    op.add_column("items", sa.Column("weight", sa.Integer()))


def downgrade() -> None:
    op.drop_column("items", "weight")
"""

pytestmark = pytest.mark.skipif(
    not (BINARIES and PGBOUNCER and NGINX), reason="there is no PostgreSQL, PgBouncer or nginx"
)


@dataclass
class Postgres:
    """A server in a folder, on a port of its own."""

    folder: Path
    port: int = field(default_factory=free_port)

    def control(self, *arguments: str) -> None:
        run(BINARIES[-1] / "pg_ctl", "-D", self.folder, "-l", f"{self.folder}.log", "-w", *arguments)

    def initialise(self) -> None:
        run(BINARIES[-1] / "initdb", "-D", self.folder, "-U", "postgres", "-A", "trust", "-E", "UTF8")
        self.start()

    def follow(self, primary: "Postgres") -> None:
        """Begin anew, as a standby of `primary`."""
        shutil.rmtree(self.folder, ignore_errors=True)
        source = f"host=127.0.0.1 port={primary.port} user=postgres"
        run(BINARIES[-1] / "pg_basebackup", "-D", self.folder, "-d", source, "-R", "-c", "fast")
        self.start()
        wait_until(lambda: primary.sql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1")

    def start(self) -> None:
        options = f"-p {self.port} -k '' -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=100"
        self.control("-o", options, "start")

    def stop(self) -> None:
        if (self.folder / "postmaster.pid").exists():
            self.control("-m", "immediate", "stop")

    def sql(self, *statements: str) -> str:
        commands = [word for statement in statements for word in ("-c", statement)]
        url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        return subprocess.check_output([BINARIES[-1] / "psql", "-XAtq", *commands, url], text=True, cwd="/").strip()

    def connections(self) -> int:
        return int(
            self.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = 'postgres' AND pid <> pg_backend_pid()")
        )


@dataclass
class Load:
    """Eight clients that post items, and get what was acknowledged."""

    port: int
    counts: Counter[str] = field(default_factory=Counter)
    acknowledged: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # answers that must not be

    @contextmanager
    def run(self) -> Iterator[None]:
        stop = threading.Event()
        with ThreadPoolExecutor(8) as threads:
            done = [threads.submit(self._write, stop) for _ in range(8)]
            try:
                yield
            finally:
                stop.set()
            for each in done:
                each.result()

    def goes_on(self, count: int = 40) -> None:
        target = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= target)

    def _write(self, stop: threading.Event) -> None:
        with httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30) as client:
            while not stop.is_set():
                name = uuid4().hex
                created = self._count(client.post(ITEMS, json={"name": name, "price": 1}))
                if created.status_code == 201:
                    self.acknowledged.append(name)
                    self._count(client.get(created.headers["location"]))

    def _count(self, answer: httpx2.Response) -> httpx2.Response:
        method, status = answer.request.method, answer.status_code
        self.counts["requests"] += 1
        if method == "GET" and status == 404:
            self.counts["stale"] += 1  # the standby does not have it yet
        elif status in PASSING:
            self.counts["failed"] += 1
        elif status not in (200, 201):
            self.wrong.append(f"{method}: {status} {answer.text}")
        return answer


@dataclass
class Cluster:
    """All of it, and what one may do to it."""

    service: Service
    folder: Path
    stack: ExitStack
    primary: Postgres
    standby: Postgres
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(3)])
    bouncer: int = field(default_factory=free_port)
    front: int = field(default_factory=free_port)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    pooled: bool = True

    def spawn(
        self, *command: str | Path, env: dict[str, str] | None = None, user: str | None = None
    ) -> "subprocess.Popen[bytes]":
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=self.service.path, env=env, user=user, stdout=log, stderr=log)
        self.stack.callback(process.wait)
        self.stack.callback(process.terminate)
        return process

    def env(self) -> dict[str, str]:
        both = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        direct = f"postgresql://postgres@{both}/postgres?target_session_attrs="
        pooled = {
            "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{self.bouncer}/postgres",
            "DATABASE_POOLER": "transaction",
        }
        return {
            **self.service.env,
            **(pooled if self.pooled else {"DATABASE_URL": f"{direct}read-write"}),
            "DATABASE_REPLICA_URL": f"{direct}prefer-standby",
            "MIGRATION_DATABASE_URL": f"{direct}read-write",
        }

    def start_bouncer(self) -> "subprocess.Popen[bytes]":
        config = self.folder / "pgbouncer.ini"
        config.write_text(BOUNCER.format(server=self.primary.port, port=self.bouncer, pool=POOL))
        process = self.spawn(str(PGBOUNCER), "-q", config, user=USER)
        wait_until(lambda: listens(self.bouncer))
        return process

    def start(self, port: int) -> None:
        # The page's options, but for the host and the port.
        page = (self.service.path / "docs/deployment.md").read_text()
        [options] = re.findall("^ExecStart=.* (--timeout-keep-alive .*)$", page, re.MULTILINE)
        command = ["-m", "uvicorn", "app.main:app", "--port", str(port), *options.split()]
        self.processes[port] = self.spawn(self.service.python, *command, env=self.env())

    def end(self, port: int) -> None:
        self.processes[port].send_signal(signal.SIGTERM)
        self.processes[port].wait(TIME_LIMIT)

    def ready(self) -> None:
        for port, process in self.processes.items():
            if process.poll() is None:
                with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
                    wait_for(client, "/health/ready", process)

    def cpu(self) -> float:
        """Return the seconds of CPU that the processes have used."""
        stats = [Path(f"/proc/{process.pid}/stat").read_text().split() for process in self.processes.values()]
        return sum(int(stat[13]) + int(stat[14]) for stat in stats) / os.sysconf("SC_CLK_TCK")

    def proxy(self, ports: list[int]) -> None:
        """Have the nginx of the page on deployment pass requests on to the processes at `ports`."""
        [documented] = re.findall(
            r"^```nginx\n(.*?)^```$", (self.service.path / "docs/deployment.md").read_text(), re.MULTILINE | re.DOTALL
        )
        servers = "".join(f"server 127.0.0.1:{port};" for port in ports)
        documented = documented.replace("server 127.0.0.1:8000;", servers).replace(
            "listen 80", f"listen 127.0.0.1:{self.front}"
        )
        file, started = self.folder / "nginx.conf", (self.folder / "nginx.pid").exists()
        file.write_text(CONFIGURATION.format(documented=documented, user="user root;" if os.getuid() == 0 else ""))
        command = [str(NGINX), "-p", str(self.folder), "-c", str(file), "-e", "stderr"]
        if started:
            subprocess.run([*command, "-s", "reload"], check=True)
        else:
            self.spawn(*command)
            wait_until(lambda: listens(self.front))


@pytest.fixture
def cluster(service: Service) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name, ExitStack() as stack:
        shutil.chown(name, USER)
        folder = Path(name)
        primary, standby = Postgres(folder / "first"), Postgres(folder / "second")
        for server in (primary, standby):
            stack.callback(server.stop)
        primary.initialise()
        cluster = Cluster(service, folder, stack, primary, standby)
        yield cluster


def upgrade_at_once(cluster: Cluster) -> None:
    command = ("-m", "alembic", "upgrade", "head")
    upgrades = [cluster.spawn(cluster.service.python, *command, env=cluster.env()) for _ in range(8)]
    assert [upgrade.wait(TIME_LIMIT) for upgrade in upgrades] == [0] * 8


def measure(cluster: Cluster, load: Load) -> Iterator[str]:
    """Say what one, two and three processes answer: here they share two cores with the clients and the databases."""
    for count in (1, 2, 3):
        cluster.proxy(cluster.ports[:count])
        with load.run():
            load.goes_on(10)
            requests, used, started = load.counts["requests"], cluster.cpu(), time.monotonic()
            time.sleep(2)
            requests, used, elapsed = (
                load.counts["requests"] - requests,
                cluster.cpu() - used,
                time.monotonic() - started,
            )
        yield f"{count}: {requests / elapsed:.0f} requests a second, {used / requests * 1000:.2f} ms of CPU each"


def test_no_acknowledged_write_is_lost_by_three_processes_behind_a_pooler_and_a_proxy(cluster: Cluster) -> None:
    primary, standby, load = cluster.primary, cluster.standby, Load(cluster.front)
    standby.follow(primary)
    bouncer = cluster.start_bouncer()
    upgrade_at_once(cluster)
    for port in cluster.ports:
        cluster.start(port)
    cluster.ready()
    print("", *measure(cluster, load), sep="\n")

    def missing(server: Postgres) -> int:
        return len(set(load.acknowledged) - set(server.sql("SELECT name FROM items").split()))

    def report(name: str, happen: Callable[[], None]) -> None:
        """Have it happen under load, and print what came of it."""
        before = load.counts.copy()
        load.goes_on()
        happen()
        cluster.ready()
        load.goes_on()
        of = load.counts - before
        print(f"| {name} | {of['failed']} of {of['requests']} | {of['stale']} |")

    def kill_backends() -> None:
        for _ in range(5):
            primary.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'postgres' AND pid <> pg_backend_pid()"
            )
            load.goes_on(10)

    def restart_bouncer() -> None:
        bouncer.send_signal(signal.SIGTERM)
        bouncer.wait(TIME_LIMIT)
        cluster.start_bouncer()

    def end_one() -> None:
        cluster.end(cluster.ports[0])
        load.goes_on()
        cluster.start(cluster.ports[0])

    def upgrade() -> None:
        head = primary.sql("SELECT version_num FROM alembic_version_my_service")
        cluster.service.write("migrations/versions/weight.py", REVISION.format(head=head))
        upgrade_at_once(cluster)
        assert primary.sql("SELECT version_num FROM alembic_version_my_service") == "f00000000000"

    def lose_standby() -> None:
        standby.stop()
        load.goes_on()
        standby.start()

    def fail_over(old: Postgres, new: Postgres) -> None:
        old.stop()
        new.control("promote")

    with load.run():
        report("nothing", lambda: None)
        at_primary, at_standby = primary.connections(), standby.connections()
        print(f"connections: {at_primary} at the primary, {at_standby} at the standby")
        report("all backends killed, 5 times", kill_backends)
        report("PgBouncer restarted", restart_bouncer)
        report("a process ended and started", end_one)
        report("eight upgrades at once", upgrade)
        report("the standby killed and started", lose_standby)
    # The pooler holds what the processes share; each process has another connection, for the probes of the standby.
    assert at_primary <= POOL
    assert missing(primary) == 0

    for port in cluster.ports:
        cluster.end(port)
    cluster.pooled = False
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
    wait_until(lambda: primary.sql("SELECT sync_state FROM pg_stat_replication") == "sync")
    for port in cluster.ports:
        cluster.start(port)
    cluster.ready()
    with load.run():
        report("failover, synchronous", lambda: fail_over(primary, standby))
    assert missing(standby) == 0

    # What the database itself loses, the test sees.
    primary.follow(standby)

    def fail_over_without_replication() -> None:
        primary.sql("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        wait_until(lambda: standby.sql("SELECT count(*) FROM pg_stat_replication") == "0")
        load.goes_on()
        fail_over(standby, primary)

    with load.run():
        report("failover, replication cut before", fail_over_without_replication)
    lost = missing(primary)
    print(f"lost by it: {lost} of {len(load.acknowledged)}; by all the others: 0")
    assert lost > 0
    assert not load.wrong, load.wrong[:10]
