"""Old reservations are removed: the same tests on the fake store and on MariaDB."""

import pytest

from reservation_service import service as service_module
from reservation_service.domain import PaymentOutcome, Reservation, Status
from reservation_service.errors import ReservationNotFound
from reservation_service.service import ReservationService
from servicekit.mysql import Database
from tests.reservation_service.conftest import (
    RealReservationStore,
    Store,
    begin,
    ids,
    make_service,
    new_seats,
    pay,
)

USER = 1


@pytest.fixture
def service(store: Store) -> ReservationService:
    return make_service(store, retention_days=7)


async def ended(
    service: ReservationService, store: Store, status: Status, days: float
) -> Reservation:
    """A reservation with this status whose time ran out `days` ago."""
    held = await service.hold_seat(USER, new_seats(1)[0], "")
    match status:
        case Status.CANCELLED:
            await service.cancel_reservation(held.id, USER)
        case Status.CONFIRMED:
            await pay(service, held, next(ids))
        case Status.EXPIRED:
            await store.lapse(held.id)
            await service.expire_holds()
        case Status.PAYING:
            await begin(service, held, next(ids))
    # Ends after the hold, 5 minutes, or the payment lease, 10 minutes.
    await store.age(held.id, days + 0.01)
    return held


@pytest.mark.parametrize(
    ("status", "days", "removed"),
    [
        (Status.CANCELLED, 7, True),
        (Status.EXPIRED, 7, True),
        (Status.CANCELLED, 6.9, False),
        (Status.EXPIRED, 6.9, False),
        (Status.CONFIRMED, 4000, False),
    ],
)
async def test_what_is_removed(
    service: ReservationService, store: Store, status: Status, days: float, removed: bool
) -> None:
    reservation = await ended(service, store, status, days)
    await service.remove_old_rows()
    if not removed:
        assert (await service.get_reservation(reservation.id, USER)).status == status
        return
    for attempt in (
        service.get_reservation(reservation.id, USER),
        service.cancel_reservation(reservation.id, USER),
        begin(service, reservation, next(ids)),
    ):
        with pytest.raises(ReservationNotFound):
            await attempt


@pytest.mark.parametrize("status", [Status.HELD, Status.PAYING])
async def test_a_lapsed_reservation_is_removed_once_it_is_expired(
    service: ReservationService, store: Store, status: Status
) -> None:
    reservation = await ended(service, store, status, 8)
    await service.remove_old_rows()
    assert await store.stored(reservation.id) == status
    await service.expire_holds()
    await service.remove_old_rows()
    with pytest.raises(ReservationNotFound):
        await service.get_reservation(reservation.id, USER)


async def test_0_days_keep_everything(store: Store) -> None:
    service = make_service(store, retention_days=0)
    reservation = await ended(service, store, Status.EXPIRED, 4000)
    assert await service.remove_old_rows() == 0
    assert (await service.get_reservation(reservation.id, USER)).status == Status.EXPIRED


async def test_a_sweep_removes_a_bounded_number(
    service: ReservationService, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.remove_old_rows()  # of other tests
    monkeypatch.setattr(service_module, "SWEEP_BATCH", 3)
    monkeypatch.setattr(service_module, "REMOVAL_BATCHES", 2)
    for _ in range(8):
        await ended(service, store, Status.CANCELLED, 8)
    assert [await service.remove_old_rows() for _ in range(3)] == [6, 2, 0]


async def test_the_seat_of_a_removed_reservation_is_lost_so_that_a_late_payment_is_refunded(
    service: ReservationService, store: Store
) -> None:
    held = await service.hold_seat(USER, new_seats(1)[0], "")
    payment_id = next(ids)
    await begin(service, held, payment_id)
    await store.age(held.id, 8)
    await service.expire_holds()
    await service.remove_old_rows()
    for _ in range(2):
        assert await service.confirm_payment(held.id, payment_id) == PaymentOutcome.SEAT_LOST
    # Also if somebody else has bought it since.
    await pay(service, await service.hold_seat(2, held.seats[0].id, ""), next(ids))
    assert await service.confirm_payment(held.id, payment_id) == PaymentOutcome.SEAT_LOST
    # The event of a failure changes nothing.
    await service.return_to_hold(held.id, payment_id)


async def test_a_reservation_that_never_existed_is_not_a_removed_one(
    service: ReservationService,
) -> None:
    for event in (service.confirm_payment, service.return_to_hold):
        with pytest.raises(ReservationNotFound):
            await event(2**62, next(ids))


async def test_rows_that_belong_to_a_removed_reservation_go_with_it(
    real_store: RealReservationStore,
) -> None:
    service = make_service(real_store, retention_days=7)
    held = await service.hold_seat(USER, new_seats(1)[0], "")
    first, second = next(ids), next(ids)
    await begin(service, held, first)
    await begin(service, held, second, failed=first)
    await real_store.lapse(held.id)
    other = await service.hold_seat(2, held.seats[0].id, "")
    assert await service.confirm_payment(held.id, second) == PaymentOutcome.SEAT_LOST
    await real_store.age(held.id, 8)
    await service.remove_old_rows()
    async with real_store._database.connection() as connection:
        for table in ("lost_seat", "earlier_payment"):
            found = await connection.fetch_all(
                f"SELECT * FROM {table} WHERE reservation_id = %s", held.id
            )
            assert found == [], table
    assert (await service.get_reservation(other.id, 2)).status == Status.HELD


async def test_a_buyer_who_is_busy_is_removed_another_time(
    real_store: RealReservationStore, database: Database
) -> None:
    service = make_service(real_store, retention_days=7)
    user, other = next(ids), next(ids)
    for buyer in (user, other):
        held = await service.hold_seat(buyer, new_seats(1)[0], "")
        await service.cancel_reservation(held.id, buyer)
        await real_store.age(held.id, 8)

    async def buyers() -> list[int]:
        async with database.connection() as connection:
            found = await connection.fetch_all(
                "SELECT user_id FROM buyer WHERE user_id IN %s", [user, other]
            )
        return [row.user_id for row in found]

    async with database.transaction() as busy:
        await busy.fetch_one("SELECT user_id FROM buyer WHERE user_id = %s FOR UPDATE", user)
        await service.remove_old_rows()
        assert await buyers() == [user]
    await service.remove_old_rows()
    assert await buyers() == []
