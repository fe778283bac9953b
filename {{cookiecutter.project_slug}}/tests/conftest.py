"""What the tests share: databases of their own, a transaction that is rolled back, the application and its client."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.pool import NullPool

import devdb
from app.db.engine import create_engine
from app.db.url import asyncpg_dsn
from app.main import create_app
from app.settings import ROOT, Settings


def pytest_configure(config: pytest.Config) -> None:
    """Forget the developer's configuration, and start a server unless TEST_DATABASE_URL names one."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields:
            del os.environ[name]
    os.environ |= {"ENVIRONMENT": "test", "ENV_FILE": ""}
    if not config.option.collectonly and not os.environ.get("TEST_DATABASE_URL"):
        stack = ExitStack()
        config.add_cleanup(stack.close)
        try:
            # pytest-xdist's workers inherit it.
            os.environ["TEST_DATABASE_URL"] = stack.enter_context(devdb.throwaway())
        except devdb.DevdbError as error:
            raise pytest.UsageError(str(error)) from None


@contextmanager
def new_database() -> Iterator[str]:
    """Create a database beside the one that TEST_DATABASE_URL names, yield its URL, and drop it."""

    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(server)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    server = asyncpg_dsn(os.environ["TEST_DATABASE_URL"])
    name = f"test_{secrets.token_hex(8)}"
    asyncio.run(execute(f"CREATE DATABASE {name}"))
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
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
def sessionmaker(connection: AsyncConnection) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(connection, expire_on_commit=False, join_transaction_mode="create_savepoint")


@pytest.fixture
async def session(sessionmaker: async_sessionmaker[AsyncSession]) -> AsyncIterator[AsyncSession]:
    async with sessionmaker() as session:
        yield session


@pytest.fixture
def app(settings: Settings, engine: AsyncEngine, sessionmaker: async_sessionmaker[AsyncSession]) -> FastAPI:
    app = create_app(settings)
    app.state.engine = engine
    app.state.sessionmaker = sessionmaker
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        yield client
