"""What providers hand out as a database URL -> what asyncpg takes."""

import re

from app.settings import Settings


def database_url(settings: Settings) -> str:
    """Return the URL of the database in the form that `asyncpg.connect` takes.

    Starts the development database where the settings leave it to `devdb`.

    Raises:
        devdb.DevdbError: the development database does not start.
    """
    if settings.database_url is None:
        import devdb  # for development only, so absent from a deployed service; Settings sees to that

        return devdb.start()
    return asyncpg_dsn(settings.database_url.get_secret_value())


def asyncpg_dsn(url: str) -> str:
    """Return `url` without white space around it and without a driver's name; asyncpg parses the rest."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url.strip())
