"""Redis: one client per process, with bounded waits and translated errors."""

import contextlib
from collections.abc import AsyncIterator

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    ClusterDownError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)

from servicekit.errors import Unavailable

# Redis cannot write (disk full, too few replicas) or runs a slow script: errors for which
# redis-py has no class.
_TRANSIENT = ("MISCONF", "NOREPLICAS", "BUSY")


def connect(url: str, *, timeout: float, max_connections: int = 32, retries: int = 0) -> Redis:
    """Returns a client whose every command takes at most about `timeout` seconds.

    `url` is redis://[user:password@]host:port/db. At most `max_connections` commands run at once;
    more wait for a connection, at most `timeout` seconds. `retries` is how often a command is sent
    again after a lost connection, even if only its reply was lost: keep it 0 unless every command
    of the client is idempotent. Run commands inside `translated_errors`.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), retries),
    )
    # From the pool, so that closing the client closes its connections.
    return Redis.from_pool(pool)


@contextlib.asynccontextmanager
async def translated_errors(redis: Redis, detail: str) -> AsyncIterator[None]:
    """Raises Unavailable(`detail`) in place of redis-py's errors for a Redis that cannot be
    reached, is loading, is read-only, is full or cannot write. Other errors, such as one in a
    script, are defects and pass unchanged."""
    try:
        yield
    except ReadOnlyError as error:
        # A fail-over made this server a replica; the name leads to another one now.
        await redis.connection_pool.disconnect(inuse_connections=False)
        raise Unavailable(detail) from error
    except (ConnectionError, TimeoutError, OutOfMemoryError, ClusterDownError) as error:
        raise Unavailable(detail) from error
    except ResponseError as error:
        if str(error).partition(" ")[0] in _TRANSIENT:
            raise Unavailable(detail) from error
        raise
