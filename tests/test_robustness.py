"""Bad input, lost connections, a database that fails and signals do a running service no harm, and lose no data."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from conftest import TIME_LIMIT, Service, environment, wait_for
from cookiecutter.main import cookiecutter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

needs_signals = pytest.mark.skipif(
    os.name == "nt", reason="Windows has no signals to stop a service or its database by"
)
SMALL_LIMITS = {"DATABASE_STATEMENT_TIMEOUT": "2", "DATABASE_POOL_TIMEOUT": "1"}
ANSWER_LIMIT = 20  # seconds; what the small limits allow, and generously more
SHUTDOWN_LIMIT = 60  # seconds, for the process to end though its database hangs
ITEMS = "/api/v1/items"
SOME_ITEM = f"{ITEMS}/{UUID(int=1)}"
SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

# A domain whose path functions stop where a test wants to do them harm: at a gate, which the test opens.
PROBES = """\
import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Body, Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.session import SessionDep

router = APIRouter(prefix="/probes", include_in_schema=False)
INSERT = "INSERT INTO items (id, name, price) VALUES (gen_random_uuid(), :name, 1)"


async def gate(name: str) -> None:
    (Path(__file__).parent / f"{name}.arrived").touch()
    while not (Path(__file__).parent / f"{name}.open").exists():
        await asyncio.sleep(0.01)


async def insert(session: AsyncSession, name: str) -> None:
    await session.execute(text(INSERT), {"name": name})


@router.post("/pair", status_code=201)
async def pair(name: str, session: SessionDep) -> None:
    await insert(session, f"{name} 1")
    await gate(name)
    await insert(session, f"{name} 2")


@router.post("/body", status_code=201)
async def body(name: str, request: Request, session: SessionDep) -> None:
    await insert(session, f"{name} 1")
    (Path(__file__).parent / f"{name}.arrived").touch()
    await request.body()
    await insert(session, f"{name} 2")


@router.post("/deferred", status_code=201)
async def deferred(name: str, session: SessionDep) -> None:
    await insert(session, name)
    await session.execute(text("INSERT INTO probes VALUES (gen_random_uuid())"))


@router.post("/skew", status_code=201)
async def skew(name: str, mine: str, session: SessionDep) -> None:
    await session.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
    await session.execute(text("SELECT count(*) FROM items WHERE starts_with(name, :name)"), {"name": name})
    await insert(session, f"{name} {mine}")
    await gate(f"{name} {mine}")


@router.post("/bug")
async def bug(password: Annotated[str, Body(embed=True)], session: SessionDep) -> None:
    await session.execute(text("SELECT no_such_column"))


@router.post("/killed", status_code=201)
async def killed(name: str, request: Request, session: SessionDep) -> None:
    await insert(session, name)
    pid = await session.scalar(text("SELECT pg_backend_pid()"))
    async with request.app.state.database.engine.connect() as other:
        await other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
"""
SIGNAL_POSTGRESQL = """\
import sys
from contextlib import suppress
import psutil
from devdb import ROOT
from devdb.server import pid_file
server = psutil.Process(int(pid_file(ROOT / ".devdb/data")[0]))
processes = server.children()
server.send_signal(int(sys.argv[1]))
with suppress(psutil.NoSuchProcess):
    processes += server.children()  # what it started meanwhile
