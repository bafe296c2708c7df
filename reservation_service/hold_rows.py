"""What the rows of `hold_statements` say, as `hold_decisions` wants it."""

from collections.abc import Sequence

from reservation_service.domain import Admission, IdempotencyKey, Remembered, SeatRequest, Status
from reservation_service.hold_decisions import LastHold, LiveReservation
from reservation_service.rows import to_reservation
from servicekit.mysql import Row


def closed(rows: Sequence[Row]) -> set[int]:
    return {row.schedule_id for row in rows}


def claims(rows: Sequence[Row]) -> dict[int, LiveReservation]:
    return {
        row.seat_id: LiveReservation(row.id, Status(row.status), bool(row.lapsed)) for row in rows
    }


def unpaid(rows: Sequence[Row]) -> dict[int, int]:
    """Sums up the schedules of each user."""
    unpaid: dict[int, int] = {}
    for row in rows:
        unpaid[row.user_id] = unpaid.get(row.user_id, 0) + int(row.unpaid)
    return unpaid


def last_holds(rows: Sequence[Row]) -> dict[tuple[int, int], LastHold]:
    return {
        (row.user_id, row.seat_id): LastHold(
            bool(row.ended), row.unused / 1_000_000, row.cooling / 1_000_000
        )
        for row in rows  # the last of each is the latest
    }


def paid(rows: Sequence[Row]) -> dict[Admission, LiveReservation]:
    return {
        Admission(row.room, row.place_number): LiveReservation(
            row.id, Status(row.status), bool(row.lapsed), row.payment_id
        )
        for row in rows
    }


def known_keys(rows: Sequence[Row]) -> dict[IdempotencyKey, Remembered | None]:
    """What is stored for each key: None if its reservation was removed."""
    by_key: dict[IdempotencyKey, list[Row]] = {}
    for row in rows:
        by_key.setdefault(IdempotencyKey(row.key_user_id, row.idem_key), []).append(row)
    return {key: remembered(stored) for key, stored in by_key.items()}


def remembered(rows: Sequence[Row]) -> Remembered | None:
    """Maps the rows of one key."""
    key = rows[0]
    request = SeatRequest(digest=key.request) if key.request else SeatRequest(key.key_seat_id)
    if key.seat_missing:
        return Remembered(request, None, key.key_seat_id)
    return Remembered(request, to_reservation(rows)) if key.id is not None else None
