"""Prints what a request costs a baked service, beside a floor and the usual patterns: microseconds of the server's CPU.

Run it by `uv run python benchmarks/requests.py`, on Linux; it takes some minutes. The servers take turns, so that all meet
the same noise; a cost is the median of the rounds, and a ratio is the median of the ratios within a round.
`--soak MINUTES` instead keeps the service under load, with routes among it that use their session late, at once or
unfinished, and prints its memory and its connections every 30 s.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from uuid import uuid4

TEMPLATE = Path(__file__).resolve().parent.parent
CLIENTS, CROWD = 4, 20  # that ask at once: fewer than any candidate has connections to PostgreSQL, and more
QUEUE = 50  # that ask at once, to see how long the unlucky wait
ROUNDS, REQUESTS = 25, 200
ITEMS = "/api/v1/items"
OPTIONS = ["--loop", "uvloop", "--http", "httptools", "--timeout-keep-alive", "600"]

# The modules below are put into a folder of their own, and import `app` of the baked service.
FLOOR = """
import json, os
from decimal import Decimal
from base64 import urlsafe_b64encode
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

@asynccontextmanager
async def lifespan(app):
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=5, max_size=5) as app.state.pool:
        yield

TAGS = ", ARRAY(SELECT name FROM item_tags WHERE item_id = items.id ORDER BY name) AS tags"
SELECT = f"SELECT id, name, description, price, status, created_at, updated_at{TAGS} FROM items "

def dump(row):
    times = {name: row[name].isoformat().replace("+00:00", "Z") for name in ("created_at", "updated_at")}
    return {**row, "id": str(row["id"]), "price": str(row["price"]), **times}

def answer(content, status=200):
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return Response(body, status, media_type="application/json")

async def one(request):
    row = await request.app.state.pool.fetchrow(SELECT + "WHERE id = $1", UUID(request.path_params["id"]))
    return answer(dump(row)) if row else Response(status_code=404)

async def several(request):
    limit = int(request.query_params["limit"])
    rows = await request.app.state.pool.fetch(SELECT + "ORDER BY id DESC LIMIT $1", limit + 1)
    cursor = urlsafe_b64encode(rows[limit - 1]["id"].bytes).decode().rstrip("=") if len(rows) > limit else None
    return answer({"items": [dump(row) for row in rows[:limit]], "next_cursor": cursor})

INSERT = "INSERT INTO items (id, name, price) VALUES (gen_random_uuid(), $1, $2) RETURNING *, '{}'::text[] AS tags"

async def create(request):
    data = await request.json()
    row = await request.app.state.pool.fetchrow(INSERT, data["name"], Decimal(data["price"]))
    return answer(dump(row), 201)

app = Starlette(lifespan=lifespan, routes=[
    Route("/api/v1/items/{id}", one),
    Route("/api/v1/items", several, methods=["GET"]),
    Route("/api/v1/items", create, methods=["POST"]),
])
"""

BARE = """
from app.web import middleware

class Bare:
    def __init__(self, app, **options):
        self.app = app

    async def __call__(self, scope, receive, send):
        scope.setdefault("state", {})
        if scope["type"] == "http":
            scope["state"]["database"] = scope["app"].state.database
        await self.app(scope, receive, send)

middleware.RequestMiddleware = Bare

from app.main import app
"""

USUAL = """
import os
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException, Query
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import selectinload

from app.web.pagination import Page
from app.items.models import Item, Tag
from app.items.schemas import ItemCreate, ItemRead

url = os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+asyncpg:").replace("sslmode=", "ssl=")
make_session = async_sessionmaker(create_async_engine(url, pool_pre_ping=True), expire_on_commit=False)

async def get_session():
    async with make_session() as session:
        try:
            yield session
            await session.commit()
        except Exception:
            await session.rollback()
            raise

SessionDep = Annotated[AsyncSession, Depends(get_session)]
app = FastAPI()

@app.get("/api/v1/items/{item_id}", response_model=ItemRead)
async def one(item_id: UUID, session: SessionDep):
    item = await session.get(Item, item_id, options=[selectinload(Item.tags)])
    if item is None:
        raise HTTPException(404)
    return item

@app.get("/api/v1/items", response_model=Page[ItemRead])
async def several(session: SessionDep, limit: Annotated[int, Query(ge=1, le=100)] = 20):
    query = select(Item).options(selectinload(Item.tags)).order_by(Item.id.desc()).limit(limit + 1)
    return Page[ItemRead].of((await session.scalars(query)).all(), limit)

