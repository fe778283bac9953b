"""The OpenAPI document that clients are made from: of each operation, what FastAPI cannot say."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import responses as titles
from inspect import cleandoc
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts

from app.db.session import get_database, get_session, get_sessions
from app.web.errors import Problem

DEFAULT: dict[int | str, dict[str, Any]] = {"default": {"model": Problem, "description": "Any other error"}}
DESCRIPTIONS = {
    "401": "It is not known who asks",
    "404": "There is no such thing",
    "409": "It conflicts with what is stored",
    "422": "The request is not valid: `errors` says where",
    "503": "The database, or what else it needs, is not available",
}
EVERY_RESPONSE = {"X-Request-ID": "The request's id in the log; the client's own, if it sent a sane one"}
HEADERS = {
    "201": {"Location": "The path of what was created"},
    "401": {"WWW-Authenticate": "How to say who asks"},
    "429": {"Retry-After": "Seconds until the next attempt"},
    "503": {
        "Retry-After": "Seconds until the next attempt; without it, look first whether the request has been fulfilled"
    },
}


def complete(app: FastAPI) -> None:
    """Have the document of `app` name the errors and headers of each operation, and describe the tags."""
    generate: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        known, document = app.openapi_schema, generate()
        if document is not known:  # or it is completed already
            describe(app, document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's own documentation does it


def documented(app: FastAPI) -> Iterator[RouteContext]:
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, APIRoute) and route.include_in_schema:
            yield route


def name_of(route: RouteContext) -> str:
    """Return what clients call an operation: as its path function, if its owner does not say."""
    return route.operation_id or re.sub(r"\W", "_", route.name or "")


def describe(app: FastAPI, document: dict[str, Any]) -> None:
    schemas = document.get("components", {}).get("schemas", {})
    twin = f"{Problem.__module__}.{Problem.__name__}".replace(".", "__")  # its name beside a domain's own Problem
    problem = {"$ref": f"#/components/schemas/{twin if twin in schemas else Problem.__name__}"}
    tags = {tag["name"]: tag for tag in document.get("tags", ())}
    names = Counter(name_of(route) for route in documented(app) for _ in route.methods or ())
    for route in documented(app):
        module: str = getattr(route.endpoint, "__module__", "")
        for method in route.methods or ():
            operation = document["paths"][route.path_format][method.lower()]
            if names[name_of(route)] == 1:  # and else FastAPI's, which has the path
                operation["operationId"] = name_of(route)
            for status in errors_of(operation, method, set(calls(route.dependant))):
                operation["responses"].setdefault(status, {"description": DESCRIPTIONS[status]})
            complete_responses(operation["responses"], problem)
            operation["responses"] = dict(sorted(operation["responses"].items()))
            for tag in operation.setdefault("tags", [module.removeprefix("app.").partition(".")[0]]):
                about = cleandoc(getattr(sys.modules.get(module), "__doc__", None) or "").partition("\n\n")[0]
                tags.setdefault(tag, {"name": tag, "description": about})
    document.update(tags=list(tags.values()))
    document.setdefault("servers", [{"url": "/"}])
    document.setdefault("security", [])


def errors_of(operation: dict[str, Any], method: str, dependencies: set[Any]) -> Iterator[str]:
    """Yield the statuses that what an operation takes and depends on may lead to."""
    parameters = {parameter["in"] for parameter in operation.get("parameters", ())}
    if "security" in operation:
        yield from ("401", "503")
    if "path" in parameters:
        yield "404"
    if method not in ("GET", "HEAD") and dependencies & {get_session, get_database}:
        yield "409"
    if parameters or "requestBody" in operation:
        yield "422"
    if dependencies & {get_sessions, get_database}:
        yield "503"


def calls(dependant: Dependant) -> Iterator[Any]:
    yield dependant.call
    for dependency in dependant.dependencies:
        yield from calls(dependency)


def complete_responses(responses: dict[str, Any], problem: dict[str, str]) -> None:
    """Add the headers, and give errors without a body of their own the problem, in its media type."""
    for status, response in responses.items():
        is_error = status >= "4"  # or "default"
        if is_error and all(media["schema"] == problem for media in response.get("content", {}).values()):
            media: dict[str, Any] = {"schema": problem}
            if status.isdigit():
                media["example"] = {"type": "about:blank", "title": titles.get(int(status)), "status": int(status)}
            response["content"] = {"application/problem+json": media}
        for name, description in {**HEADERS.get(status, {}), **EVERY_RESPONSE}.items():
            header = {"description": description, "schema": {"type": "string"}}
            response.setdefault("headers", {}).setdefault(name, header)
