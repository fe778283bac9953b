"""A session begins with the right password only, and ends when it should."""

import hashlib
import json
from base64 import urlsafe_b64encode
from contextlib import nullcontext

import pytest
from fastapi import FastAPI, WebSocket
from httpx2 import AsyncClient, Response
from pydantic import SecretStr
from websockets import connect
from websockets.exceptions import InvalidStatus

from app.application import create_app
from app.auth.dependencies import COOKIE, CurrentUser
from app.settings import Settings
from tests.service_users.conftest import ADMIN, AUTH, ME, OTHER, PASSWORD, SQL, STRANGER, USERS, Caller, calling

NONE = urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).decode().rstrip("=")
MALFORMED = [
    "Bearer",
    "Bearer x",
    f"Bearer {'a' * 43}",
    f"Bearer {'a' * 9000}",
    "Basic bWU6bWU=",
    f"Bearer {NONE}.{NONE}.",
    "Bearer " + "\u00e9" * 43,
    f"Bearer {'a' * 42}\x00",
    "",
]


def assert_unauthenticated(response: Response) -> None:
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == 401


async def test_no_token_is_401_and_says_how(caller: Caller) -> None:
    assert_unauthenticated(await caller.client.get(f"{AUTH}/me"))


@pytest.mark.parametrize("value", MALFORMED, ids=range(len(MALFORMED)))
async def test_a_malformed_token_is_401(caller: Caller, value: str) -> None:
    headers = [(b"Authorization", value.encode("latin-1"))]
    assert_unauthenticated(await caller.client.get(f"{AUTH}/me", headers=headers))


async def test_a_malformed_cookie_is_401(caller: Caller) -> None:
    for value in ("x", "a" * 43, "a" * 9000, '"', "a; b=c"):
        assert_unauthenticated(await caller.client.get(f"{AUTH}/me", headers={"Cookie": f"{COOKIE}={value}"}))


async def test_a_session_is_over_when_it_is_logged_out(caller: Caller) -> None:
    await caller.log_in()
    assert await caller.status() == 200
    assert (await caller.client.delete(f"{AUTH}/sessions/current")).status_code == 204
    assert await caller.status() == 401
    assert_unauthenticated(await caller.client.delete(f"{AUTH}/sessions/current"))


async def test_neither_the_hash_nor_a_token_elsewhere_lets_in(caller: Caller, sql: SQL) -> None:
    await caller.log_in()
    stored = await sql("SELECT token_hash FROM sessions")
    assert stored == hashlib.sha256(caller.token.encode()).digest()
    del caller.client.headers["Authorization"]
    for token in (stored.hex(), urlsafe_b64encode(stored).decode().rstrip("=")):
        response = await caller.client.get(f"{AUTH}/me", headers={"Authorization": f"Bearer {token}"})
        assert_unauthenticated(response)
    for query in ("token", "access_token", COOKIE):
        assert_unauthenticated(await caller.client.get(f"{AUTH}/me", params={query: caller.token}))


async def test_each_log_in_has_a_token_of_its_own(caller: Caller) -> None:
    tokens = {(await caller.log_in(token="a" * 43)).json()["token"] for _ in range(3)}
    assert len(tokens) == 3
    assert "a" * 43 not in tokens


async def test_a_log_in_says_where_its_session_is(caller: Caller) -> None:
    response = await caller.log_in(ME.upper())
    body = response.json()
    assert set(body) == {"id", "token", "user_agent", "created_at", "last_used_at", "expires_at"}
    assert response.headers["location"] == f"{AUTH}/sessions/{body['id']}"
    assert response.headers["cache-control"] == "no-store"
    assert "set-cookie" not in response.headers
    assert (await caller.client.delete(response.headers["location"])).status_code == 204
    assert await caller.status() == 401


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("last_used_at = now() - interval '7 days 1 second'", 401),
        ("expires_at = now() - interval '1 second'", 401),
        ("last_used_at = now() - interval '6 days'", 200),
    ],
)
async def test_a_session_ends_with_time_or_without_use(caller: Caller, sql: SQL, change: str, status: int) -> None:
    await caller.log_in()
    await sql(f"UPDATE sessions SET {change}")
    assert await caller.status() == status
    assert await sql("SELECT last_used_at > now() - interval '1 minute' FROM sessions") is (
        status == 200 or "expires" in change
    )


