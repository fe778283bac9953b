"""This domain over HTTP."""

from typing import Any

import pytest
from httpx2 import AsyncClient

WIDGETS = "/api/v1/widgets"


async def create(client: AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post(WIDGETS, json={"name": "Lamp"} | fields)
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.json()
    assert response.headers["location"] == f"{WIDGETS}/{created['id']}"
    return created


async def test_what_is_created_can_be_read_listed_changed_and_deleted(client: AsyncClient) -> None:
    first, second = await create(client), await create(client, name="Desk")
    assert (await client.get(f"{WIDGETS}/{first['id']}")).json() == first
    page = (await client.get(WIDGETS, params={"limit": 1})).json()
    assert page["items"] == [second]
    page = (await client.get(WIDGETS, params={"cursor": page["next_cursor"]})).json()
    assert page == {"items": [first], "next_cursor": None}
    changed = await client.patch(f"{WIDGETS}/{first['id']}", json={"name": "Bright lamp"})
    assert changed.json()["name"] == "Bright lamp"
    assert (await client.delete(f"{WIDGETS}/{first['id']}")).status_code == 204
    for method in ("GET", "PATCH", "DELETE"):
        response = await client.request(method, f"{WIDGETS}/{first['id']}", json={} if method == "PATCH" else None)
        assert response.status_code == 404


@pytest.mark.parametrize("name", ["", "x" * 201, "nul\x00", None], ids=ascii)
async def test_what_the_table_does_not_hold_is_refused(client: AsyncClient, name: str | None) -> None:
    assert (await client.post(WIDGETS, json={"name": name})).status_code == 422
