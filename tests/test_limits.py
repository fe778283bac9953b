"""Behind the proxy that the README demands, no client takes the service's memory, or stays for ever."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx2
import pytest
from conftest import TIME_LIMIT, Service, environment, wait_for
from cookiecutter.main import cookiecutter
from test_robustness import ITEMS, Server, launch, wait_until

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
MEGABYTE = 1_000_000
ALLOWANCE = 100 * MEGABYTE  # of memory, for what the clients of one test do; without the proxy it was up to 1.9 GB
# nginx around what the README shows: in a folder of its own, and impatient.
CONFIGURATION = """
daemon off;
pid nginx.pid;
error_log stderr;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    scgi_temp_path scgi;
    uwsgi_temp_path uwsgi;
    {documented}
}}
"""

pytestmark = pytest.mark.skipif(
    not (NGINX and Path("/proc/self/status").exists()),
    reason="there is no nginx, or no Linux to ask for a process's memory",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def proxy(server: Server, folder: Path) -> Iterator[int]:
    """Run nginx as the README says, in front of `server`; yield its port."""
    port = free_port()
    [documented] = re.findall(
        "^```nginx\n(.*?)^```$", (server.service.path / "docs/deployment.md").read_text(), re.MULTILINE | re.DOTALL
    )
    for old, new in {
        "listen 80": f"listen 127.0.0.1:{port}",
        ":8000": f":{server.port}",
        "timeout 10s": "timeout 1s",
    }.items():
        assert old in documented
        documented = documented.replace(old, new)
    file = folder / "nginx.conf"
    file.write_text(CONFIGURATION.format(documented=documented, user="user root;" if os.getuid() == 0 else ""))
    assert NGINX
    with subprocess.Popen([NGINX, "-p", folder, "-c", file, "-e", "stderr"]) as process:
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
                wait_for(client, "/health/ready", process)
            yield port
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def server(template: Path, virtual_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("limits")
    path = Path(cookiecutter(str(template), no_input=True, output_dir=str(folder)))
    service = Service(path, environment() | {"UV_PROJECT_ENVIRONMENT": str(virtual_environment)})
    service.alembic("upgrade", "head")
    with launch(service) as server:
        yield server
    service.run("python", "-m", "devdb", "stop")


@pytest.fixture(scope="module")
def port(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with proxy(server, tmp_path_factory.mktemp("nginx")) as port:
        yield port


@pytest.fixture
def holds(server: Server) -> Iterator[None]:
    """What the test does leaves the service responsive, and costs it little memory at any time."""
    before = memory(server, "VmRSS")
    yield
    assert server.client.get(ITEMS).status_code == 200
    assert memory(server, "VmHWM") - before < ALLOWANCE


def memory(server: Server, name: str) -> int:
    """Return the bytes that the service has (`VmRSS`), or has had at most (`VmHWM`)."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIME_LIMIT)


def push(connection: socket.socket, piece: bytes, size: int) -> None:
    """Send `piece` until it makes up `size` bytes, or the other side takes no more."""
    connection.settimeout(1)
    with suppress(OSError):
        for _ in range(size // len(piece)):
            connection.sendall(piece)
    connection.settimeout(TIME_LIMIT)


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionError):
        while data := connection.recv(65_536):
            received += data
    return received


@pytest.mark.usefixtures("holds")
@pytest.mark.parametrize(
    ("start", "piece"),
    [(b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X-Filler: " + b"x" * 4000 + b"\r\n"), (b"GET /", b"x" * 65_536)],
    ids=["headers", "target"],
)
def test_the_head_of_a_request_is_limited(port: int, start: bytes, piece: bytes) -> None:
    with connect(port) as connection:
        connection.sendall(start)
        push(connection, piece, 150 * MEGABYTE)  # which nginx throws away, for a while
        assert re.match(rb"HTTP/1.1 4\d\d |$", until_closed(connection))


@pytest.mark.usefixtures("holds")
def test_requests_that_come_ahead_wait_outside(port: int) -> None:
    pipelined = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(port)) for _ in range(10)]
        for connection in connections:
            push(connection, pipelined, 4 * MEGABYTE)


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\nHost: loc", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"]
)
def test_a_client_that_says_no_more_is_left(port: int, said: bytes) -> None:
    with connect(port) as connection:
        connection.sendall(said)
        assert b" 200 " not in until_closed(connection)


@pytest.mark.usefixtures("holds")
def test_answers_that_are_not_read_wait_outside(server: Server, port: int) -> None:
    """The longest texts that the service takes, a hundred to a page, written as JSON's longest escapes."""
    for number in range(100):
        item = {"name": f"{number}", "description": "\x01" * 10_000, "price": 1}
        assert server.client.post(ITEMS, json=item).status_code == 201
    page = server.client.get(f"{ITEMS}?limit=100").content
    assert len(page) > 6 * MEGABYTE
    request = f"GET {ITEMS} "
    before = server.log.read_text().count(request)
    with ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", port))
            connection.sendall(f"GET {ITEMS}?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_until(lambda: server.log.read_text().count(request) - before >= 20)
