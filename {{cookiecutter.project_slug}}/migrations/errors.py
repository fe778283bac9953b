"""A mistake of a user's in one line, as alembic prints its CommandError; what nobody expected keeps its traceback."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import context
from alembic.script.revision import MultipleHeads
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, NoReferenceError, PendingRollbackError

from app.text import one_line

REFUSALS = {"42501", "25006"}  # insufficient_privilege, read_only_sql_transaction


@contextmanager
def short_errors() -> Iterator[None]:
    """Raise CommandError for what a user can mend, saying where and how."""
    try:
        yield
    except (DBAPIError, PendingRollbackError) as raised:
        # Leaving an autocommit block on a connection that is gone raises the second in the place of what happened.
        error = raised.__context__ if isinstance(raised, PendingRollbackError) else raised
        if not isinstance(error, DBAPIError):
            raise error or raised from None
        if place := _place(error):
            raise CommandError(f"{place}: {reason(error)}") from error
        if sqlstate(error) in REFUSALS or error.connection_invalidated:
            raise CommandError(reason(error)) from error
        raise
    except NoReferenceError as error:  # names the foreign key, of which the traceback holds no line
        raise CommandError(str(error)) from error
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
        if unknown := set(context.get_context().get_current_heads()) - known:
            return (
                f"the database is at revision {' and '.join(unknown)}, which is not among the revisions here: newer code "
                "has migrated it. Deploy that code, or downgrade the database with it."
            )
    return None


def _place(error: BaseException) -> str | None:
    """Return the file and line of the revision that raised `error`."""
    revisions = {Path(script.path).resolve() for script in context.script.walk_revisions()}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).resolve() in revisions:
            return f"{Path(frame.filename).name}:{frame.lineno}"
    return None


def sqlstate(error: DBAPIError) -> str:
    """Return PostgreSQL's code for what went wrong; empty: the server did not say."""
    return getattr(error.orig, "sqlstate", None) or ""


def reason(error: DBAPIError) -> str:
    """Return the server's message, its detail and its hint in one line."""
    orig = error.orig
    return one_line(orig.__cause__ or orig) if orig else str(error)
