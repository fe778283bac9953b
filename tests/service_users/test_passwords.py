"""A password is set by a link to an address that its owner can read, or by who knows the one before."""

import asyncio
import logging
from typing import Any

import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from httpx2 import AsyncClient
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.application import create_app
from app.auth import links, passwords
from app.auth.settings import AuthSettings
from app.db.session import Database
from app.settings import Settings
from tests.service_users.conftest import AUTH, ME, OTHER, PASSWORD, SQL, STRANGER, Caller, Mails, calling

WEAK = ["x" * 14, "passwordpassword", "a" * 15, "123456789012345", ME + ME[:1], "servicemy service", "x" * 1001]
STRONG = [
    "Gr\u00fc\u00dfe aus K\u00f6ln am Rhein",
    "\U0001f680 rockets \U0001f680 fly high \U0001f680",
    "   leading spaces, and why not",
    "lorem ipsum 7 " * 60,
]


async def test_a_link_for_anyone_is_answered_alike_and_only_a_user_gets_a_mail(caller: Caller, mails: Mails) -> None:
    known, unknown = await caller.ask_for_link(ME.upper()), await caller.ask_for_link(STRANGER)
    assert known.status_code == unknown.status_code == 202
    assert known.content == unknown.content
    assert len(mails.tokens) == 1
    assert ME in mails.text
    assert STRANGER not in mails.text


async def test_a_link_sets_a_password_once(caller: Caller, mails: Mails) -> None:
    await caller.ask_for_link()
    [token] = mails.tokens
    assert [(await caller.set_password(token)).status_code for _ in range(2)] == [204, 400]
    assert (await caller.log_in()).status_code == 401
    assert (await caller.log_in(password=OTHER)).status_code == 201


async def test_of_many_who_use_a_link_at_once_one_succeeds(caller: Caller, mails: Mails) -> None:
    await caller.ask_for_link()
    [token] = mails.tokens
    answers = await asyncio.gather(*(caller.set_password(token, f"{OTHER} {number}") for number in range(12)))
    assert sorted(answer.status_code for answer in answers) == [204] + [400] * 11
    [right] = [number for number, answer in enumerate(answers) if answer.status_code == 204]
    assert (await caller.log_in(password=f"{OTHER} {right}")).status_code == 201


async def test_only_the_newest_link_counts_and_none_for_longer_than_an_hour(
    caller: Caller, mails: Mails, sql: SQL
) -> None:
    for _ in range(2):
        await caller.ask_for_link()
    older, newer = mails.tokens
    assert (await caller.set_password(older)).status_code == 400
    await sql("UPDATE password_links SET expires_at = expires_at - interval '1 hour'")
    assert (await caller.set_password(newer)).status_code == 400
    await sql("UPDATE password_links SET expires_at = now() + interval '1 minute'")
    assert (await caller.set_password(newer)).status_code == 204


async def test_no_link_outlives_a_change_of_password_or_a_disabled_user(
    caller: Caller, admin: Caller, mails: Mails, sql: SQL
) -> None:
    await caller.log_in()
    await caller.ask_for_link()
    assert (await caller.change_password()).status_code == 204
    assert (await caller.set_password(mails.tokens[-1])).status_code == 400
    await caller.ask_for_link()
    me = await sql("SELECT id FROM users WHERE email = :email", email=ME)
    for is_active in (False, True):
        await admin.client.patch(f"/api/v1/users/{me}", json={"is_active": is_active})
    assert (await caller.set_password(mails.tokens[-1])).status_code == 400


async def test_a_disabled_user_gets_no_link(caller: Caller, mails: Mails, sql: SQL) -> None:
    await sql("UPDATE users SET is_active = false")
    assert (await caller.ask_for_link()).status_code == 202
    assert mails.tokens == []


async def test_a_link_ends_all_sessions(app: FastAPI, caller: Caller, mails: Mails) -> None:
    async with calling(app) as elsewhere:
        await elsewhere.log_in()
        await caller.log_in()
        await caller.ask_for_link()
        assert (await caller.set_password(mails.tokens[-1])).status_code == 204
        assert (await caller.status(), await elsewhere.status()) == (401, 401)


