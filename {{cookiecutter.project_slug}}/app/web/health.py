"""Is the process alive, and can it serve?"""

import asyncio
import logging
from functools import cache

from alembic.config import Config
from alembic.script import ScriptDirectory
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine import DatabaseUnavailable
from app.project import ROOT

TIME_LIMIT = 2.0  # seconds; orchestrators give up on a probe after a few

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/health", tags=["health"])


class Health(BaseModel):
    status: str
    reason: str | None = None


@router.head("/live", include_in_schema=False)
@router.get("/live")
async def live() -> Health:
    """The process answers; the database is not asked."""
    return Health(status="ok")


@router.head("/ready", include_in_schema=False)
@router.get("/ready", responses={503: {"model": Health}})
async def ready(request: Request, response: Response) -> Health:
    """The database answers, and its schema is not older than this code."""
    reason = await why_not_ready(request.state.database.engine)
    if reason is None:
        return Health(status="ok")
    response.status_code = 503
    return Health(status="unavailable", reason=reason)


async def why_not_ready(engine: AsyncEngine) -> str | None:
    """Say, within the time limit, what keeps the code from working with its database; None: nothing."""
    # A task of its own: closing a connection that hangs may take longer than the limit.
    probe = asyncio.create_task(current_revisions(engine))
    done, _ = await asyncio.wait({probe}, timeout=TIME_LIMIT)
    if not done:
        probe.cancel()
        return f"the database did not answer, or no connection was free, within {TIME_LIMIT:g} s"
    try:
        current = probe.result()
    except (DatabaseUnavailable, DBAPIError) as error:
        logger.warning(error)
        return "the database cannot be reached"
    known, heads = await asyncio.to_thread(known_revisions)
    if current is None:
        return "the database has no schema: run `alembic upgrade head`"
    # A revision that the code does not know is a newer one: in a rolling deploy, the old replicas stay ready.
    if current <= known and current != heads:
        return "the schema is behind the code: run `alembic upgrade head`"
    return None


async def current_revisions(engine: AsyncEngine) -> set[str] | None:
    async with engine.connect() as connection:
        if await connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
            return None
        return set(await connection.scalars(text("SELECT version_num FROM alembic_version")))


@cache
def known_revisions() -> tuple[frozenset[str], frozenset[str]]:
    """Return the revisions in `migrations/`: all of them, and the heads."""
    scripts = ScriptDirectory.from_config(Config(toml_file=ROOT / "pyproject.toml"))
    return frozenset(script.revision for script in scripts.walk_revisions()), frozenset(scripts.get_heads())
