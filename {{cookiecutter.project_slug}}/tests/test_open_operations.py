"""Nobody reaches an operation without a token, unless it is named here."""

from fastapi import FastAPI
from httpx2 import AsyncClient

OPEN = {"/health/live", "/health/ready", "/api/v1/items", "/api/v1/items/{item_id}"}


async def test_every_operation_is_guarded_or_named(app: FastAPI, client: AsyncClient) -> None:
    operations = {(method, path) for path, methods in app.openapi()["paths"].items() for method in methods}
    unguarded = set()
    for method, path in sorted(operations):
        answer = await client.request(method, path.replace("{", "").replace("}", ""))
        if answer.status_code != 401:
            unguarded.add(path)
    assert unguarded == OPEN
