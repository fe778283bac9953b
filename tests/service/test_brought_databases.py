"""Databases that others have used before, or use beside the service."""

import asyncio

import pytest
from alembic import command
from alembic.config import Config

from tests.service.conftest import TABLE, Project
from tests.service.test_health import get, sql

OWN = "migrations/versions/version_table.toml"
FOREIGN = "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('foreign')"
TABLES = "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^(th|al)' ORDER BY 1"
THING = 'class Thing(Base):\n    __tablename__ = "things"\n    id: Mapped[int] = mapped_column(primary_key=True)\n'


def with_search_path(url: str, path: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{path}"


async def test_a_tenant_s_history_is_its_own(project: Project) -> None:
    project.revision(TABLE, 'op.drop_table("things")')
    project.alembic("upgrade", "head")
    await project.sql("CREATE SCHEMA tenant")
    env = {"DATABASE_URL": with_search_path(project.url, "tenant,public")}
    assert "(head)" not in project.alembic("current", env=env)
    assert "not up to date" in project.refusal("check", env=env)
    project.alembic("upgrade", "head", env=env)
    assert "r0 (head)" in project.alembic("current", env=env)
    both = ["public.alembic_version", "public.things", "tenant.alembic_version", "tenant.things"]
    assert await project.sql(TABLES) == both
    project.alembic("downgrade", "base", env=env)
    assert await project.sql(TABLES) == ["public.alembic_version", "public.things", "tenant.alembic_version"]
    assert "r0 (head)" in project.alembic("current")


async def test_a_tenant_is_ready_by_its_own_history(
    empty_database_url: str, alembic_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = with_search_path(empty_database_url, "tenant,public")
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    await asyncio.to_thread(command.upgrade, alembic_config, "head")
    await sql(empty_database_url, "CREATE SCHEMA tenant")
    assert await get("/health/ready", empty_database_url) == (200, "")
    status, reason = await get("/health/ready", url)
    assert status == 503
    assert "alembic upgrade head" in reason
    monkeypatch.setenv("DATABASE_URL", url)
    await asyncio.to_thread(command.upgrade, alembic_config, "head")
    assert await get("/health/ready", url) == (200, "")


async def test_a_history_that_is_not_known_says_what_it_may_be(project: Project) -> None:
    project.revision(TABLE)
    for statement in FOREIGN.split("; "):
        await project.sql(statement)
    for arguments in (["upgrade", "head"], ["stamp", "head"], ["check"]):
        refusal = project.refusal(*arguments)
        assert "alembic_version says that the database is at revision foreign" in refusal
        for possible in ("newer code", "`alembic stamp --purge head`", "another service's", "migrations/README.md"):
            assert possible in refusal
    assert await project.sql("SELECT version_num FROM alembic_version") == ["foreign"]
    project.alembic("stamp", "--purge", "head")
    assert await project.sql("SELECT version_num FROM alembic_version") == ["r0"]


@pytest.mark.parametrize("schema", ["", 'schema = "ops"\n'])
async def test_the_version_table_may_have_another_name_and_schema(project: Project, schema: str) -> None:
    project.models(THING)
    project.revision(TABLE)
    for statement in FOREIGN.split("; "):
        await project.sql(statement)
    project.write(OWN, f'name = "ours"\n{schema}')
    await project.sql("CREATE TABLE things (id int NOT NULL, CONSTRAINT pk_things PRIMARY KEY (id))")
    if schema:
        assert 'schema "ops" does not exist' in project.refusal("upgrade", "head")
        await project.sql("CREATE SCHEMA ops")
    assert "already exists (from before, or another service's" in project.refusal("upgrade", "head")
    project.alembic("stamp", "head")
    assert "r0 (head)" in project.alembic("current")
    assert "No new upgrade operations" in project.alembic("check")
    table = "ops.ours" if schema else "ours"
    assert await project.sql(f"SELECT version_num FROM {table}") == ["r0"]
    assert await project.sql("SELECT version_num FROM alembic_version") == ["foreign"]
    for arguments in (["upgrade", "head"], ["stamp", "head"]):
        assert f"INSERT INTO {table} " in project.alembic(*arguments, "--sql")


async def test_a_schema_that_is_missing_is_said(project: Project) -> None:
    project.revision(TABLE)
    env = {"DATABASE_URL": with_search_path(project.url, "missing")}
    assert "no schema has been selected to create in" in project.refusal("upgrade", "head", env=env)
    assert project.alembic("current", env=env)


@pytest.mark.parametrize("text", ["name = ", 'shema = "ops"', "name = 5", 'name = ""', None])
def test_a_malformed_file_is_refused_in_one_line(project: Project, text: str | None) -> None:
    project.revision(TABLE)
    if text is None:
        (project.path / OWN).mkdir()
    else:
        project.write(OWN, text)
    for arguments in (["current"], ["upgrade", "head", "--sql"]):
        assert "migrations/versions/version_table.toml: " in project.refusal(*arguments)
