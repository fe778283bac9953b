"""Users over HTTP: what an owner may want to change. The template tests the attacks."""

import re

import pytest
from httpx2 import AsyncClient
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.models import UserRole
from tests.auth.signing_in import sign_in

AUTH = "/api/v1/auth"
PASSWORD = "correct horse battery staple"


async def test_an_invited_user_sets_a_password_and_logs_in_and_out(
    client: AsyncClient, session: AsyncSession, caplog: pytest.LogCaptureFixture
) -> None:
    admin = await sign_in(session, role=UserRole.ADMIN)
    invited = await client.post("/api/v1/users", json={"email": "You@example.com"}, headers=admin)
    assert invited.status_code == 201
    [token] = re.findall(r"#(\S+)", caplog.text)
    assert (await client.post(f"{AUTH}/passwords", json={"token": token, "password": PASSWORD})).status_code == 204

    started = await client.post(f"{AUTH}/sessions", json={"email": "you@example.com", "password": PASSWORD})
    assert started.status_code == 201
    client.headers["Authorization"] = f"Bearer {started.json()['token']}"
    assert (await client.get(f"{AUTH}/me")).json()["id"] == invited.json()["id"]
    assert (await client.delete(f"{AUTH}/sessions/current")).status_code == 204
    assert (await client.get(f"{AUTH}/me")).status_code == 401


async def test_nobody_registers_unless_registration_is_open(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await client.post(f"{AUTH}/password-links", json={"email": "you@example.com"})).status_code == 202
    assert "#" not in caplog.text


async def test_only_admins_manage_users(client: AsyncClient, session: AsyncSession) -> None:
    user = await sign_in(session)
    assert (await client.get("/api/v1/users", headers=user)).status_code == 403
