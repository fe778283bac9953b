"""Removes the files of declined features, starts a git repository, and says what is next."""

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SLUG = "{{ cookiecutter.project_slug }}"
ANSWERS = {{ [cookiecutter.project_name, cookiecutter.project_slug, cookiecutter.description, cookiecutter.author] | tojson }}
UNDER_CRUFT = {{ cookiecutter._commit is defined }}

# feature: (wanted, its files)
FEATURES = {
    "users": (
        {{ cookiecutter.auth == "users" }},
        [
            "migrations/versions/2026-11-25_1109_111111111111_create_users.py",
            *(f"app/auth/{name}.py" for name in ("__init__", "__main__", "dependencies", "fields", "links", "mail", "models")),
            *(f"app/auth/{name}.py" for name in ("passwords", "router", "schemas", "service", "settings", "throttles")),
            *(f"tests/auth/{name}.py" for name in ("__init__", "signing_in", "test_router", "test_openness")),
        ],
    ),
    "oidc": (
        {{ cookiecutter.auth == "oidc" }},
        [
            *(f"app/oidc/{name}.py" for name in ("__init__", "dependencies", "provider", "settings", "tokens")),
            *(f"tests/oidc/{name}.py" for name in ("__init__", "issuer", "test_dependencies", "test_openness")),
        ],
    ),
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

# Two services that meet on one database must not take each other's history for their own. A service that is baked over keeps
# the history that it has, and so does one that cruft updates: `tool.cruft.skip` in its `pyproject.toml` names the folder.
versions = Path("migrations/versions")
digests = [hashlib.sha256(ascii(answers).encode()).hexdigest()[:12] for answers in (ANSWERS, [*ANSWERS, "users"])]
shipped = [path for path in versions.glob("*.py") if re.search("_(0{12}|1{12})_", path.name)]
is_new = len(shipped) == len(list(versions.glob("*.py")))
for path in shipped:
    if is_new:
        name, text = (
            old.replace("0" * 12, digests[0]).replace("1" * 12, digests[1])
            for old in (path.name, path.read_text(encoding="utf-8"))
        )
        (versions / name).write_text(text, encoding="utf-8", newline="\n")
    path.unlink()
if is_new:
    table = f"alembic_version_{SLUG.replace('-', '_')}"
    (versions / "version_table.toml").write_text(
        "# Where the database keeps the revisions that are applied; without `schema`, where the connection creates tables.\n"
        f'name = "{table if len(table) < 64 else f"alembic_version_{digests[0]}"}"\n',
        encoding="utf-8",
        newline="\n",
    )

here = Path.cwd()
in_a_work_tree = any((folder / ".git").exists() for folder in [here, *here.parents])
if not (UNDER_CRUFT or in_a_work_tree) and shutil.which("git"):
    subprocess.run(["git", "-c", "init.defaultBranch=main", "init", "--quiet"], check=True)
    in_a_work_tree = True

# cruft bakes into such a folder to compare, and into no other.
is_comparison = re.fullmatch(r"tmp\w{8}", here.parent.name) and here.parents[1].samefile(tempfile.gettempdir())
if not (UNDER_CRUFT and is_comparison):
    print(f"cd {shlex.quote(str(here))}")
    if {{ cookiecutter.auth == "oidc" }}:
        print("printf 'OIDC_ISSUER=https://login.example.com\\nOIDC_AUDIENCE={{ cookiecutter.project_slug }}\\n' > .env  # with your provider's")
    print("uv run alembic upgrade head && uv run fastapi dev  # and see http://127.0.0.1:8000/docs")
    print("" if in_a_work_tree else "git init && ", 'git add --all && git commit --message "Bake the service"', sep="")
