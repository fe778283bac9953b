"""Whatever others have modelled becomes a revision that runs, back and forth, and makes what `create_all` would make."""

import os
import re
import subprocess
import sys
from itertools import pairwise

import pytest

from devdb.programs import program
from tests.conftest import new_database, url_of
from tests.service.conftest import TIME_LIMIT, Project

ID = "    id: Mapped[int] = mapped_column(primary_key=True)\n"
CREATE_ALL = """
import asyncio, sys
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from app.db.engine import create_engine
from app.registry import import_all_models
from app.settings import Settings, load_settings

async def create():
    async with create_engine(load_settings(Settings)).begin() as connection:
        for statement in sys.argv[1:]:
            await connection.execute(sa.text(statement))
        await connection.run_sync(import_all_models().create_all)

asyncio.run(create())
"""


def model(name: str, body: str = "", arguments: str = "") -> str:
    """Return a model with an id and what `body` adds to it."""
    written = f"    __table_args__ = {arguments}\n" if arguments else ""
    lines = "".join(f"    {line.strip()}\n" for line in body.strip().splitlines())
    return f"class {name.title()}(Base):\n    __tablename__ = {name!r}\n{written}{ID}{lines}\n\n"


LOAD = """\
    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect):
        return dialect.type_descriptor(TYPE if dialect.name == "postgresql" else sa.Text())


"""
KINDS = {
    "foreign keys": model("teams", "captain_id: Mapped[int | None] = mapped_column(sa.ForeignKey('players.id'))")
    + model("players", "team_id: Mapped[int] = mapped_column(sa.ForeignKey('teams.id', use_alter=True))")
    + model("books", "author_id: Mapped[int] = mapped_column(sa.ForeignKey('authors.id', use_alter=True, name='fk'))")
    + model("authors", "parent_id: Mapped[int] = mapped_column(sa.ForeignKey('authors.id', deferrable=True))"),
    "names": model(
        "organization_applications",
        """
        name: Mapped[str]
        number_of_times_that_nothing_was_found_in_the_table_of_the_tenants: Mapped[int] = mapped_column(index=True)
        größe_der_gesamten_lagerfläche_über_alle_räume_des_häuserblöcke: Mapped[int]
        """,
        "(sa.CheckConstraint('length(name) > 2', name='organization_applications_valid_name'),)",
    )
    + "class Link(Base):\n    __tablename__ = 'links'\n\n"
    "    a: Mapped[int] = mapped_column(primary_key=True)\n"
    "    b: Mapped[int | None] = mapped_column(primary_key=True, nullable=True)\n\n\n",
    "types": "class Settings(sa.types.TypeDecorator):\n    impl = postgresql.JSONB\n    cache_ok = True\n\n\n"
    "class Tags(sa.types.TypeDecorator):\n    impl = postgresql.ARRAY(sa.Text)\n    cache_ok = True\n\n\n"
    "class Outer(sa.types.TypeDecorator):\n    impl = Settings\n    cache_ok = True\n\n\n"
    "class Slug(sa.String):\n    cache_ok = True\n\n\n"
    "class Own(sa.types.Concatenable, sa.types.UserDefinedType):\n    cache_ok = True\n\n"
    "    def get_col_spec(self):\n        return 'name'\n\n\n"
    "class Guid(sa.types.TypeDecorator):\n"
    + LOAD.replace("TYPE", "postgresql.UUID()")
    + "class Utc(sa.types.TypeDecorator):\n"
    + LOAD.replace("TYPE", "postgresql.TIMESTAMP(timezone=True)")
    + "class Flat(sa.types.TypeDecorator):\n"
    + LOAD.replace("TYPE", "sa.CHAR(32)")
    + "class Lenient(sa.types.TypeDecorator):\n    impl = sa.Enum('low', 'high', name='level')\n    cache_ok = True\n\n\n"
    + model(
        "docs",
        """
        settings: Mapped[dict] = mapped_column(Settings)
        tags: Mapped[list] = mapped_column(Tags)
        outer: Mapped[dict] = mapped_column(Outer)
        slug: Mapped[str] = mapped_column(Slug(50))
        own: Mapped[str] = mapped_column(Own)
        guid: Mapped[str] = mapped_column(Guid)
        at: Mapped[object] = mapped_column(Utc)
        flat: Mapped[str] = mapped_column(Flat)
        long: Mapped[str] = mapped_column(sa.String(70).with_variant(sa.NVARCHAR(70), "mssql"))
        level: Mapped[str] = mapped_column(Lenient)
        levels: Mapped[list] = mapped_column(postgresql.ARRAY(Lenient))
        json: Mapped[dict] = mapped_column(sa.JSON().with_variant(postgresql.JSONB(), "postgresql"))
        quoted: Mapped[str] = mapped_column(sa.Enum("it's", 'a "b"', "x:y(", name="it's \\"quoted\\""))
        domain: Mapped[int] = mapped_column(postgresql.DOMAIN("positive", sa.Integer, check=sa.text("VALUE > 0")))
        """,
    ),
    "checks of types": model(
        "shirts",
        """
        on: Mapped[bool] = mapped_column(sa.Boolean(create_constraint=True))
        a: Mapped[str] = mapped_column(sa.Enum("s", "l", native_enum=False))
        b: Mapped[str] = mapped_column(sa.Enum("s", "l", native_enum=False, create_constraint=True, name="size"))
        """,
    ),
    "schema public": model("persons", arguments="{'schema': 'public'}")
    + model(
        "phones",
        """
        person_id: Mapped[int] = mapped_column(sa.ForeignKey("public.persons.id"))
        color: Mapped[str] = mapped_column(sa.Enum("red", "blue", name="color"))
        kind: Mapped[str] = mapped_column(sa.Enum("old", "new", name="kind", schema="public"))
        """,
        "{'schema': 'public'}",
    )
    + model("paints", "color: Mapped[str] = mapped_column(sa.Enum('red', 'blue', name='color'))"),
    "constraints": "class Points(sa.types.UserDefinedType):\n    cache_ok = True\n\n"
    "    def get_col_spec(self):\n        return 'point[]'\n\n\n"
    + model(
        "things",
        """
        code: Mapped[str] = mapped_column(sa.CheckConstraint("code ~ '^[[:alpha:]]+$'", name="code_alpha"), unique=True)
        a: Mapped[int] = mapped_column(sa.Sequence("a_seq", start=100, increment=5), comment="it's :a")
        b: Mapped[int] = mapped_column(server_default=sa.Sequence("b_seq", metadata=Base.metadata).next_value())
        during: Mapped[object] = mapped_column(postgresql.TSRANGE)
        settings: Mapped[object] = mapped_column(postgresql.JSONB)
        sorted: Mapped[str] = mapped_column(sa.String(9, collation="C"), server_default=sa.text("lower('A')"))
        corners: Mapped[object] = mapped_column(Points)
        total: Mapped[int] = mapped_column(sa.Computed("a * 2", persisted=True))
        """,
        """(
            sa.UniqueConstraint("a", "b", deferrable=True, initially="DEFERRED"),
            sa.UniqueConstraint("b", postgresql_include=["a"]),
            sa.UniqueConstraint("id"),
            sa.CheckConstraint("a IN (1, 2) AND sorted <> 'b'", name="a_and_sorted"),
            postgresql.ExcludeConstraint(("during", "&&"), ("a", "="), name="once", where=sa.text("a > 0")),
            sa.Index("ix_where", "a", postgresql_where=sa.text("code IS NOT NULL AND a IN (3, 4)")),
            sa.Index("ix_include", "a", postgresql_include=["b"], postgresql_with={"fillfactor": 50}),
            sa.Index("ix_class", "code", postgresql_ops={"code": "varchar_pattern_ops"}),
            sa.Index("ix_default_class", "code", postgresql_ops={"code": "text_ops"}),
            sa.Index("ix_in_text", sa.text("code gin_trgm_ops"), postgresql_using="gin"),
            sa.Index("ix_lower", sa.func.lower(sa.column("code")).label("low"), postgresql_ops={"low": "text_pattern_ops"}),
            sa.Index("ix_is_null", "b", sa.column("during") == None),
            sa.Index("ix_sum", sa.column("a") + sa.column("b"), sa.column("settings", postgresql.JSONB)["a"].astext),
            sa.Index("ix_sorted", sa.column("a").desc().nulls_last(), sa.text("b ASC NULLS FIRST")),
            sa.Index("ix_elsewhere", "a", mysql_length=3).ddl_if(dialect="mysql"),
            {"prefixes": ["UNLOGGED"]},
        )""",
    )
    + "sa.Table('keys', Base.metadata, sa.Column('a', sa.Integer), sa.Column('b', sa.Integer), "
    "sa.PrimaryKeyConstraint('b', 'a', deferrable=True, initially='DEFERRED'))\n"
    "sa.Table('own_numbers', Base.metadata, sa.Column('id', sa.Integer, primary_key=True, default=lambda: 1))\n",
}


