"""A PostgreSQL server in a folder of its own."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from devdb.files import DevdbError, delete, open_plain, pinned, read, write
from devdb.processes import find, is_of, pid_file
from devdb.programs import environment, owner_of, program, run_as
from devdb.roles import ROLE, set_up

TIME_LIMIT = 60  # seconds, to get ready, to end, or for another to do so; pg_ctl's own
ATTEMPTS = 10  # to start: a crashed server's processes take a moment to end, and a port may be taken
# A collation in which only an index with text_pattern_ops finds prefixes, as in most databases. The second is the C
# library's own, and everywhere.
LOCALES = ("en_US.UTF-8", "C.UTF-8")


class Server:
    """A PostgreSQL server that keeps all it has in one folder and listens on the loopback interface only.

    `settings` are `name=value` pairs for the postgresql.conf of a new server.
    Every method raises DevdbError when the server cannot do what is asked.
    """

    def __init__(self, folder: Path, *settings: str) -> None:
        self.owner = owner_of(folder)
        self.folder = folder.parent.resolve() / folder.name if self.owner else folder.resolve()
        self.settings = settings
        self.programs: Path | None = None
        self.data = self.folder / "data"
        self.log = self.folder / "log"

    @property
    def password(self) -> str:
        """Both roles' password; empty if it was lost."""
        text = read(self.folder / "password")
        return text if re.fullmatch(r"[0-9a-f]{64}", text) else ""

    @property
    def is_set_up(self) -> bool:
        return bool(self.password) and read(self.folder / "role") == ROLE

    @property
    def port(self) -> str:
        file = pid_file(self.data)
        if file is None:
            raise DevdbError(f"{self.data}/postmaster.pid is missing or broken: `python -m devdb start` mends it")
        return file.port

    @property
    def url(self) -> str:
        return f"postgresql://{ROLE}:{self.password}@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def is_running(self) -> bool:
        return find(self.data) is not None

    def is_ready(self) -> bool:
        file = pid_file(self.data)
        return file is not None and file.is_ready and is_of(file, self.data) and self.is_set_up

    def start(self) -> bool:
        """Start the server, and return True; return False if it ran already."""
        if self.is_ready():
            return False
        with self._locked_folder() as folder:
            file = pid_file(self.data)
            # Its client may have been killed while the server was starting.
            if file and is_of(file, self.data) and self.is_set_up and wait_for(self.is_ready):
                return False
            self._stop()  # what hangs, runs without a sound pid file, or has yet to be set up
            self._initialise(folder)
            self._start(folder)
            return True

    def stop(self) -> bool:
        """Stop the server, and return True; return False if it did not run."""
        if not self.is_running():
            return False
        with self._locked_folder():
            self._stop()
        return True

    def reset(self) -> None:
        """Stop the server and delete its data."""
        with self._locked_folder() as folder:
            self._stop()
            delete(folder / "data")

    @contextmanager
    def _locked_folder(self) -> Iterator[Path]:
        """Have the folder, with all its files but the data, for this process alone; yield a path to it."""
        if set('"$`') & set(str(self.folder)):
            raise DevdbError(f"PostgreSQL's pg_ctl cannot work in a path with a quote, $ or `: {self.folder}")
        run_as(self.owner)  # or say that it cannot be
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with pinned(self.folder, self.owner) as folder:
            os.close(open_plain(folder / "lock", self.owner))
            try:
                with FileLock(folder / "lock", timeout=TIME_LIMIT):
                    yield folder
            except Timeout:
                raise DevdbError(f"another process has locked {self.folder}/lock for {TIME_LIMIT} s: end it") from None

    def _initialise(self, folder: Path) -> None:
        """Make the data folder: beside its place, so that an interrupted attempt leaves nothing that looks whole."""
        password = self.password or secrets.token_hex(32)
        if (self.data / "PG_VERSION").exists():
            made_by = read(self.data / "PG_VERSION").strip()
            this = re.findall(r"\d+", subprocess.check_output([program("postgres"), "--version"], text=True))[0]
            if made_by != this:
                raise DevdbError(
                    f"{self.data} is of PostgreSQL {made_by}, and this is {this}: `python -m devdb reset` deletes it"
                )
            if not self.is_set_up:  # the password was lost, or this server had no role for the application
                self._set_up(self.data, password)
                self._note(folder, password)
            return
        # A client that was killed may have left an initdb behind that still writes to its folder.
        for leftover in folder.glob("data.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        delete(folder / "data")
        self._note(folder, password)
        name = f"data.{secrets.token_hex(4)}"
        self._init(self.folder / name)
        self._set_up(self.folder / name, password)
        (folder / name).rename(folder / "data")

    def _note(self, folder: Path, password: str) -> None:
        for name, text in {"password": password, "role": ROLE}.items():
            write(folder / name, text, self.owner)

    def _init(self, data: Path) -> None:
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", *self.settings)
        for locale in LOCALES:
            try:
                return self._run(
                    *("initdb", "-D", data, "--username=postgres", f"--pwfile={self.folder / 'password'}"),
                    *("--auth=scram-sha-256", "--encoding=UTF8", f"--locale={locale}", "--no-sync"),
                    *(word for setting in settings for word in ("-c", setting)),
                )
            except DevdbError:
                if locale == LOCALES[-1]:
                    raise

    def _set_up(self, data: Path, password: str) -> None:
        command = ("postgres", "--single", "-j", "-D", data, "postgres")
        self._run(*command, input=set_up(password))

    def _start(self, folder: Path) -> None:
        """Start the server on the port it had before, or on another if that is taken."""
        extensions = self._trust_vector(folder)
        for attempt in range(ATTEMPTS):
            port = free_port(read(folder / "port"))
            write(folder / "port", str(port), self.owner)
            try:
                return self._run("pg_ctl", "start", "-D", self.data, "-o", f"-p {port} {extensions}")
            except DevdbError:
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.3)

    def _trust_vector(self, folder: Path) -> str:
        """Let the application's role create pgvector, as hosted databases do; return the option that it takes."""
        share = program("postgres", self.programs).parents[1] / "share"
        control = share / "extension" / "vector.control"
        if os.pathsep in f"{self.folder}{share}"[2:] or not control.exists():
            return ""
        directory = share.as_posix().replace("'", "''")
        text = f"{control.read_text()}trusted = true\ndirectory = '{directory}/extension'\n"
        (folder / "extension").mkdir(mode=0o700, exist_ok=True)
        with pinned(folder / "extension", self.owner) as extension:
            write(extension / "vector.control", text, self.owner)
        return f'-c "extension_control_path={self.folder.as_posix()}{os.pathsep}{share.as_posix()}"'

    def _stop(self) -> None:
        """Stop the server; forget a pid file that would keep PostgreSQL from going on: broken, or of another program."""
        pid, file = find(self.data), pid_file(self.data)
        is_in_the_way = file is None or (file.pid != pid and psutil.pid_exists(file.pid))
        if is_in_the_way and self.data.exists() and not (self.owner and self.data.is_symlink()):
            with pinned(self.data, self.owner) as data:
                delete(data / "postmaster.pid")
        for signal in ("INT", "KILL") if pid else ():  # the second, if it hangs
            self._run("pg_ctl", "kill", signal, str(pid))
            if wait_for(lambda: find(self.data) != pid):
                break

    def _run(self, name: str, *arguments: str | Path, input: str = "") -> None:
        """Run one of PostgreSQL's programs, its output to the log: a server would hold a pipe open."""
        binary = program(name, self.programs)
        with pinned(self.folder, self.owner) as folder, open(open_plain(folder / "log", self.owner), "a+b") as log:
            before = log.seek(0, os.SEEK_END)
            done = subprocess.run(
                [*run_as(self.owner, self.folder, binary), binary, *arguments],
                cwd=self.folder,
                env=environment(),
                input=input.encode(),
                stdout=log,
                stderr=log,
                check=False,
            )
            log.seek(before)
            said = log.read().decode(errors="replace")
        if done.returncode or (name == "postgres" and "ERROR: " in said):  # after which it goes on
            reasons = re.findall(r"(?:error|ERROR|FATAL|PANIC):\s*(.*)", said) or said.split("\n")[-2:-1]
            raise DevdbError(f"{name} failed: {' '.join(reasons[-1:])} (more in {self.log})")


def wait_for(condition: Callable[[], bool]) -> bool:
    """Return whether it came true in time."""
    deadline = time.monotonic() + TIME_LIMIT
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def free_port(preferred: str) -> int:
    """Return `preferred` if nothing listens there, or else a port where nothing does."""
    is_port = preferred.isascii() and preferred.isdigit() and int(preferred) < 2**16
    for port in (int(preferred) if is_port else 0, 0):
        with socket.socket() as probe:
            if os.name != "nt":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DevdbError("there is no free port on 127.0.0.1")
