"""A service that takes the tokens of a provider is clean at birth, and refuses what is forged."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, Bake, Service, environment
from test_service import blocks


@pytest.fixture
def service(bake: Bake, tmp_path: Path) -> Service:
    env = environment() | {"UV_PROJECT_ENVIRONMENT": str(tmp_path / "venv")}
    service = Service(bake(auth="oidc"), env)
    subprocess.run(["uv", "sync", "--locked", "--quiet"], cwd=service.path, env=env, check=True)
    return service


def test_tokens_of_a_provider_open_what_they_should(service: Service) -> None:
    subprocess.run(["uv", "lock", "--check", "--offline"], cwd=service.path, env=service.env, check=True)
    service.run("--with", "pyright[nodejs]==1.1.414", "pyright")
    service.run("pytest")
    [router] = [block for block in blocks(service, "python") if 'prefix="/orders"' in block]
    service.write("app/orders/router.py", router)
    shutil.copytree(ROOT / "tests/service_oidc", service.path / "tests/service_oidc")
    service.run("ruff", "check")
    service.run("ruff", "format", "--check")
    service.run("mypy")
    assert re.search(r"\d{3} passed in", service.run("pytest", "tests/service_oidc", timeout=900).stdout)


def test_it_starts_once_the_provider_is_named(service: Service) -> None:
    database = {"DATABASE_URL": "postgresql://127.0.0.1:1/none"}
    refused = service.run("python", "-m", "app.settings", check=False, env=database)
    assert refused.returncode == 1
    assert refused.stderr == "OIDC_ISSUER is not set\nOIDC_AUDIENCE is not set\n"
    named = {"OIDC_ISSUER": "https://login.example.com", "OIDC_AUDIENCE": "my-service"}
    with service.serve(database | named) as client:
        assert client.get("/docs").status_code == 200
