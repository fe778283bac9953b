"""Autogenerate sees every change of the models, and nothing else."""

import re

import pytest

from tests.service.conftest import Project
from tests.service.test_models_of_others import dump

THING = """\
class Thing(Base):
    __tablename__ = "things"

    id: Mapped[UUIDKey]
"""


def test_what_is_dropped_is_announced(project: Project) -> None:
    project.models(THING + "    note: Mapped[str]\n\n\n" + THING.replace("Thing", "Other").replace("things", "others"))
    project.autogenerate()
    project.alembic("upgrade", "head")
    project.models(THING)
    log = project.alembic("revision", "--autogenerate", "-m", "change")
    assert "the revision DROPS table others, with all data in it" in log
    assert "the revision DROPS column things.note, with all data in it" in log
    assert "DROPS table others, column things.note, WITH ALL DATA IN IT." in project.newest.read_text(encoding="utf-8")


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
    change = project.newest.read_text(encoding="utf-8")
    assert re.findall(r"op\.(.*)", change.split("def downgrade")[0]) == ['drop_table("parted")']


async def test_a_name_that_only_occurs_in_a_revision_claims_nothing(project: Project) -> None:
    project.models(
        "class Own(Base):\n    __tablename__ = 'own'\n    __table_args__ = {'schema': 'billing'}\n\n    id: Mapped[UUIDKey]\n"
    )
    project.revision("""op.execute("CREATE SCHEMA billing")
    op.create_table("items", sa.Column("name", sa.String), sa.CheckConstraint("1 = 1", name="base_t"))
    op.execute(sa.table("items", sa.column("name")).update().values(name="customer"))
    op.drop_table("items")""")
    project.alembic("upgrade", "head")
    project.autogenerate()
    project.alembic("upgrade", "head")
    for name in ("customer", "base_t", "billing.items"):
        await project.sql(f"CREATE TABLE {name} (id int)")
    await project.sql("CREATE TYPE base_t_kind AS ENUM ('a')")
    assert "left alone: table billing.items" in project.alembic("check")


SCHEMA = """\
class Added(enum.Enum):
    ONE = "one"


class Moved(enum.Enum):
    ONE = "one"
    TWO = "two"


class Renamed(enum.Enum):
    ONE = "one"


class Removed(enum.Enum):
    ONE = "one"
    TWO = "two"


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
    added: Mapped[Added] = mapped_column(server_default="one")
    moved: Mapped[Moved] = mapped_column(server_default="one")
    renamed: Mapped[Renamed] = mapped_column(server_default="one")
    removed: Mapped[list[Removed]] = mapped_column(postgresql.ARRAY(sa.Enum(Removed, name="removed")), server_default="{}")
    labels: Mapped[dict[str, str]] = mapped_column(postgresql.JSONB, server_default='{"a":   1}')
    raw: Mapped[dict[str, str]] = mapped_column(postgresql.JSON, server_default='{"b":   1}')
    key: Mapped[str] = mapped_column(server_default=sa.text("gen_random_uuid()::text || 'x'"))
    until: Mapped[str] = mapped_column(sa.DateTime(timezone=True), server_default=sa.text("now() + interval '1 day'"))
    number: Mapped[int] = mapped_column(sa.Sequence("numbers", metadata=Base.metadata), index=True)
    total: Mapped[int] = mapped_column(sa.Computed("code * 2"))
"""
CHANGES = [
    ("sa.String(20)", "sa.String(30)", "type_=sa.String(length=30)"),
    ("it's", "its", 'server_default="its"'),
    ('server_default="1"', 'server_default="2"', 'server_default="2"'),
    ("0.5", "0.25", 'server_default=sa.text("0.25")'),
    ('"a":   1', '"a":   2', '"a":   2'),
    ('"b":   1', '"b":   2', '"b":   2'),
    ("|| 'x'", "|| 'y'", "|| 'y'"),
    ("interval '1 day'", "interval '2 days'", "interval '2 days'"),
    ("sa.true()", "sa.false()", 'server_default=sa.text("false")'),
    ("as shown", "as printed", 'comment="as printed"'),
    ("what we have", "what we had", "create_table_comment"),
    ('"name", "code")', '"code", "name")', "uq_things_code_name"),
    ("code_positive", "code_above_zero", "ck_things_code_above_zero"),
    ('"CASCADE"', '"SET NULL"', 'ondelete="SET NULL"'),
    ("metadata=Base.metadata), index=True", "metadata=Base.metadata)", 'drop_index(op.f("ix_things_number"'),
    ("Mapped[bool]", "Mapped[bool | None]", "nullable=True"),
    ("class Added(enum.Enum):", 'class Added(enum.Enum):\n    TWO = "two"', "ADD VALUE 'two' BEFORE 'one'"),
    (
        'Moved(enum.Enum):\n    ONE = "one"\n    TWO = "two"',
        'Moved(enum.Enum):\n    TWO = "two"\n    ONE = "one"',
        '"moved"',
    ),
    ('Renamed(enum.Enum):\n    ONE = "one"', 'Renamed(enum.Enum):\n    ONE = "uno"', '"renamed"'),
    (
        'renamed: Mapped[Renamed] = mapped_column(server_default="one")',
        "renamed: Mapped[Renamed]",
        "server_default=None",
    ),
    ('Removed(enum.Enum):\n    ONE = "one"\n    TWO = "two"', 'Removed(enum.Enum):\n    ONE = "one"', '"removed"'),
]


