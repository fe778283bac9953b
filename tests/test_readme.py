"""The commands of both READMEs do what they say, to the letter."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from conftest import ROOT, TIME_LIMIT, environment, wait_for


@pytest.fixture(scope="module")
def new_machine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine that has Python with pip, and git."""
    folder = tmp_path_factory.mktemp("machine")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return environment() | {"PATH": path}


def commands(readme: Path) -> list[str]:
    return re.findall(r"```sh\n(python3 -m pip .*)\n```", readme.read_text(encoding="utf-8"))


def brings_up_a_service(command: str, folder: Path, env: dict[str, str]) -> None:
    with subprocess.Popen(["bash", "-c", command], cwd=folder, env=env, start_new_session=True) as shell:
        try:
            with httpx2.Client(base_url="http://127.0.0.1:8000") as client:
                wait_for(client, "/health/ready", shell)
                assert client.get("/api/v1/items").json() == {"items": [], "next_cursor": None}
                assert "swagger" in client.get("/docs").text
        finally:
            os.killpg(shell.pid, signal.SIGTERM)


@pytest.mark.skipif(os.name == "nt", reason="there, python3 is python")
def test_each_readme_s_commands_work(template: Path, new_machine: dict[str, str], tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(template, checkout)
    up, test = commands(checkout / "README.md")
    brings_up_a_service(up, checkout, new_machine)

    service = tmp_path / "my-service"
    up_again, test_service = commands(service / "README.md")
    brings_up_a_service(up_again, service, new_machine)
    subprocess.run(["bash", "-c", test_service], cwd=service, env=new_machine, check=True, timeout=TIME_LIMIT)
    subprocess.run(["bash", "-c", "python3 -m uv run python -m devdb stop"], cwd=service, env=new_machine, check=True)

    assert test in (ROOT / ".ci/run").read_text()
