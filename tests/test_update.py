"""What the template learns reaches the services it made, by cruft."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Bake, Service, environment
from cookiecutter.main import cookiecutter

OLD = "76cb4cd9f837d107fdf5e970941c85186d9e6a5c"  # release 0.1.0; `app/http` has become `app/web` since, and more moved
OWN = "\n\n# the service's own"
ENCODE = "def encode_cursor(key: UUID) -> str:\n"
FEW = "Few = Annotated[int, Query(ge=1, le=5)]\n\n\n"
ORDERS = {
    "app/orders/models.py": """\
from sqlalchemy.orm import Mapped

from app.db.base import Base, UUIDKey


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[UUIDKey]
    quantity: Mapped[int]
""",
    "app/orders/router.py": """\
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import select

from app.db.session import ReadSessionDep, SessionDep
from app.http.pagination import Few, Page
from app.orders.models import Order

router = APIRouter(prefix="/orders")


class OrderCreate(BaseModel):
    quantity: int


class OrderRead(OrderCreate, from_attributes=True):
    id: UUID


@router.post("", status_code=201)
async def create_order(data: OrderCreate, session: SessionDep) -> OrderRead:
    order = Order(**data.model_dump())
    session.add(order)
    await session.flush()
    return OrderRead.model_validate(order)


@router.get("")
async def list_orders(session: ReadSessionDep, limit: Few = 1) -> Page[OrderRead]:
    orders = await session.scalars(select(Order).order_by(Order.id.desc()).limit(limit + 1))
    return Page[OrderRead].of(orders.all(), limit)
""",
    "tests/orders/test_orders.py": """\
from httpx2 import AsyncClient

from app.http.pagination import decode_cursor
from app.main import create_app
from app.settings import Settings


async def test_orders_are_listed(client: AsyncClient) -> None:
    for quantity in (1, 2):
        assert (await client.post("/api/v1/orders", json={"quantity": quantity})).status_code == 201
    page = (await client.get("/api/v1/orders")).json()
    assert [order["quantity"] for order in page["items"]] == [2]
    assert decode_cursor(page["next_cursor"])
    assert (await client.get("/api/v1/orders", params={"limit": 6})).status_code == 422


async def test_orders_are_documented(settings: Settings) -> None:
    assert "/api/v1/orders" in create_app(settings).openapi()["paths"]
""",
}

FIRST = "migrations/versions/2026-11-21_0510_f0e74ead389a_create_items.py"
INDEXES = """\
    with op.get_context().autocommit_block():
        op.drop_index("ix_items_status_id", "items", if_exists=True, postgresql_concurrently=True)
        op.create_index("ix_items_status_id", "items", ["status", "id"], postgresql_concurrently=True)
        op.drop_index("ix_items_name", "items", if_exists=True, postgresql_concurrently=True)
        patterns = {"name": "text_pattern_ops"}
        op.create_index("ix_items_name", "items", ["name"], postgresql_ops=patterns, postgresql_concurrently=True)"""


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a developer", "-c", "user.email=developer@example.com")
    return subprocess.check_output(["git", *identity, *arguments], cwd=folder, text=True)


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "change")
    return git(folder, "rev-parse", "HEAD").strip()


def cruft(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "cruft", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def append(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text()}{line}\n")


def texts(folder: Path) -> dict[str, str]:
    """Return what git would commit in `folder`, but for cruft's own file and the one that it leaves to `uv lock`."""
    names = {*git(folder, "ls-files", "-co", "--exclude-standard").splitlines()} - {".cruft.json", "uv.lock"}
    return {name: (folder / name).read_text(encoding="utf-8") for name in names}


