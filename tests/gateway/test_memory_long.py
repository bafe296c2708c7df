"""What a gateway process with full caches takes, as harness/containers/settings.py counts it."""

import asyncio
import gc
import multiprocessing
import os
import time
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_network
from typing import Any, cast

import pytest

from gateway import admissions, pace, sources
from gateway import tokens as tokens_module
from gateway.access_guard import AccessGuard
from gateway.admissions import Admissions
from gateway.pace import Pace
from gateway.rate_limit import RateLimit
from gateway.room import signs as room_signs
from gateway.room.answers import RoomAnswers
from gateway.room.copy import RoomCopy
from gateway.room.outage import QueueOutage
from gateway.room.signs import SignsOfLife
from gateway.routes.concerts import ConcertRoutes
from gateway.sources import Sources
from gateway.tokens import TokenVerifier
from protos.frontrow.concert.v1 import concert_pb2
from protos.frontrow.queue.v1 import queue_pb2
from protos.frontrow.reservation.v1 import reservation_pb2
from servicekit.batching import Batcher
from tests.gateway.fakes import GIVEN_AT, KEYS, sign

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

CACHES_MB = 80


class _Catalogue:
    """Concerts of 100 dates of 150 seats, as long messages as real ones."""

    async def ListSchedules(self, request: Any, **_: object) -> concert_pb2.ListSchedulesResponse:
        first = 10**6 + 100 * request.concert_id
        return concert_pb2.ListSchedulesResponse(
            schedules=[
                concert_pb2.Schedule(id=first + n, date=f"2030-01-{n % 28 + 1:02}", seat_count=150)
                for n in range(100)
            ]
        )

    async def GetSeatMaps(self, request: Any, **_: object) -> concert_pb2.GetSeatMapsResponse:
        """Each date has a layout of its own, and seats whose ids are far apart."""
        response = concert_pb2.GetSeatMapsResponse()
        for number, schedule_id in enumerate(request.schedule_ids):
            response.layouts.add(
                digest=schedule_id.to_bytes(16, "big"),
                seat_nums=[f"A{n + 1}" for n in range(150)],
                price_categories=[concert_pb2.SeatLayout.PriceCategory(price="150000.00")],
                categories=[0] * 150,
                row_names=["A"],
                row_sections=["Stalls"],
                rows=[0] * 150,
                places=range(150),
                accessible=[False] * 150,
            )
            first = 10**7 + 300 * schedule_id
            response.seat_maps.add(
                schedule_id=schedule_id,
                layout=number,
                runs=[
                    concert_pb2.SeatMap.Run(first_seat_id=first + 2 * n, count=1)
                    for n in range(150)
                ],
            )
        return response

    async def ListConcerts(self, request: Any, **_: object) -> concert_pb2.ListConcertsResponse:
        return concert_pb2.ListConcertsResponse(
            concerts=[concert_pb2.Concert(id=10**6, title="A concert")],
            next_page_token=request.page_token,
        )

    async def CountSoldSeats(
        self, request: Any, **_: object
    ) -> reservation_pb2.CountSoldSeatsResponse:
        return reservation_pb2.CountSoldSeatsResponse()

    async def GetTakenSeats(
        self, request: Any, **_: object
    ) -> reservation_pb2.GetTakenSeatsResponse:
        taken = reservation_pb2.GetTakenSeatsResponse.TakenSeats()
        return reservation_pb2.GetTakenSeatsResponse(schedules=[taken] * len(request.schedule_ids))


class _NoChanges:
    def on_change(self, listener: object) -> None: ...


class _Clients:
    concert = reservation = _Catalogue()
    catalogue = _NoChanges()


class _Settings:
    read_budget_seconds = 2.0
    batch_pause_seconds = 0.0
    facts_ttl_seconds = schedules_ttl_seconds = seats_ttl_seconds = 1_000.0


def _place(number: int) -> queue_pb2.Place:
    return queue_pb2.Place(
        room="main", number=10**6 + number, user_id=10**9 + number, epoch=3, issued_at=GIVEN_AT
    )


