"""Who may do what with users, and what nobody learns."""

import asyncio
import logging
import os
import subprocess
import sys
import traceback
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.application import create_app
from app.auth.dependencies import AdminUser, CurrentUser, SignedIn, require
from app.auth.models import UserRole
from app.db.session import Database
from app.project import ROOT
from app.settings import ConfigurationError, Settings, load_settings
from tests.service_users.conftest import ADMIN, AUTH, ME, OTHER, PASSWORD, SQL, STRANGER, USERS, Caller, Mails, calling

NOBODY = "00000000-0000-7000-8000-000000000000"


async def test_only_admins_see_and_change_users(caller: Caller, sql: SQL) -> None:
    await caller.log_in()
    me = f"{USERS}/{await sql('SELECT id FROM users WHERE email = :email', email=ME)}"
    for method, path, body in [
        ("GET", USERS, None),
        ("POST", USERS, {"email": STRANGER}),
        ("PATCH", me, {"role": "admin"}),
    ]:
        refused = await caller.client.request(method, path, json=body)
        assert (refused.status_code, refused.json()["title"]) == (403, "Forbidden")
    assert await sql("SELECT role = 'user' FROM users WHERE email = :email", email=ME)
    assert await sql("SELECT count(*) FROM users") == 2


async def test_an_admin_is_one_no_longer_than_the_table_says(admin: Caller, sql: SQL) -> None:
    assert (await admin.client.get(USERS)).status_code == 200
    await sql("UPDATE users SET role = 'user'")
    assert (await admin.client.get(USERS)).status_code == 403
    assert await admin.status() == 200


async def test_the_session_is_read_once_whatever_a_route_asks_for(
    app: FastAPI, admin: Caller, database: Database
) -> None:
    router = APIRouter(dependencies=[SignedIn])

    @router.get("/all", dependencies=[require(UserRole.USER, UserRole.ADMIN)])
    async def ask(user: CurrentUser, admin: AdminUser) -> None:
        assert user is admin

    app.include_router(router)
    statements: list[str] = []
    for engine in (database.engine, database.read_engine):
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *found: statements.append(found[2]))
    assert (await admin.client.get("/all")).status_code == 200
    assert len(statements) == 1


async def test_an_admin_pages_through_users_without_their_passwords(admin: Caller) -> None:
    first = (await admin.client.get(USERS, params={"limit": 1})).json()
    second = (await admin.client.get(USERS, params={"limit": 1, "cursor": first["next_cursor"]})).json()
    [one], [other] = first["items"], second["items"]
    assert {one["email"], other["email"]} == {ME, "admin@example.com"}
    assert set(one) == {"id", "email", "role", "is_active", "created_at", "updated_at"}
    assert second["next_cursor"] is None


async def test_an_invited_user_gets_a_link_and_only_one_account(admin: Caller, mails: Mails, sql: SQL) -> None:
    invited = await admin.client.post(
        USERS, json={"email": STRANGER.upper(), "role": "admin", "is_active": False, "id": "1"}
    )
    assert invited.status_code == 201
    body = invited.json()
    assert (body["email"], body["role"], body["is_active"]) == (STRANGER, "admin", True)
    assert invited.headers["location"] == f"{USERS}/{body['id']}"
    again = await admin.client.post(USERS, json={"email": STRANGER})
    assert (again.status_code, again.json()["detail"]) == (409, "email already exists")
    assert len(mails.tokens) == 1
    assert (await admin.set_password(mails.tokens[0])).status_code == 204
    assert (await admin.log_in(STRANGER, OTHER)).status_code == 201


@pytest.mark.parametrize("body", [{"role": "owner"}, {"is_active": None}, {"role": None}, {"role": ["admin"]}])
async def test_malformed_changes_are_refused(admin: Caller, sql: SQL, body: dict[str, Any]) -> None:
    me = await sql("SELECT id FROM users WHERE email = :email", email=ME)
    assert (await admin.client.patch(f"{USERS}/{me}", json=body)).status_code == 422


