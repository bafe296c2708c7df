"""The dates of concerts, each with its state: AVAILABLE or SOLD_OUT.

concert_service lists the dates, reservation_service counts their sold seats: of several concerts in
one call, because a call costs more than what it counts.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import chain

from pydantic_core import to_json

from gateway.caching import LoadingCache, Outdated
from gateway.clients import Clients
from gateway.schedule_dates import Date, list_dates
from protos.frontrow.reservation.v1 import reservation_pb2
from servicekit import logs
from servicekit.batching import Batcher
from servicekit.client import call
from servicekit.errors import ServiceError

log = logs.get(__name__)

# The most that one call counts: the limit of reservation_service.
_DATES_PER_COUNT = 1_000
# Concerts that nobody has asked for lately and whose users wait for the same call.
_MAX_BATCH = 10
# What the caches may hold, in bytes: the dates of 200 concerts and the states of those of 400 (100
# dates each).
_DATES_BYTES = 4_000_000
_STATES_BYTES = 3_000_000
# Measured: what an entry takes beside its content, and what a date takes.
_ENTRY_BYTES = 500
_DATE_BYTES = 180
# A value in use is counted again after such a part of its time: at random, so that what a crowd
# loaded together is not counted together. The call also takes values past half of their time.
_RECOUNT_AFTER = (0.6, 0.8)


@dataclass(slots=True)
class _Counted:
    """The JSON of a concert's dates, how many they are, and when it is half as old as it may be,
    when it is to be counted again, and when it has expired, by time.monotonic()."""

    body: bytes
    half: float
    recount_from: float
    expires: float
    dates: int
    used: bool = False
    recounting: bool = False

    def weight(self) -> int:
        return _ENTRY_BYTES + len(self.body)


class Schedules:
    """Caches the dates of concerts for at most `facts_ttl` seconds, and their JSON with the states
    for at most `ttl`, both for at most `limit()` seconds, from the start of the calls.

    A concert that is asked for again is counted again before its time is over, together with others
    in use, so that nobody waits. Otherwise concurrent callers share calls.
    """

    def __init__(
        self,
        clients: Clients,
        *,
        facts_ttl: float,
        ttl: float,
        budget: float,
        limit: Callable[[], float],
    ) -> None:
        self._clients = clients
        self._ttl = ttl
        self._budget = budget
        self._limit = limit
        self._dates = LoadingCache[int, Sequence[Date]](
            facts_ttl,
            _DATES_BYTES,
            limit,
            lambda dates: _ENTRY_BYTES + _DATE_BYTES * len(dates),
        )
        # Concert id -> what was counted, the oldest first.
        self._counted: dict[int, _Counted] = {}
        self._weight = 0
        self._outdated = Outdated()
        self._recounting: asyncio.Task[None] | None = None
        self._missing = Batcher[int, bytes](self._load_missing, budget=budget, max_batch=_MAX_BATCH)

    def cached(self, concert_id: int) -> bytes | None:
        """Returns the dates of a concert, as the body of a response, if nothing has to be
        loaded."""
        counted = self._counted.get(concert_id)
        if counted is None:
            return None
        now = time.monotonic()
        if now >= counted.expires:
            return None
        counted.used = True
        if now >= counted.recount_from and not counted.recounting and self._recounting is None:
            self._recounting = asyncio.create_task(self._recount(self._due(concert_id, now)))
        return counted.body

    async def get(self, concert_id: int) -> bytes:
        """Returns the upcoming dates of a concert, as the body of a response. Raises what the calls
        raise."""
        return self.cached(concert_id) or await self._missing.submit(concert_id)

    def drop(self, concert_ids: Collection[int] | None) -> None:
        """Forgets the dates of concerts that have changed; None: of all."""
        self._outdated.note(concert_ids)
        if concert_ids is None:
            self._dates.clear()
        for concert_id in list(self._counted) if concert_ids is None else concert_ids:
            self._dates.drop(concert_id)
            self._drop(concert_id)

    def _due(self, concert_id: int, now: float) -> Sequence[int]:
        """Returns this concert and others in use that are past half of their time, as many as one
        call counts; each is due once."""
        due = [concert_id]
        dates = self._counted[concert_id].dates
        for other_id, other in self._counted.items():
            if now < other.half:
                break
            if not other.used or other.recounting or other_id == concert_id:
                continue
            if dates + other.dates > _DATES_PER_COUNT:
                break
            due.append(other_id)
            dates += other.dates
        for each in due:
            self._counted[each].recounting = True
        return due

    async def _recount(self, concert_ids: Sequence[int]) -> None:
        try:
            for result in await self._load(concert_ids):
                if isinstance(result, ServiceError):
                    # It is loaded when it has expired.
                    log.info("schedules_not_recounted", error=result.code)
        finally:
            self._recounting = None

    async def _load_missing(self, concert_ids: Sequence[int]) -> Sequence[bytes | Exception]:
        # An earlier call may have brought some.
        found = {concert_id: self.cached(concert_id) for concert_id in concert_ids}
        missing = [concert_id for concert_id, body in found.items() if body is None]
        loaded = dict(zip(missing, await self._load(missing), strict=True))
        return [found[concert_id] or loaded[concert_id] for concert_id in concert_ids]

    async def _load(self, concert_ids: Sequence[int]) -> Sequence[bytes | ServiceError]:
        """Returns the body of each concert, or why there is none, and stores the bodies."""
        asked = time.monotonic()
        lifetime = min(self._ttl, self._limit())
        listed = await asyncio.gather(*map(self._list_dates, concert_ids))
        known = [dates for dates in listed if not isinstance(dates, ServiceError)]
        try:
            sold_out = await self._sold_out(list(chain.from_iterable(known)))
        except ServiceError as error:
            return [dates if isinstance(dates, ServiceError) else error for dates in listed]
        recount_from = asked + lifetime * random.uniform(*_RECOUNT_AFTER)
        results: list[bytes | ServiceError] = []
        for concert_id, dates in zip(concert_ids, listed, strict=True):
            if isinstance(dates, ServiceError):
                results.append(dates)
                continue
            body = _to_json(dates, sold_out)
            results.append(body)
            if self._outdated.since(asked, concert_id):
                continue
            self._store(
                concert_id,
                _Counted(body, asked + lifetime / 2, recount_from, asked + lifetime, len(dates)),
            )
        return results

    def _store(self, concert_id: int, counted: _Counted) -> None:
        self._drop(concert_id)
        self._counted[concert_id] = counted
        self._weight += counted.weight()
        now = time.monotonic()
        while self._counted:
            oldest = next(iter(self._counted))
            if self._weight <= _STATES_BYTES and now < self._counted[oldest].expires:
                break
            self._drop(oldest)

    def _drop(self, concert_id: int) -> None:
        counted = self._counted.pop(concert_id, None)
        if counted is not None:
            self._weight -= counted.weight()

    async def _list_dates(self, concert_id: int) -> Sequence[Date] | ServiceError:
        try:
            return await self._dates.get(concert_id, lambda: self._load_dates(concert_id))
        except ServiceError as error:
            return error

    async def _load_dates(self, concert_id: int) -> Sequence[Date]:
        return await list_dates(self._clients.concert, concert_id, self._budget)

    async def _sold_out(self, dates: Sequence[Date]) -> set[int]:
        """Returns the ids of the dates that have no seat to sell: each is sold or the house's, or
        the date is closed."""
        sold_out: set[int] = set()
        for start in range(0, len(dates), _DATES_PER_COUNT):
            some = dates[start : start + _DATES_PER_COUNT]
            response = await call(
                self._clients.reservation.CountSoldSeats,
                reservation_pb2.CountSoldSeatsRequest(schedule_ids=[date.id for date in some]),
                budget=self._budget,
            )
            gone = Counter(dict(response.sold_by_schedule))
            gone.update(dict(response.blocked_by_schedule))
            sold_out.update(response.closed_schedules)
            sold_out.update(date.id for date in some if gone[date.id] >= date.seat_count)
        return sold_out


def _to_json(dates: Sequence[Date], sold_out: set[int]) -> bytes:
    return to_json(
        {
            "schedules": [
                {
                    "id": date.id,
                    "date": date.date,
                    "status": "SOLD_OUT" if date.id in sold_out else "AVAILABLE",
                }
                for date in dates
            ]
        }
    )