def test_every_kind_of_change_is_seen_and_can_be_undone_and_redone(project: Project) -> None:
    project.models(SCHEMA)
    project.revision('op.execute("CREATE SCHEMA people"); op.execute("CREATE SEQUENCE numbers")')
    project.alembic("upgrade", "head")
    project.autogenerate()
    for command in ("upgrade head", "check", "downgrade -1", "upgrade head", "check"):
        project.alembic(*command.split())

    changed = SCHEMA
    for old, new, _ in CHANGES:
        assert old in changed
        changed = changed.replace(old, new)
    project.models(changed)
    text = project.autogenerate()
    upgrade = text.split("def upgrade")[1].split("def downgrade")[0]
    assert [expected for _, _, expected in CHANGES if expected not in upgrade] == []
    for command in ("upgrade head", "check", "downgrade -1", "upgrade head", "check"):
        project.alembic(*command.split())


REST = """\
class Rest(Base):
    __tablename__ = "rest"
    __table_args__ = (
        sa.UniqueConstraint("a", "b", deferrable=True),
        sa.UniqueConstraint("b", postgresql_include=["a"]),
        sa.CheckConstraint("a IN (1, 2)", name="a"),
        postgresql.ExcludeConstraint(("during", "&&"), name="once"),
        sa.Index("ix_where", "a", postgresql_where=sa.text("code <> 'x' AND a IN (3, 4)")),
        sa.Index("ix_include", "a", postgresql_include=["b"]),
        sa.Index("ix_class", "code", postgresql_ops={"code": "text_ops"}),
        sa.Index("ix_lower", sa.func.lower(sa.column("code"))),
        sa.Index("ix_sorted", sa.column("a").desc()),
        sa.Index("ix_method", "code", postgresql_using="btree"),
        sa.Index("ix_total", "total"),
    )

    a: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    b: Mapped[int]
    code: Mapped[str] = mapped_column(sa.String(9))
    during: Mapped[object] = mapped_column(postgresql.TSRANGE)
    total: Mapped[int] = mapped_column(sa.Computed("a * 2", persisted=True))
"""


REST_CHANGES = [
    ("deferrable=True", 'deferrable=True, initially="DEFERRED"', "uq_rest_a_b"),
    (', postgresql_include=["a"]', "", "uq_rest_b"),
    ("a IN (1, 2)", "a IN (1, 3)", "ck_rest_a"),
    ('name="once"', 'name="twice"', "DROP CONSTRAINT once"),
    ("<> 'x'", "<> 'X'", "ix_where"),
    ('postgresql_include=["b"]', 'postgresql_include=["code"]', "ix_include"),
    ('"text_ops"', '"varchar_pattern_ops"', "ix_class"),
    ("sa.func.lower", "sa.func.upper", "ix_lower"),
    (".desc()", ".desc().nulls_last()", "ix_sorted"),
    ('"btree"', '"hash"', "ix_method"),
    ("a * 2", "a * 3", 'sa.Computed("a * 3"'),
    ("    b: Mapped[int]", "    b: Mapped[int] = mapped_column(primary_key=True)", "PRIMARY KEY (a, b)"),
]


def test_what_alembic_does_not_compare_is_seen_and_can_be_undone_and_redone(project: Project) -> None:
    project.models(REST)
    project.autogenerate()
    for command in ("upgrade head", "check", "downgrade -1", "upgrade head", "check"):
        project.alembic(*command.split())
    changed = REST
    for old, new, _ in REST_CHANGES:
        assert old in changed
        changed = changed.replace(old, new)
    project.models(changed)
    upgrade = project.autogenerate().split("def upgrade")[1].split("def downgrade")[0]
    assert [expected for _, _, expected in REST_CHANGES if expected not in upgrade] == []
    for command in ("upgrade head", "check", "downgrade -1"):
        project.alembic(*command.split())
    project.newest.unlink()
    project.models(REST)
    assert "No new upgrade operations" in project.alembic("check")


