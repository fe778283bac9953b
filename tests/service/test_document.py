"""The document says what an operation answers with, whoever wrote it, and in the fewest classes."""

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, FastAPI, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from app.application import create_app
from app.db.session import DatabaseDep, ReadSessionDep, SessionDep
from app.settings import Settings
from app.web.errors import Problem

PROBLEM = {"$ref": "#/components/schemas/Problem"}


class Order(BaseModel):
    name: str


def router() -> APIRouter:
    """Return the router of a domain that says nothing of errors."""
    router = APIRouter(prefix="/orders")

    @router.post("", status_code=201)
    async def create_order(order: Order, session: SessionDep) -> Order:
        return order

    @router.get("")
    async def list_orders(session: ReadSessionDep) -> None: ...

    @router.delete("/{order_id}", status_code=204)
    async def delete_order(order_id: int, database: DatabaseDep) -> None: ...

    @router.get("/mine")
    async def list_my_orders(user: Annotated[Any, Security(HTTPBearer())]) -> None: ...

    @router.get("/paid", responses={402: {}, 404: {"model": Problem}, 503: {"model": Order}})
    async def read_paid() -> None: ...

    return router


@pytest.fixture
def described(app: FastAPI) -> dict[str, Any]:
    app.include_router(router())
    return app.openapi()


@pytest.mark.parametrize(
    ("operation", "statuses"),
    [
        ("post /orders", "201 409 422 503"),
        ("get /orders", "200 503"),
        ("delete /orders/{order_id}", "204 404 409 422 503"),
        ("get /orders/mine", "200 401 503"),
        ("get /orders/paid", "200 402 404 503"),
        ("post /api/v1/items", "201 409 422 503"),
        ("get /api/v1/items", "200 422 503"),
        ("patch /api/v1/items/{item_id}", "200 404 409 422 503"),
        ("get /health/live", "200"),
        ("get /health/ready", "200 503"),
    ],
)
def test_an_operation_names_its_errors(described: dict[str, Any], operation: str, statuses: str) -> None:
    method, path = operation.split()
    responses = described["paths"][path][method]["responses"]
    assert list(responses) == [*statuses.split(), "default"]
    for status, response in responses.items():
        assert "X-Request-ID" in response["headers"]
        if status >= "4" and (path, status) not in (("/orders/paid", "503"), ("/health/ready", "503")):
            assert [media["schema"] for media in response["content"].values()] == [PROBLEM]
            assert list(response["content"]) == ["application/problem+json"]
    assert ("Location" in responses.get("201", {}).get("headers", {})) == (method == "post")


def test_names_are_short_and_tags_are_described(described: dict[str, Any]) -> None:
    operations = [operation for path in described["paths"].values() for operation in path.values()]
    ids = {operation["operationId"] for operation in operations}
    assert {"create_item", "list_items", "read_item", "update_item", "delete_item", "create_order"} < ids
    assert all(operation["tags"] for operation in operations)
    tags = {tag["name"]: tag["description"] for tag in described["tags"]}
    assert tags["items"] == "Items over HTTP."
    assert {"Problem", "ValidationError", "HTTPValidationError"} & set(described["components"]["schemas"]) == {
        "Problem"
    }


def test_a_document_is_completed_once_and_again_for_a_new_route(app: FastAPI) -> None:
    assert app.openapi() is app.openapi()
    app.include_router(router())
    assert "409" in app.openapi()["paths"]["/orders"]["post"]["responses"]


def test_a_domain_may_have_problems(app: FastAPI) -> None:
    class Problem(BaseModel):
        question: str

    @app.get("/problem")
    async def read_problem() -> Problem:
        return Problem(question="?")

    responses = app.openapi()["paths"]["/problem"]["get"]["responses"]
    [theirs], [ours] = (responses[status]["content"].values() for status in ("200", "default"))
    assert theirs != ours["schema"]
    assert ours["schema"] == {"$ref": "#/components/schemas/app__web__errors__Problem"}


def test_two_operations_of_one_name_keep_long_ids(settings: Settings) -> None:
    app = create_app(settings)
    app.include_router(router())
    app.include_router(router(), prefix="/v2")
    paths = app.openapi()["paths"]
    ids = [paths[path]["post"]["operationId"] for path in ("/orders", "/v2/orders", "/api/v1/items")]
    assert ids == ["create_order_orders_post", "create_order_v2_orders_post", "create_item"]
