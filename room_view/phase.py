"""What a room does at a moment, by its fields and the clock of its store.

queue_service/lua/definition.lua says the same to the scripts.
"""

from typing import TypeAlias

from protos.frontrow.queue.v1 import queue_pb2

Phase: TypeAlias = queue_pb2.RoomPhase.ValueType

_ADMITS = frozenset({queue_pb2.ROOM_PHASE_OPEN, queue_pb2.ROOM_PHASE_BYPASSED})
_GIVES_PLACES = _ADMITS | {queue_pb2.ROOM_PHASE_GATHERING, queue_pb2.ROOM_PHASE_DRAWING}
_OVER = frozenset({queue_pb2.ROOM_PHASE_DRAINING, queue_pb2.ROOM_PHASE_CLOSED})


def phase_of(fields: queue_pb2.RoomFields, now_ms: int) -> Phase:
    """Returns the phase at `now_ms`, Unix time by the clock of the store. Each time belongs to the
    phase that begins with it.

    The end of the sale counts before the mode of the operator, and a bypass or drain before the
    times. Without a definition a room is open or paused.
    """
    if not fields.definition_version:
        return queue_pb2.ROOM_PHASE_PAUSED if fields.paused else queue_pb2.ROOM_PHASE_OPEN
    if 0 < fields.closes_at_ms <= now_ms:
        return queue_pb2.ROOM_PHASE_CLOSED
    if fields.bypassed:
        return queue_pb2.ROOM_PHASE_BYPASSED
    if fields.draining:
        return queue_pb2.ROOM_PHASE_DRAINING
    if now_ms < fields.gather_from_ms:
        return queue_pb2.ROOM_PHASE_NOT_OPEN
    if fields.paused:
        return queue_pb2.ROOM_PHASE_PAUSED
    if fields.is_draw and 0 < fields.gather_until_ms <= now_ms < fields.opens_at_ms:
        return queue_pb2.ROOM_PHASE_DRAWING
    if now_ms < fields.opens_at_ms:
        return queue_pb2.ROOM_PHASE_GATHERING
    return queue_pb2.ROOM_PHASE_OPEN


def gives_places(phase: Phase) -> bool:
    """Returns whether people may enter."""
    return phase in _GIVES_PLACES


def admits(phase: Phase) -> bool:
    """Returns whether people who wait may be admitted."""
    return phase in _ADMITS


def is_over(phase: Phase) -> bool:
    """Returns whether nobody will be admitted any more, unless the operator thinks again."""
    return phase in _OVER


def is_ordered(fields: queue_pb2.RoomFields, now_ms: int) -> bool:
    """Returns whether the order of a place is its position in line. Before the opening it is the
    number of places that wait, and may grow, also while the room is paused."""
    return now_ms >= fields.opens_at_ms or fields.bypassed


def next_change_ms(fields: queue_pb2.RoomFields, now_ms: int) -> int:
    """Returns how long it takes until a time of the definition comes, in ms; 0: none will."""
    if not fields.definition_version:
        return 0
    times = (
        fields.gather_from_ms, fields.gather_until_ms, fields.opens_at_ms, fields.closes_at_ms
    )  # fmt: skip
    return min((time - now_ms for time in times if time > now_ms), default=0)
