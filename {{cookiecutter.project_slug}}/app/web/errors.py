"""What went wrong -> RFC 9457 problems."""

import logging
import re
from collections.abc import Mapping
from http.client import responses
from typing import Any

import asyncpg
from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from fastapi.utils import is_body_allowed_for_status_code
from pydantic import MISSING, BaseModel, ConfigDict
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.routing import Match
from starlette.types import ExceptionHandler

from app.db.base import Base
from app.db.engine import DatabaseUnavailable, OutcomeUnknown
from app.text import one_line

logger = logging.getLogger(__name__)

# By SQLSTATE, or its beginning: https://www.postgresql.org/docs/current/errcodes-appendix.html
CONFLICTS = {
    "23505": "already exists",
    "23P01": "conflicts with what exists",
    "23503": "refers to nothing, or is still referred to",
    "23001": "is still referred to",
}
MISFIT = ("22", "54000", "54001")  # data_exception, program_limit_exceeded, statement_too_complex
MISFITS = "a value is too large, too long, malformed, or has a character that cannot be stored"
MAX_PARAMETERS = 32_767  # of asyncpg
UNAVAILABLE, CONTENDED = "the database is not available", "other requests work on the same data"
# The same request may well succeed a moment later.
PASSING = {"08": UNAVAILABLE, "40": CONTENDED, "53": UNAVAILABLE, "55P03": CONTENDED, "57": UNAVAILABLE}
UNDEFINED = ("42P01", "42703")  # a table, a column
ENCODED = "a body must be UTF-8, and not compressed"


class Problem(BaseModel):
    """An error, as https://www.rfc-editor.org/rfc/rfc9457 has it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str = "about:blank"
    title: str
    status: int
    detail: str | MISSING = MISSING
    request_id: str | MISSING = MISSING
    errors: list[Any] | MISSING = MISSING
    """Of a request that is not valid: each has a `loc`, a `msg` and a `type`"""


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
        detail=MISSING if detail in (None, title) else detail,
        request_id=getattr(request.state, "request_id", MISSING),
        **more,
    )
    content = body.model_dump_json(fallback=str)
    return Response(content, status, headers, media_type="application/problem+json")


async def http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    detail = error.detail
    if error.status_code == 405:
        methods = {*allowed_methods(request), *re.findall(r"\w+", headers.get("allow", ""))}
        headers["allow"] = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
    elif detail == "Content Too Large":  # Starlette's
        detail = too_long(request.scope[MAX_BODY_SIZE_SCOPE_KEY])
    elif error.status_code == 400 and isinstance(error.__cause__, ValueError) and is_encoded(request):
        return problem(request, 415, ENCODED)
    if not is_body_allowed_for_status_code(error.status_code):
        return Response(status_code=error.status_code, headers=headers)
    if isinstance(detail, str):
        return problem(request, error.status_code, detail, headers)
    return problem(request, error.status_code, headers=headers, errors=[{"msg": detail}])


def too_long(limit: int) -> str:
    return f"the body has more than {limit} bytes"


def is_encoded(request: Request) -> bool:
    """Say whether the body that could not be read was in another form than FastAPI reads."""
    is_foreign = re.search(r"charset\s*=\s*\"?(?!utf-?8\b)", request.headers.get("content-type", ""), re.IGNORECASE)
    return bool(is_foreign) or request.headers.get("content-encoding", "identity") != "identity"


def allowed_methods(request: HTTPConnection) -> set[str]:
    """Return the methods of all routes with the path of `request`; Starlette's exception names those of one."""
    routes = iter_route_contexts(request.app.router.routes)
    matching = (route for route in routes if route.matches(request.scope)[0] != Match.NONE)
    return {method for route in matching for method in route.methods or ()}


async def invalid_request(request: Request, error: Exception) -> Response:
    """Say what is wrong, and where, but do not echo the input: JSON cannot hold all that a client may send."""
    assert isinstance(error, RequestValidationError)
    errors = [{key: found[key] for key in ("loc", "msg", "type")} for found in error.errors()]
    if any(found["loc"][0] == "body" for found in errors) and is_encoded(request):
        return problem(request, 415, ENCODED)
    return problem(request, 422, "the request is not valid", errors=errors)