@app.post("/api/v1/items", response_model=ItemRead, status_code=201)
async def create(data: ItemCreate, session: SessionDep):
    item = Item(**data.model_dump(exclude={"tags"}), tags=[Tag(name=name) for name in data.tags])
    session.add(item)
    await session.flush()
    return item
"""

WRAPPED = """
import logging, time

from starlette.middleware.base import BaseHTTPMiddleware
from usual import app

logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")

async def log(request, call_next):
    start = time.perf_counter()
    response = await call_next(request)
    duration = time.perf_counter() - start
    logging.info("%s %s %d %.4f", request.method, request.url.path, response.status_code, duration)
    return response

app.add_middleware(BaseHTTPMiddleware, dispatch=log)
"""

SYNC = USUAL
for old, new in {
    "async ": "",
    "await ": "",
    "async_": "",
    "AsyncSession": "Session",
    ".ext.asyncio import create": " import create",
    ".ext.asyncio": ".orm",
    "+asyncpg": "+psycopg",
    "ssl=": "sslmode=",
}.items():
    SYNC = SYNC.replace(old, new)

MISUSE = """
import asyncio
from fastapi import BackgroundTasks
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from app.db.session import ReadSessionDep, SessionDep
from app.main import app

SLOW = text("SELECT pg_sleep(0.2)")
tasks = set()

@app.get("/late")
async def late(session: ReadSessionDep):
    async def rows():
        yield str(await session.scalar(SLOW))
    return StreamingResponse(rows())

@app.get("/background")
async def background(session: SessionDep, tasks: BackgroundTasks):
    tasks.add_task(session.execute, SLOW)

@app.get("/shared")
async def shared(session: SessionDep):
    await asyncio.gather(session.execute(SLOW), session.execute(SLOW))

@app.get("/unfinished")
async def unfinished(session: SessionDep):
    tasks.add(task := asyncio.create_task(session.execute(SLOW)))
    task.add_done_callback(tasks.discard)
    await asyncio.sleep(0.01)

@app.get("/changed")
async def changed(session: ReadSessionDep):
    await session.execute(text("SELECT set_config('app.tenant', 'x', false)"))
