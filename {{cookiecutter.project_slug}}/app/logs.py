"""One stream of log lines, JSON in production and readable elsewhere, from whoever logs."""

import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import structlog
from asyncpg import PostgresError

from app.project import ROOT
from app.settings import DEPLOYED, DatabaseSettings
from app.text import printable

ACCESS = "app.access"
RESET = "\x1b[0m"
COLORS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
# Of these, the message may quote a value, and not only the detail: data_exception, and what PL/pgSQL raises.
QUOTING = ("22", "P0")


def configure_logging(settings: DatabaseSettings) -> None:
    """Send all logging of this process to standard error, the loggers of uvicorn, alembic and the warnings included."""
    is_json, is_debugging = settings.environment in DEPLOYED, settings.log_level == "DEBUG"
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso" if is_json else "%H:%M:%S", utc=is_json),
    ]
    if is_json:
        logging.setLogRecordFactory(record)
        renderers: list[Any] = [
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # they are bodies and passwords
            ),
            structlog.processors.JSONRenderer(),
        ]
    else:
        renderers = [structlog.processors.ExceptionRenderer(format_all if is_debugging else format_own), escape, line]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, drop_color_message, *renderers],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    if is_debugging:
        logging.getLogger("sqlalchemy.engine").setLevel(logging.INFO)  # statements; its own DEBUG is the rows
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.getLogger("uvicorn.access").disabled = True  # app.web.middleware writes a line for each request


def record(*arguments: Any, **options: Any) -> logging.LogRecord:
    """Return a record of which the traceback quotes no value that the database was sent."""
    record = logging.LogRecord(*arguments, **options)
    hide_values(record.exc_info[1] if record.exc_info else None, set())
    return record


def hide_values(error: BaseException | None, seen: set[int]) -> None:
    is_quoting = False
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        sqlstate = getattr(getattr(error, "orig", error), "sqlstate", None)
        is_quoting = is_quoting or str(sqlstate).startswith(QUOTING)  # as what it came from does
        if is_quoting:
            error.args = ("it may quote a value, and is hidden",)
        if isinstance(error, PostgresError):
            cast(Any, error).detail = None
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                hide_values(each, seen)
        error = error.__cause__ or error.__context__


def escape(logger: Any, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Let no text command the terminal."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}


def format_all(exc_info: structlog.typing.ExcInfo) -> str:
    return "".join(traceback.format_exception(*exc_info)).rstrip()


def format_own(exc_info: structlog.typing.ExcInfo) -> str:
    """Return the traceback without the frames of libraries, but for the last."""
    whole = traceback.TracebackException(*exc_info)
    left_out = sum(leave_out_libraries(part) for part in parts(whole))
    text = "".join(whole.format()).rstrip()
    return f"{text}\n({left_out} frames of libraries are left out; LOG_LEVEL=DEBUG shows them)" if left_out else text


def parts(error: traceback.TracebackException | None) -> Iterator[traceback.TracebackException]:
    """Yield `error` and those that it came from or is made of."""
    if error:
        yield error
        for other in (error.__cause__, error.__context__, *(error.exceptions or ())):
            yield from parts(other)


def leave_out_libraries(error: traceback.TracebackException) -> int:
    """Leave out the frames of libraries but for the last, and return how many they were."""
    number = len(error.stack)
    error.stack[:-1] = [frame for frame in error.stack[:-1] if is_own(Path(frame.filename))]
    return number - len(error.stack)


def is_own(file: Path) -> bool:
    return file.is_relative_to(ROOT) and "site-packages" not in file.parts


def line(logger: Any, name: str, event: structlog.typing.EventDict) -> str:
    """Return what a person reads: when, how bad, what, and of which request; then who says so, and the rest."""
    time, level, text, request_id = (event.pop(key, "") for key in ("timestamp", "level", "event", "request_id"))
    logger_name, trace = event.pop("logger", ""), event.pop("exception", "")
    color = COLORS.get(level, "") if sys.stderr.isatty() else ""
    written = f"{time} {color}{level:7}{color and RESET} {text.rstrip():66} {request_id}"
    rest = [f"[{logger_name}]", *(f"{key}={value}" for key, value in event.items())]
    if logger_name == ACCESS:
        rest = []  # its text has them
    return "\n".join(filter(None, (" ".join((written, *rest)).rstrip(), trace)))


def drop_color_message(logger: Any, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Drop what uvicorn repeats for its own formatter."""
    event.pop("color_message", None)
    return event
