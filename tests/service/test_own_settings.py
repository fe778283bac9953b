"""The settings that a service's owner adds: listed, checked and missed by name, wherever they come from."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

import asyncpg
import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict
from sqlalchemy import text

from app.db.engine import DatabaseUnavailable
from app.db.session import Database
from app.environment import EnvSettings, load_settings
from app.overview import env_example
from app.project import ROOT, ConfigurationError
from app.settings import Settings


class Colour(Enum):
    RED = "red"


class Redis(BaseModel):
    host: str
    port: int = 6379


class Other(BaseModel):
    name: str


class Owned(EnvSettings):
    stripe_key: SecretStr
    """The key
    of the account"""
    redis: Redis
    limits: list[int] = [1, 2]
    either: int | bool = 3
    colour: Colour = Colour.RED
    path: Path = Path("/a b")
    hidden: SecretStr = SecretStr("x")
    made: str = Field(default_factory=lambda: "made")
    derived: str = Field(default_factory=lambda values: values["made"])
    named: str = Field("n", validation_alias="OTHER_NAME")
    first: str = Field("f", validation_alias=AliasChoices("ONE", AliasPath("TWO", 0)))
    quoted: str = "it's #1 $HOME \\ `x`"


GIVEN = {"STRIPE_KEY": "k", "REDIS__HOST": "h"}


def problems(of: type[EnvSettings], monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    for name, value in (GIVEN | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as error:
        load_settings(of)
    return str(error.value).split("\n")


def test_what_is_missing_is_named_in_a_line_each() -> None:
    with pytest.raises(ConfigurationError, match=r"^STRIPE_KEY is not set\nREDIS is not set$"):
        load_settings(Owned)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"REDIS__HOST": "", "REDIS__PORT": "1"}, "REDIS__HOST is not set"),
        ({"REDIS__PORT": "hunter2"}, "REDIS__PORT: Input should be a valid integer"),
        ({"REDIS": "hunter2"}, "REDIS: must be JSON"),
        ({"LIMITS": "hunter2"}, "LIMITS: must be JSON"),
        ({"LIMITS": '[1, "hunter2"]'}, "LIMITS: Input should be a valid integer"),
        ({"EITHER": "hunter2"}, "EITHER: Input should be a valid integer"),
        ({"COLOUR": "hunter2"}, "COLOUR: Input should be 'red'"),
        ({"STRIPE_KEY": '"hunter2"'}, "STRIPE_KEY stands in quotes, and they count"),
        ({"STRIPE_KEY": "'hunter2'"}, "STRIPE_KEY stands in quotes, and they count"),
        ({"STRIPE_KEY": "hunter2\r"}, "STRIPE_KEY ends in a carriage return"),
        ({"LIMITS": "[1]\r"}, "LIMITS ends in a carriage return"),
        ({"REDIS__HOST": '"hunter2"'}, "REDIS__HOST stands in quotes"),
        ({"OTHER_NAME": '"hunter2"'}, "OTHER_NAME stands in quotes"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    [line] = problems(Owned, monkeypatch, **variables)
    assert line.startswith(said)
    assert "hunter2" not in line


def test_a_rule_for_several_fields_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pair(EnvSettings):
        low: int = 2
        high: int = 1

        @model_validator(mode="after")
        def check(self) -> "Pair":
            if self.low > self.high:
                raise ValueError("LOW must be below HIGH")
            return self

    assert problems(Pair, monkeypatch) == ["Pair: LOW must be below HIGH"]
    assert problems(Pair, monkeypatch, LOW="x") == [
        "LOW: Input should be a valid integer, unable to parse string as an integer"
    ]


def test_a_prefix_and_an_alias_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Prefixed(EnvSettings):
        model_config = SettingsConfigDict(env_prefix="payments_")
        key: str
        other: str = Field(validation_alias="THE_OTHER")

    assert problems(Prefixed, monkeypatch) == ["PAYMENTS_KEY is not set", "THE_OTHER is not set"]
    assert "\nPAYMENTS_KEY=\n\nTHE_OTHER=\n" in env_example([Prefixed])


def test_a_class_of_its_own_configuration_says_what_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Prefixed(EnvSettings):
        model_config = SettingsConfigDict(env_prefix="PAY_")
        key: SecretStr
        port: int = 1

    assert problems(Prefixed, monkeypatch, PAY_KEY="k", PAY_PORT="x")[0].startswith("PAY_PORT: Input should be")


def test_problems_are_not_asked_while_a_field_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ports(Settings):
        low: int
        high: int = 2

        def problems(self) -> Iterator[str]:
            yield from super().problems()
            if self.low > self.high:
                yield "LOW must be below HIGH"

    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("ALLOWED_HOSTS", "a")
    [low, database] = problems(Ports, monkeypatch, DATABASE_URL="postgresql://elsewhere/db", HIGH="3")
    assert low == "LOW is not set"
    assert database.startswith("DATABASE_URL must have sslmode=require")
    assert "LOW must be below HIGH" in problems(Ports, monkeypatch, LOW="4")


def test_a_malformed_url_is_not_missing_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    [line] = problems(Settings, monkeypatch, DATABASE_URL="nonsense", ALLOWED_HOSTS="a")
    assert line.startswith("DATABASE_URL: must look like")


@pytest.mark.parametrize("name", ["os", "os:sep", "os:nothing"])
def test_a_password_is_from_a_function(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    [line] = problems(Settings, monkeypatch, DATABASE_URL="postgresql://h/db", DATABASE_PASSWORD_FROM=name)
    assert line.startswith("DATABASE_PASSWORD_FROM: ")


def test_models_in_a_list_and_one_of_several_models_are_json() -> None:
    class Many(EnvSettings):
        servers: list[Redis]
        either: Redis | Other

    assert "\nSERVERS=\n\nEITHER=\n" in env_example([Many])


def test_the_example_is_read_as_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    example = env_example([Owned])
    assert "Undefined" not in example
    assert "# The key\n# of the account\nSTRIPE_KEY=\n" in example
    assert "# HIDDEN=\n" in example
    assert "# MADE=\n" in example
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    expected = load_settings(Owned)
    file = tmp_path / "example.env"
    file.write_text(example, encoding="utf-8")
    monkeypatch.setenv("ENV_FILE", str(file))
    assert load_settings(Owned) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('A=1\nB="open\nC=2\n', "line 2: neither NAME=value nor # a comment, or a quote has no end"),
        ("what is this\n", "line 1: neither"),
        (None, "Is a directory"),
    ],
)
def test_an_env_file_that_cannot_be_read_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, said: str
) -> None:
    file = tmp_path / ".env"
    if content is None:
        file.mkdir()
    else:
        file.write_text(content)
    [line] = problems(Settings, monkeypatch, ENV_FILE=str(file))
    assert line.startswith(str(file))
    assert said in line


def test_a_secret_is_read_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "stripe_key").write_text("of the file\n")
    (tmp_path / "redis").write_text('{"host": "h"}')
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    assert load_settings(Owned).stripe_key.get_secret_value() == "of the file"
    monkeypatch.setenv("STRIPE_KEY", "of the process")
    assert load_settings(Owned).stripe_key.get_secret_value() == "of the process"
    (tmp_path / "redis").write_bytes(b"\xff")
    assert problems(Owned, monkeypatch) == ["REDIS: must be UTF-8 text"]
    (tmp_path / "redis").unlink()
    (tmp_path / "stripe_key").write_text("\n")
    monkeypatch.delenv("STRIPE_KEY")
    with pytest.raises(ConfigurationError, match="STRIPE_KEY is not set"):
        load_settings(Owned)
    monkeypatch.setenv("STRIPE_KEY", "k")
    [line] = problems(Owned, monkeypatch, SECRETS_DIR=str(tmp_path / "none"))
    assert line == f"SECRETS_DIR: there is no folder {tmp_path / 'none'}"


@pytest.mark.parametrize("how", ["file", "function"])
async def test_a_password_may_change_while_the_service_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str, how: str
) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    (tmp_path / "tokens_of_test.py").write_text(
        f"import pathlib\n\nasync def token(): return pathlib.Path({str(file)!r}).read_text().strip()"
    )
    monkeypatch.syspath_prepend(tmp_path)
    role = f"rotating_{os.urandom(4).hex()}"
    admin = await asyncpg.connect(database_url)
    await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'first'")
    try:
        url = re.sub(r"://[^@]*@", f"://{role}@", database_url)
        rotating = (
            {"database_password_file": file} if how == "file" else {"database_password_from": "tokens_of_test:token"}
        )
        database = Database(Settings(database_url=url, database_pool_size=1, **rotating))
        async with database.session() as session:
            assert await session.scalar(text("SELECT current_user")) == role
        await admin.execute(f"ALTER ROLE {role} PASSWORD 'second'")
        file.write_text("second\n")
        await database.engine.dispose()
        async with database.session() as session:
            assert await session.scalar(text("SELECT current_user")) == role
        await database.engine.dispose()
        file.unlink()
        with pytest.raises(DatabaseUnavailable, match="No such file"):
            async with database.session() as session:
                await session.execute(text("SELECT 1"))
        await database.close()
    finally:
        await admin.execute(f"DROP ROLE {role}")
        await admin.close()


@pytest.fixture
def service(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """A copy of the service, whose files may be added to, and that runs commands."""
    for name in ("app", "migrations", "devdb"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def run(*command: str, files: dict[str, str | None] | None = None, **env: str) -> tuple[int, str, str]:
        for name, content in (files or {}).items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.unlink() if content is None else path.write_text(content, encoding="utf-8")
        environment = {"PATH": os.environ["PATH"], "ENV_FILE": ".env", "SECRETS_DIR": "", **env}
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    return run


DOMAIN = """
from pydantic import SecretStr
from app.settings import EnvSettings

