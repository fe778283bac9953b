"""Prints what the answers to `auth` cost: microseconds of CPU, log-ins a second, and what others wait meanwhile.

Run it by `uv run python benchmarks/auth.py`, on Linux; it takes two minutes. The guarded and the open route take turns, so that
both meet the same noise. The limits are lifted, but still counted; the keys of the provider are known.
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
ROUNDS, REQUESTS, FEW, CLIENTS, SECONDS = 25, 200, 4, 16, 10
ME, PASSWORD = "me@example.com", "correct horse battery staple"
ROUTES = """
from app.{}.dependencies import SignedIn
from app.main import app

@app.get("/open")
async def open_() -> None: ...

@app.get("/guarded", dependencies=[SignedIn])
async def guarded() -> None: ...
"""
LIMITS = """
from app.auth import throttles

for name, value in list(vars(throttles).items()):
    if isinstance(value, throttles.Limit):
        setattr(throttles, name, value._replace(burst=1_000_000, seconds=1))
"""
TOKENS = """
import time
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from app.oidc.settings import OIDCSettings
from app.oidc.tokens import import_keys

keys = {"RS256": RSAKey.generate_key(2048), "ES256": ECKey.generate_key("P-256")}
settings = app.state.settings.of(OIDCSettings)
settings.provider.keys = import_keys([key.as_dict(private=False) for key in keys.values()])
settings.provider.fetched = time.monotonic()

@app.get("/tokens/{algorithm}")
async def sign(algorithm: str) -> str:
    claims = {"iss": settings.oidc_issuer, "aud": settings.oidc_audience, "sub": "me", "exp": int(time.time()) + 3600}
    return jwt.encode({"alg": algorithm}, claims, keys[algorithm])
"""
PROBES = {"users": ROUTES.format("auth") + LIMITS, "oidc": ROUTES.format("oidc") + TOKENS}
ENV = {
    "DOCS": "false",
    "LOG_LEVEL": "WARNING",
    "OIDC_ISSUER": "https://login.example.com",
    "OIDC_AUDIENCE": "benchmark",
}


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
def serving(answer: str) -> Iterator[Server]:
    """Bake a service with an answer to `auth`, and serve it."""
    with tempfile.TemporaryDirectory() as folder:
        bake = ["cookiecutter", "--no-input", "--output-dir", folder, str(TEMPLATE), f"auth={answer}"]
        subprocess.run(bake, check=True, stdout=subprocess.DEVNULL)
        service, env = Path(folder) / "my-service", os.environ | ENV
        (service / "probe.py").write_text(PROBES[answer])
        run = ["uv", "run", "--quiet"]
        subprocess.run([*run, "alembic", "upgrade", "head"], cwd=service, env=env, check=True, capture_output=True)
        if answer == "users":
            add = [*run, "python", "-m", "app.auth", "add", ME]
            subprocess.run(add, cwd=service, check=True, input=f"{PASSWORD}\n".encode(), stdout=subprocess.DEVNULL)
        server = Server(service, env)
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


def get(path: str, token: str, *connections: http.client.HTTPConnection) -> float:
    """Return the milliseconds that a request takes, of each connection at once."""
    start = time.perf_counter()
    for connection in connections:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    for connection in connections:
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise SystemExit(f"{path}: {response.status}")
    return (time.perf_counter() - start) * 1000


def price(server: Server, token: str) -> Iterator[tuple[float, float]]:
    """Yield the microseconds of CPU of an open and of a guarded request, a pair for each round."""
    connections = [server.connect() for _ in range(FEW)]
    for _ in range(ROUNDS):
        costs = []
        for path, sent in (("/open", ""), ("/guarded", token)):
            before = server.cpu()
            for _ in range(REQUESTS // FEW):
                get(path, sent, *connections)
            costs.append((server.cpu() - before) / REQUESTS)
        yield costs[0], costs[1]


def print_price(server: Server, token: str, what: str) -> None:
    list(price(server, token))  # to warm up
    pairs = list(price(server, token))
    more = median(guarded - without for without, guarded in pairs)
    print(f"{more:6.0f} us of CPU more for a request with {what} ({median(p[0] for p in pairs):.0f} us without)")


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
            found.append(get(path, token, connection))
            time.sleep(0.005)
    for thread in threads:
        thread.join()
    return sum(counts) / SECONDS, waits


def main() -> None:
    with serving("oidc") as server:
        for algorithm in ("RS256", "ES256"):
            connection = server.connect()
            connection.request("GET", f"/tokens/{algorithm}")
            print_price(server, json.load(connection.getresponse()), f"a provider's token, of {algorithm}")

    with serving("users") as server:
        _, token = log_in(server.connect(), ME, PASSWORD)
        print_price(server, token, "the token of a log-in")

        connection = server.connect()
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
