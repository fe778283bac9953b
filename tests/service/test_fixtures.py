"""What the tests of a service share is as true as production: commits, requests at once, the lifespan, WebSockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from httpx2 import AsyncClient
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from websockets import connect

from app.application import create_app
from app.db.session import Database, DatabaseDep, ReadSessionDep, SessionDep
from app.items.models import Item
from app.registry import import_all_routers
from app.settings import Settings

ITEMS = "/api/v1/items"
COUNT = select(func.count()).select_from(Item)
opened: list[str] = []


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
    async with app.state.database.read_session() as session:
        opened.append(f"{await session.scalar(COUNT)} items")
    yield {"shop": "open"}
    async with app.state.database.read_session() as session:
        opened.append(f"{await session.scalar(COUNT)} items")


router = APIRouter(prefix="/shop", lifespan=lifespan)


@router.get("")
async def read_state(request: Request) -> str:
    state: str = request.state.shop
    return state


@router.post("")
async def write_state(request: Request) -> None:
    request.state.shop = "closed"  # for this request only


@router.websocket("/{name}")
async def count_prefixes(socket: WebSocket, name: str, database: DatabaseDep) -> None:
    await socket.accept()
    async for prefix in socket.iter_text():
        async with database.session() as session:
            session.add(Item(name=f"{name} {prefix}", price=1))
        await socket.send_text(socket.state.shop)


@router.post("/later")
async def write_later(tasks: BackgroundTasks, database: DatabaseDep) -> None:
    async def write() -> None:
        async with database.session() as session:
            session.add(Item(name="later", price=1))

    tasks.add_task(write)


@router.post("/late")
async def use_late(tasks: BackgroundTasks, session: SessionDep) -> None:
    tasks.add_task(session.execute, COUNT)


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A domain whose router has a lifespan, besides the service's own."""
    monkeypatch.setattr("app.application.import_all_routers", lambda: [*import_all_routers(), router])


async def test_requests_run_at_once(app: FastAPI, client: AsyncClient) -> None:
    barrier = asyncio.Barrier(3)

    @app.post("/meet")
    async def meet(session: SessionDep, read: ReadSessionDep) -> None:
        await session.execute(text("SELECT 1"))
        await barrier.wait()

    answers = await asyncio.gather(*(client.post("/meet") for _ in range(3)))
    assert [answer.status_code for answer in answers] == [200] * 3


async def test_of_two_requests_at_once_one_is_told_of_the_conflict(client: AsyncClient) -> None:
    answers = await asyncio.gather(*(client.post(ITEMS, json={"name": "Lamp", "price": 1}) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [201, 409]


@pytest.mark.parametrize("time", ["first", "second"])
async def test_each_test_has_a_database_of_its_own(client: AsyncClient, session: AsyncSession, time: str) -> None:
    assert await session.scalar(COUNT) == 0
    assert (await client.post(ITEMS, json={"name": "Lamp", "price": 1})).status_code == 201
    assert await session.scalar(COUNT) == 1


async def test_what_is_not_committed_is_not_there(
    client: AsyncClient, session: AsyncSession, database: Database, engine: AsyncEngine
) -> None:
    session.add(Item(name="Lamp", price=1))
    await session.flush()
    assert (await client.get(ITEMS)).json()["items"] == []
    await session.commit()
    assert len((await client.get(ITEMS)).json()["items"]) == 1
    async with database.session() as other:
        other.add(Item(name="Desk", price=1))
    async with engine.connect() as connection:
        assert await connection.scalar(COUNT) == 2


async def test_a_test_may_end_after_an_error_of_its_session(session: AsyncSession) -> None:
    session.add(Item(name="", price=1))
    with pytest.raises(IntegrityError):
        await session.flush()


async def test_the_lifespan_runs_and_its_state_reaches_requests(
    shop: None, client: AsyncClient, session: AsyncSession
) -> None:
    assert opened.pop() == "0 items"
    assert (await client.post("/api/v1/shop")).status_code == 200
    assert (await client.get("/api/v1/shop")).json() == "open"


def test_it_ends_while_the_database_is_open(shop: None, settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        assert opened.pop() == "0 items"
        assert client.post(ITEMS, json={"name": "Lamp", "price": 1}).status_code == 201
    assert opened.pop() == "1 items"


async def test_a_web_socket_is_served(shop: None, server: str, session: AsyncSession) -> None:
    async with (
        connect(f"ws://{server}/api/v1/shop/Lamp") as socket,
        connect(f"ws://{server}/api/v1/shop/Desk") as other,
    ):
        for each in (socket, other):
            await each.send("one")
            assert await each.recv() == "open"
    assert set(await session.scalars(select(Item.name))) == {"Lamp one", "Desk one"}


async def test_a_web_socket_that_is_left_open_ends_with_the_test(shop: None, server: str) -> None:
    socket = await connect(f"ws://{server}/api/v1/shop/Lamp")
    await socket.send("one")
    assert await socket.recv() == "open"


async def test_what_a_background_task_writes_is_there(shop: None, client: AsyncClient, session: AsyncSession) -> None:
    assert (await client.post("/api/v1/shop/later")).status_code == 200
    assert await session.scalar(select(Item.name)) == "later"


async def test_a_late_use_of_a_session_fails(shop: None, client: AsyncClient) -> None:
    with pytest.raises(InvalidRequestError, match="has ended"):
        await client.post("/api/v1/shop/late")


def test_a_client_with_a_loop_of_its_own_is_told_what_to_use(app: FastAPI) -> None:
    client = TestClient(app)
    assert client.get("/health/live").status_code == 200
    for path in (ITEMS, "/health/ready"):
        with pytest.raises(RuntimeError, match=r"TestClient has a loop of its own.*`async def`.*`client`"):
            client.get(path)
    with pytest.raises(RuntimeError, match="TestClient has a loop of its own"), client:
        pass


def test_a_database_that_was_closed_may_have_another_loop(settings: Settings) -> None:
    app = create_app(settings)
    for number in range(2):
        with TestClient(app) as client:
            assert client.post(ITEMS, json={"name": f"Lamp {number}", "price": 1}).status_code == 201
