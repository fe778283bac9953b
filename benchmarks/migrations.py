"""Prints the figures of a baked service's migrations beside those of alembic's own async template.

Run it by `uv run python benchmarks/migrations.py`; it takes some minutes. Times are in seconds, and the best of several, which
the projects take in turns so that all meet the same noise. `alike` is alembic's template with the two options that have it
do what the service does: transaction_per_migration and compare_server_default.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parent.parent
CROWD, ROUNDS = 8, 10
HELD = 8  # seconds that a transaction still keeps the table after a migration wants to alter it
SIZES = {1: 3, 10: 3, 100: 3, 1000: 2}  # tables or revisions: runs, of which the best counts

REVISION = """\
import sqlalchemy as sa
from alembic import op

revision = "r{number}"
down_revision = {down!r}

def upgrade() -> None:
    {upgrade}
"""
CREATE = 'op.create_table("table_{}", sa.Column("id", sa.Integer, primary_key=True))'
ALTER = 'op.add_column("table_0", sa.Column("name", sa.String(50)))'
TRANSACTION = f"""
BEGIN; SELECT FROM table_0;
DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM pg_locks WHERE NOT granted) LOOP PERFORM pg_sleep(0.01); END LOOP;
    PERFORM pg_sleep({HELD});
END $$
"""

MODELS = """\
from datetime import datetime
from enum import Enum
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, func, text, true
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from {base} import Base
"""
MODEL = """

class Kind{number}(Enum):
    ONE = "one"
    TWO = "two"


