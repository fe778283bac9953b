"""Two services that meet on one database leave each other's tables alone."""

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