async def test_no_session_is_left_of_log_ins_that_race_a_link(caller: Caller, mails: Mails, sql: SQL) -> None:
    for _ in range(3):
        await sql("DELETE FROM throttles")
        await caller.ask_for_link()
        racing = [caller.client.post(f"{AUTH}/sessions", json={"email": ME, "password": PASSWORD}) for _ in range(5)]
        *log_ins, reset = await asyncio.gather(*racing, caller.set_password(mails.tokens[-1]))
        assert reset.status_code == 204
        assert {log_in.status_code for log_in in log_ins} <= {201, 401}
        assert await sql("SELECT count(*) FROM sessions") == 0
        await caller.ask_for_link()
        assert (await caller.set_password(mails.tokens[-1], PASSWORD)).status_code == 204


async def test_a_log_in_waits_for_a_reset_that_has_begun(
    caller: Caller, session: AsyncSession, database: Database, sql: SQL
) -> None:
    await session.execute(text("UPDATE users SET password_set_at = now()"))
    log_in = asyncio.create_task(caller.log_in())
    waits = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with database.read_session() as watching:
        while not (log_in.done() or await watching.scalar(text(f"SELECT count(*) {waits}"))):
            await watching.execute(text("SELECT pg_sleep(0.01)"))
    await session.commit()
    assert (await log_in).status_code == 401
    assert await sql("SELECT count(*) FROM sessions") == 0


async def test_right_log_ins_at_once_all_succeed_though_the_hash_is_renewed(caller: Caller, sql: SQL) -> None:
    old = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    await sql("UPDATE users SET password_hash = :old", old=old)
    racing = [caller.client.post(f"{AUTH}/sessions", json={"email": ME, "password": PASSWORD}) for _ in range(5)]
    assert {answer.status_code for answer in await asyncio.gather(*racing)} == {201}
    assert "m=19456,t=2,p=1" in await sql("SELECT password_hash FROM users WHERE email = :email", email=ME)


@pytest.mark.parametrize("password", WEAK, ids=range(len(WEAK)))
async def test_a_weak_password_is_refused_and_the_link_stays_good(caller: Caller, mails: Mails, password: str) -> None:
    await caller.ask_for_link()
    [token] = mails.tokens
    refused = await caller.set_password(token, password)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["body", "password"]
    assert password not in refused.text
    assert token not in refused.text
    assert (await caller.set_password(token)).status_code == 204


@pytest.mark.parametrize("password", STRONG, ids=range(len(STRONG)))
async def test_a_password_may_be_made_of_anything(caller: Caller, mails: Mails, password: str) -> None:
    await caller.ask_for_link()
    assert (await caller.set_password(mails.tokens[-1], password)).status_code == 204
    for wrong in {password[:72], password.strip(), password.upper()} - {password}:
        assert (await caller.log_in(password=wrong)).status_code == 401
    assert (await caller.log_in(password=password)).status_code == 201


async def test_a_change_needs_the_current_password_and_ends_the_other_sessions(app: FastAPI, caller: Caller) -> None:
    await caller.log_in()
    assert (await caller.client.put(f"{AUTH}/password", json={"password": OTHER})).status_code == 422
    assert (await caller.change_password("wrong")).status_code == 403
    weak = await caller.change_password(password="passwordpassword")
    assert (weak.status_code, weak.json()["errors"][0]["loc"]) == (422, ["body", "password"])
    async with calling(app) as elsewhere:
        await elsewhere.log_in()
        assert (await caller.change_password()).status_code == 204
        assert (await caller.status(), await elsewhere.status()) == (200, 401)
        assert (await elsewhere.log_in()).status_code == 401
        assert (await elsewhere.log_in(password=OTHER)).status_code == 201


async def test_a_change_that_races_another_is_refused(caller: Caller) -> None:
    await caller.log_in()
    answers = await asyncio.gather(*(caller.change_password(password=f"{OTHER} {number}") for number in range(4)))
    assert sorted(answer.status_code for answer in answers) == [204, 403, 403, 403]


