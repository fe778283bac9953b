"""A service grows by its own commands: a domain, its table, the diagram of the schema, and a console."""

import re
import shlex
import subprocess

import pytest
from conftest import Service

LONG = "shipments_of_the_" + "very_" * 8 + "long"


@pytest.mark.parametrize("names", [["orders"], ["people", "person"], [LONG, "leg"]], ids=lambda names: names[0][:20])
def test_a_new_domain_is_complete(service: Service, names: list[str]) -> None:
    said = service.run("python", "-m", "scaffold", *names).stdout
    [command] = [line for line in said.splitlines() if line.startswith("uv run")]
    for one in command.split(" && "):
        service.run(*shlex.split(one)[2:])
    service.alembic("check")
    assert f'    "{names[0]}" {{' in (service.path / "docs/schema.md").read_text()
    service.run("ruff", "check")
    service.run("ruff", "format", "--check")
    service.run("mypy")
    service.run("python", "-m", "migrations.lint")
    service.run(
        "pytest", f"tests/{names[0]}", "tests/test_architecture.py", "tests/test_main.py", "tests/test_migrations.py"
    )
    with service.serve() as client:
        created = client.post(f"/api/v1/{names[0]}", json={"name": "First"})
        assert created.status_code == 201
        assert client.get(created.headers["location"]).json() == created.json()
        assert client.get(f"/api/v1/{names[0]}").json()["items"] == [created.json()]


def test_a_new_domain_stands_on_its_own(service: Service) -> None:
    """It needs nothing of the example, which its owner removes."""
    service.run("python", "-m", "scaffold", "orders")
    for path in (service.path / "app/orders").glob("*.py"):
        assert "items import" not in path.read_text()


REFUSALS = {
    "items": "app/items is there already",
    "db": "app/db is there already",
    "logs": "app/logs.py is there already",
    "tags": "app.items.models has a Tag already",
    "item_tags": "there is a table item_tags already",
    "order": "does not look like the name of several",
    "status": "does not look like the name of several",
    "sheep sheep": "cannot be the name of several and of one",
    "class": "a word of Python's own",
    "orders class": "a word of Python's own",
    "models": "what a file of each domain is called",
    "settings": "settings is what a file of each domain is called",
    "requests": "request is something else in the files",
    "Orders": "a to z, digits and single underscores",
    "../orders": "a to z, digits and single underscores",
    "order-lines": "a to z, digits and single underscores",
    "o" * 63 + "s": "at most 63",
}


def test_what_cannot_be_a_domain_is_refused(service: Service) -> None:
    before = {path for path in service.path.rglob("*.py")}
    for names, says in REFUSALS.items():
        refused = service.run("python", "-m", "scaffold", *names.split(), check=False)
        assert refused.returncode != 0
        [line] = refused.stderr.strip().split("\n")
        assert says in line
    assert {path for path in service.path.rglob("*.py")} == before


def test_a_domain_is_not_written_over(service: Service) -> None:
    service.run("python", "-m", "scaffold", "orders")
    own = service.write("app/orders/service.py", "# mine\n")
    assert "app/orders is there already" in service.run("python", "-m", "scaffold", "orders", check=False).stderr
    assert own.read_text() == "# mine\n"


def test_the_diagram_is_drawn_anew_with_a_revision_and_its_test_is_red_without(service: Service) -> None:
    service.alembic("upgrade", "head")
    models = service.path / "app/items/models.py"
    models.write_text(models.read_text().replace("Mapped[Decimal]", "Mapped[Decimal | None]"))
    red = service.run("pytest", "tests/test_migrations.py", "-k", "diagram", check=False)
    assert red.returncode == 1
    assert "python -m migrations.erd" in red.stdout
    assert service.alembic("check", check=False).returncode != 0
    service.alembic("revision", "--autogenerate", "-m", "prices may be unknown")
    assert 'numeric(12_2) price "null"' in (service.path / "docs/schema.md").read_text()
    service.run("pytest", "tests/test_migrations.py", "-k", "diagram")

    (service.path / "docs/schema.md").unlink()  # by an owner who wants none
    service.alembic("upgrade", "head")
    service.alembic("revision", "--autogenerate", "-m", "nothing")
    assert not (service.path / "docs/schema.md").exists()
    assert service.run("python", "-m", "migrations.erd").stdout == "docs/schema.md\n"
    assert "erDiagram" in (service.path / "docs/schema.md").read_text()


