"""What processes and containers use, sampled while a load runs, and what the waiting room shows."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import psutil

from harness.errors import UserError
from harness.facts import RoomSamples
from loadtests.containers import Cgroup
from loadtests.model import Cores, Load, Resources, Sample
from loadtests.target import Target

_EVERY_SECONDS = 0.2
_SAMPLES_PER_POINT = 5


class ProcessTree:
    """A process and everything that it started. What has ended counts as nothing."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def _sum(self, measure: Callable[[psutil.Process], float]) -> float:
        total = 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._pid)
            for member in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += measure(member)
        return total

    def seconds(self) -> float:
        """Processor time so far."""
        return self._sum(lambda member: sum(member.cpu_times()[:2]))

    def megabytes(self) -> float:
        """Memory in use, in MB."""
        return self._sum(lambda member: member.memory_info().rss / 1e6)

    def connections(self) -> int:
        """Open TCP connections. Raises psutil.AccessDenied for another user's process."""

        def established(member: psutil.Process) -> int:
            found = member.net_connections("tcp")
            return sum(each.status == psutil.CONN_ESTABLISHED for each in found)

        return int(self._sum(established))


class ContainerGroup:
    """The containers of one service. What has ended counts as nothing."""

    def __init__(self, cgroups: Sequence[Cgroup]) -> None:
        self.cgroups = cgroups

    def _sum(self, measure: Callable[[Cgroup], float]) -> float:
        total = 0.0
        for cgroup in self.cgroups:
            with contextlib.suppress(OSError):
                total += measure(cgroup)
        return total

    def seconds(self) -> float:
        return self._sum(Cgroup.cpu_seconds)

    def megabytes(self) -> float:
        return self._sum(Cgroup.memory) / 1e6

    def connections(self) -> int:
        return int(self._sum(Cgroup.connections))

    def throttled(self) -> tuple[int, int]:
        """The periods in which a cap made it wait, and all periods in which it ran, so far."""
        waited, periods = zip(*(group.throttled() for group in self.cgroups), strict=True)
        return sum(waited), sum(periods)


Sources = Mapping[str, ProcessTree | ContainerGroup]


def sources_of(target: Target) -> Sources:
    """The processes or containers of the target by name, as far as this user may see them."""
    if not target.containers:
        return {name: ProcessTree(pid) for name, pid in target.pids().items()}
    return {name: ContainerGroup(cgroups) for name, cgroups in target.cgroups().items()}


def resources(sources: Sources) -> Resources:
    """Memory and connections now."""
    connections = {}
    for name, source in sources.items():
        with contextlib.suppress(psutil.AccessDenied):
            connections[name] = source.connections()
    return Resources(
        mb={name: round(source.megabytes()) for name, source in sources.items()},
        connections=connections,
    )


class Meter:
    """Processor time since it was made."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._seconds = self._used()
        self._machine = psutil.cpu_times()
        self._at = time.monotonic()

    def _used(self) -> dict[str, float]:
        return {name: source.seconds() for name, source in self._sources.items()}

    def used(self) -> dict[str, float]:
        """Seconds by name, over all threads."""
        return {name: max(0.0, now - self._seconds[name]) for name, now in self._used().items()}

    def stolen(self) -> float:
        """The share of the machine, 0 to 1, that the hypervisor gave to other machines."""
        now, before = psutil.cpu_times(), self._machine
        total = sum(now) - sum(before)
        return float((now.steal - before.steal) / total) if total else 0.0

    def sample(self) -> Sample:
        """The cores in use since the meter was made, and the memory in use now."""
        seconds, before, now = time.monotonic() - self._at, self._machine, psutil.cpu_times()
        cpu = {name: round(used / seconds, 3) for name, used in self.used().items()}
        idle = now.idle - before.idle + now.iowait - before.iowait
        busy = (sum(now) - sum(before) - idle) / seconds
        return Sample(
            at=round(time.time(), 1),
            cpu=cpu,
            mb={name: round(source.megabytes()) for name, source in self._sources.items()},
            other=round(max(0.0, busy - sum(cpu.values())), 3),
            steal=round(self.stolen(), 4),
        )


class Watch:
    """Samples sources (about once per second) and the waiting room (five times per second) in a
    thread of its own. `points` and `room` hold what was seen so far."""

    def __init__(self, target: Target, sources: Sources) -> None:
        self._sources = sources
        self._throttled = self._throttling()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="watch", daemon=True)
        self.points: list[Sample] = []
        self.room = RoomSamples(target.redis_url)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.room.close()

    def _sample(self) -> None:
        meter = Meter(self._sources)
        number = 0
        while not self._stop.wait(_EVERY_SECONDS):
            # k6 notices an unavailable Redis; a missing sample is no violation.
            with contextlib.suppress(UserError):
                self.room.sample()
            number += 1
            if number % _SAMPLES_PER_POINT == 0:
                self.points.append(meter.sample())
                meter = Meter(self._sources)

    def _throttling(self) -> dict[str, tuple[int, int]]:
        found = {}
        for name, source in self._sources.items():
            if isinstance(source, ContainerGroup):
                with contextlib.suppress(OSError):
                    found[name] = source.throttled()
        return found

    def load(self, first: float = 0.0, last: float = float("inf")) -> Load:
        """What the machine did between two Unix times (all points if there is none between)."""
        points = [each for each in self.points if first <= each.at <= last] or self.points
        cpu = {}
        for name in points[0].cpu if points else ():
            used = [point.cpu[name] for point in points]
            three = [statistics.fmean(used[at : at + 3]) for at in range(max(1, len(used) - 2))]
            cpu[name] = Cores(mean=round(statistics.fmean(used), 3), peak=round(max(three), 3))
        throttled = {}
        for name, (waited, periods) in self._throttling().items():
            before = self._throttled.get(name, (0, 0))
            share = (waited - before[0]) / max(1, periods - before[1])
            throttled[name] = max(0.0, round(share, 4))
        return Load(
            cpu=cpu,
            other_cores=round(statistics.median([point.other for point in points] or [0]), 3),
            steal=round(statistics.median([point.steal for point in points] or [0]), 4),
            throttled=throttled,
        )
