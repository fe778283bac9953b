"""The command line: python -m devdb start|stop|status|url|psql|reset."""

import argparse
import signal
import subprocess
import sys

from devdb import ROOT, keeper, start
from devdb.programs import environment, program
from devdb.roles import ROLE
from devdb.server import Server

COMMANDS = {
    "start": "start the server",
    "stop": "stop the server; the data stays",
    "status": "say whether the server runs (exit code 3 if not)",
    "url": "print the server's URL, starting it if need be",
    "psql": "open psql on the server, starting it if need be; further arguments go to psql (-U postgres: the superuser)",
    "reset": "stop the server and delete its data",
    "throwaway": "run an empty server until standard input ends, its URL on standard output",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m devdb", description="A private PostgreSQL for development.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
    commands.choices["reset"].add_argument("--yes", action="store_true", help="do not ask")
    options, arguments = parser.parse_known_args()
    if arguments and options.command != "psql":
        parser.error(f"unrecognized arguments: {' '.join(arguments)}")

    server = Server(ROOT / ".devdb")
    match options.command:
        case "start":
            keeper.sweep()
            start()
        case "stop":
            print("stopped" if server.stop() else "it did not run")
        case "status":
            running = server.is_running()
            print(f"running on port {server.port}" if running else "stopped")
            return 0 if running else 3
        case "url":
            print(start())
        case "psql":
            start()
            with subprocess.Popen([program("psql"), *arguments], env=client_environment(server)) as psql:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for psql: it cancels the query
                return psql.wait()
        case "reset":
            if not (options.yes or may_delete(server)):
                print("nothing was deleted")
                return 1
            server.reset()
            print(f"deleted {server.data}")
        case "throwaway":
            keeper.run()
    return 0


def client_environment(server: Server) -> dict[str, str]:
    """Return the environment in which PostgreSQL's client programs find the running server."""
    return environment() | {
        "PGHOST": "127.0.0.1",
        "PGPORT": server.port,
        "PGUSER": ROLE,
        "PGPASSWORD": server.password,
        "PGDATABASE": "postgres",
        "PGSSLMODE": "disable",
    }


def may_delete(server: Server) -> bool:
    """Ask whoever is at the terminal, if anyone is."""
    return not sys.stdin.isatty() or input(f"Delete all databases in {server.data}? [y/N] ").strip().lower() == "y"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:  # DevdbError is one; so is a folder that cannot be written
        sys.exit(f"devdb: {error}")
    except (KeyboardInterrupt, EOFError):
        sys.exit("devdb: interrupted")
