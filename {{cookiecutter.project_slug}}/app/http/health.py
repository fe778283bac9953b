"""Is the process alive, and can it serve?"""

import asyncio
from functools import cache

from alembic.config import Config
from alembic.script import ScriptDirectory
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.settings import ROOT

TIME_LIMIT = 2.0  # seconds; a probe that waits longer than its caller says nothing

router = APIRouter(prefix="/health", tags=["health"])


class Health(BaseModel):
    status: str
    reason: str | None = None


@router.get("/live")
async def live() -> Health:
    """The process answers; the database is not asked."""
    return Health(status="ok")


@router.get("/ready", responses={503: {"model": Health}})
async def ready(request: Request, response: Response) -> Health:
    """The database answers, and its schema is not older than this code."""
    try:
        async with asyncio.timeout(TIME_LIMIT):
            reason = await schema_problem(request.app.state.engine)
    except TimeoutError:
        reason = f"the database did not answer within {TIME_LIMIT:g} s"
    except (OSError, SQLAlchemyError) as error:
        reason = f"the database cannot be reached ({type(error).__name__})"
    if reason:
        response.status_code = 503
        return Health(status="unavailable", reason=reason)
    return Health(status="ok")


async def schema_problem(engine: AsyncEngine) -> str | None:
    """Say what keeps the code from working with the database's schema, or return None.

    A revision that the code does not know is a newer one: during a rolling deploy the old replicas stay ready.
    """
    async with engine.connect() as connection:
        if await connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
            return "the database has no schema: run `alembic upgrade head`"
        current = set(await connection.scalars(text("SELECT version_num FROM alembic_version")))
    revisions, heads = await asyncio.to_thread(known_revisions)
    if current <= revisions and current != heads:
        return "the schema is behind the code: run `alembic upgrade head`"
    return None


@cache
def known_revisions() -> tuple[frozenset[str], frozenset[str]]:
    """Return the revisions in `migrations/`, all of them and the heads."""
    scripts = ScriptDirectory.from_config(Config(toml_file=ROOT / "pyproject.toml"))
    return frozenset(script.revision for script in scripts.walk_revisions()), frozenset(scripts.get_heads())
