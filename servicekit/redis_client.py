"""Redis: one client per process, with bounded waits."""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect(url: str, *, timeout: float, max_connections: int = 32, retries: int = 0) -> Redis:
    """A client whose every command takes at most about `timeout` seconds.

    `url` is redis://[user:password@]host:port/db. More than `max_connections` commands at once
    wait for a connection, no longer than `timeout`. `retries` sends a command again after a lost
    connection, its reply lost perhaps: 0 unless every command of the client is idempotent.
    Raises redis.exceptions.ConnectionError or TimeoutError, its own, when Redis is away.
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
