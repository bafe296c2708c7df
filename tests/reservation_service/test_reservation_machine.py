"""Random sequences of reserving, cancelling, expiring, paying, blocking seats and closing the
schedule, compared with a small model."""

import asyncio
from collections.abc import Awaitable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from reservation_service.domain import Status
from reservation_service.house_service import HouseService
from servicekit.errors import ServiceError
from servicekit.mysql import Database
from tests.fakes.reservation import FakeReservationStore, UselessLocks
from tests.reservation_service.conftest import (
    RealReservationStore,
    Store,
    ids,
    make_service,
    new_seats,
    schedule_of,
)

Result = TypeVar("Result")

USERS = st.integers(0, 1)
STRANGER = 2
# Seats of one schedule, by their place in `new_seats`; mostly few of the four.
SETS = st.one_of(
    st.sets(st.integers(0, 3), min_size=1, max_size=1),
    st.sets(st.integers(0, 3), min_size=1, max_size=3),
    st.sets(st.integers(0, 3), min_size=1, max_size=4),
).map(frozenset)
MAX_UNPAID = 3
MAX_OF_SCHEDULE = 3
# Picks an existing reservation or payment; 0 is the latest.
PICK = st.integers(0, 3)
# Mostly valid requests, so that sequences reach later states.
MOSTLY = st.sampled_from([True, True, True, True, False])


@dataclass
class Modelled:
    """The expected state of a reservation."""

    user: int
    seats: frozenset[int]
    status: Status = Status.HELD
    payment: int = 0
    hold_over: bool = False
    lease_over: bool = False
    # The payments that have begun.
    begun: set[int] = field(default_factory=set)

    @property
    def now(self) -> Status:
        held_too_long = self.status == Status.HELD and self.hold_over
        paid_too_long = self.status == Status.PAYING and self.hold_over and self.lease_over
        return Status.EXPIRED if held_too_long or paid_too_long else self.status