async def test_use_is_noted_once_an_hour(caller: Caller, sql: SQL) -> None:
    await caller.log_in()
    for ago, is_noted in [("59 minutes", False), ("61 minutes", True)]:
        await sql(f"UPDATE sessions SET last_used_at = now() - interval '{ago}'")
        assert await caller.status() == 200
        assert await sql("SELECT last_used_at > now() - interval '1 minute' FROM sessions") is is_noted


async def test_sessions_that_are_over_are_removed_by_the_next_log_in(caller: Caller, sql: SQL) -> None:
    await caller.log_in()
    await sql("UPDATE sessions SET expires_at = now()")
    await caller.log_in()
    assert await sql("SELECT count(*) FROM sessions") == 1


async def test_a_disabled_user_is_out_for_good(caller: Caller, admin: Caller, sql: SQL) -> None:
    await caller.log_in()
    user_id = await sql("SELECT id FROM users WHERE email = :email", email=ME)
    disabled = await admin.client.patch(f"{USERS}/{user_id}", json={"is_active": False})
    assert (disabled.status_code, disabled.json()["is_active"]) == (200, False)
    assert await caller.status() == 401
    wrong = await caller.log_in(password=OTHER)
    assert without_id(await caller.log_in()) == without_id(wrong)
    await admin.client.patch(f"{USERS}/{user_id}", json={"is_active": True})
    assert await caller.status() == 401
    assert (await caller.log_in()).status_code == 201


async def test_one_who_is_disabled_in_the_table_is_out(caller: Caller, sql: SQL) -> None:
    await caller.log_in()
    await sql("UPDATE users SET is_active = false")
    assert await caller.status() == 401


def without_id(response: Response) -> tuple[int, dict[str, object], dict[str, str]]:
    """Return all of an answer but the request's own id."""
    body = {name: value for name, value in response.json().items() if name != "request_id"}
    headers = {name: value for name, value in response.headers.items() if name != "x-request-id"}
    return response.status_code, body, headers


async def test_no_answer_tells_who_is_a_user(caller: Caller, sql: SQL) -> None:
    answers = [without_id(await caller.log_in(password=OTHER)), without_id(await caller.log_in(STRANGER))]
    await sql("UPDATE users SET password_hash = NULL, password_set_at = NULL WHERE email = :email", email=ME)
    answers.append(without_id(await caller.log_in()))
    await sql("UPDATE users SET is_active = false WHERE email = :email", email=ADMIN)
    answers.append(without_id(await caller.log_in(ADMIN)))
    assert answers == [answers[0]] * 4
    assert answers[0][0] == 401


async def test_the_whole_password_counts(caller: Caller, sql: SQL) -> None:
    for wrong in (PASSWORD[:-1], PASSWORD.upper(), f"{PASSWORD} ", ""):
        assert (await caller.log_in(password=wrong)).status_code == 401
    assert (await caller.log_in()).status_code == 201


async def test_a_session_is_only_its_user_s(app: FastAPI, caller: Caller, admin: Caller) -> None:
    await caller.log_in()
    theirs = await caller.client.delete(f"{AUTH}/sessions/{admin.session['id']}")
    assert theirs.status_code == 404
    assert await admin.status() == 200
    async with calling(app) as elsewhere:
        await elsewhere.log_in()
        listed = (await caller.client.get(f"{AUTH}/sessions")).json()
        assert [(session["id"], session["current"]) for session in listed] == [
            (elsewhere.session["id"], False),
            (caller.session["id"], True),
        ]
        assert not any("token" in session for session in listed)
        assert (await caller.client.delete(f"{AUTH}/sessions")).status_code == 204
        assert (await elsewhere.status(), await caller.status(), await admin.status()) == (401, 200, 200)


@pytest.mark.parametrize("agent", ["x" * 5000, "\x1b[2J", "caf\u00e9"])
async def test_any_user_agent_may_log_in(caller: Caller, agent: str) -> None:
    caller.client.headers = [(b"user-agent", agent.encode("latin-1"))]
    shown = (await caller.log_in()).json()["user_agent"]
    assert len(shown) <= 200
    assert shown.isprintable()


