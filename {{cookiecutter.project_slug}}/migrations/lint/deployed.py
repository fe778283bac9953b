"""What is deployed already, and so has clients: as much as a revision, a git branch or the database has."""

import subprocess
from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError

DATABASE = "database"


def deployed(config: Config, scripts: ScriptDirectory, start: str, root: Path) -> set[Script]:
    """Return the revisions that `start` has; empty: nothing is deployed, or nobody knows.

    Raises:
        CommandError: the database cannot be asked.
        RevisionError: there is no such revision or branch, or the database has one that is not here.
    """
    if not start:
        return set()
    if start == DATABASE:
        heads = applied(config, scripts)
        return set(scripts.iterate_revisions(heads, "base")) if heads else set()
    try:
        # Not a range of alembic's, which leaves out what a merge brings in from another branch.
        return set(scripts.iterate_revisions(start, "base"))
    except RevisionError:
        if (files := files_of(start, root)) is None:
            raise
        return {script for script in scripts.walk_revisions() if Path(script.path).resolve() in files}


def applied(config: Config, scripts: ScriptDirectory) -> tuple[str, ...]:
    """Return the heads of the database that the settings name."""
    found: list[str] = []

    def note(heads: tuple[str, ...], _: object) -> list[object]:
        found.extend(heads)
        return []

    with EnvironmentContext(config, scripts, fn=note, dont_mutate=True):
        scripts.run_env()
    return tuple(found)


def files_of(branch: str, root: Path) -> set[Path] | None:
    """Return the files below `root` that a branch or commit of git has, or None if there is none of that name."""
    command = ["git", "ls-tree", "-r", "-z", "--name-only", branch]
    try:
        process = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return None if process.returncode else {(root / name).resolve() for name in process.stdout.split("\0") if name}
