"""The option `github_actions`, and the template's own workflow: no validator finds anything, and the steps are run."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Bake, Service


def jobs(workflow: Path) -> dict[str, Any]:
    found = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    assert isinstance(found, dict)
    return found


def steps_of(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("of", ["template", "service", "service without image"])
def test_no_validator_finds_anything(bake: Bake, template: Path, of: str) -> None:
    path = template if of == "template" else bake(docker=of == "service")
    workflows = sorted((path / ".github/workflows").iterdir())
    assert {workflow.name for workflow in workflows} == {"ci.yml"} | ({"image.yml"} if of == "service" else set())
    dependabot = path / ".github/dependabot.yml"
    commands: list[list[str | Path]] = [
        ["actionlint", *workflows],
        ["zizmor", "--offline", "--no-progress", *workflows, dependabot],
        ["check-jsonschema", "--builtin-schema=vendor.github-workflows", *workflows],
        ["check-jsonschema", "--builtin-schema=vendor.dependabot", dependabot],
    ]
    for command in commands:
        done = subprocess.run(command, cwd=path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    for workflow in workflows:
        assert all("timeout-minutes" in job for job in jobs(workflow).values()), "it may be 6 hours otherwise"


def test_dependabot_updates_what_there_is(bake: Bake) -> None:
    def ecosystems(**answers: bool) -> list[str]:
        path = bake(project_slug="".join(answers) or "all", **answers)
        updates = yaml.safe_load((path / ".github/dependabot.yml").read_text())["updates"]
        return [update["package-ecosystem"] for update in updates]

    assert ecosystems() == ["uv", "github-actions", "docker", "docker-compose"]
    assert ecosystems(docker=False) == ["uv", "github-actions"]


def test_the_workflows_test_each_python_that_the_service_supports() -> None:
    for path in (ROOT, ROOT / "{{cookiecutter.project_slug}}"):
        matrix = jobs(path / ".github/workflows/ci.yml")["test"]["strategy"]["matrix"]
        assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]


def test_the_steps_pass_on_a_new_service_and_find_a_migration_that_is_missing(service: Service) -> None:
    found = jobs(service.path / ".github/workflows/ci.yml")
    judged = [command for command in steps_of(found["test"]) if "pytest" not in command]  # other tests run it

    def run(steps: list[str]) -> list[int]:
        shells = [["bash", "-ec", step] for step in steps]
        return [subprocess.run(shell, cwd=service.path, env=service.env, check=False).returncode for shell in shells]

    assert set(run(judged)) == {0}
    steps = steps_of(found["migrations"])
    assert set(run(steps)) == {0}
    models = service.path / "app/items/models.py"
    text = models.read_text()
    models.write_text(text.replace("    price:", "    weight: Mapped[int]\n    price:"))
    assert models.read_text() != text
    failed = [step for step, code in zip(steps, run(steps), strict=True) if code]
    assert failed == ["uv run alembic check"]
