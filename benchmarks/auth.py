"""Prints what the users of a baked service cost: microseconds of CPU, log-ins a second, and what others wait meanwhile.

Run it by `uv run python benchmarks/auth.py`, on Linux; it takes a minute. The guarded and the open route take turns, so that both
meet the same noise. The limits are lifted, but still counted.
"""

import http.client
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

TEMPLATE = Path(__file__).resolve().parent.parent
ROUNDS, REQUESTS, CLIENTS, SECONDS = 25, 200, 16, 10
ME, PASSWORD = "me@example.com", "correct horse battery staple"
PROBE = """
from app.auth import throttles
from app.auth.dependencies import SignedIn
from app.main import app

for name, value in list(vars(throttles).items()):
    if isinstance(value, throttles.Limit):
        setattr(throttles, name, value._replace(burst=1_000_000, seconds=1))

@app.get("/open")
async def open_() -> None: ...

@app.get("/guarded", dependencies=[SignedIn])
async def guarded() -> None: ...
"""


class Server:
    """A uvicorn worker."""

    def __init__(self, service: Path, env: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command: list[str | Path] = [
            service / ".venv/bin/python",
            "-m",
            "uvicorn",
            "probe:app",
            "--port",
            str(self.port),
        ]
        self.process = subprocess.Popen(command, cwd=service, env=env, stderr=subprocess.DEVNULL)

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while True:
            try:
                connection.connect()
                return connection
            except ConnectionRefusedError:
                if self.process.poll() is not None:
                    raise SystemExit("the server does not start") from None
                time.sleep(0.02)

    def cpu(self) -> float:
        """Return the microseconds that the process has had of the CPUs."""
        return time.clock_gettime(~self.process.pid << 3 | 2) * 1e6  # clock_getcpuclockid(3), which Python lacks


@contextmanager
def serving() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        bake = ["cookiecutter", "--no-input", "--output-dir", folder, str(TEMPLATE), "auth=users"]
        subprocess.run(bake, check=True, stdout=subprocess.DEVNULL)
        service = Path(folder) / "my-service"
        (service / "probe.py").write_text(PROBE)
        run = ["uv", "run", "--quiet"]
        subprocess.run([*run, "alembic", "upgrade", "head"], cwd=service, check=True, capture_output=True)
        add = [*run, "python", "-m", "app.auth", "add", ME]
        subprocess.run(add, cwd=service, check=True, input=f"{PASSWORD}\n".encode(), stdout=subprocess.DEVNULL)
        server = Server(service, os.environ | {"DOCS": "false", "LOG_LEVEL": "WARNING"})
        try:
            yield server
        finally:
            server.process.terminate()
            server.process.wait()
            subprocess.run([*run, "python", "-m", "devdb", "stop"], cwd=service, check=True, capture_output=True)


def log_in(connection: http.client.HTTPConnection, email: str, password: str) -> tuple[int, str]:
    body = json.dumps({"email": email, "password": password})
    connection.request("POST", "/api/v1/auth/sessions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.load(response).get("token", "")


def get(connection: http.client.HTTPConnection, path: str, token: str = "") -> float:
    """Return the milliseconds that a request takes."""
    start = time.perf_counter()
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise SystemExit(f"{path}: {response.status}")
    return (time.perf_counter() - start) * 1000


def price(server: Server, connection: http.client.HTTPConnection, token: str) -> Iterator[tuple[float, float]]:
    """Yield the microseconds of CPU of an open and of a guarded request, a pair for each round."""
    for _ in range(ROUNDS):
        costs = []
        for path, sent in (("/open", ""), ("/guarded", token)):
            before = server.cpu()
            for _ in range(REQUESTS):
                get(connection, path, sent)
            costs.append((server.cpu() - before) / REQUESTS)
        yield costs[0], costs[1]


def under_load(server: Server, token: str) -> tuple[float, dict[str, list[float]]]:
    """Return the log-ins a second of many clients, and the milliseconds of other requests meanwhile."""
    counts = [0] * CLIENTS
    end = time.monotonic() + SECONDS

    def client(number: int) -> None:
        connection = server.connect()
        while time.monotonic() < end:
            status, _ = log_in(connection, ME, PASSWORD)
            assert status == 201, status
            counts[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    connection = server.connect()
    waits: dict[str, list[float]] = {"/open": [], "/guarded": [], "/api/v1/items": []}
    while time.monotonic() < end:
        for path, found in waits.items():
            found.append(get(connection, path, token))
            time.sleep(0.005)
    for thread in threads:
        thread.join()
    return sum(counts) / SECONDS, waits


def main() -> None:
    with serving() as server:
        connection = server.connect()
        _, token = log_in(connection, ME, PASSWORD)
        list(price(server, connection, token))  # to warm up
        pairs = list(price(server, connection, token))
        more = median(guarded - without for without, guarded in pairs)
        print(f"{more:6.0f} us of CPU more for a request with a token ({median(p[0] for p in pairs):.0f} us without)")

        times: dict[str, list[float]] = {ME: [], "nobody@example.com": []}
        for _ in range(100):
            for email, found in times.items():
                start = time.perf_counter()
                status, _ = log_in(connection, email, "a wrong password, as guessed")
                assert status == 401, status
                found.append((time.perf_counter() - start) * 1000)
        for email, found in times.items():
            quarters = quantiles(found)
            print(
                f"{quarters[1]:6.1f} ms for a wrong password of {email} (quartiles {quarters[0]:.1f}, {quarters[2]:.1f})"
            )

        rate, waits = under_load(server, token)
        print(f"{rate:6.1f} log-ins a second, of {CLIENTS} clients; meanwhile")
        for path, found in waits.items():
            print(f"{median(found):6.1f} ms for {path} (p95 {quantiles(found, n=20)[-1]:.1f})")


if __name__ == "__main__":
    main()
