"""Items over HTTP."""

import json
from typing import Any
from uuid import uuid4

import pytest
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr
from sqlalchemy import event, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.application import create_app
from app.db.session import Database
from app.items.models import Item, Tag
from app.settings import Settings

ITEMS = "/api/v1/items"


async def create(client: AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post(ITEMS, json={"name": "Lamp", "price": "19.90"} | fields)
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.json()
    return created


async def test_a_created_item_can_be_read_at_its_location(client: AsyncClient) -> None:
    response = await client.post(ITEMS, json={"name": "Lamp", "price": 20, "status": "active"})
    assert response.status_code == 201
    item = response.json()
    assert (item["name"], item["description"], item["price"], item["status"]) == ("Lamp", None, "20.00", "active")
    assert response.headers["location"] == f"{ITEMS}/{item['id']}"
    read = await client.get(response.headers["location"])
    assert read.json() == item


async def test_ids_are_of_version_7(client: AsyncClient) -> None:
    assert (await create(client))["id"][14] == "7"


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "x" * 201},
        {"name": "nul\x00"},
        {"name": "lone surrogate \ud800"},
        {"name": None},
        {"price": "-0.01"},
        {"price": "0.001"},
        {"price": "10000000000.00"},
        {"price": float("nan")},
        {"price": float("inf")},
        {"status": "sold"},
        {"description": "nul\x00"},
        {"description": "x" * 10_001},
        {"tags": [""]},
        {"tags": ["nul\x00"]},
        {"tags": ["x" * 51]},
        {"tags": [str(number) for number in range(21)]},
    ],
    ids=lambda fields: str(fields)[:40],
)
async def test_fields_that_the_table_does_not_hold_are_refused(client: AsyncClient, fields: dict[str, Any]) -> None:
    item = await create(client)
    json_type = {"content-type": "application/json"}
    new = json.dumps({"name": "Desk", "price": 1} | fields)  # unlike the client's own encoder, it writes NaN
    assert (await client.post(ITEMS, content=new, headers=json_type)).status_code == 422
    changes = json.dumps(fields)
    assert (await client.patch(f"{ITEMS}/{item['id']}", content=changes, headers=json_type)).status_code == 422


async def test_a_taken_name_is_a_conflict_and_leaves_no_row(client: AsyncClient, session: AsyncSession) -> None:
    await create(client)
    other = await create(client, name="Desk")
    refused = await client.post(ITEMS, json={"name": "Lamp", "price": 1})
    assert (refused.status_code, refused.json()["detail"]) == (409, "name already exists")
    refused = await client.patch(f"{ITEMS}/{other['id']}", json={"name": "Lamp"})
    assert refused.status_code == 409
    assert await session.scalar(select(func.count()).select_from(Item)) == 2


async def test_an_update_changes_what_it_names_and_when(client: AsyncClient) -> None:
    item = await create(client, description="bright")
    response = await client.patch(f"{ITEMS}/{item['id']}", json={"price": "5.00", "description": None})
    assert response.status_code == 200
    updated = response.json()
    assert updated["updated_at"] != item["updated_at"]
    assert updated == item | {"price": "5.00", "description": None, "updated_at": updated["updated_at"]}
    assert (await client.get(f"{ITEMS}/{item['id']}")).json() == updated


async def test_an_item_is_created_and_read_with_its_tags(client: AsyncClient, session: AsyncSession) -> None:
    item = await create(client, tags=["old", "bright", "old"])
    assert item["tags"] == ["bright", "old"]
    item = (await client.patch(f"{ITEMS}/{item['id']}", json={"tags": ["new", "bright"]})).json()
    assert item["tags"] == ["bright", "new"]
    assert (await client.patch(f"{ITEMS}/{item['id']}", json={"name": "Lamp"})).json()["tags"] == ["bright", "new"]
    assert (await client.get(ITEMS)).json()["items"][0]["tags"] == ["bright", "new"]
    assert (await client.get(f"{ITEMS}/{item['id']}")).json()["tags"] == ["bright", "new"]
    await client.delete(f"{ITEMS}/{item['id']}")
    assert await session.scalar(select(func.count()).select_from(Tag)) == 0


async def test_a_page_of_items_takes_as_many_statements_as_one(client: AsyncClient, database: Database) -> None:
    for number in range(3):
        await create(client, name=f"Lamp {number}", tags=["bright"])
    statements: list[str] = []
    event.listen(database.read_engine.sync_engine, "before_cursor_execute", lambda *found: statements.append(found[2]))
    counts = []
    for limit in (1, 3):
        statements.clear()
        assert len((await client.get(ITEMS, params={"limit": limit})).json()["items"]) == limit
        counts.append(len(statements))
    assert counts[0] == counts[1] > 1, "one statement for the items, and one for all their tags"


async def test_a_deleted_item_is_gone(client: AsyncClient) -> None:
    item = await create(client)
    response = await client.delete(f"{ITEMS}/{item['id']}")
    assert (response.status_code, response.content) == (204, b"")
    assert (await client.get(f"{ITEMS}/{item['id']}")).status_code == 404


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_an_unknown_id_is_not_found(client: AsyncClient, method: str) -> None:
    response = await client.request(method, f"{ITEMS}/{uuid4()}", json={"name": "x"} if method == "PATCH" else None)
    assert response.status_code == 404


async def test_pages_are_newest_first_and_stable_under_inserts(client: AsyncClient) -> None:
    names = [(await create(client, name=f"Lamp {number}"))["name"] for number in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        page = (await client.get(ITEMS, params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        seen += [item["name"] for item in page["items"]]
        await create(client, name=f"Late lamp {len(seen)}")
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == names[::-1]


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 101}, {"cursor": "made-up"}, {"cursor": ""}], ids=str)
async def test_malformed_page_requests_are_refused(client: AsyncClient, params: dict[str, Any]) -> None:
    assert (await client.get(ITEMS, params=params)).status_code == 422


async def test_requests_get_503_while_the_database_is_down() -> None:
    app = create_app(Settings(database_url=SecretStr("postgresql://127.0.0.1:1/nowhere")))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://test") as client,
    ):
        response = await client.get(ITEMS)
    assert response.status_code == 503
    assert response.headers["retry-after"]
