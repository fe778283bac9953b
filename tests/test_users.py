"""A service with users of its own: its machinery, on each PostgreSQL, on two processes, and with a mail server."""

import re
import shutil
import socketserver
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from email import message_from_bytes
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme
from conftest import ROOT, Service
from test_postgresql import folder, needs_postgresql, server  # noqa: F401  fixtures
from test_robustness import launch, wait_until
from test_service import blocks

AUTH = "/api/v1/auth"
ME, PASSWORD, OTHER = "me@example.com", "correct horse battery staple", "another horse, another staple"
FILES = sorted(path.stem.removeprefix("test_") for path in (ROOT / "tests/service_users").glob("test_*.py"))
CONFTEST = """\
import pytest
from httpx2 import AsyncClient
from sqlalchemy.ext.asyncio import AsyncSession

from tests.auth.signing_in import sign_in


@pytest.fixture
async def client(client: AsyncClient, session: AsyncSession) -> AsyncClient:
    client.headers |= await sign_in(session)
    return client
"""


@pytest.fixture
def complete(users_service: Service) -> Service:
    """A service with the tests of its machinery beside its own."""
    shutil.copytree(ROOT / "tests/service_users", users_service.path / "tests/service_users")
    return users_service


def test_every_test_of_the_machinery_is_clean(complete: Service) -> None:
    [router] = [block for block in blocks(complete, "python") if 'prefix="/reports"' in block]
    complete.write("app/reports/router.py", router)
    complete.run("ruff", "check")
    complete.run("ruff", "format", "--check")
    complete.run("mypy")
    complete.run("python", "-m", "migrations.lint")
    complete.run("--with", "pyright[nodejs]==1.1.414", "pyright")


@pytest.mark.parametrize("name", FILES)
def test_users_are_safe_on_the_development_database(complete: Service, name: str) -> None:
    complete.run("pytest", f"tests/service_users/test_{name}.py")


@needs_postgresql
@pytest.mark.parametrize("name", FILES)
def test_users_are_safe_on_the_system_s_postgresql(complete: Service, server: str, name: str) -> None:  # noqa: F811
    url = f"postgresql://{server}/postgres"
    complete.run("pytest", f"tests/service_users/test_{name}.py", env={"TEST_DATABASE_URL": url})


def add_user(service: Service) -> None:
    """Add an admin, as the README says."""
    service.alembic("upgrade", "head")
    command = f"echo '{PASSWORD}' | python -m app.auth add {ME} --role admin"
    assert ME in service.run("bash", "-c", command).stdout


def log_in(client: httpx2.Client, password: str = PASSWORD) -> httpx2.Response:
    return client.post(f"{AUTH}/sessions", json={"email": ME, "password": password})


@contextmanager
def two_processes(service: Service, **env: str) -> Iterator[list[Any]]:
    with ExitStack() as stack:
        yield [stack.enter_context(launch(service, env=env)) for _ in range(2)]


def test_sixty_guesses_at_two_processes_are_five(users_service: Service) -> None:
    add_user(users_service)
    with two_processes(users_service) as servers, ThreadPoolExecutor(60) as threads:
        for _ in range(3):
            users_service.sql("DELETE FROM throttles")
            guesses = [threads.submit(log_in, servers[number % 2].client, OTHER) for number in range(60)]
            assert Counter(guess.result().status_code for guess in guesses) == {401: 5, 429: 55}


def test_a_link_raced_at_two_processes_is_used_once_and_leaves_no_session(users_service: Service) -> None:
    add_user(users_service)
    with two_processes(users_service) as servers, ThreadPoolExecutor(20) as threads:
        password = PASSWORD
        for turn in range(3):
            users_service.sql("DELETE FROM throttles")
            servers[0].client.post(f"{AUTH}/password-links", json={"email": ME})
            token = link_in(servers[0].log, turn + 1)
            log_ins = [threads.submit(log_in, servers[number % 2].client, password) for number in range(5)]
            bodies = [{"token": token, "password": f"{OTHER} {turn} {number}"} for number in range(12)]
            used = [
                threads.submit(servers[number % 2].client.post, f"{AUTH}/passwords", json=body)
                for number, body in enumerate(bodies)
            ]
            statuses = [use.result().status_code for use in used]
            assert Counter(statuses) == {204: 1, 400: 11}
            assert {each.result().status_code for each in log_ins} <= {201, 401}
            assert users_service.sql("SELECT count(*) FROM sessions") == "0"
            password = bodies[statuses.index(204)]["password"]
            assert log_in(servers[1].client, password).status_code in (201, 429)
            users_service.sql("DELETE FROM sessions")


def link_in(log: Path, number: int) -> str:
    """Return the token of the link that the log has as the `number`th."""

    def found() -> list[str]:
        return re.findall(r"#([\w-]{43})\n", log.read_text(encoding="utf-8"))

    wait_until(lambda: len(found()) >= number)
    return found()[number - 1]


def test_a_log_out_at_one_process_counts_at_the_other(users_service: Service) -> None:
    add_user(users_service)
    with two_processes(users_service) as servers:
        one, other = (server.client for server in servers)
        headers = {"Authorization": f"Bearer {log_in(one).json()['token']}"}
        assert other.get(f"{AUTH}/me", headers=headers).status_code == 200
        assert one.delete(f"{AUTH}/sessions/current", headers=headers).status_code == 204
        assert other.get(f"{AUTH}/me", headers=headers).status_code == 401


