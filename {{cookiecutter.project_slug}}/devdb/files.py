"""Files in a folder that may be another user's: nothing there is followed, and nothing that was there is given away."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Owner = tuple[int, int] | None  # user and group, or no other than this process's

CAREFULLY = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))  # not every system has each


class DevdbError(ConnectionError):
    """The server cannot be had; the message is one sentence."""


@contextmanager
def pinned(folder: Path, owner: Owner) -> Iterator[Path]:
    """Yield a path to this very folder, whatever takes its place. An empty one of root's becomes the owner's.

    Raises:
        DevdbError: it is a third user's.
    """
    if owner is None:
        yield folder
        return
    descriptor = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        user = os.fstat(descriptor).st_uid
        if user == 0 and not os.listdir(descriptor):
            os.fchown(descriptor, *owner)
        elif user != owner[0]:
            raise DevdbError(f"{folder} belongs to another user: delete it, or set DATABASE_URL")
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def read(path: Path) -> str:
    """Return what a plain file holds; nothing if there is none, or if something else is in its place.

    Raises:
        DevdbError: this user may not read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | CAREFULLY)
    except PermissionError:
        raise DevdbError(f"{path.parent} belongs to another user: delete it, or set DATABASE_URL") from None
    except OSError:
        return ""
    try:
        return os.fsdecode(os.read(descriptor, 8192)) if stat.S_ISREG(os.fstat(descriptor).st_mode) else ""
    finally:
        os.close(descriptor)


def open_plain(path: Path, owner: Owner) -> int:
    """Open a plain file to append to it, anew in place of what is not a plain file of the owner's."""
    with suppress(FileExistsError):
        return create(path, owner)
    if path.is_file() and not path.is_symlink():
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | CAREFULLY)
        status = os.fstat(descriptor)
        # A file of root's with no other name is one that its maker has yet to give away.
        is_theirs = owner is None or status.st_uid in (0, owner[0])
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and is_theirs:
            return descriptor
        os.close(descriptor)
    delete(path)
    return create(path, owner)


def create(path: Path, owner: Owner) -> int:
    """Create an empty file where there is nothing, and open it."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | CAREFULLY, 0o600)
    if owner:
        os.fchown(descriptor, *owner)
    return descriptor


def write(path: Path, text: str, owner: Owner) -> None:
    """Put a file that holds `text` in place of what is there."""
    delete(path)
    with open(create(path, owner), "w") as file:
        file.write(text)


def delete(path: Path) -> None:
    """Delete a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
