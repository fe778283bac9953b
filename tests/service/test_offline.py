"""What `--sql` writes does what the migration does online."""

import asyncio

import asyncpg
import pytest

from tests.conftest import new_database, url_of
from tests.service.conftest import TABLE, Project

CASES = {
    "bulk_insert": """
    import datetime, decimal, ipaddress, uuid
    from sqlalchemy.dialects import postgresql
    zone = datetime.timezone(datetime.timedelta(hours=2))
    mood = sa.Enum("sad", "it's \\\\", name="mood")
    things = op.create_table("things",
        sa.Column("n", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text),
        sa.Column("name", sa.String(60)),
        sa.Column("code", sa.CHAR(3)),
        sa.Column("big", sa.BigInteger),
        sa.Column("small", sa.SmallInteger),
        sa.Column("yes", sa.Boolean),
        sa.Column("real", sa.Float),
        sa.Column("price", sa.Numeric(12, 2)),
        sa.Column("any_number", sa.Numeric),
        sa.Column("day", sa.Date),
        sa.Column("hour", sa.Time),
        sa.Column("at", sa.DateTime(timezone=True)),
        sa.Column("local", sa.DateTime),
        sa.Column("span", sa.Interval),
        sa.Column("id", sa.Uuid),
        sa.Column("bytes", sa.LargeBinary),
        sa.Column("json", sa.JSON),
        sa.Column("jsonb", postgresql.JSONB),
        sa.Column("jsonb_or_null", postgresql.JSONB(none_as_null=True)),
        sa.Column("mood", mood),
        sa.Column("tags", postgresql.ARRAY(sa.Text)),
        sa.Column("grid", postgresql.ARRAY(sa.Integer, dimensions=2)),
        sa.Column("blobs", postgresql.ARRAY(sa.LargeBinary)),
        sa.Column("moods", postgresql.ARRAY(mood)),
        sa.Column("numbers", postgresql.INT4RANGE),
        sa.Column("times", postgresql.TSTZRANGE),
        sa.Column("address", postgresql.INET),
        sa.Column("net", postgresql.CIDR),
        sa.Column("mac", postgresql.MACADDR),
        sa.Column("bits", postgresql.BIT(4)),
        sa.Column("words", postgresql.TSVECTOR),
    )
    hard = "it's 100% :fine \\\\n \\\\\\\\ \\t tab\\n-- line; $$ \\"q\\" \u00e9\\U0001f680"
    none = dict.fromkeys(things.c.keys())
    op.bulk_insert(things, [
        dict(n=1, text=hard, name=hard, code="a", big=-2**63, small=-5, yes=True, real=1e-300, price=decimal.Decimal("-1.10"),
            any_number=decimal.Decimal("1e30"), day=datetime.date(99, 1, 2), hour=datetime.time(1, 2, 3, 4),
            at=datetime.datetime(2024, 3, 31, 2, 30, tzinfo=zone), local=datetime.datetime(2024, 3, 31, 2, 30, 0, 1),
            span=datetime.timedelta(days=-3, seconds=4, microseconds=5), id=uuid.UUID(int=7), bytes=b"\\\\x41\\x00\\xff'",
            json={"a": [1, None, hard]}, jsonb=[True, hard, {}], jsonb_or_null={"a": 1}, mood="it's \\\\", tags=[hard, "", None, "NULL"],
            grid=[[1, 2], [3, 4]], blobs=[b"\\xff", b"\\\\"], moods=["sad", "it's \\\\"],
            numbers=postgresql.Range(1, 5), times=postgresql.Range(datetime.datetime(2024, 1, 1, tzinfo=zone), None, bounds="()"),
            address="10.0.0.1", net="10.0.0.0/8", mac="08:00:2b:01:02:03", bits=None, words="'a':1 'b':2"),
        none | dict(n=2),
        none | dict(n=3, text="", json=[], jsonb="text", tags=[], grid=[], yes=False, real=float("inf"),
            any_number=decimal.Decimal("NaN"), numbers=postgresql.Range(empty=True), price=7, jsonb_or_null=None),
    ])
""",
    "execute": r"""
    op.execute("CREATE TABLE things (n serial, t text, j jsonb DEFAULT '{}')")
    op.execute(r"INSERT INTO things (t) VALUES ('see \:manual, 100%, a\\b	tab' || E'it\'s; x')")
    op.execute(sa.text("INSERT INTO things (t, n) VALUES (:t, :n)").bindparams(t="a;b 'c' :d %s", n=-5))
    op.execute(sa.text("INSERT INTO things (t, j) VALUES (upper(:t), :j)").bindparams(
        sa.bindparam("j", {"a": 1}, sa.JSON), t=None))
    things = sa.table("things", sa.column("n", sa.Integer), sa.column("t", sa.Text), sa.column("j", sa.JSON))
    op.execute(things.insert().values(n=op.inline_literal(7), t=op.inline_literal("it's")))
    op.execute(things.update().where(things.c.n.in_([7, 8])).values(t=things.c.t + "x", j={"b": [None]}))
    op.execute(things.insert().values([{"n": 10, "t": "a"}, {"n": 11, "t": "b"}]))
    op.execute(things.delete().where(things.c.t == "b"))
    op.execute("SELECT 1 -- a note")
    op.execute(sa.func.setval("things_n_seq", 20))
    op.execute("INSERT INTO things (t) VALUES ('after'); ")
    op.execute("CREATE FUNCTION two() RETURNS int LANGUAGE plpgsql AS $f$ BEGIN PERFORM 1; RETURN 2; END $f$")
    op.execute("CREATE FUNCTION three() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 3; END")
    op.execute("CREATE RULE twice AS ON DELETE TO things DO ALSO (SELECT 1; SELECT 2)")
    op.execute("INSERT INTO things (n) VALUES (two()), (three()) /* ; */")
""",
}


