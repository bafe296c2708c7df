"""The room that leads to a concert, the times of its sale, and its currency."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from protos.frontrow.reservation.v1 import reservation_pb2
from reservation_service.best_seats import Wish
from reservation_service.domain import (
    Admission,
    Availability,
    BestAvailable,
    Reservation,
    Seat,
    Status,
)
from reservation_service.errors import SalesClosed, ScheduleNotFound, SeatNotFound, WrongRoom
from reservation_service.messages import to_message
from reservation_service.sale_terms import SaleTerms
from reservation_service.service import ReservationService
from reservation_service.taken_seats import shown_as_taken
from servicekit.errors import TimedOut, Unavailable
from tests.fakes.reservation import FakeReservationStore, FakeSeatDirectory
from tests.fakes.reservation.seats import FakeSeatMap
from tests.reservation_service.conftest import (
    Store,
    begin,
    ids,
    make_service,
    new_admission,
    new_seats,
    schedule_of,
)
from tests.virtual_time import run

NOW = 1_800_000_000_000


@pytest.mark.parametrize("room", ["", "rock"])
def test_who_may_hold_seats(room: str) -> None:
    terms = SaleTerms(room)
    terms.check(None, NOW)
    terms.check(Admission("rock", 7), NOW)
    if not room:  # any
        terms.check(Admission("main", 7), NOW)
        return
    with pytest.raises(WrongRoom) as refused:
        terms.check(Admission("main", 7), NOW)
    assert (refused.value.code, refused.value.metadata) == ("WRONG_ROOM", {"room": "rock"})


@pytest.mark.parametrize(
    ("begins", "ends", "open"),
    [
        (0, 0, True),
        (NOW, 0, True),
        (NOW + 1, 0, False),
        (0, NOW + 1, True),
        (0, NOW, False),
        (NOW - 10, NOW + 10, True),
    ],
)
def test_when_seats_may_be_held(begins: int, ends: int, open: bool) -> None:
    terms = SaleTerms("", begins, ends)
    if open:
        terms.check(None, NOW)
        return
    with pytest.raises(SalesClosed) as refused:
        terms.check(None, NOW)
    assert refused.value.code == "SALES_CLOSED"


def service_on(store: Store, terms: SaleTerms) -> ReservationService:
    return make_service(store, directory=FakeSeatDirectory(terms=terms))


async def test_each_way_to_hold_seats_asks_for_the_terms() -> None:
    store = FakeReservationStore()
    seat, other = new_seats(2)
    admission = new_admission()
    best = BestAvailable(schedule_of(seat), Wish(1))
    refusals = {
        WrongRoom: SaleTerms("another"),
        SalesClosed: SaleTerms("", 0, round(time.time() * 1000) - 1),
    }
    for error, terms in refusals.items():
        service = service_on(store, terms)
        for hold in (
            service.hold_seats(next(ids), [other, seat], "", admission),
            service.hold_best_available(next(ids), best, "", admission),
        ):
            with pytest.raises(error):
                await hold
    assert store.rows == {}
    # Whoever repeats a request after the end of the sale learns what became of it.
    open_terms = SaleTerms(admission.room)
    user = next(ids)
    held = await service_on(store, open_terms).hold_seat(user, seat, "key", admission)
    again = service_on(store, SaleTerms("", 0, 1))
    assert (await again.hold_seat(user, seat, "key", admission)).id == held.id


async def test_a_reservation_keeps_the_currency_it_was_made_in(store: Store) -> None:
    first, second = new_seats(2)
    dinars = service_on(store, SaleTerms("", 0, 0, "KWD"))
    alone = await dinars.hold_seat(next(ids), first, "")
    # More than one at a time, as a group.
    best = BestAvailable(schedule_of(first), Wish(1))
    chosen = await dinars.hold_best_available(next(ids), best, "")
    default = await service_on(store, SaleTerms()).hold_seat(next(ids), second, "")
    for held, currency in ((alone, "KWD"), (chosen, "KWD"), (default, "KRW")):
        assert held.currency == currency
        # Whatever the catalogue says by now.
        changed = service_on(store, SaleTerms("", 0, 0, "EUR"))
        read = await changed.get_reservation(held.id, held.user_id)
        paying = await begin(changed, held, next(ids))
        for each in (read, paying):
            assert (each.currency, each.price) == (currency, Decimal("150000.00"))


@dataclass(frozen=True)
class PricedMap(FakeSeatMap):
    price: Decimal = Decimal("150000.00")

    def seats_at(self, indexes: Iterable[int]) -> tuple[Seat, ...]:
        return tuple(replace(seat, price=self.price) for seat in super().seats_at(indexes))


class ChangingDirectory(FakeSeatDirectory):
    """The currency changes, and the prices with it, before every other map that is asked for; a
    seat is found while it is KRW."""

    euros = False

    async def seat_map(self, schedule_id: int) -> PricedMap:
        self.euros = not self.euros
        if self.euros:
            return PricedMap(schedule_id, SaleTerms("", 0, 0, "EUR"), price=Decimal("90.00"))
        return PricedMap(schedule_id, SaleTerms("", 0, 0, "KRW"))


async def test_a_price_is_in_the_currency_of_its_own_map() -> None:
    service = make_service(FakeReservationStore(), directory=ChangingDirectory())
    seat, other = new_seats(2)
    chosen = await service.hold_seat(next(ids), seat, "")
    best = await service.hold_best_available(
        next(ids), BestAvailable(schedule_of(other), Wish(1)), ""
    )
    for held in (chosen, best):
        price = {"EUR": Decimal("90.00"), "KRW": Decimal("150000.00")}[held.currency]
        assert held.price == price


async def test_a_seat_that_is_removed_meanwhile_is_not_found() -> None:
    class Removing(FakeSeatMap):
        def indexes_of(self, seat_ids: Iterable[int]) -> list[int]:
            return super().indexes_of(id for id in seat_ids if id != seat)

    class Directory(FakeSeatDirectory):
        async def seat_map(self, schedule_id: int) -> FakeSeatMap:
            return Removing(schedule_id)

    seat, other = new_seats(2)
    service = make_service(FakeReservationStore(), directory=Directory())
    with pytest.raises(SeatNotFound) as missing:
        await service.hold_seats(next(ids), [other, seat], "")
    assert missing.value.seat_id == seat


@pytest.mark.parametrize(
    ("price", "currency", "text"),
    [
        (Decimal("150000.000"), "KRW", "150000.00"),
        (Decimal("1500"), "JPY", "1500.00"),
        (Decimal("0.500"), "EUR", "0.50"),
        (Decimal("12.345"), "KWD", "12.345"),
        (Decimal("12.5"), "KWD", "12.500"),
    ],
)
def test_a_price_has_the_places_of_its_currency(price: Decimal, currency: str, text: str) -> None:
    now = datetime.now(UTC)
    seats = (Seat(7, 1, "A1", price),)
    reservation = Reservation(1, 2, seats, Status.HELD, now, now, 0, now, currency)
    message = to_message(reservation_pb2.ReserveResponse, reservation)
    assert (message.price, message.seats[0].price, message.currency) == (text, text, currency)


class Directory(FakeSeatDirectory):
    """Fails when asked for a map."""

    error: Exception = ScheduleNotFound(1)

    async def seat_map(self, schedule_id: int) -> FakeSeatMap:
        raise self.error


@pytest.mark.parametrize(
    ("error", "shown"),
    [(ScheduleNotFound(1), ([], [1, 2])), (Unavailable("Not now."), ([1], [2]))],
)
async def test_a_closed_schedule_whose_seats_are_unknown(
    error: Exception, shown: tuple[list[int], list[int]]
) -> None:
    directory = Directory()
    directory.error = error
    availability = Availability([1], [2], closed=True)
    assert await shown_as_taken(directory, [1], [availability]) == [shown]


def test_schedules_wait_for_the_seats_of_closed_ones_only_briefly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """concert_service hangs."""

    class Hanging(FakeSeatDirectory):
        async def seat_map(self, schedule_id: int) -> FakeSeatMap:
            await asyncio.sleep(2)
            raise TimedOut("Too slow.")

    async def main() -> None:
        began = time.monotonic()
        closed, open_ = Availability([1], [2], closed=True), Availability([3], [4], closed=False)
        shown = await shown_as_taken(Hanging(), [7, 8, 9, 7], [closed, open_, closed, closed])
        assert shown == [([1], [2]), ([3], [4]), ([1], [2]), ([1], [2])]
        assert time.monotonic() - began < 1

    run(main(), monkeypatch)