async def test_a_token_is_good_for_one_thing(caller: Caller, mails: Mails) -> None:
    await caller.log_in()
    await caller.ask_for_link()
    [token] = mails.tokens
    assert (await caller.set_password(caller.token)).status_code == 400
    caller.client.headers["Authorization"] = f"Bearer {token}"
    assert await caller.status() == 401


@pytest.mark.parametrize("token", ["", "x", "\x00", "a" * 43, "\u00e9" * 43])
async def test_what_is_no_link_is_refused(caller: Caller, token: str) -> None:
    assert (await caller.set_password(token)).status_code == 400


@pytest.mark.parametrize(
    "email",
    [
        "me@example.com\r\nBcc: evil@example.com",
        "me@example.com\n",
        "me@example.com,evil@example.com",
        "m\u0435@example.com",  # Cyrillic
        "me@ex\u0131mple.com",
        "me@example.com\u0000",
        "me <me@example.com>",
        " me@example.com",
        "me@example",
        "me@-.com",
        "me",
        "",
        f"{'a' * 250}@example.com",
        ["me@example.com"],
        None,
    ],
    ids=range(15),
)
async def test_what_is_no_address_of_ascii_is_refused(caller: Caller, mails: Mails, email: Any) -> None:
    body = {"email": email, "password": PASSWORD}
    for path in ("password-links", "sessions"):
        assert (await caller.client.post(f"{AUTH}/{path}", json=body)).status_code == 422
    assert mails.text == ""


async def test_a_link_leads_where_the_settings_say_whatever_the_host(
    users: None, database_url: str, mails: Mails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_URL", "https://app.example.com/password")
    async with calling(create_app(Settings(database_url=SecretStr(database_url)))) as caller:
        headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Origin": "https://evil.example"}
        await caller.client.post(f"{AUTH}/password-links", json={"email": ME.upper()}, headers=headers)
    assert "evil" not in mails.text
    assert f"to {ME}" in mails.text
    assert f"https://app.example.com/password#{mails.tokens[0]}\n" in mails.text


async def test_anyone_registers_by_a_link_where_that_is_allowed(
    users: None, database_url: str, mails: Mails, monkeypatch: pytest.MonkeyPatch, sql: SQL
) -> None:
    monkeypatch.setenv("REGISTRATION", "true")
    async with calling(create_app(Settings(database_url=SecretStr(database_url)))) as caller:
        body = {"email": STRANGER, "role": "admin", "is_active": False, "id": "1", "password": PASSWORD}
        assert (await caller.client.post(f"{AUTH}/password-links", json=body)).status_code == 202
        assert (await caller.log_in(STRANGER)).status_code == 401
        assert (await caller.set_password(mails.tokens[-1])).status_code == 204
        assert (await caller.log_in(STRANGER, OTHER)).status_code == 201
        me = (await caller.client.get(f"{AUTH}/me")).json()
        assert (me["email"], me["role"], me["is_active"]) == (STRANGER, "user", True)


async def test_a_mail_server_that_is_down_is_logged_and_harms_no_request(
    users: None, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SMTP_URL", "smtp://someone:hunter2@127.0.0.1:1")
    monkeypatch.setenv("MAIL_FROM", "service@example.com")
    async with calling(create_app(Settings(database_url=SecretStr(database_url)))) as caller:
        assert (await caller.ask_for_link()).status_code == 202
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert f"a mail to {ME} was not sent: " in record.getMessage()
    assert "hunter2" not in caplog.text


async def test_a_link_that_cannot_be_stored_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(Settings(database_url=SecretStr("postgresql://127.0.0.1:1/nowhere")))
    await links.send_link(app.state.database, AuthSettings(), ME)
    assert "a link for me@example.com was not made: " in caplog.text


async def test_at_most_a_hundred_wait_for_their_password_to_be_verified(
    caller: Caller, sql: SQL, monkeypatch: pytest.MonkeyPatch, client: AsyncClient
) -> None:
    monkeypatch.setattr(passwords.worker, "waiting", passwords.QUEUE + 1)
    refused = await caller.log_in()
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    monkeypatch.undo()
    assert (await caller.log_in()).status_code == 201
