"""The documentation of a baked service works in a browser, and gets nothing from any other host."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import TIME_LIMIT, Service
from playwright.sync_api import ConsoleMessage, Error, Locator, Page, Request, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
HOST = "service.test"  # browsers and Swagger are more generous to localhost
REDOC_LOGO = "https://cdn.redoc.ly/redoc/logo-mini.svg"

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")


class Visit:
    """A page of a service, the requests that left the browser for elsewhere, and the complaints of the browser."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.own = (f"{origin}/", f"blob:{origin}/")
        self.requests: list[Request] = []
        self.complaints: list[str] = []
        page.on("request", self.note_request)
        page.on("console", self.note_message)
        page.on("pageerror", self.note_error)

    def note_request(self, request: Request) -> None:
        self.requests.append(request)

    def note_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def note_error(self, error: Error) -> None:
        self.complaints.append(str(error))

    @property
    def elsewhere(self) -> list[str]:
        foreign = [request for request in self.requests if not request.url.startswith(self.own)]
        return [request.url for request in foreign if request.failure != "csp"]


@contextmanager
def visit(service: Service, path: str) -> Iterator[Visit]:
    expect.set_options(timeout=TIME_LIMIT * 1000)
    with service.serve({"ALLOWED_HOSTS": HOST}) as client, sync_playwright() as playwright:
        rules = f"--host-resolver-rules=MAP {HOST} 127.0.0.1, MAP * ~NOTFOUND"
        with playwright.chromium.launch(executable_path=CHROMIUM, args=[rules]) as browser:
            origin = f"http://{HOST}:{client.base_url.port}"
            page = browser.new_page(base_url=origin)
            page.set_default_timeout(TIME_LIMIT * 1000)
            visit = Visit(page, origin)
            page.goto(path)
            yield visit


def send(operation: Locator, body: Any = None) -> Locator:
    """Send a request of Swagger's, with `body` if it has one, and return where the answer is shown."""
    operation.click()
    operation.get_by_role("button", name="Try it out").click()
    if body is not None:
        operation.locator("textarea").fill(json.dumps(body))
    operation.get_by_role("button", name="Execute").click()
    return operation.locator(".live-responses-table tbody")


def test_swagger_sends_what_it_proposes_and_shows_the_answer(service: Service) -> None:
    service.alembic("upgrade", "head")
    with visit(service, "/docs") as docs:
        operation = docs.page.locator("#operations-items-create_item")
        answer = send(operation)
        expect(answer.locator(".response-col_status")).to_have_text("201")
        proposed = json.loads(operation.locator("textarea").input_value())
        example = {"name": "Lamp", "description": "It shines", "price": "19.90", "status": "draft", "tags": ["bright"]}
        assert proposed == example
        answer = send(docs.page.locator("#operations-items-list_items"))
        expect(answer.locator(".response-col_status")).to_have_text("200")
        expect(answer).to_contain_text('"name": "Lamp"')
        assert docs.elsewhere == []
        assert docs.complaints == []


def test_redoc_lists_the_operations_and_finds_one(service: Service) -> None:
    with visit(service, "/redoc") as docs:
        expect(docs.page.get_by_role("heading", name="List Items")).to_be_visible()
        docs.page.get_by_role("textbox", name="Search").fill("items")  # its index is in a worker
        expect(docs.page.get_by_role("search")).to_contain_text("List Items")
        assert docs.elsewhere == []
        [complaint] = docs.complaints  # ReDoc wants a logo of its maker's, and does without
        assert complaint.startswith(f"Loading the image '{REDOC_LOGO}' violates")


def test_swagger_takes_the_token_of_a_user(users_service: Service) -> None:
    users_service.alembic("upgrade", "head")
    password = "correct horse battery staple"
    command = f"echo '{password}' | python -m app.auth add me@example.com --role admin"
    users_service.run("bash", "-c", command)
    with visit(users_service, "/docs") as docs:
        log_in = docs.page.locator("#operations-auth-log_in")
        answer = send(log_in, {"email": "me@example.com", "password": password})
        expect(answer.locator(".response-col_status")).to_have_text("201")
        [token] = re.findall('"token": "([^"]+)"', answer.inner_text())

        docs.page.get_by_role("button", name="Authorize").first.click()
        form = docs.page.locator(".auth-container", has_text="HTTPBearer")
        form.get_by_role("textbox").fill(token)
        form.get_by_role("button", name="Apply credentials").click()
        docs.page.get_by_role("button", name="Close").first.click()
        answer = send(docs.page.locator("#operations-auth-read_me"))
        expect(answer.locator(".response-col_status")).to_have_text("200")
        expect(answer).to_contain_text('"email": "me@example.com"')
        assert docs.elsewhere == []
        assert docs.complaints == []
