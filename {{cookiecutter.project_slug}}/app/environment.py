"""Settings that are read from the environment, and in a sentence each what is wrong with them."""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import AliasChoices, AliasPath, BaseModel, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from app.project import ROOT, ConfigurationError

NESTED = "__"  # between the name of a field that is a model and those of its own fields


class EnvSettings(BaseSettings):
    """The base of all settings: a field is a variable of the environment, and its docstring says what it means.

    Each is looked for in the process environment, then in `.env` beside `pyproject.toml`, or the file that ENV_FILE
    names, then as a file in the folder SECRETS_DIR, or /run/secrets.
    """

    model_config = SettingsConfigDict(
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        env_nested_delimiter=NESTED,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # it may be a password
    )

    def __init__(self, **values: Any) -> None:
        values.setdefault("_env_file", env_file())
        values.setdefault("_secrets_dir", secrets_dir())
        super().__init__(**values)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *sources: Any, **named: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Have an empty file count as no file, as an empty variable counts as unset."""
        *others, files = (*sources, *named.values())
        return (*others, cast(Any, lambda: {name: value for name, value in files().items() if value != ""}))

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values of well formed fields, a sentence each.

        It is not asked while a field of this class that has no plain default is missing or malformed.
        """
        yield from ()


SettingsT = TypeVar("SettingsT", bound=EnvSettings)


def load_settings(of: type[SettingsT]) -> SettingsT:
    """Return the settings of this process, of the class `of`.

    Raises:
        ConfigurationError: naming every variable that is missing, malformed or unsafe, never its value.
    """
    settings, problems = read_settings(of)
    if problems:
        raise ConfigurationError("\n".join(dict.fromkeys(problems)))  # what two classes have is said once
    return settings


def read_settings(of: type[SettingsT]) -> tuple[SettingsT, list[str]]:
    """Return the settings, with the default or None in the place of what is malformed, and what is wrong, a sentence each."""
    sentences: dict[str, str] = dict(_misquoted(of))  # by the variable
    malformed: set[str] = set()
    try:
        settings = of()
    except SettingsError as error:  # at the first field that should be JSON, or a file that cannot be read
        [field] = re.findall(r'for field "(\w+)"', str(error)) or [of.__name__]
        cause = error.__cause__
        reason = "must be UTF-8 text" if isinstance(cause, UnicodeDecodeError) else "must be JSON"
        if isinstance(cause, OSError):
            reason = f"{cause.filename}: {cause.strerror}"
        raise ConfigurationError(f"{variables(of).get(field, [field])[0]}: {reason}") from None
    except ValidationError as error:
        for problem in error.errors():
            if problem["type"] == "default_factory_not_called":
                continue  # since another field is wrong
            variable = _variable(of, problem["loc"])
            reason = f": {problem['msg'].removeprefix('Value error, ')}"
            sentences.setdefault(variable, variable + (" is not set" if problem["type"] == "missing" else reason))
            malformed.add(_field(of, problem["loc"]))
        settings = _without(of, malformed)
    unknown = {name for name, field in of.model_fields.items() if field.is_required() or field.default_factory}
    for judge in of.__mro__ if "" not in malformed else ():
        if issubclass(judge, EnvSettings) and not malformed & unknown & judge.model_fields.keys():
            return settings, [*sentences.values(), *judge.problems(settings)]
    return settings, [*sentences.values()]


def _without(of: type[SettingsT], malformed: set[str]) -> SettingsT:
    """Return the settings with the default, or None, in the place of `malformed` fields, and no validator run on these."""
    fields = of.model_fields
    sound: dict[str, Any] = {name: (field.annotation, field) for name, field in fields.items() if name not in malformed}

    class Configured(EnvSettings):
        model_config = of.model_config

    found: Any = create_model(of.__name__, __base__=Configured, **sound)
    defaults = {name: None if fields[name].is_required() else fields[name].default for name in malformed - {""}}
    values = found()
    return cast(SettingsT, of.model_construct(values.model_fields_set | malformed, **{**dict(values), **defaults}))


