"""Which errors of Redis mean that it is unavailable, and which are defects."""

import pytest
from redis._parsers import BaseParser
from redis.exceptions import ResponseError, TimeoutError

from servicekit.errors import Unavailable
from servicekit.redis_client import connect, translated_errors


async def raise_inside(error: Exception) -> None:
    async with (
        connect("redis://127.0.0.1:1", timeout=0.1) as redis,
        translated_errors(redis, "The store is unavailable."),
    ):
        raise error


@pytest.mark.parametrize(
    "answer",
    [
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "NOREPLICAS Not enough good replicas to write.",
        "MISCONF Redis is configured to save RDB snapshots, but cannot persist on disk.",
        "BUSY Redis is busy running a script.",
        "LOADING Redis is loading the dataset in memory",
        "CLUSTERDOWN The cluster is down",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "READONLY You can't write against a read only replica.",
    ],
)
async def test_a_server_that_cannot_serve_now_is_unavailable(answer: str) -> None:
    error = BaseParser.parse_error(answer)  # type: ignore[no-untyped-call]
    with pytest.raises(Unavailable, match=r"The store is unavailable\.") as raised:
        await raise_inside(error)
    assert raised.value.__cause__ is error


async def test_a_timeout_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await raise_inside(TimeoutError("Timeout reading from socket"))


async def test_a_server_that_cannot_be_reached_is_unavailable() -> None:
    async with connect("redis://127.0.0.1:1", timeout=0.1) as redis:
        with pytest.raises(Unavailable):
            async with translated_errors(redis, "The store is unavailable."):
                await redis.get("key")


@pytest.mark.parametrize(
    "error", [ResponseError("ERR wrong number of arguments"), ValueError("a defect")]
)
async def test_a_defect_passes_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        await raise_inside(error)
    assert raised.value is error
