"""A project to migrate, apart from the service's own models and revisions."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.pool import NullPool

from app.db.engine import create_engine
from app.project import ROOT
from app.settings import Settings

TIME_LIMIT = 600  # seconds, for what must come at all

# A shell that runs the tests in the background has SIGINT ignored, and so would have what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What many revisions do, and who holds the lock of the migrations.
TABLE = 'op.create_table("things", sa.Column("id", sa.Integer, primary_key=True))'
CONCURRENTLY = """\
with op.get_context().autocommit_block():
        op.create_index("ix_things", "things", ["id"], postgresql_concurrently=True, if_not_exists=True)"""
LOCKS = """
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
REVISION = """\
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = {down_revision!r}


def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    {downgrade}
"""

HEADER = """\
import enum

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.db.base import Base, UUIDKey


"""


@dataclass
class Project:
    """The service's `env.py` and what it needs, with a database of its own; without a domain and without a revision."""

    path: Path
    url: str
    heads: list[str] = field(default_factory=list)

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def models(self, body: str) -> None:
        """Make `body` the models of the domain `things`."""
        self.write("app/things/models.py", HEADER + body)

    def revision(self, upgrade: str, downgrade: str = "pass") -> Path:
        """Add a revision on top of the last one that was added so."""
        name, down = f"r{len(self.heads)}", self.heads[-1] if self.heads else None
        self.heads.append(name)
        text = REVISION.format(revision=name, down_revision=down, upgrade=upgrade, downgrade=downgrade)
        return self.write(f"migrations/versions/{name}.py", text)

    def autogenerate(self, *options: str) -> str:
        """Autogenerate a revision, and return its text; empty if none was written."""
        before = self.versions
        self.alembic(*options, "revision", "--autogenerate", "-m", "change")
        text = "".join(path.read_text(encoding="utf-8") for path in self.versions if path not in before)
        self.heads += re.findall(r'^revision: str = "(\w+)"', text, re.MULTILINE)
        return text

    @property
    def versions(self) -> list[Path]:
        return sorted(self.path.glob("migrations/versions/*.py"))

    @property
    def newest(self) -> Path:
        return max(self.versions, key=lambda path: path.stat().st_mtime_ns)

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "alembic", *arguments]
        environment = {**os.environ, "DATABASE_URL": self.url, **(env or {})}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.path, env=environment, stdout=pipe, stderr=pipe, text=True)

    def alembic(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Run a command that must succeed, and return what it said."""
        process = self.start(*arguments, env=env)
        output, log = process.communicate(timeout=TIME_LIMIT)
        assert process.returncode == 0, log
        return output + log

    def refusal(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Run a command that must fail, and return the one line that it printed."""
        return only_line(self.start(*arguments, env=env))

    async def sql(self, query: str) -> Any:
        """Execute `query`, and return its rows' first columns, if it has rows."""
        engine = create_engine(Settings(database_url=self.url), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            result = await connection.execute(text(query))
            return result.scalars().all() if result.returns_rows else None


def only_line(process: subprocess.Popen[str]) -> str:
    """Return the one line that a command printed which must fail, besides what alembic logs of its work."""
    output, log = process.communicate(timeout=TIME_LIMIT)
    assert process.returncode != 0, output
    lines = [line for line in log.splitlines() if not line.startswith(("INFO", "WARN"))]
    assert len(lines) == 1, log
    return lines[0]


@pytest.fixture
def project(tmp_path: Path, empty_database_url: str) -> Project:
    ignored = shutil.ignore_patterns("__pycache__", "versions")
    for name in (
        "pyproject.toml",
        "app/__init__.py",
        "app/logs.py",
        "app/registry.py",
        "app/environment.py",
        "app/overview.py",
        "app/settings.py",
        "app/fields.py",
        "app/project.py",
        "app/text.py",
        "app/url.py",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "app/db", tmp_path / "app/db", ignore=ignored)
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations", ignore=ignored)
    (tmp_path / "migrations/versions").mkdir()
    return Project(tmp_path, empty_database_url)