class Reservations(RuleBasedStateMachine):
    runner: ClassVar[asyncio.Runner]

    def __init__(self) -> None:
        super().__init__()
        self.store = self.make_store()
        self.service = make_service(
            self.store,
            locks=UselessLocks(),
            max_seats=MAX_UNPAID,
            max_seats_per_schedule=MAX_OF_SCHEDULE,
        )
        self.house = HouseService(self.store)
        self.seats = new_seats(4)
        # What the house has, and whether the schedule is closed.
        self.blocked: set[int] = set()
        self.closed = False
        self.users = [next(ids) for _ in range(3)]
        self.model: dict[int, Modelled] = {}
        self.payments: list[int] = []
        self.lost: set[int] = set()
        self.keys: dict[tuple[int, str], tuple[frozenset[int], int]] = {}
        self.prefix = str(next(ids))

    def make_store(self) -> Store:
        raise NotImplementedError

    def ask(self, call: Awaitable[Result]) -> Result | str:
        """Returns the result, or the code of the refusal."""

        async def answer() -> Result | str:
            try:
                return await call
            except ServiceError as error:
                return error.code

        return self.runner.run(answer())

    def pick(self, pick: int) -> int:
        found = list(self.model)
        return found[-1 - pick % len(found)]

    def pick_payment(self, pick: int) -> int:
        return self.payments[-1 - pick % len(self.payments)]

    def seats_of(self, *statuses: Status, user: int | None = None) -> list[int]:
        """Returns the seats of reservations with this status now, of this user or of all."""
        return [
            seat
            for modelled in self.model.values()
            if modelled.now in statuses and user in (None, modelled.user)
            for seat in modelled.seats
        ]

    def refusal(self, user: int, seats: frozenset[int]) -> str | None:
        """Returns the expected refusal for a taker of these seats."""
        unpaid, sold = (Status.HELD, Status.PAYING), Status.CONFIRMED
        if len(seats) > MAX_UNPAID:
            return "TOO_MANY_SEATS"
        if self.closed:
            return "SALES_CLOSED"
        if seats.intersection(self.blocked) or seats.intersection(self.seats_of(sold)):
            return "SEAT_SOLD"
        if seats.intersection(self.seats_of(*unpaid)):
            return "SEAT_HELD"
        if (
            len(self.seats_of(*unpaid, user=user)) + len(seats) > MAX_UNPAID
            or len(self.seats_of(*unpaid, sold, user=user)) + len(seats) > MAX_OF_SCHEDULE
        ):
            return "TOO_MANY_SEATS"
        return None

    def expire_lapsed(self, seats: frozenset[int]) -> None:
        """Somebody gets these seats: the reservations that have run out lose all of theirs."""
        for modelled in self.model.values():
            if modelled.now == Status.EXPIRED and seats & modelled.seats:
                modelled.status = Status.EXPIRED

    @rule(user=USERS, seats=SETS)
    def reserve(self, user: int, seats: frozenset[int]) -> None:
        expected = self.refusal(user, seats)
        self.reserved(user, seats, expected, self.ask(self.hold(user, seats, "")))

    @rule(user=USERS, seats=SETS)
    def reserve_and_begin(self, user: int, seats: frozenset[int]) -> None:
        """Reserves and begins the payment, so that payments are not rare."""
        known = len(self.model)
        self.reserve(user, seats)
        if len(self.model) > known:
            self.begin(pick=0, own=True, new=True, old=0, failed=False)

    @rule(user=USERS, seats=SETS, key=st.sampled_from("ab"))
    def reserve_with_key(self, user: int, seats: frozenset[int], key: str) -> None:
        answer = self.ask(self.hold(user, seats, self.prefix + key))
        if (user, key) in self.keys:
            first_seats, first_id = self.keys[user, key]
            if first_seats != seats:
                assert answer == "IDEMPOTENCY_KEY_REUSED"
            else:
                assert not isinstance(answer, str)
                assert (answer.id, answer.status) == (first_id, Status.HELD)
            return
        if (id := self.reserved(user, seats, self.refusal(user, seats), answer)) is not None:
            self.keys[user, key] = (seats, id)

    @rule(wishes=st.lists(st.tuples(USERS, SETS), min_size=2, max_size=5))
    def reserve_in_a_group(self, wishes: list[tuple[int, frozenset[int]]]) -> None:
        """Requests that arrive together are decided in order of their arrival."""

        async def all_of_them() -> list[Any]:
            holds = [self.hold(user, seats, "") for user, seats in wishes]
            return await asyncio.gather(*holds, return_exceptions=True)

        answers = self.ask(all_of_them())
        assert not isinstance(answers, str)
        for (user, seats), answer in zip(wishes, answers, strict=True):
            code = answer.code if isinstance(answer, ServiceError) else answer
            self.reserved(user, seats, self.refusal(user, seats), code)

    def hold(self, user: int, seats: frozenset[int], key: str) -> Any:
        # In no order of their ids.
        return self.service.hold_seats(self.users[user], [self.seats[n] for n in seats], key)

    def reserved(
        self, user: int, seats: frozenset[int], expected: str | None, answer: Any
    ) -> int | None:
        if expected is not None:
            assert answer == expected
            return None
        assert not isinstance(answer, str), answer
        self.expire_lapsed(seats)
        self.model[answer.id] = Modelled(user, seats)
        id: int = answer.id
        return id

    @precondition(lambda self: self.model)
    @rule(pick=PICK, own=MOSTLY)
    def cancel(self, pick: int, own: bool) -> None:
        id = self.pick(pick)
        modelled = self.model[id]
        user = modelled.user if own else STRANGER
        answer = self.ask(self.service.cancel_reservation(id, self.users[user]))
        refusals = {Status.PAYING: "PAYMENT_IN_PROGRESS", Status.CONFIRMED: "ALREADY_PAID"}
        if user != modelled.user:
            assert answer == "NOT_YOURS"
        elif modelled.now in refusals:
            assert answer == refusals[modelled.now]
        else:
            if modelled.now == Status.HELD:
                modelled.status = Status.CANCELLED
            assert not isinstance(answer, str)
            assert answer.status == modelled.now

    @precondition(lambda self: self.model)
    @rule(pick=PICK)
    def hold_lapses(self, pick: int) -> None:
        id = self.pick(pick)
        modelled = self.model[id]
        if modelled.status == Status.HELD:
            modelled.hold_over = True
            self.ask(self.store.lapse(id))
        elif modelled.status == Status.PAYING:
            modelled.hold_over = True
            self.ask(self.store.lapse_hold_only(id))

    @precondition(lambda self: self.model)
    @rule(pick=PICK)
    def lease_lapses(self, pick: int) -> None:
        id = self.pick(pick)
        if self.model[id].status == Status.PAYING:
            self.model[id].hold_over = self.model[id].lease_over = True
            self.ask(self.store.lapse(id))

    @precondition(lambda self: self.model)
    @rule(pick=PICK, own=MOSTLY, new=st.booleans(), old=PICK, failed=MOSTLY)
    def begin(self, pick: int, own: bool, new: bool, old: int, failed: bool) -> None:
        id = self.pick(pick)
        modelled = self.model[id]
        user = modelled.user if own else STRANGER
        failed_payment = modelled.payment if failed else 0
        if new or not self.payments:
            payment = next(ids)
            self.payments.append(payment)
        else:
            payment = self.pick_payment(old)
        answer = self.ask(self.service.begin_payment(id, self.users[user], payment, failed_payment))
        counts_as_held = modelled.status == Status.HELD or (
            modelled.status == Status.PAYING
            and modelled.payment == failed_payment
            and payment != failed_payment
        )
        if user != modelled.user:
            assert answer == "NOT_YOURS"
        elif modelled.status == Status.CONFIRMED:
            if payment == modelled.payment:
                assert not isinstance(answer, str)
                assert answer.status == Status.CONFIRMED
            else:
                assert answer == "ALREADY_PAID"
        elif modelled.now in (Status.CANCELLED, Status.EXPIRED) or (
            counts_as_held and modelled.hold_over
        ):
            assert answer == "RESERVATION_EXPIRED"
        elif counts_as_held and self.closed and modelled.status == Status.PAYING:
            # Until the failure arrives, which ends the hold.
            assert answer == "PAYMENT_IN_PROGRESS"
        elif counts_as_held or modelled.payment == payment:
            assert not isinstance(answer, str), answer
            assert (answer.status, answer.payment_id) == (Status.PAYING, payment)
            modelled.status, modelled.payment = Status.PAYING, payment
            modelled.begun.add(payment)
            modelled.lease_over = False
        else:
            assert answer == "PAYMENT_IN_PROGRESS"

    @precondition(lambda self: self.model and self.payments)
    @rule(pick=PICK, current=MOSTLY, old=PICK)
    def succeed(self, pick: int, current: bool, old: int) -> None:
        id = self.pick(pick)
        payment = (current and self.model[id].payment) or self.pick_payment(old)
        if any(r.payment == payment and other != id for other, r in self.model.items()):
            return  # a payment belongs to one reservation
        answer = self.ask(self.service.confirm_payment(id, payment))
        modelled = self.model[id]
        is_current = modelled.status == Status.PAYING and modelled.payment == payment
        if modelled.status == Status.CONFIRMED and modelled.payment == payment:
            assert answer == "CONFIRMED"
        elif payment not in modelled.begun:
            assert answer == "PAYMENT_NOT_FOUND"
        elif payment in self.lost or modelled.status == Status.CONFIRMED:
            assert answer == "SEAT_LOST"
            self.lost.add(payment)
        elif self.still_has(id) and not (self.closed and not is_current):
            assert answer == "CONFIRMED"
            self.expire_lapsed(modelled.seats)
            modelled.status, modelled.payment = Status.CONFIRMED, payment
        else:
            assert answer == "SEAT_LOST"
            self.lost.add(payment)

    def still_has(self, id: int) -> bool:
        """Whether nobody else has any of the seats of a reservation."""
        return not self.blocked & self.model[id].seats and not any(
            other != id
            and modelled.now in (Status.HELD, Status.PAYING, Status.CONFIRMED)
            and modelled.seats & self.model[id].seats
            for other, modelled in self.model.items()
        )

    @precondition(lambda self: self.model and self.payments)
    @rule(pick=PICK, current=MOSTLY, old=PICK)
    def fail(self, pick: int, current: bool, old: int) -> None:
        id = self.pick(pick)
        payment = (current and self.model[id].payment) or self.pick_payment(old)
        answer = self.ask(self.service.return_to_hold(id, payment))
        modelled = self.model[id]
        assert answer == (None if payment in modelled.begun else "PAYMENT_NOT_FOUND")
        if modelled.status == Status.PAYING and modelled.payment == payment:
            modelled.status, modelled.payment = Status.HELD, 0
            modelled.hold_over |= self.closed

    @rule(seats=SETS)
    def block(self, seats: frozenset[int]) -> None:
        live = self.seats_of(Status.HELD, Status.PAYING, Status.CONFIRMED)
        answer = self.ask(self.house.block_seats(self.schedule, self.ids(seats)))
        if seats.intersection(live):
            assert answer == "SEATS_TAKEN"
            return
        assert answer == len(seats - self.blocked)
        self.expire_lapsed(seats)
        self.blocked |= seats

    @rule(seats=SETS)
    def release(self, seats: frozenset[int]) -> None:
        answer = self.ask(self.house.release_seats(self.schedule, self.ids(seats)))
        assert answer == len(seats & self.blocked)
        self.blocked -= seats

    @rule()
    def close(self) -> None:
        answer = self.ask(self.house.close_schedules([self.schedule]))
        assert not isinstance(answer, str)
        held = [each for each in self.model.values() if each.now == Status.HELD]
        for modelled in held:
            modelled.status = Status.CANCELLED
        self.closed = True
        now = {id: modelled.now for id, modelled in self.model.items()}
        assert answer.ended_holds == len(held)
        assert list(answer.paying) == [id for id in now if now[id] == Status.PAYING]
        assert answer.paid == sum(status == Status.CONFIRMED for status in now.values())

    @rule()
    def reopen(self) -> None:
        self.ask(self.house.reopen_schedules([self.schedule]))
        self.closed = False

    @property
    def schedule(self) -> int:
        return schedule_of(self.seats[0])

    @rule()
    def sweep(self) -> None:
        self.ask(self.service.expire_holds())
        for modelled in self.model.values():
            modelled.status = modelled.now

    @invariant()
    def the_latest_reservations_are_as_modelled(self) -> None:
        for id, modelled in list(self.model.items())[-4:]:
            user = self.users[modelled.user]
            read = self.ask(self.service.get_reservation(id, user))
            assert not isinstance(read, str)
            assert (read.status, read.user_id) == (modelled.now, user)
            assert [seat.id for seat in read.seats] == self.ids(modelled.seats)
            if modelled.now in (Status.PAYING, Status.CONFIRMED):
                assert read.payment_id == modelled.payment

    @invariant()
    def the_seat_map_and_the_count_are_as_modelled(self) -> None:
        sold = self.seats_of(Status.CONFIRMED)
        held = self.seats_of(Status.HELD, Status.PAYING)
        assert len(set(held + sold)) == len(held + sold), "a seat with two owners"
        assert not self.blocked.intersection(held + sold), "a seat of the house with an owner"
        [taken] = self.runner.run(self.store.taken_seats([self.schedule]))
        assert [sorted(seats) for seats in (taken.held, taken.sold)] == [
            self.ids(held),
            self.ids([*sold, *self.blocked]),
        ]
        schedule = self.schedule
        assert self.runner.run(self.service.count_seats([schedule])) == (
            {schedule: len(sold)} if sold else {},
            {schedule: len(self.blocked)} if self.blocked else {},
            [schedule] if self.closed else [],
        )

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        for user in (0, 1):
            assert len(self.seats_of(Status.HELD, Status.PAYING, user=user)) <= MAX_UNPAID

    def ids(self, seats: Collection[int]) -> list[int]:
        return sorted(self.seats[seat] for seat in seats)


class OnTheFake(Reservations):
    def make_store(self) -> Store:
        return FakeReservationStore()


def explore(machine: type[Reservations], runner: asyncio.Runner, **changes: Any) -> None:
    machine.runner = runner
    run_state_machine_as_test(
        machine,
        settings=settings(
            stateful_step_count=30,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **changes,
        ),
    )


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_the_fake_store_follows_the_model(runner: asyncio.Runner) -> None:
    explore(OnTheFake, runner, max_examples=60)


def test_mariadb_follows_the_model(runner: asyncio.Runner, mysql_urls: dict[str, str]) -> None:
    database = Database(mysql_urls["reservation"], max_size=1)

    class OnMariaDb(Reservations):
        def make_store(self) -> Store:
            return RealReservationStore(database)

    async def close() -> None:
        await database.__aexit__()

    # Without shrinking: a failure should not take minutes; what fails here is looked for on the
    # fake first.
    explore(OnMariaDb, runner, max_examples=30, phases=[Phase.generate])
    runner.run(close())
