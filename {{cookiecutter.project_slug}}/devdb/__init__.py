"""A private PostgreSQL for development, started on demand."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devdb.files import DevdbError
from devdb.server import Server

ROOT = Path(__file__).resolve().parent.parent


def start() -> str:
    """Start the project's server unless it runs, and return its URL.

    Raises:
        DevdbError: it does not start.
    """
    server = Server(ROOT / ".devdb")
    if server.start():
        print(f"devdb: PostgreSQL started in {server.folder}; it runs until `python -m devdb stop`", file=sys.stderr)
    return server.url


@contextmanager
def throwaway() -> Iterator[str]:
    """Yield the URL of an empty server that ends with this context, or with this process, however that dies.

    Raises:
        DevdbError: it does not start.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "devdb", "throwaway"],
        cwd=ROOT,
        stdin=subprocess.PIPE,  # its end is what stops the server
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process
    ) as keeper:
        url = keeper.stdout.readline().strip() if keeper.stdout else ""
        if not url:
            raise DevdbError("the throw-away server did not start")
        yield url
