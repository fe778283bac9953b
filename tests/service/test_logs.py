"""All of a process logs in one stream: as JSON where machines read it."""

import json
import re
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
    assert re.fullmatch(r"\d\d:\d\d:\d\d info    started +r1 \[uvicorn\.error\]", lines[0])
    assert any("ZeroDivisionError" in line for line in lines[5:])


SERVING = """
import asyncio, logging
from httpx2 import ASGITransport, AsyncClient
from app.application import create_app
from app.logs import configure_logging
from app.settings import Settings
settings = Settings(log_level="{level}")
configure_logging(settings)
logging.getLogger("httpx2").disabled = True  # the client's own lines
async def main():
    app = create_app(settings)
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://localhost") as http:
        await http.get("/api/v1/itmes%0A%1b[2J?token=hunter2")
        await http.get("/health/live", headers={{"X-Request-ID": "mine"}})
        await http.get("/api/v1/items/01a21261-06a6-7231-b1cc-621287598523")
        await http.post("/api/v1/items", json={{"name": "hunter2", "price": 1}})
    try:
        async with app.state.database.read_session() as session:
            from app.items.service import get_item
            from uuid import uuid4
            await get_item(session, uuid4())
    except Exception:
        logging.exception("it broke")
    await app.state.database.close()
asyncio.run(main())
"""


def test_people_read_paths_and_their_own_frames(empty_database_url: str) -> None:
    lines = run("local", SERVING.format(level="INFO"), DATABASE_URL_LOCAL=empty_database_url)
    requests = [line for line in lines if re.search(r" (GET|POST) /", line)]
    assert [line.split()[2:5] for line in requests] == [
        ["GET", r"/api/v1/itmes\n\x1b[2J", "404"],
        ["GET", "/health/live", "200"],
        ["GET", "/api/v1/items/01a21261-06a6-7231-b1cc-621287598523", "500"],
        ["POST", "/api/v1/items", "500"],
    ]
    assert requests[1].endswith(" mine")
    assert {len(line) for line in requests} <= {len(requests[0]), len(requests[1])}  # aligned
    assert max(map(len, requests)) < 100
    # Once for each of the two.
    assert sum('"items" does not exist: run `alembic upgrade head`' in line for line in lines) == 2
    broke = lines[next(number for number, line in enumerate(lines) if "it broke" in line) :]
    files = [line.split('"')[1] for line in broke if line.startswith("  File ")]
    assert any(file.endswith("app/items/service.py") for file in files)
    assert len([file for file in files if "site-packages" in file]) <= 3  # the last of each exception in the chain
    assert "LOG_LEVEL=DEBUG" in broke[-1]
    assert "hunter2" not in "\n".join(lines)


@pytest.mark.parametrize("environment", ["local", "production"])
def test_debugging_shows_statements_and_no_values(database_url: str, environment: str) -> None:
    more = {"DATABASE_URL": database_url, "ALLOWED_HOSTS": "localhost"}
    text = "\n".join(run(environment, SERVING.format(level="DEBUG"), **more))
    assert "SELECT items.id" in text
    assert "INSERT INTO items" in text
    assert "hunter2" not in text
    assert "/health/live" in text


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
