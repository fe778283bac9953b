"""A baked service does for its users what its README says: the whole loop, on PostgreSQL, over HTTP."""

import ast
import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from conftest import Bake, Service, environment

MODEL = """\
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, UUIDKey


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[UUIDKey]
    item_id: Mapped[UUID] = mapped_column(ForeignKey("items.id"), index=True)
    quantity: Mapped[int]
"""
ROUTER = """\
from fastapi import APIRouter

router = APIRouter(prefix="/orders")


@router.get("")
async def list_orders() -> list[str]:
    return []
"""
SHOP = """\
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request
from sqlalchemy import func, select

from app.items.models import Item


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
    async with app.state.database.read_session() as session:
        yield {"shop": f"{await session.scalar(select(func.count(Item.id)))} items"}


router = APIRouter(prefix="/shop", lifespan=lifespan)


@router.get("")
async def read_shop(request: Request) -> str:
    shop: str = request.state.shop
    return shop
"""
SHOP_TEST = """\
from httpx2 import AsyncClient


async def test_the_shop_is_open(client: AsyncClient) -> None:
    assert (await client.get("/api/v1/shop")).json() == "0 items"
"""
PAYMENTS = """\
from typing import Annotated

from fastapi import APIRouter, Depends

from app.payments.settings import PaymentSettings
from app.web.dependencies import settings_of

router = APIRouter(prefix="/payments")


@router.get("/account")
async def read_account(settings: {taken}) -> str:
    return settings.stripe_key.get_secret_value()[-4:]
"""
TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"


def test_the_whole_loop(service: Service) -> None:
    assert "Running upgrade  -> " in service.alembic("upgrade", "head").stderr
    service.alembic("check")

    service.write("app/orders/models.py", MODEL)
    service.write("app/orders/router.py", ROUTER)
    assert service.alembic("check", check=False).returncode != 0
    service.alembic("revision", "--autogenerate", "-m", "add orders")
    [revision] = (service.path / "migrations/versions").glob("*_add_orders.py")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d{4}_[0-9a-f]{12}_add_orders\.py", revision.name)
    upgrade = revision.read_text().split("def upgrade")[1].split("def downgrade")[0]
    assert re.findall(r"^    op\.(\w+)\(\s*(?:op\.f\()?\"(\w+)", upgrade, re.MULTILINE) == [
        ("create_table", "orders"),
        ("create_index", "ix_orders_item_id"),
    ]

    service.alembic("upgrade", "head")
    service.alembic("check")
    assert service.sql(TABLES).split("\n") == ["alembic_version_my_service", "item_tags", "items", "orders"]
    constraints = "SELECT conname FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype <> 'n' ORDER BY 1"
    assert service.sql(constraints).split("\n") == ["fk_orders_item_id_items", "pk_orders"]

    service.alembic("downgrade", "base")
    assert service.sql(TABLES) == "alembic_version_my_service"
    assert service.sql("SELECT count(*) FROM pg_type WHERE typtype = 'e'") == "0"
    service.alembic("upgrade", "head")

    with service.serve() as client:
        assert client.get("/health/ready").json()["status"] == "ok"
        created = client.post("/api/v1/items", json={"name": "Lamp", "price": "19.90"})
        assert created.status_code == 201
        assert client.get(created.headers["location"]).json() == created.json()
        assert client.get("/api/v1/orders").json() == []
    assert service.sql("SELECT name, price, status FROM items") == "Lamp|19.90|draft"

    service.run("prek", "install")
    service.run("git", "add", "--all")
    me = ("-c", "user.name=Jane Doe", "-c", "user.email=jane@example.com")
    committed = service.run("git", *me, "commit", "--message", "Add orders")
    assert re.findall(r"^(.*?)\.+Passed$", committed.stderr, re.MULTILINE) == ["ruff check", "ruff format", "mypy"]
    service.run("pytest")


