"""Each request has an id, a line in the log, and a response with safe headers; and asks for a host of the service's."""

import logging
import os
import subprocess
import sys
from typing import Any

import pytest
import structlog
from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from httpx2 import ASGITransport, AsyncClient

from app.application import create_app
from app.project import ROOT
from app.settings import Settings


def client(app: FastAPI) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app, raise_app_exceptions=False), base_url="http://test")


def create(settings: Settings, **changes: Any) -> FastAPI:
    app = create_app(settings.model_copy(update=changes))

    @app.get("/secrets/{secret}")
    async def read_secret(secret: str) -> None:
        if secret == "broken":
            raise RuntimeError
        if secret == "refused":
            raise HTTPException(403)

    router = APIRouter(prefix="/shops/{shop}")
    app.include_router(router)

    @router.get("/things/{thing}")
    async def read_thing(shop: str, thing: int) -> None: ...

    @app.get("/private/@{name}")
    async def read_page(name: str) -> HTMLResponse:
        return HTMLResponse(name, headers={"X-Frame-Options": "SAMEORIGIN", "Cache-Control": "max-age=60"})

    return app


@pytest.mark.parametrize(
    ("given", "taken"),
    [("abc-1.2_3", True), ("", False), ("a" * 129, False), ("a b", False), ("<script>", False), ("ä", False)],
)
async def test_a_request_s_id_is_taken_if_it_is_sane(settings: Settings, given: str, taken: bool) -> None:
    async with client(create(settings)) as http:
        answer = await http.get("/health/live", headers={b"X-Request-ID": given.encode()})
    assert (answer.headers["x-request-id"] == given) == taken
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [
        ("/secrets/hunter2", "/secrets/{secret}", 200),
        ("/secrets/refused", "/secrets/{secret}", 403),
        ("/secrets/broken", "/secrets/{secret}", 500),
        ("/private/@hunter2", "/private/@{name}", 200),
        ("/shops/hunter2/things/1", "/shops/{shop}/things/{thing}", 200),
        ("/shops/hunter2/things/one", "/shops/{shop}/things/{thing}", 422),
        ("/hunter2", None, 404),
    ],
)
async def test_a_line_says_what_became_of_a_request(
    settings: Settings, caplog: pytest.LogCaptureFixture, path: str, route: str | None, status: int
) -> None:
    with caplog.at_level(logging.INFO, "app.access"):
        async with client(create(settings, environment="production")) as http:
            await http.get(f"{path}?token=hunter2")
    [line] = [vars(record) for record in caplog.records if record.name == "app.access"]
    assert (line["method"], line["route"], line["status"]) == ("GET", route, status)
    assert line["duration_ms"] > 0
    assert "hunter2" not in str({name: value for name, value in line.items() if name != "args"})


async def test_only_the_service_s_own_pages_may_run_scripts(settings: Settings) -> None:
    for docs in (True, False):
        async with client(create(settings, docs=docs)) as http:
            for path in ("/docs", "/redoc", "/docs/oauth2-redirect", "/shop/docs", "/private/@me", "/health/live"):
                answer = await http.get(path)
                is_ours = answer.status_code == 200 and path.startswith(("/docs", "/redoc"))
                assert is_ours == (docs and path.startswith(("/docs", "/redoc")))
                assert ("unsafe-inline" in answer.headers["content-security-policy"]) == is_ours
    async with AsyncClient(
        transport=ASGITransport(create(settings), root_path="/shop"), base_url="http://test"
    ) as http:
        assert "unsafe-inline" in (await http.get("/shop/docs")).headers["content-security-policy"]