def _snapshot(seq: int, part: int) -> queue_pb2.WatchRoomResponse:
    """Returns a part of a snapshot of a million places, of which the last one is missing in the
    second snapshot."""
    first = 10**13 + part * 65_536
    return queue_pb2.WatchRoomResponse(
        snapshot=queue_pb2.RoomSnapshot(
            epoch=1,
            seq=seq,
            complete_at_seq=seq,
            rules=queue_pb2.RoomRules(absent_after_ms=300_000),
            waiting=range(first, first + 65_536),
            is_first=part == 0,
            is_last=part == 15 and seq == 1,
        )
    )


def _resident_mb() -> float:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


async def _fill() -> list[object]:
    """Fills each cache beyond its maximum."""
    verifier = TokenVerifier(KEYS, 1e9)
    for number in range(tokens_module._MAX_DECODED + 1_000):
        verifier._place(sign(_place(number)).encode())
    answers = Pace(enforced=True)
    for number in range(pace._MAX_REMEMBERED + 1_000):
        position = queue_pb2.Position(
            state=queue_pb2.PLACE_STATE_WAITING,
            order=number,
            poll_after_ms=60_000,
            estimated_wait_ms=10**6,
        )
        answers.remember(_place(number), position)
    until = int((time.time() + 600) * 1000)

    async def admitted(places: Sequence[queue_pb2.Place]) -> Sequence[queue_pb2.Position]:
        state = queue_pb2.PLACE_STATE_ADMITTED
        return [queue_pb2.Position(state=state, admitted_until_ms=until) for _ in places]

    signs = SignsOfLife()
    signs.use(queue_pb2.RoomRules(absent_after_ms=300_000))
    for number in range(room_signs._MAX_PENDING + 1_000):
        signs.note(_place(2 * 10**6 + number))
    copy = RoomCopy(0.3)
    for seq in (1, 2):  # the view, and the snapshot that will replace it
        for part in range(16):
            copy.apply(_snapshot(seq, part))
    room = RoomAnswers(copy, signs, QueueOutage(60, "main"))
    positions = Batcher(admitted, budget=1, max_batch=256)
    checks = Admissions(positions, 1_000, Pace(enforced=False), room)
    for number in range(admissions._MAX_CACHED + 1_000):
        await checks.check(_place(number))
        checks._paid.put(number + 10**6, True)
    addresses = Sources((ip_network("10.0.0.0/8"),))
    limit = RateLimit(20, "source")
    for number in range(sources._MAX_CACHED + 1_000):
        source = addresses.of({"client": (f"2001:db8:{number:x}::1", 1), "headers": []})
        limit.check((source, 10**9 + number))
    guard = cast(AccessGuard, None)
    concerts = ConcertRoutes(cast(Any, _Clients()), guard, cast(Any, _Settings()))
    for number in range(1_500):
        seats = await concerts._seat_maps.get(number)
        await concerts._seats.get(number, partial(concerts._load_seats, seats))
        concerts._untouched_seats(number, seats)
    for number in range(1_000):
        await concerts._schedules.get(number)
    for number in range(8_000):  # small pages: mostly what an entry takes by itself
        token = f"eyJpZCI6{number}"
        await concerts._pages.get((100, token), partial(concerts._load_page, 100, token))
    return [verifier, answers, checks, addresses, limit, concerts, room]


def _measure(results: "multiprocessing.SimpleQueue[float]") -> None:
    before = _resident_mb()
    full = asyncio.run(_fill())
    results.put(_resident_mb() - before)
    del full


def test_full_caches_take_what_the_cap_allows_for_them() -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.SimpleQueue[float] = context.SimpleQueue()
    process = context.Process(target=_measure, args=(results,))
    process.start()
    process.join()
    assert process.exitcode == 0
    taken = results.get()
    assert 40 < taken <= CACHES_MB, f"{taken:.1f} MB"
