"""When people may enter and be admitted."""

import math

from protos.frontrow.queue.v1 import queue_pb2
from queue_service.domain import (
    Rules,
)
from room_view import phase as phases
from tests.fakes.queue.state import MINUTE, YEAR_2026, Clock, State


class Flow:
    """The clock, and the rules of time."""

    def __init__(self, rules: Rules) -> None:
        self._clock = Clock(YEAR_2026 + 3_600_000_000)
        self._rules = rules
        self._admissions = 0

    @property
    def now(self) -> int:
        """Unix time in milliseconds."""
        return self._clock.now

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self._clock.now += round(seconds * 1000)

    def _is_bypassed(self, state: State) -> bool:
        return self._phase(state) == queue_pb2.ROOM_PHASE_BYPASSED

    def _phase(self, state: State) -> phases.Phase:
        return phases.phase_of(self._fields(state), self.now)

    def _fields(self, state: State) -> queue_pb2.RoomFields:
        fields = queue_pb2.RoomFields(paused=state.limits.paused)
        if state.defined:
            state.defined.fill(fields)
        return fields

    def _is_graced(self, state: State) -> bool:
        return self.now < state.grace_until and not self._is_bypassed(state)

    def _free_slots(self, state: State) -> float:
        if self._is_bypassed(state):
            return math.inf
        return state.limits.capacity - len(state.admitted)

    def _has_room_for_line(self, state: State) -> bool:
        return (
            phases.admits(self._phase(state))
            and not self._is_graced(state)
            and bool(state.waiting)
            and self._free_slots(state) > 0
        )

    def _interval(self, state: State) -> float:
        """0: no limit."""
        if state.defined is None or self._is_bypassed(state):
            return 0.0
        per_minute = state.defined.definition.admissions_per_minute
        return math.ceil(60_000_000 / per_minute) / 1000 if per_minute else 0.0

    def _wait_for_allowance(self, state: State) -> int:
        interval = self._interval(state)
        return (
            max(0, math.ceil(min(state.next_at, self.now + interval) - self.now)) if interval else 0
        )

    def _count_admission(self, state: State, since: int) -> None:
        self._admissions += 1
        if interval := self._interval(state):
            assert state.defined
            begins = max(since, state.defined.definition.opens_at_ms, self.now - 250)
            state.next_at = max(min(state.next_at, self.now + interval), begins) + interval

    def _due_in(self, state: State) -> int:
        can_admit = self._has_room_for_line(state) and not self._wait_for_allowance(state)
        return 0 if can_admit else MINUTE

    def _spend_allowance(self, state: State, source: str) -> bool:
        interval = self._rules.source_interval_ms
        if not interval or not source:
            return True
        restored = max(state.sources.get(source, 0), self.now) + interval
        if restored > self.now + self._rules.source_window_ms:
            return False
        state.sources[source] = restored
        return True
