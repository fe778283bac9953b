"""A database URL means what it means to libpq, or is refused by name."""

import socket
import ssl
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from sqlalchemy import NullPool, text

from app.db.engine import DatabaseUnavailable, create_engine
from app.settings import Settings
from app.url import connect_arguments


async def ask(url: str, query: str) -> Any:
    engine = create_engine(Settings(database_url=url), poolclass=NullPool)
    async with engine.connect() as connection:
        return await connection.scalar(text(query))


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2"]
)
@pytest.mark.parametrize("space", ["", " \t\n"])
async def test_any_scheme_connects(database_url: str, scheme: str, space: str) -> None:
    parts = urlsplit(database_url)
    url = space + parts._replace(scheme=scheme).geturl() + space
    assert await ask(url, "SELECT '/' || current_database()") == parts.path


@pytest.mark.parametrize(
    ("parameters", "setting", "value"),
    [
        ("sslmode=prefer", "ssl_renegotiation_limit", None),
        ("sslmode=allow&channel_binding=prefer", "ssl", None),
        ("ssl=disable", "ssl", None),
        ("application_name=a%20b%25c+d", "application_name", "a b%c+d"),
        ("options=-c%20work_mem%3D5MB%20-c%20geqo%3Doff", "work_mem", "5MB"),
        ("connect_timeout=5&target_session_attrs=read-write", "transaction_read_only", "off"),
        ("statement_timeout=7000", "statement_timeout", "7s"),
    ],
)
async def test_a_parameter_does_what_it_says(
    database_url: str, parameters: str, setting: str, value: str | None
) -> None:
    url = urlsplit(database_url)._replace(query=parameters).geturl()
    found = await ask(url, f"SELECT current_setting('{setting}', true)")
    assert value is None or found == value


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://", {}),
        ("postgresql:///db?host=/run/pg", {"host": ["/run/pg"], "dsn": "postgresql:///db"}),
        ("postgresql://u@h:1/db?host=/run/pg", {"host": ["/run/pg"], "port": [1], "dsn": "postgresql://u@/db"}),
        ("postgresql://h:1/db?port=2", {"port": [2]}),
        ("postgresql://a:1,b:2/db?host=c,d", {"host": ["c", "d"], "port": [1, 2]}),
        ("postgresql:///?host=a,b&port=,2", {"host": ["a", "b"], "port": [5432, 2]}),
        ("postgresql://a,b:2/?host=c,d", {"host": ["c", "d"], "port": [5432, 2]}),
        ("postgresql://[::1],[::2]:3/db", {"host": ["::1", "::2"], "port": [5432, 3], "dsn": "postgresql:///db"}),
        ("postgresql://u:p@a:1,[::2]/", {"host": ["a", "::2"], "port": [1, 5432], "dsn": "postgresql://u:p@"}),
        ("postgresql://[::1],b", {"host": ["::1", "b"], "dsn": "postgresql://"}),
        ("postgresql://[::1],[::2]:3/?host=c,d&port=", {"host": ["c", "d"], "port": [5432, 3]}),
        ("postgresql://h/db?ssl=true", {"dsn": "postgresql://h/db?sslmode=require"}),
        ("postgresql:///?host=a,b&port=1,2", {"host": ["a", "b"], "port": [1, 2]}),
        ("postgresql://h/db?user=u&password=p%25+w&dbname=d", {"user": "u", "password": "p%+w", "database": "d"}),
        ("postgresql://[::1]:5432/db", {"dsn": "postgresql://[::1]:5432/db"}),
        ("postgresql:///db?host=::1", {"host": ["::1"]}),
        ("postgresql://a,b:2/db?sslmode=require", {"dsn": "postgresql://a,b:2/db?sslmode=require"}),
        ("postgresql://h/db?ssl=require", {"dsn": "postgresql://h/db?sslmode=require"}),
        ("postgresql://h/db?sslmode=require&channel_binding=disable", {"dsn": "postgresql://h/db?sslmode=require"}),
        ("postgresql://h/db", {"timeout": 10}),
        ("postgresql://h/db?connect_timeout=3", {"timeout": 3.0, "dsn": "postgresql://h/db"}),
        ("postgresql://h/db?connect_timeout=0", {"timeout": None}),
        ("postgresql:///", {"dsn": "postgresql://"}),
        ("postgresql:///?sslmode=require", {"dsn": "postgresql://?sslmode=require"}),
        ("postgresql://h/db?gssencmode=prefer&sslsni=1&sslcompression=0", {"dsn": "postgresql://h/db"}),
        ("postgresql://h/db?fallback_application_name=x", {"dsn": "postgresql://h/db?application_name=x"}),
        ("postgresql://h/db?my.setting=x", {"dsn": "postgresql://h/db?my.setting=x"}),
        ("postgresql://h/db", {"keepalives": {"SO_KEEPALIVE": 1}}),
        ("postgresql://h/db?keepalives=0&keepalives_idle=3", {"keepalives": {}, "dsn": "postgresql://h/db"}),
        ("postgresql://h/db?keepalives_idle=3", {"keepalives": {"SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 3}}),
    ],
)
def test_what_asyncpg_is_told(url: str, expected: dict[str, Any]) -> None:
    arguments = connect_arguments(url)
    assert {name: arguments[name] for name in expected} == expected
    assert set(arguments) <= {"dsn", "timeout", "keepalives", *expected}


@pytest.mark.parametrize(
    "parameters", ["channel_binding=require", "sslrootcert=system", "sslmode=disable&channel_binding=require"]
)
def test_tls_is_never_weakened(parameters: str) -> None:
    """asyncpg cannot bind a channel: the certificate is verified instead, whatever `sslmode` says."""
    context = connect_arguments(f"postgresql://h/db?{parameters}")["ssl"]
    assert isinstance(context, ssl.SSLContext)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense", "must look like postgresql://"),
        ("mysql://u:hunter2@h/db", "must look like postgresql://"),
        ("postgresql://u:hunter2#@h/db", "a # in it must be written %23"),
        ("postgresql://u:[hunter2]@h/db", "must be written %5B"),
        ("postgresql://u:hunter2@h/db?port=x", "a port must be a number"),
        ("postgresql://u:hunter2@h:x/db", "a port must be a number"),
        ("postgresql://u:hunter2@a:1,b:65536/db", "a port must be a number up to 65535"),
        ("postgresql://u:hunter2/@h/db", "in a password"),
        (
            "postgresql://app:hunter2%w@/1@db.example:5432/app",
            "in a password or a name, @ must be written %40, and / %2F",
        ),
        ("postgresql://app:hunter2@h/a/b", "in a password or a name, @ must be written"),
        (
            "postgresql://u:hunter2@h/db?pgbouncer=true",
            "does not know pgbouncer: set DATABASE_POOLER=transaction instead",
        ),
        ("postgresql://u:hunter2@h/db?schema=public", "does not know schema: say search_path instead"),
        ("postgresql://u:hunter2@h/db?connection_limit=5", "does not know connection_limit: "),
        ("postgresql://u:hunter2@h/db?hostaddr=127.0.0.1", "does not know hostaddr: "),
        ("postgresql://u:hunter2@h/db?service=x", "does not know service: say in the URL"),
        (
            "postgresql://u:hunter2@h/db?gssencmode=require",
            "cannot honour gssencmode: leave it out, or say disable or prefer",
        ),
        ("postgresql://u:hunter2@h/db?SSLMODE=disable", "does not know SSLMODE"),
        ("postgresql://u:hunter2@h/db?PGBOUNCER=true", "set DATABASE_POOLER=transaction instead"),
        ("postgresql://u:hunter2@h/db?target_session_attrs=nope", "target_session_attrs must be one of any,"),
        ("postgresql://u:hunter2@h/db?keepalives=yes", "keepalives must be a whole number"),
        ("postgresql://u:hunter2@evil.com,@localhost/db", "in a password, @ must be written %40"),
        ("postgresql://u:hunter2@h/db?sslmode=sometimes", "sslmode must be one of disable, allow,"),
        ("postgresql://u:hunter2@h/db?connect_timeout=soon", "connect_timeout must be"),
        ("postgresql://u:hunter2@h/db?channel_binding=maybe", "channel_binding must be"),
        ("postgresql://u:hunter2@h/db?sslmode=verify-ca&sslrootcert=/no/where.pem", "there is no file /no/where.pem"),
        ("postgresql://u:hunter2@h/db?sslcert=/no/where.pem", "there is no file /no/where.pem"),
        ("postgresql://u:hunter2@h/db?sslrootcert=system&sslcrl=x", "sslcrl cannot be combined"),
    ],
)
def test_what_is_wrong_with_a_url_is_named_and_no_secret_shown(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        Settings(database_url=url)
    assert "hunter2" not in str(error.value)


async def test_the_variables_of_libpq_mean_what_they_mean_to_psql(
    monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    parts = urlsplit(database_url)
    monkeypatch.setenv("PGDATABASE", parts.path[1:])
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=5MB")
    for url in (parts._replace(path="/").geturl(), parts._replace(path="", query="").geturl()):
        assert await ask(url, "SELECT '/' || current_database()") == parts.path
        assert await ask(url, "SELECT current_setting('work_mem')") == "5MB"
    with monkeypatch.context() as patch:
        patch.setenv("PGGSSENCMODE", "require")
        with pytest.raises(ValueError, match="cannot honour gssencmode"):
            Settings(database_url=database_url)


async def test_a_connection_is_kept_alive(database_url: str) -> None:
    url = urlsplit(database_url)._replace(query="keepalives_idle=77&sslmode=disable").geturl()
    engine = create_engine(Settings(database_url=url), poolclass=NullPool)
    async with engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        sock = raw._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77


@pytest.mark.parametrize(("host", "port"), [("a..b", "5432"), ("127.0.0.1", "x"), ("127.0.0.1", "65536")])
async def test_an_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, host: str, port: str) -> None:
    monkeypatch.setenv("PGPORT", port)
    with pytest.raises(DatabaseUnavailable, match="its URL, or PGPORT, is malformed"):
        await ask(f"postgresql://{host}/db", "SELECT 1")


async def test_any_character_may_stand_in_a_name_and_a_password(database_url: str) -> None:
    user, password = "o'h%a:r@a", "% @ : / # ? [ ] { } & = + %41 é"
    await ask(database_url, "SELECT 1")
    engine = create_engine(Settings(database_url=database_url), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    role = '"' + user + '"'
    async with engine.connect() as connection:
        await connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
        try:
            parts = urlsplit(database_url)
            login = f"{quote(user, safe='')}:{quote(password, safe='')}@{parts.netloc.rpartition('@')[2]}"
            assert await ask(parts._replace(netloc=login).geturl(), "SELECT current_user") == user
        finally:
            await connection.exec_driver_sql(f"DROP ROLE {role}")


def test_a_file_of_certificates_is_used(tmp_path: Path) -> None:
    root = tmp_path / "root.pem"
    root.write_text("")
    arguments = connect_arguments(f"postgresql://h/db?sslmode=verify-full&sslrootcert={root}")
    assert arguments["dsn"].endswith(f"sslmode=verify-full&sslrootcert={quote(str(root), safe='')}")


@pytest.mark.parametrize("password", ["zq9x/w", "zq9x?w", "zq9x@w"])
async def test_an_unencoded_password_is_in_no_traceback(password: str) -> None:
    with pytest.raises((DatabaseUnavailable, ValueError)) as error:
        await ask(f"postgresql://u:{password}@127.0.0.1:1/db", "SELECT 1")
    assert (
        "zq9x"
        not in "".join(traceback.format_exception(error.value, chain=True))
        .replace(password, "")
        .split("test_url.py")[-1]
    )