async def test_a_change_of_nothing_and_of_nobody(admin: Caller, sql: SQL) -> None:
    me = await sql("SELECT id FROM users WHERE email = :email", email=ME)
    same = await admin.client.patch(f"{USERS}/{me}", json={"email": STRANGER, "password_hash": "x"})
    assert (same.status_code, same.json()["email"]) == (200, ME)
    for body in ({}, {"role": "admin"}):
        assert (await admin.client.patch(f"{USERS}/{NOBODY}", json=body)).status_code == 404


@pytest.mark.parametrize("body", [{"role": "user"}, {"is_active": False}])
async def test_the_last_admin_stays_one(admin: Caller, sql: SQL, body: dict[str, Any]) -> None:
    await sql("UPDATE users SET role = 'admin', is_active = false WHERE email = :email", email=ME)  # counts for nothing
    own = f"{USERS}/{await sql('SELECT id FROM users WHERE email = :email', email=ADMIN)}"
    refused = await admin.client.patch(own, json=body)
    assert (refused.status_code, refused.json()["detail"]) == (409, "no other admin would be left")
    assert (await admin.client.patch(own, json={"role": "admin", "is_active": True})).status_code == 200
    await sql("UPDATE users SET is_active = true")
    assert (await admin.client.patch(own, json=body)).status_code == 200
    assert (await admin.client.get(USERS)).status_code in (401, 403)


async def test_of_two_admins_who_disable_each_other_one_stays(
    app: FastAPI, admin: Caller, session: AsyncSession, database: Database, sql: SQL
) -> None:
    await sql("UPDATE users SET role = 'admin'")
    me, other = [
        f"{USERS}/{await sql('SELECT id FROM users WHERE email = :email', email=each)}" for each in (ME, ADMIN)
    ]
    async with calling(app) as caller:
        await caller.log_in()
        await session.execute(text("SELECT FROM users FOR UPDATE"))  # until both have been let in
        requests = [
            asyncio.create_task(client.patch(path, json={"is_active": False}))
            for client, path in [(caller.client, other), (admin.client, me)]
        ]
        waits = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        async with database.read_session() as watching, asyncio.timeout(60):
            while await watching.scalar(text(f"SELECT count(*) {waits}")) < 2:
                await watching.execute(text("SELECT pg_sleep(0.01)"))
        await session.commit()
        assert sorted([(await request).status_code for request in requests]) == [200, 409]
    assert await sql("SELECT count(*) FROM users WHERE is_active") == 1


async def test_no_secret_is_in_a_log_or_an_answer(
    app: FastAPI, caller: Caller, mails: Mails, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy.engine", "sqlalchemy.pool", "app"):
        caplog.set_level(logging.DEBUG, name)

    @app.get("/broken")
    async def break_() -> None:
        raise RuntimeError("broken")

    answers = [await caller.ask_for_link()]
    [link] = mails.tokens
    answers += [await caller.set_password(link, "passwordpassword"), await caller.set_password(link, OTHER)]
    answers += [
        await caller.log_in(),
        await caller.client.post(f"{AUTH}/sessions", json={"email": "x", "password": OTHER}),
    ]
    await caller.log_in(password=OTHER)
    answers += [await caller.client.get("/broken"), await caller.change_password(OTHER), await caller.change_password()]
    answers += [await caller.client.get(f"{AUTH}/me"), await caller.client.get(f"{AUTH}/sessions")]
    records = [record for record in caplog.records if record.name != "app.auth.mail"]
    assert any(record.name.startswith("sqlalchemy.engine") for record in records)
    logged = "\n".join(
        record.getMessage()
        + str(vars(record))
        + "".join(traceback.format_exception(*record.exc_info) if record.exc_info else [])
        for record in records
    )
    answered = "\n".join(answer.text + str(answer.headers) for answer in answers)
    assert [answer.status_code for answer in answers] == [202, 422, 204, 401, 422, 500, 204, 403, 200, 200]
    for secret in (link, caller.token, PASSWORD, OTHER, "passwordpassword"):
        assert secret
        assert secret not in logged
        assert secret not in answered
    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}


async def test_no_answer_of_the_api_has_a_password_s_flow(app: FastAPI) -> None:
    schemes = app.openapi()["components"]["securitySchemes"].values()
    assert sorted((scheme["type"], scheme.get("scheme", scheme.get("in"))) for scheme in schemes) == [
        ("apiKey", "cookie"),
        ("http", "bearer"),
    ]