@pytest.mark.parametrize("case", CASES)
def test_the_rows_are_the_same(project: Project, case: str) -> None:
    project.revision(CASES[case].strip())
    project.alembic("upgrade", "head")
    sql = project.alembic("upgrade", "head", "--sql").partition("INFO ")[0]
    with new_database() as name:
        url = url_of(name)
        assert asyncio.run(rows(url, sql)) == asyncio.run(rows(project.url))


async def rows(url: str, sql: str = "SELECT 1") -> list[str]:
    """Execute `sql` as psql would, and return what is in the table then."""
    connection = await asyncpg.connect(url)
    await connection.execute(sql)
    found = await connection.fetch("SELECT CAST(things AS text) FROM things ORDER BY n")
    await connection.close()
    return [row[0] for row in found]


REFUSED = {
    r'op.execute("SELECT \'see :manual\'")': "A value is required for bind parameter 'manual' (`sa.text",
    'op.get_bind().execute(sa.text("SELECT :n"))': "A value is required for bind parameter 'n'",
    'op.execute("CREATE TABLE a (); CREATE TABLE b ()")': "cannot insert multiple commands into a prepared statement (each",
    f'things = {TABLE}; op.bulk_insert(things, [{{"id": 1}}, {{}}])': "A value is required for bind parameter 'id'",
    f'things = {TABLE}; op.execute(things.insert().values(id=sa.bindparam("x")))': "A value is required for bind parameter 'x'",
    f'{TABLE}; op.create_index("{"x" * 64}", "things", ["id"])': "exceeds maximum length of 63 characters",
}
NOTE = """sa.Column("note", sa.Text, server_default=sa.text("'see :manual'"))"""
REFUSED |= dict.fromkeys(
    (
        f'op.create_table("notes", {NOTE})',
        f'{TABLE}; op.add_column("things", {NOTE})',
        f"""{TABLE}; op.alter_column("things", "id", server_default=sa.text("'see :manual'"))""",
        f"""{TABLE}; op.create_check_constraint("no", "things", "'' <> ' :manual'")""",
        f"""{TABLE}; op.create_index("ix", "things", ["id"], postgresql_where=sa.text("'' <> ' :manual'"))""",
    ),
    r"A value is required for bind parameter 'manual' (`sa.text(...).bindparams(...)` gives one; a colon is written \:)",
)


@pytest.mark.parametrize("upgrade", REFUSED)
def test_what_fails_online_fails_offline_in_one_line(project: Project, upgrade: str) -> None:
    project.revision(upgrade)
    for options in ([], ["--sql"]):
        refusal = project.refusal("upgrade", "head", *options)
        assert "r0.py:9: " in refusal
        assert REFUSED[upgrade] in refusal


@pytest.mark.parametrize(
    ("upgrade", "reason"),
    [
        ('op.get_bind().execute(sa.text("SELECT 1")).scalar()', "with `--sql` there is no database"),
        ('[row for row in op.get_bind().execute(sa.text("SELECT 1"))]', "with `--sql` there is no database"),
        (
            'op.bulk_insert(op.create_table("t", sa.Column("a", sa.Text), sa.Column("b", sa.Text, default=str)), [{"a": "x"}])',
            "only Python knows the default of t.b: give a value",
        ),
    ],
)
def test_what_sql_cannot_say_is_said_in_one_line(project: Project, upgrade: str, reason: str) -> None:
    project.revision(upgrade)
    refusal = project.refusal("upgrade", "head", "--sql")
    assert "r0.py:9: " in refusal
    assert reason in refusal
