"""The development database starts on demand, and survives what happens to it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from conftest import TIME_LIMIT, Service


def devdb(service: Service, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return service.run("python", "-m", "devdb", *arguments, check=check)


def start_client(service: Service, command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [service.python, "-m", "devdb", command],
        cwd=service.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIME_LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_concurrent_first_starts_share_one_server(service: Service) -> None:
    starts = [start_client(service, "url") for _ in range(6)]
    answers = [start.communicate(timeout=TIME_LIMIT) for start in starts]
    assert [start.returncode for start in starts] == [0] * len(starts), answers
    assert len({url for url, _ in answers}) == 1
    assert sum("it runs until `python -m devdb stop`" in said for _, said in answers) == 1


def test_it_keeps_its_data_and_its_address_until_it_is_reset(service: Service) -> None:
    assert devdb(service, "status", check=False).returncode == 3
    url = devdb(service, "url").stdout
    service.sql("CREATE TABLE kept ()")
    assert "running" in devdb(service, "status").stdout
    assert devdb(service, "stop").stdout == "stopped\n"
    assert devdb(service, "status", check=False).returncode == 3
    assert devdb(service, "stop").stdout == "it did not run\n"
    assert devdb(service, "url").stdout == url
    assert service.sql("SELECT count(*) FROM kept") == "0"
    devdb(service, "reset")
    assert service.sql("SELECT to_regclass('kept') IS NULL") == "t"


def test_it_listens_to_this_machine_only_and_asks_for_a_password(service: Service) -> None:
    devdb(service, "start")
    assert service.sql("SHOW listen_addresses") == "127.0.0.1"
    assert service.sql("SELECT DISTINCT auth_method FROM pg_hba_file_rules") == "scram-sha-256"
    assert (service.path / ".devdb/password").stat().st_mode & 0o777 == 0o600


def test_it_survives_the_death_of_the_server(service: Service) -> None:
    devdb(service, "start")
    service.sql("CREATE TABLE kept ()")
    pid = int((service.path / ".devdb/data/postmaster.pid").read_text().split()[0])
    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    assert service.sql("SELECT count(*) FROM kept") == "0"


def test_it_survives_the_death_of_a_client_that_starts_it(service: Service) -> None:
    for moment in (0.1, 0.2, 0.3, 0.4, 0.5):  # seconds: in initdb, in pg_ctl, and between
        with start_client(service, "start") as client:
            time.sleep(moment)
            client.kill()
    assert service.sql("SELECT 1") == "1"


def test_a_server_with_no_connection_left_still_runs_and_stops(service: Service) -> None:
    devdb(service, "start")
    service.sql("ALTER SYSTEM SET max_connections = 4")
    service.sql("ALTER SYSTEM SET superuser_reserved_connections = 0")
    service.sql("ALTER SYSTEM SET max_wal_senders = 0")
    devdb(service, "stop")
    url = devdb(service, "url").stdout.strip()
    code = f"""
import asyncio, asyncpg

async def main():
    connections = [await asyncpg.connect({url!r}) for _ in range(4)]
    print("full", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())"""
    with subprocess.Popen([service.python, "-c", code], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout
        assert client.stdout.readline() == "full\n"
        assert "running" in devdb(service, "status").stdout
        devdb(service, "reset")
        client.kill()
    assert not (service.path / ".devdb/data").exists()
    assert not listens(urlsplit(url).port or 0)


def test_a_project_may_be_moved_while_its_server_runs(service: Service) -> None:
    devdb(service, "start")
    service.sql("CREATE TABLE kept ()")
    old = service.path
    service.path = old.rename(old.parent / "moved")
    assert service.sql("SELECT count(*) FROM kept") == "0"
    (old / ".devdb/data").mkdir(parents=True)  # the old place is in use again
    assert service.sql("SELECT count(*) FROM kept") == "0"
    devdb(service, "reset")
    assert devdb(service, "status", check=False).returncode == 3


def test_a_copy_of_a_project_has_a_server_of_its_own(service: Service) -> None:
    devdb(service, "start")
    copy = Service(service.path.parent / "copy", service.env)
    subprocess.run(["cp", "-a", service.path, copy.path], check=True)
    url, copy_url = (devdb(each, "url").stdout for each in (service, copy))
    assert url != copy_url
    devdb(copy, "stop")
    assert "running" in devdb(service, "status").stdout


def test_a_pid_file_that_names_a_stranger_is_not_believed(service: Service) -> None:
    """As after a reboot: the pid lives again, as another program."""
    devdb(service, "start")
    pid_file = service.path / ".devdb/data/postmaster.pid"
    _, *rest = pid_file.read_text().split("\n")
    devdb(service, "stop")
    pid_file.write_text("\n".join([str(os.getpid()), *rest]))
    assert devdb(service, "status", check=False).returncode == 3
    assert service.sql("SELECT 1") == "1"


def test_another_program_on_its_port_moves_it(service: Service) -> None:
    devdb(service, "start")
    devdb(service, "stop")
    port = (service.path / ".devdb/port").read_text()
    with subprocess.Popen([sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1"]) as other:
        wait_until(lambda: listens(int(port)))
        assert service.sql("SELECT 1") == "1"
        other.terminate()
    assert (service.path / ".devdb/port").read_text() != port


def test_data_of_another_major_version_is_refused_in_one_sentence(service: Service) -> None:
    devdb(service, "start")
    devdb(service, "stop")
    (service.path / ".devdb/data/PG_VERSION").write_text("15\n")
    done = devdb(service, "start", check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"devdb: .*PostgreSQL 15.*`python -m devdb reset`.*\n", done.stderr)
    devdb(service, "reset")
    devdb(service, "start")


def test_a_throw_away_server_ends_with_its_client_however_that_dies(service: Service) -> None:
    code = "import devdb, time\nwith devdb.throwaway() as url: print(url, flush=True); time.sleep(600)"
    with subprocess.Popen([service.python, "-c", code], cwd=service.path, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout
        port = urlsplit(client.stdout.readline()).port
        assert port
        assert listens(port)
        client.kill()
    wait_until(lambda: not listens(port))


def test_a_folder_that_cannot_be_had_is_named_in_one_sentence(service: Service) -> None:
    service.write(".devdb", "in the way")
    done = devdb(service, "start", check=False)
    (service.path / ".devdb").unlink()
    assert done.returncode == 1
    assert re.fullmatch(r"devdb: .*my-service/.devdb.*\n", done.stderr)
