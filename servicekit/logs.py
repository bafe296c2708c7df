"""Logging: one JSON line per event on standard output, with the request id."""

import logging
import sys
import time
from typing import Any

import structlog

from servicekit import call_context

# aiokafka reports several times per second that its broker is unavailable.
_REPEAT_SECONDS = {"aiokafka": 60.0}
_OTHER_REPEAT_SECONDS = 1.0


class _Sample(logging.Filter):
    """Passes each message of a library once per second, with the number of repetitions since: a
    client must not be able to fill the log with the same complaint (a malformed request, an
    undecodable message). Our own events always pass."""

    def __init__(self) -> None:
        super().__init__()
        # For each place in the code: when it was logged last, and how often it was not.
        self._last: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, dict):  # structlog's form of an event of our own
            return True
        pause = _REPEAT_SECONDS.get(record.name.partition(".")[0], _OTHER_REPEAT_SECONDS)
        place = (record.pathname, record.lineno)
        now = time.monotonic()
        last, suppressed = self._last.get(place, (-pause, 0))
        if now - last < pause:
            self._last[place] = (last, suppressed + 1)
            return False
        self._last[place] = (now, 0)
        if suppressed:
            record.msg = f"{record.msg} (and {suppressed} more)"
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
    handler.addFilter(_Sample())
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
