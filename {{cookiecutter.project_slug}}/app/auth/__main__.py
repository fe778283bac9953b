"""Adds a user: `python -m app.auth add me@example.com --role admin`."""

import argparse
import asyncio
import getpass
import sys

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import ProgrammingError

from app.auth import passwords, service
from app.auth.fields import Email
from app.auth.models import UserRole
from app.auth.schemas import LONGEST, SHORTEST
from app.db.engine import DatabaseUnavailable
from app.db.session import Database
from app.settings import ConfigurationError, Settings, load_settings
from app.text import one_line

UNDEFINED_TABLE = "42P01"


class Refusal(Exception):
    """What was asked for cannot be done; the message says why."""


def ask_password() -> str:
    """Ask for a password twice, or read it from a pipe."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise Refusal("the two are not the same")
    return password


async def add(email: str, role: UserRole) -> None:
    """Add a user with a password.

    Raises:
        Refusal: the address or the password will not do, or there is a user with this address.
    """
    try:
        email = TypeAdapter(Email).validate_python(email)
    except ValidationError:
        raise Refusal(f"{email!a} is no e-mail address of ASCII characters") from None
    password = await asyncio.to_thread(ask_password)
    if not SHORTEST <= len(password) <= LONGEST:
        raise Refusal(f"the password must have {SHORTEST} to {LONGEST} characters")
    if weakness := passwords.find_weakness(password, email):
        raise Refusal(weakness)
    database = Database(load_settings(Settings))
    try:
        async with database.session() as session:
            if not await service.add_user(session, email, role, passwords.HASHER.hash(password)):
                raise Refusal(f"there is a user with the address {email}")
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != UNDEFINED_TABLE:
            raise
        raise Refusal("there is no table of users: run `alembic upgrade head`") from None
    finally:
        await database.close()
    print(f"{email} may log in, with the role {role}")


def main() -> None:
    parser = argparse.ArgumentParser("python -m app.auth", description="Adds a user, with a password that it asks for.")
    command = parser.add_subparsers(required=True).add_parser("add", help="add a user")
    command.add_argument("email")
    command.add_argument("--role", type=UserRole, choices=list(UserRole), default=UserRole.USER)
    arguments = parser.parse_args()
    asyncio.run(add(arguments.email, arguments.role))


if __name__ == "__main__":
    try:
        main()
    except (ConfigurationError, DatabaseUnavailable, Refusal) as error:
        sys.exit(one_line(error))
    except UnicodeError:
        sys.exit("the password must be UTF-8 text")
    except (EOFError, KeyboardInterrupt):
        sys.exit("no user was added")
