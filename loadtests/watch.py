"""What happens on the machine while k6 runs: processor time and memory by process, and whether
the waiting room keeps its promises at every sample."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil
import redis

from loadtests.containers import Cgroup
from loadtests.room import ROOM
from loadtests.target import Source, Target

_EVERY_SECONDS = 0.2
_SAMPLES_A_POINT = 5
# Reading all admitted of a larger room would itself be load.
_MAX_ADMITTED_READ = 5_000


@dataclasses.dataclass
class RoomSeen:
    """What the samples of the waiting room showed."""

    samples: int = 0
    over_capacity: int = 0
    most_waiting: int = 0
    overtakers: set[int] = dataclasses.field(default_factory=set)


class Watch:
    """Samples in a thread of its own from start to stop.

    `points`: one about every second, {"t": seconds, "cpu": {process: cores}, "mb": {process: MB},
    "other": cores used by anything else, "steal": share of the machine}.
    """

    def __init__(self, target: Target, sources: Mapping[str, Source]) -> None:
        self._families = {}
        for name, source in sources.items():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                self._families[name] = _family(source)
        self._redis = redis.Redis.from_url(target.redis_url, socket_timeout=2)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="watch", daemon=True)
        self.points: list[dict[str, Any]] = []
        self.room = RoomSeen()
        self.began = time.time()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._redis.close()

    def _sample(self) -> None:
        used, machine, at = self._used(), psutil.cpu_times(), time.monotonic()
        number = 0
        while not self._stop.wait(_EVERY_SECONDS):
            # A Redis that is busy or away is seen by k6; a sample less is no violation.
            with contextlib.suppress(redis.RedisError):
                self._look_at_room()
            number += 1
            if number % _SAMPLES_A_POINT:
                continue
            used_now, machine_now, now = self._used(), psutil.cpu_times(), time.monotonic()
            cpu = {
                name: round(max(0.0, used_now[name] - used.get(name, 0.0)) / (now - at), 3)
                for name in used_now
            }
            total = sum(machine_now) - sum(machine)
            steal = (machine_now.steal - machine.steal) / total if total else 0.0
            busy = total - (machine_now.idle - machine.idle) - (machine_now.iowait - machine.iowait)
            self.points.append(
                {
                    "t": round(time.time() - self.began, 1),
                    "cpu": cpu,
                    "mb": {
                        name: round(family.megabytes()) for name, family in self._families.items()
                    },
                    "other": round(max(0.0, busy / (now - at) - sum(cpu.values())), 3),
                    "steal": round(steal, 4),
                }
            )
            used, machine, at = used_now, machine_now, now

    def _used(self) -> dict[str, float]:
        return {name: family.seconds() for name, family in self._families.items()}

    def _look_at_room(self) -> None:
        prefix = f"{{queue:{ROOM}}}:"
        pipe = self._redis.pipeline(transaction=True)
        pipe.hget(prefix + "state", "capacity")
        pipe.zcard(prefix + "admitted")
        pipe.zcard(prefix + "waiting")
        pipe.zrange(prefix + "waiting", 0, 0)
        pipe.zrange(prefix + "admitted", 0, _MAX_ADMITTED_READ)
        capacity, admitted, waiting, first, inside = pipe.execute()
        if capacity is None:
            return  # nobody has ever entered: there is nothing to see
        self.room.samples += 1
        self.room.most_waiting = max(self.room.most_waiting, waiting)
        if admitted > int(capacity):
            self.room.over_capacity += 1
        # Place numbers rise in the order of joining: whoever is in while an earlier one waits
        # has overtaken.
        if first:
            self.room.overtakers.update(
                place for place in map(int, inside) if place > int(first[0])
            )


class _Family:
    """A process and what it started."""

    def __init__(self, pid: int) -> None:
        self._parent = psutil.Process(pid)

    def _members(self) -> list[psutil.Process]:
        try:
            return [self._parent, *self._parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def seconds(self) -> float:
        """Processor time so far."""
        total = 0.0
        for member in self._members():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                total += times.user + times.system
        return total

    def megabytes(self) -> float:
        total = 0.0
        for member in self._members():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss / 1e6
        return total

    def connections(self) -> int:
        total = 0
        for member in self._members():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(
                    connection.status == psutil.CONN_ESTABLISHED
                    for connection in member.net_connections("tcp")
                )
        return total


class _Containers:
    """Containers of one service."""

    def __init__(self, groups: Sequence[Cgroup]) -> None:
        self._groups = groups

    def _sum(self, measure: Callable[[Cgroup], float]) -> float:
        total = 0.0
        for group in self._groups:
            with contextlib.suppress(OSError):  # it has ended
                total += measure(group)
        return total

    def seconds(self) -> float:
        return self._sum(Cgroup.cpu_seconds)

    def megabytes(self) -> float:
        return self._sum(Cgroup.memory) / 1e6

    def connections(self) -> int:
        return int(self._sum(Cgroup.connections))


def _family(source: Source) -> _Family | _Containers:
    return _Family(source) if isinstance(source, int) else _Containers(source)


def connections(sources: Mapping[str, Source]) -> dict[str, int]:
    """Open TCP connections of each process now."""
    found = {}
    for name, source in sources.items():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            found[name] = _family(source).connections()
    return found


def megabytes(sources: Mapping[str, Source]) -> dict[str, int]:
    """Memory of each process now, in MB."""
    found = {}
    for name, source in sources.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            found[name] = round(_family(source).megabytes())
    return found


def throttling(sources: Mapping[str, Source]) -> dict[str, tuple[int, int]]:
    """Of each service in containers, in how many periods its cap made it wait so far, and how
    many there were."""
    found = {}
    for name, source in sources.items():
        if not isinstance(source, int):
            with contextlib.suppress(OSError):
                waited, periods = zip(*(group.throttled() for group in source), strict=True)
                found[name] = (sum(waited), sum(periods))
    return found
