"""Users, and clients at addresses of their own."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient, Response
from sqlalchemy import func, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.models import User, UserRole
from app.auth.passwords import HASHER

AUTH, USERS = "/api/v1/auth", "/api/v1/users"
PASSWORD, OTHER = "correct horse battery staple", "another horse, another staple"
HASH = HASHER.hash(PASSWORD)
ME, ADMIN, STRANGER = "me@example.com", "admin@example.com", "nobody@example.com"


@dataclass
class Caller:
    """A client at an address."""

    client: AsyncClient
    token: str = ""
    session: dict[str, Any] = field(default_factory=dict)

    async def log_in(self, email: str = ME, password: str = PASSWORD, **more: Any) -> Response:
        """Log in; if it succeeds, the token goes along from now on."""
        response = await self.client.post(f"{AUTH}/sessions", json={"email": email, "password": password, **more})
        if response.status_code == 201:
            self.session, self.token = response.json(), response.json()["token"] or ""
            self.client.headers["Authorization"] = f"Bearer {self.token}"
        return response

    async def status(self) -> int:
        """Return what a request for who I am is answered."""
        return (await self.client.get(f"{AUTH}/me")).status_code

    async def ask_for_link(self, email: str = ME) -> Response:
        return await self.client.post(f"{AUTH}/password-links", json={"email": email})

    async def set_password(self, token: str, password: str = OTHER) -> Response:
        return await self.client.post(f"{AUTH}/passwords", json={"token": token, "password": password})

    async def change_password(self, current: str = PASSWORD, password: str = OTHER) -> Response:
        return await self.client.put(f"{AUTH}/password", json={"current_password": current, "password": password})


@asynccontextmanager
async def calling(app: FastAPI, host: str = "192.0.2.1", base: str = "http://test") -> AsyncIterator[Caller]:
    transport = ASGITransport(app, client=(host, 1), raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url=base) as client:
        yield Caller(client)


@pytest.fixture
async def caller(app: FastAPI, users: None) -> AsyncIterator[Caller]:
    async with calling(app) as caller:
        yield caller


@pytest.fixture
async def admin(app: FastAPI, users: None) -> AsyncIterator[Caller]:
    async with calling(app, "192.0.2.99") as caller:
        assert (await caller.log_in(ADMIN)).status_code == 201
        yield caller


@pytest.fixture
async def users(session: AsyncSession) -> None:
    """A user and an admin."""
    for email, role in [(ME, UserRole.USER), (ADMIN, UserRole.ADMIN)]:
        session.add(User(email=email, role=role, password_hash=HASH, password_set_at=func.now()))
    await session.commit()


@dataclass
class SQL:
    session: AsyncSession

    async def __call__(self, statement: str, **parameters: Any) -> Any:
        """Execute a statement, commit it, and return the first value of its first row, if it has rows."""
        result = await self.session.execute(text(statement), parameters)
        value = result.scalar() if result.returns_rows else None  # type: ignore[attr-defined]
        await self.session.commit()
        return value


@pytest.fixture
def sql(session: AsyncSession) -> SQL:
    return SQL(session)


class Mails:
    """The mails in the log."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.caplog = caplog

    @property
    def tokens(self) -> list[str]:
        return re.findall(r"#([\w-]{43})\n", self.text)

    @property
    def text(self) -> str:
        return "\n".join(r.getMessage() for r in self.caplog.records if r.name == "app.auth.mail")


@pytest.fixture
def mails(caplog: pytest.LogCaptureFixture) -> Mails:
    return Mails(caplog)