def blocks(service: Service, language: str) -> list[str]:
    """Return the README's blocks of code."""
    readme = (service.path / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", readme, re.DOTALL)


def test_the_readme_s_code_works(service: Service) -> None:
    [test, lamps, names, script, _] = blocks(service, "python")
    service.write("tests/names/test_names.py", test)
    service.write("app/lamps/router.py", lamps)
    service.write("app/names/router.py", names)
    service.write("scripts/seed.py", script)
    [refresh] = re.findall(r"  # without tags .* `(await .*?)`", lamps)
    late = lamps.replace("/lamps", "/late").replace(', tags=[Tag(name="bright")]', "").replace("Item, Tag", "Item")
    late = re.sub(r"  # without tags .*", "", late)
    service.write("app/late/router.py", late)
    refreshed = late.replace("/late", "/refreshed").replace("flush()\n", f"flush()\n    {refresh}\n")
    service.write("app/refreshed/router.py", refreshed)
    service.run("ruff", "check")
    service.run("ruff", "format", "--check")
    service.run("mypy", "app", "scripts", "tests")
    service.run("pytest", "tests/names")

    service.alembic("upgrade", "head")
    done = service.run("python", "-W", "error", "scripts/seed.py")
    assert "Warning" not in done.stderr
    refused = service.run("python", "scripts/seed.py", check=False, env={"MAX_BODY_SIZE": "big"})
    assert refused.returncode
    assert refused.stderr.startswith("MAX_BODY_SIZE: ")
    assert refused.stderr.count("\n") == 1
    with service.serve() as client:
        assert client.get("/api/v1/names").text == "Lamp\n"
        url = f"ws{str(client.base_url)[4:]}/api/v1/names"
        ask = f"import asyncio, websockets\nasync def ask():\n    async with websockets.connect({url!r}) as socket:\n"
        ask += "        await socket.send('La')\n        print(await socket.recv())\nasyncio.run(ask())"
        assert service.run("python", "-c", ask).stdout.strip() == '["Lamp"]'
        assert client.post("/api/v1/lamps", params={"name": "Lamp 2"}).json()["tags"] == ["bright"]
        assert [lamp["tags"] for lamp in client.get("/api/v1/lamps").json()] == [[], ["bright"]]
        assert client.post("/api/v1/refreshed", params={"name": "Lamp 3"}).json()["tags"] == []
        assert client.post("/api/v1/late", params={"name": "Lamp 4"}).status_code == 500


def test_a_domain_s_settings_are_as_the_readme_says(service: Service) -> None:
    [settings] = [block for block in blocks(service, "python") if "PaymentSettings" in block]
    [taken] = re.findall(r"`(Annotated\[.*?\])`", (service.path / "README.md").read_text(encoding="utf-8"))
    service.write("app/payments/settings.py", settings)
    service.write("app/payments/router.py", PAYMENTS.format(taken=taken))
    service.run("ruff", "check")
    service.run("ruff", "format", "--check")
    service.run("mypy")
    refused = service.run("pytest", check=False)
    assert refused.returncode
    assert "STRIPE_KEY is not set\n.env.test is what the tests run with" in refused.stderr
    service.write(".env.test", (service.path / ".env.test").read_text() + "STRIPE_KEY=of the tests\n")
    service.write(".env.example", service.run("python", "-m", "app.settings", "--env-example").stdout)
    service.run("pytest")
    assert "STRIPE_KEY is not set" in service.run("python", "-m", "app.settings", check=False).stderr
    service.alembic("upgrade", "head")
    service.write(".env", "STRIPE_KEY=sk_1234\n")
    with service.serve() as client:
        assert client.get("/api/v1/payments/account").json() == "1234"


def test_what_a_domain_opens_is_open_for_its_requests(service: Service) -> None:
    service.write("app/shop/router.py", SHOP)
    service.write("tests/test_shop.py", SHOP_TEST)
    service.run("mypy")
    service.run("pytest", "tests/test_shop.py")
    service.alembic("upgrade", "head")
    with service.serve() as client:
        assert client.get("/api/v1/shop").json() == "0 items"


def test_editors_find_no_fault(service: Service) -> None:
    """Though they are started outside of the virtual environment, which is not where this test has it."""
    shutil.copytree(service.env["UV_PROJECT_ENVIRONMENT"], service.path / ".venv", symlinks=True)
    subprocess.run(
        ["uvx", "--from", "pyright[nodejs]==1.1.414", "pyright"], cwd=service.path, env=environment(), check=True
    )


def test_an_editor_s_debugger_runs_each_entry(service: Service) -> None:
    launch = json.loads((service.path / ".vscode/launch.json").read_text(encoding="utf-8"))
    entries = {entry["name"]: entry for entry in launch["configurations"]}
    assert entries.pop("the service")["program"] == "${workspaceFolder}/app/main.py"  # which the next test runs
    for entry in entries.values():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        arguments = [argument.replace("${file}", "tests/test_main.py") for argument in entry.get("args", [])]
        debugger = ("--with", "debugpy", "python", "-X", "frozen_modules=off", "-m", "debugpy", "--listen", str(port))
        configured = ("--configure-subProcess", str(entry.get("subProcess", True)))
        service.run(*debugger, *configured, "-m", entry["module"], *arguments)
    service.alembic("check")


@pytest.mark.parametrize("command", ["app/main.py", "-m app.main"])
def test_the_application_runs_as_a_file(service: Service, command: str) -> None:
    with subprocess.Popen(
        [service.python, "-W", "error", *command.split()],
        cwd=service.path,
        env={**service.env, "DATABASE_URL": "postgresql://127.0.0.1:1/none"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        said = ""
        # Another test may have the port.
        while not re.search("Uvicorn running on http://127.0.0.1:8000|address already in use", said):
            line = process.stderr.readline()
            assert line, said
            said += line
        process.terminate()
    assert "Traceback" not in said


def test_a_package_of_models_is_found(service: Service) -> None:
    service.write("app/orders/models/order.py", MODEL)
    service.write("app/orders/models/nested/note.py", MODEL.replace("Order", "Note").replace("orders", "notes"))
    service.alembic("upgrade", "head")
    service.alembic("revision", "--autogenerate", "-m", "add")
    service.alembic("upgrade", "head")
    assert service.sql(TABLES).split("\n") == ["alembic_version_my_service", "item_tags", "items", "notes", "orders"]


def test_a_model_that_cannot_be_imported_stops_autogenerate(service: Service) -> None:
    service.alembic("upgrade", "head")
    service.write("app/orders/models.py", "import nothing_of_this_name")
    revisions = sorted((service.path / "migrations/versions").iterdir())
    done = service.alembic("revision", "--autogenerate", "-m", "add", check=False)
    assert done.returncode != 0
    assert "nothing_of_this_name" in done.stderr
    assert sorted((service.path / "migrations/versions").iterdir()) == revisions


@pytest.mark.parametrize("name", ["tables", "models"], ids=["in the wrong file", "on the wrong base"])
def test_a_model_that_escapes_the_registry_fails_the_service_s_tests(service: Service, name: str) -> None:
    text = MODEL.replace('ForeignKey("items.id"), ', "")
    if name == "models":
        text = text.replace("class Order(Base)", "class Own(DeclarativeBase): ...\n\nclass Order(Own)").replace(
            "import Mapped", "import DeclarativeBase, Mapped"
        )
    service.write(f"app/orders/{name}.py", text)
    done = service.run("pytest", "tests/test_main.py", check=False)
    assert done.returncode == 1
    assert f"app.orders.{name}: orders" in done.stdout


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("app/settings.py", "from app.db.base import Base"),
        ("app/url.py", "import app.main"),
        ("app/web/errors.py", "from app import items"),
        ("app/items/models.py", "from app.items.schemas import ItemRead"),
        ("app/items/service.py", "from app.items import router"),
        ("app/items/service.py", "import migrations.errors"),
        ("devdb/__init__.py", "import app.settings"),
    ],
)
def test_an_import_against_the_flow_fails_the_service_s_tests(service: Service, name: str, text: str) -> None:
    service.write(name, f"{(service.path / name).read_text()}\n\ndef later():\n    {text}\n")
    done = service.run("pytest", "tests/test_architecture.py", check=False)
    assert done.returncode == 1
    assert "1 failed" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="there, a shell has no rm")
