"""What went wrong -> RFC 9457 problems."""

import logging
import re
from collections.abc import Mapping
from http.client import responses
from typing import Any

import asyncpg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from fastapi.utils import is_body_allowed_for_status_code
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.routing import Match

from app.db.base import Base
from app.db.engine import DatabaseUnavailable

logger = logging.getLogger(__name__)

CONFLICTS = {
    asyncpg.UniqueViolationError: "already exists",
    asyncpg.ExclusionViolationError: "conflicts with what exists",
    asyncpg.ForeignKeyViolationError: "refers to nothing, or is still referred to",
    asyncpg.RestrictViolationError: "is still referred to",
}
# Values that no column of the kind can hold, and that no schema has refused before.
MISFITS = (
    asyncpg.NumericValueOutOfRangeError,
    asyncpg.StringDataRightTruncationError,
    asyncpg.CharacterNotInRepertoireError,
)
# The same request may well succeed a moment later.
PASSING = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InterfaceError,
)


class Problem(BaseModel):
    """An error, as https://www.rfc-editor.org/rfc/rfc9457 has it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    request_id: str | None = None
    errors: list[dict[str, Any]] | None = None


DOCUMENTATION: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "What went wrong",
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }
}


def problem(
    request: HTTPConnection,
    status: int,
    detail: str | None = None,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    title = responses.get(status, "Error")
    body = Problem(
        title=title,
        status=status,
        detail=None if detail == title else detail,
        request_id=getattr(request.state, "request_id", None),
        **more,
    )
    content = body.model_dump_json(exclude_none=True, fallback=str)
    return Response(content, status, headers, media_type="application/problem+json")


async def http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405:
        headers["allow"] = ", ".join(sorted(allowed_methods(request) | {*re.findall(r"\w+", headers.get("allow", ""))}))
    if not is_body_allowed_for_status_code(error.status_code):
        return Response(status_code=error.status_code, headers=headers)
    if isinstance(error.detail, str):
        return problem(request, error.status_code, error.detail, headers)
    return problem(request, error.status_code, headers=headers, errors=[{"msg": error.detail}])


def allowed_methods(request: Request) -> set[str]:
    """Return the methods of all routes with the path of `request`; Starlette's exception names those of one."""
    routes = iter_route_contexts(request.app.router.routes)
    matching = (route for route in routes if route.matches(request.scope)[0] != Match.NONE)
    return {method for route in matching for method in route.methods or ()}


async def invalid_request(request: Request, error: Exception) -> Response:
    """Say what is wrong, and where, but do not echo the input: JSON cannot hold all that a client may send."""
    assert isinstance(error, RequestValidationError)
    errors = [{key: found[key] for key in ("loc", "msg", "type")} for found in error.errors()]
    return problem(request, 422, "the request is not valid", errors=errors)


async def database_error(request: Request, error: Exception) -> Response:
    """Answer 409 to a violated constraint, naming its columns; 422 to a misfit; 503 to what may pass; 500 to a bug."""
    cause: Any = getattr(error, "driver_exception", None)
    if conflict := CONFLICTS.get(type(cause)):
        columns = constraint_columns(cause.table_name, cause.constraint_name)
        return problem(request, 409, f"{', '.join(columns) or 'this'} {conflict}")
    # asyncpg itself refuses a number that is too large for its type, and a lone surrogate.
    if isinstance(cause, MISFITS) or isinstance(getattr(cause, "__cause__", None), OverflowError | UnicodeError):
        logger.warning("%s: a schema lets through what the database cannot hold", type(cause).__name__)
        return problem(request, 422, "a value is too large, too long, or has a character that cannot be stored")
    if isinstance(cause, PASSING) or getattr(error, "connection_invalidated", False):
        return await database_unavailable(request, error)
    raise error


def constraint_columns(table_name: str, name: str) -> list[str]:
    """Return the columns of a constraint or index, by its name in the database."""
    table = Base.metadata.tables.get(table_name)
    candidates: list[Any] = [] if table is None else [*table.constraints, *table.indexes]
    return [column.name for candidate in candidates if candidate.name == name for column in candidate.columns]


async def database_unavailable(request: Request, error: Exception) -> Response:
    logger.error("the database is not available: %s", " ".join(str(error).split()) or type(error).__name__)
    return problem(request, 503, "the database is not available", {"Retry-After": "1"})


async def unexpected(request: Request, error: Exception) -> Response:
    """Say nothing of what happened; the server logs it."""
    return problem(request, 400 if isinstance(error, ClientDisconnect) else 500)


def add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ClientDisconnect, unexpected)
    app.add_exception_handler(HTTPException, http_exception)
    app.add_exception_handler(RequestValidationError, invalid_request)
    app.add_exception_handler(DBAPIError, database_error)
    for unavailable in (DatabaseUnavailable, PoolTimeoutError):
        app.add_exception_handler(unavailable, database_unavailable)
