"""Bakes services into temporary folders, and runs them there."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import httpx2
import pytest
from cookiecutter.main import cookiecutter

pytest_plugins = ["containers"]
ROOT = Path(__file__).resolve().parent.parent
TIME_LIMIT = 600  # seconds, for any one command

Bake = Callable[..., Path]


def environment() -> dict[str, str]:
    """Return the environment of a new user: nothing in it steers uv, the service or PostgreSQL's programs."""
    steering = ("VIRTUAL_ENV", "TEST_DATABASE_URL", "ENVIRONMENT", "ENV_FILE", "PYTHONPATH")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in steering and not name.startswith(("PG", "PYTEST", "DATABASE_", "MIGRATION_"))
    }


@dataclass
class Service:
    """A baked service."""

    path: Path
    env: Mapping[str, str] = field(default_factory=environment)

    def run(
        self,
        *command: str,
        check: bool = True,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = TIME_LIMIT,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command by `uv run`, in the service's folder unless told otherwise, with the variables `env` added."""
        done = subprocess.run(
            ["uv", "run", "--project", self.path, *command],
            cwd=cwd or self.path,
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    @property
    def python(self) -> Path:
        """The service's interpreter, for a test that has to kill it: `uv run` is its parent."""
        folder = Path(self.env["UV_PROJECT_ENVIRONMENT"])
        return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def alembic(
        self, *arguments: str, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self.run("alembic", *arguments, check=check, env=env)

    def sql(self, query: str) -> str:
        """Ask the service's development database; rows are lines, columns are joined with `|`."""
        return self.run("python", "-m", "devdb", "psql", "-XAtc", query).stdout.strip()

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    @contextmanager
    def serve(self, env: Mapping[str, str] | None = None) -> Iterator[httpx2.Client]:
        """Run the service by uvicorn, and yield a client of it."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = ["uv", "run", "uvicorn", "app.main:app", "--port", str(port)]
        with subprocess.Popen(command, cwd=self.path, env={**self.env, **(env or {})}) as server:
            try:
                with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
                    wait_for(client, "/health/live", server)
                    yield client
            finally:
                server.terminate()


def wait_for(client: httpx2.Client, path: str, server: subprocess.Popen[bytes]) -> None:
    """Return once `path` answers 200.

    Raises:
        TimeoutError: it did not within the time limit, or the server has ended.
    """
    deadline = time.monotonic() + TIME_LIMIT
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if client.get(path).status_code == 200:
                return
        except httpx2.TransportError:
            pass  # nothing listens yet
        time.sleep(0.1)
    raise TimeoutError(f"{path} did not answer")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("template")
    copy_template(copy)
    return copy


def copy_template(folder: Path) -> None:
    """Copy the template as git would give it to a user: without caches, virtual environments and databases."""
    listing = subprocess.check_output(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


@pytest.fixture
def bake(template: Path, tmp_path: Path) -> Bake:
    def bake(**answers: str | bool) -> Path:
        """Bake into a path with a space in it, and return the service's folder."""
        folder = tmp_path / "my services"
        return Path(cookiecutter(str(template), no_input=True, extra_context=answers, output_dir=str(folder)))

    return bake


@pytest.fixture
def service(bake: Bake, virtual_environment: Path) -> Iterator[Service]:
    """A service with the default answers; its development server ends with the test."""
    yield from installed(bake(), virtual_environment)


@pytest.fixture
def users_service(bake: Bake, virtual_environments: Callable[[str], Path]) -> Iterator[Service]:
    """A service with users of its own."""
    yield from installed(bake(auth="users"), virtual_environments("users"))


def installed(path: Path, virtual_environment: Path) -> Iterator[Service]:
    service = Service(path, environment() | {"UV_PROJECT_ENVIRONMENT": str(virtual_environment)})
    subprocess.run(["uv", "sync", "--locked", "--quiet"], cwd=service.path, env=service.env, check=True)
    yield service
    service.run("python", "-m", "devdb", "stop")


@pytest.fixture(scope="session")
def virtual_environments(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """For each answer to `auth`, one virtual environment for all services of this process, one at a time."""

    @cache
    def of(auth: str) -> Path:
        folder = tmp_path_factory.mktemp("venv") / "venv"
        cookiecutter(str(template), no_input=True, extra_context={"auth": auth}, output_dir=str(folder.parent))
        subprocess.run(
            ["uv", "sync", "--locked", "--quiet", "--compile-bytecode"],
            cwd=folder.parent / "my-service",
            env=environment() | {"UV_PROJECT_ENVIRONMENT": str(folder)},
            check=True,
        )
        return folder

    return of


@pytest.fixture(scope="session")
def virtual_environment(virtual_environments: Callable[[str], Path]) -> Path:
    return virtual_environments("none")
