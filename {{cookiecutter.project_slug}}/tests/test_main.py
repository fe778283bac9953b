"""The application as servers find it."""

import os
import subprocess
import sys
import tomllib

from fastapi import FastAPI

from app.project import ROOT


def test_the_app_of_the_module_is_built_from_the_environment_and_connects_to_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from app.main import app; print(type(app).__name__)"],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": "postgresql://nobody@database.invalid/nothing"},
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("FastAPI\n", "")


async def test_the_api_has_the_name_of_the_project(app: FastAPI) -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    info = app.openapi()["info"]
    assert info["title"] == pyproject["tool"]["app"]["title"]
    assert info["version"] == pyproject["project"]["version"]
