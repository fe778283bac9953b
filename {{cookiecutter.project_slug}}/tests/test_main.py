"""The application as servers find it."""

import os
import subprocess
import sys
import tomllib

import pytest
from fastapi import FastAPI

from app.settings import ROOT


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, *command)
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | env, check=False, timeout=60, capture_output=True, text=True
    )


def test_the_app_of_the_module_is_built_from_the_environment_and_connects_to_nothing() -> None:
    done = run(
        "-c",
        "from app.main import app; print(type(app).__name__)",
        DATABASE_URL="postgresql://nobody@database.invalid/nothing",
    )
    assert (done.stdout, done.stderr) == ("FastAPI\n", "")


@pytest.mark.parametrize(
    "command",
    [
        ["-c", "import app.main"],
        ["-m", "uvicorn", "app.main:app", "--port", "0"],
        ["-m", "uvicorn", "app.main:app", "--port", "0", "--workers", "2"],
    ],
    ids=lambda command: command[-1],
)
def test_a_service_that_cannot_run_ends_with_a_sentence(command: list[str]) -> None:
    done = run(*command, ENVIRONMENT="production", ALLOWED_HOSTS="example.com")
    assert "DATABASE_URL and DATABASE_URL_PROD are not set" in done.stderr
    assert "Traceback" not in done.stderr
    if "--workers" not in command:
        assert done.returncode != 0
        assert len(done.stderr.splitlines()) == 1


async def test_the_api_has_the_name_of_the_project(app: FastAPI) -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    info = app.openapi()["info"]
    assert info["title"] == pyproject["tool"]["app"]["title"]
    assert info["version"] == pyproject["project"]["version"]
