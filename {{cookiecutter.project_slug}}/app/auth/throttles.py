"""How often something may be tried: a row for each key in the database, so that all processes count as one."""

import math
from datetime import timedelta
from ipaddress import IPv6Address
from typing import NamedTuple

from fastapi import HTTPException, Request
from sqlalchemy import text

from app.db.session import Database


class Limit(NamedTuple):
    """`burst` at once, and then one every `seconds`."""

    name: str
    burst: int
    seconds: int


LOG_IN_FROM_NETWORK = Limit("log-in account network", 5, 60)
LOG_INS_OF_NETWORK = Limit("log-in network", 30, 10)
LOG_INS_OF_ACCOUNT = Limit("log-in account", 100, 36)
LINKS_OF_NETWORK = Limit("link network", 20, 180)
LINKS_OF_ACCOUNT = Limit("link account", 3, 1200)
SETTINGS_OF_NETWORK = Limit("set network", 20, 10)
CHANGES_OF_USER = Limit("change user", 5, 60)

# The generic cell rate algorithm: each attempt moves `until` ahead, which may be only so far from now; not from now(), the
# start of a transaction, since the one that started first may be the last to have its turn.
SPEND = text("""
    INSERT INTO throttles AS t (key, until) VALUES (:key, clock_timestamp() + CAST(:step AS interval))
    ON CONFLICT (key) DO UPDATE SET until = greatest(t.until, clock_timestamp()) + :step
    WHERE greatest(t.until, clock_timestamp()) <= clock_timestamp() + CAST(:slack AS interval)
    RETURNING true
""")
WAIT = text(
    "SELECT extract(epoch FROM until - clock_timestamp() - CAST(:slack AS interval)) FROM throttles WHERE key = :key"
)
FORGET = text("""
    DELETE FROM throttles WHERE key IN (
        SELECT key FROM throttles WHERE until < now() ORDER BY until LIMIT 5 FOR UPDATE SKIP LOCKED
    )
""")


async def spend(database: Database, *spent: tuple[Limit, str]) -> None:
    """Count an attempt against each of the limits, by its key, until one is reached; whatever comes of it, it counts.

    Raises:
        HTTPException: 429, one is reached.
    """
    async with database.session() as session:
        for limit, name in spent:
            key, slack = f"{limit.name} {name}", timedelta(seconds=limit.seconds * (limit.burst - 1))
            step = timedelta(seconds=limit.seconds)
            if not await session.scalar(SPEND, {"key": key, "step": step, "slack": slack}):
                wait = math.ceil(await session.scalar(WAIT, {"key": key, "slack": slack}) or 1)
                break
        else:
            wait = 0
        await session.execute(FORGET)
    if wait:
        raise HTTPException(429, "too many attempts", {"Retry-After": str(wait)})


def network(request: Request) -> str:
    """Return what one client may have many addresses of: an address of IPv4, or a /64 of IPv6."""
    host = request.client.host if request.client else ""
    try:
        address = IPv6Address(host)
    except ValueError:  # of IPv4, or of a socket without addresses, where all clients are one
        return host
    return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))
