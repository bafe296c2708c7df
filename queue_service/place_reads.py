"""Reads the places of a room while it changes: what is there all the time is found."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from redis.asyncio import Redis

from protos.frontrow.queue.v1 import queue_pb2
from room_view.draw import FIRST_NUMBER, STEP

_ADMITTED_CHUNK = 1_000


async def waiting_parts(redis: Redis, line: str, chunk: int) -> AsyncIterator[Sequence[int]]:
    """Returns the numbers of the places that wait, at most `chunk` at a time, some of them twice.
    `line` is the key `waiting` of a room."""
    async for members in _by_score(redis, line, str(FIRST_NUMBER), "+inf", chunk):
        yield members
    # Places move from their numbers to their ranks and never back: so those with ranks are read
    # last. Some come twice.
    async for members in _by_score(redis, line, "0", f"({FIRST_NUMBER}", min(chunk, STEP)):
        yield sorted(members)


async def _by_score(
    redis: Redis, line: str, lowest: str, highest: str, chunk: int
) -> AsyncIterator[list[int]]:
    while True:
        # By score: positions would shift while the line changes.
        members: Any = await redis.zrange(
            line,
            lowest,
            highest,
            byscore=True,
            offset=0,
            num=chunk,
            withscores=True,
        )
        if not members:
            return
        yield [int(member) for member, _ in members]
        lowest = f"({int(members[-1][1])}"


async def admitted_parts(
    redis: Redis, admitted: str, places: str, unclaimed: str, chunk: int
) -> AsyncIterator[list[queue_pb2.AdmittedPlace]]:
    """Returns the admitted places, about `chunk` at a time, some of them twice, from the keys of a
    room with these names."""
    cursor = 0
    while True:
        # Returns everything that is there all the time, some of it twice.
        cursor, found = await redis.zscan(admitted, cursor, count=min(chunk, _ADMITTED_CHUNK))
        if found:
            numbers = [number for number, _ in found]
            records: Any = await redis.hmget(places, numbers)
            are_unclaimed = await redis.smismember(unclaimed, numbers)
            yield [
                queue_pb2.AdmittedPlace(
                    number=int(number),
                    user_id=int(record.partition(b":")[0]),
                    admitted_until_ms=int(until_ms),
                    claimed=not is_unclaimed,
                )
                for (number, until_ms), record, is_unclaimed in zip(
                    found, records, are_unclaimed, strict=True
                )
                if record is not None  # or it has just ended, as the log says
            ]
        if cursor == 0:
            return