def dump(url: str) -> list[str]:
    """Return what pg_dump writes of a database's schema, in an order of its own."""
    command = [str(program("pg_dump")), "--schema-only", "--no-owner", "--exclude-table=alembic_version", url]
    written = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT).stdout
    statements = re.split(r"\n\n+", re.sub(r"^(--|SET |SELECT |\\).*\n", "", written, flags=re.MULTILINE))
    return sorted("\n".join(sorted(statement.replace(",\n", "\n").splitlines())) for statement in statements)


def by_create_all(project: Project, *statements: str) -> list[str]:
    with new_database() as name:
        url = url_of(name)
        command = [sys.executable, "-c", CREATE_ALL, *statements]
        environment = {**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(project.path)}
        subprocess.run(command, check=True, cwd=project.path, env=environment, timeout=TIME_LIMIT)
        return dump(url)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_revision_makes_what_create_all_makes(project: Project, kind: str) -> None:
    project.models(KINDS[kind])
    text = project.autogenerate()
    assert "import app" not in text
    assert "from app" not in text
    assert "with_variant" not in text
    project.alembic("upgrade", "head")
    assert "SERIAL" not in project.alembic("check")
    first = dump(project.url)
    extensions = re.findall(r"CREATE EXTENSION IF NOT EXISTS \w+", text)
    assert by_create_all(project, *extensions) == first
    project.alembic("downgrade", "base")
    assert [line for line in dump(project.url) if line and "EXTENSION" not in line] == []
    project.alembic("upgrade", "head")
    assert dump(project.url) == first