for process in processes:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(int(sys.argv[1]))
"""


@dataclass
class Server:
    """A service that runs."""

    service: Service
    process: subprocess.Popen[bytes]
    client: httpx2.Client
    log: Path

    @property
    def port(self) -> int:
        return self.client.base_url.port or 0

    def arrived(self, name: str) -> None:
        """Return once a request stands at the gate of this name."""
        wait_until((self.service.path / f"app/probes/{name}.arrived").exists)

    def open(self, name: str) -> None:
        (self.service.path / f"app/probes/{name}.open").touch()

    def names(self, prefix: str) -> set[str]:
        """Return the names of the committed items that start with `prefix`."""
        page = self.client.get(ITEMS, params={"name_prefix": prefix, "limit": 100}).json()
        return {item["name"] for item in page["items"]}


def label(data: bytes | None) -> str:
    """Name a test by what is sent."""
    return "none" if data is None else f"{data[:40]!r}, {len(data)} bytes"


@dataclass
class Answer:
    status: int
    headers: HTTPMessage
    body: bytes


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIME_LIMIT
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.02)


@contextmanager
def launch(service: Service, *options: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """Run the service as its README says, as a child of this process, its log to a file; yield it once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = service.path.parent / f"{port}.log"
    [documented] = re.findall(
        "^ExecStart=.*/(uvicorn .*)$", (service.path / "docs/deployment.md").read_text(), re.MULTILINE
    )
    address = ["--host", "127.0.0.1", "--port", str(port)]
    command = [str(service.python), "-m", *documented.split(), *address, *options]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=service.path, env={**service.env, **(env or {})}, stderr=output) as process,
    ):
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIME_LIMIT) as client:
                wait_for(client, "/health/live", process)
                yield Server(service, process, client, log)
        finally:
            process.terminate()
            try:
                process.wait(TIME_LIMIT)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def shared(template: Path, virtual_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the probes and a database, for the tests that harm neither."""
    folder = cookiecutter(str(template), no_input=True, output_dir=str(tmp_path_factory.mktemp("robust")))
    service = Service(Path(folder), environment() | {"UV_PROJECT_ENVIRONMENT": str(virtual_environment)})
    prepare(service)
    yield service
    service.run("python", "-m", "devdb", "stop")


@pytest.fixture(scope="module")
def running(shared: Service) -> Iterator[Server]:
    with launch(shared) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """The running service; after the test it still serves, and it has logged no traceback."""
    before = running.log.stat().st_size
    yield running
    assert running.client.get("/health/ready").status_code == 200
    assert running.client.get(ITEMS).status_code == 200
    said = running.log.read_bytes()[before:].decode(errors="replace")
    assert "Traceback" not in said, said


def prepare(service: Service) -> None:
    service.write("app/probes/router.py", PROBES)
    service.alembic("upgrade", "head")
    service.sql(
        "CREATE TABLE probes (item_id uuid CONSTRAINT fk_probes_item_id_items REFERENCES items"
        " DEFERRABLE INITIALLY DEFERRED)"
    )


def send(server: Server, data: bytes, *, half_close: bool = False, method: str = "GET") -> Answer | None:
    """Send bytes as they are, and return the answer, or None if the connection is closed instead of one."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=ANSWER_LIMIT) as connection:
        try:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # cut off; the answer may have come all the same
        with HTTPResponse(connection, method=method) as response:
            try:
                response.begin()
                return Answer(response.status, response.headers, response.read())
            except (HTTPException, ConnectionError):
                return None


def ask(
    server: Server,
    method: str,
    target: bytes | str,
    body: bytes | None = None,
    content_type: bytes | None = b"application/json",
    headers: bytes = b"",
) -> Answer | None:
    """Send a request, as raw as it is given."""
    target = target if isinstance(target, bytes) else target.encode()
    lines = method.encode() + b" " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + headers
    if body is not None:
        if content_type is not None:
            lines += b"Content-Type: " + content_type + b"\r\n"
        if b"Transfer-Encoding" not in headers:
            lines += b"Content-Length: %d\r\n" % len(body)
    return send(server, lines + b"\r\n" + (body or b""), method=method)


def complaint_about(status: int, headers: Any, body: bytes) -> str | None:
    """Say what keeps this from being an error as the service promises it."""
    said = f"{status} {dict(headers.items())} {body[:500]!r}"
    if not 400 <= status < 600:
        return f"no error: {said}"
    if headers.get("content-type") != "application/problem+json":
        return f"no problem: {said}"
    problem = json.loads(body)
    if problem["status"] != status or problem["request_id"] != headers.get("x-request-id"):
        return f"not its own status and id: {said}"
    is_unknown = problem.get("detail", "").startswith("the database did not say whether it is stored")
    if status == 503 and headers.get("retry-after", "").isdigit() == is_unknown:
        return f"no Retry-After: {said}"
    return None


def assert_refused(answer: Answer | None, *statuses: int) -> None:
    assert answer is not None, "the connection was closed without an answer"
    assert 400 <= answer.status < 500, answer
    assert not statuses or answer.status in statuses, answer
    assert complaint_about(answer.status, answer.headers, answer.body) is None


# --- the document


def test_the_service_keeps_to_its_openapi_document(server: Server, tmp_path: Path) -> None:
    schemathesis = shutil.which("schemathesis")
    assert schemathesis
    command = [schemathesis, "run", f"{server.client.base_url}/openapi.json", "--seed", "1", "--max-examples", "100"]
    command += ["--checks", "all", "--no-color"]
    command += [
        "--generation-database",
        "none",
        "--continue-on-failure",
        "--request-timeout",
        str(ANSWER_LIMIT),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout[-20_000:]


BODY_TAKERS = [("POST", ITEMS), ("PATCH", SOME_ITEM)]
PATH_TAKERS = ["GET", "PATCH", "DELETE"]
QUERY = {"limit", "cursor", "status", "name_prefix"}


def test_every_endpoint_that_takes_input_is_given_bad_input(server: Server) -> None:
    """An endpoint that is new in the template has to be added to the lists above."""
    bodies: set[tuple[str, str]] = set()
    paths: set[tuple[str, str, str]] = set()
    queries: set[tuple[str, str, str]] = set()
    for path, operations in server.client.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            if "requestBody" in operation:
                bodies.add((method.upper(), path.replace("{item_id}", str(UUID(int=1)))))
            for parameter in operation.get("parameters", []):
                (paths if parameter["in"] == "path" else queries).add((method.upper(), path, parameter["name"]))
    assert bodies == set(BODY_TAKERS)
    assert paths == {(method, f"{ITEMS}/{{item_id}}", "item_id") for method in PATH_TAKERS}
    assert queries == {("GET", ITEMS, name) for name in QUERY}


def test_no_answer_names_the_server(server: Server) -> None:
    for path in (ITEMS, "/nowhere", "/docs"):
        assert "server" not in server.client.get(path).headers


# --- pagination

LETTERS = st.sampled_from(
    [*"abAB%_\\/*?'\" ", "é", "É", "e\u0301", "ß", "\u0131", "İ", "中", "😀", "\U0010ffff", "\x01", "\n"]
)
NAMES = st.lists(LETTERS, min_size=1, max_size=6).map("".join)
STATUSES = st.sampled_from(["draft", "active", "archived"])
PROPERTY = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def create(client: httpx2.Client, name: str, status: str = "draft") -> str:
    created = client.post(ITEMS, json={"name": name, "price": 1, "status": status})
    assert created.status_code == 201, created.text
    item: dict[str, str] = created.json()
    return item["id"]


def walk(client: httpx2.Client, between: Callable[[], object] = lambda: None, **query: Any) -> list[dict[str, Any]]:
    """Return the items of all pages, and do something `between` them."""
    found: list[dict[str, Any]] = []
    while True:
        answer = client.get(ITEMS, params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["items"]) <= query["limit"]
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        assert len(page["items"]) == query["limit"]
        query["cursor"] = page["next_cursor"]
        between()


@PROPERTY
@given(
    size=st.integers(0, 12),
    limit=st.one_of(st.integers(1, 5), st.integers(1, 100)),
    changes=st.lists(st.lists(st.none() | st.integers(0, 30), max_size=4), max_size=12),
)
def test_a_walk_over_all_pages_loses_nothing_and_repeats_nothing(
    server: Server, size: int, limit: int, changes: list[list[int | None]]
) -> None:
    """Between two pages, items are created (None), and deleted (the one of this index)."""
    client, prefix = server.client, uuid4().hex
    existing = [create(client, f"{prefix} {number}") for number in range(size)]
    throughout, ever, steps = set(existing), set(existing), iter(changes)

    def change() -> None:
        for index in next(steps, []):
            if index is None:
                existing.append(create(client, f"{prefix} {uuid4()}"))
                ever.add(existing[-1])
            elif existing:
                identifier = existing.pop(index % len(existing))
                throughout.discard(identifier)
                assert client.delete(f"{ITEMS}/{identifier}").status_code == 204

    found = [item["id"] for item in walk(client, change, limit=limit, name_prefix=prefix)]
    assert len(found) == len(set(found))
    assert throughout <= set(found) <= ever
    assert found == sorted(found, reverse=True)


def test_a_walk_loses_and_repeats_nothing_while_others_write(server: Server) -> None:
    client, prefix, done = server.client, uuid4().hex, threading.Event()
    throughout = {create(client, f"{prefix} {number}") for number in range(40)}

    def disturb(number: int) -> None:
        with httpx2.Client(base_url=client.base_url, timeout=TIME_LIMIT) as own:
            kept = [create(own, f"{prefix} {number} {uuid4()}") for _ in range(5)]
            while not done.is_set():
                kept.append(create(own, f"{prefix} {number} {uuid4()}"))
                assert own.delete(f"{ITEMS}/{kept.pop(0)}").status_code == 204

    with ThreadPoolExecutor(3) as threads:
        others = [threads.submit(disturb, number) for number in range(3)]
        try:
            for limit in (1, 2, 3, 7, 20, 100):
                found = [item["id"] for item in walk(client, limit=limit, name_prefix=prefix)]
                assert len(found) == len(set(found))
                assert throughout <= set(found)
        finally:
            done.set()
        for other in others:
            other.result()


@PROPERTY
@given(
    items=st.dictionaries(NAMES, STATUSES, max_size=8),
    prefix=st.one_of(st.just(""), NAMES, st.integers(0, 50)),
    status=st.none() | STATUSES,
    limit=st.integers(1, 4),
)
def test_filters_find_what_python_finds(
    server: Server, items: dict[str, str], prefix: str | int, status: str | None, limit: int
) -> None:
    """A prefix that is a number is as many letters of one of the names."""
    client, mine = server.client, uuid4().hex
    if isinstance(prefix, int):
        some = sorted(items)[prefix % len(items)] if items else ""
        prefix = some[: prefix % 4 + 1]
    for name, its in items.items():
        create(client, mine + name, its)
    query: dict[str, Any] = {"limit": limit, "name_prefix": mine + prefix} | ({"status": status} if status else {})
    expected = [
        name for name, its in reversed(items.items()) if name.startswith(prefix) and (status is None or its == status)
    ]
    assert [item["name"] for item in walk(client, **query)] == [mine + name for name in expected]


@pytest.mark.parametrize("prefix", ["%", "_", "\\", "\\%", "%%%", "é", "É", "\U0010ffff"])
def test_a_prefix_stands_for_itself_at_the_start_of_a_name(server: Server, prefix: str) -> None:
    mine = uuid4().hex
    identifiers = [create(server.client, name + mine) for name in (prefix, f"{prefix}x", f"x{prefix}", "x")]
    found = {item["id"] for item in walk(server.client, limit=100, name_prefix=prefix)}
    assert found & set(identifiers) == set(identifiers[:2])


# --- bad input

PRICES = {
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "1e400": b"1e400",
    "-1e400": b"-1e400",
    "10**400": b"1" + b"0" * 400,
    "10**5000": b"1" + b"0" * 5000,
    "64 digits": b"1" * 64,
    "64 decimals": b"1." + b"1" * 64,
    "NaN as text": b'"NaN"',
    "sNaN as text": b'"sNaN"',
    "Infinity as text": b'"-Infinity"',
    "1e400 as text": b'"1e400"',
    "1E+999999999999 as text": b'"1E+999999999999"',
    "1E-999999999999 as text": b'"1E-999999999999"',
    "65 digits as text": b'"' + b"9" * 65 + b'"',
    "100,000 decimals as text": b'"0.' + b"1" * 100_000 + b'"',
    "NUL as text": b'"1\\u0000"',
    "a surrogate as text": b'"\\ud800"',
    "an exponent as text": b'"0E+100"',
    "other digits": '"\u0663\u0663.\u0663\u0663\u0663"'.encode(),
    "true": b"true",
    "100,000 arrays": b"[" * 100_000 + b"]" * 100_000,
}
TEXTS = {
    "an escaped NUL": b'"a\\u0000b"',
    "a raw NUL": b'"a\x00b"',
    "a lone surrogate": b'"a\\ud800"',
    "a low surrogate": b'"\\udc00 b"',
    "swapped surrogates": b'"\\udc00\\ud800"',
    "an encoded surrogate": b'"\xed\xa0\x80"',
    "broken UTF-8": b'"\xff\xfe"',
    "overlong UTF-8": b'"\xc0\x80"',
    "cut UTF-8": b'"\xf0\x9f\x98"',
    "a number": b"1" * 64,
    "NaN": b"NaN",
    "100,000 arrays": b"[" * 100_000 + b"]" * 100_000,
}
BODIES = {
    **{f"price: {name}": b'{"name": "x", "price": ' + value + b"}" for name, value in PRICES.items()},
    **{f"name: {name}": b'{"price": 1, "name": ' + value + b"}" for name, value in TEXTS.items()},
    **{
        f"description: {name}": b'{"price": 1, "name": "x", "description": ' + value + b"}"
        for name, value in TEXTS.items()
    },
    **{f"status: {name}": b'{"price": 1, "name": "x", "status": ' + value + b"}" for name, value in TEXTS.items()},
    "a long name": b'{"price": 1, "name": "' + b"x" * 900_000 + b'"}',
    "a surrogate as a field": b'{"\\ud800": 1, "name": "", "price": 1}',
    "a NUL as a field": b'{"\\u0000": 1, "name": "", "price": 1}',
    "100,000 arrays": b"[" * 100_000 + b"]" * 100_000,
    "100,000 open arrays": b"[" * 100_000,
    "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "80,000 fields": b'{"price": -1,' + b",".join(b'"%d":0' % number for number in range(80_000)) + b"}",
    "a number of 100,000 digits": b"1" * 100_000,
    "nothing": b"",
    "white space": b" \r\n",
    "NULs": b"\x00" * 1000,
    "null": b"null",
    "an array": b"[]",
    "a text": b'"text"',
    "NaN": b"NaN",
    "cut JSON": b'{"name": "x", "price": 1',
    "two values": b'{"name": "x", "price": -1} {}',
    "random bytes": bytes(range(256)),
    "half of UTF-16": '{"name": "x", "price": -1}'.encode("utf-16")[:-1],
    "gzip": bytes.fromhex("1f8b0800000000000003ab564acc4b4e552a4a2d2ecd29010000ffff"),
}


@pytest.mark.parametrize(("method", "path"), BODY_TAKERS, ids=["POST", "PATCH"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_bad_body_is_refused(server: Server, method: str, path: str, body: bytes) -> None:
    if path == SOME_ITEM:
        path = f"{ITEMS}/{create(server.client, uuid4().hex)}"
    assert_refused(ask(server, method, path, body), 400, 422)


@pytest.mark.parametrize(("method", "path"), BODY_TAKERS, ids=["POST", "PATCH"])
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        b"",
        b"text/plain",
        b"application/xml",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data",
        b"multipart/form-data; boundary=x",
        b"application/octet-stream",
        b"application/jsonp",
        b"json",
        b"/",
        b"\xff\xfe",
        b"a" * 20_000,
    ],
    ids=label,
)
def test_another_content_type_is_refused(server: Server, method: str, path: str, content_type: bytes | None) -> None:
    if path == SOME_ITEM:
        path = f"{ITEMS}/{create(server.client, uuid4().hex)}"
    body = json.dumps({"name": uuid4().hex, "price": 1}).encode()
    assert_refused(ask(server, method, path, body, content_type), 400, 415, 422)


def chunked(body: bytes, size: int = 65_536) -> bytes:
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize(("method", "path"), BODY_TAKERS, ids=["POST", "PATCH"])
@pytest.mark.parametrize("in_chunks", [False, True], ids=["content-length", "chunked"])
@pytest.mark.parametrize("content", ["text", "white space", "nothing yet"])
def test_a_body_over_the_limit_is_cut_off(
    server: Server, method: str, path: str, in_chunks: bool, content: str
) -> None:
    """10 MB, or more than a megabyte of which nothing follows: then there must be an answer without waiting for it."""
    body = b'{"name": "' + b"x" * 10_000_000 if content == "text" else b" " * 10_000_000
    headers = b"Transfer-Encoding: chunked\r\n" if in_chunks else b""
    if content == "nothing yet":
        start = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
        rest = headers + b"\r\n" + chunked(body)[:2_000_000] if in_chunks else b"Content-Length: 10000000\r\n\r\n"
        answer = send(server, start + rest)
    else:
        answer = ask(server, method, path, chunked(body) if in_chunks else body, headers=headers)
    if answer is not None:
        assert_refused(answer, 413)


QUERIES = [
    *(
        f"limit={value}".encode()
        for value in ("", "0", "-1", "101", "1e2", "NaN", "1.5", "9" * 400, "9" * 5000, "%00", "1%00", "%ff", "%D9%A3")
    ),
    *(f"limit={value}".encode() for value in ("%", "%zz", "%u0031", "%ED%A0%80", "[1]", "1,2")),
    *(f"cursor={value}".encode() for value in ("", "=", "%00", "%ff", "%ED%A0%80", "%", "%zz", "%C3%A9", "A" * 21)),
    *(
        f"cursor={value}".encode()
        for value in ("A" * 21 + "B", "A" * 23, "A" * 22 + "==", "A" * 60_000, "A" * 21 + "+")
    ),
    *(f"status={value}".encode() for value in ("", "DRAFT", "draft%00", "%00", "%ff", "%ED%A0%80", "%", "d" * 60_000)),
    *(f"name_prefix={value}".encode() for value in ("%00", "a%00b", "x" * 201, "%C3%A9" * 201, "x" * 60_000)),
]


@pytest.mark.parametrize("query", QUERIES, ids=label)
def test_a_bad_query_is_refused(server: Server, query: bytes) -> None:
    assert_refused(ask(server, "GET", f"{ITEMS}?".encode() + query), 422)


@pytest.mark.parametrize("name", sorted(QUERY))
@pytest.mark.parametrize(
    "value",
    [
        b"\xff",
        b"\xc3\xa9",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"%ff",
        b"%ED%A0%80",
        b"%",
        b"%zz",
        b"%u0041",
        b"&;&=&",
        b"%25%30",
    ],
    ids=str,
)
def test_a_query_that_is_no_utf_8_does_no_harm(server: Server, name: str, value: bytes) -> None:
    """For a prefix, it may stand for itself; raw bytes may be refused before they are a request."""
    answer = ask(server, "GET", f"{ITEMS}?{name}=".encode() + value)
    assert answer is not None
    assert answer.status < 500
    if answer.status >= 400 and max(value) < 128:
        assert_refused(answer)


PATHS = [
    b"%00",
    b"%ff",
    b"%ED%A0%80",
    b"%",
    b"%zz",
    b"%u0041",
    b"1",
    b"-1",
    b"9" * 5000,
    b"a" * 60_000,
    b"..%2f..%2fetc%2fpasswd",
    b"%2e%2e",
    str(UUID(int=1)).encode() + b"%00",
    str(UUID(int=1)).encode() + b"%0a",
    str(UUID(int=1)).encode() + b"x",
    b"urn:uuid:" + str(UUID(int=1)).encode(),
    b"%7B" + str(UUID(int=1)).encode() + b"%7D",
]


@pytest.mark.parametrize("method", PATH_TAKERS)
@pytest.mark.parametrize("path", PATHS, ids=label)
def test_a_bad_path_is_refused(server: Server, method: str, path: bytes) -> None:
    body = b'{"price": 1}' if method == "PATCH" else None
    assert_refused(ask(server, method, f"{ITEMS}/".encode() + path, body), 404, 422)


@pytest.mark.parametrize(
    "path",
    [b"/%00", b"/%ff", b"//", b"/..", b"/../../etc/passwd", b"/api/v1/%2e%2e/items", b"/%", b"/" + b"a/" * 30_000],
    ids=label,
)
def test_a_path_that_leads_nowhere_is_not_found(server: Server, path: bytes) -> None:
    assert_refused(ask(server, "GET", path), 404)


@pytest.mark.parametrize("path", [ITEMS, SOME_ITEM, "/health/live", "/health/ready"])
@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "PUT", "LOCK", "OPTIONS", "SEARCH"])
def test_another_method_is_refused(server: Server, method: str, path: str) -> None:
    answer = ask(server, method, path)
    assert_refused(answer, 405)
    assert answer
    assert answer.headers["allow"]