@pytest.mark.parametrize("is_deployed", [False, True])
def test_the_example_domain_can_be_removed(service: Service, is_deployed: bool) -> None:
    """By the README's commands; only one that is deployed leaves its revision behind."""
    service.alembic("upgrade", "head")
    readme = (service.path / "README.md").read_text(encoding="utf-8")
    before, after = readme.split("### Removing")[1].split("\n## ")[0].split("Afterwards")
    [block] = re.findall(r"```sh\n(.*?)```", before, re.DOTALL)
    for command in re.findall("`(.*?)`", after) if is_deployed else block.splitlines():
        subprocess.run(command, cwd=service.path, env=service.env, shell=True, stdin=subprocess.DEVNULL, check=True)
    service.alembic("check")
    names = sorted(path.name.split("_", 3)[3] for path in (service.path / "migrations/versions").glob("*.py"))
    assert names == (["create_items.py", "drop_items.py"] if is_deployed else ["create_orders.py"])
    assert service.sql(TABLES).split("\n") == ["alembic_version_my_service", *(() if is_deployed else ["orders"])]
    service.run("ruff", "check")
    service.run("ruff", "format", "--check")
    service.run("mypy")
    assert re.search(r"\d+ passed in", service.run("pytest").stdout)


def test_the_messages_of_the_readme_are_the_service_s(bake: Bake) -> None:
    path = bake()
    said = []
    for file in [file for room in ("app", "migrations", "devdb") for file in (path / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_bytes())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = (str(part.value) if isinstance(part, ast.Constant) else "\N{HORIZONTAL ELLIPSIS}" for part in parts)
            said.append(re.sub(r"\{\w+\}", "\N{HORIZONTAL ELLIPSIS}", "".join(texts)))
    table = (path / "README.md").read_text(encoding="utf-8").split("\n## Troubleshooting\n")[1]
    messages = re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)
    assert len(messages) > 10
    assert [message for message in messages if not any(message in text for text in said)] == []