async def test_every_operation_is_401_without_a_token_or_meant_to_be_open(app: FastAPI, client: AsyncClient) -> None:
    paths = app.openapi()["paths"]
    ours = {(path, method) for path in paths for method in paths[path] if path.startswith((AUTH, USERS))}
    meant = {(f"{AUTH}/sessions", "post"), (f"{AUTH}/password-links", "post"), (f"{AUTH}/passwords", "post")}
    assert len(ours) == 12
    for path, method in ours - meant:
        assert (await client.request(method, path)).status_code == 401
        assert "security" in paths[path][method]
    assert not any("security" in paths[path][method] for path, method in meant)


async def test_probes_and_documentation_stay_open(client: AsyncClient) -> None:
    for path in ("/health/live", "/health/ready", "/docs", "/openapi.json"):
        assert (await client.get(path)).status_code == 200


def add(database_url: str, *arguments: str, password: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "app.auth", "add", *arguments],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": database_url},
        input=password,
        capture_output=True,
        timeout=60,
        check=False,
    )


async def test_the_first_admin_is_added_by_a_command(caller: Caller, database_url: str, sql: SQL) -> None:
    done = add(database_url, STRANGER.upper(), "--role", "admin", password=f"{OTHER}\n".encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert (await caller.log_in(STRANGER, OTHER)).status_code == 201
    assert (await caller.client.get(USERS)).status_code == 200


@pytest.mark.parametrize(
    ("email", "password"),
    [
        (ME, f"{OTHER}\n".encode()),
        (STRANGER, b"short\n"),
        (STRANGER, b"passwordpassword\n"),
        (STRANGER, b""),
        (STRANGER, b"\xff\xfe is not utf-8 at all\n"),
        ("no address", f"{OTHER}\n".encode()),
        ("n\u00f6body@example.com", f"{OTHER}\n".encode()),
    ],
    ids=range(7),
)
async def test_a_user_who_will_not_do_is_not_added(
    users: None, database_url: str, sql: SQL, email: str, password: bytes
) -> None:
    done = add(database_url, email, password=password)
    assert done.returncode != 0
    assert done.stderr.count(b"\n") == 1
    assert (password.strip() or b"Traceback") not in done.stderr
    assert await sql("SELECT count(*) FROM users") == 2
    assert (await sql("SELECT password_hash FROM users WHERE email = :email", email=ME)) is not None


async def test_the_command_says_what_its_database_lacks(empty_database_url: str) -> None:
    for url, reason in [(empty_database_url, b"alembic upgrade head"), ("postgresql://127.0.0.1:1/nowhere", b"")]:
        done = add(url, STRANGER, password=f"{OTHER}\n".encode())
        assert done.returncode != 0
        assert done.stderr.count(b"\n") == 1
        assert reason in done.stderr
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_what_is_deployed_sends_mails_to_links_of_its_own(monkeypatch: pytest.MonkeyPatch, environment: str) -> None:
    monkeypatch.setenv("ENVIRONMENT", environment)
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/shop")
    monkeypatch.setenv("ALLOWED_HOSTS", "example.com")
    with pytest.raises(ConfigurationError) as error:
        load_settings(Settings)
    assert str(error.value).splitlines() == [
        f"WEB_URL must be set, to an address with https://, in {environment}",
        f"SMTP_URL must be set in {environment}",
        "MAIL_FROM must be set where mails are sent",
    ]
    monkeypatch.setenv("WEB_URL", "https://example.com/password")
    monkeypatch.setenv("SMTP_URL", "smtps://user:p%40ss@mail.example.com")
    monkeypatch.setenv("MAIL_FROM", "service@example.com")
    create_app(load_settings(Settings))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SMTP_URL", "http://hunter2@mail"),
        ("SMTP_URL", "smtp://user:hunter2/x@mail"),
        ("SMTP_URL", "smtp://:hunter2@"),
        ("WEB_URL", "javascript:alert(1)"),
        ("WEB_URL", "https://example.com/#x"),
        ("MAIL_FROM", "Me <me@example.com>"),
        ("REGISTRATION", "perhaps"),
    ],
)
def test_malformed_settings_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/shop")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"^{name}: ") as error:
        load_settings(Settings)
    assert "hunter2" not in str(error.value)
