"""All of a process logs in one stream: as JSON where machines read it."""

import json
import subprocess
import sys

import pytest

from app.project import ROOT

SCRIPT = """
import logging, warnings, structlog
from app.logs import configure_logging
from app.settings import Settings
configure_logging(Settings())
with structlog.contextvars.bound_contextvars(request_id="r1"):
    logging.getLogger("uvicorn.error").info("started", extra={"color_message": "x"})
    logging.getLogger("alembic.runtime.migration").warning("migrated %s", "items")
    structlog.get_logger("shop").info("sold", item=7)
logging.getLogger("uvicorn.access").info("GET /secret")
logging.getLogger("debugging").debug("hidden")
warnings.warn("beware")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("shop").exception("it broke")
"""

FAILING = """
import asyncio, logging
from sqlalchemy import text
from app.db.engine import create_engine
from app.logs import configure_logging
from app.settings import Settings
configure_logging(Settings())
async def main():
    engine = create_engine(Settings())
    async with engine.connect() as connection:
        await connection.execute(text("CREATE TEMP TABLE users (email text CONSTRAINT uq_email UNIQUE)"))
        await connection.commit()
        insert = "INSERT INTO users VALUES (:value)"
        for query in ("SELECT CAST(:value AS uuid)", "SELECT CAST(CAST(:value AS text) AS int)", insert, insert):
            try:
                async with connection.begin():
                    await connection.execute(text(query), {"value": "hunter2"})
            except Exception as error:
                logging.exception("it broke")
                try:
                    raise ExceptionGroup("many", [error]) from RuntimeError("wrapped")
                except ExceptionGroup:
                    logging.exception("they broke")
    await engine.dispose()
asyncio.run(main())
"""
COMMANDS = """
import logging
from app.logs import configure_logging
from app.settings import Settings
configure_logging(Settings())
logging.warning("it said \\x1b[2J\\u202e", extra={"of": "\\x9b1m"})
try:
    raise RuntimeError("one \\x1b]0;two\\x07")
except RuntimeError:
    logging.exception("it broke")
"""


def run(environment: str, script: str = SCRIPT, **more: str) -> list[str]:
    command = [sys.executable, "-c", script]
    env = {"ENVIRONMENT": environment, "ENV_FILE": "", "PYTHONPATH": str(ROOT), **more}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stderr.splitlines()


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_machines_read_json(environment: str) -> None:
    lines = [json.loads(line) for line in run(environment)]
    assert [(line["logger"], line["level"], line["event"]) for line in lines[:3]] == [
        ("uvicorn.error", "info", "started"),
        ("alembic.runtime.migration", "warning", "migrated items"),
        ("shop", "info", "sold"),
    ]
    assert [line["request_id"] for line in lines[:3]] == ["r1"] * 3
    assert lines[2]["item"] == 7
    assert "beware" in lines[3]["event"]
    assert lines[4]["exception"][0]["exc_type"] == "ZeroDivisionError"
    assert len(lines) == 5
    assert "color_message" not in lines[0]


def test_people_read_lines() -> None:
    lines = run("local")
    assert "started" in lines[0]
    assert "request_id=r1" in lines[0]
    assert any("ZeroDivisionError" in line for line in lines[5:])


def test_a_traceback_in_production_quotes_no_value(database_url: str) -> None:
    lines = run("staging", FAILING, DATABASE_URL=database_url)
    assert len(lines) == 6
    assert "hunter2" not in "".join(lines)
    for expected in ("SELECT CAST($1 AS uuid)", "SELECT CAST(CAST($1 AS text) AS int)", '\\"uq_email\\"'):
        assert expected in "".join(lines)
    assert "hunter2" in "".join(run("development", FAILING, DATABASE_URL_DEV=database_url))


def test_no_text_commands_the_terminal() -> None:
    output = "\n".join(run("local", COMMANDS))
    assert not [letter for letter in output if not letter.isprintable() and letter != "\n"]
    for expected in (r"it said \x1b[2J\u202e", r"of=\x9b1m", r"RuntimeError: one \x1b]0;two\x07"):
        assert expected in output
