"""Routes let in whom they should."""

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient

from app.oidc.dependencies import CurrentUser, SignedIn, require_role, require_scope
from tests.oidc.issuer import sign_in

router = APIRouter(dependencies=[SignedIn])


@router.get("/me")
async def me(user: CurrentUser) -> str:
    return user.subject


@router.get("/scope", dependencies=[require_scope("items:read", "items:write")])
async def scope() -> None: ...


@router.get("/role", dependencies=[require_role("admin", "owner")])
async def role() -> None: ...


@pytest.fixture(autouse=True)
def routes(app: FastAPI) -> None:
    app.include_router(router)


async def test_a_token_says_who_calls(app: FastAPI, client: AsyncClient) -> None:
    assert (await client.get("/me")).status_code == 401
    answer = await client.get("/me", headers=sign_in(app, sub="jane"))
    assert (answer.status_code, answer.json()) == (200, "jane")


@pytest.mark.parametrize(
    ("path", "claims", "status"),
    [
        ("/scope", {}, 403),
        ("/scope", {"scope": "items:read"}, 403),
        ("/scope", {"scope": "openid items:write items:read"}, 200),
        ("/scope", {"scp": ["items:read", "items:write"]}, 200),
        ("/role", {}, 403),
        ("/role", {"roles": ["reader"]}, 403),
        ("/role", {"roles": ["owner"]}, 200),
        ("/role", {"realm_access": {"roles": ["admin"]}}, 200),
    ],
)
async def test_a_route_asks_for_scopes_and_roles(
    app: FastAPI, client: AsyncClient, path: str, claims: dict[str, object], status: int
) -> None:
    assert (await client.get(path, headers=sign_in(app, **claims))).status_code == status
