"""A console with a session, the models and the settings: `python -m app.shell`, or `echo "..." | python -m app.shell`."""

import ast
import asyncio
import code
import inspect
import sys
from contextlib import suppress
from importlib import import_module
from types import CodeType, FunctionType
from typing import Any

import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from app.db.engine import DatabaseUnavailable
from app.db.guards import NoLazyLoading
from app.db.session import Database
from app.project import modules
from app.settings import ConfigurationError, Settings, load_settings

TOOLS = {name: getattr(sqlalchemy, name) for name in ("delete", "func", "insert", "select", "text", "update")}
TOOLS["selectinload"] = selectinload
BANNER = """\
{whereabouts}
session, settings; {models}; {tools}
await session.scalar(select(...)); nothing is stored before `await session.commit()`\
"""


class Console(code.InteractiveConsole):
    """Python's own, which awaits."""

    def __init__(self, names: dict[str, Any], runner: asyncio.Runner) -> None:
        super().__init__(names)
        self.names, self.runner = names, runner
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

    def runcode(self, code: CodeType) -> None:
        try:
            self.runner.run(execute(code, self.names))
        except SystemExit:
            raise
        except BaseException:  # noqa: BLE001 - as Python's own console, which goes on whatever it was
            self.showtraceback()


async def execute(code: CodeType, names: dict[str, Any]) -> None:
    result = FunctionType(code, names)()
    if inspect.iscoroutine(result):
        await result


async def execute_all(source: ast.Module, names: dict[str, Any]) -> None:
    """Execute what was piped in; an expression is shown as at a prompt, and the first error ends it."""
    for statement in source.body:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        await execute(compile(ast.Interactive([statement]), "<stdin>", "single", flags), names)


def classes_of_models() -> dict[str, type]:
    """Return what the `models` modules define, by name."""
    found = [import_module(name) for name in modules("models")]
    return {
        name: thing
        for module in found
        for name, thing in vars(module).items()
        if isinstance(thing, type) and thing.__module__ == module.__name__
    }


async def open_session(database: Database) -> AsyncSession:
    """Return a session that only its owner commits.

    Raises:
        DatabaseUnavailable: there is no connection to be had.
    """
    session = AsyncSession(database.engine, sync_session_class=NoLazyLoading, expire_on_commit=False)
    try:
        await session.connection()
    except OSError as error:  # of the private server, that it does not start
        raise DatabaseUnavailable(str(error)) from None
    await session.rollback()
    return session


def main() -> None:
    try:
        piped = None if sys.stdin.isatty() else ast.parse(sys.stdin.buffer.read(), "<stdin>")
    except (SyntaxError, ValueError) as error:  # the latter for a NUL
        sys.exit(f"app.shell: what was piped in is no Python: {error}")
    settings = load_settings(Settings)
    database, models = Database(settings), classes_of_models()
    with asyncio.Runner() as runner:
        session = runner.run(open_session(database))
        names = {"session": session, "settings": settings, **models, **TOOLS}
        try:
            if piped:
                runner.run(execute_all(piped, names))
                return
            with suppress(ImportError):  # Windows has none
                readline, rlcompleter = import_module("readline"), import_module("rlcompleter")
                readline.set_completer(rlcompleter.Completer(names).complete)
                readline.parse_and_bind("tab: complete")
            lists = {"models": ", ".join(models), "tools": ", ".join(TOOLS)}
            Console(names, runner).interact(BANNER.format(whereabouts=settings.whereabouts(), **lists), "")
        finally:
            runner.run(session.close())
            runner.run(database.close())


if __name__ == "__main__":
    try:
        main()
    except (ConfigurationError, DatabaseUnavailable) as error:
        sys.exit(f"app.shell: {error}")
