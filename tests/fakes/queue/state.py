"""What the fake knows of a room."""

import asyncio
from dataclasses import dataclass, field

from protos.frontrow.queue.v1 import queue_pb2
from queue_service.definition import Defined
from queue_service.domain import (
    Limits,
    Place,
)

YEAR_2026 = 1_767_225_600_000
MINUTE = 60_000

CHUNK = 1_000
"""Places of a part of a snapshot."""


def number_at(ms: int) -> int:
    """The first place number of a millisecond."""
    return (ms - YEAR_2026) * 4096


ASK_AGAIN_MS = 500  # as in hand_back.lua
UNKNOWN_OWNER = 0


@dataclass
class Healing:
    """Who hands back in this epoch. Copies are compared by (epoch, seq)."""

    bids_until: int
    bid: tuple[int, int] = (0, 0)
    bidder: str = ""
    bid_at: int = 0
    handed: tuple[int, int] = (0, 0)


@dataclass
class Shown:
    """What a copy of a room shows."""

    waiting: set[int] = field(default_factory=set)
    admitted: dict[int, queue_pb2.AdmittedPlace] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    fields: queue_pb2.RoomFields = field(default_factory=queue_pb2.RoomFields)


@dataclass(frozen=True)
class LogEntry:
    id: int
    at: int
    changes: bytes


@dataclass
class State:
    limits: Limits
    epoch: int
    last: int
    grace_until: int
    settled_at: int
    resumed_at: int
    heard_at: int
    blind: int
    defined: Defined | None = None
    removed_version: int = 0
    next_at: float = 0.0  # when the next admission is allowed, ms
    changed_limits: set[str] = field(default_factory=set)
    live: dict[int, Place] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)
    admitted: dict[int, int] = field(default_factory=dict)
    unclaimed: set[int] = field(default_factory=set)
    sources: dict[str, int] = field(default_factory=dict)
    solutions: set[str] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    known: list[range] = field(default_factory=list)
    restored_in: dict[int, float] = field(default_factory=dict)
    safe: int = 0
    cut: bool = False
    attempts: set[tuple[int, str]] = field(default_factory=set)
    pace_at: int = 0
    pace_now: int = 0
    certain: int = 0
    healed: bool = False
    healing: Healing | None = None
    seq: int = 0
    shown: Shown = field(default_factory=Shown)
    log: list[LogEntry] = field(default_factory=list)


@dataclass
class Clock:
    now: int


@dataclass
class Appends:
    """To all logs of the store."""

    count: int = 0
    next: asyncio.Event = field(default_factory=asyncio.Event)
