"""What providers hand out as a database URL -> what `asyncpg.connect` takes."""

import os
import re
import ssl
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRIBUTES = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
TIME_LIMIT = 10  # seconds, to connect
OF_PROCESS = {  # variables of libpq's that asyncpg does not read, and the parameters they stand for
    "PGCONNECT_TIMEOUT": "connect_timeout",
    "PGOPTIONS": "options",
    "PGCHANNELBINDING": "channel_binding",
    "PGGSSENCMODE": "gssencmode",
}
# How libpq does what asyncpg does; a value that asks for anything else cannot be honoured.
ONLY = {
    "gssencmode": ("disable", "prefer"),
    "gssdelegation": ("0",),
    "load_balance_hosts": ("disable",),
    "replication": ("false", "off", "no", "0"),
    "sslcertmode": ("allow",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
}
KEEPALIVES = {  # libpq's parameters, and the options of a socket as Linux and Windows call them
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
# What asyncpg understands, and the settings of a session that a URL is likely to bring; all others go into `options`.
KNOWN = re.compile(
    r"""gsslib | krbsrvname | options | passfile | sslcert | sslcrl | sslkey | sslmode | sslnegotiation | sslpassword
    | sslrootcert | ssl_(min|max)_protocol_version | target_session_attrs
    | application_name | bytea_output | client_encoding | client_min_messages | datestyle | DateStyle | extra_float_digits
    | default_transaction_(deferrable|isolation|read_only) | intervalstyle | IntervalStyle | jit | plan_cache_mode | role | row_security
    | (idle_in_transaction_session|idle_session|lock|statement|transaction)_timeout | search_path | synchronous_commit
    | timezone | TimeZone | work_mem | .*\..*""",
    re.VERBOSE,
)
HINTS = {
    "pgbouncer": "set DATABASE_POOLER=transaction instead",
    "schema": "say search_path instead",
    "service": "say in the URL what it stands for",
}
THIS_MACHINE = re.compile(r"(/.*|localhost|127(\.\d{1,3}){3}|::1|\[::1\]|)(:\d*)?", re.IGNORECASE)


def connect_arguments(url: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the keyword arguments of `asyncpg.connect` for the PostgreSQL URL `url`, and `keepalives` for its socket.

    The parameters are libpq's, https://www.postgresql.org/docs/current/libpq-connect.html, and mean what they mean there,
    as do the variables of libpq's in `environment`. asyncpg parses most of them itself, and passes the others on to the server.

    Raises:
        ValueError: saying what cannot be honoured, and never a piece of the URL's user name or password.
    """
    if not re.match(r"postgres(ql)?(\+\w+)?://", url := url.strip()):
        raise ValueError("must look like postgresql://user:password@host:5432/name")
    if "#" in url:
        raise ValueError("a # in it must be written %23")
    rest, _, pairs = url.partition("://")[2].partition("?")
    authority, slash, path = rest.partition("/")
    auth, at, hosts = authority.rpartition("@")
    if "@" in auth:  # asyncpg and libpq would take what stands after this one for the host
        raise ValueError("in a password, @ must be written %40")
    try:
        for part in (auth, *hosts.split(",")):  # one by one: some Pythons, and so asyncpg, refuse [] in several hosts
            urlsplit(f"//{part}")
    except ValueError:
        raise ValueError("what stands in [] is no address; elsewhere, [ must be written %5B") from None
    if set("@/") & set(path):  # asyncpg and libpq would take what stands before it for the host
        raise ValueError("in a password or a name, @ must be written %40, and / %2F")
    query = dict(parse_qsl(pairs.replace("+", "%2B"), keep_blank_values=True))  # to libpq, + is no space
    query = {OF_PROCESS[name]: value for name, value in environment.items() if name in OF_PROCESS and value} | query

    # What stands in the query wins, as in libpq; in asyncpg it loses.
    arguments: dict[str, Any] = {"timeout": _time_limit(query.pop("connect_timeout", str(TIME_LIMIT)))}
    for name in ("user", "password", "dbname", "database"):
        if name in query:
            arguments["database" if name == "dbname" else name] = query.pop(name)
    hosts = _hosts(hosts, query, arguments)
    arguments["keepalives"] = _keepalives(query)
    if context := _tls(query):
        arguments["ssl"] = context
    if name := query.pop("fallback_application_name", ""):
        query.setdefault("application_name", name)
    if query.get("target_session_attrs", "any") not in SESSION_ATTRIBUTES:
        raise ValueError(f"target_session_attrs must be one of {', '.join(SESSION_ATTRIBUTES)}")
    for name, values in ONLY.items():
        if query.pop(name, values[0]) not in values:
            raise ValueError(f"asyncpg cannot honour {name}: leave it out, or say {' or '.join(values)}")
    for name in query:
        if not KNOWN.fullmatch(name):
            hint = HINTS.get(name.lower(), f"if it is a setting of the server, say options=-c%20{quote(name)}=...")
            raise ValueError(f"asyncpg does not know {name}: {hint}")
    if not path:
        slash = ""  # or asyncpg would not look at PGDATABASE
    options = f"?{urlencode(query, quote_via=quote, safe='')}" if query else ""
    return arguments | {"dsn": f"postgresql://{auth}{at}{hosts}{slash}{path}{options}"}


def _hosts(hosts: str, query: dict[str, str], arguments: dict[str, Any]) -> str:
    """Return what of `hosts` may stay in the DSN; put the rest, and what the query says of them, into `arguments`."""
    of_hosts = [host.rpartition("]")[2].partition(":")[2] for host in hosts.split(",")]  # the ] ends an IPv6 address
    if "[" in hosts and "," in hosts and "host" not in query:
        query["host"] = re.sub(r"[\[\]]|:\d*(?=,|$)", "", hosts)
    ports = query.pop("port", "").split(",")
    if not all(re.fullmatch("[0-9]{0,5}", port) and int(port or 0) < 65536 for port in (*of_hosts, *ports)):
        raise ValueError("a port must be a number up to 65535 (in a password, %-encode what is no letter or digit)")
    if "host" in query:
        ports = ports if any(ports) else of_hosts
        arguments["host"] = query.pop("host").split(",")
        hosts = ""
    if any(ports):
        arguments["port"] = [int(port or 5432) for port in ports]
    return hosts


def _keepalives(query: dict[str, str]) -> dict[str, int]:
    """Return the options of the connection's socket, by their names in the module `socket`; libpq has keepalives on."""
    values = {name: query.pop(name, "") for name in ("keepalives", *KEEPALIVES)}
    for name, value in values.items():
        if not re.fullmatch(r"[0-9]{0,9}", value):
            raise ValueError(f"{name} must be a whole number")
    if values["keepalives"] == "0":
        return {}
    return {"SO_KEEPALIVE": 1} | {
        KEEPALIVES[name]: int(value) for name, value in values.items() if name in KEEPALIVES and int(value or 0)
    }


def _time_limit(seconds: str) -> float | None:
    if not re.fullmatch(r"-?\d+", seconds):
        raise ValueError("connect_timeout must be a whole number of seconds")
    return float(seconds) if int(seconds) > 0 else None


def _tls(query: dict[str, str]) -> ssl.SSLContext | None:
    """Leave in `query` what asyncpg understands of TLS; return a context where it cannot do what is asked for."""
    if "ssl" in query:  # what SQLAlchemy's own URLs for asyncpg call sslmode; JDBC's say true
        ssl_mode = query.pop("ssl")
        query.setdefault("sslmode", "require" if ssl_mode == "true" else ssl_mode)
    if query.get("sslmode", "prefer") not in SSL_MODES:
        raise ValueError(f"sslmode must be one of {', '.join(SSL_MODES)}")
    for name in ("sslrootcert", "sslcert", "sslkey"):
        if not query.get(name, "system"):
            del query[name]
        if query.get(name, "system") != "system" and not Path(query[name]).is_file():
            raise ValueError(f"{name}: there is no file {query[name]}")
    binding = query.pop("channel_binding", "prefer")
    if binding not in ("disable", "prefer", "require"):
        raise ValueError("channel_binding must be disable, prefer or require")
    return _verifying(query) if binding == "require" or query.get("sslrootcert") == "system" else None


def _verifying(query: dict[str, str]) -> ssl.SSLContext:
    """Return a context that knows the server by its certificate and name, as `sslmode=verify-full` does.

    asyncpg can neither bind a channel nor find the system's certificates. Both parameters ask for proof that no one sits
    between here and the server, and this is one.
    """
    for name in ("sslcrl", "sslpassword", "ssl_min_protocol_version", "ssl_max_protocol_version"):
        if name in query:
            raise ValueError(f"{name} cannot be combined with channel_binding=require or sslrootcert=system")
    root = query.pop("sslrootcert", "system")
    context = ssl.create_default_context(cafile=None if root == "system" else root)
    if "sslcert" in query:
        context.load_cert_chain(query.pop("sslcert"), query.pop("sslkey", None))
    return context


def parameters(dsn: str) -> dict[str, str]:
    """Return what stands after the ? of a DSN that `connect_arguments` made."""
    return dict(parse_qsl(urlsplit(dsn).query))


def addresses(arguments: dict[str, Any]) -> str:
    """Return the hosts and ports in what `connect_arguments` made, and nothing else of the URL."""
    netloc = unquote(urlsplit(arguments["dsn"]).netloc.rpartition("@")[2])
    hosts = arguments.get("host") or (netloc or os.environ.get("PGHOST") or "localhost").split(",")
    ports = arguments.get("port") or [os.environ.get("PGPORT") or 5432]
    has_port = "host" not in arguments and "port" not in arguments
    return ", ".join(
        host if has_port and ":" in host.rpartition("]")[2] else f"{host}:{port}"
        for host, port in zip(hosts, cycle(ports), strict=False)
    )


def database_name(arguments: dict[str, Any]) -> str:
    """Return the name of the database in what `connect_arguments` made."""
    parts = urlsplit(arguments["dsn"])
    user = (
        arguments.get("user") or unquote(parts.username or "") or os.environ.get("PGUSER") or "the user's own database"
    )
    return arguments.get("database") or unquote(parts.path[1:]) or os.environ.get("PGDATABASE") or user


def is_encrypted(url: str) -> bool:
    """Say whether a connection by `url` is sure to be encrypted, or leads to this machine only."""
    arguments = connect_arguments(url)
    hosts = arguments.get("host") or urlsplit(arguments["dsn"]).netloc.rpartition("@")[2].split(",")
    if not any(hosts):
        hosts = os.environ.get("PGHOST", "").split(",")  # what asyncpg does
    return (
        "ssl" in arguments
        or parameters(arguments["dsn"]).get("sslmode", os.environ.get("PGSSLMODE"))
        in ("require", "verify-ca", "verify-full")
        or all(map(THIS_MACHINE.fullmatch, hosts))
    )
