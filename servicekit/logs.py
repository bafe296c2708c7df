"""Logging: one JSON line per event on standard output, with the request id."""

import logging
import sys
import time
from typing import Any

import structlog

from servicekit import call_context

_REPEAT_SECONDS = 60.0


class _OncePerMinute(logging.Filter):
    """Passes each message of aiokafka once per minute: it reports several times per second that
    its broker is unavailable."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka"):
            return True
        now = time.monotonic()
        if now - self._last.get(str(record.msg), -_REPEAT_SECONDS) < _REPEAT_SECONDS:
            return False
        self._last[str(record.msg)] = now
        return True


def _add_request_id(
    _: Any, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if request_id := call_context.request_id.get():
        event["request_id"] = request_id
    return event


def configure(level: str) -> None:
    """Sets up the log of this process, for its own events and those of the libraries.

    `level` is the name of the lowest level that is logged, such as INFO.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request_id,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(_OncePerMinute())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # The HTTP clients would log each request a second time.
    for noisy in ("httpx", "httpcore", "alembic.runtime.migration", "aiokafka"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Returns the logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
