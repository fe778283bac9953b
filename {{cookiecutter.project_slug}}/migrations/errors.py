"""A mistake of a user's in one line, as alembic prints its CommandError; what nobody expected keeps its traceback."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import context
from alembic.script.revision import MultipleHeads
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, NoReferenceError, PendingRollbackError, SQLAlchemyError

from app.text import one_line

REFUSALS = {"42501", "25006", "3F000"}  # insufficient_privilege, read_only_sql_transaction, invalid_schema_name
# What the first revision meets in a database that is not empty: a schema, table, object or function of the name.
EXISTS = {"42P06", "42P07", "42710", "42723"}
SEVERAL = "cannot insert multiple commands into a prepared statement"  # what asyncpg says
HINTS = {
    "A value is required for bind parameter": r" (`sa.text(...).bindparams(...)` gives one; a colon is written \:)",
    "'NoneType'": " (with `--sql` there is no database that could answer)",
    SEVERAL: " (each statement needs an `op.execute` of its own)",
}


@contextmanager
def short_errors() -> Iterator[None]:
    """Raise CommandError for what a user can mend, saying where and how."""
    try:
        yield
    except SQLAlchemyError as raised:
        # Leaving an autocommit block on a connection that is gone raises another in the place of what happened.
        error = raised.__context__ if isinstance(raised, PendingRollbackError) else raised
        if not isinstance(error, SQLAlchemyError):
            raise error or raised from None
        if message := _in_a_revision(error):
            raise CommandError(message) from error
        if isinstance(error, NoReferenceError):  # names the foreign key, of which the traceback holds no line
            raise CommandError(str(error)) from error
        if isinstance(error, DBAPIError) and (sqlstate(error) in REFUSALS or error.connection_invalidated):
            raise CommandError(reason(error)) from error
        raise
    except (AttributeError, TypeError) as error:
        if context.is_offline_mode() and "'NoneType'" in str(error) and (message := _in_a_revision(error, deepest=1)):
            raise CommandError(message) from error
        raise
    except CommandError as error:
        if message := _about_revisions(error):
            raise CommandError(message) from error
        raise


def _about_revisions(error: CommandError) -> str | None:
    """Say what `error` means, where alembic names a revision and not what to do."""
    if isinstance(error.__cause__, MultipleHeads):
        return f"{' and '.join(context.script.get_heads())} are heads: join them by `alembic merge heads -m ...`"
    if str(error).startswith("Can't locate revision"):
        known = {script.revision for script in context.script.walk_revisions()}
        migrations = context.get_context()
        if unknown := set(migrations.get_current_heads()) - known:
            return (
                f"{migrations.version_table} says that the database is at revision {' and '.join(sorted(unknown))}, which is "
                "not among the revisions here. If newer code has migrated it: deploy that code, or downgrade the database "
                "with it. If the revisions were squashed: `alembic stamp --purge head`. If the table may be another "
                "service's: name one of your own, see migrations/README.md."
            )
    return None


def _in_a_revision(error: Exception, deepest: int = 0) -> str | None:
    """Return the file and line of the revision that raised `error`, what went wrong, and what may be done about it.

    Of the frames that it came through, only the `deepest` may be that revision's; 0: any.
    """
    revisions = {Path(script.path).resolve(): script for script in context.script.walk_revisions()}
    for frame in reversed(traceback.extract_tb(error.__traceback__)[-deepest:]):
        if script := revisions.get(Path(frame.filename).resolve()):
            said = reason(error)
            hints = [hint for words, hint in HINTS.items() if words in said]
            if script.is_base and isinstance(error, DBAPIError) and sqlstate(error) in EXISTS:
                hints.append(" (from before, or another service's: see migrations/README.md)")
            return f"{Path(frame.filename).name}:{frame.lineno}: {said}{''.join(hints)}"
    return None


def sqlstate(error: DBAPIError) -> str:
    """Return PostgreSQL's code for what went wrong; empty: the server did not say."""
    return getattr(error.orig, "sqlstate", None) or ""


def reason(error: Exception) -> str:
    """Return the server's message, its detail and its hint in one line, or else what `error` says."""
    orig = getattr(error, "orig", None)
    cause = orig.__cause__ or orig if orig else error
    return str(cause.args[0]) if isinstance(cause, SQLAlchemyError) else one_line(cause)