@pytest.mark.parametrize("kind", ["foreign keys", "schema public", "constraints"])
def test_a_domain_is_removed_by_a_revision_that_runs(project: Project, kind: str) -> None:
    project.models(KINDS[kind].replace('"UNLOGGED"', ""))  # which SQLAlchemy does not read
    project.autogenerate()
    project.alembic("upgrade", "head")
    first = dump(project.url)
    project.models(model("others"))
    project.autogenerate()
    project.alembic("upgrade", "head")
    project.alembic("check")
    project.alembic("downgrade", "-1")
    assert dump(project.url) == first


def test_a_chain_of_tables_is_dropped_from_its_end(project: Project) -> None:
    names = [f"level_{number:02}" for number in range(12)]
    body = "parent_id: Mapped[int] = mapped_column(sa.ForeignKey('{}.id'))"
    levels = [model("level_00")] + [model(name, body.format(parent)) for parent, name in pairwise(names)]
    project.models("".join(reversed(levels)) + model("kept", body.format("level_05")))
    project.autogenerate()
    project.alembic("upgrade", "head")
    project.models(model("kept"))
    text = project.autogenerate()
    assert re.findall(r'drop_table\("(\w+)"', text.split("def downgrade")[0]) == names[::-1]
    for command in ("upgrade head", "check", "downgrade -1", "upgrade head"):
        project.alembic(*command.split())