def test_the_tests_run_in_parallel_and_leave_the_developer_s_data_and_configuration_alone(service: Service) -> None:
    service.alembic("upgrade", "head")
    service.sql("INSERT INTO items (id, name, price) VALUES (gen_random_uuid(), 'mine', 1)")
    url = service.run("python", "-m", "devdb", "url").stdout.strip()
    service.write(".env", "ENVIRONMENT=production\nDATABASE_URL=postgresql://nobody@database.invalid/none\n")
    done = service.run(
        "pytest", "-n", "4", env={"DATABASE_URL": url, "ENVIRONMENT": "staging", "TEST_DATABASE_URL": url}
    )
    assert re.search(r"\d+ passed in", done.stdout)
    (service.path / ".env").unlink()
    assert service.sql("SELECT name FROM items") == "mine"
    assert service.sql("SELECT datname FROM pg_database WHERE datname LIKE 'test%'") == ""


@pytest.mark.parametrize("elsewhere", [False, True], ids=["from the project", "from elsewhere"])
def test_every_alembic_command_works(service: Service, tmp_path: Path, elsewhere: bool) -> None:
    # A working directory's own .env and .devdb must not count.
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://nobody@database.invalid/none\n")

    def alembic(*arguments: str) -> str:
        config = ["-c", str(service.path / "pyproject.toml")] if elsewhere else []
        return service.run("alembic", *config, *arguments, cwd=tmp_path if elsewhere else None).stdout

    alembic("upgrade", "head")
    assert "(head)" in alembic("current")
    assert "create items" in alembic("history")
    assert "(head)" in alembic("heads")
    assert "create items" in alembic("show", "head")
    assert alembic("branches") == ""
    alembic("check")
    assert "CREATE TABLE items" in alembic("upgrade", "head", "--sql")
    assert "DROP TABLE items" in alembic("downgrade", "head:base", "--sql")
    alembic("revision", "--autogenerate", "-m", "nothing")
    head = alembic("heads").split()[0]
    alembic("revision", "-m", "one")
    alembic("revision", "-m", "two", "--head", head, "--splice")
    assert "branchpoint" in alembic("branches")
    alembic("merge", "heads", "-m", "both")
    alembic("upgrade", "head")
    alembic("downgrade", head)
    alembic("stamp", "head")
    alembic("downgrade", "base")
    if elsewhere:
        service.write(".env", "DATABASE_URL=postgresql://127.0.0.1:1/none\n")
        assert "Connect call failed ('127.0.0.1', 1)" in service.alembic("current", check=False).stderr
    assert [path.name for path in tmp_path.iterdir()] == [".env", "my services"]
    service.run("ruff", "check")
    service.run("ruff", "format", "--check")
    service.run("mypy")


