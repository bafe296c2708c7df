"""Decodes the log of changes that the scripts append to. lua/log.lua describes it."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

from protos.frontrow.queue.v1 import queue_pb2
from queue_service.definition import Defined

_KINDS = {
    "J": queue_pb2.RoomChange.KIND_WAITING,
    "A": queue_pb2.RoomChange.KIND_ADMITTED,
    "C": queue_pb2.RoomChange.KIND_CLAIMED,
    "E": queue_pb2.RoomChange.KIND_ENDED,
}

# 1.2 µs each, in one step of the event loop; they take about as long again to apply.
STEP_PLACES = 4_000


async def decode_all(
    entries: Iterable[tuple[bytes, Mapping[bytes, bytes]]],
) -> AsyncIterator[tuple[bytes, queue_pb2.RoomChanges]]:
    """Returns what these entries changed, with their ids. Others run after some thousand places."""
    places = 0
    for entry_id, entry in entries:
        changes = decode(entry)
        places += len(changes.changes)
        yield entry_id, changes
        if places >= STEP_PLACES:
            places = 0
            await asyncio.sleep(0)


def decode(entry: Mapping[bytes, bytes]) -> queue_pb2.RoomChanges:
    """Returns what one script changed."""
    changes = queue_pb2.RoomChanges(
        epoch=int(entry[b"e"]),
        seq=int(entry[b"s"]),
        now_ms=int(entry[b"t"]),
        changes=[_change(word[0], word[1:].split(",")) for word in entry[b"c"].decode().split(" ")],
    )
    if text := entry.get(b"d"):
        # Such an entry always has the fields, as its last change.
        Defined.from_text(text.decode()).fill(changes.changes[-1].fields)
    return changes


def _change(kind: str, values: list[str]) -> queue_pb2.RoomChange:
    if kind == "F":
        return queue_pb2.RoomChange(
            kind=queue_pb2.RoomChange.KIND_FIELDS, fields=_fields(*map(int, values))
        )
    if len(values) == 1:
        return queue_pb2.RoomChange(kind=_KINDS[kind], number=int(values[0]))
    number, until_ms, user_id = values
    return queue_pb2.RoomChange(
        kind=_KINDS[kind],
        number=int(number),
        admitted_until_ms=int(until_ms),
        user_id=int(user_id),
    )


def _fields(
    capacity: int,
    max_waiting: int,
    paused: int,
    grace_until: int,
    settled_at: int,
    pace_at: int,
    pace_now: int,
    pace_before: int,
    unrecorded_at: int,
) -> queue_pb2.RoomFields:
    return queue_pb2.RoomFields(
        capacity=capacity,
        max_waiting=max_waiting,
        paused=bool(paused),
        grace_until_ms=grace_until,
        settled_at_ms=settled_at,
        pace_at_ms=pace_at,
        pace_now=pace_now,
        pace_before=pace_before,
        unrecorded_at_ms=unrecorded_at,
    )
