"""Who may call what."""

from fastapi import FastAPI
from httpx2 import AsyncClient

# What anyone may call.
OPEN = {
    "GET /health/live",
    "GET /health/ready",
    "GET /api/v1/items",
    "POST /api/v1/items",
    "GET /api/v1/items/{item_id}",
    "PATCH /api/v1/items/{item_id}",
    "DELETE /api/v1/items/{item_id}",
}
METHODS = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}


async def test_only_these_operations_are_open_to_anyone(app: FastAPI, client: AsyncClient) -> None:
    found = set()
    for path, operations in app.openapi()["paths"].items():
        for method in METHODS & operations.keys():
            response = await client.request(method, path)
            if response.status_code != 401:
                found.add(f"{method.upper()} {path}")
    assert found == OPEN, "guard it by SignedIn, require_scope or the like, or name it here"
