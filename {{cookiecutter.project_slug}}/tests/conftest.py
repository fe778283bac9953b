"""What the tests share: databases of their own, a transaction that is rolled back, the application and its client."""

import asyncio
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from alembic import command
from alembic.config import Config
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.pool import NullPool

import devdb
from app.application import create_app
from app.db.engine import DatabaseUnavailable, create_engine
from app.db.session import Database
from app.project import ROOT
from app.settings import MigrationSettings, Settings
from devdb.files import DevdbError


def pytest_configure() -> None:
    """Forget the developer's configuration."""
    for name in list(os.environ):
        if name.lower() in MigrationSettings.model_fields or name.startswith("OTEL_"):
            del os.environ[name]
    os.environ |= {"ENVIRONMENT": "test", "ENV_FILE": "", "ALLOWED_HOSTS": "*"}


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start a server, unless TEST_DATABASE_URL names one; the workers of pytest-xdist inherit the variable."""
    if session.config.option.collectonly:
        return
    stack = ExitStack()
    session.config.add_cleanup(stack.close)
    try:
        if not os.environ.get("TEST_DATABASE_URL"):
            os.environ["TEST_DATABASE_URL"] = stack.enter_context(devdb.throwaway())
        asyncio.run(execute("SELECT 1"))
    except (DevdbError, DatabaseUnavailable) as error:
        raise pytest.UsageError(f"the tests have no database: {error}") from None
    except ValidationError:
        raise pytest.UsageError("TEST_DATABASE_URL must look like postgresql://user:password@host:5432/name") from None


async def execute(statement: str) -> None:
    """Execute `statement`, outside of a transaction, on the server of the tests."""
    settings = Settings(database_url=os.environ["TEST_DATABASE_URL"])
    engine = create_engine(settings, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(statement))


@contextmanager
def new_database() -> Iterator[str]:
    """Create a database beside the one that TEST_DATABASE_URL names, yield its URL, and drop it."""
    name = f"test_{secrets.token_hex(8)}"
    asyncio.run(execute(f"CREATE DATABASE {name}"))
    try:
        yield re.sub(r"^\s*([\w+]+://[^/?]*)(/[^?]*)?", rf"\1/{name}", os.environ["TEST_DATABASE_URL"])
    finally:
        asyncio.run(execute(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def alembic_config() -> Config:
    return Config(toml_file=ROOT / "pyproject.toml")


@pytest.fixture(scope="session")
def database_url(alembic_config: Config) -> Iterator[str]:
    """A database with the schema that the migrations build."""
    with new_database() as url:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATABASE_URL", url)
            command.upgrade(alembic_config, "head")
        yield url


@pytest.fixture
def empty_database_url() -> Iterator[str]:
    with new_database() as url:
        yield url


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database_url=database_url)


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(settings, poolclass=NullPool)
    yield engine
    await engine.dispose()


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction that is rolled back, whatever the application commits in it."""
    async with engine.connect() as connection, connection.begin() as transaction:
        yield connection
        await transaction.rollback()


@pytest.fixture
async def database(settings: Settings, connection: AsyncConnection) -> AsyncIterator[Database]:
    """A database whose sessions are all in the one transaction of `connection`."""
    database = Database(settings, bind=connection, join_transaction_mode="create_savepoint")
    yield database
    await database.close()


@pytest.fixture
async def session(connection: AsyncConnection) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(connection, expire_on_commit=False, join_transaction_mode="create_savepoint") as session:
        yield session


@pytest.fixture
def app(settings: Settings, database: Database) -> FastAPI:
    app = create_app(settings)
    app.state.database = database
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        yield client
