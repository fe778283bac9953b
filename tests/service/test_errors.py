"""Whatever goes wrong is a problem, as RFC 9457 has it, that says what a client may know."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from datetime import date
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from httpx2 import ASGITransport, AsyncClient
from pydantic import BaseModel, Field
from sqlalchemy import bindparam, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException as StarletteHTTPException

from app.application import create_app
from app.db.session import ReadSessionDep, SessionDep
from app.settings import Settings
from tests.conftest import execute

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
THING = '{"name": "café", "price": 1}'
MISFITS: dict[str, object] = {
    "int": 2**31,
    "numeric(3, 1)": 100,
    "varchar(3)": "long",
    "text": "\0",
    "name": "\ud800",
    "json": '{"price": Infinity}',
    "jsonb": '{"names": [{"\\ud800": 1}]}',
    "jsonb NOT NULL": '{"name": "\\u0000"}',
    "jsonb CHECK (true)": "[" * 20_000 + "]" * 20_000,
    "uuid": "no uuid",
    "text UNIQUE": "".join(map(chr, range(33, 9000))),
    "vector(3)": "[1, 2]",
}
MISFIT = "a value is too large, too long, malformed, or has a character that cannot be stored"


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
        if type_ == "vector(3)":
            extensions = await session.scalars(text("SELECT name FROM pg_available_extensions"))
            if "vector" not in extensions.all():
                pytest.skip("this server has no pgvector")
            await session.execute(text("CREATE EXTENSION vector"))
        await session.execute(text(f"CREATE TEMP TABLE things (value {type_})"))
        await session.execute(text("INSERT INTO things VALUES (:value)"), {"value": MISFITS[type_]})

    @app.get("/many")
    async def pass_too_many(session: SessionDep) -> None:
        query = text("SELECT 1 WHERE 1 IN :numbers").bindparams(bindparam("numbers", expanding=True))
        await session.execute(query, {"numbers": range(32_768)})

    @app.get("/late")
    async def wait_for_another_service() -> None:
        raise TimeoutError

    @app.get("/wrong-sql")
    async def ask_nonsense(session: SessionDep) -> None:
        await session.execute(text("SELECT secret FROM plans"))

    @app.get("/wrong-type")
    async def ask_with_the_wrong_type(session: SessionDep) -> None:
        await session.execute(text("SELECT 1 + :number"), {"number": "1"})

    @app.get("/own-number")
    async def divide_by_zero(session: SessionDep) -> None:
        await session.execute(text("SELECT 1 / 0"))

    @app.get("/at-once")
    async def ask_at_once(session: SessionDep) -> None:
        driver: Any = (await (await session.connection()).get_raw_connection()).driver_connection
        await asyncio.gather(driver.execute("SELECT 1"), session.execute(text("SELECT 1")))

    @app.get("/slow")
    async def ask_slowly(session: SessionDep) -> None:
        await session.execute(text("SET LOCAL statement_timeout = 10"))
        await session.execute(text("SELECT pg_sleep(10)"))

    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def served(empty_database_url: str) -> AsyncIterator[FastAPI]:
    """An application with pools of its own, and a table of words."""
    app = create_app(Settings(database_url=empty_database_url, database_pool_size=2, database_statement_timeout=1))

    @app.post("/words")
    async def add_word(session: SessionDep) -> None:
        await session.execute(text("SET LOCAL statement_timeout = 0"))
        await session.execute(text("INSERT INTO words VALUES ('one')"))

    @app.get("/words")
    async def read_words(session: ReadSessionDep) -> list[str]:
        return list(await session.scalars(text("SELECT word FROM words")))

    async with app.router.lifespan_context(app):
        async with app.state.database.session() as session:
            await session.execute(text("CREATE TABLE words (word varchar(3))"))
        yield app


@pytest.fixture
async def http(served: FastAPI) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(served, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


async def at_commit(app: FastAPI, statement: str) -> None:
    """Have PostgreSQL execute `statement` when a new word is committed."""
    function = (
        "CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN EXECUTE TG_ARGV[0]; RETURN NULL; END'"
    )
    trigger = (
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON words DEFERRABLE INITIALLY DEFERRED "
        f"FOR EACH ROW EXECUTE FUNCTION at_commit($$ {statement} $$)"
    )
    async with app.state.database.session() as session:
        await session.execute(text(function))
        await session.execute(text(trigger))


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
        ("GET", "/own-number", 500, {}),
        ("GET", "/at-once", 500, {}),
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
    assert (await client.put("/things")).headers["allow"] == "GET, HEAD, POST"


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
    assert (response.status_code, response.json()["detail"]) == (422, MISFIT)


async def test_more_values_than_a_statement_takes_are_invalid(client: AsyncClient) -> None:
    response = await client.get("/many")
    assert (response.status_code, response.json()["detail"]) == (422, "there are more than 32767 values")


@pytest.mark.parametrize(
    "statement", ["SELECT pg_terminate_backend(pg_backend_pid())", "SELECT pg_sleep(60)"], ids=["cut", "late"]
)
async def test_a_commit_without_an_answer_may_be_stored(
    served: FastAPI, http: AsyncClient, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    await at_commit(served, statement)
    response = await http.post("/words")
    assert response.status_code == 503
    assert "did not say whether it is stored" in response.json()["detail"]
    assert "retry-after" not in response.headers
    [line] = [
        record.getMessage() for record in caplog.records if record.name.startswith("app.") and record.levelno > 20
    ]
    assert line.startswith("the answer to a COMMIT is lost: ")
    assert (await http.get("/words")).json() == []


@pytest.mark.parametrize(
    ("code", "status", "detail"),
    [
        ("40001", 503, "other requests work on the same data"),
        ("23505", 409, "this already exists"),
        ("53100", 503, "the database is not available"),
        ("22003", 500, None),
    ],
)
async def test_a_commit_that_is_refused_stores_nothing(
    served: FastAPI, http: AsyncClient, code: str, status: int, detail: str
) -> None:
    await at_commit(served, f"DO 'BEGIN RAISE USING ERRCODE = ''{code}''; END'")
    response = await http.post("/words")
    assert (response.status_code, response.json().get("detail")) == (status, detail)
    assert ("retry-after" in response.headers) == (status == 503)
    assert (await http.get("/words")).json() == []


@pytest.mark.parametrize("is_idle", [True, False])
async def test_a_lost_connection_is_logged_with_the_server_s_reason(
    served: FastAPI, http: AsyncClient, caplog: pytest.LogCaptureFixture, is_idle: bool
) -> None:
    @served.get("/lost")
    async def lose_the_connection(session: SessionDep) -> None:
        if is_idle:
            driver: Any = (await (await session.connection()).get_raw_connection()).driver_connection
            closed = asyncio.Event()
            driver.add_termination_listener(lambda _: closed.set())
            await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 1"))
            async with asyncio.timeout(10):
                await closed.wait()
        await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    response = await http.get("/lost")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    [line] = [record.getMessage() for record in caplog.records if record.name == "app.web.errors"]
    reason = "idle-in-transaction timeout" if is_idle else "terminating connection due to administrator command"
    assert line.count(reason) == 1
    assert "\n" not in line


@pytest.mark.parametrize("query", ["SELECT word FROM words", "SELECT words FROM words"])
async def test_a_deploy_that_changes_a_column_passes(served: FastAPI, http: AsyncClient, query: str) -> None:
    @served.get("/column")
    async def read_column(session: SessionDep, read: ReadSessionDep) -> None:
        for each in (session, read):
            await each.execute(text(query))

    await http.post("/words")
    assert (await http.get("/column")).status_code == 200
    async with served.state.database.session() as session:
        await session.execute(text("ALTER TABLE words ALTER word TYPE varchar(300), ADD new int"))
    statuses = [(await http.get("/column")).status_code for _ in range(3)]
    assert statuses == [503, 503, 200]


async def test_a_server_that_only_reads_is_unavailable_until_it_writes(
    served: FastAPI, http: AsyncClient, empty_database_url: str
) -> None:
    @served.post("/misplaced")
    async def write_to_read(session: ReadSessionDep) -> None:
        await session.execute(text("INSERT INTO words VALUES ('two')"))

    database = urlsplit(empty_database_url).path[1:]
    await execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    await served.state.database.engine.dispose()
    response = await http.post("/words")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert (await http.get("/words")).json() == []
    await execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    assert (await http.post("/words")).status_code == 200
    assert (await http.post("/misplaced")).status_code == 500


async def test_a_405_names_the_methods_wherever_the_application_is(app: FastAPI) -> None:
    app.add_api_route("/things", lambda: None, methods=["GET"])
    app.add_api_route("/things", lambda: None, methods=["POST"])
    for root_path in ("", "/shop"):
        transport = ASGITransport(app, root_path=root_path)
        async with AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.put(f"{root_path}/things")).headers["allow"] == "GET, HEAD, POST"


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
    assert (response.status_code, response.json()["detail"]) == (413, "the body has more than 1000000 bytes")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (gzip.compress(THING.encode(), mtime=0), {"Content-Encoding": "gzip"}, 415),
        (THING.encode("latin-1"), {"Content-Type": "application/json; charset=latin-1"}, 415),
        (THING.encode("utf-16"), {"Content-Type": "application/json; charset=UTF-16"}, 200),
        (THING.encode(), {"Content-Type": 'application/json; Charset="utf-8"'}, 200),
        (THING.encode(), {"Content-Encoding": "identity"}, 200),
        (THING.encode("latin-1"), {}, 400),
        (b"{", {}, 422),
    ],
)
async def test_a_body_in_another_form_is_refused(
    client: AsyncClient, body: bytes, headers: dict[str, str], status: int
) -> None:
    response = await client.post("/things", content=body, headers={"Content-Type": "application/json"} | headers)
    assert response.status_code == status
    if status == 415:
        assert response.json()["detail"] == "a body must be UTF-8, and not compressed"


async def test_whatever_answers_get_answers_head(client: AsyncClient, app: FastAPI) -> None:
    @app.head("/own")
    async def answer_head() -> Response:
        return Response(headers={"X-Own": "yes"})

    for path in ("/things", "/docs", "/redoc", "/openapi.json", "/health/live", "/forbidden", "/nowhere", "/broken"):
        get, head = await client.get(path), await client.head(path)
        assert head.status_code == get.status_code
        assert head.content == b""
        assert {**head.headers, "x-request-id": ""} == {**get.headers, "x-request-id": ""}
    assert (await client.head("/own")).headers["x-own"] == "yes"
    assert (await client.get("/own")).status_code == 405
    assert (await client.head("/conflicts/none/too/many")).status_code == 404
    assert "head" not in app.openapi()["paths"]["/things"]


async def test_what_is_mounted_answers_with_problems(app: FastAPI, client: AsyncClient) -> None:
    mounted, inner, own = FastAPI(), FastAPI(), FastAPI()

    async def answer_oneself(request: Request, error: Exception) -> Response:
        return Response("mine", 418)

    own.add_exception_handler(StarletteHTTPException, answer_oneself)

    @inner.get("/broken")
    async def break_() -> None:
        raise RuntimeError("the secret plan")

    @inner.get("/numbers/{number}")
    async def read_number(number: int) -> None: ...

    router = APIRouter()
    router.mount("/inner", inner)
    mounted.include_router(router, prefix="/routed")
    app.mount("/mounted", mounted)
    app.mount("/own", own)
    statuses = {"/nowhere": 404, "/routed/inner/nowhere": 404, "/routed/inner/broken": 500}
    for path, status in {**statuses, "/routed/inner/numbers/one": 422}.items():
        response = await client.get(f"/mounted{path}")
        assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
        assert response.json()["request_id"] == response.headers["x-request-id"]
    assert (await client.put("/mounted/routed/inner/broken")).headers["allow"] == "GET, HEAD"
    assert (await client.get("/own/nowhere")).status_code == 418