class Thing{number}(Base):
    __tablename__ = "thing_{number}"
    __table_args__ = (Index(None, "state", "made_at", postgresql_where=text("note IS NOT NULL")),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    previous_id: Mapped[UUID] = mapped_column(ForeignKey("thing_{previous}.id"))
    name: Mapped[str] = mapped_column(String(50), unique=True)
    rank: Mapped[int] = mapped_column(index=True)
    state: Mapped[str] = mapped_column(String(20), server_default="new")
    note: Mapped[str | None] = mapped_column(String(50))
    kind: Mapped[Kind{number}]
    is_open: Mapped[bool] = mapped_column(server_default=true())
    made_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
    data: Mapped[dict[str, str]] = mapped_column(JSONB, server_default=text("'{{}}'::jsonb"))
"""

FIND = (
    "import devdb, devdb.programs, sys; print(sys.executable, devdb.programs.program('psql'), devdb.start(), sep='\\n')"
)
# What the service's alembic commands cannot do without: the imports, and a connection.
FLOOR = """
import asyncio, os
import alembic.command, asyncpg, pydantic_settings, sqlalchemy.ext.asyncio
async def main(): await (await asyncpg.connect(os.environ["DATABASE_URL"])).close()
asyncio.run(main())
"""


def run(command: list[str], folder: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def best(runs: int, *actions: Callable[[], float]) -> list[float]:
    """Return the least that each action gives, while they take turns."""
    return [min(results) for results in zip(*([action() for action in actions] for _ in range(runs)), strict=True)]


class Bench:
    """A baked service, its PostgreSQL with a database for the projects to migrate, and those projects."""

    def __init__(self, service: Path) -> None:
        self.service = service
        self.python, self.psql, self.server = run(["uv", "run", "python", "-c", FIND], service).stdout.splitlines()
        self.url = self.server.replace("/postgres?", "/benchmark?")
        self.env = os.environ | {"DATABASE_URL": self.url, "ENV_FILE": ""}

    def fresh_database(self) -> None:
        for query in ("DROP DATABASE IF EXISTS benchmark WITH (FORCE)", "CREATE DATABASE benchmark"):
            run([self.psql, self.server, "--quiet", "--command", query], self.service)

    def alembic(self, project: Path, *arguments: str) -> float:
        """Run a command, and return the seconds that it took."""
        return seconds(lambda: run([self.python, "-m", "alembic", *arguments], project, self.env))

    def upgrade(self, project: Path) -> float:
        self.fresh_database()
        return self.alembic(project, "upgrade", "head")

    def start_upgrade(self, project: Path, **env: str) -> subprocess.Popen[bytes]:
        command, null = [self.python, "-m", "alembic", "upgrade", "head"], subprocess.DEVNULL
        return subprocess.Popen(command, cwd=project, env=self.env | env, stdout=null, stderr=null)

    @contextmanager
    def projects(self, upgrades: list[str], models: str = "") -> Iterator[list[Path]]:
        """Yield the folders of three projects with the same revisions and models: ours, alembic's, and alembic's alike."""
        with tempfile.TemporaryDirectory(dir=self.service.parent) as folder:
            projects = [Path(folder) / name for name in ("ours", "alembic", "alike")]
            self._ours(projects[0], models)
            self._alembic(projects[1], models)
            self._alembic(projects[2], models, "transaction_per_migration=True, compare_server_default=True")
            for number, upgrade in enumerate(upgrades):
                text = REVISION.format(number=number, down=f"r{number - 1}" if number else None, upgrade=upgrade)
                for project in projects:
                    (project / f"migrations/versions/r{number}.py").write_text(text)
            yield projects

    def _ours(self, project: Path, models: str) -> None:
        ignored = shutil.ignore_patterns("__pycache__", "versions", "items", "web", "main.py", "application.py")
        for name in ("app", "migrations"):
            shutil.copytree(self.service / name, project / name, ignore=ignored)
        shutil.copy(self.service / "pyproject.toml", project)
        (project / "migrations/versions").mkdir()
        (project / "app/things").mkdir()
        (project / "app/things/models.py").write_text(MODELS.format(base="app.db.base") + models)

    def _alembic(self, project: Path, models: str, options: str = "") -> None:
        project.mkdir()
        run([self.python, "-m", "alembic", "init", "-t", "async", "migrations"], project)
        ini, env = project / "alembic.ini", project / "migrations/env.py"
        url = self.url.replace("postgresql:", "postgresql+asyncpg:").replace("sslmode=", "ssl=")
        ini.write_text(re.sub("(?m)^sqlalchemy.url = .*", f"sqlalchemy.url = {url}", ini.read_text()))
        text = env.read_text().replace("(connection=connection, ", f"(connection=connection, **dict({options}), ")
        if models:
            text = text.replace("target_metadata = None", "from models import Base\n\ntarget_metadata = Base.metadata")
            shutil.copy(self.service / "app/db/base.py", project)
            (project / "models.py").write_text(MODELS.format(base="base") + models)
        env.write_text(text)

    def crowd(self, project: Path) -> tuple[int, float]:
        """Start several upgrades at once; return how many fail, and after how many seconds the last one ends."""
        self.fresh_database()
        start = time.perf_counter()
        codes = [process.wait() for process in [self.start_upgrade(project) for _ in range(CROWD)]]
        return sum(code != 0 for code in codes), time.perf_counter() - start

    def longest_wait(self, project: Path, **env: str) -> float:
        """Return the longest time of a SELECT while a migration alters a table that a transaction uses."""
        self.fresh_database()
        self.alembic(project, "upgrade", "r0")
        with subprocess.Popen([self.psql, self.url, "--command", TRANSACTION], stdout=subprocess.DEVNULL):
            time.sleep(0.3)
            with self.start_upgrade(project, **env) as upgrade:
                select = partial(run, [self.psql, self.url, "--command", "SELECT FROM table_0"], project)
                longest = 0.0
                while upgrade.poll() is None:
                    time.sleep(0.02)
                    longest = max(longest, seconds(select))
        if upgrade.returncode:
            raise SystemExit(f"{project}: the migration failed")
        return longest


def row(name: str, ours: float | str, *others: float | str) -> None:
    """Print a line: ours, and each other figure with the ratio of ours to it."""
    cells = [ours]
    for other in others:
        cells += [other, ours / other if isinstance(ours, float) and isinstance(other, float) else ""]
    print("".join(f"{cell:>8.2f}" if isinstance(cell, float) else f"{cell:>8}" for cell in cells).ljust(42) + name)


def measure(bench: Bench) -> None:
    print("".join(f"{head:>8}" for head in ("ours", "alembic", "ratio", "alike", "ratio")))
    with bench.projects([CREATE.format(number) for number in range(3)]) as (ours, alembic, _):
        crowds = list(zip(*([bench.crowd(project) for project in (ours, alembic)] for _ in range(ROUNDS)), strict=True))
        failed = [str(sum(count for count, _ in rounds)) for rounds in crowds]
        row(f"failures of {CROWD * ROUNDS} `upgrade head`, {CROWD} at once", *failed)
        row(f"s for {CROWD} `upgrade head` at once", *(min(time for _, time in rounds) for rounds in crowds))

        bench.fresh_database()
        floor = partial(run, [bench.python, "-c", FLOOR], ours, bench.env)
        current = [partial(bench.alembic, project, "current") for project in (ours, alembic)]
        least, *times = best(10, partial(seconds, floor), *current)
        row("s for `current`", *times)
        row(f"times the floor of {least:.2f} s", *(f"{time / least:.2f}" for time in times))
        imports = run([bench.python, "-X", "importtime", "-m", "alembic", "current"], bench.service, bench.env).stderr
        row("`current` of the service imports FastAPI", "yes" if re.search(r"\bfastapi\b", imports) else "no")

    with bench.projects([CREATE.format(0), ALTER]) as (ours, alembic, _):
        short = partial(bench.longest_wait, ours, MIGRATION_LOCK_TIMEOUT="0.5")
        limited, default, theirs = best(2, short, *(partial(bench.longest_wait, p) for p in (ours, alembic)))
        row(f"s that a SELECT waits at most while ALTER TABLE waits {HELD} s for its lock", default, theirs)
        row("the same with MIGRATION_LOCK_TIMEOUT=0.5", limited, theirs)

    for size, runs in SIZES.items():
        models = "".join(MODEL.format(number=number, previous=max(number - 1, 0)) for number in range(size))
        with bench.projects([], models) as projects:
            bench.fresh_database()
            bench.alembic(projects[0], "revision", "--autogenerate", "-m", "all")
            bench.alembic(projects[0], "upgrade", "head")
            for other in projects[1:]:
                shutil.copytree(projects[0] / "migrations/versions", other / "migrations/versions", dirs_exist_ok=True)
            row(f"s for `check`, tables: {size}", *best(runs, *(partial(bench.alembic, p, "check") for p in projects)))

    for size, runs in SIZES.items():
        with bench.projects([CREATE.format(number) for number in range(size)]) as projects:
            times = best(runs, *(partial(bench.upgrade, project) for project in projects))
            row(f"s for `upgrade head`, revisions: {size}", *times)

    for path in sorted((bench.service / "migrations").glob("*.py")):
        row(f"lines of {path.name}", str(len(path.read_text(encoding="utf-8").splitlines())))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(["cookiecutter", "--no-input", "--output-dir", folder, str(TEMPLATE)], TEMPLATE)
        service = Path(folder) / "my-service"
        try:
            measure(Bench(service))
        finally:
            run(["uv", "run", "python", "-m", "devdb", "stop"], service)


if __name__ == "__main__":
    main()