def test_offline_sql_needs_no_database_and_builds_the_same_schema(service: Service) -> None:
    sql = service.alembic("upgrade", "head", "--sql", env={"ENVIRONMENT": "production"}).stdout
    assert not (service.path / ".devdb").exists()
    service.run("python", "-m", "devdb", "psql", "-v", "ON_ERROR_STOP=1", "-c", sql)
    service.alembic("check")


def test_importing_the_application_connects_to_nothing(service: Service) -> None:
    service.run("python", "-c", "import app.main; app.main.app.openapi()")
    assert not (service.path / ".devdb").exists()


@pytest.mark.parametrize(
    ("env", "command", "says"),
    [
        ({"ENVIRONMENT": "production"}, "alembic current", "DATABASE_URL and DATABASE_URL_PROD are not set"),
        (
            {"ENVIRONMENT": "production", "ALLOWED_HOSTS": "a.com"},
            "uvicorn app.main:app",
            "DATABASE_URL and DATABASE_URL_PROD are not set",
        ),
        ({"ENVIRONMENT": "prod"}, "alembic upgrade head", "ENVIRONMENT: "),
        ({"DATABASE_URL": "nonsense"}, "alembic current", "DATABASE_URL: must look like postgresql://"),
        ({"DATABASE_URL": "mysql://u:hunter2@h/d"}, "uvicorn app.main:app", "DATABASE_URL: must look like"),
        ({"DATABASE_URL": "postgresql://u:hunter2@h:x/d"}, "alembic current", "a port must be a number"),
        ({"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/d"}, "alembic current", "cannot connect"),
        ({"DATABASE_URL": "postgresql://u:hunter2@database.invalid/d"}, "alembic current", "cannot connect"),
    ],
    ids=str,
)
def test_a_mistake_gets_one_sentence(service: Service, env: dict[str, str], command: str, says: str) -> None:
    done = service.run(*command.split(), check=False, env=env)
    assert done.returncode != 0
    [line] = done.stderr.strip().split("\n")
    assert says in line
    assert "hunter2" not in done.stdout + done.stderr


NO_DATABASE = {"ENVIRONMENT": "production", "ALLOWED_HOSTS": "example.com"}