def test_a_changed_identity_is_seen(project: Project) -> None:
    model = THING.replace(
        "id: Mapped[UUIDKey]", "id: Mapped[int] = mapped_column(sa.Identity(start=5), primary_key=True)"
    )
    project.models(model)
    project.autogenerate()
    project.alembic("upgrade", "head")
    project.models(model.replace("start=5", "start=6"))
    assert "sa.Identity(always=False, start=6)" in project.autogenerate()


def model(body: str = "", arguments: str = "") -> str:
    """Return the model of a table with two numbers, a text, and what `body` adds."""
    written = f"    __table_args__ = ({arguments},)\n" if arguments else ""
    columns = "    a: Mapped[int]\n    b: Mapped[int]\n    s: Mapped[str]\n"
    lines = "".join(f"    {line.strip()}\n" for line in body.strip().splitlines())
    return f'class Thing(Base):\n    __tablename__ = "things"\n{written}\n    id: Mapped[UUIDKey]\n{columns}{lines}\n\n'


CHECK = 'sa.CheckConstraint("a > b", name="bigger")'
PART = 'sa.Index("ix_part", "s", postgresql_where=sa.text("a IS NOT NULL"))'
LOWER = 'sa.Index("ix_lower", sa.text("lower(s)"))'
COMPUTED = "total: Mapped[int] = mapped_column(sa.Computed({}, persisted=True){})"
STATE = "class State(enum.Enum):\n    A = 'A'\n    B = 'B'\n    C = 'C'\n\n\n"
WITH_STATE = "state: Mapped[State] = mapped_column(sa.Enum(State, name='state'), server_default={})"
TOTALS = (
    f"{COMPUTED.format(repr('a + b'), '')}\nrest: Mapped[int] = mapped_column(sa.Computed('a - b', persisted=True))"
)
DOUBLES = TOTALS.replace("+", "* 2 +").replace("-", "* 2 -")
EDITS = {
    "a renamed column of a check": (
        model(arguments=CHECK),
        model(arguments=CHECK.replace("a >", "a2 >")).replace(" a:", " a2:"),
    ),
    "a renamed column of a part": (
        model(arguments=PART),
        model(arguments=PART.replace("a IS", "a2 IS")).replace(" a:", " a2:"),
    ),
    "a renamed column of an index": (
        model(arguments=LOWER),
        model(arguments=LOWER.replace("(s)", "(s2)")).replace(" s:", " s2:"),
    ),
    "a type under a check": (
        model("state: Mapped[str]", "sa.CheckConstraint(\"state <> 'C'\", name='no_c')"),
        STATE + model(WITH_STATE.split(", server")[0] + ")", "sa.CheckConstraint(\"state <> 'C'\", name='no_c')"),
    ),
    "a default and a removed value": (
        STATE + model(WITH_STATE.format("'A'")),
        STATE.replace("    A = 'A'\n", "") + model(WITH_STATE.format("'B'")),
    ),
    "a computed column and a new index": (
        model(COMPUTED.format("'a + b'", "")),
        model(COMPUTED.format("'a * b'", ", index=True")),
    ),
    "a computed column without its index": (
        model(COMPUTED.format("'a + b'", ", index=True")),
        model(COMPUTED.format("'a * b'", "")),
    ),
    "two computed columns of an index": (
        model(TOTALS, "sa.Index('ix_both', 'total', 'rest')"),
        model(DOUBLES, "sa.Index('ix_both', 'total', 'rest')"),
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_change_under_what_stays_can_be_undone_and_redone(project: Project, edit: str) -> None:
    before, after = EDITS[edit]
    project.models(before)
    project.autogenerate()
    project.alembic("upgrade", "head")
    created = dump(project.url)
    project.models(after)
    project.autogenerate()
    for command in ("upgrade head", "check", "downgrade -1"):
        project.alembic(*command.split())
    if "renamed" not in edit:  # which changes the order of the columns
        assert sorted(line for part in dump(project.url) for line in part.splitlines()) == sorted(
            line for part in created for line in part.splitlines()
        )
    project.alembic("upgrade", "head")
    project.alembic("check")


@pytest.mark.parametrize(
    ("old", "new"),
    [(CHECK, CHECK.replace("a >", "aa >")), (PART, PART.replace("a IS", "aa IS")), (LOWER, LOWER.replace("(s", "(ss"))],
)
def test_a_mistake_in_an_expression_is_no_silence(project: Project, old: str, new: str) -> None:
    project.models(model(arguments=old))
    project.autogenerate()
    project.alembic("upgrade", "head")
    project.models(model(arguments=new))
    assert "drop_" in project.autogenerate()
    assert "does not exist" in project.refusal("upgrade", "head")


COLONS = """\
s2: Mapped[str] = mapped_column(server_default=sa.text("'see :manual (:x) \\":y'"))
raw: Mapped[object] = mapped_column(postgresql.JSON, server_default='{"on":true}')
both: Mapped[str] = mapped_column(sa.Computed("s || ' :y'", persisted=True))
"""
COLON_ITEMS = (
    """sa.CheckConstraint("s <> ':no :yes'", name="colons"), sa.Index("ix_colons", sa.text("(s || ' :z')")), """
    """sa.Index("ix_part", "a", postgresql_where=sa.text("s <> ' :w'"))"""
)


@pytest.mark.parametrize("after", [model(), THING.replace("things", "others")])
def test_what_has_a_colon_comes_back(project: Project, after: str) -> None:
    project.models(model(COLONS, COLON_ITEMS))
    assert "NULL" not in project.autogenerate()
    for command in ("upgrade head", "check"):
        project.alembic(*command.split())
    created = dump(project.url)
    assert ":manual" in str(created)
    project.models(after)
    project.autogenerate()
    for command in ("upgrade head", "downgrade -1"):
        project.alembic(*command.split())
    assert dump(project.url) == created


# Every type that https://docs.sqlalchemy.org/en/21/dialects/postgresql.html names, with the generic ones it points to.
TYPES = [
    "postgresql.ARRAY(sa.Integer)",
    "postgresql.ARRAY(sa.String(5),dimensions=2)",
    "postgresql.BIT(3)",
    "postgresql.BIT(3,varying=True)",
    "postgresql.BYTEA",
    "postgresql.CIDR",
    "postgresql.CITEXT",
    "postgresql.DATERANGE",
    "postgresql.DATEMULTIRANGE",
    'postgresql.DOMAIN("positive",sa.Integer)',
    "postgresql.DOUBLE_PRECISION",
    'postgresql.ENUM("a","b",name="letters")',
    "postgresql.HSTORE",
    "postgresql.INET",
    "postgresql.INT4RANGE",
    "postgresql.INT4MULTIRANGE",
    "postgresql.INT8RANGE",
    "postgresql.INT8MULTIRANGE",
    "postgresql.INTERVAL",
    "postgresql.INTERVAL(precision=3)",
    'postgresql.INTERVAL(fields="YEAR")',
    "postgresql.JSON",
    "postgresql.JSONB",
    "postgresql.JSONPATH",
    "postgresql.MACADDR",
    "postgresql.MACADDR8",
    "postgresql.MONEY",
    "postgresql.NUMRANGE",
    "postgresql.NUMMULTIRANGE",
    "postgresql.OID",
    "postgresql.REAL",
    "postgresql.REGCLASS",
    "postgresql.REGCONFIG",
    "postgresql.TIME(precision=3)",
    "postgresql.TIMESTAMP(precision=3,timezone=True)",
    "postgresql.TSMULTIRANGE",
    "postgresql.TSQUERY",
    "postgresql.TSRANGE",
    "postgresql.TSTZMULTIRANGE",
    "postgresql.TSTZRANGE",
    "postgresql.TSVECTOR",
    "postgresql.UUID",
    "postgresql.VARCHAR(5)",
    "sa.BigInteger",
    "sa.Boolean",
    "sa.CHAR(5)",
    "sa.Date",
    "sa.DateTime",
    "sa.Double",
    "sa.Float",
    "sa.Float(24)",
    "sa.Interval",
    "sa.LargeBinary",
    "sa.Numeric",
    "sa.Numeric(12,2)",
    "sa.SmallInteger",
    "sa.Text",
    "sa.Time(timezone=True)",
    "sa.Unicode(5)",
    "sa.UnicodeText",
    "sa.Uuid",
    'sa.Enum("c","d",name="more")',
]


def test_every_type_agrees_with_itself(project: Project) -> None:
    project.revision('op.execute("CREATE EXTENSION citext"); op.execute("CREATE EXTENSION hstore")')
    project.alembic("upgrade", "head")
    columns = [f"    column_{number}: Mapped[object] = mapped_column({name})\n" for number, name in enumerate(TYPES)]
    project.models(THING + "".join(columns))
    project.autogenerate()
    project.alembic("upgrade", "head")
    assert "arn" not in project.alembic("check")


def test_a_type_of_one_s_own_is_rendered_without_the_application(project: Project) -> None:
    project.models(
        "class Upper(sa.types.TypeDecorator[str]):\n    impl = sa.String(7)\n    cache_ok = True\n\n\n"
        + THING
        + "    name: Mapped[str] = mapped_column(Upper)\n"
    )
    assert "sa.String(length=7)" in project.autogenerate()
    project.alembic("upgrade", "head")
    project.alembic("check")
