"""What the template learns reaches the services it made, by cruft."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import environment


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a developer", "-c", "user.email=developer@example.com")
    return subprocess.check_output(["git", *identity, *arguments], cwd=folder, text=True)


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "change")
    return git(folder, "rev-parse", "HEAD").strip()


def cruft(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cruft", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def append(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text()}{line}\n")


def test_an_update_keeps_the_service_s_changes_and_brings_the_template_s(template: Path, tmp_path: Path) -> None:
    source = tmp_path / "the template"
    shutil.copytree(template, source)
    git(source, "init", "--quiet")
    commit(source)

    cruft(tmp_path, "create", str(source), "--no-input")
    service = tmp_path / "my-service"
    assert not (service / ".git").exists()
    git(service, "init", "--quiet")
    append(service / "app/items/service.py", "# the service's own")
    commit(service)

    append(source / "{{cookiecutter.project_slug}}/app/settings.py", "# the template's new")
    newest = commit(source)
    cruft(service, "update", "--skip-apply-ask")

    assert (service / "app/settings.py").read_text().endswith("\n# the template's new\n")
    assert (service / "app/items/service.py").read_text().endswith("\n# the service's own\n")
    assert json.loads((service / ".cruft.json").read_text())["commit"] == newest
    cruft(service, "check")
