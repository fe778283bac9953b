"""The engine, as the application and the migrations create it."""

import asyncio
import os
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.settings import DatabaseSettings, MigrationSettings
from app.text import one_line
from app.url import addresses, connect_arguments, parameters

CERTIFICATE = "; sslmode=verify-... and channel_binding=require want one that sslrootcert (or the system) vouches for"
NO_ANSWER = "no answer in time"
FOREIGN = "; asyncpg wants to read ~/.postgresql, where HOME={}"


class DatabaseUnavailable(Exception):
    """There is no connection to be had, or it is lost; the message says why in one line."""


class OutcomeUnknown(DatabaseUnavailable):
    """The answer to a COMMIT is lost, so what it was to store may be stored or not."""


def create_engine(
    settings: DatabaseSettings,
    url: SecretStr | None = None,
    server_settings: dict[str, str] | None = None,
    command_timeout: float | None = None,
    **options: Any,
) -> AsyncEngine:
    """Return an engine for `url`, or else for the database that `settings` name; nothing connects yet.

    `server_settings` are PostgreSQL's, for each session, and `command_timeout` is in seconds; `options` go to
    `sqlalchemy.ext.asyncio.create_async_engine`. Connecting raises DatabaseUnavailable.

    Raises:
        ConfigurationError: the settings name no database.
    """
    url = url or settings.database
    arguments = connect_arguments(url.get_secret_value()) if url else {}
    named = parameters(arguments.get("dsn", ""))  # what the URL says of the session wins
    extra: dict[str, Any] = {
        "command_timeout": command_timeout,
        "server_settings": {k: v for k, v in (server_settings or {}).items() if k not in named},
    }
    if arguments and not urlsplit(arguments["dsn"]).password and "password" not in arguments:
        extra["password"] = settings.database_password()
    adapter: dict[str, Any] = {}
    if settings.database_pooler or isinstance(settings, MigrationSettings):  # which look whether there is a pooler
        # Unnamed statements neither collide nor stay behind on a server connection that belongs to many clients.
        extra["statement_cache_size"] = 0
        adapter = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}

    async def connect() -> Any:
        return await _connect(**(arguments or await asyncio.to_thread(_devdb_arguments)), **extra)

    return create_async_engine(
        "postgresql+asyncpg://", connect_args={"async_creator_fn": connect, **adapter}, hide_parameters=True, **options
    )


async def _connect(keepalives: dict[str, int], **arguments: Any) -> Any:
    """Have asyncpg, not SQLAlchemy, parse the URL: it knows sslmode, several hosts, sockets and any password."""
    try:
        connection: Any = await asyncpg.connect(**arguments)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        reason = NO_ANSWER if isinstance(error, TimeoutError) else one_line(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            reason += CERTIFICATE
        elif isinstance(error, PermissionError):
            reason += FOREIGN.format(os.environ.get("HOME"))
        raise DatabaseUnavailable(f"cannot connect to the database at {addresses(arguments)}: {reason}") from error
    except (OverflowError, ValueError):  # from None: asyncpg's message may hold a piece of the URL
        raise DatabaseUnavailable("cannot connect to the database: its URL, or PGPORT, is malformed") from None
    sock = connection._transport.get_extra_info("socket")
    if sock.family != getattr(socket, "AF_UNIX", None):
        for name, value in keepalives.items():
            if hasattr(socket, name):
                sock.setsockopt(
                    socket.SOL_SOCKET if name.startswith("SO_") else socket.IPPROTO_TCP, getattr(socket, name), value
                )
    return connection


def _devdb_arguments() -> dict[str, Any]:
    import devdb  # for development only, so absent from a deployed service; Settings sees to that

    return connect_arguments(devdb.start(), {})