SHELL = """
item = Item(name="Lamp", price=1, tags=[Tag(name="bright")])
session.add(item)
await session.commit()
for found in await session.scalars(select(Item).options(selectinload(Item.tags))):
    print(found.name, [tag.name for tag in found.tags])
await session.scalar(select(func.count()).select_from(Item))
settings.environment.value
"""


def shell(service: Service, text: str, **env: str) -> tuple[int, str, str]:
    """Pipe `text` into the console; return its exit code and what it printed on both channels."""
    command = [str(service.python), "-W", "error", "-m", "app.shell"]
    done = subprocess.run(
        command,
        cwd=service.path,
        env={**service.env, **env},
        input=text,
        capture_output=True,
        text=True,
        check=False,
        errors="surrogateescape",
    )
    return done.returncode, done.stdout, done.stderr


def test_the_console_has_a_session_the_models_and_the_settings(service: Service) -> None:
    service.alembic("upgrade", "head")
    assert shell(service, SHELL)[:2] == (0, "Lamp ['bright']\n1\n'local'\n")
    assert service.sql("SELECT name FROM items") == "Lamp"


def test_the_console_stores_nothing_unasked_and_ends_at_the_first_error(service: Service) -> None:
    service.alembic("upgrade", "head")
    code, output, log = shell(service, SHELL.replace("commit", "flush") + "1 / 0\nprint('never')")
    assert (code, output) == (1, "Lamp ['bright']\n1\n'local'\n")
    assert log.endswith("ZeroDivisionError: division by zero\n")
    assert service.sql("SELECT count(*) FROM items") == "0"


@pytest.mark.parametrize(
    ("url", "says"),
    [("postgresql://127.0.0.1:1/d", "cannot connect to the database"), ("mysql://h/d", "DATABASE_URL: must look like")],
)
def test_a_console_without_a_database_is_one_sentence(service: Service, url: str, says: str) -> None:
    code, _, log = shell(service, "1", DATABASE_URL=url)
    assert code != 0
    [line] = log.strip().split("\n")
    assert says in line


def test_what_is_no_python_is_one_sentence_and_asks_no_database(service: Service) -> None:
    for text in ("x = (", "print(1)\n\x00", "\udcff"):
        code, output, log = shell(service, text, DATABASE_URL="postgresql://127.0.0.1:1/d")
        assert (code, output) == (1, "")
        [line] = log.strip().split("\n")
        assert line.startswith("app.shell: what was piped in is no Python: ")


@pytest.mark.parametrize("mistake", ["String(9), ForeignKey('items.nope')", "mysql.LONGTEXT"])
def test_models_that_cannot_be_drawn_are_a_sentence_and_leave_the_diagram(service: Service, mistake: str) -> None:
    drawn = (service.path / "docs/schema.md").read_text()
    models = service.path / "app/items/models.py"
    column = f"    nope: Mapped[str] = mapped_column({mistake})\n"
    models.write_text("from sqlalchemy.dialects import mysql\n" + models.read_text() + column)
    refused = service.run("python", "-m", "migrations.erd", check=False)
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert "the diagram of the schema cannot be written: " in refused.stderr
    assert (service.path / "docs/schema.md").read_text() == drawn


def test_what_cannot_be_written_is_said_and_leaves_nothing(service: Service) -> None:
    diagram, tests = service.path / "docs/schema.md", service.path / "tests"
    diagram.unlink()
    diagram.mkdir()
    tests.rename(service.path / "tests_of_mine")
    versions = {*(service.path / "migrations/versions").iterdir()}
    service.alembic("upgrade", "head")
    for command in (
        ["python", "-m", "migrations.erd"],
        ["alembic", "revision", "--autogenerate", "-m", "nothing"],
        ["python", "-m", "scaffold", "orders"],
    ):
        refused = service.run(*command, check=False)
        assert refused.returncode != 0
        assert "Traceback" not in refused.stderr
        assert re.search("(schema.md|tests/orders)'$", refused.stderr.strip())
    assert {*(service.path / "migrations/versions").iterdir()} == versions
    assert not (service.path / "app/orders").exists()