class PaymentSettings(EnvSettings):
    stripe_key: SecretStr
    '''The key of the account'''
"""
ROUTER = """
from collections.abc import AsyncIterator
from typing import Annotated
from fastapi import APIRouter, Depends
from app.payments.settings import PaymentSettings
from app.web.dependencies import SettingsDep, settings_of

router = APIRouter()

@router.get("/key")
async def key(payments: Annotated[PaymentSettings, Depends(settings_of(PaymentSettings))], settings: SettingsDep) -> list[str]:
    return [payments.stripe_key.get_secret_value(), settings.environment]
"""
ASK = """
import asyncio
from httpx2 import ASGITransport, AsyncClient
from app.main import app

async def ask():
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as client:
        print((await client.get("/api/v1/key")).text, app.state.settings.environment)

asyncio.run(ask())
"""
DOMAIN_FILES = {"app/payments/settings.py": DOMAIN, "app/payments/router.py": ROUTER, "app/payments/__init__.py": ""}


@pytest.mark.parametrize("command", [["app.settings"], ["uvicorn", "app.main:app"]])
def test_a_setting_of_a_domain_stops_the_start_if_it_is_missing(
    service: Callable[..., tuple[int, str, str]], command: list[str], database_url: str
) -> None:
    code, _, errors = service(*command, files=DOMAIN_FILES, DATABASE_URL=database_url)
    assert code
    assert errors == "STRIPE_KEY is not set\n"
    code, _, errors = service(*command, ENVIRONMENT="production", MAX_BODY_SIZE="x", DATABASE_URL=database_url)
    assert {line.replace(":", " ").split()[0] for line in errors.splitlines()} >= {
        "STRIPE_KEY",
        "ALLOWED_HOSTS",
        "MAX_BODY_SIZE",
    }


def test_a_domain_s_settings_are_listed_and_reach_its_routes(
    service: Callable[..., tuple[int, str, str]], database_url: str
) -> None:
    _, example, _ = service("app.settings", "--env-example", files=DOMAIN_FILES)
    assert "\n# The key of the account\nSTRIPE_KEY=\n" in example
    _, shown, errors = service("app.settings", STRIPE_KEY="sk_hunter2", DATABASE_URL=database_url)
    assert re.search(r"^STRIPE_KEY +\*+ +environment$", shown, re.MULTILINE), errors
    assert "hunter2" not in shown
    code, answer, errors = service("ask", files={"ask.py": ASK}, STRIPE_KEY="sk", DATABASE_URL=database_url)
    assert (code, answer) == (0, '["sk","local"] local\n'), errors


def test_migrations_need_only_what_migrations_need(
    service: Callable[..., tuple[int, str, str]], database_url: str
) -> None:
    settings = (ROOT / "app/settings.py").read_text(encoding="utf-8")
    own = settings.replace("    debug: bool", "    own_key: SecretStr\n    debug: bool")
    code, _, errors = service(
        "alembic",
        "current",
        files=DOMAIN_FILES | {"app/settings.py": own},
        DATABASE_URL=database_url,
        MAX_BODY_SIZE="x",
    )
    assert code == 0, errors
    code, _, errors = service("app.settings", DATABASE_URL=database_url)
    assert (code, errors) == (1, "OWN_KEY is not set\nSTRIPE_KEY is not set\n")


def test_settings_that_are_read_by_an_import_are_refused(service: Callable[..., tuple[int, str, str]]) -> None:
    code, _, errors = service(
        "app.settings", files=DOMAIN_FILES | {"app/payments/settings.py": f"{DOMAIN}\nx = PaymentSettings()"}
    )
    assert code == 1
    assert errors.startswith(
        "app.payments.settings reads its PaymentSettings when it is imported, and they are not all there"
    )
    assert errors.count("\n") == 1


def test_settings_that_would_refuse_what_others_need_are_refused(service: Callable[..., tuple[int, str, str]]) -> None:
    plain = "from pydantic_settings import BaseSettings\n\nclass Plain(BaseSettings):\n    x: int = 1\n"
    code, _, errors = service("app.settings", files={"app/payments/settings.py": plain})
    assert (code, errors) == (1, "app.payments.settings.Plain must be an app.settings.EnvSettings\n")


@pytest.mark.parametrize("command", [["app.settings"], ["uvicorn", "app.main:app"]])
@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), ("[project", "pyproject.toml: "), ("[project]\n", "must say 'tool'")],
)
def test_a_pyproject_toml_that_does_not_do_is_named(
    service: Callable[..., tuple[int, str, str]], command: list[str], content: str | None, said: str
) -> None:
    code, _, errors = service(*command, files={"pyproject.toml": content})
    assert code
    assert "pyproject.toml" in errors.splitlines()[-1]
    assert said in errors.splitlines()[-1]
    assert "Traceback" not in errors


@pytest.mark.parametrize("place", ["process", "file"])
def test_a_name_that_looks_like_ours_is_said(
    service: Callable[..., tuple[int, str, str]], place: str, database_url: str
) -> None:
    names = {
        "DATABSE_URL": database_url,
        "EDITOR": "vi",
        "DATABASE_URL": database_url,
        "DATABASE_URLS": "x",
        "ALLOWED_HOST": "x",
    }
    text = "".join(f"{name}={value}\n" for name, value in names.items()) if place == "file" else ""
    code, _, errors = service("app.settings", files={".env": text}, **(names if place == "process" else {}))
    assert (code, errors) == (0, "ALLOWED_HOST is no setting of this service: is ALLOWED_HOSTS meant?\n")
    for command in (["alembic", "current"], ["ask"]):
        del_ = {name: value for name, value in names.items() if name != "DATABASE_URL"} | {
            "DATABASE_URL_LOCAL": database_url
        }
        text = "".join(f"{name}={value}\n" for name, value in del_.items()) if place == "file" else ""
        code, _, errors = service(
            *command, files={".env": text, "ask.py": "import app.main"}, **(del_ if place == "process" else {})
        )
        assert code == 0, errors
        assert "DATABSE_URL is no setting of this service: is DATABASE_URL meant?" in errors


def test_the_command_says_which_database_it_is(service: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    _, shown, _ = service("app.settings")
    assert f"the service's database: a private PostgreSQL, with its data in {tmp_path / '.devdb'}\n" in shown
    _, shown, _ = service("app.settings", DATABASE_URL_LOCAL="postgresql://u:hunter2@db.example:1/shop")
    assert "the service's database: shop at db.example:1, from DATABASE_URL_LOCAL\n" in shown
    columns = [line.index(line.split()[-1]) for line in shown.splitlines() if line.endswith(("default", "environment"))]
    assert len(set(columns)) == 1
    assert "hunter2" not in shown
