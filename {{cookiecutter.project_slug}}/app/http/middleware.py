"""What surrounds each request: its id, its line in the log, the headers of its response, the hosts it may ask for."""

import logging
import re
import time
from typing import Any
from uuid import uuid4

import structlog
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.settings import Environment, Settings

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html#security-headers
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
CONTENT = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
HTTPS_ONLY = (b"strict-transport-security", b"max-age=31536000")

logger = logging.getLogger("app.access")


class RequestMiddleware:
    """Gives each request an id, and its response the id and the security headers; logs one line when it is done."""

    def __init__(self, app: ASGIApp, production: bool) -> None:
        self.app = app
        self.headers = [*HEADERS, HTTPS_ONLY] if production else HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode() if REQUEST_ID.fullmatch(given) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), *self.headers, (b"x-request-id", request_id.encode())]
                if not any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers):
                    headers.append(CONTENT)
                message = {**message, "headers": headers}
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_headers)
            finally:
                if logger.isEnabledFor(logging.INFO):
                    logger.info("request", extra=line(scope, status, start))


def line(scope: Scope, status: int, start: float) -> dict[str, Any]:
    """Return what is said of a request: the route it took rather than its path, which may hold what is private."""
    route = scope.get("route")
    return {
        "method": scope["method"],
        "route": getattr(route, "path_format", None) or getattr(route, "path", None),
        "status": status,
        "duration_ms": round((time.perf_counter() - start) * 1000, 2),
    }


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
    app.add_middleware(RequestMiddleware, production=settings.environment is Environment.PRODUCTION)
