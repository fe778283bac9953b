"""Removes the files of declined features, and starts a git repository."""

import shutil
import subprocess
import sys
from pathlib import Path

SLUG = "{{ cookiecutter.project_slug }}"
UNDER_CRUFT = {{ cookiecutter._commit is defined }}

# feature: (wanted, its files)
FEATURES = {
    "docker": ({{ cookiecutter.docker }}, [".dockerignore", "Dockerfile", "compose.yaml"]),
    "kubernetes": (
        {{ cookiecutter.kubernetes }},
        [
            *(f"deploy/base/{name}.yaml" for name in ("app", "database", "kustomization", "migrate", "network")),
            *(f"deploy/production/{name}.yaml" for name in ("ingress", "kustomization", "namespace")),
        ],
    ),
    "github_actions": ({{ cookiecutter.github_actions }}, [".github/dependabot.yml", ".github/workflows/ci.yml"]),
    "both": ({{ cookiecutter.docker and cookiecutter.github_actions }}, [".github/workflows/image.yml"]),
}

if Path("uv.lock").read_text(encoding="utf-8").count(f'\nname = "{SLUG}"\n') > 1:
    sys.exit(f"project_slug '{SLUG}' is the name of a package that the service needs: choose another")

for wanted, files in FEATURES.values():
    for file in [] if wanted else map(Path, files):
        file.unlink()
        for folder in file.parents[:-1]:
            if not any(folder.iterdir()):
                folder.rmdir()

in_a_work_tree = any((folder / ".git").exists() for folder in Path.cwd().parents)
if not (UNDER_CRUFT or in_a_work_tree or Path(".git").exists()) and shutil.which("git"):
    subprocess.run(["git", "-c", "init.defaultBranch=main", "init", "--quiet"], check=True)
