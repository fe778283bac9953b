"""The migrations and the models agree."""

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from app.registry import import_all_models
from migrations import erd


@pytest.fixture(autouse=True)
def empty_database(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)


def test_models_need_no_migration(alembic_config: Config) -> None:
    command.upgrade(alembic_config, "head")
    command.check(alembic_config)


def test_the_diagram_of_the_schema_is_up_to_date() -> None:
    """`uv run python -m migrations.erd` writes it."""
    assert erd.FILE.read_text(encoding="utf-8") == erd.diagram(import_all_models())


def test_every_migration_can_be_undone_and_redone(alembic_config: Config) -> None:
    revisions = list(ScriptDirectory.from_config(alembic_config).walk_revisions())
    for script in reversed(revisions):
        before = script.down_revision or "base"
        command.upgrade(alembic_config, script.revision)
        command.downgrade(alembic_config, before if isinstance(before, str) else before[0])
        command.upgrade(alembic_config, script.revision)


def test_there_is_one_head(alembic_config: Config) -> None:
    heads = ScriptDirectory.from_config(alembic_config).get_heads()
    assert len(heads) == 1, f"join them with `alembic merge heads`: {heads}"
