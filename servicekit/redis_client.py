"""Redis: one client per process, with bounded waits and translated errors."""

import contextlib
from collections.abc import AsyncIterator

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, InvalidResponse, ResponseError, TimeoutError

from servicekit.errors import Unavailable
from servicekit.redis_errors import Treatment, treatment


def connect(
    url: str, *, timeout: float, max_connections: int = 32, retries: int = 0, block: float = 0.0
) -> Redis:
    """Returns a client whose every command takes at most about `timeout` seconds.

    For commands that block, at most for `block` seconds, it waits that much longer for a reply.

    `url` is redis://[user:password@]host:port/db. At most `max_connections` commands run at once;
    more wait for a connection, at most `timeout` seconds. `retries` is how often a command is sent
    again after a lost connection, even if only its reply was lost: keep it 0 unless every command
    of the client is idempotent. Run commands inside `translated_errors`.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout,
        socket_timeout=timeout + block,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), retries),
    )
    # From the pool, so that closing the client closes its connections.
    return Redis.from_pool(pool)


@contextlib.asynccontextmanager
async def translated_errors(redis: Redis, detail: str) -> AsyncIterator[None]:
    """Raises Unavailable(`detail`) in place of redis-py's errors for a Redis that cannot be
    reached or cannot serve now (see `redis_errors`). Other errors, such as one in a script, are
    defects and pass unchanged."""
    try:
        yield
    except (ConnectionError, TimeoutError, InvalidResponse) as error:
        raise Unavailable(detail) from error
    except ResponseError as error:
        if await cannot_serve(redis, error):
            raise Unavailable(detail) from error
        raise


async def cannot_serve(redis: Redis, error: Exception) -> bool:
    """Returns whether this error means that Redis cannot serve now, rather than that the command
    is wrong. Replaces the connections if the address may lead to another server."""
    found = treatment(error) if isinstance(error, ResponseError) else None
    if found is Treatment.MOVE:
        await redis.connection_pool.disconnect(inuse_connections=False)
    return found is not None
