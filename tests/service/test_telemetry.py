"""What a collector receives from the service as it is deployed: uvicorn, its own process, SIGTERM."""

import gzip
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from app.project import ROOT
from app.telemetry import Handler, sendable
from tests.service.conftest import TIME_LIMIT

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WITHOUT_EXTRA = """
from importlib import util

import uvicorn

find_spec = util.find_spec
util.find_spec = lambda name, package=None: None if name == "opentelemetry.sdk" else find_spec(name, package)
uvicorn.run("app.main:app", port=0)
"""
MESSAGES: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


class Collector(ThreadingHTTPServer):
    """Receives OTLP over HTTP and keeps it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.received: list[tuple[str, bytes]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def messages(self, path: str) -> list[Any]:
        return [MESSAGES[path].FromString(body) for received, body in self.received if received == path]

    def spans(self) -> list[Span]:
        scopes = [s for m in self.messages("/v1/traces") for r in m.resource_spans for s in r.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    def span(self, name: str) -> Span:
        (span,) = (span for span in self.spans() if span.name == name)
        return span

    def logs(self) -> list[LogRecord]:
        scopes = [s for m in self.messages("/v1/logs") for r in m.resource_logs for s in r.scope_logs]
        return [record for scope in scopes for record in scope.log_records]

    def metrics(self) -> dict[str, Any]:
        scopes = [s for m in self.messages("/v1/metrics") for r in m.resource_metrics for s in r.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        self.server.received.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        Thread(target=collector.serve_forever, daemon=True).start()
        yield collector
        collector.shutdown()


class Service:
    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.client = httpx2.Client(base_url=url)
        self.output = ""

    def stop(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.output += self.process.communicate(timeout=TIME_LIMIT)[0]
        assert self.process.returncode in (0, -signal.SIGTERM), self.output


@contextmanager
def serving(database_url: str, *python: str, **variables: str) -> Iterator[Service]:
    """Run the service until it is stopped; `python` are the arguments that start uvicorn."""
    process = subprocess.Popen(
        [sys.executable, *(python or ("-m", "uvicorn", "app.main:app", "--port", "0"))],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": database_url} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        output = ""
        for line in process.stdout:
            output += line
            if running := re.search(r"running on (http://\S+)", line):
                break
        else:
            pytest.fail(output)
        service = Service(process, running[1])
        service.output = output
        yield service
        if process.poll() is None:
            service.stop()
    finally:
        process.kill()
        process.communicate()


def attributes(pairs: Any) -> dict[str, str]:
    def value(pair: KeyValue) -> str:
        return str(getattr(pair.value, pair.value.WhichOneof("value") or "string_value"))

    return {pair.key: value(pair) for pair in pairs}


def item(name: str) -> dict[str, str]:
    return {"name": name, "price": "1.00"}


def test_a_request_is_one_trace_from_its_caller_to_the_database(database_url: str, collector: Collector) -> None:
    with serving(database_url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint) as service:
        made = service.client.post("/api/v1/items", json=item(secrets.token_hex(8))).json()
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        assert service.client.get(f"/api/v1/items/{made['id']}", headers=headers).status_code == 200
        assert service.client.get("/health/ready").status_code == 200

    request = collector.span("GET /api/v1/items/{item_id}")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    statements = [span for span in collector.spans() if span.trace_id == request.trace_id and span.name == "SELECT"]
    assert {statement.parent_span_id for statement in statements} == {request.span_id}
    item_of, tags_of = (attributes(statement.attributes)["db.query.text"] for statement in statements)
    assert "WHERE items.id = $1" in item_of
    assert "tags.item_id" in tags_of
    assert not [span.name for span in collector.spans() if "/health" in span.name]


def test_nothing_is_lost_when_the_service_stops_at_once(database_url: str, collector: Collector) -> None:
    with serving(database_url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint) as service:
        for _ in range(100):
            service.client.get("/api/v1/items")
        service.stop()

    assert len([span for span in collector.spans() if span.name == "GET /api/v1/items"]) == 100
    (duration,) = collector.metrics()["http.server.request.duration"].histogram.data_points
    assert duration.count == 100
    assert attributes(duration.attributes)["http.route"] == "/api/v1/items"
    traces = {span.trace_id for span in collector.spans()}
    lines = [record for record in collector.logs() if attributes(record.attributes).get("route") == "/api/v1/items"]
    assert len(lines) == 100
    assert {record.trace_id for record in lines} == traces


def test_the_service_says_who_it_is_unless_the_variables_do(database_url: str, collector: Collector) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.endpoint}/v1/traces",
        "OTEL_RESOURCE_ATTRIBUTES": "service.version=abc,team=items",
        "ENVIRONMENT": "staging",
    }
    with serving(database_url, **variables) as service:
        service.client.get("/api/v1/items")

    resource = attributes(collector.messages("/v1/traces")[0].resource_spans[0].resource.attributes)
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert resource["service.name"] == pyproject["project"]["name"]
    assert resource["service.version"] == "abc"
    assert resource["deployment.environment.name"] == "staging"
    assert resource["team"] == "items"
    assert {path for path, _ in collector.received} == {"/v1/traces"}


def test_what_clients_send_and_passwords_stay_here(database_url: str, collector: Collector) -> None:
    name = secrets.token_hex(8)
    with serving(database_url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint) as service:
        codes = [service.client.post("/api/v1/items", json=item(name)).status_code for _ in range(2)]

    assert codes[0] == 201
    assert codes[1] >= 400
    failed = next(span for span in collector.spans() if span.name == "INSERT" and span.status.code)
    assert attributes(failed.attributes)["error.type"] == "23505"
    received = b"".join(body for path, body in collector.received if path != "/v1/logs")
    password = re.search(r":([^:@/]+)@", database_url)
    for secret in [name, *([password[1]] if password else [])]:
        assert secret.encode() not in received


def test_without_the_variables_nothing_is_imported(database_url: str) -> None:
    command = ("-X", "importtime", "-m", "uvicorn", "app.main:app", "--port", "0")
    with serving(database_url, *command) as service:
        assert service.client.get("/api/v1/items").status_code == 200
    imported = {line.rsplit("|")[-1].strip() for line in service.output.splitlines()}
    assert "opentelemetry.trace" in imported
    assert not [name for name in imported if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]


def test_without_the_extra_the_service_says_so_and_runs(database_url: str, collector: Collector) -> None:
    with serving(database_url, "-c", WITHOUT_EXTRA, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint) as service:
        assert service.client.get("/api/v1/items").status_code == 200
    assert service.output.count("uv sync --extra otel") == 1
    assert not collector.received


def test_a_line_that_cannot_be_written_breaks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Handler().handle(logging.makeLogRecord({"name": "shop", "msg": "%s %s", "args": (1,)}))
    assert "Logging error" in capsys.readouterr().err
    assert sendable("a\ud800") == "a?"
