"""Is the process alive, and can it serve?"""

import asyncio
import logging
from collections.abc import Sequence
from functools import cache

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from sqlalchemy import String, column, select, table, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.engine import DatabaseUnavailable
from app.db.session import Database
from app.project import ROOT, version_table
from app.text import one_line

TIME_LIMIT = 2.0  # seconds; orchestrators give up on a probe after a few

# A table of that name in another schema of the search path is another's: this one is where tables are created.
STATE = text("""
    SELECT pg_catalog.current_setting('transaction_read_only') = 'on', schema, is_readable
    FROM (SELECT coalesce(CAST(:schema AS pg_catalog.name), pg_catalog.current_schema())) AS own (schema)
    LEFT JOIN (
        SELECT nspname, CASE WHEN pg_catalog.has_schema_privilege(relnamespace, 'USAGE')
            THEN pg_catalog.has_table_privilege(pg_class.oid, 'SELECT') END
        FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relname = CAST(:table AS pg_catalog.name)
    ) AS found (nspname, is_readable) ON nspname = schema
""")

logger = logging.getLogger(__name__)
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
    """The database and its replica answer, the one can be written to, and its schema is not older than this code."""
    reason = await why_not_ready(request.state.database)
    if reason is None:
        return Health(status="ok")
    response.status_code = 503
    return Health(status="unavailable", reason=reason)


async def why_not_ready(database: Database) -> str | None:
    """Say, within the time limit, what keeps the code from working with its database; None: nothing."""
    database.use()
    # Closing a connection that hangs may take longer than the limit. So one probe at a time, and none is given up.
    if database.probe is None or database.probe.done():
        database.probe = asyncio.create_task(find_fault(database.probes))
    done, _ = await asyncio.wait({probe := database.probe}, timeout=TIME_LIMIT)
    return probe.result() if done else "the database did not answer in time"


async def find_fault(probes: Sequence[AsyncEngine]) -> str | None:
    what = "the database"
    try:
        async with asyncio.timeout(TIME_LIMIT * 3 / 4):
            async with probes[0].connect() as connection:
                if fault := await fault_of_schema(connection):
                    return fault
            for replica in probes[1:]:
                what = "the replica"
                async with replica.connect() as connection:
                    await connection.execute(text("SELECT 1"))
    except TimeoutError:
        return f"{what} did not answer in time"
    except (DatabaseUnavailable, DBAPIError) as error:
        logger.warning(one_line(error))
        return f"{what} cannot be reached"
    return None


async def fault_of_schema(connection: AsyncConnection) -> str | None:
    schema, name = version_table()
    found = await connection.execute(STATE, {"schema": schema, "table": name})
    is_read_only, schema, is_readable = found.one()
    if is_read_only:
        await connection.invalidate()  # what a session of its server is told may be from before
        return "the database only reads"
    if is_readable is None:
        return "the role of the service sees no schema: run `alembic upgrade head`, or GRANT USAGE ON SCHEMA to it"
    if not is_readable:
        return f"the role of the service may not read {name}: GRANT SELECT ON {name} to it"
    current = await connection.scalars(select(column("version_num", String)).select_from(table(name, schema=schema)))
    if await asyncio.to_thread(is_behind, tuple(current)):
        return "the schema is behind the code: run `alembic upgrade head`"
    return None


def is_behind(current: tuple[str, ...]) -> bool:
    """Say whether a head is not applied, as alembic counts: what a revision depends on is applied with it."""
    known = scripts()
    try:
        applied = {script.revision for script in known.get_all_current(current)}
    except CommandError:
        # A revision that the code does not know is a newer one: in a rolling deploy, the old replicas stay ready.
        return False
    return not applied.issuperset(known.get_heads())


@cache
def scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(Config(toml_file=ROOT / "pyproject.toml"))