async def database_error(request: Request, error: Exception) -> Response:
    """Answer 409 to a violated constraint, naming its columns; 422 to a misfit; 503 to what may pass; 500 to a bug."""
    assert isinstance(error, DBAPIError)
    cause, sqlstate = cause_of(error)
    if conflict := CONFLICTS.get(sqlstate):
        columns = constraint_columns(cause.table_name, cause.constraint_name)
        return problem(request, 409, f"{', '.join(columns) or 'this'} {conflict}")
    # Without parameters, nothing in the statement came from the client. What a parameter's type cannot take is a bug.
    if error.params and sqlstate.startswith(MISFIT) and not isinstance(cause.__cause__, TypeError):
        logger.warning("%s: a schema lets through what the database cannot hold: %s", sqlstate, error.statement)
        return problem(request, 422, MISFITS)
    if isinstance(cause, asyncpg.InterfaceError) and len(error.params or ()) > MAX_PARAMETERS:
        return problem(request, 422, f"there are more than {MAX_PARAMETERS} values")
    passing = PASSING.get(sqlstate) or PASSING.get(sqlstate[:2])
    if passing or error.connection_invalidated:
        return await database_unavailable(request, error, passing or UNAVAILABLE)
    raise error


def cause_of(error: DBAPIError) -> tuple[Any, str]:
    """Return the driver's error, and its SQLSTATE, or nothing."""
    # SQLAlchemy's `driver_exception` raises ValueError where its adapter made the error itself.
    cause: Any = getattr(error.orig, "__cause__", None) or error.orig
    return cause, getattr(cause, "sqlstate", None) or ""


def log_what_is_missing(error: DBAPIError) -> None:
    """Say what to do where the database lacks a table or a column."""
    cause, sqlstate = cause_of(error)
    if sqlstate in UNDEFINED:
        logger.error("%s: run `alembic upgrade head`, if a migration makes it", one_line(cause))


def constraint_columns(table_name: str, name: str) -> list[str]:
    """Return the columns of a constraint or index, by its name in the database."""
    table = Base.metadata.tables.get(table_name)
    candidates: list[Any] = [] if table is None else [*table.constraints, *table.indexes]
    return [column.name for candidate in candidates if candidate.name == name for column in candidate.columns]


async def database_unavailable(request: Request, error: Exception, detail: str = UNAVAILABLE) -> Response:
    logger.error("%s: %s", detail, one_line(error))
    return problem(request, 503, detail, {"Retry-After": "1"})


async def outcome_unknown(request: Request, error: Exception) -> Response:
    """Ask for no other attempt: what the request wrote might be stored twice."""
    logger.error("the answer to a COMMIT is lost: %s", one_line(error))
    return problem(request, 503, "the database did not say whether it is stored: look before you send it again")


async def unexpected(request: Request, error: Exception) -> Response:
    """Say nothing of what happened; the server logs it."""
    if isinstance(error, ClientDisconnect):
        return problem(request, 400)
    return problem(request, 500, headers={"Connection": "close"})  # as the server does once it has logged the error


HANDLERS: dict[type[Exception], ExceptionHandler] = {
    ClientDisconnect: unexpected,
    HTTPException: http_exception,
    RequestValidationError: invalid_request,
    DBAPIError: database_error,
    OutcomeUnknown: outcome_unknown,
    DatabaseUnavailable: database_unavailable,
    PoolTimeoutError: database_unavailable,
    Exception: unexpected,
}


def add_error_handlers(app: FastAPI) -> None:
    """Have `app`, and what it mounts by now, answer errors with problems, where their owner has no other handler."""
    for kind, handler in HANDLERS.items():
        if app.exception_handlers.get(kind) in (None, http_exception_handler, request_validation_exception_handler):
            app.add_exception_handler(kind, handler)
    for route in iter_route_contexts(app.router.routes):
        mounted = getattr(route.original_route, "app", None)
        if isinstance(mounted, FastAPI):
            add_error_handlers(mounted)