HEADERS = {
    "64 KB": b"X-Long: " + b"a" * 65_536 + b"\r\n",
    "a name of 64 KB": b"X" * 65_536 + b": a\r\n",
    "1,000 headers": b"".join(b"X-%d: a\r\n" % number for number in range(1000)),
    "all bytes": b"X-Bytes: " + bytes({*range(32, 256)} - {127}) + b"\r\n",
    "an id with a tab": b"X-Request-ID: a\tb\r\n",
    "an id with an escaped newline": b"X-Request-ID: a%0d%0aX-Evil: 1\r\n",
    "an id with another newline": b"X-Request-ID: a\xc2\x85b\xe2\x80\xa8c\r\n",
    "an id over two lines": b"X-Request-ID: a\r\n b\r\n",
    "an id with a bare newline": b"X-Request-ID: a\nX-Evil: 1\r\n",
    "an id with a bare return": b"X-Request-ID: a\rX-Evil: 1\r\n",
    "an id in unicode": "X-Request-ID: ünï😀\r\n".encode(),
    "an id that is no UTF-8": b"X-Request-ID: \xff\xfe\r\n",
    "a long id": b"X-Request-ID: " + b"a" * 65_536 + b"\r\n",
    "an id of 129 letters": b"X-Request-ID: " + b"a" * 129 + b"\r\n",
    "an empty id": b"X-Request-ID:\r\n",
    "two ids": b"X-Request-ID: a b\r\nX-Request-ID: c d\r\n",
    "a trace": b"Traceparent: 00-\xff-\xff-zz\r\nTracestate: \xff=\xff,,,=\r\nBaggage: =;%ff\r\n",
    "a cookie": b"Cookie: \xff=\xff; ; =;" + b"a=b;" * 5000 + b"\r\n",
    "a login": b"Authorization: Basic \xff\xff\xff\r\n",
    "forwarded": b"X-Forwarded-For: \xff, ::::, 999.1.1.1, \r\nX-Forwarded-Proto: \xff\r\nForwarded: for=\xff;;\r\n",
    "a host": b"Host: \xff\r\n",
    "accept": b"Accept: \xff/\xff;q=NaN\r\nAccept-Language: \xff\r\nAccept-Encoding: "
    + b"gzip;q=1e400," * 1000
    + b"\r\n",
    "an origin": b"Origin: \xff\r\nAccess-Control-Request-Method: \xff\r\n",
    "a range": b"Range: bytes=-1-,9" + b"9" * 1000 + b"\r\nIf-None-Match: \xff\r\nIf-Modified-Since: never\r\n",
    "upgrade": b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: \xff\r\n",
    "a websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: \xff\r\nSec-WebSocket-Version: x\r\n",
    "expect": b"Expect: 200-maybe\r\n",
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", ITEMS, None),
        ("GET", SOME_ITEM, None),
        ("DELETE", SOME_ITEM, None),
        ("POST", ITEMS, b"{}"),
        ("PATCH", SOME_ITEM, b"{}"),
        ("GET", "/health/live", None),
        ("GET", "/health/ready", None),
    ],
    ids=lambda value: str(value),
)
def test_an_absurd_header_does_no_harm(
    server: Server, headers: bytes, method: str, path: str, body: bytes | None
) -> None:
    """It is ignored or refused, and the id of the request is a sane one."""
    answer = ask(server, method, path, body, headers=headers)
    assert answer is not None
    assert answer.status < 500
    assert answer.headers["x-evil"] is None
    identifiers = answer.headers.get_all("x-request-id", [])
    assert all(SANE_ID.fullmatch(identifier) for identifier in identifiers)
    # uvicorn refuses by itself what is no HTTP or no WebSocket, in plain text and without an id.
    assert len(identifiers) == 1 or answer.headers["content-type"].startswith("text/plain")
    if identifiers and answer.status >= 400:
        assert_refused(answer)


