"""One stream of log lines, JSON in production and readable elsewhere, from whoever logs."""

import logging
import sys
import traceback
from typing import Any, TextIO, cast

import structlog
from asyncpg import PostgresError

from app.settings import DatabaseSettings, Environment
from app.text import printable

# Of these, the message may quote a value, and not only the detail: data_exception, and what PL/pgSQL raises.
QUOTING = ("22", "P0")


def configure_logging(settings: DatabaseSettings) -> None:
    """Send all logging of this process to standard error, the loggers of uvicorn, alembic and the warnings included."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.environment in (Environment.STAGING, Environment.PRODUCTION):
        logging.setLogRecordFactory(record)
        renderers: list[Any] = [
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # they are bodies and passwords
            ),
            structlog.processors.JSONRenderer(),
        ]
    else:
        renderers = [
            escape,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=write_traceback),
        ]
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


def write_traceback(stream: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    stream.write("\n" + printable("".join(traceback.format_exception(*exc_info)).rstrip()))


def drop_color_message(logger: Any, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Drop what uvicorn repeats for its own formatter."""
    event.pop("color_message", None)
    return event