def variables(of: type[BaseSettings]) -> dict[str, list[str]]:
    """Return the names of each field's variables, the first to count first."""
    names = {}
    for name, field in of.model_fields.items():
        alias = field.validation_alias
        heads = [alias] if isinstance(alias, str) else []
        if isinstance(alias, AliasPath):
            heads = [str(alias.path[0])]
        elif isinstance(alias, AliasChoices):
            heads = [str(path[0]) for path in alias.convert_to_aliases()]
        if not heads or of.model_config.get("populate_by_name") or of.model_config.get("validate_by_name"):
            heads.append(of.model_config.get("env_prefix", "") + name)
        names[name] = heads if of.model_config.get("case_sensitive") else [head.upper() for head in heads]
    return names


def _field(of: type[BaseSettings], place: tuple[int | str, ...]) -> str:
    """Return the name of the field that is at fault, or nothing if all of them together are."""
    head = str(place[0]) if place else ""
    named = (name for name, found in variables(of).items() if head == name or head.upper() in map(str.upper, found))
    return next(named, "")


def _variable(of: type[BaseSettings], place: tuple[int | str, ...]) -> str:
    """Return the name of the variable that is at fault, which may be of a field within a field."""
    name = _field(of, place)
    if not name:
        return of.__name__
    variable, model = variables(of)[name][0], model_in(of.model_fields[name])
    for part in place[1:]:
        if model and part in model.model_fields:
            variable, model = variable + NESTED + str(part).upper(), model_in(model.model_fields[str(part)])
    return variable


def model_in(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model that a field may hold, if it may hold one."""
    annotation = field.annotation
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    models = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
    return models[0] if len(models) == 1 else None


def _misquoted(of: type[BaseSettings]) -> Iterator[tuple[str, str]]:
    """Yield the variables of the process whose values have what a reader of .env would have taken away, and say what."""
    known = {name.upper() for names in variables(of).values() for name in names}
    for name, value in os.environ.items():
        if name.upper().split(NESTED)[0] in known:
            if value.strip("\r") != value:
                yield name.upper(), f"{name.upper()} ends in a carriage return: its file has the line ends of Windows"
            elif value[1:] and value[0] == value[-1] and value[0] in "\"'":
                yield name.upper(), f"{name.upper()} stands in quotes, and they count: take them away"


def env_file() -> Path | None:
    """Return the file to read; an empty ENV_FILE is none: so the tests never read a developer's .env."""
    name = os.environ.get("ENV_FILE", ".env")
    file = ROOT / name
    if not name or (name == ".env" and not os.path.lexists(file)):
        return None
    _read(file)
    return file


def secrets_dir() -> Path | None:
    """Return the folder of files with secrets, if there is one; an empty SECRETS_DIR is none."""
    name = os.environ.get("SECRETS_DIR")
    folder = ROOT / (name or "/run/secrets")
    if name and not folder.is_dir():
        raise ConfigurationError(f"SECRETS_DIR: there is no folder {folder}")
    return folder if name != "" and folder.is_dir() else None


def _read(file: Path) -> dict[str, str | None]:
    """Return what an env file says.

    Raises:
        ConfigurationError: it cannot be read, saying where.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} must be UTF-8 text") from None
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            line = binding.original.line
            raise ConfigurationError(f"{file}, line {line}: neither NAME=value nor # a comment, or a quote has no end")
    return dotenv_values(stream=io.StringIO(text))


def given() -> dict[str, dict[str, str | None]]:
    """Return the variables of each place that is read, in capitals; the first place to have one counts."""
    file, folder = env_file(), secrets_dir()
    places: dict[str, dict[str, str | None]] = {"environment": dict(os.environ)}
    if file:
        places[str(file)] = _read(file)
    if folder:
        places[str(folder)] = {path.name: path.name for path in folder.iterdir() if path.is_file()}
    return {place: {name.upper(): value for name, value in found.items()} for place, found in places.items()}
