"""What the database refuses -> what HTTP calls it."""

import logging
from typing import Any

import asyncpg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import IntegrityError

from app.db.base import Base
from app.db.engine import DatabaseUnavailable

logger = logging.getLogger("uvicorn.error")

CONFLICTS = {
    asyncpg.UniqueViolationError: "already exists",
    asyncpg.ForeignKeyViolationError: "refers to nothing, or is still referred to",
}


async def invalid_request(request: Request, error: Exception) -> Response:
    """Say what is wrong, and where, but do not echo the input: JSON cannot hold all that a client may send."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    return JSONResponse({"detail": [{key: p[key] for key in ("loc", "msg", "type")} for p in problems]}, 422)


async def integrity_error(request: Request, error: Exception) -> Response:
    """Answer 409 to a unique or foreign-key violation, naming its columns; any other violation is a bug, and a 500."""
    violation: Any = getattr(error, "driver_exception", None)
    problem = CONFLICTS.get(type(violation))
    if problem is None:
        raise error
    columns = constraint_columns(violation.table_name, violation.constraint_name)
    return JSONResponse({"detail": f"{', '.join(columns) or 'this'} {problem}"}, status_code=409)


def constraint_columns(table_name: str, name: str) -> list[str]:
    """Return the columns of a constraint or index, by its name in the database."""
    table = Base.metadata.tables.get(table_name)
    candidates: list[Any] = [] if table is None else [*table.constraints, *table.indexes]
    return [column.name for candidate in candidates if candidate.name == name for column in candidate.columns]


async def database_unavailable(request: Request, error: Exception) -> Response:
    logger.error(error)
    return JSONResponse({"detail": "the database is not available"}, status_code=503, headers={"Retry-After": "1"})


def add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(RequestValidationError, invalid_request)
    app.add_exception_handler(DatabaseUnavailable, database_unavailable)
    app.add_exception_handler(IntegrityError, integrity_error)
