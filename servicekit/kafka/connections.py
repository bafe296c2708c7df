"""What the producer and the consumer share: timeouts, translated errors, and bounded closing."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

from aiokafka.errors import KafkaError

from servicekit import cancellation, logs
from servicekit.errors import Unavailable
from servicekit.kafka.errors import Treatment, treatment

log = logs.get(__name__)

REQUEST_TIMEOUT_MS = 10_000
RECONNECT_PAUSE_MS = 250
_CLOSE_SECONDS = 2.0
_LOG_REFUSAL_SECONDS = 60.0
# Class of an error -> when it was last logged.
_refusals_logged: dict[str, float] = {}


@contextlib.contextmanager
def translated_errors(detail: str) -> Iterator[None]:
    """Raises Unavailable in place of the errors of aiokafka (see `errors`), of a lost connection
    and of a timeout. That includes a cancellation that escaped aiokafka; one of the current task
    passes."""
    try:
        yield
    except (KafkaError, OSError, TimeoutError, asyncio.CancelledError) as error:
        if cancellation.is_ours(error):
            raise
        if treatment(error) is Treatment.REFUSED:
            _log_refusal(type(error).__name__)
        raise Unavailable(detail) from error


def _log_refusal(kind: str) -> None:
    now = asyncio.get_running_loop().time()
    if now - _refusals_logged.get(kind, -_LOG_REFUSAL_SECONDS) >= _LOG_REFUSAL_SECONDS:
        _refusals_logged[kind] = now
        log.error("kafka_refused", error=kind)


async def close_in_time(close: Callable[[], Awaitable[None]]) -> bool:
    """Runs `close` for at most 2 seconds; returns whether it succeeded."""
    try:
        with translated_errors("Kafka did not close the connection."):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await close()
    except Unavailable as error:
        log.debug("kafka_close_failed", error=type(error.__cause__).__name__)
        return False
    return True