@pytest.mark.parametrize(
    "command",
    [
        ["-c", "import app.main"],
        ["-m", "uvicorn", "app.main:app", "--port", "0"],
        ["-m", "uvicorn", "app.main:app", "--port", "0", "--workers", "2"],
    ],
    ids=lambda command: command[-1],
)
def test_a_service_that_cannot_run_ends_with_a_sentence(service: Service, command: list[str]) -> None:
    done = subprocess.run(
        [service.python, *command],
        cwd=service.path,
        env={**service.env, **NO_DATABASE},
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert "DATABASE_URL and DATABASE_URL_PROD are not set" in done.stderr
    assert "Traceback" not in done.stderr
    if "--workers" not in command:  # with workers, the exit code is uvicorn's affair
        assert done.returncode != 0
        assert len(done.stderr.splitlines()) == 1


def test_a_development_server_that_cannot_run_says_why_and_waits_for_a_change(service: Service) -> None:
    with subprocess.Popen(
        [service.python, "-m", "fastapi", "dev", "--port", "0"],
        cwd=service.path,
        env={**service.env, **NO_DATABASE},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout
        said = ""
        while "DATABASE_URL and DATABASE_URL_PROD are not set" not in said:
            line = server.stdout.readline()
            assert line, said
            said += line
        assert server.poll() is None
        server.terminate()
        said += server.stdout.read()
    assert "Traceback" not in said


def test_an_error_in_a_domain_is_not_taken_for_a_missing_app(service: Service) -> None:
    service.write("app/orders/router.py", "import math\n\nmath.no_such_function()\n")
    done = service.run("uvicorn", "app.main:app", check=False, env={"DATABASE_URL": "postgresql://127.0.0.1:1/d"})
    assert done.returncode != 0
    assert re.search(r'app.orders.router\.py", line 3', done.stderr)
    assert "AttributeError: module 'math' has no attribute 'no_such_function'" in done.stderr
    assert "Error loading ASGI app" not in done.stderr


def test_a_router_module_without_a_router_is_one_sentence(service: Service) -> None:
    service.write("app/orders/router.py", "")
    done = service.run("uvicorn", "app.main:app", check=False, env={"DATABASE_URL": "postgresql://127.0.0.1:1/d"})
    assert done.returncode != 0
    assert done.stderr.strip() == "app.orders.router must define router = APIRouter(...)"


def test_a_deployed_service_has_no_development_database(bake: Bake, tmp_path: Path) -> None:
    service = Service(bake())
    subprocess.run(["uv", "sync", "--locked", "--no-dev", "--quiet"], cwd=service.path, env=service.env, check=True)
    installed = os.listdir(next((service.path / ".venv").glob("**/site-packages")))
    assert not [name for name in installed if re.match("embedded|pytest|mypy|ruff", name)]
    done = service.run("--no-dev", "alembic", "current", check=False)
    assert done.returncode != 0
    assert "DATABASE_URL and DATABASE_URL_LOCAL are not set" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_oldest_versions_that_it_allows_will_do(bake: Bake) -> None:
    service = Service(bake())
    oldest = ["uv", "sync", "--resolution", "lowest-direct", "--quiet"]
    subprocess.run(oldest, cwd=service.path, env=service.env, check=True)
    for command in (["pytest"], ["alembic", "upgrade", "head"], ["alembic", "check"]):
        subprocess.run(["uv", "run", "--no-sync", *command], cwd=service.path, env=service.env, check=True)
    subprocess.run(
        ["uv", "run", "--no-sync", "python", "-m", "devdb", "stop"], cwd=service.path, env=service.env, check=True
    )


def test_any_character_may_stand_in_a_password(service: Service) -> None:
    user, password = "o'hara", "p@ss/w%rd#1:x?[]{} &="
    create = f"CREATE ROLE \"{user}\" SUPERUSER LOGIN PASSWORD '{password}'"
    service.run("python", "-m", "devdb", "psql", "-U", "postgres", "-c", create)
    parts = urlsplit(service.run("python", "-m", "devdb", "url").stdout.strip())
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    url = parts._replace(netloc=f"{login}@127.0.0.1:{parts.port}").geturl()
    service.alembic("upgrade", "head", env={"DATABASE_URL": url, "ENVIRONMENT": "production"})
    with service.serve({"DATABASE_URL": url}) as client:
        assert client.get("/health/ready").status_code == 200
    wrong = service.alembic("current", check=False, env={"DATABASE_URL": url.replace("p%40ss", "pass")})
    assert wrong.returncode != 0
    assert "password authentication failed" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_sqlmodel_is_at_home(service: Service) -> None:
    """`uv add sqlmodel` and a model are all it takes."""
    sqlmodel = ("--with", "sqlmodel")
    service.write(
        "app/heroes/models.py",
        "from uuid import UUID, uuid4\n\nfrom sqlmodel import Field, SQLModel\n\n\n"
        "class Hero(SQLModel, table=True):\n"
        '    __tablename__ = "heroes"\n\n'
        "    id: UUID = Field(default_factory=uuid4, primary_key=True)\n"
        "    name: str = Field(max_length=50, unique=True)\n"
        '    item_id: UUID = Field(foreign_key="items.id", index=True)\n',
    )
    service.run(*sqlmodel, "alembic", "upgrade", "head")
    service.run(*sqlmodel, "alembic", "revision", "--autogenerate", "-m", "heroes")
    service.run(*sqlmodel, "alembic", "upgrade", "head")
    service.run(*sqlmodel, "alembic", "check")
    constraints = "SELECT conname FROM pg_constraint WHERE conrelid = 'heroes'::regclass AND contype <> 'n' ORDER BY 1"
    assert service.sql(constraints).split("\n") == ["fk_heroes_item_id_items", "pk_heroes", "uq_heroes_name"]
    # The revision needs no SQLModel, so neither does a deployment's migration.
    service.alembic("downgrade", "-1")
    service.alembic("upgrade", "head")
    service.run("python", "-m", "migrations.lint")
