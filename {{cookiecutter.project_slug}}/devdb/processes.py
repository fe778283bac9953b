"""Which process serves a data folder: pid files outlive reboots, and may be broken."""

import os
import re
from pathlib import Path
from typing import NamedTuple

import psutil

from devdb.files import read


class PidFile(NamedTuple):
    """What a server writes down."""

    pid: int
    data: str
    port: str
    is_ready: bool


def pid_file(data: Path) -> PidFile | None:
    """Return what a server in this folder has written down; None if that is nothing, or broken."""
    lines = read(data / "postmaster.pid").splitlines()
    if len(lines) < 4 or not re.fullmatch(r"[1-9][0-9]{0,9} [1-9][0-9]{0,4}", f"{lines[0]} {lines[3]}"):
        return None
    return PidFile(int(lines[0]), lines[1], lines[3], lines[7:] == ["ready   "])


def is_of(file: PidFile, data: Path) -> bool:
    """Return whether the file's pid is that of a server in this folder: any program may have it by now."""
    if file.data not in command_line(file.pid):
        return False
    # It was started in another folder, if the project was moved since, or if this is a copy.
    there = pid_file(Path(file.data))
    return there is None or there.pid != file.pid or os.path.samefile(file.data, data)


def find(data: Path) -> int | None:
    """Return the pid of the server in this folder: the one in its file or, if that is not to be believed, on the machine."""
    file = pid_file(data)
    if file and is_of(file, data):
        return file.pid
    for pid in psutil.pids():
        words = command_line(pid)
        if str(data) in words and Path(words[0]).stem == "postgres" and _may_be_in(pid, data):
            return int(pid)
    return None


def command_line(pid: int) -> list[str]:
    """Return the command line of the program with this pid; [] if there is none, or it is not for us to see."""
    try:
        return list(psutil.Process(pid).cmdline())
    except psutil.Error:
        return []


def _may_be_in(pid: int, folder: Path) -> bool:
    """Return whether the program is there, and not in a folder that was moved from there, as far as one can see."""
    try:
        return os.path.samefile(psutil.Process(pid).cwd(), folder)
    except psutil.AccessDenied:
        return True
    except (OSError, psutil.Error):
        return False
