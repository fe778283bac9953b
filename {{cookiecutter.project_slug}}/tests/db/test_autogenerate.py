"""Autogenerate sees what changed, and refuses to write what would hurt."""

import re

import pytest

from tests.db.conftest import Project

THING = """\
class Thing(Base):
    __tablename__ = "things"

    id: Mapped[UUIDKey]
"""


def test_no_changes_make_no_file(project: Project) -> None:
    project.models(THING)
    assert 'op.create_table(\n        "things"' in project.autogenerate()
    project.alembic("upgrade", "head")
    assert project.autogenerate() == ""
    assert "No new upgrade operations" in project.alembic("check")


def test_a_lost_domain_drops_nothing_unless_asked(project: Project) -> None:
    project.models(THING)
    project.autogenerate()
    project.alembic("upgrade", "head")
    (project.path / "app/things/models.py").unlink()
    refusal = project.refusal("revision", "--autogenerate", "-m", "oops")
    assert "no model was found, so this would drop table things" in refusal
    assert len(project.versions) == 1
    assert 'op.drop_table("things")' in project.autogenerate("-x", "drop_all=yes")


def test_what_is_dropped_is_announced(project: Project) -> None:
    project.models(THING + "    note: Mapped[str]\n\n\n" + THING.replace("Thing", "Other").replace("things", "others"))
    project.autogenerate()
    project.alembic("upgrade", "head")
    project.models(THING)
    log = project.alembic("revision", "--autogenerate", "-m", "change")
    assert "the revision DROPS table others, with all data in it" in log
    assert "the revision DROPS column things.note, with all data in it" in log
    assert "DROPS table others, column things.note, WITH ALL DATA IN IT." in project.versions[-1].read_text()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("app/things/tables.py", THING),
        ("app/things/models.py", "class Own(sa.orm.DeclarativeBase): ...\n\n\n" + THING.replace("(Base)", "(Own)")),
        ("app/things/tables.py", 'table = sa.Table("things", Base.metadata)\n'),
    ],
    ids=["wrong file", "wrong base", "core table"],
)
def test_a_table_outside_the_registry_is_refused_by_name(project: Project, name: str, text: str) -> None:
    project.models(text)
    if name != "app/things/models.py":
        (project.path / "app/things/models.py").rename(project.path / name)
    refusal = project.refusal("revision", "--autogenerate", "-m", "oops")
    assert name.removesuffix(".py").replace("/", ".") + ".things" in refusal
    assert project.versions == []


def test_a_model_that_cannot_be_imported_writes_nothing(project: Project) -> None:
    project.models("import nothing_of_this_name")
    with project.start("revision", "--autogenerate", "-m", "oops") as process:
        assert "No module named 'nothing_of_this_name'" in process.communicate()[1]
    assert process.returncode
    assert project.versions == []


async def test_what_others_made_is_left_alone(project: Project) -> None:
    project.models(THING)
    project.autogenerate()
    project.revision("""op.execute("CREATE TABLE parted (at date) PARTITION BY RANGE (at)")
    op.execute("CREATE TABLE part PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')")
    op.execute("CREATE TABLE spatial_ref_sys (id int)")
    op.execute("CREATE EXTENSION pg_trgm")
    op.execute("ALTER EXTENSION pg_trgm ADD TABLE spatial_ref_sys")""")
    project.alembic("upgrade", "head")
    for statement in (
        "CREATE TABLE strange (id int)",
        "CREATE INDEX ON strange (id)",
        "CREATE TYPE mood AS ENUM ('bad')",
        "CREATE SCHEMA elsewhere",
        "CREATE TABLE elsewhere.things (other int)",
        "CREATE TABLE elsewhere.parted (other int)",
    ):
        await project.sql(statement)
    log = project.alembic("revision", "--autogenerate", "-m", "change")
    assert "left alone: table strange" in log
    assert re.findall(r"op\.(.*)", project.versions[-1].read_text().split("downgrade")[0]) == ['drop_table("parted")']


