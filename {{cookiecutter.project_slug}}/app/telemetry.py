"""Traces, metrics and logs over OTLP, where the standard OTEL_* variables ask for them."""

import logging
import os
from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import _logs, trace
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.project import project

ENDPOINTS = [f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_", "LOGS_")]

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)
STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"}  # what any record may have


def configure(engines: Iterable[AsyncEngine], environment: str) -> TelemetryConfig:
    """Return what FastAPI shall do; if telemetry is asked for, have `engines` and Python's logging take part in it."""
    if not any(map(os.environ.get, ENDPOINTS)) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return {}
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return {}  # opentelemetry-instrument has seen to it
    if not find_spec("opentelemetry.sdk"):
        logger.warning("OTEL_EXPORTER_OTLP_* ask for telemetry, which needs what `uv sync --extra otel` installs")
        return {}
    about = {"service.name": project()["name"], "service.version": project()["version"]}
    about["deployment.environment.name"] = environment
    resource = ",".join(f"{key}={value}" for key, value in about.items())
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES")  # what is said twice counts as said last
    os.environ["OTEL_RESOURCE_ATTRIBUTES"] = f"{resource},{given}" if given else resource
    # Seconds. A service that stops sends its last three messages one after the other, be the collector there or not.
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    for engine in engines:
        for method in ("execute", "executemany"):
            event.listen(engine.sync_engine, f"do_{method}", partial(trace_statement, method))
    logging.getLogger().addHandler(Handler())
    # A span for the dependencies, the endpoint and the serialization each would double the cost of tracing.
    return {"auto_configure": True, "operation_spans": False, "exclude": is_probe}


def is_probe(scope: Any) -> bool:
    path: str = scope.get("path", "")
    return path.removeprefix(scope.get("root_path", "")) in ("/health/live", "/health/ready")


def trace_id() -> str | None:
    """Return the id of the current trace, 32 hexadecimal digits; None: there is none."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def trace_statement(method: str, cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    """Execute `statement` in a span and return True, or let SQLAlchemy do it outside of any (recorded) request."""
    if not trace.get_current_span().is_recording():
        return False
    with tracer.start_as_current_span(
        (statement.split(maxsplit=1) or ["query"])[0],
        kind=trace.SpanKind.CLIENT,
        attributes={"db.system.name": "postgresql", "db.query.text": statement},
        record_exception=False,  # PostgreSQL's messages quote what clients sent
        set_status_on_exception=False,
    ) as span:
        try:
            getattr(cursor, method)(statement, parameters)
        except Exception as error:
            span.set_attribute("error.type", getattr(error, "sqlstate", None) or type(error).__qualname__)
            span.set_status(trace.StatusCode.ERROR)
            raise
    return True


class Handler(logging.Handler):
    """Sends what is logged to the collector, with the trace it belongs to."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("opentelemetry"):
            return  # or the next thing to export would be that exporting failed
        try:
            _logs.get_logger(record.name).emit(
                timestamp=int(record.created * 1e9),
                severity_number=_logs.SeverityNumber(min(record.levelno // 10, 5) * 4 + 1),
                severity_text=record.levelname,
                body=sendable(self.format(record)),
                attributes={
                    name: sendable(value)
                    for name, value in vars(record).items()
                    if name not in STANDARD and isinstance(value, str | int | float)
                },
            )
        except (LookupError, TypeError, ValueError):  # of formatting; a line that cannot be written breaks no request
            self.handleError(record)


def sendable(value: Any) -> Any:
    """Replace lone surrogates in a text: UTF-8, and so OTLP, has none."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