async def test_responses_have_safe_headers(settings: Settings) -> None:
    async with client(create(settings, environment="production", docs=True)) as http:
        for path in ("/health/live", "/nowhere", "/secrets/broken"):
            headers = (await http.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert "default-src 'none'" in headers["content-security-policy"]
        assert "script-src-elem 'self'" in (await http.get("/docs")).headers["content-security-policy"]
        own = (await http.get("/private/@me")).headers
        assert own.get_list("x-frame-options") == ["SAMEORIGIN"]
        assert own.get_list("cache-control") == ["max-age=60"]


async def test_the_server_s_own_lines_name_the_request(settings: Settings) -> None:
    async with client(create(settings)) as http:
        answer = await http.get("/secrets/broken")
    # uvicorn logs the traceback in the task of the request, after the application has answered.
    assert structlog.contextvars.get_contextvars()["request_id"] == answer.headers["x-request-id"]


async def test_only_the_hosts_of_the_service_are_answered(settings: Settings) -> None:
    async with client(create(settings, allowed_hosts=["example.com", "*.example.org"])) as http:
        for host, status in {"example.com": 404, "api.example.org": 404, "evil.com": 400, "test": 400}.items():
            answer = await http.get("/nowhere", headers={"Host": host})
            assert (answer.status_code, answer.json()["status"]) == (status, status)
        assert (await http.get("/health/live", headers={"Host": "10.0.0.1:8000"})).status_code == 200
    app = create(settings, allowed_hosts=["example.com"])
    async with AsyncClient(transport=ASGITransport(app, root_path="/shop"), base_url="http://test") as http:
        assert (await http.get("/shop/health/live")).status_code == 200
        assert (await http.get("/shop/nowhere")).status_code == 400


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        (["[::1]"], 404),
        (["[::1]:8000"], 404),
        (["localhost:8000"], 404),
        (["LOCALHOST"], 404),
        (["127.0.0.1"], 404),
        (["[::2]"], 400),
        (["::1"], 400),
        (["[::1].evil.com"], 400),
        (["localhost.evil.com"], 400),
        (["evil.com:localhost"], 400),
        (["evil.com"], 400),
        ([""], 400),
        ([], 400),
        (["evil.com", "localhost"], 400),
    ],
    ids=str,
)
async def test_a_host_may_have_a_port(settings: Settings, hosts: list[str], status: int) -> None:
    local: Any = Settings.model_fields["allowed_hosts"].default
    app = create(settings, allowed_hosts=local)
    scope = {"type": "http", "method": "GET", "path": "/nowhere", "query_string": b"", "root_path": ""}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    await app(scope | {"headers": [(b"host", host.encode()) for host in hosts]}, receive, send)
    assert sent[0]["status"] == status


async def test_no_answer_leads_to_a_foreign_host(settings: Settings) -> None:
    async with client(create(settings, allowed_hosts=["example.com"])) as http:
        for path in ("/health/live/", "/health/ready/", "/api/v1/items/"):
            answer = await http.get(path, headers={"Host": "evil.com"})
            assert (answer.status_code, "location" in answer.headers) == (400, False)
            answer = await http.get(path, headers={"Host": "example.com"})
            assert answer.headers["location"] == f"http://example.com{path.rstrip('/')}"


async def test_only_named_origins_may_call(settings: Settings) -> None:
    origin, method = {"Origin": "https://example.com"}, {"Access-Control-Request-Method": "DELETE"}
    async with client(create(settings, cors_origins=["https://example.com"])) as http:
        assert (await http.options("/api/v1/items", headers=origin | method)).status_code == 200
        for path in ("/health/live", "/nowhere", "/secrets/broken"):
            assert (await http.get(path, headers=origin)).headers["access-control-allow-origin"]
        long = await http.post("/health/live", content=b" " * 1_000_001, headers=origin)
        assert (long.status_code, long.headers["access-control-allow-origin"]) == (413, "https://example.com")
        refused = await http.options("/api/v1/items", headers={"Origin": "https://evil.com"} | method)
        assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json")
        assert refused.json()["detail"] == "Disallowed CORS origin"
        assert refused.json()["request_id"] == refused.headers["x-request-id"]
        assert "origin" in refused.headers["vary"].lower()
        evil = await http.get("/health/live", headers={"Origin": "https://evil.com"})
        assert "access-control-allow-origin" not in evil.headers
    async with client(create(settings)) as http:
        assert "access-control-allow-origin" not in (await http.get("/health/live", headers=origin)).headers


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 200),
        ({"docs": False}, 404),
        ({"environment": "production"}, 404),
        ({"environment": "production", "docs": True}, 200),
    ],
)
async def test_the_documentation_is_off_in_production_unless_asked_for(
    settings: Settings, changes: dict[str, Any], status: int
) -> None:
    async with client(create(settings, **changes)) as http:
        for path in ("/docs", "/redoc", "/openapi.json"):
            assert (await http.get(path)).status_code == status


@pytest.mark.parametrize("docs", [True, False])
def test_what_makes_the_documentation_is_imported_only_for_it(docs: bool) -> None:
    code = "import sys; from app.main import app; print('fastapi_offline' in sys.modules)"
    env = os.environ | {"DATABASE_URL": "postgresql://127.0.0.1:1/none", "DOCS": str(docs)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(docs)


async def test_the_documentation_needs_no_other_host(settings: Settings) -> None:
    async with client(create(settings)) as http:
        for path in ("/docs", "/redoc"):
            page = (await http.get(path)).text
            assert "https://" not in page.replace("https://www.w3.org", "")
