"""A real container engine, on stand-ins for the images that are not on this machine."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import TIME_LIMIT, environment
from cookiecutter.main import cookiecutter

DEBIAN = Path("/var/cache/fastapi-service-template")  # what `.ci/engine` unpacks
NETWORK = f"service-{os.getpid()}"  # of this process: no port of the machine is taken
IMAGE = "my-service"
NOBODY = 65534
LOCKED_UP = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=256m")

# Debian's PostgreSQL, started as the official image starts its own: as far as compose.yaml can tell, it is that image.
POSTGRES = """\
set -e
if ! [ -s "$PGDATA/PG_VERSION" ]; then
    install -d -o 65534 -m 700 "$PGDATA"
    echo "$POSTGRES_PASSWORD" >/tmp/password
    setpriv --reuid=65534 --clear-groups initdb --username=postgres --auth=scram-sha-256 --pwfile=/tmp/password >&2
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
fi
exec setpriv --reuid=65534 --clear-groups postgres -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
"""

REQUEST = """\
import sys, urllib.error, urllib.request
_, method, url, body, host, token = sys.argv
headers = {"content-type": "application/json", "host": host} | ({"authorization": f"Bearer {token}"} if token else {})
request = urllib.request.Request(url, body.encode() or None, headers, method=method)
try:
    answer = urllib.request.urlopen(request, timeout=30)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode())
