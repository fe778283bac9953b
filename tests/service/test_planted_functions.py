"""Whoever may create in `public` cannot have the service's SQL, or that of a migration, run functions of theirs."""

import ast
import asyncio
import re
from collections.abc import Iterator

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from app.project import ROOT
from migrations.locking import LOCK
from tests.service.test_health import get

# Each suits a call better than PostgreSQL's own, which takes `any` type, or one that it is cast to.
PLANT = r"""
CREATE FUNCTION public.planted() RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''a planted function ran''; END';
CREATE FUNCTION pg_temp.plant(names text[], types text[]) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $plant$
DECLARE name text; arguments text; left_type text; right_type text;
BEGIN
    FOR name, arguments IN
        WITH RECURSIVE lists (length, list) AS (
            SELECT 0, '' UNION ALL SELECT length + 1, list || ',' || t FROM lists, unnest(types) AS t WHERE length < 3
        )
        SELECT n, substr(list, 2) FROM unnest(names) AS n, lists
    LOOP
        EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS text LANGUAGE sql AS $$ SELECT public.planted() $$',
            name, arguments);
    END LOOP;
    FOR left_type, right_type IN SELECT l, r FROM unnest(types) AS l, unnest(types) AS r LOOP
        EXECUTE format('CREATE FUNCTION public.operate(%s, %s) RETURNS bool LANGUAGE sql AS '
            '$$ SELECT public.planted() = '''' $$', left_type, right_type);
        FOR name IN SELECT unnest('{=,<>,||,+,<<,~,!~*}'::text[]) LOOP
            EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.operate, LEFTARG = %s, RIGHTARG = %s)',
                name, left_type, right_type);
        END LOOP;
    END LOOP;
END $plant$;
"""
TYPES = ["text", "name", "int4", "int8", "numeric", "bool", "oid", "inet", "timestamptz", "regclass"]
CALL = re.compile(r"(?<![\w.%])(pg_catalog\.)?(\w+)\(")


def sql() -> Iterator[tuple[str, str]]:
    """Yield the strings of the service that hold SQL, and where they are."""
    for path in sorted([*(ROOT / "app").rglob("*.py"), *(ROOT / "migrations").glob("*.py")]):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                node = ast.Constant(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "?" for part in node.values)
                )
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"\bSELECT\b", node.value):
                yield path.relative_to(ROOT).as_posix(), node.value


async def plant(url: str) -> set[str]:
    """Plant functions under all the names that the service's SQL calls, and return these."""
    connection = await asyncpg.connect(url)
    try:
        known = {row[0] for row in await connection.fetch("SELECT DISTINCT proname FROM pg_proc")}
        names = {match[2] for _, text in sql() for match in CALL.finditer(text)} & known
        names.add("pg_try_advisory_lock")  # which is only named
        await connection.execute(PLANT)
        await connection.execute("SELECT pg_temp.plant($1, $2)", sorted(names), TYPES)
        with pytest.raises(asyncpg.RaiseError, match="a planted function ran"):
            await connection.execute("SELECT pg_sleep(0.0)")
    finally:
        await connection.close()
    return names


async def test_each_function_is_called_as_postgresql_s_own(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    known = {row[0] for row in await connection.fetch("SELECT DISTINCT proname FROM pg_proc")}
    await connection.close()
    bare = [
        f"{where}: {match[2]}"
        for where, text in sql()
        for match in CALL.finditer(text)
        if match[2] in known and not match[1]
    ]
    assert bare == []


async def test_a_planted_function_does_not_run(
    empty_database_url: str, alembic_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = await plant(empty_database_url)
    assert {"pg_sleep", "format", "set_config", "current_schema"} <= names
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    monkeypatch.setenv("MIGRATION_LOCK_WAIT", "0.5")
    other = await asyncpg.connect(empty_database_url)
    await other.execute(f"SELECT pg_catalog.pg_advisory_lock({LOCK})")
    with pytest.raises(CommandError, match="another migration still runs"):  # it has slept, and asked who that is
        await asyncio.to_thread(command.upgrade, alembic_config, "head")
    await other.close()
    await asyncio.to_thread(command.upgrade, alembic_config, "head")
    await asyncio.to_thread(command.current, alembic_config)
    assert await get("/health/ready", empty_database_url) == (200, "")
    await asyncio.to_thread(command.downgrade, alembic_config, "base")
