"""The command line: python -m scaffold orders [order]. It copies the domain `widgets`, under names of your own."""

import argparse
import ast
import keyword
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from app.db.base import Base
from app.project import ROOT
from app.registry import import_all_models
from app.settings import ConfigurationError
from migrations.types import LONGEST_NAME

HERE = Path(__file__).parent
FOLDERS = {HERE / "widgets": "app", HERE / "tests": "tests"}  # and where in the service each goes
NAME = "[a-z][a-z0-9]*(_[a-z0-9]+)*"


class ScaffoldError(Exception):
    """There cannot be such a domain; the message says why in one sentence."""


def singular_of(plural: str) -> str:
    """Return the name of one of `plural`, by the ending.

    Raises:
        ScaffoldError: the ending tells nothing.
    """
    for pattern, ending in (("ies", "y"), ("(?<=ss|sh|ch|.x)es", ""), ("(?<![isu])s", "")):
        if re.search(f"[a-z0-9]{pattern}$", plural):
            return re.sub(f"{pattern}$", ending, plural)
    raise ScaffoldError(
        f"{plural} does not look like the name of several: say orders for order, or both, as in"
        " `python -m scaffold people person`"
    )


def renamed(text: str, plural: str, singular: str) -> str:
    """Return a file of the scaffold, with the names of the new domain."""
    class_ = "".join(word.capitalize() for word in singular.split("_"))
    names = {"scaffold.": "app.", "WIDGETS": plural.upper(), "widgets": plural, "Widget": class_, "widget": singular}
    return re.sub("|".join(map(re.escape, names)), lambda found: names[found[0]], text)


def refuse_word(name: str) -> None:
    if not re.fullmatch(NAME, name) or len(name) > LONGEST_NAME:
        raise ScaffoldError(
            f"{name!a} must be at most {LONGEST_NAME} of a to z, digits and single underscores, like order_lines"
        )
    if keyword.iskeyword(name):
        raise ScaffoldError(f"{name} is a word of Python's own: choose another name")


def refuse_folder(plural: str) -> None:
    """Look for what is in the way of a folder of this name.

    Raises:
        ScaffoldError: something is, or there can be none.
    """
    refuse_word(plural)
    if plural in {path.stem for path in (HERE / "widgets").glob("*.py")} | {"settings"}:
        raise ScaffoldError(f"{plural} is what a file of each domain is called: choose another name")
    for path in (f"app/{plural}", f"app/{plural}.py", f"tests/{plural}"):
        if (ROOT / path).exists():
            raise ScaffoldError(f"{path} is there already, and stays as it is")


def refuse_model(plural: str, singular: str) -> None:
    """Look for what has the name of the table, of its model, or of anything else that the files define.

    Raises:
        ScaffoldError: something has, or there can be no such name.
    """
    refuse_word(singular)
    other = f"call one of them something else, as in `python -m scaffold {plural} {singular}_entry`"
    if plural == singular:
        raise ScaffoldError(f"{plural} cannot be the name of several and of one: {other}")
    for path in (path for folder in FOLDERS for path in folder.glob("*.py")):
        nodes = [node for node in ast.walk(ast.parse(path.read_bytes())) if not isinstance(node, ast.keyword)]
        words = {str(getattr(node, field)) for node in nodes for field in ("arg", "id", "name") if hasattr(node, field)}
        if taken := words & {renamed(word, plural, singular) for word in words if "widget" in word.lower()}:
            raise ScaffoldError(f"{min(taken)} is something else in the files that this writes: {other}")
    if plural in import_all_models().tables:
        raise ScaffoldError(f"there is a table {plural} already: choose another name")
    for model in (mapper.class_ for mapper in Base.registry.mappers):
        if model.__name__ == renamed("Widget", plural, singular):
            raise ScaffoldError(f"{model.__module__} has a {model.__name__} already: {other}")


def write(plural: str, singular: str) -> list[Path]:
    """Write the files of the domain, all or none, and return their folders.

    Raises:
        OSError: they cannot be written.
    """
    folders = []
    try:
        for source, parent in FOLDERS.items():
            folder = ROOT / parent / plural
            folder.mkdir()
            folders.append(folder)
            for path in source.glob("*.py"):
                text = renamed(path.read_text(encoding="utf-8"), plural, singular)
                (folder / path.name).write_text(text, encoding="utf-8", newline="\n")
    except OSError:
        for folder in folders:
            shutil.rmtree(folder)
        raise
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scaffold", description="Adds a domain: its files in app/ and tests/."
    )
    parser.add_argument("plural", help="what the folder, the table and the path are called, as in orders")
    parser.add_argument("singular", nargs="?", help="what one of them is called, if the plural does not tell")
    options = parser.parse_args()
    if find_spec("ruff") is None:
        raise ScaffoldError("ruff is not installed: `uv sync` does it")
    plural = options.plural
    refuse_folder(plural)
    singular = options.singular or singular_of(plural)
    refuse_model(plural, singular)
    folders = write(plural, singular)
    for command in (["check", "--fix"], ["format"]):  # the names decide how imports are sorted and lines are broken
        subprocess.run([sys.executable, "-m", "ruff", *command, "--quiet", *folders], cwd=ROOT, check=True)
    print(*(f"{folder.relative_to(ROOT).as_posix()}/ is written" for folder in folders), sep="\n")
    revision = f'uv run alembic revision --autogenerate -m "create {plural}"'
    print("When its models.py says what you want to store, make the table:")
    print(f"uv run alembic upgrade head && {revision} && uv run alembic upgrade head")


if __name__ == "__main__":
    try:
        main()
    except (ScaffoldError, ConfigurationError, OSError) as error:
        sys.exit(f"scaffold: {error}")