MALFORMED = {
    "a word": b"GARBAGE\r\n\r\n",
    "no target": b"GET\r\n\r\n",
    "another version": b"GET /api/v1/items HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100c5010000c10303") + bytes(200),
    "NULs": bytes(1000),
    "all bytes": bytes(range(256)) * 100,
    "an unknown method": b"FOO /api/v1/items HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a long method": b"A" * 65_536 + b" / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "raw bytes in the path": b"GET /api/v1/items/\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "raw UTF-8 in the path": "GET /api/v1/items/é HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
    "raw bytes in the query": b"GET /api/v1/items?limit=\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a NUL in the path": b"GET /api/v1/items/\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space in the path": b"GET /api/v1/items/a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a cut address": b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "another port": b"GET http://a:99999999/api/v1/items/1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "connect": b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a star": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no colon": b"GET /api/v1/items HTTP/1.1\r\nHost\r\n\r\n",
    "a space before the colon": b"GET /api/v1/items HTTP/1.1\r\nHost : a\r\n\r\n",
    "a NUL in a header": b"GET /api/v1/items HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
    "a length that is no number": b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    "a negative length": b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    "a length with a sign": b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nContent-Length: +2\r\n\r\n{}",
    "a length with an underscore": b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1_0\r\n\r\n{}",
    "a huge length": b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "an empty length": b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nContent-Length:\r\n\r\n{}",
    "two lengths": b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length and chunks": b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "another transfer encoding": b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, x\r\n\r\n{}",
    "a chunk of no size": b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{}",
    "a huge chunk": b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"f" * 40
    + b"\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_http_is_refused(server: Server, data: bytes) -> None:
    """It gets no problem, for it is no request: uvicorn answers it, or closes the connection."""
    answer = send(server, data)
    assert answer is None or 400 <= answer.status < 500, answer


