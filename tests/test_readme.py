"""The commands of both READMEs do what they say, to the letter, and the pictures are of what they print."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from conftest import ROOT, TIME_LIMIT
from record import DOCS, commands, draw, drawn, new_machine, running, session, substance

posix = pytest.mark.skipif(os.name == "nt", reason="there, python3 is python")


def answers(client: httpx2.Client) -> None:
    assert client.get("/api/v1/items").json() == {"items": [], "next_cursor": None}
    assert "swagger" in client.get("/docs").text


@posix
def test_the_readme_s_commands_work(template: Path, tmp_path: Path) -> None:
    """On a machine whose pip refuses, as Debian's does, but for what the README has it told."""
    shutil.copytree(template, tmp_path / "checkout")
    readme, service = tmp_path / "checkout/README.md", tmp_path / "my-service"
    env = new_machine(tmp_path / "machine", refuses=True) | {"FORCE_COLOR": "1"}
    up, test, override, *_ = commands(readme)
    refused = subprocess.run(
        ["bash", "-c", up], cwd=readme.parent, env=env, capture_output=True, text=True, check=False
    )
    assert "externally-managed-environment" in refused.stderr
    name, value = override.removeprefix("export ").split("=")
    env[name] = value
    with running(up, readme.parent, env, tmp_path / "log") as client:
        answers(client)
        shown = session(readme, service, env, tmp_path / "log")
    subprocess.run(["python3", "-m", "uv", "run", "python", "-m", "devdb", "stop"], cwd=service, env=env, check=True)
    picture = (DOCS / "session.svg").read_text(encoding="utf-8")
    assert substance(drawn(picture)) == substance(drawn(draw(shown))), "`uv run python tests/record.py` makes it anew"
    assert test in (ROOT / ".ci/run").read_text(encoding="utf-8")


@posix
def test_the_service_s_readme_s_commands_work(template: Path, tmp_path: Path) -> None:
    env = new_machine(tmp_path / "machine", refuses=False)
    bake = [sys.executable, "-m", "cookiecutter", "--no-input", "--output-dir", str(tmp_path), str(template)]
    subprocess.run(bake, env=env, check=True)
    service = tmp_path / "my-service"
    up, test = (block for block in commands(service / "README.md") if block.startswith("python3 -m pip"))
    with running(up, service, env, tmp_path / "log") as client:
        answers(client)
    subprocess.run(["bash", "-c", test], cwd=service, env=env, check=True, timeout=TIME_LIMIT)
    subprocess.run(["python3", "-m", "uv", "run", "python", "-m", "devdb", "stop"], cwd=service, env=env, check=True)


def test_the_readme_s_files_are_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"\]\(([^:)]+)\)", readme):
        assert (ROOT / name).exists(), name
    assert all(path.stat().st_size < 150_000 for path in DOCS.glob("*.png"))
