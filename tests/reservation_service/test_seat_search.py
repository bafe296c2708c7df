"""Holding the best available seats while others hold them too."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest

from reservation_service.best_seats import Wish
from reservation_service.domain import Availability, BestAvailable, Seat
from reservation_service.errors import (
    NotEnoughSeats,
    ScheduleNotFound,
    SeatCoolsDown,
    SeatHeld,
    SeatSold,
    SingleSeatLeft,
    TooManySeats,
)
from reservation_service.seat_search import ATTEMPTS, SeatSearch
from servicekit.errors import ServiceError
from tests.fakes.reservation import SEATS_PER_SCHEDULE, FakeSeatDirectory

PAIR = BestAvailable(1, Wish(2))


class Store:
    """The seats of schedule 1, as a store decides about them: all of a request or none. Reads and
    holds take turns of the event loop, and holds that arrive meanwhile are decided together."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.sold: set[int] = set()
        self.reads = 0
        # The seats of each attempt, by user.
        self.attempts: dict[int, list[list[int]]] = {}
        # What happens in the middle of the next read, after its snapshot, and before each hold.
        self.during_read: Callable[[], Awaitable[None]] | None = None
        self.before_hold: Callable[[int], None] = lambda user: None
        self.turns = 3

    async def taken_seats(self, schedule_ids: Sequence[int]) -> Sequence[Availability]:
        assert schedule_ids == [1]
        self.reads += 1
        await self._turns()
        snapshot = Availability(list(self.held), sorted(self.sold))
        if self.during_read is not None:
            during_read, self.during_read = self.during_read, None
            await during_read()
        await self._turns()
        return [snapshot]

    def holder(self, user: int) -> Callable[[Sequence[Seat], str], Awaitable[list[int]]]:
        """Returns what holds seats for a user."""

        async def hold(seats: Sequence[Seat], currency: str) -> list[int]:
            ids = [seat.id for seat in seats]
            self.attempts.setdefault(user, []).append(ids)
            await self._turns()
            self.before_hold(user)
            if sold := self.sold.intersection(ids):
                raise SeatSold(*sold)
            if conflicts := set(ids).intersection(self.held):
                raise SeatHeld(*conflicts)
            self.held |= dict.fromkeys(ids, user)
            return ids

        return hold

    async def _turns(self) -> None:
        for _ in range(self.turns):
            await asyncio.sleep(0)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def search(store: Store) -> SeatSearch:
    return SeatSearch(FakeSeatDirectory(), store.taken_seats)


async def results(
    calls: Sequence[Awaitable[list[int]]],
) -> tuple[list[list[int]], Counter[str]]:
    """Returns what was held, and the codes of the refusals."""
    done = await asyncio.gather(*calls, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException) and not isinstance(result, ServiceError):
            raise result
    refused = Counter(result.code for result in done if isinstance(result, ServiceError))
    return [result for result in done if isinstance(result, list)], refused


async def test_the_best_seats_are_held(store: Store, search: SeatSearch) -> None:
    assert await search.hold_best(PAIR, store.holder(1)) == [7, 8]
    assert await search.hold_best(PAIR, store.holder(2)) == [9, 10]
    store.sold.update(range(1, 16))
    assert await search.hold_best(PAIR, store.holder(3)) == [22, 23]


async def test_category_accessible_and_split(store: Store, search: SeatSearch) -> None:
    standard = BestAvailable(1, Wish(2, "STANDARD"))
    assert await search.hold_best(standard, store.holder(1)) == [52, 53]
    accessible = BestAvailable(1, Wish(2, accessible=True))
    with pytest.raises(NotEnoughSeats):
        await search.hold_best(accessible, store.holder(1))
    split = BestAvailable(1, Wish(2, accessible=True, allow_split=True))
    assert await search.hold_best(split, store.holder(1)) == [1, 16]


async def test_an_unknown_schedule(store: Store) -> None:
    search = SeatSearch(FakeSeatDirectory(last=SEATS_PER_SCHEDULE), store.taken_seats)
    with pytest.raises(ScheduleNotFound):
        await search.hold_best(BestAvailable(2, Wish(1)), store.holder(1))


async def test_a_crowd_in_one_process_never_tries_the_same_seats(
    store: Store, search: SeatSearch
) -> None:
    """300 want a pair of ten rows of 15 seats."""
    held, refused = await results(
        [search.hold_best(PAIR, store.holder(user)) for user in range(300)]
    )
    assert len(held) == 70
    assert refused == {"NOT_ENOUGH_SEATS": 230}
    assert [len(attempts) for attempts in store.attempts.values()] == [1] * 70
    # The crowd shares its reads: one for the first, one for the others, and one for all who waited
    # for the outcome.
    assert store.reads <= 3


async def test_two_processes_converge(store: Store) -> None:
    one, other = (SeatSearch(FakeSeatDirectory(), store.taken_seats) for _ in range(2))
    held, refused = await results(
        [(one, other)[user % 2].hold_best(PAIR, store.holder(user)) for user in range(300)]
    )
    assert len(held) == 70
    assert refused == {"NOT_ENOUGH_SEATS": 230}
    assert max(map(len, store.attempts.values())) < ATTEMPTS


async def test_a_conflict_leads_to_the_next_choice_by_a_new_read(
    store: Store, search: SeatSearch
) -> None:
    def others_take_half_the_row(user: int) -> None:
        store.held |= dict.fromkeys(range(5, 11), 99) if len(store.attempts[user]) == 1 else {}

    store.before_hold = others_take_half_the_row
    assert await search.hold_best(PAIR, store.holder(1)) == [11, 12]
    assert store.attempts[1] == [[7, 8], [11, 12]]
    assert store.reads == 2


