"""The engine, as the application and the migrations create it."""

import asyncio
import ssl
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.db.url import connect_arguments
from app.settings import Settings

CERTIFICATE = "; sslmode=verify-... and channel_binding=require want one that sslrootcert (or the system) vouches for"


class DatabaseUnavailable(Exception):
    """There is no connection to be had; the message says why in one line."""


def create_engine(settings: Settings, **options: Any) -> AsyncEngine:
    """Return an engine for the database that `settings` name; nothing connects yet.

    `options` go to `sqlalchemy.ext.asyncio.create_async_engine`. Connecting raises DatabaseUnavailable.

    Raises:
        ConfigurationError: the settings name no database.
    """
    url = settings.database
    arguments = connect_arguments(url.get_secret_value()) if url else {}
    unprepared: dict[str, Any] = {}
    adapter: dict[str, Any] = {}
    if settings.database_pooler:
        # Unnamed statements neither collide nor stay behind on a server connection that belongs to many clients.
        unprepared = {"statement_cache_size": 0}
        adapter = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}

    async def connect() -> Any:
        # asyncpg, not SQLAlchemy, parses the URL: it knows sslmode, several hosts, sockets and any password.
        try:
            return await asyncpg.connect(**(arguments or await asyncio.to_thread(_devdb_arguments)), **unprepared)
        except TimeoutError as error:
            raise DatabaseUnavailable("cannot connect to the database: no answer in time") from error
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            hint = CERTIFICATE if isinstance(error, ssl.SSLCertVerificationError) else ""
            raise DatabaseUnavailable(
                f"cannot connect to the database: {' '.join(str(error).split())}{hint}"
            ) from error
        except OverflowError:
            raise DatabaseUnavailable("cannot connect to the database: its port is no port") from None
        except ValueError:  # from None: its message may hold a piece of the password
            raise DatabaseUnavailable(
                "cannot connect to the database: its URL is malformed (in a password, %-encode what is no letter or digit)"
            ) from None

    return create_async_engine(
        "postgresql+asyncpg://", connect_args={"async_creator_fn": connect, **adapter}, **options
    )


def _devdb_arguments() -> dict[str, Any]:
    import devdb  # for development only, so absent from a deployed service; Settings sees to that

    return connect_arguments(devdb.start())