def test_a_schema_and_an_extension_are_created_where_they_are_missing(project: Project) -> None:
    project.models(
        model("bills", "name: Mapped[str] = mapped_column(postgresql.CITEXT)", "{'schema': 'billing'}")
        + model("lines", "kind: Mapped[str] = mapped_column(sa.Enum('a', name='kind', schema='types'))")
    )
    text = project.autogenerate()
    for sql in ("SCHEMA IF NOT EXISTS billing", "SCHEMA IF NOT EXISTS types", "EXTENSION IF NOT EXISTS citext"):
        assert f'op.execute("CREATE {sql}")' in text
    for command in ("upgrade head", "check", "downgrade base", "upgrade head", "check"):
        project.alembic(*command.split())
    project.models(model("others"))
    assert 'op.drop_table("bills", schema="billing")' in project.autogenerate()


REFUSED = {
    'scans.note: type "pcpoint" does not exist; what makes it, as op.execute("CREATE EXTENSION ...")': (
        "class Cloud(sa.types.UserDefinedType):\n    def get_col_spec(self):\n        return 'pcpoint(1)'\n\n\n"
        + model("scans", "note: Mapped[str] = mapped_column(Cloud)")
    ),
    'scans.note: type "binary" does not exist': model("scans", "note: Mapped[str] = mapped_column(sa.BINARY)"),
    "scans.note has no type": model("scans", "note = sa.Column('note')"),
    "scans.note: length for type varchar cannot exceed": model(
        "scans", "note: Mapped[str] = mapped_column(sa.String(2**24))"
    ),
    "scans.note: PostgreSQL has no type LONGTEXT()": "from sqlalchemy.dialects import mysql\n\n\n"
    + model("scans", "note: Mapped[str] = mapped_column(mysql.LONGTEXT)"),
    "ENUM('a', name='kind') of cats.kind and ENUM('a', 'b', name='kind') of dogs.kind are both named kind": model(
        "cats", "kind: Mapped[str] = mapped_column(sa.Enum('a', name='kind'))"
    )
    + model("dogs", "kind: Mapped[str] = mapped_column(sa.Enum('a', 'b', name='kind'))"),
    "table dogs and ENUM('a', name='dogs') of dogs.kind are both named dogs": model(
        "dogs", "kind: Mapped[str] = mapped_column(sa.Enum('a', name='dogs'))"
    ),
    "the Index of table cats and the UniqueConstraint of table dogs are both named by_name": model(
        "cats", "name: Mapped[str]", "(sa.Index('by_name', 'name'),)"
    )
    + model("dogs", "name: Mapped[str]", "(sa.UniqueConstraint('name', name='by_name'),)"),
    "table dogs: the index by_name is on nothing": model("dogs", arguments="(sa.Index('by_name'),)"),
    "the CheckConstraint of table cats and the UniqueConstraint of table cats are both named ck_cats_a": model(
        "cats", "a: Mapped[int]", "(sa.CheckConstraint('a > 0', name='a'), sa.UniqueConstraint('a', name='ck_cats_a'))"
    ),
    "a Sequence of cats and table cats are both named cats": "sa.Sequence('cats', metadata=Base.metadata)\n\n\n"
    + model("cats"),
    "DOMAIN('kind', String()) of cats.kind and DOMAIN('kind', String()) of dogs.kind are both named kind": model(
        "cats", "kind: Mapped[str] = mapped_column(postgresql.DOMAIN('kind', sa.String, not_null=True))"
    )
    + model("dogs", "kind: Mapped[str] = mapped_column(postgresql.DOMAIN('kind', sa.String, schema='public'))"),
    "table public.cats, by names as PostgreSQL keeps them: Table 'cats' is already defined": model("cats")
    + model("cats", "name: Mapped[str]", "{'schema': 'public'}").replace("class Cats", "class Others"),
    "table cats, by names as PostgreSQL keeps them: A column with name": model(
        "cats", f"{'a' * 63}b: Mapped[str]\n    {'a' * 63}c: Mapped[str]"
    ),
    'scans.note: schema "nowhere" does not exist': (
        "class Cloud(sa.types.UserDefinedType):\n    def get_col_spec(self):\n        return 'nowhere.cloud'\n\n\n"
        + model("scans", "note: Mapped[str] = mapped_column(Cloud)")
    ),
    'scans.note: collation "nowhere" for encoding "UTF8" does not exist': model(
        "scans", "note: Mapped[str] = mapped_column(sa.String(collation='nowhere'))"
    ),
    "dogs: a foreign key is on cats.code, which no key": model(
        "cats", "code: Mapped[str]", "(sa.UniqueConstraint('code', deferrable=True),)"
    )
    + model("dogs", "cat: Mapped[str] = mapped_column(sa.ForeignKey('cats.code'))"),
    "dogs: a foreign key is on cats.name, which no key": model("cats", "name: Mapped[str] = mapped_column(index=True)")
    + model("dogs", "cat: Mapped[str] = mapped_column(sa.ForeignKey('cats.name'))"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_postgresql_does_not_keep_is_refused_by_its_place(project: Project, sentence: str) -> None:
    project.models(REFUSED[sentence])
    assert sentence in project.refusal("revision", "--autogenerate", "-m", "oops")
    assert project.versions == []


def test_an_index_for_text_search_is_written(project: Project) -> None:
    search = 'sa.func.to_tsvector("simple", sa.column("name"))'
    project.models(model("dogs", "name: Mapped[str]", f"(sa.Index('ix_search', {search}, postgresql_using='gin'),)"))
    assert "to_tsvector('simple', name)" in project.autogenerate()
    project.alembic("upgrade", "head")
    project.alembic("check")


def test_a_default_that_was_the_time_of_its_revision_is_not_changed_for_ever(project: Project) -> None:
    project.models(model("things", "at: Mapped[object] = mapped_column(sa.DateTime(True), server_default='now()')"))
    project.autogenerate()
    project.alembic("upgrade", "head")
    assert "things.at: 'now()' stays the time of its revision" in project.alembic("check")
    project.models(
        model("things", "at: Mapped[object] = mapped_column(sa.DateTime(True), server_default=sa.func.now())")
    )
    assert 'server_default=sa.text("now()")' in project.autogenerate()


def test_a_check_without_a_name_is_one_line_that_names_the_table(project: Project) -> None:
    project.models(model("prices", arguments="(sa.CheckConstraint('id > 0'),)"))
    assert "table prices: a check has no name" in project.refusal("revision", "--autogenerate", "-m", "oops")


async def test_views_and_what_is_meant_to_be_apart_are_left_alone(project: Project) -> None:
    project.models(
        model("users", arguments="{'info': {'skip_autogenerate': True}}")
        + model("sums", arguments="{'info': {'is_view': True}}")
        + model("things", "user_id: Mapped[int] = mapped_column(sa.ForeignKey('users.id'))")
        + "apart = sa.MetaData(info={'skip_autogenerate': True})\n"
        "elsewhere = sa.Table('elsewhere', apart, sa.Column('id', sa.Integer))\n"
    )
    await project.sql("CREATE TABLE users (id int PRIMARY KEY, of_others text)")
    await project.sql("CREATE VIEW sums AS SELECT id FROM users")
    text = project.autogenerate()
    assert re.findall(r'_table\(\s*"(\w+)"', text) == ["things", "things"]
    for command in ("upgrade head", "check", "downgrade base"):
        project.alembic(*command.split())
    assert await project.sql("SELECT of_others FROM users") == []


def test_a_likely_rename_is_suspected(project: Project) -> None:
    project.models(model("things", "note: Mapped[str]"))
    project.autogenerate()
    project.alembic("upgrade", "head")
    project.models(model("things", "remark: Mapped[str]"))
    text = project.autogenerate()
    line = "op.alter_column('things', 'note', new_column_name='remark')"
    assert f"If this is a rename, write instead: {line}" in text