async def test_a_cookie_is_only_the_origin_s_and_is_cleared(app: FastAPI, users: None) -> None:
    async with calling(app, base="https://test") as caller:
        response = await caller.client.post(
            f"{AUTH}/sessions", json={"email": ME, "password": PASSWORD, "cookie": True}
        )
        assert response.json()["token"] is None
        value, *attributes = response.headers["set-cookie"].lower().split("; ")
        assert value.startswith("__host-session=")
        assert {"httponly", "secure", "path=/", "samesite=lax"} <= {*attributes}
        assert not any(attribute.startswith("domain") for attribute in attributes)
        assert await caller.status() == 200
        out = await caller.client.delete(f"{AUTH}/sessions/current", headers={"Sec-Fetch-Site": "same-origin"})
        assert out.status_code == 204
        assert "max-age=0" in out.headers["set-cookie"].lower()
        assert not caller.client.cookies


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://test"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "https://test.evil.example"}, 403),
        ({"Origin": "https://evil.example/?https://test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 204),
        ({"Sec-Fetch-Site": "none"}, 204),
        ({"Origin": "https://test"}, 204),
        ({}, 204),
    ],
)
async def test_no_page_of_another_origin_uses_the_cookie(caller: Caller, headers: dict[str, str], status: int) -> None:
    await caller.log_in()
    del caller.client.headers["Authorization"]
    headers = {"Cookie": f"{COOKIE}={caller.token}", **headers}
    response = await caller.client.delete(f"{AUTH}/sessions", headers=headers)
    assert response.status_code == status
    assert (await caller.client.get(f"{AUTH}/me", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
async def test_no_form_logs_in(caller: Caller, content_type: str | None) -> None:
    body = json.dumps({"email": ME, "password": PASSWORD, "cookie": True}).encode()
    headers = {"Content-Type": content_type} if content_type else {}
    response = await caller.client.post(f"{AUTH}/sessions", content=body, headers=headers)
    assert response.status_code == 422
    assert "set-cookie" not in response.headers


async def test_a_replica_that_lags_knows_no_session_and_is_not_asked(
    users: None, database_url: str, empty_database_url: str
) -> None:
    replica = SecretStr(empty_database_url)
    app = create_app(Settings(database_url=SecretStr(database_url), database_replica_url=replica))
    async with app.router.lifespan_context(app), calling(app) as caller:
        await caller.log_in()
        assert await caller.status() == 200
        assert len((await caller.client.get(f"{AUTH}/sessions")).json()) == 1
        assert (await caller.client.delete(f"{AUTH}/sessions/current")).status_code == 204
        assert await caller.status() == 401


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ({"Authorization": "Bearer {}"}, ME),
        ({"Cookie": f"{COOKIE}={{}}", "Sec-Fetch-Site": "same-origin"}, ME),
        ({"Cookie": f"{COOKIE}={{}}", "Sec-Fetch-Site": "cross-site"}, "403"),
        ({"Cookie": f"{COOKIE}={{}}", "Origin": "https://evil.example"}, "403"),
        ({}, "401"),
    ],
)
async def test_a_websocket_wants_a_token_or_the_cookie_of_its_own_page(
    app: FastAPI, server: str, caller: Caller, headers: dict[str, str], answer: str
) -> None:
    @app.websocket("/socket")
    async def say_who(socket: WebSocket, user: CurrentUser) -> None:
        await socket.accept()
        await socket.send_text(user.email)

    await caller.log_in()
    headers = {name: value.format(caller.token) for name, value in headers.items()}
    with pytest.raises(InvalidStatus, match=answer) if answer.isdigit() else nullcontext():
        async with connect(f"ws://{server}/socket", additional_headers=headers) as socket:
            assert await socket.recv() == answer


async def test_no_other_origin_is_allowed_in(client: AsyncClient) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    preflight = await client.options(f"{AUTH}/sessions", headers=headers)
    assert "access-control-allow-origin" not in preflight.headers
