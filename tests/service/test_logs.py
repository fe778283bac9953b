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


def run(environment: str) -> list[str]:
    command = [sys.executable, "-c", SCRIPT]
    env = {"ENVIRONMENT": environment, "ENV_FILE": "", "PYTHONPATH": str(ROOT)}
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
