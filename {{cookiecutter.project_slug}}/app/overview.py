"""What the settings are, for people: `.env.example`, and what `python -m app.settings` shows."""

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from itertools import pairwise
from textwrap import dedent
from typing import Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from app.environment import NESTED, EnvSettings, given, model_in, read_settings, variables
from app.fields import Listed
from app.project import ConfigurationError

OTHERS = {"ENV_FILE", "SECRETS_DIR", "TEST_DATABASE_URL"}  # variables of the process that are no fields
ALIKE = 0.85  # from 0 to 1, as difflib has it: DATABSE_URL and DATABASE_URL are 0.96


def lookalikes(classes: Iterable[type[EnvSettings]]) -> Iterator[str]:
    """Yield a sentence for each variable that looks like one of the settings, and is none."""
    known = {name.upper() for of in classes for names in variables(of).values() for name in names} | OTHERS
    found = {name for names in given().values() for name in names}
    for name in sorted(found - known):
        meant = [] if name.split(NESTED)[0] in known else get_close_matches(name, known - found, 1, ALIKE)
        if meant:
            yield f"{name} is no setting of this service: is {meant[0]} meant?"


def env_example(classes: Iterable[type[EnvSettings]]) -> str:
    """Return the text of `.env.example`: every setting, with what it means and its default."""
    text = "# Copy to .env; the process environment wins over it. Each line shows the default. `${NAME}` stands for another variable.\n"
    seen: set[str] = set()
    for of in classes:
        docstrings = _docstrings(of)
        for name, field in of.model_fields.items():
            variable = variables(of)[name][0]
            if variable not in seen:
                text += "".join(_example(variable, field, docstrings.get(name)))
            seen.add(variable)
    return text


def _docstrings(of: type[EnvSettings]) -> dict[str, str]:
    """Return what the source says below each field; pydantic would read it in every process that has the class."""
    found = {}
    for owner in reversed(of.__mro__[: of.__mro__.index(EnvSettings)]):
        try:
            [definition] = ast.parse(dedent(inspect.getsource(owner))).body
        except (OSError, TypeError):  # made without source
            continue
        for field, said in pairwise(getattr(definition, "body", ())):
            if isinstance(field, ast.AnnAssign) and isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant):
                found[ast.unparse(field.target)] = inspect.cleandoc(str(said.value.value))
    return found


def _example(variable: str, field: FieldInfo, docstring: str | None = None) -> Iterator[str]:
    model = model_in(field)
    if model and field.is_required():
        for name, inner in model.model_fields.items():
            yield from _example(f"{variable}{NESTED}{name.upper()}", inner)
        return
    description = "".join(f"# {line}\n" for line in (field.description or docstring or "").splitlines())
    default = None if field.is_required() or field.default_factory else _written(field)
    yield f"\n{description}{'' if default or field.is_required() else '# '}{variable}={default or ''}\n"


def _written(field: FieldInfo) -> str:
    """Return the default as an env file has it; nothing if it is none, or a secret."""
    default = TypeAdapter(Any).dump_python(field.default, mode="json")
    if default in (None, [], {}) or "**********" in json.dumps(default):
        return ""
    if Listed in field.metadata:
        default = ",".join(default)
    text = default if isinstance(default, str) else json.dumps(default)
    if re.fullmatch(r"[^\s'\"#$\\`]*", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def print_settings(classes: Iterable[type[EnvSettings]]) -> None:
    """Print every setting, its value and where it comes from, secrets masked.

    Raises:
        ConfigurationError: something is wrong with them, a line a problem.
    """
    rows: dict[str, tuple[str, str]] = {}
    problems: dict[str, None] = {}  # what two classes have is said once
    places = given()
    for of in classes:
        settings, wrong = read_settings(of)
        malformed = {problem.replace(":", " ").split()[0] for problem in wrong}
        for field, names in variables(of).items():
            found = [place for name in names for place, values in places.items() if _has(values, name)]
            value = "malformed" if found and names[0] in malformed else str(getattr(settings, field))
            rows.setdefault(names[0], (value, found[0] if found else "default"))
        problems |= dict.fromkeys(wrong)
    name_width, value_width = (max(map(len, column)) for column in (rows, (value for value, _ in rows.values())))
    for name, (value, place) in rows.items():
        print(f"{name:{name_width}}  {value:{value_width}}  {place}")
    for sentence in lookalikes(classes):
        print(sentence, file=sys.stderr)
    if problems:
        raise ConfigurationError("\n".join(problems))


def _has(values: dict[str, str | None], name: str) -> bool:
    return any(value and found.partition(NESTED)[0] == name.upper() for found, value in values.items())
