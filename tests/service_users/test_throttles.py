"""Guessing is slow, wherever it comes from, and locks nobody out."""

import asyncio
from datetime import timedelta

import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.auth import throttles
from app.db.session import Database
from tests.service_users.conftest import AUTH, ME, OTHER, PASSWORD, SQL, STRANGER, Caller, Mails, calling


async def guess(app: FastAPI, host: str, email: str = ME, password: str = OTHER) -> int:
    async with calling(app, host) as caller:
        return (await caller.log_in(email, password)).status_code


async def test_after_five_wrong_passwords_the_right_one_has_to_wait(caller: Caller, sql: SQL) -> None:
    assert [(await caller.log_in(password=OTHER)).status_code for _ in range(6)] == [401] * 5 + [429]
    refused = await caller.log_in()
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert refused.headers["content-type"] == "application/problem+json"
    await sql("UPDATE throttles SET until = until - interval '60 seconds'")
    assert [(await caller.log_in()).status_code for _ in range(2)] == [201, 429]


async def test_guesses_at_once_are_counted_one_by_one(caller: Caller) -> None:
    log_ins = [caller.client.post(f"{AUTH}/sessions", json={"email": ME, "password": OTHER}) for _ in range(20)]
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*log_ins))
    assert statuses == [401] * 5 + [429] * 15


async def test_an_attempt_counts_when_its_turn_comes_not_when_its_transaction_began(
    caller: Caller, database: Database
) -> None:
    step = timedelta(seconds=throttles.LOG_IN_FROM_NETWORK.seconds)
    key = f"{throttles.LOG_IN_FROM_NETWORK.name} {ME} 192.0.2.1"
    async with database.session() as early:
        await early.execute(text("SELECT now()"))
        assert [(await caller.log_in(password=OTHER)).status_code for _ in range(4)] == [401] * 4
        assert await early.scalar(throttles.SPEND, {"key": key, "step": step, "slack": 4 * step})
    assert (await caller.log_in()).status_code == 429


async def test_unknown_addresses_are_throttled_alike(caller: Caller) -> None:
    statuses = [(await caller.log_in(STRANGER)).status_code for _ in range(6)]
    assert statuses == [401] * 5 + [429]


async def test_who_guesses_locks_out_nobody_elsewhere(app: FastAPI, caller: Caller) -> None:
    async with calling(app, "198.51.100.1") as owner:
        await owner.log_in()
        for _ in range(150):
            await caller.log_in(password=OTHER)
        assert (await owner.log_in()).status_code == 201
        assert await owner.status() == 200


async def test_an_account_is_guessed_at_a_hundred_times_from_ever_new_addresses(app: FastAPI, caller: Caller) -> None:
    await caller.log_in()
    statuses = [await guess(app, f"198.51.100.{number}") for number in range(1, 102)]
    assert statuses == [401] * 99 + [429] * 2  # my own log-in counts
    assert await guess(app, "203.0.113.1", password=PASSWORD) == 429
    assert await caller.status() == 200


async def test_a_network_tries_thirty_accounts(app: FastAPI, users: None) -> None:
    statuses = [await guess(app, "198.51.100.1", f"user{number}@example.com") for number in range(31)]
    assert statuses == [401] * 30 + [429]


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        ([f"2001:db8:1:2:{number:x}::1" for number in range(6)], 429),
        ([f"2001:db8:1:{number:x}::1" for number in range(6)], 401),
        ([f"::ffff:198.51.100.{number}" for number in range(6)], 401),
        (["::ffff:198.51.100.1", "198.51.100.1"] * 3, 429),
        ([f"198.51.100.{number}" for number in range(6)], 401),
        (["/run/service.sock"] * 6, 429),
    ],
    ids=range(6),
)
async def test_one_client_is_one_however_many_addresses_it_has(
    app: FastAPI, users: None, hosts: list[str], status: int
) -> None:
    assert [await guess(app, host) for host in hosts] == [401] * 5 + [status]


async def test_no_header_names_the_network(caller: Caller) -> None:
    statuses = []
    for number in range(6):
        for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP", "CF-Connecting-IP"):
            caller.client.headers[header] = (
                f"for=198.51.100.{number}" if header == "Forwarded" else f"198.51.100.{number}"
            )
        statuses.append((await caller.log_in(password=OTHER)).status_code)
    assert statuses == [401] * 5 + [429]


async def test_three_links_are_sent_at_once_to_one_address(app: FastAPI, users: None, mails: Mails) -> None:
    for email, hosts in [(ME, 4), (STRANGER, 4)]:
        answers = []
        for number in range(hosts):
            async with calling(app, f"198.51.100.{number}") as caller:
                answers.append(await caller.ask_for_link(email))
        assert [answer.status_code for answer in answers] == [202] * 3 + [429]
        assert 1100 < int(answers[-1].headers["retry-after"]) <= 1200
    assert len(mails.tokens) == 3


async def test_a_network_asks_for_twenty_links_and_tries_as_many(caller: Caller) -> None:
    asked = [(await caller.ask_for_link(f"user{number}@example.com")).status_code for number in range(21)]
    tried = [(await caller.set_password("a" * 43)).status_code for number in range(21)]
    assert (asked, tried) == ([202] * 20 + [429], [400] * 20 + [429])


async def test_a_stolen_session_does_not_guess_its_password(app: FastAPI, caller: Caller) -> None:
    await caller.log_in()
    assert [(await caller.change_password("wrong")).status_code for _ in range(6)] == [403] * 5 + [429]
    assert await caller.status() == 200


async def test_what_is_over_is_forgotten(caller: Caller, sql: SQL) -> None:
    await sql(
        "INSERT INTO throttles SELECT 'old ' || number, now() - interval '1 day' FROM generate_series(1, 9) AS g (number)"
    )
    for _ in range(2):
        await caller.log_in()
    assert await sql("SELECT count(*) FROM throttles WHERE key LIKE 'old %'") == 0
    assert await sql("SELECT count(*) FROM throttles") == 3