"""
MISUSES = ["/late", "/background", "/shared", "/unfinished", "/changed"]

CANDIDATES = {  # by the module that holds each: its name in the table
    "app.main": ("the service, with all that production has", ""),
    "bare": ("the service without RequestMiddleware: no log lines, ids, headers", BARE),
    "floor": ("the floor: Starlette, asyncpg, hand-written SQL", FLOOR),
    "usual": ("usual pattern A: ORM, pool_pre_ping, commit in the dependency", USUAL),
    "wrapped": ("usual pattern B: A, with a BaseHTTPMiddleware that logs", WRAPPED),
    "sync": ("usual pattern C: A, in the threadpool", SYNC),
}


def run(command: list[str], folder: Path, **env: str) -> str:
    done = subprocess.run(command, cwd=folder, env=os.environ | env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout


class Server:
    """A uvicorn worker, and clients that keep their connections to it."""

    def __init__(self, command: list[str], service: Path, env: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = probe.getsockname()
        start = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--port", str(self.address[1])], cwd=service, env=env, stderr=subprocess.DEVNULL
        )
        self.clients = [self.connect()]
        self.get(f"{ITEMS}?limit=1", 1)
        self.first_answer = time.perf_counter() - start

    def connect(self) -> socket.socket:
        while self.process.poll() is None:
            try:
                return socket.create_connection(self.address, timeout=30)
            except ConnectionRefusedError:
                time.sleep(0.005)
        raise SystemExit(f"a server does not start: {self.process.args!r}")

    def get(self, path: str, requests: int, clients: int = 1) -> bytes:
        """Ask for `path` that often, `clients` at a time, or create as many items; return the last body."""
        while len(self.clients) < clients:
            self.clients.append(self.connect())
        for _ in range(requests // clients):
            for client in self.clients[:clients]:
                client.sendall(get_request(path) if path else post_request())
            bodies = [receive(client) for client in self.clients[:clients]]
        return bodies[-1]

    async def latencies(self, path: str, requests: int) -> list[float]:
        """Return the milliseconds of that many requests, of QUEUE clients that each ask again once they are answered."""

        async def client() -> None:
            reader, writer = await asyncio.open_connection(*self.address)
            while len(found) < requests:
                start = time.perf_counter()
                writer.write(get_request(path))
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(length_of(head))
                found.append((time.perf_counter() - start) * 1000)
            writer.close()
            await writer.wait_closed()

        found: list[float] = []
        await asyncio.gather(*(client() for _ in range(QUEUE)))
        return found

    def misuse(self, path: str) -> int:
        """Ask for `path` ten times, whatever is answered, and return how often that was."""
        for _ in range(10):
            with socket.create_connection(self.address, timeout=30) as client:
                client.sendall(get_request(path).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                while client.recv(1 << 16):
                    pass
        return 10

    def cpu(self) -> float:
        """Return the microseconds that the process has had of the CPUs."""
        return time.clock_gettime(~self.process.pid << 3 | 2) * 1e6  # clock_getcpuclockid(3), which Python lacks

    def cost(self, path: str) -> float:
        """Return the microseconds of CPU that a request takes."""
        self.get(path, 20, CLIENTS)  # wakes connections and threads
        before = self.cpu()
        self.get(path, REQUESTS, CLIENTS)
        return (self.cpu() - before) / REQUESTS

    def memory(self) -> float:
        return int(re.findall(r"VmRSS:\s*(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[0]) / 1024


def get_request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n".encode()


def post_request() -> bytes:
    body = json.dumps({"name": uuid4().hex, "price": "1.00"})
    head = f"POST {ITEMS} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n{body}".encode()


def length_of(head: bytes) -> int:
    return int(re.findall(rb"(?i)\r\ncontent-length: (\d+)", head)[0])


def receive(client: socket.socket) -> bytes:
    data = b""
    while True:
        more = client.recv(1 << 16)
        head, end, body = (data := data + more).partition(b"\r\n\r\n")
        if not more or (end and not head.startswith(b"HTTP/1.1 20")):
            raise SystemExit(f"not a 200: {data[:300]!r}")
        if end and len(body) == length_of(head):
            return body


class Bench:
    """A baked service with 1,000 items of two tags each in its PostgreSQL, and the candidates beside it."""

    def __init__(self, service: Path, candidates: Path) -> None:
        self.service = service
        run(["uv", "run", "alembic", "upgrade", "head"], service)
        find = "import devdb, devdb.programs; print(devdb.programs.program('psql'), devdb.start())"
        self.psql, self.url = run(["uv", "run", "python", "-c", find], service).split()
        self.python = str(service / ".venv/bin/python")
        self.query(
            "INSERT INTO items (id, name, description, price, status) SELECT uuidv7(), 'Item ' || n,"
            " 'What there is to say of the item ' || n, n / 100.0, 'active' FROM generate_series(1, 1000) AS n"
        )
        self.query("INSERT INTO item_tags SELECT id, tag FROM items, unnest('{bright,new}'::text[]) AS tag")
        self.query("VACUUM ANALYZE items, item_tags")
        install = ["uv", "pip", "install", "--python", self.python, "--target", str(candidates), "psycopg[binary]"]
        run(install, service)
        for module, (_, code) in CANDIDATES.items():
            if code:
                (candidates / f"{module}.py").write_text(code)
        (candidates / "misuse.py").write_text(MISUSE)
        self.env = os.environ | {
            "ENV_FILE": "",
            "ENVIRONMENT": "production",
            "ALLOWED_HOSTS": "127.0.0.1",
            "CORS_ORIGINS": "https://example.com",
            "DATABASE_URL": self.url,
            "DATABASE_APPLICATION_NAME": "measured",
            "PYTHONPATH": f"{service}{os.pathsep}{candidates}",
            "PGTZ": "UTC",  # for psycopg, so that its times look like asyncpg's
        }

    def query(self, sql: str) -> str:
        return run(
            [self.psql, self.url, "--no-psqlrc", "--quiet", "--tuples-only", "--command", sql], self.service
        ).strip()

    def connections(self) -> int:
        return int(self.query("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'measured'"))

    @contextmanager
    def serve(self, module: str) -> Iterator[Server]:
        """Run one worker with the options of production."""
        options = (
            OPTIONS if module in ("app.main", "bare", "misuse") else [*OPTIONS, "--no-access-log"]
        )  # the service has its own
        server = Server([self.python, "-m", "uvicorn", f"{module}:app", *options], self.service, self.env)
        try:
            yield server
        finally:
            for client in server.clients:
                client.close()
            server.process.terminate()
            server.process.wait()

    def costs(self) -> list[dict[str, list[float]]]:
        """Return the microseconds of each candidate in each round, for one item and for a list."""
        with ExitStack() as stack:
            servers = {module: stack.enter_context(self.serve(module)) for module in CANDIDATES}
            item = json.loads(servers["floor"].get(f"{ITEMS}?limit=1", 1))["items"][0]["id"]
            paths = [f"{ITEMS}/{item}", f"{ITEMS}?limit=20"]
            for path in paths:
                assert len({server.get(path, 400) for server in servers.values()}) == 1, "all answer the same"
            rounds = []
            for _ in range(ROUNDS):
                rounds.append({module: [s.cost(path) for path in (*paths, "")] for module, s in servers.items()})
                self.query("DELETE FROM items WHERE price = 1 AND description IS NULL")
            print(f"{'p50':>8}{'p99':>8}  ms for a list, {QUEUE} clients")
            for module, server in servers.items():
                found = sorted(asyncio.run(server.latencies(paths[1], 3000)))
                print(f"{median(found):8.1f}{found[len(found) * 99 // 100]:8.1f}  {CANDIDATES[module][0]}", flush=True)
            return rounds

    def print_costs(self) -> None:
        rounds = self.costs()
        print(f"{'us of CPU':>24}{'x the floor':>24}{'x pattern A':>24}")
        print(f"{'one':>8}{'list':>8}{'post':>8}" * 3)
        for module, (name, _) in CANDIDATES.items():
            cells = [f"{median(costs[module][i] for costs in rounds):8.0f}" for i in range(3)]
            for base in ("floor", "usual"):
                cells += [f"{median(costs[module][i] / costs[base][i] for costs in rounds):8.2f}" for i in range(3)]
            print(*cells, f"  {name}", sep="")

    def load(self, server: Server, requests: int, clients: int) -> int:
        """Have that many requests answered; return the most connections to PostgreSQL that were seen meanwhile."""
        with ThreadPoolExecutor(1) as executor:
            load = executor.submit(server.get, f"{ITEMS}?limit=20", requests, clients)
            most = self.connections()
            while not load.done():
                most = max(most, self.connections())
        load.result()
        return most

    def print_figures(self) -> None:
        """Print what the service takes to start, and what a worker holds."""
        imports = min(seconds(lambda: run([self.python, "-c", "import app.main"], self.service)) for _ in range(5))
        answers = []
        for _ in range(5):
            with self.serve("app.main") as server:
                answers.append(server.first_answer)
                first = server.memory()
                few = self.load(server, 5000, CLIENTS)
                last = server.memory()
                many = self.load(server, 1000, CROWD)
        print(f"{imports:8.2f}  s to import app.main, best of 5; {min(answers):.2f} s from start to first answer")
        print(f"{first:8.0f}  MB of memory after the first answer; {last:.0f} MB after 5,000 more")
        print(f"{few:8}  connections to PostgreSQL with {CLIENTS} clients; {many} with {CROWD}")

    def soak(self, minutes: float) -> None:
        """Print every 30 s what a worker under load and misuse holds."""
        with self.serve("misuse") as server:
            end = time.monotonic() + 60 * minutes
            print("   requests  misuses  MB of memory  connections")
            requests = misuses = 0
            while time.monotonic() < end:
                until, most = time.monotonic() + 30, 0
                while time.monotonic() < until:
                    with ThreadPoolExecutor(len(MISUSES)) as executor:
                        found = [executor.submit(server.misuse, path) for path in MISUSES]
                        most = max(most, self.load(server, 1000, CROWD))
                    misuses += sum(misuse.result() for misuse in found)
                    requests += 1000
                print(f"{requests:>11,}{misuses:>9,}{server.memory():>14.1f}{most:>13}", flush=True)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    minutes = parser.parse_args().soak
    with tempfile.TemporaryDirectory() as folder:
        run(["cookiecutter", "--no-input", "--output-dir", folder, str(TEMPLATE)], TEMPLATE)
        service = Path(folder) / "my-service"
        candidates = Path(folder) / "candidates"
        try:
            bench = Bench(service, candidates)
            if minutes:
                bench.soak(minutes)
            else:
                bench.print_costs()
                bench.print_figures()
        finally:
            run(["uv", "run", "python", "-m", "devdb", "stop"], service)


if __name__ == "__main__":
    main()
