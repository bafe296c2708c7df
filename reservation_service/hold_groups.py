"""Puts holds that arrive together into one write."""

import asyncio
from collections.abc import Collection, Sequence
from enum import Enum, auto

from cachetools import TTLCache
from prometheus_client import Counter, Histogram

from reservation_service.domain import Hold, HoldTerms, Remembered, Reservation
from reservation_service.errors import SeatHeld
from reservation_service.ports import GroupFailed, HoldResult, HoldStore, SeatLocks
from servicekit import call_context, logs
from servicekit.batching import Batcher
from servicekit.errors import ServiceError
from servicekit.mysql import TransactionAborted

log = logs.get(__name__)

GROUPS = Histogram("hold_group_size", "Holds in a group.", buckets=(1, 2, 4, 8, 16, 32, 64))
FAILED_GROUPS = Counter(
    "hold_groups_failed",
    "Groups of holds that were done again one by one, by reason: lock, races, abort, defect.",
    ["reason"],
)

# 64 cost a third of what 16 cost for each hold, and more gain nothing; a group takes some 5 ms.
GROUP_ITEMS = 64
# How long a hold may wait for its group to start, and a group may take.
QUEUE_SECONDS = 2.0
GROUP_SECONDS = 4.0
# A seat is contended for so long after somebody was refused it: its next takers use Redis locks.
CONTENDED_SECONDS = 2.0
# About 100 bytes each. The oldest are forgotten first; that costs trips to the database only.
CONTENDED_SEATS = 20_000
# A failure of a group is logged once in so long for each reason.
LOG_SECONDS = 10.0
# After a group has waited in vain for the lock of a row, the holds that need that row are done
# alone for so long, and wait for nothing; each that finds it locked begins the time anew.
STUCK_SECONDS = 5.0
STUCK_ROWS = 10_000
# Holds that are done alone at the same time: half of the pool of connections.
LONE_HOLDS = 8


class _Alone(Enum):
    """In place of a result: the group failed, and the item is done again by itself."""

    ALONE = auto()


class HoldGroups:
    """Holds sets of seats, those that wait at the same time in one group.

    One group is under way at a time. A hold that finds none under way waits for nothing.
    """

    def __init__(self, store: HoldStore, locks: SeatLocks, terms: HoldTerms) -> None:
        self._store = store
        self._locks = locks
        self._terms = terms
        self._contended: TTLCache[int, None] = TTLCache(CONTENDED_SEATS, ttl=CONTENDED_SECONDS)
        self._stuck: TTLCache[tuple[str, int], None] = TTLCache(STUCK_ROWS, ttl=STUCK_SECONDS)
        self._lone = asyncio.Semaphore(LONE_HOLDS)
        self._logged: TTLCache[str, None] = TTLCache(8, ttl=LOG_SECONDS)
        self._groups = Batcher[Hold, HoldResult | _Alone](
            self._hold_group, budget=QUEUE_SECONDS, max_batch=GROUP_ITEMS
        )

    async def hold(self, hold: Hold) -> Reservation:
        """Holds all seats, or raises. With an idempotency key, a repeat returns the first result.

        Raises SeatHeld, SeatCoolsDown, SeatSold, TooManySeats; with an admission also
        PaymentInProgress and AdmissionEnded, if one of its reservations is being paid or paid; with
        a key also IdempotencyKeyReused and RequestInProgress.
        """
        result: HoldResult | _Alone = _Alone.ALONE
        if not self._is_stuck(hold):
            result = await self._groups.submit(hold)
        if isinstance(result, _Alone):
            result = await self._hold_alone(hold)
        if isinstance(result, ServiceError):
            raise result
        if isinstance(result, Remembered):
            return result.result(hold.request)
        return result

    async def _hold_alone(self, hold: Hold) -> HoldResult:
        """Outside of the groups: it may wait long for a lock, and nobody shall wait for it; not if
        somebody else has waited for it in vain."""
        async with self._lone:
            try:
                result = await self._store.hold_alone(
                    hold, self._terms, patient=not self._is_stuck(hold)
                )
            except TransactionAborted:
                self._note_stuck(hold)
                raise
        for row in _rows(hold):
            self._stuck.pop(row, None)
        self._remember_refusals([result])
        return result

    async def _find_stuck(self, holds: Sequence[Hold]) -> None:
        """Marks what a group has waited for in vain, before the next group begins."""
        for hold in holds:
            if await self._store.is_locked(hold):
                self._note_stuck(hold)

    def _note_stuck(self, hold: Hold) -> None:
        for row in _rows(hold):
            self._stuck[row] = None

    def _is_stuck(self, hold: Hold) -> bool:
        return bool(self._stuck) and any(row in self._stuck for row in _rows(hold))

    async def _hold_group(self, holds: Sequence[Hold]) -> Sequence[HoldResult | _Alone]:
        # A group serves many callers: the deadline of the first must not apply to the others.
        call_context.set_deadline(GROUP_SECONDS)
        # They may have begun to wait before their rows were known to be stuck.
        stuck = [self._is_stuck(hold) for hold in holds]
        others = [hold for hold, alone in zip(holds, stuck, strict=True) if not alone]
        results = iter(await self._hold_others(others) if others else ())
        return [_Alone.ALONE if alone else next(results) for alone in stuck]

    async def _hold_others(self, holds: Sequence[Hold]) -> Sequence[HoldResult | _Alone]:
        GROUPS.observe(len(holds))
        contended = sorted(
            {seat.id for hold in holds for seat in hold.seats if seat.id in self._contended}
        )
        if not contended:
            return await self._hold_in_store(holds, contended=False)
        async with self._locks.seats(contended) as locked_elsewhere:
            results: list[HoldResult | _Alone | None] = [
                _refusal(hold, locked_elsewhere) for hold in holds
            ]
            rest = [index for index, result in enumerate(results) if result is None]
            if rest:
                held = await self._hold_in_store([holds[index] for index in rest], contended=True)
                for index, result in zip(rest, held, strict=True):
                    results[index] = result
        return [result for result in results if result is not None]

    async def _hold_in_store(
        self, holds: Sequence[Hold], *, contended: bool
    ) -> Sequence[HoldResult | _Alone]:
        try:
            results = await self._store.hold_group(holds, self._terms, contended=contended)
        except GroupFailed as error:
            self._note_failure(error, len(holds))
            await self._find_stuck(holds)
            return [_Alone.ALONE] * len(holds)
        self._remember_refusals(results)
        return results

    def _note_failure(self, error: GroupFailed, holds: int) -> None:
        FAILED_GROUPS.labels(error.reason).inc()
        if error.reason not in self._logged:
            self._logged[error.reason] = None
            log.warning("hold_group_done_again", reason=error.reason, holds=holds)

    def _remember_refusals(self, results: Sequence[HoldResult]) -> None:
        for result in results:
            if isinstance(result, SeatHeld):
                for seat_id in result.seat_ids:
                    self._contended[seat_id] = None


def _rows(hold: Hold) -> list[tuple[str, int]]:
    """The rows that a hold locks and others may want."""
    return [("user", hold.user_id), *(("seat", seat.id) for seat in hold.seats)]


def _refusal(hold: Hold, locked_elsewhere: Collection[int]) -> SeatHeld | None:
    """Refuses a hold of a seat that another process is taking now. Not with a key: the first
    request with the key may be the one that is taking it."""
    if hold.key is not None or not locked_elsewhere:
        return None
    locked = [seat.id for seat in hold.seats if seat.id in locked_elsewhere]
    return SeatHeld(*locked) if locked else None