SCHEMA = """\
class Mood(enum.Enum):
    SAD = "sad"
    GLAD = "glad"


class Owner(Base):
    __tablename__ = "owners"
    __table_args__ = {"schema": "people"}

    id: Mapped[int] = mapped_column(sa.Identity(start=5), primary_key=True)


class Thing(Base):
    __tablename__ = "things"
    __table_args__ = (
        sa.UniqueConstraint("name", "code"),
        sa.CheckConstraint("code > 0", name="code_positive"),
        {"comment": "what we have"},
    )

    id: Mapped[UUIDKey]
    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("people.owners.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(sa.String(20), server_default="it's", comment="as shown")
    code: Mapped[int] = mapped_column(server_default="1")
    ratio: Mapped[float] = mapped_column(server_default=sa.text("0.5"))
    is_new: Mapped[bool] = mapped_column(server_default=sa.true())
    mood: Mapped[Mood] = mapped_column(server_default="sad")
    moods: Mapped[list[Mood]] = mapped_column(postgresql.ARRAY(sa.Enum(Mood, name="mood")), server_default="{}")
    labels: Mapped[dict[str, str]] = mapped_column(postgresql.JSONB, server_default='{"a":   1}')
    raw: Mapped[dict[str, str]] = mapped_column(postgresql.JSON, server_default='{"a":   1}')
    key: Mapped[str] = mapped_column(server_default=sa.text("gen_random_uuid()::text || 'x'"))
    until: Mapped[str] = mapped_column(sa.DateTime(timezone=True), server_default=sa.text("now() + interval '1 day'"))
    serial: Mapped[int] = mapped_column(sa.Sequence("things_serial", metadata=Base.metadata), index=True)
    total: Mapped[int] = mapped_column(sa.Computed("code * 2"))
"""


def test_the_schema_of_a_revision_is_the_schema_of_the_models(project: Project) -> None:
    project.models(SCHEMA)
    project.revision("op.execute('CREATE SCHEMA people; ')")
    project.revision("op.execute('CREATE SEQUENCE things_serial')")
    project.alembic("upgrade", "head")
    project.autogenerate()
    for command in ("upgrade head", "check", "downgrade -1", "upgrade head", "check"):
        project.alembic(*command.split())


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("sa.String(20)", "sa.String(30)", 'alter_column("things", "name", existing_type=sa.VARCHAR(length=20)'),
        ("it's", "its", 'alter_column(\n        "things",\n        "name"'),
        ('server_default="1"', 'server_default="2"', 'alter_column("things", "code"'),
        ('"a":   1', '"a":   2', "alter_column"),
        ("interval '1 day'", "interval '2 days'", 'alter_column(\n        "things",\n        "until"'),
        ("sa.true()", "sa.false()", '"is_new"'),
        ("start=5", "start=6", "alter_column"),
        ("as shown", "as printed", 'comment="as printed"'),
        ("what we have", "what we had", "create_table_comment"),
        ('"name", "code")', '"code", "name")', "create_unique_constraint"),
        ("code_positive", "code_above_zero", "ck_things_code_above_zero"),
        ('"CASCADE"', '"SET NULL"', 'ondelete="SET NULL"'),
        (", index=True)\n    name", ")\n    name", "drop_index"),
        (
            "Mapped[int] = mapped_column(server_default",
            "Mapped[int | None] = mapped_column(server_default",
            "nullable=True",
        ),
        ('    GLAD = "glad"', '    GLAD = "glad"\n    MAD = "mad"', "add_enum_value"),
        ('    SAD = "sad"\n    GLAD = "glad"', '    GLAD = "glad"\n    SAD = "sad"', "sync_enum_values"),
        ('GLAD = "glad"', 'GLAD = "happy"', "sync_enum_values"),
    ],
)
def test_a_change_is_seen_and_can_be_undone_and_redone(project: Project, old: str, new: str, expected: str) -> None:
    test_the_schema_of_a_revision_is_the_schema_of_the_models(project)
    assert old in SCHEMA
    project.models(SCHEMA.replace(old, new))
    assert expected in project.autogenerate()
    for command in ("upgrade head", "check", "downgrade -1", "upgrade head", "check"):
        project.alembic(*command.split())