def test_one_line_protects_items(users_service: Service) -> None:
    readme = (users_service.path / "README.md").read_text(encoding="utf-8")
    [line] = re.findall(r'^router = APIRouter\(prefix="/items".*SignedIn.*$', readme, re.MULTILINE)
    assert CONFTEST in readme
    router = users_service.path / "app/items/router.py"
    text = router.read_text(encoding="utf-8")
    text = re.sub(r"^router = .*$", line, text, count=1, flags=re.MULTILINE)
    text = text.replace("from app.db", "from app.auth.dependencies import SignedIn\nfrom app.db", 1)
    router.write_text(text, encoding="utf-8")
    users_service.write("tests/items/conftest.py", CONFTEST)
    failed = users_service.run("pytest", "tests/auth", check=False)
    assert "name it here" in failed.stdout
    openness = users_service.path / "tests/auth/test_openness.py"
    openness.write_text(re.sub(r'    ".* /api/v1/items.*",\n', "", openness.read_text()), encoding="utf-8")
    users_service.run(
        "pytest", "--deselect", "tests/items/test_router.py::test_requests_get_503_while_the_database_is_down"
    )
    users_service.run("ruff", "check")
    users_service.run("mypy")


class Conversation(socketserver.StreamRequestHandler):
    """What a mail server says to one client."""

    server: "MailServer"
    is_encrypted = False

    def handle(self) -> None:
        if self.server.is_tls_first:
            self.encrypt()
        self.say("220 mail")
        while line := self.rfile.readline().decode().strip():
            match line.split()[0].upper():
                case "EHLO":
                    self.say("250-mail\r\n250 AUTH PLAIN" if self.is_encrypted else "250-mail\r\n250 STARTTLS")
                case "STARTTLS":
                    self.say("220 go")
                    self.encrypt()
                case "AUTH":
                    self.server.said.append(line)
                    self.say("235 welcome")
                case "DATA":
                    self.say("354 go on")
                    lines = iter(self.rfile.readline, b".\r\n")
                    self.server.mails.append(b"".join(lines))
                    self.say("250 taken")
                case "QUIT":
                    self.say("221 bye")
                case _:
                    self.say("250 fine")

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())

    def encrypt(self) -> None:
        self.request = self.server.context.wrap_socket(self.request, server_side=True)
        self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb", buffering=0)
        self.is_encrypted = True


class MailServer(socketserver.ThreadingTCPServer):
    """A mail server that takes everything."""

    def __init__(self, certificate: trustme.LeafCert, *, is_tls_first: bool) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        self.is_tls_first = is_tls_first
        self.mails: list[bytes] = []
        self.said: list[str] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does not trust the certificate leaves."""


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
@pytest.mark.parametrize("is_trusted", [True, False], ids=["trusted", "untrusted"])
def test_mails_are_sent_over_tls_to_who_is_trusted(
    users_service: Service, tmp_path: Path, scheme: str, is_trusted: bool
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "root.pem")
    add_user(users_service)
    with MailServer(authority.issue_cert("localhost"), is_tls_first=scheme == "smtps") as mail_server:
        threading.Thread(target=mail_server.serve_forever, daemon=True).start()
        env = {
            "SMTP_URL": f"{scheme}://someone:p%40ss@localhost:{mail_server.server_address[1]}",
            "MAIL_FROM": "service@example.com",
            "WEB_URL": "https://app.example.com/a/page/with/a/path/that/is/as/long/as/some/are/and/a/little/longer",
        } | ({"SSL_CERT_FILE": str(tmp_path / "root.pem")} if is_trusted else {})
        with launch(users_service, env=env) as server:
            assert server.client.post(f"{AUTH}/password-links", json={"email": ME}).status_code == 202
            if is_trusted:
                wait_until(lambda: mail_server.mails)
                [mail] = map(message_from_bytes, mail_server.mails)
                assert (mail["To"], mail["From"]) == (ME, "service@example.com")
                text = mail.get_payload(decode=True)
                assert isinstance(text, bytes)
                [token] = re.findall(rf"{env['WEB_URL']}#([\w-]{{43}})\r?\n", text.decode())
                body = {"token": token, "password": OTHER}
                assert server.client.post(f"{AUTH}/passwords", json=body).status_code == 204
                assert mail_server.said == ["AUTH PLAIN AHNvbWVvbmUAcEBzcw=="]
                assert token not in server.log.read_text()
            else:
                wait_until(lambda: "was not sent" in server.log.read_text())
                assert not mail_server.mails
                assert not mail_server.said
        mail_server.shutdown()


def test_an_answer_does_not_wait_for_a_mail_server_that_hangs(users_service: Service) -> None:
    add_user(users_service)
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as silent:
        env = {"SMTP_URL": f"smtp://127.0.0.1:{silent.server_address[1]}", "MAIL_FROM": "service@example.com"}
        with launch(users_service, env=env) as server:
            for email in (ME, "nobody@example.com"):
                assert server.client.post(f"{AUTH}/password-links", json={"email": email}).status_code == 202
            assert server.client.get("/health/ready").status_code == 200
            assert "was not sent" not in server.log.read_text()
            wait_until(lambda: "was not sent" in server.log.read_text())