async def test_seats_that_another_request_only_tried_are_tried_again(
    store: Store, search: SeatSearch
) -> None:
    """As when the lock of a seat belonged to a request that was refused then."""
    store.sold.update(range(3, 151))

    def contested_once(user: int) -> None:
        if len(store.attempts[user]) == 1:
            raise SeatHeld(1)

    store.before_hold = contested_once
    assert await search.hold_best(PAIR, store.holder(1)) == [1, 2]


async def test_attempts_are_bounded(store: Store, search: SeatSearch) -> None:
    def always_contested(user: int) -> None:
        raise SeatHeld(*store.attempts[user][-1])

    store.before_hold = always_contested
    with pytest.raises(NotEnoughSeats):
        await search.hold_best(PAIR, store.holder(1))
    assert len(store.attempts[1]) == ATTEMPTS
    assert len({tuple(seats) for seats in store.attempts[1]}) == ATTEMPTS


async def test_others_get_the_seats_of_one_who_is_refused(store: Store, search: SeatSearch) -> None:
    """They wait for the outcome, although at first no seats are left for them."""
    store.sold.update(range(3, 151))

    def refuse_the_first(user: int) -> None:
        if user == 1:
            raise TooManySeats("Too many.", 8)

    store.before_hold = refuse_the_first
    held, refused = await results(
        [search.hold_best(PAIR, store.holder(user)) for user in (1, 2, 3)]
    )
    assert held == [[1, 2]]
    assert refused == {"TOO_MANY_SEATS": 1, "NOT_ENOUGH_SEATS": 1}


async def test_others_get_the_seats_of_one_who_hangs_up(store: Store, search: SeatSearch) -> None:
    store.sold.update(range(3, 151))
    hung = asyncio.Event()

    async def hang(seats: Sequence[Seat], currency: str) -> list[int]:
        hung.set()
        await asyncio.Event().wait()
        raise AssertionError

    first = asyncio.create_task(search.hold_best(PAIR, hang))
    await hung.wait()
    second = asyncio.create_task(search.hold_best(PAIR, store.holder(2)))
    third = asyncio.create_task(search.hold_best(PAIR, store.holder(3)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not second.done()
    # One who waits for the outcome hangs up too, which concerns nobody else.
    third.cancel()
    first.cancel()
    assert await second == [1, 2]
    assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], BaseException)


async def test_a_refusal_rests_on_a_read_that_began_after_the_request(
    store: Store, search: SeatSearch
) -> None:
    """A seat is free again after the snapshot of a read, and before the request."""
    store.sold.update(range(3, 151))
    store.held = {1: 99}
    requests: list[asyncio.Task[list[int]]] = []

    async def free_it_and_ask() -> None:
        del store.held[1]
        requests.append(asyncio.create_task(search.hold_best(PAIR, store.holder(2))))
        await asyncio.sleep(0)

    store.during_read = free_it_and_ask
    with pytest.raises(NotEnoughSeats):
        await search.hold_best(PAIR, store.holder(1))
    assert await requests[0] == [1, 2]


async def test_a_hold_after_the_snapshot_of_a_read_is_known(
    store: Store, search: SeatSearch
) -> None:
    """The second request reads while the first holds its seats, which the read does not show."""
    first: list[asyncio.Task[list[int]]] = []

    async def let_the_first_hold() -> None:
        await first[0]

    holding = asyncio.Event()

    async def hold(seats: Sequence[Seat], currency: str) -> list[int]:
        store.during_read = let_the_first_hold
        holding.set()
        for _ in range(10):
            await asyncio.sleep(0)
        return await store.holder(1)(seats, currency)

    first.append(asyncio.create_task(search.hold_best(PAIR, hold)))
    await holding.wait()
    assert await search.hold_best(PAIR, store.holder(2)) == [9, 10]
    assert await first[0] == [7, 8]


async def test_a_user_gets_other_seats_than_those_that_cool_down(
    store: Store, search: SeatSearch
) -> None:
    def seat_7_cools_down(user: int) -> None:
        if 7 in store.attempts[user][-1]:
            raise SeatCoolsDown(7, retry_after=60)

    store.before_hold = seat_7_cools_down
    assert await search.hold_best(PAIR, store.holder(1)) == [8, 9]
    store.held = {}
    store.sold.update({*range(1, 151)} - {7, 8})
    with pytest.raises(SeatCoolsDown):
        await search.hold_best(PAIR, store.holder(2))


async def test_single_seats(store: Store, search: SeatSearch) -> None:
    seats = [await FakeSeatDirectory().seat(id) for id in (2, 3)]
    with pytest.raises(SingleSeatLeft) as caught:
        await search.check_single_seats(seats)
    assert caught.value.metadata == {"conflicts": "1"}
    store.held = {1: 99}
    await search.check_single_seats(seats)
    # Not its concern: the store refuses them.
    store.held = {2: 99}
    await search.check_single_seats(seats)


async def test_nothing_is_kept_of_a_schedule_that_nobody_asks_for(
    store: Store, search: SeatSearch
) -> None:
    await search.hold_best(PAIR, store.holder(1))
    await asyncio.gather(*(search.hold_best(PAIR, store.holder(user)) for user in range(20)))
    assert not search.__dict__["_sales"]
