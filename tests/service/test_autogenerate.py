"""Autogenerate sees what changed, and refuses to write what would hurt."""

import pytest

from tests.service.conftest import Project

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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("app/things/tables.py", THING),
        ("app/things/models.py", "class Own(sa.orm.DeclarativeBase): ...\n\n\n" + THING.replace("(Base)", "(Own)")),
    ],
    ids=["wrong file", "wrong base"],
)
def test_a_table_outside_the_registry_is_refused_by_name(project: Project, name: str, text: str) -> None:
    project.models(text)
    if name != "app/things/models.py":
        (project.path / "app/things/models.py").rename(project.path / name)
    refusal = project.refusal("revision", "--autogenerate", "-m", "oops")
    assert name.removesuffix(".py").replace("/", ".") + ".Thing (things)" in refusal
    assert project.versions == []


@pytest.mark.parametrize(("target", "named"), [("thigs.id", "'thigs'"), ("things.idd", "'idd'")])
def test_a_foreign_key_to_nothing_is_one_line(project: Project, target: str, named: str) -> None:
    project.models(THING + f'    parent_id: Mapped[UUIDKey] = mapped_column(sa.ForeignKey("{target}"))\n')
    refusal = project.refusal("revision", "--autogenerate", "-m", "oops")
    assert "things" in refusal
    assert named in refusal
    assert project.versions == []


def test_a_model_that_cannot_be_imported_writes_nothing(project: Project) -> None:
    project.models("import nothing_of_this_name")
    with project.start("revision", "--autogenerate", "-m", "oops") as process:
        assert "No module named 'nothing_of_this_name'" in process.communicate()[1]
    assert process.returncode
    assert project.versions == []
