"""What surrounds each request: its id, its line in the log, the headers of its response, the hosts it may ask for."""

import logging
import re
import time
from uuid import uuid4

import structlog
from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.errors import problem
from app.settings import Environment, Settings
from app.telemetry import trace_id

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html#security-headers
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
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

logger = logging.getLogger("app.access")


class RequestMiddleware:
    """Gives each request an id, and its response the id and the security headers; logs one line when it is done."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.max_body_size = settings.max_body_size
        self.headers = [*HEADERS, HTTPS_ONLY] if settings.environment == Environment.PRODUCTION else HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if REQUEST_ID.fullmatch(given) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), *self.headers, (b"x-request-id", request_id.encode())]
                html = any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers)
                headers.append(PAGE if html else CONTENT)
                message = {**message, "headers": headers}
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                if int(headers.get(b"content-length", 0)) > self.max_body_size:  # or FastAPI would answer in plain text
                    await problem(Request(scope), 413)(scope, receive, send_with_headers)
                else:
                    await self.app(scope, receive, send_with_headers)
            finally:
                if logger.isEnabledFor(logging.INFO):
                    duration = round((time.perf_counter() - start) * 1000, 2)
                    extra = {
                        "method": scope["method"],
                        "route": route(scope),
                        "status": status,
                        "duration_ms": duration,
                    }
                    if trace := trace_id():
                        extra["trace_id"] = trace
                    logger.info("request", extra=extra)


def route(scope: Scope) -> str | None:
    """Return the path with the names of its parameters in the place of their values, which may be private."""
    if "route" not in scope:
        return None
    path: str = scope["path"]
    for name, value in reversed(scope.get("path_params", {}).items()):
        before, found, after = path.rpartition(f"/{value}")
        path = before + "/{" + name + "}" + after if found else path
    return path


class HostMiddleware(TrustedHostMiddleware):
    """Refuses other hosts than the service's, except for the probes of an orchestrator, which ask an address."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path", "").startswith("/health/"):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def add_middleware(app: FastAPI, settings: Settings) -> None:
    """Add the middleware that `settings` ask for; what is added last comes first."""
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Location", "X-Request-ID"],
        )
    if "*" not in settings.allowed_hosts:
        app.add_middleware(HostMiddleware, allowed_hosts=settings.allowed_hosts, www_redirect=False)
    # Outside of Starlette's own, so that an unexpected error has an id and its line, too.
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: RequestMiddleware(build(), settings)  # type: ignore[method-assign]
