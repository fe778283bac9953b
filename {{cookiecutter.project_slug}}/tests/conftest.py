"""What the tests share: for each a database of its own, the application and its clients."""

import asyncio
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn
from alembic import command
from alembic.config import Config
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.pool import NullPool
from starlette.types import ASGIApp, Receive, Scope, Send

import devdb
from app.application import create_app
from app.db.engine import DatabaseUnavailable, create_engine
from app.db.session import Database, Sessions
from app.environment import variables
from app.project import ROOT
from app.settings import ConfigurationError, DatabaseSettings, Settings, all_settings, load_settings
from devdb.files import DevdbError


def pytest_configure() -> None:
    """Forget the developer's configuration; `.env.test` is the tests'."""
    try:
        of_settings = {name.upper() for of in all_settings() for names in variables(of).values() for name in names}
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from None
    for name in list(os.environ):
        if name.upper().split("__")[0] in of_settings or name.startswith("OTEL_"):
            del os.environ[name]
    os.environ |= {"ENV_FILE": str(ROOT / ".env.test"), "SECRETS_DIR": ""}


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start a server, unless TEST_DATABASE_URL names one; the workers of pytest-xdist inherit the variable."""
    if session.config.option.collectonly:
        return
    stack = ExitStack()
    session.config.add_cleanup(stack.close)
    try:
        if not os.environ.get("TEST_DATABASE_URL"):
            os.environ["TEST_DATABASE_URL"] = stack.enter_context(devdb.throwaway())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATABASE_URL", os.environ["TEST_DATABASE_URL"])
            load_settings(Settings)
        asyncio.run(execute("SELECT 1"))
    except ConfigurationError as error:
        sentences = str(error).replace("DATABASE_URL", "TEST_DATABASE_URL")
        raise pytest.UsageError(f"{sentences}\n.env.test is what the tests run with") from None
    except (DevdbError, DatabaseUnavailable) as error:
        raise pytest.UsageError(f"the tests have no database: {error}") from None


async def execute(statement: str) -> None:
    """Execute `statement`, outside of a transaction, on the server of the tests."""
    settings = DatabaseSettings(database_url=SecretStr(os.environ["TEST_DATABASE_URL"]))
    engine = create_engine(settings, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(statement))


@contextmanager
def new_database(template: str = "template1") -> Iterator[str]:
    """Copy the database `template`, on the server of the tests, yield the copy's name, and drop it."""
    name = f"test_{secrets.token_hex(8)}"
    asyncio.run(execute(f"CREATE DATABASE {name} TEMPLATE {template}"))
    try:
        yield name
    finally:
        # Not `WITH (FORCE)`: it refuses where autovacuum works, which a plain DROP ends itself.
        clients = f"FROM pg_stat_activity WHERE datname = '{name}' AND backend_type = 'client backend'"
        asyncio.run(execute(f"SELECT pg_terminate_backend(pid) {clients}"))
        asyncio.run(execute(f"DROP DATABASE {name}"))


def url_of(name: str) -> str:
    return re.sub(r"^\s*([\w+]+://[^/?]*)(/[^?]*)?", rf"\1/{name}", os.environ["TEST_DATABASE_URL"])


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def alembic_config() -> Config:
    return Config(toml_file=ROOT / "pyproject.toml")


@pytest.fixture(scope="session")
def template(alembic_config: Config) -> Iterator[str]:
    """The name of a database with the schema that the migrations build; nobody connects to it while it is copied."""
    with new_database() as name:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATABASE_URL", url_of(name))
            command.upgrade(alembic_config, "head")
        asyncio.run(execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        yield name


@pytest.fixture
def database_url(template: str) -> Iterator[str]:
    """A database of the test's own, with the schema that the migrations build."""
    with new_database(template) as name:
        yield url_of(name)


@pytest.fixture
def empty_database_url() -> Iterator[str]:
    with new_database() as name:
        yield url_of(name)


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database_url=SecretStr(database_url))


@pytest.fixture
async def app(settings: Settings, anyio_backend: str) -> AsyncIterator[FastAPI]:
    """The application, while its lifespan runs."""
    app = create_app(settings)
    async with app.router.lifespan_context(app) as state:
        app.add_middleware(with_state, state=state or {})
        yield app


def with_state(app: ASGIApp, state: Mapping[str, Any]) -> ASGIApp:
    """Return `app` as servers call it: with what its lifespan has yielded."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {**state}}, receive, send)

    return call


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture
async def server(app: FastAPI) -> AsyncIterator[str]:
    """The host and port where uvicorn serves the application, for WebSockets and streams without an end."""
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=5))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        yield "{}:{}".format(*listener.getsockname())
        server.should_exit = True
        await serving


@pytest.fixture
def database(app: FastAPI) -> Database:
    """The application's database, which gives sessions that commit."""
    database: Database = app.state.database
    return database


@pytest.fixture
def engine(database: Database) -> AsyncEngine:
    return database.engine


@pytest.fixture
async def session(database: Database) -> AsyncIterator[AsyncSession]:
    """A session like those of requests; commit what the client is to see."""
    sessions = Sessions(database)
    yield sessions.write()
    await sessions.end()
