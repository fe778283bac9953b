"""The engine connects to what providers call a database URL."""

from urllib.parse import urlsplit

import pytest
from sqlalchemy import NullPool, text

from app.db.engine import create_engine
from app.settings import Settings


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg2"])
@pytest.mark.parametrize("query", ["", "sslmode=prefer&application_name=a%20b"])
async def test_any_form_of_url_connects(database_url: str, scheme: str, query: str) -> None:
    parts = urlsplit(database_url)
    url = parts._replace(scheme=scheme, query=query or parts.query).geturl()
    engine = create_engine(Settings(database_url=f" {url}\n"), poolclass=NullPool)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT '/' || current_database()")) == parts.path
