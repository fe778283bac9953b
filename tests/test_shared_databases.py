"""A service leaves alone what others have in its database, and takes over what it is told to."""

import re
import shlex
import shutil

from conftest import Bake, Service

ITEMS = "INSERT INTO items (id, name, price) VALUES (gen_random_uuid(), 'kept', 1); SELECT count(*) FROM items"
LONG = "a-service-whose-name-is-about-as-long-as-postgresql-allows"


def test_a_second_service_is_refused_and_drops_nothing(service: Service, bake: Bake) -> None:
    service.alembic("upgrade", "head")
    assert service.sql(ITEMS).split()[-1] == "1"
    url = {"DATABASE_URL": service.run("python", "-m", "devdb", "url").stdout.strip()}
    for answers in (
        {"project_name": "Another"},
        {"project_name": "Another", "project_slug": "my-other-service"},
        {"description": "The same name, and another service", "project_slug": "my-service-2"},
    ):
        other = Service(bake(**answers), {**service.env, **url})
        for _ in range(2):
            refused = other.alembic("upgrade", "head", check=False)
            assert refused.returncode != 0
            assert 'type "itemstatus" already exists (from before, or another service\'s' in refused.stderr
            with other.serve() as client:
                assert "alembic upgrade head" in client.get("/health/ready").json()["reason"]
            for folder in ("app/items", "tests/items"):  # as the README removes a domain
                shutil.rmtree(other.path / folder, ignore_errors=True)
            drop = other.alembic("-x", "drop_all=yes", "revision", "--autogenerate", "-m", "drop items", check=False)
            assert "Target database is not up to date" in drop.stderr
    assert service.sql("SELECT count(*) FROM items") == "1"
    service.alembic("check")
    with service.serve() as client:
        assert client.get("/health/ready").status_code == 200


def test_a_second_service_of_the_same_name_finds_a_history_that_is_not_its_own(service: Service, bake: Bake) -> None:
    service.alembic("upgrade", "head")
    url = {"DATABASE_URL": service.run("python", "-m", "devdb", "url").stdout.strip()}
    shutil.move(service.path, service.path.with_name("the first"))
    other = Service(bake(description="Another service"), {**service.env, **url})
    refused = other.alembic("upgrade", "head", check=False)
    assert "the table may be another service's" in refused.stderr
    shutil.rmtree(other.path)
    shutil.move(service.path.with_name("the first"), service.path)
    assert service.sql("SELECT count(*) FROM items") == "0"


def test_two_services_without_common_tables_share_a_database(service: Service, bake: Bake) -> None:
    service.alembic("upgrade", "head")
    assert service.sql(ITEMS).split()[-1] == "1"
    url = {"DATABASE_URL": service.run("python", "-m", "devdb", "url").stdout.strip()}
    models = "from app.db.base import Base, UUIDKey\nfrom sqlalchemy.orm import Mapped\n\n\nclass {0}(Base):\n"
    models += '    __tablename__ = "{1}"\n\n    id: Mapped[UUIDKey]\n'
    for name, kind, table in ((f"{LONG}-a", "Order", "orders"), (f"{LONG}-b", "Payment", "payments")):
        other = Service(bake(project_name=name), {**service.env, **url})
        for folder in ("app/items", "tests/items"):
            shutil.rmtree(other.path / folder)
        next((other.path / "migrations/versions").glob("*_create_items.py")).unlink()
        other.write(f"app/{table}/models.py", models.format(kind, table))
        other.alembic("revision", "--autogenerate", "-m", "first")
        other.alembic("upgrade", "head")
        other.alembic("check")
        with other.serve() as client:
            assert client.get("/health/ready").status_code == 200
    service.alembic("check")
    tables = service.sql("SELECT relname FROM pg_class WHERE relname ~ '^alembic_version.*[^c]$' OR relname = 'items'")
    assert len(tables.split()) == 4
    assert service.sql("SELECT count(*) FROM items") == "1"


THERE = """
    CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
    INSERT INTO alembic_version VALUES ('1975ea83b712');
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE customers (
        id serial PRIMARY KEY, mail varchar(80) NOT NULL UNIQUE, mood mood DEFAULT 'ok' NOT NULL, since date,
        CONSTRAINT has_at CHECK (mail LIKE '%@%')
    );
    CREATE TABLE orders (
        id bigserial PRIMARY KEY, customer integer NOT NULL REFERENCES customers ON DELETE CASCADE, total numeric(12, 2)
    );
    CREATE INDEX orders_by_customer ON orders (customer);
    CREATE TABLE others (id integer);
    INSERT INTO customers (mail) VALUES ('a@example.com'); INSERT INTO orders (customer) VALUES (1);
"""
MODELS = """\
from datetime import date
from decimal import Decimal

from sqlalchemy import BigInteger, CheckConstraint, Enum, ForeignKey, Index, Numeric, PrimaryKeyConstraint, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import conv

from app.db.base import Base


class Customer(Base):
    __tablename__ = "customers"
    __table_args__ = (
        CheckConstraint("mail LIKE '%@%'", name=conv("has_at")),
        PrimaryKeyConstraint("id", name="customers_pkey"),
        UniqueConstraint("mail", name="customers_mail_key"),
    )

    id: Mapped[int]
    mail: Mapped[str] = mapped_column(String(80))
    mood: Mapped[str] = mapped_column(Enum("sad", "ok", name="mood"), server_default="ok")
    since: Mapped[date | None]


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = (PrimaryKeyConstraint("id", name="orders_pkey"), Index("orders_by_customer", "customer"))

    id: Mapped[int] = mapped_column(BigInteger)
    customer: Mapped[int] = mapped_column(ForeignKey("customers.id", ondelete="CASCADE", name="orders_customer_fkey"))
    total: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
"""
STATE = """
    SELECT version_num FROM alembic_version UNION ALL SELECT mail FROM customers UNION ALL SELECT customer::text FROM orders
    UNION ALL SELECT relname || attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'alembic_version_my_%' ORDER BY 1
"""


def test_a_database_that_was_there_before_is_taken_over_as_the_page_says(service: Service) -> None:
    page = (service.path / "migrations/README.md").read_text(encoding="utf-8")
    section = page.partition("## A database that was there before\n")[2].partition("\n## ")[0]
    beside_an_empty_one, on_it = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)

    def run(commands: str) -> None:
        for command in commands.splitlines():
            service.run(*shlex.split(command.removeprefix("uv run ")))

    for folder in ("app/items", "tests/items"):
        shutil.rmtree(service.path / folder)
    next((service.path / "migrations/versions").glob("*_create_items.py")).unlink()
    service.write("app/customers/models.py", MODELS)
    run(beside_an_empty_one)
    service.run("python", "-m", "devdb", "reset")
    service.sql(THERE)
    before = service.sql(STATE)
    refused = service.alembic("upgrade", "head", check=False)
    assert "already exists (from before, or another service's: see migrations/README.md)" in refused.stderr
    assert service.sql(STATE) == before
    run(on_it)
    assert service.sql(STATE) == before

    models = service.path / "app/customers/models.py"
    models.write_text(models.read_text(encoding="utf-8").replace("String(80)", "String(90)"), encoding="utf-8")
    assert "modify_type" in service.alembic("check", check=False).stderr
    service.alembic("revision", "--autogenerate", "-m", "longer mail")
    service.alembic("upgrade", "head")
    service.alembic("check")
    assert service.sql(STATE) == before
