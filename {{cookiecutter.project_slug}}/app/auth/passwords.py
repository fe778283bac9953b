"""Passwords are judged and hashed, in one thread of each process."""

import asyncio
import re
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from zxcvbn import zxcvbn

from app.project import project

T = TypeVar("T")

# https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html: argon2id, 19 MiB
HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
NOBODY = HASHER.hash(secrets.token_urlsafe())  # verified for unknown users, so that they take as long as known ones
JUDGED = 72  # characters that zxcvbn takes
STRONG = 3  # of its scores, 0 to 4
QUEUE = 100  # that may wait, two seconds at most


class Worker:
    """One thread: more of them would take the processors, and 19 MiB each, from all other requests."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, "passwords")
        self.waiting = 0

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what `function` returns, once it is its turn.

        Raises:
            HTTPException: 503, too many wait.
        """
        if self.waiting > QUEUE:
            raise HTTPException(503, "too many passwords are being verified", {"Retry-After": "2"})
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, function, *arguments)
        finally:
            self.waiting -= 1


worker = Worker()


class Verdict(NamedTuple):
    is_right: bool
    new_hash: str | None = None  # where the parameters have changed since


async def verify(password_hash: str | None, password: str) -> Verdict:
    """Say whether a password is the one that was hashed; it takes as long where there is no hash.

    Raises:
        HTTPException: 503, too many wait.
    """
    return await worker.run(_verify, password_hash, password)


def _verify(password_hash: str | None, password: str) -> Verdict:
    try:
        HASHER.verify(password_hash or NOBODY, password)
    except VerifyMismatchError:
        return Verdict(False)
    is_old = password_hash is not None and HASHER.check_needs_rehash(password_hash)
    return Verdict(password_hash is not None, HASHER.hash(password) if is_old else None)


async def hash_new(password: str, email: str) -> str:
    """Return the hash of a new password.

    Raises:
        RequestValidationError: it is easy to guess.
        HTTPException: 503, too many wait.
    """
    if weakness := await worker.run(find_weakness, password, email):
        raise RequestValidationError([{"loc": ("body", "password"), "msg": weakness, "type": "weak_password"}])
    return await worker.run(HASHER.hash, password)


def find_weakness(password: str, email: str) -> str | None:
    """Say why a password is easy to guess; None: it is not."""
    context = [email, *re.split(r"\W+", email), project()["title"], *project()["title"].split()]
    found = zxcvbn(password[:JUDGED], user_inputs=context)
    if found["score"] >= STRONG:
        return None
    return " ".join(["It is easy to guess.", found["feedback"]["warning"], *found["feedback"]["suggestions"]])
