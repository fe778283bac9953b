"""Whatever goes wrong is a problem, as RFC 9457 has it, that says what a client may know."""

from collections.abc import AsyncIterator
from datetime import date
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import FastAPI, HTTPException
from httpx2 import ASGITransport, AsyncClient
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.db.session import SessionDep

CONFLICTS = {
    "still referred to": (
        "CREATE TEMP TABLE parents (id int PRIMARY KEY)",
        "CREATE TEMP TABLE children (id int REFERENCES parents ON DELETE RESTRICT)",
        "INSERT INTO parents VALUES (1)",
        "INSERT INTO children VALUES (1)",
        "DELETE FROM parents",
    ),
    "conflicts with what exists": (
        "CREATE TEMP TABLE bookings (during int4range, EXCLUDE USING gist (during WITH &&))",
        "INSERT INTO bookings VALUES ('[1, 3]')",
        "INSERT INTO bookings VALUES ('[2, 4]')",
    ),
}
MISFITS: dict[str, object] = {"int": 2**31, "numeric(3, 1)": 100, "varchar(3)": "long", "text": "\0", "name": "\ud800"}


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[AsyncClient]:
    """A client of an application with routes that fail."""

    class Thing(BaseModel):
        name: Annotated[str, Field(min_length=1)]
        price: int

    @app.get("/things")
    async def list_things() -> None: ...

    @app.post("/things")
    async def add_thing(thing: Thing) -> None: ...

    @app.get("/forbidden")
    async def forbid() -> None:
        raise HTTPException(403, "not for you", headers={"X-Reason": "none"})

    @app.get("/broken")
    async def break_() -> None:
        raise RuntimeError("the secret plan")

    @app.get("/crowded")
    async def time_out() -> None:
        raise PoolTimeoutError("QueuePool limit of size 5 overflow 10 reached")

    @app.get("/odd/{status}")
    async def answer_oddly(status: int) -> None:
        raise HTTPException(status, {"when": date(2026, 1, 1), "who": UUID(int=0)})

    @app.get("/conflicts/{kind}")
    async def break_a_constraint(kind: str, session: SessionDep) -> None:
        for statement in CONFLICTS[kind]:
            await session.execute(text(statement))

    @app.get("/misfits/{type_}")
    async def pass_a_misfit(type_: str, session: SessionDep) -> None:
        await session.execute(text(f"CREATE TEMP TABLE things (value {type_})"))
        await session.execute(text("INSERT INTO things VALUES (:value)"), {"value": MISFITS[type_]})

    @app.get("/late")
    async def wait_for_another_service() -> None:
        raise TimeoutError

    @app.get("/wrong-sql")
    async def ask_nonsense(session: SessionDep) -> None:
        await session.execute(text("SELECT secret FROM plans"))

    @app.get("/wrong-type")
    async def ask_with_the_wrong_type(session: SessionDep) -> None:
        await session.execute(text("SELECT 1 + :number"), {"number": "1"})

    @app.get("/slow")
    async def ask_slowly(session: SessionDep) -> None:
        await session.execute(text("SET LOCAL statement_timeout = 10"))
        await session.execute(text("SELECT pg_sleep(10)"))

    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "status", "more"),
    [
        ("GET", "/nowhere", 404, {}),
        ("PUT", "/things", 405, {}),
        ("GET", "/forbidden", 403, {"detail": "not for you"}),
        ("GET", "/broken", 500, {}),
        ("GET", "/late", 500, {}),
        ("GET", "/wrong-sql", 500, {}),
        ("GET", "/wrong-type", 500, {}),
        ("GET", "/crowded", 503, {"detail": "the database is not available"}),
        ("GET", "/slow", 503, {"detail": "the database is not available"}),
    ],
)
async def test_an_error_is_a_problem(
    client: AsyncClient, method: str, path: str, status: int, more: dict[str, Any]
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem.pop("title")
    assert problem.pop("request_id") == response.headers["x-request-id"]
    assert problem == {"type": "about:blank", "status": status, **more}
    assert ("retry-after" in response.headers) == (status == 503)


async def test_an_exception_keeps_its_headers(client: AsyncClient) -> None:
    assert (await client.get("/forbidden")).headers["x-reason"] == "none"
    assert (await client.put("/things")).headers["allow"] == "GET, POST"


@pytest.mark.parametrize(("status", "title"), [(418, "I'm a Teapot"), (499, "Error")])
async def test_any_status_and_detail_will_do(client: AsyncClient, status: int, title: str) -> None:
    response = await client.get(f"/odd/{status}")
    assert (response.status_code, response.json()["title"]) == (status, title)
    assert response.json()["errors"][0]["msg"] == {
        "when": "2026-01-01",
        "who": "00000000-0000-0000-0000-000000000000",
    }
    empty = await client.get("/odd/205")
    assert (empty.status_code, empty.content) == (205, b"")


@pytest.mark.parametrize("kind", CONFLICTS)
async def test_a_violated_constraint_is_a_conflict(client: AsyncClient, kind: str) -> None:
    response = await client.get(f"/conflicts/{kind}")
    assert response.status_code == 409
    assert kind in response.json()["detail"]


@pytest.mark.parametrize("type_", MISFITS)
async def test_a_value_that_the_database_cannot_hold_is_invalid(client: AsyncClient, type_: str) -> None:
    response = await client.get(f"/misfits/{type_}")
    assert (response.status_code, response.json()["detail"]) == (
        422,
        "a value is too large, too long, or has a character that cannot be stored",
    )


async def test_a_405_names_the_methods_wherever_the_application_is(app: FastAPI) -> None:
    app.add_api_route("/things", lambda: None, methods=["GET"])
    app.add_api_route("/things", lambda: None, methods=["POST"])
    for root_path in ("", "/shop"):
        transport = ASGITransport(app, root_path=root_path)
        async with AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.put(f"{root_path}/things")).headers["allow"] == "GET, POST"


async def test_what_is_invalid_is_named_and_not_repeated(client: AsyncClient) -> None:
    response = await client.post("/things", json={"name": "", "price": "hunter2"})
    assert response.status_code == 422
    assert {error["loc"][-1] for error in response.json()["errors"]} == {"name", "price"}
    assert "hunter2" not in response.text


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused(client: AsyncClient, chunked: bool) -> None:
    body = b" " * 1_000_001

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    headers = {"content-type": "application/json"}
    response = await client.post("/things", content=chunks() if chunked else body, headers=headers)
    assert (response.status_code, response.json()["status"]) == (413, 413)


async def test_the_document_says_so(app: FastAPI) -> None:
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            assert "application/problem+json" in operation["responses"]["default"]["content"]
            assert "422" not in operation["responses"]
