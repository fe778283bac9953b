"""The lint of migrations knows what is unsafe, what is safe, and what a revision allows."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import indent

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from app.project import ROOT
from migrations.lint import Finding, LintError, lint, select

REVISION = """
import sqlalchemy as sa
from alembic import op
from alembic_postgresql_enum import TableReference
from sqlalchemy.dialects import postgresql

revision = "b1"
down_revision = {down_revision}

{comment}
def upgrade():
{body}
"""
AUTOCOMMIT = "with op.get_context().autocommit_block():\n    "
NOT_VALID = "postgresql_not_valid=True"


def sql(*statements: str) -> str:
    return "\n".join(f'op.execute("""{statement}""")' for statement in statements)


def add_column(column: str) -> str:
    return f'op.add_column("items", sa.Column("new", {column}))'


CHECK = 'op.create_check_constraint("positive", "items", "price > 0"'
FOREIGN_KEY = 'op.create_foreign_key("fk", "items", "shops", ["shop_id"], ["id"]'
NEW_TABLE = 'op.create_table("orders", sa.Column("item_id", sa.Uuid()))\n'

UNSAFE = {
    'op.drop_column("items", "price")': "ban-drop-column",
    'op.alter_column("items", "price", type_=sa.Integer())': "changing-column-type",
    'op.alter_column("items", "price", new_column_name="cost")': "renaming-column",
    'op.rename_table("items", "things")': "renaming-table",
    sql("ALTER SCHEMA shop RENAME TO store"): "renaming-object",
    sql("ALTER TYPE itemstatus RENAME VALUE 'draft' TO 'sketch'"): "renaming-object",
    """op.sync_enum_values(
    enum_schema="public",
    enum_name="itemstatus",
    new_values=["draft"],
    affected_columns=[TableReference(table_schema="public", table_name="items", column_name="status")],
    enum_values_to_rename=[],
)""": "changing-column-type",
    sql("ALTER TABLE items ADD COLUMN number bigserial"): "adding-serial-field",
    sql("ALTER TABLE items ADD a int, ADD b serial"): "adding-serial-field",
    add_column("sa.BigInteger(), sa.Identity()"): "adding-field-with-default",
    add_column("sa.Numeric(), sa.Computed('price * 2', persisted=True)"): "adding-field-with-default",
    add_column("sa.Uuid(), server_default=sa.text('gen_random_uuid()')"): "adding-field-with-default",
    add_column("sa.BigInteger(), server_default=sa.text(\"nextval('numbers')\")"): "adding-field-with-default",
    add_column("sa.Integer(), nullable=False"): "adding-required-field",
    add_column("sa.JSON()"): "adding-json-field",
    add_column("sa.Integer(), sa.CheckConstraint('new > 0', name='positive')"): "adding-check-constraint",
    add_column("sa.Integer(), unique=True"): "disallowed-unique-constraint",
    add_column("sa.Integer(), index=True"): "require-concurrent-index-creation",
    add_column("sa.Uuid(), sa.ForeignKey('items.id')"): "adding-foreign-key-constraint",
    f"{CHECK})": "adding-check-constraint",
    f"{CHECK}, {NOT_VALID})\n" + sql("ALTER TABLE items VALIDATE CONSTRAINT positive"): "validating-at-once",
    f"{FOREIGN_KEY})": "adding-foreign-key-constraint",
    f"{FOREIGN_KEY}, {NOT_VALID})\n" + sql("ALTER TABLE items VALIDATE CONSTRAINT fk"): "validating-at-once",
    'op.create_unique_constraint("uq", "items", ["name"])': "disallowed-unique-constraint",
    sql("ALTER TABLE items ADD CONSTRAINT filled NOT NULL description"): "adding-check-constraint",
    'op.create_primary_key("pk", "items", ["id"])': "adding-serial-primary-key-field",
    'op.create_exclude_constraint("ex", "items", ("price", "="), using="gist")': "adding-exclusion-constraint",
    'op.alter_column("items", "description", nullable=False)': "adding-not-nullable-field",
    'op.create_index("ix", "items", ["price"])': "require-concurrent-index-creation",
    'op.create_index("ix", "items", ["price"], postgresql_concurrently=True)': (
        "ban-concurrent-index-creation-in-transaction"
    ),
    'op.drop_index("ix", "items")': "require-concurrent-index-deletion",
    sql("REINDEX TABLE items"): "require-concurrent-reindex",
    add_column("sa.Integer()") + "\n" + sql("UPDATE items SET new = 1"): "backfill-beside-ddl",
    sql("-- the old ones\nDELETE FROM items", "ALTER TABLE items ALTER price SET DEFAULT 1"): "backfill-beside-ddl",
    sql(
        "WITH old AS (SELECT 1) UPDATE items SET price = 1", "ALTER TABLE items ALTER price SET DEFAULT 1"
    ): "backfill-beside-ddl",
    'op.drop_table("items")': "ban-drop-table",
    sql("DROP DATABASE shop"): "ban-drop-database",
    sql("DROP SCHEMA shop"): "ban-drop-schema",
    sql("TRUNCATE items"): "truncating-table",
    sql("LOCK TABLE items IN EXCLUSIVE MODE"): "locking-table",
    AUTOCOMMIT + sql("VACUUM FULL items"): "rewriting-table",
    AUTOCOMMIT + sql("VACUUM (ANALYZE, FULL) items"): "rewriting-table",
    sql("CLUSTER items USING pk_items"): "rewriting-table",
    sql("ALTER TABLE items SET UNLOGGED"): "rewriting-table",
    sql("REFRESH MATERIALIZED VIEW totals"): "refreshing-materialized-view",
    sql("ALTER TABLE events ATTACH PARTITION may FOR VALUES IN (5)"): "attaching-partition",
    sql("ALTER TABLE events DETACH PARTITION may"): "require-concurrent-partition-detach",
    sql("ALTER TYPE itemstatus ADD VALUE 'new'", "INSERT INTO items VALUES ('new')"): "using-new-enum-value",
    sql("COMMIT"): "transaction-nesting",
    sql("-- squawk-ignore ban-drop-table\nDROP TABLE items"): "ban-drop-table",
    'op.get_bind().execute(sa.text("SELECT 1")).all()': "not-renderable",
    'raise KeyError("no database")': "not-renderable",
    sql("UPDATE items SET name = 'see :manual'"): "not-renderable",
    sql("CREATE TABLE a (); CREATE TABLE b ()"): "not-renderable",
    sql("ALTER TABLE items RENAME CONSTRAINT uq TO uq2"): "renaming-object",
    # What is made anew under an old name was there before.
    'op.drop_column("items", "new")\n' + add_column("sa.Text()"): "ban-drop-column",
    'op.drop_table("items")\nop.create_table("items", sa.Column("id", sa.Uuid()))': "ban-drop-table",
}

SAFE = [
    "pass",
    sql("ALTER INDEX ix_items_name RENAME TO ix_items_title", "ALTER TRIGGER a ON items RENAME TO b"),
    "op.bulk_insert(op.create_table('notes', sa.Column('j', sa.JSON)), [{'j': {'a': 1}}])",
    add_column("sa.String(20)"),
    add_column("sa.Integer(), nullable=False, server_default='0'"),
    add_column("sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()"),
    add_column("postgresql.JSONB()"),
    f"{CHECK}, {NOT_VALID})",
    f"{FOREIGN_KEY}, {NOT_VALID})",
    sql("ALTER TABLE items VALIDATE CONSTRAINT fk"),
    sql("ALTER TABLE items VALIDATE CONSTRAINT filled")
    + '\nop.alter_column("items", "description", nullable=False)\nop.drop_constraint("filled", "items")',
    sql("ALTER TABLE items ADD CONSTRAINT uq UNIQUE USING INDEX ix"),
    AUTOCOMMIT + 'op.create_index("ix", "items", ["price"], postgresql_concurrently=True)',
    AUTOCOMMIT + 'op.drop_index("ix", "items", postgresql_concurrently=True)',
    AUTOCOMMIT + sql("REINDEX TABLE CONCURRENTLY items"),
    AUTOCOMMIT + sql("ALTER TABLE events DETACH PARTITION may CONCURRENTLY"),
    AUTOCOMMIT + sql("DO $$ BEGIN LOOP COMMIT; UPDATE items SET price = 1; EXIT; END LOOP; END $$"),
    AUTOCOMMIT + sql("VACUUM (ANALYZE) items") + "\n" + sql("UPDATE items SET price = 1"),
    sql("UPDATE items SET name = 'a; DROP TABLE items'"),
    sql("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM a; UPDATE b SET c = 1; END $$"),
    sql("ALTER TYPE itemstatus ADD VALUE 'new'"),
    'op.add_enum_value(enum_schema="public", enum_name="itemstatus", new_value="new")',
    sql("SET LOCAL lock_timeout = '10s'"),
    sql("REFRESH MATERIALIZED VIEW CONCURRENTLY totals"),
    sql("CREATE TABLE may (month int)", "ALTER TABLE events ATTACH PARTITION may FOR VALUES IN (5)"),
    sql("ALTER TABLE may VALIDATE CONSTRAINT bounds", "ALTER TABLE events ATTACH PARTITION may FOR VALUES IN (5)"),
    sql("CREATE MATERIALIZED VIEW totals AS SELECT 1 AS id", "CREATE UNIQUE INDEX ix ON totals (id)"),
    NEW_TABLE + 'op.create_index("ix", "orders", ["item_id"])',
    NEW_TABLE + 'op.create_foreign_key("fk", "orders", "items", ["item_id"], ["id"])',
    NEW_TABLE + 'op.create_check_constraint("known", "orders", "item_id IS NOT NULL")',
    NEW_TABLE + 'op.alter_column("orders", "item_id", nullable=False)',
    NEW_TABLE + sql("UPDATE orders SET item_id = gen_random_uuid()"),
]


@pytest.fixture
def findings(tmp_path: Path) -> Callable[..., list[Finding]]:
    """Lints a revision after a first one, whose `upgrade` has `body`."""

    def findings(body: str, comment: str = "", down_revision: str | tuple[str, ...] = "a1") -> list[Finding]:
        for name in ("a1", "a2"):
            (tmp_path / f"{name}.py").write_text(f'revision = "{name}"\ndown_revision = None')
        source = REVISION.format(body=indent(body, "    "), comment=comment, down_revision=repr(down_revision))
        (tmp_path / "b1.py").write_text(source)
        config = Config(toml_file=ROOT / "pyproject.toml")
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", str(tmp_path))
        scripts = ScriptDirectory.from_config(config)
        return lint(config, scripts, scripts.get_revision("b1"))

    return findings


@pytest.mark.parametrize(("body", "rule"), UNSAFE.items())
def test_the_unsafe_is_found_and_can_be_allowed(findings: Callable[..., list[Finding]], body: str, rule: str) -> None:
    found = findings(body)
    rules = {finding.rule for finding in found}
    assert rule in rules
    assert all(all(finding) for finding in found)
    assert findings(body, "\n".join(f"# squawk-ignore {name}: nobody uses it" for name in rules)) == []
    assert findings(body, f"# squawk-ignore {', '.join(rules)}: nobody uses it") == []


@pytest.mark.parametrize("body", SAFE)
def test_the_safe_is_clean(findings: Callable[..., list[Finding]], body: str) -> None:
    assert findings(body) == []


def test_a_merge_is_judged_by_what_it_does_itself(findings: Callable[..., list[Finding]]) -> None:
    assert findings("pass", down_revision=("a1", "a2")) == []
    assert [finding.rule for finding in findings(sql("TRUNCATE items"), down_revision=("a1", "a2"))] == [
        "truncating-table"
    ]


def test_a_finding_shows_the_statement(findings: Callable[..., list[Finding]]) -> None:
    [finding] = findings('op.execute("SELECT 1")\nop.drop_column("items", "price")')
    assert finding.statement == "ALTER TABLE items DROP COLUMN price;"


def test_an_allowance_that_allows_nothing_is_found(findings: Callable[..., list[Finding]]) -> None:
    [finding] = findings("pass", "# squawk-ignore ban-drop-column: it was dropped here once")
    assert finding.rule == "unused-allowance"


@pytest.mark.parametrize(
    "comment",
    [
        "# squawk-ignore",
        "# squawk-ignore ban-drop-column",
        "# squawk-ignore ban-drop-column:",
        "# squawk-ignore ban-drop-colum: the reason",
        "# squawk-ignore ban-drop-column, ban-drop-colum: the reason",
        "# squawk-ignore ban-drop-column ban-drop-table: the reason",
        "# squawk-ignore unused-allowance: the reason",
    ],
)
def test_an_allowance_needs_a_rule_and_a_reason(findings: Callable[..., list[Finding]], comment: str) -> None:
    with pytest.raises(LintError, match=r"b1\.py"):
        findings('op.drop_column("items", "price")', comment)


def test_a_range_starts_after_its_first_revision(alembic_config: Config) -> None:
    scripts = ScriptDirectory.from_config(alembic_config)
    first, *rest = select(alembic_config, scripts, "")
    assert select(alembic_config, scripts, first.revision) == rest
    assert select(alembic_config, scripts, f":{first.revision}") == [first]


@pytest.mark.parametrize("wanted", ["nope", ":nope", "head:base", "base:head:head"])
def test_a_wrong_range_is_refused(alembic_config: Config, wanted: str) -> None:
    with pytest.raises(LintError, match="revision"):
        select(alembic_config, ScriptDirectory.from_config(alembic_config), wanted)


def run(folder: Path, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "migrations.lint", *arguments]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_migrations_are_safe_wherever_the_command_runs(tmp_path: Path) -> None:
    (tmp_path / ".squawk.toml").write_text("this is not TOML")
    result = run(tmp_path, ROOT)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert result.stdout.startswith("Nothing unsafe")


def test_the_command_says_what_is_wrong_and_fails(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in ("app", "migrations"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    body = indent(sql("TRUNCATE items"), "    ")
    revision = tmp_path / "migrations" / "versions" / "b1.py"
    revision.write_text(REVISION.format(body=body, comment="", down_revision=None))

    unsafe = run(tmp_path, tmp_path)
    assert unsafe.returncode == 1
    assert unsafe.stdout.startswith(f"{revision}: truncating-table\n    TRUNCATE items;\n")

    unknown = run(tmp_path, tmp_path, "nope")
    assert (unknown.returncode, unknown.stderr) == (1, "migrations.lint: No such revision or branch 'nope'\n")


# What an earlier revision makes, and what a later one does with it: its rule if that was deployed, and if only what is older was.
LATER = [
    (add_column("sa.Text()"), 'op.alter_column("items", "new", new_column_name="newer")', "renaming-column", None),
    (add_column("sa.Text()"), 'op.drop_column("items", "new")', "ban-drop-column", None),
    (
        add_column("sa.Text()"),
        'op.alter_column("items", "new", type_=sa.Integer())',
        "changing-column-type",
        "changing-column-type",
    ),
    (add_column("sa.Text()"), 'op.drop_column("items", "price")', "ban-drop-column", "ban-drop-column"),
    (sql("CREATE TYPE mood AS ENUM ('a')"), sql("ALTER TYPE mood RENAME VALUE 'a' TO 'b'"), "renaming-object", None),
    (
        sql("ALTER TYPE itemstatus ADD VALUE 'new one'"),
        sql("ALTER TYPE itemstatus RENAME VALUE 'new one' TO 'other'"),
        "renaming-object",
        None,
    ),
    (NEW_TABLE, 'op.drop_table("orders")', "ban-drop-table", None),
    (NEW_TABLE, sql("DROP TABLE orders, items"), "ban-drop-table", "ban-drop-table"),
    (NEW_TABLE, 'op.rename_table("orders", "sales")\nop.drop_table("sales")', "renaming-table", None),
    (NEW_TABLE, 'op.create_index("ix", "orders", ["item_id"])', "require-concurrent-index-creation", None),
    (
        add_column("sa.Text()"),
        'op.alter_column("items", "new", new_column_name="newer")\nop.drop_column("items", "newer")',
        "renaming-column",
        None,
    ),
]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The service in a git repository, whose branch `main` has the revisions that it has now."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in ("app", "migrations"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "init.defaultBranch=main")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "main"], ["checkout", "-qb", "feature"]):
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)
    return tmp_path


def add_revisions(repository: Path, *bodies: str) -> str:
    """Add the revisions b1 and c1, and return the one before them."""
    head = ScriptDirectory(str(repository / "migrations")).get_current_head()
    for name, down, body in zip(("b1", "c1"), (head, "b1"), bodies, strict=True):
        text = REVISION.replace('"b1"', repr(name)).format(
            body=indent(body, "    "), comment="", down_revision=repr(down)
        )
        (repository / f"migrations/versions/{name}.py").write_text(text)
    return str(head)


@pytest.mark.parametrize(("earlier", "later", "deployed", "undeployed"), LATER)
def test_what_is_not_deployed_has_no_clients(
    repository: Path, earlier: str, later: str, deployed: str, undeployed: str | None
) -> None:
    head = add_revisions(repository, earlier, later)
    apart = run(repository, repository)
    assert f"c1.py: {deployed}\n" in apart.stdout
    assert apart.stdout.endswith("Judged as deployed: all that is older than the revision; FROM says what really is.\n")
    for start in (head, "main"):
        together = run(repository, repository, start)
        assert together.stdout.endswith(f"Judged as deployed: only what {start} has.\n"), together.stderr
        assert (f"c1.py: {undeployed}\n" in together.stdout) == bool(undeployed), together.stdout
        assert together.returncode == bool(undeployed)


def test_the_database_says_what_is_deployed(
    repository: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    head = add_revisions(repository, add_column("sa.Text()"), 'op.drop_column("items", "new")')
    for target, judged, count in ((head, 0, 2), ("b1", 1, 1), ("c1", 0, 0)):
        subprocess.run([sys.executable, "-m", "alembic", "upgrade", target], cwd=repository, check=True)
        done = run(repository, repository, "database")
        assert done.returncode == judged, done.stdout + done.stderr
        assert ("c1.py: ban-drop-column" if judged else f"revisions judged: {count}.") in done.stdout