UNFINISHED = {
    "half a request": b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nContent-Le",
    "half a body": b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 1000\r\n\r\n{"name": "x"',
    "half a chunk": b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nff\r\n{",
}


@pytest.mark.parametrize("data", UNFINISHED.values(), ids=UNFINISHED)
def test_an_unfinished_request_is_refused(server: Server, data: bytes) -> None:
    answer = send(server, data, half_close=True)
    assert answer is None or 400 <= answer.status < 500, answer


def test_a_request_without_a_version_does_no_harm(server: Server) -> None:
    """It is HTTP/0.9, which uvicorn takes for a request like any other."""
    answer = send(server, b"GET /api/v1/items\r\n\r\n")
    assert answer is None or answer.status < 500, answer


@pytest.mark.parametrize(
    ("price", "read"),
    [("-0", "0.00"), ("1E+1", "10.00"), ('"0001.10"', "1.10"), ("2.50", "2.50")],
)
def test_an_odd_price_is_read_as_it_was_answered(server: Server, price: str, read: str) -> None:
    body = f'{{"name": "{uuid4().hex}", "price": {price}}}'
    created = server.client.post(ITEMS, content=body, headers={"content-type": "application/json"})
    assert created.json()["price"] == read
    assert server.client.get(created.headers["location"]).json() == created.json()


@pytest.mark.parametrize("kind", ["local", "staging"])
def test_a_bug_is_a_problem_and_its_log_tells_no_secret(shared: Service, kind: str) -> None:
    url = shared.run("python", "-m", "devdb", "url").stdout.strip()
    with launch(shared, env={"ENVIRONMENT": kind, "DATABASE_URL": url}) as server:
        answer = server.client.post(
            "/api/v1/probes/bug", json={"password": "hunter2"}, headers={"authorization": "Bearer hunter3"}
        )
        assert answer.status_code == 500
        assert complaint_about(answer.status_code, answer.headers, answer.content) is None
        assert "no_such_column" not in answer.text
        wait_until(lambda: "no_such_column" in server.log.read_text())
        assert server.client.get(ITEMS).status_code == 200
    said = server.log.read_text()  # once the service has ended, all of it
    assert "hunter2" not in said
    assert "hunter3" not in said
    assert (shared.path / ".devdb/password").read_text() not in said


# --- a commit that fails, and a client that leaves


@pytest.fixture
def name() -> str:
    return uuid4().hex


def test_a_deferred_constraint_that_fails_the_commit_is_a_conflict(server: Server, name: str) -> None:
    answer = server.client.post("/api/v1/probes/deferred", params={"name": name})
    assert answer.status_code == 409, answer.text
    assert complaint_about(answer.status_code, answer.headers, answer.content) is None
    assert server.names(name) == set()


def test_a_serialization_failure_at_the_commit_is_no_success(server: Server, name: str) -> None:
    def request(mine: str) -> httpx2.Response:
        return server.client.post("/api/v1/probes/skew", params={"name": name, "mine": mine})

    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(request, mine) for mine in "ab"]
        for mine in "ab":
            server.arrived(f"{name} {mine}")
        for mine in "ab":
            server.open(f"{name} {mine}")
    won, lost = sorted((answer.result() for answer in answers), key=lambda answer: answer.status_code)
    assert (won.status_code, lost.status_code) == (201, 503), lost.text
    assert complaint_about(lost.status_code, lost.headers, lost.content) is None
    assert server.names(name) == {f"{name} {'a' if won is answers[0].result() else 'b'}"}


def test_a_connection_that_is_lost_before_the_commit_is_no_success(server: Server, name: str) -> None:
    answer = server.client.post("/api/v1/probes/killed", params={"name": name})
    assert answer.status_code == 503, answer.text
    assert complaint_about(answer.status_code, answer.headers, answer.content) is None
    assert server.names(name) == set()
    assert {server.client.get(ITEMS).status_code for _ in range(20)} == {200}


def assert_no_transaction_is_left(server: Server) -> None:
    idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    wait_until(lambda: server.service.sql(idle) == "0")


def test_a_client_that_leaves_before_the_answer_leaves_nothing_half_done(server: Server, name: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            f"POST /api/v1/probes/pair?name={name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()
        )
        server.arrived(name)
    server.open(name)
    assert_no_transaction_is_left(server)
    assert server.names(name) in (set(), {f"{name} 1", f"{name} 2"})


@pytest.mark.parametrize("length", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"], ids=["length", "chunked"])
def test_a_client_that_leaves_within_its_body_writes_nothing(server: Server, name: str, length: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        start = f"POST /api/v1/probes/body?name={name} HTTP/1.1\r\nHost: localhost\r\n".encode()
        connection.sendall(start + length + b"\r\n\r\n1\r\nx\r\n")
        server.arrived(name)
        assert server.names(name) == set()
    assert_no_transaction_is_left(server)
    assert server.names(name) == set()


def test_many_clients_that_leave_cost_no_connection(server: Server, name: str) -> None:
    """More than the pools hold leave, and all that is sent afterwards is served."""
    with ExitStack() as connections:
        for number in range(40):
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            body = json.dumps({"name": f"{name} {number}", "price": 1}).encode()
            connection.sendall(
                f"POST {ITEMS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
    assert_no_transaction_is_left(server)
    assert server.names(name) <= {f"{name} {number}" for number in range(40)}
    for number in range(40):
        create(server.client, f"{name} after {number}")


# --- chaos


def signal_postgresql(service: Service, number: int) -> None:
    """Send a signal to all processes of the development database."""
    service.run("python", "-c", SIGNAL_POSTGRESQL, str(int(number)))


@contextmanager
def paused(service: Service) -> Iterator[None]:
    signal_postgresql(service, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_postgresql(service, signal.SIGCONT)


@dataclass
class Load:
    """Writers that post items of unique names as fast as they are answered, and read back what was acknowledged."""

    server: Server
    acknowledged: list[str] = field(default_factory=list)
    failures: list[float] = field(default_factory=list)  # when the requests that failed were begun
    complaints: list[str] = field(default_factory=list)  # about answers that must not be

    @contextmanager
    def run(self, writers: int) -> Iterator[None]:
        stop = threading.Event()
        with ThreadPoolExecutor(writers) as threads:
            done = [threads.submit(self._write, stop) for _ in range(writers)]
            try:
                yield
            finally:
                stop.set()
            for each in done:
                each.result()

    def goes_on(self, count: int = 30) -> None:
        """Return once as many more writes were acknowledged."""
        target = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= target)

    def fails(self, count: int = 3) -> None:
        target = len(self.failures) + count
        wait_until(lambda: len(self.failures) >= target)

    def _write(self, stop: threading.Event) -> None:
        with httpx2.Client(base_url=self.server.client.base_url, timeout=ANSWER_LIMIT) as client:
            while not stop.is_set():
                name = uuid4().hex
                created = self._request(client, "POST", ITEMS, json={"name": name, "price": 1})
                if created is not None and created.status_code == 201:
                    self.acknowledged.append(name)
                    self._request(client, "GET", created.headers["location"])

    def _request(self, client: httpx2.Client, method: str, path: str, **more: Any) -> httpx2.Response | None:
        started = time.monotonic()
        try:
            answer = client.request(method, path, **more)
        except httpx2.TransportError as error:
            self.failures.append(started)
            self.complaints.append(f"{method} got no answer: {error!r} after {time.monotonic() - started:.1f} s")
            return None
        if answer.status_code != (201 if method == "POST" else 200):
            self.failures.append(started)
            if complaint := complaint_about(answer.status_code, answer.headers, answer.content):
                self.complaints.append(f"{method}: {complaint}")
            elif answer.status_code != 503:
                self.complaints.append(f"{method}: {answer.text}")
        return answer


def kill_connections(service: Service, load: Load) -> None:
    """Kill them all, again and again, so that some die in the middle of a COMMIT."""
    service.sql(
        "DO $$ BEGIN FOR round IN 1..20 LOOP"
        " PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'my-service';"
        " COMMIT; PERFORM pg_sleep(0.02); END LOOP; END $$"
    )


def restart(service: Service, load: Load) -> None:
    service.run("python", "-m", "devdb", "stop")
    load.fails()
    service.run("python", "-m", "devdb", "start")


def crash(service: Service, load: Load) -> None:
    """Kill the server, as a machine's memory killer would."""
    signal_postgresql(service, signal.SIGKILL)
    load.fails()
    service.run("python", "-m", "devdb", "start")


def pause(service: Service, load: Load) -> None:
    with paused(service):
        load.fails(10)


@needs_signals
@pytest.mark.parametrize(
    "disturbances",
    [[kill_connections] * 2, [restart] * 2, [crash] * 2, [pause] * 2, [pause, restart, kill_connections, crash, pause]],
    ids=["killed connections", "restarts", "crashes", "pauses", "all"],
)
def test_no_acknowledged_write_is_lost(service: Service, disturbances: list[Callable[[Service, Load], None]]) -> None:
    """Nor does any request fail once the service says that it is ready again."""
    service.alembic("upgrade", "head")
    url = service.run("python", "-m", "devdb", "url").stdout.strip()  # so that the service does not start it itself
    with launch(service, env={**SMALL_LIMITS, "DATABASE_URL": url}) as server:
        load = Load(server)
        with load.run(writers=8):
            for disturb in disturbances:
                load.goes_on()
                disturb(service, load)
                wait_for(server.client, "/health/ready", server.process)
                ready = time.monotonic()
                load.goes_on(60)
                late = [started - ready for started in load.failures if started > ready]
                assert not late, (
                    f"failed after {disturb.__name__}, seconds after ready: {late}; {server.log.read_text()[-3000:]}"
                )
        written = set(service.sql("SELECT name FROM items").split())
        assert set(load.acknowledged) - written == set()
        assert not load.complaints, load.complaints[:10]
        assert "Traceback" not in server.log.read_text(errors="replace")


# --- shutdown


@needs_signals
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "two workers"])
def test_requests_in_flight_finish_before_the_service_ends(
    shared: Service, name: str, options: tuple[str, ...]
) -> None:
    names = [f"{name} {number}" for number in range(4)]
    with launch(shared, *options) as server, ThreadPoolExecutor(5) as threads:
        try:
            answers = [
                threads.submit(server.client.post, "/api/v1/probes/pair", params={"name": name}) for name in names
            ]
            for each in names:
                server.arrived(each)
            server.process.terminate()
            wait_until(lambda: server.log.read_text().count("Shutting down") == (2 if options else 1))
            refused = threads.submit(httpx2.post, f"{server.client.base_url}{ITEMS}", json={}, timeout=TIME_LIMIT)
            assert server.process.poll() is None
        finally:
            for each in names:
                server.open(each)
        assert [answer.result().status_code for answer in answers] == [201] * 4
        with pytest.raises(httpx2.TransportError):
            refused.result()
        assert server.process.wait(SHUTDOWN_LIMIT) in (0, -signal.SIGTERM)
        assert "Traceback" not in server.log.read_text()
    with launch(shared) as server:
        assert server.names(name) == {f"{each} {half}" for each in names for half in (1, 2)}


@needs_signals
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "two workers"])
def test_the_service_ends_though_its_database_hangs(service: Service, name: str, options: tuple[str, ...]) -> None:
    prepare(service)
    with launch(service, *options, env=SMALL_LIMITS) as server, ThreadPoolExecutor(4) as threads:
        requests = [threads.submit(server.client.get, ITEMS) for _ in range(20)]
        assert {request.result().status_code for request in requests} == {200}
        answer = threads.submit(server.client.post, "/api/v1/probes/pair", params={"name": name})
        server.arrived(name)
        with paused(service):
            server.process.terminate()
            server.open(name)
            started = time.monotonic()
            assert server.process.wait(TIME_LIMIT) in (0, -signal.SIGTERM)
            assert time.monotonic() - started < SHUTDOWN_LIMIT
            assert answer.result().status_code == 503
        assert service.sql("SELECT count(*) FROM items") == "0"


WEBSOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@needs_signals
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /health/live HTTP/1.1\r\nHo",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b'POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"',
        b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\n" + WEBSOCKET + b"Content-Length: 2\r\n\r\n{}",
    ],
    ids=["nothing", "half a head", "a whole request", "half a body", "a websocket that is none"],
)
def test_the_service_ends_though_a_client_stays(shared: Service, sent: bytes) -> None:
    with (
        launch(shared) as server,
        socket.create_connection(("127.0.0.1", server.port)) as connection,
    ):
        connection.sendall(sent)
        wait_for(server.client, "/health/ready", server.process)  # which is served after what was sent before
        server.process.terminate()
        assert server.process.wait(SHUTDOWN_LIMIT) in (0, -signal.SIGTERM), server.log.read_text()[-2000:]