@pytest.fixture
def old_service(template: Path, tmp_path: Path, virtual_environment: Path) -> Iterator[Service]:
    """A service as the template baked it at `OLD`, committed; the template has become the present one since."""
    if subprocess.run(["git", "cat-file", "-e", OLD], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.fail(f"this clone has no history of the template back to 0.1.0, {OLD[:7]}: run `git fetch --unshallow`")
    source = tmp_path / "the template"
    shutil.copytree(template, source)
    git(source, "init", "--quiet")
    git(source, "fetch", "--quiet", "--update-shallow", str(ROOT), OLD)
    git(source, "reset", "--quiet", "FETCH_HEAD")
    commit(source)

    cruft(tmp_path, "create", str(source), "--no-input", "--checkout", OLD)
    service = Service(tmp_path / "my-service", environment() | {"UV_PROJECT_ENVIRONMENT": str(virtual_environment)})
    git(service.path, "init", "--quiet")
    commit(service.path)
    yield service
    service.run("python", "-m", "devdb", "stop")


@pytest.mark.parametrize("is_linked", [False, True], ids=["created", "linked"])
def test_an_update_keeps_the_service_s_changes_and_brings_the_template_s(
    template: Path, tmp_path: Path, is_linked: bool
) -> None:
    source = tmp_path / "the template"
    shutil.copytree(template, source)
    git(source, "init", "--quiet")
    commit(source)

    url = source.as_uri()  # of which cruft makes no path: the space is %20
    service = tmp_path / "my-service"
    if is_linked:
        cookiecutter(str(source), no_input=True, output_dir=str(tmp_path))
        cruft(service, "link", url, "--no-input")
    else:
        next_ = cruft(tmp_path, "create", url, "--no-input")
        assert not (service / ".git").exists()
        assert next_.splitlines()[-1].startswith("git init && git add --all && git commit")
        git(service, "init", "--quiet")
    assert json.loads((service / ".cruft.json").read_text())["template"] == url
    append(service / "app/items/service.py", "# the service's own")
    commit(service)

    append(source / "{{cookiecutter.project_slug}}/app/settings.py", "# the template's new")
    newest = commit(source)
    assert "git" not in cruft(service, "update", "--skip-apply-ask")

    assert (service / "app/settings.py").read_text().endswith("\n# the template's new\n")
    assert (service / "app/items/service.py").read_text().endswith("\n# the service's own\n")
    assert json.loads((service / ".cruft.json").read_text())["commit"] == newest
    cruft(service, "check")


def test_an_update_moves_files_with_what_the_service_changed_in_them(old_service: Service, bake: Bake) -> None:
    service = old_service
    for name, text in ORDERS.items():
        service.write(name, text)
    append(service.path / "app/items/service.py", OWN)
    pagination = (service.path / "app/http/pagination.py").read_text()
    service.write("app/http/pagination.py", pagination.replace(ENCODE, FEW + ENCODE))
    service.alembic("upgrade", "head")
    service.alembic("revision", "--autogenerate", "-m", "add orders")
    [revision] = (service.path / "migrations/versions").glob("*_add_orders.py")
    own = {**ORDERS, revision.relative_to(service.path).as_posix(): revision.read_text()}
    commit(service.path)

    cruft(service.path, "update", "--skip-apply-ask")
    git(service.path, "stash", "--include-untracked", "--", "migrations/versions")  # as the changelog says
    commit(service.path)

    present = {name: text for name, text in texts(bake()).items() if not name.startswith("migrations/versions/")}
    own[FIRST] = (service.path / FIRST).read_text()
    present["app/web/pagination.py"] = present["app/web/pagination.py"].replace(ENCODE, FEW + ENCODE)
    present["app/items/service.py"] += f"{OWN}\n"
    assert texts(service.path) == present | own

    # What is left to the owner, as the changelog says.
    changelog = " ".join((ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split())
    for name, text in ORDERS.items():
        for old, new in re.findall("`([^`]+)` is now `([^`]+)`", changelog):
            text = text.replace(old, new)
        service.write(name, text)
    service.run("ruff", "check", "--fix")
    subprocess.run(["uv", "lock", "--quiet"], cwd=service.path, env=service.env, check=True)

    service.run("ruff", "format", "--check")
    service.run("mypy")
    service.alembic("upgrade", "head")
    assert service.sql("SELECT count(*) FROM alembic_version") == "1"
    assert "ix_items_name" in service.alembic("check", check=False).stderr
    service.alembic("revision", "-m", "index items")
    [revision] = (service.path / "migrations/versions").glob("*_index_items.py")
    revision.write_text(revision.read_text().replace("    pass", INDEXES, 1))
    service.alembic("upgrade", "head")
    service.alembic("revision", "--autogenerate", "-m", "add tags")
    service.alembic("upgrade", "head")
    service.alembic("check")
    service.run("pytest")
    service.run("python", "-m", "migrations.lint")
    commit(service.path)
    cruft(service.path, "check")


def test_an_update_does_not_bring_a_removed_domain_back(old_service: Service, bake: Bake) -> None:
    for folder in ("app/items", "tests/items"):
        shutil.rmtree(old_service.path / folder)
    commit(old_service.path)
    cruft(old_service.path, "update", "--skip-apply-ask")
    commit(old_service.path)
    present = texts(bake())
    assert texts(old_service.path) == {
        name: text for name, text in present.items() if not name.startswith(("app/items/", "tests/items/"))
    }
