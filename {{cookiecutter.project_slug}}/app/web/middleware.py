"""What surrounds each request: its id, its line in the log, the headers of its response, the hosts it may ask for."""

import logging
import re
import time
from collections.abc import Collection
from secrets import token_hex

import structlog
from fastapi import FastAPI
from sqlalchemy.exc import DBAPIError
from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.logs import ACCESS
from app.settings import DEPLOYED, Environment, Settings
from app.telemetry import is_probe, trace_id
from app.web.errors import add_error_handlers, allowed_methods, log_what_is_missing, problem, too_long, unexpected

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html#security-headers
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
CONTENT = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
# What Swagger and ReDoc are made of, and nothing from another host: ReDoc would get a logo of its maker's.
PAGE = (
    b"content-security-policy",
    (
        b"default-src 'none'; script-src-elem 'self' 'unsafe-inline'; style-src-elem 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; connect-src 'self'; worker-src blob:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
)
HTTPS_ONLY = (b"strict-transport-security", b"max-age=31536000")

logger = logging.getLogger(ACCESS)


class RequestMiddleware:
    """Gives each request an id, and its response the id and the security headers; logs one line when it is done."""

    def __init__(self, app: ASGIApp, settings: Settings, pages: Collection[str] = ()) -> None:
        self.app = app
        self.headers = [*HEADERS, HTTPS_ONLY] if settings.environment == Environment.PRODUCTION else HEADERS
        self.pages = pages
        self.is_read_by_people = settings.environment not in DEPLOYED

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})  # which mounted applications see, too
        if scope["type"] != "lifespan":
            state["settings"], state["database"] = scope["app"].state.settings, scope["app"].state.database
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        given: bytes = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given.decode() if REQUEST_ID.fullmatch(given) else token_hex(6 if self.is_read_by_people else 16)
        state["request_id"] = request_id
        method = scope["method"]
        if method == "HEAD" and method not in allowed_methods(HTTPConnection(scope)):
            scope = {**scope, "method": "GET"}  # a GET route of FastAPI's has no HEAD
        # Never unbound: each request is a task of its own, and the server logs an unexpected error after this returns.
        structlog.contextvars.bind_contextvars(request_id=request_id)
        status = 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                theirs = dict(message.get("headers", ()))
                content = PAGE if self.pages and route(scope) in self.pages else CONTENT
                ours = [*self.headers, content, (b"x-request-id", request_id.encode())]
                missing = (pair for pair in ours if pair[0] not in theirs)
                message = {**message, "headers": [*message.get("headers", ()), *missing]}
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except DBAPIError as error:
            log_what_is_missing(error)
            raise
        finally:
            log(scope, method, status, time.perf_counter() - start, self.is_read_by_people)


def log(scope: Scope, method: str, status: int, seconds: float, is_read_by_people: bool) -> None:
    extra = {"method": method, "route": route(scope), "status": status, "duration_ms": round(seconds * 1000, 2)}
    if trace := trace_id():
        extra["trace_id"] = trace
    text = f"{method} {repr(scope['path'])[1:-1]} {status} {seconds * 1000:.1f}ms" if is_read_by_people else "request"
    logger.info(text, extra=extra)


def route(scope: Scope) -> str | None:
    """Return the path with the names of its parameters in the place of their values, which may be private."""
    # The route itself lacks the prefixes of the routers that include it.
    included = scope.get("fastapi", {}).get("effective_route_context")
    return getattr(included or scope.get("route"), "path_format", None)


class GateMiddleware:
    """Refuses what is not for the service: a request of another host, and a body that announces to be too long.

    Starlette counts the bytes that come, and would answer the latter in plain text.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.max_body_size = settings.max_body_size
        self.hosts = frozenset(settings.allowed_hosts)
        self.suffixes = tuple(host[1:] for host in self.hosts if host[0] == "*")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] != "lifespan":
            headers = dict(scope["headers"][::-1])  # of two, Starlette takes the first
            length = headers.get(b"content-length", b"")
            # An orchestrator's probes ask an address.
            if not (is_probe(scope) or self.has_host(headers.get(b"host", b"").decode("latin-1"))):
                app = problem(HTTPConnection(scope), 400, "ALLOWED_HOSTS does not name this host")
            elif length.isdigit() and int(length) > self.max_body_size:
                app = problem(HTTPConnection(scope), 413, too_long(self.max_body_size))
        await app(scope, receive, send)

    def has_host(self, host: str) -> bool:
        name, _, port = host.lower().rpartition(":")
        if not port.isdecimal():  # but the end of a name, or of [::1]
            name = host.lower()
        return name in self.hosts or name.endswith(self.suffixes)


class PreflightMiddleware(CORSMiddleware):
    """Starlette's, which would refuse a preflight in plain text."""

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        return answer if answer.status_code == 200 else Refusal(answer.body, 400, answer.headers)


class Refusal(Response):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value for name, value in self.headers.items() if not name.startswith("content-")}
        answer = problem(HTTPConnection(scope), self.status_code, bytes(self.body).decode(), headers)
        await answer(scope, receive, send)


def mind_what_is_mounted(app: ASGIApp, service: FastAPI) -> ASGIApp:
    """Return `app`; called with the first request, when everything is mounted."""
    add_error_handlers(service)
    return app


def add_middleware(app: FastAPI, settings: Settings) -> None:
    """Add the middleware that `settings` ask for, the innermost first."""
    # Starlette's own is outside of all this, so its answer to an unexpected error would lack what these add.
    app.add_middleware(ServerErrorMiddleware, handler=unexpected, debug=settings.debug)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_size)
    app.add_middleware(GateMiddleware, settings=settings)
    if settings.cors_origins:
        app.add_middleware(
            PreflightMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Location", "X-Request-ID"],
        )
    # Before the routers are included, the application has the routes of its documentation only.
    pages = {route.path for route in app.routes if isinstance(route, Route)}
    app.add_middleware(RequestMiddleware, settings=settings, pages=pages)
    app.add_middleware(mind_what_is_mounted, service=app)