"""

needs_engine = pytest.mark.skipif(
    not (DEBIAN.is_dir() and hasattr(os, "getuid") and os.getuid() == 0),
    reason="there is no container engine that the tests may start: .ci/engine fetches it, for root on Debian",
)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIME_LIMIT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@dataclass
class Engine:
    """Docker, in a folder of its own."""

    folder: Path
    in_network: tuple[str, ...] = ()

    @property
    def env(self) -> dict[str, str]:
        path = f"{DEBIAN}/engine/usr/sbin:{DEBIAN}/engine/usr/bin:{os.environ['PATH']}:/usr/sbin:/sbin"
        return environment() | {
            "PATH": path,
            "DOCKER_HOST": f"unix://{self.folder}/sock",
            "DOCKER_CONFIG": str(self.folder / "config"),
        }

    @contextmanager
    def running(self, *options: str, network: str = "") -> Iterator[None]:
        """Run the daemon, in the network namespace `network` if there is one; its images outlive it."""
        self.in_network = ("nsenter", f"--net=/run/netns/{network}") if network else ()
        folders = [f"--{name}={self.folder / name}" for name in ("data-root", "exec-root", "pidfile")]
        command = [*self.in_network, "dockerd", *folders, f"--host=unix://{self.folder}/sock", *options]
        with (self.folder / "log").open("ab") as log, subprocess.Popen(command, env=self.env, stderr=log) as daemon:
            try:
                wait_until(lambda: daemon.poll() is not None or self("info", check=False).returncode == 0)
                assert daemon.poll() is None, (self.folder / "log").read_text()[-3000:]
                yield
                if running := self("ps", "--quiet").stdout.split():
                    self("rm", "--force", *running)
            finally:
                daemon.terminate()

    def __call__(
        self, *arguments: str | Path, check: bool = True, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of docker's."""
        done = subprocess.run(
            ["docker", *arguments],
            cwd=cwd,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
        assert not check or done.returncode == 0, f"{arguments} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    def bring(self, name: str, folder: Path, *changes: str) -> None:
        """Make the files of `folder` the image `name`."""
        with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as tar:
            options = [f"--change={change}" for change in changes]
            subprocess.run(["docker", "import", *options, "-", name], stdin=tar.stdout, env=self.env, check=True)

    def inspect(self, container: str, what: str) -> str:
        return self("inspect", "--format", f"{{{{{what}}}}}", container).stdout.strip()

    @contextmanager
    def run(self, *options: str) -> Iterator[str]:
        """Run the image in a container, and yield its id."""
        container = self("run", "--detach", *LOCKED_UP, *options, IMAGE).stdout.strip()
        try:
            yield container
        finally:
            self("rm", "--force", container)

    def output(self, *command: str, options: tuple[str, ...] = ()) -> str:
        """Return what `command` prints in a container that is as locked up as the service."""
        return self("run", "--rm", *LOCKED_UP, *options, IMAGE, *command).stdout.strip()

    def request(
        self, method: str, path: str, body: str = "", host: str = "localhost", token: str = ""
    ) -> tuple[int, str]:
        arguments = (method, f"http://127.0.0.1:8000{path}", body, host, token)
        command = [*self.in_network, sys.executable, "-c", REQUEST, *arguments]
        status, _, text = subprocess.check_output(command, text=True, timeout=TIME_LIMIT).partition(" ")
        return int(status), text


@pytest.fixture(scope="session")
def path(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with users, and so with all of another's, as it stands on a developer's machine: with secrets, and closed."""
    path = bake_into(tmp_path_factory.mktemp("docker"), template, "users")
    for secret in (".env", "app/.env.local"):
        (path / secret).write_text("SECRET=1\n")
    for each in path.rglob("*"):
        each.chmod(0o700 if each.is_dir() else 0o600)
    return path


@pytest.fixture(scope="session")
def guarded(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service whose items are for who has a token of its provider."""
    path = bake_into(tmp_path_factory.mktemp("docker"), template, "oidc", project_slug="guarded")
    router = path / "app/items/router.py"
    text = router.read_text().replace('tags=["items"])', 'tags=["items"], dependencies=[SignedIn])')
    router.write_text(text.replace("from app.items", "from app.oidc.dependencies import SignedIn\nfrom app.items", 1))
    return path


def bake_into(folder: Path, template: Path, auth: str, **answers: str) -> Path:
    answers["auth"] = auth
    return Path(cookiecutter(str(template), no_input=True, extra_context=answers, output_dir=str(folder)))


@pytest.fixture(scope="session")
def engine(path: Path, guarded: Path) -> Iterator[Engine]:
    """An engine that has built the services' images, and runs containers in a network without a way out."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # the path of a socket must be short
        subprocess.run(["mount", "-t", "tmpfs", "engine", name], check=True)  # images are many files, and soon gone
        subprocess.run(["ip", "netns", "add", NETWORK], check=True)
        try:
            engine = Engine(Path(name))
            plugins = str(DEBIAN / "engine/usr/libexec/docker/cli-plugins")
            (engine.folder / "config").mkdir()
            (engine.folder / "config/config.json").write_text(json.dumps({"cliPluginsExtraDirs": [plugins]}))
            offline = (
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
                "--ip-masq=false",
            )
            with engine.running(*offline):
                bring_bases(engine, path)
                started = time.monotonic()
                for service in (path, guarded):
                    engine("build", "--network=host", "--tag", service.name, service)
                print(f"built in {time.monotonic() - started:.1f} s")
            subprocess.run(["ip", "-n", NETWORK, "link", "set", "lo", "up"], check=True)
            with engine.running(network=NETWORK):
                yield engine
        finally:
            subprocess.run(["ip", "netns", "delete", NETWORK], check=True)
            subprocess.run(["umount", "--lazy", name], check=True)


def bring_bases(engine: Engine, path: Path) -> None:
    """Make the images that the service's files name, of what is on this machine."""
    python, uv = (
        re.search(rf"^FROM (\S*{name}:\S+)", (path / "Dockerfile").read_text(), re.MULTILINE)
        for name in ("python", "uv")
    )
    assert python
    assert uv
    certificates = "ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"
    engine.bring(python[1], DEBIAN / "base", certificates, 'CMD ["python3"]')
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy2(str(shutil.which("uv")), folder)
        engine.bring(uv[1], folder)
    [programs] = (DEBIAN / "database/usr/lib/postgresql").iterdir()
    engine.bring(
        "postgres:18",
        DEBIAN / "database",
        f"ENV PATH=/usr/lib/postgresql/{programs.name}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ENV PGDATA=/var/lib/postgresql/18/docker",
        "VOLUME /var/lib/postgresql",
        f"ENTRYPOINT {json.dumps(['sh', '-c', POSTGRES, 'start'])}",
    )
