"""The invariants of the shop, in one list: fault tests, load tests and `verify` count these.

Each has a stable name and counts violations over everything that ever happened in the shop. Counts
are meaningful once the work in progress has ended (`settled` waits for it), except those of the
waiting room, which come from samples of Redis.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from harness import stopping
from harness.facts import Facts, RoomSamples, Stores

_POLL_SECONDS = 0.2
# Kafka keeps events for a week, so older payments may have none.
_DAYS_OF_EVENTS = 1
# payment_service keeps failed payments and the sandbox provider's charges for a day at least. An
# hour less, because a payment ends a little after its event.
_HOURS_OF_ROWS = 23
# What makes a reservation live, as it is stored; a hold that has run out is, until it is expired.
_LIVE = "('HELD', 'PAYING', 'CONFIRMED')"


@dataclass(frozen=True)
class Invariant:
    name: str
    #: What must be true.
    sentence: str
    count: Callable[[Facts], int]


def _rows(schema: str, sql: str) -> Callable[[Facts], int]:
    """Counts the rows of a query."""
    return lambda facts: len(facts.rows(schema, sql))


def _above_limit(facts: Facts) -> int:
    if not facts.limits.unpaid:
        return 0
    above = facts.rows(
        "reservation",
        f"""SELECT user_id FROM reservation
        WHERE status IN ('HELD', 'PAYING') AND lapses_at > NOW(6)
        GROUP BY user_id HAVING SUM(seats) > {facts.limits.unpaid:d}""",
    )
    return len(above)


def _above_limit_of_schedule(facts: Facts) -> int:
    if not facts.limits.of_schedule:
        return 0
    # A payment that succeeds after its time gets its seats if they are still free, also if the user
    # has meanwhile taken others: money was charged.
    above = facts.rows(
        "reservation",
        f"""SELECT user_id FROM reservation
        WHERE (status IN ('HELD', 'PAYING') AND lapses_at > NOW(6))
           OR (status = 'CONFIRMED' AND updated_at <= lapses_at)
        GROUP BY user_id, schedule_id HAVING SUM(seats) > {facts.limits.of_schedule:d}""",
    )
    return len(above)


def _stuck_in_payment(facts: Facts) -> int:
    paying = facts.rows(
        "reservation",
        "SELECT payment_id FROM reservation WHERE status = 'PAYING' AND lapses_at > NOW(6)",
    )
    return sum(payment not in facts.unfinished for (payment,) in paying)


def _wrong_events(facts: Facts) -> int:
    payments = facts.rows(
        "payment",
        f"""SELECT id, status, amount IS NOT NULL FROM payment
        WHERE updated_at > NOW(6) - INTERVAL {_DAYS_OF_EVENTS} DAY""",
    )
    return sum(
        sorted(event.kind for event in facts.events.get(payment, {}).values())
        not in _right_events(status, bool(charged))
        for payment, status, charged in payments
    )


def _right_events(status: str, charge_was_tried: bool) -> list[list[str]]:
    match status:
        case "SUCCEEDED":
            return [["succeeded"]]
        case "REFUNDED":
            return [["refunded", "succeeded"]]
        case "FAILED" if charge_was_tried:
            return [["failed"]]
        case _:
            # Rejected before the charge: with or without an event for the reservation.
            return [[], ["failed"]]


def _events_only(facts: Facts) -> int:
    known = {payment for (payment,) in facts.rows("payment", "SELECT id FROM payment")}
    kept_since = datetime.now(UTC) - timedelta(hours=_HOURS_OF_ROWS)
    return sum(
        any(event.kind != "failed" or event.occurred_at > kept_since for event in events.values())
        for payment, events in facts.events.items()
        if payment not in known
    )


#: Those that read Kafka come last, so that `settled` reads it once the others hold.
INVARIANTS = (
    Invariant(
        "seats_with_two_live_reservations",
        "A seat has at most one live reservation.",
        _rows(
            "reservation",
            """SELECT s.seat_id
            FROM reservation r JOIN reservation_seat s ON s.reservation_id = r.id
            WHERE r.status = 'CONFIRMED'
               OR (r.status IN ('HELD', 'PAYING') AND r.lapses_at > NOW(6))
            GROUP BY s.seat_id HAVING COUNT(*) > 1""",
        ),
    ),
    Invariant(
        "claims_of_no_live_reservation",
        "A claim of a seat names a live reservation of this seat and of its schedule.",
        _rows(
            "reservation",
            f"""SELECT c.seat_id FROM seat_claim c
            LEFT JOIN reservation r ON r.id = c.reservation_id
                AND r.schedule_id = c.schedule_id AND r.status IN {_LIVE}
            LEFT JOIN reservation_seat s
                ON s.reservation_id = r.id AND s.seat_id = c.seat_id
            WHERE c.reservation_id > 0 AND s.seat_id IS NULL""",
        ),
    ),
    Invariant(
        "live_reservations_of_a_part",
        "A live reservation has claimed all of its seats.",
        _rows(
            "reservation",
            f"""SELECT r.id FROM reservation r
            LEFT JOIN reservation_seat s ON s.reservation_id = r.id
            LEFT JOIN seat_claim c ON c.seat_id = s.seat_id AND c.reservation_id = r.id
            WHERE r.id > 0 AND r.status IN {_LIVE}
            GROUP BY r.id HAVING COUNT(c.seat_id) <> MAX(r.seats)""",
        ),
    ),
    Invariant(
        "reservations_unlike_their_seats",
        "The number, the price and the first of a reservation are those of its seats.",
        _rows(
            "reservation",
            """SELECT r.id FROM reservation r
            LEFT JOIN reservation_seat s ON s.reservation_id = r.id
            WHERE r.id > 0
            GROUP BY r.id
            HAVING COUNT(s.seat_id) <> MAX(r.seats) OR SUM(s.price) <> MAX(r.price)
                OR MIN(s.seat_id) <> MAX(r.seat_id)
                OR MAX(IF(s.seat_id = r.seat_id, s.seat_num, '')) <> MAX(r.seat_num)""",
        ),
    ),
    Invariant(
        "claims_of_no_house",
        "A seat that the house has is claimed by the house's reservation of its schedule.",
        _rows(
            "reservation",
            """SELECT c.seat_id FROM seat_claim c
            LEFT JOIN reservation r ON r.id = c.reservation_id AND r.id = -c.schedule_id
                AND r.schedule_id = c.schedule_id AND r.status = 'CONFIRMED'
            WHERE c.reservation_id < 0 AND r.id IS NULL""",
        ),
    ),
    Invariant(
        "seats_of_the_house_and_of_a_user",
        "Nobody holds or has bought a seat that the house has.",
        _rows(
            "reservation",
            """SELECT c.seat_id FROM seat_claim c
            JOIN reservation_seat s ON s.seat_id = c.seat_id
            JOIN reservation r ON r.id = s.reservation_id
            WHERE c.reservation_id < 0 AND (r.status = 'CONFIRMED'
                OR (r.status IN ('HELD', 'PAYING') AND r.lapses_at > NOW(6)))""",
        ),
    ),
    Invariant(
        "holds_of_closed_schedules",
        "Nobody holds a seat of a closed schedule.",
        _rows(
            "reservation",
            """SELECT r.id FROM closed_schedule c
            JOIN seat_claim s ON s.schedule_id = c.schedule_id
            JOIN reservation r ON r.id = s.reservation_id
            WHERE r.status = 'HELD' AND r.lapses_at > NOW(6) GROUP BY r.id""",
        ),
    ),
    Invariant(
        "users_above_the_limit",
        "A user holds at most RESERVATION_MAX_SEATS unpaid seats.",
        _above_limit,
    ),
    Invariant(
        "users_above_the_limit_of_a_schedule",
        "A user has at most RESERVATION_MAX_SEATS_PER_SCHEDULE seats of a schedule, but for a"
        " payment that succeeded after its time.",
        _above_limit_of_schedule,
    ),
    Invariant(
        "places_with_two_paid_reservations",
        "Of the reservations of one place in a waiting room at most one is being paid or paid.",
        _rows(
            "reservation",
            """SELECT room, place_number FROM reservation
            WHERE place_number IS NOT NULL
              AND (status = 'CONFIRMED' OR (status = 'PAYING' AND lapses_at > NOW(6)))
            GROUP BY room, place_number HAVING COUNT(*) > 1""",
        ),
    ),
    Invariant(
        "reservations_charged_twice",
        "A reservation is charged at most once.",
        lambda facts: len(facts.charged) - len({pair[1] for pair, _ in facts.charged}),
    ),
    Invariant(
        "charges_without_a_seat",
        "Every charge that was not refunded pays for a confirmed reservation.",
        lambda facts: sum(pair not in facts.confirmed for pair, _ in facts.charged),
    ),
    Invariant(
        "seats_without_a_charge",
        "Every confirmed reservation was charged by its own payment.",
        lambda facts: len(facts.confirmed.keys() - dict(facts.charged).keys()),
    ),
    Invariant(
        "seats_charged_at_another_price",
        "A confirmed reservation was charged at its price.",
        lambda facts: sum(
            facts.confirmed.get(pair, amount) != amount for pair, amount in facts.charged
        ),
    ),
    Invariant(
        "payments_without_an_outcome",
        "Every payment has an outcome.",
        lambda facts: len(facts.unfinished),
    ),
    Invariant(
        "payments_unlike_the_book",
        "A payment has succeeded if and only if the sandbox provider's book has its charge, in its"
        " currency; one of nothing has no charge.",
        # An empty book belongs to a shop with another provider. Old charges leave the book.
        _rows(
            "payment",
            f"""SELECT p.id FROM payment p LEFT JOIN sandbox_charge c ON c.payment_id = p.id
            WHERE ((p.status = 'SUCCEEDED' AND p.amount <> 0)
                    <> (COALESCE(c.status, '') = 'APPROVED')
                    OR (p.status = 'SUCCEEDED' AND p.currency <> c.currency))
                AND (c.payment_id IS NOT NULL
                    OR p.updated_at > NOW(6) - INTERVAL {_HOURS_OF_ROWS} HOUR)
                AND EXISTS (SELECT 1 FROM sandbox_charge)""",
        ),
    ),
    Invariant(
        "reservations_stuck_in_payment",
        "A live reservation is in payment only while its payment has no outcome.",
        _stuck_in_payment,
    ),
    Invariant(
        "schedules_with_a_wrong_sold_count",
        "The sold count of a schedule is the number of seats of its confirmed reservations.",
        _rows(
            "reservation",
            """SELECT COALESCE(MAX(s.sold), 0) counted,
                SUM(IF(r.status = 'CONFIRMED', r.seats, 0)) confirmed
            FROM reservation r LEFT JOIN schedule_sales s ON s.schedule_id = r.schedule_id
            GROUP BY r.schedule_id HAVING counted <> confirmed""",
        ),
    ),
    Invariant(
        "schedules_with_a_wrong_blocked_count",
        "The blocked count of a schedule is the number of seats that the house has.",
        _rows(
            "reservation",
            """SELECT schedule_id, SUM(seats) difference FROM (
                SELECT schedule_id, blocked seats FROM schedule_sales
                UNION ALL SELECT schedule_id, -1 FROM seat_claim WHERE reservation_id < 0
            ) counts GROUP BY schedule_id HAVING difference <> 0""",
        ),
    ),
    Invariant(
        "events_in_the_outbox",
        "Every event has been published.",
        _rows("payment", "SELECT id, unsent FROM payment WHERE unsent_shard IS NOT NULL"),
    ),
    Invariant(
        "samples_over_capacity",
        "The waiting room never admits more people than its capacity.",
        lambda facts: facts.room.over_capacity,
    ),
    Invariant(
        "people_admitted_out_of_order",
        "Nobody is admitted while a person who joined earlier waits.",
        lambda facts: len(facts.room.overtakers),
    ),
    Invariant(
        "payments_with_wrong_events",
        "Each outcome of a payment has exactly one event, however often it was published.",
        _wrong_events,
    ),
    Invariant("payments_with_events_only", "Every event belongs to a payment.", _events_only),
)


def settled(
    stores: Stores, room: RoomSamples | None = None, *, within: float = 45.0
) -> dict[str, int]:
    """Counts the violations of each invariant, by name, as soon as all hold, at the latest after
    `within` seconds. Adds samples to those of `room`, if it is given.

    Recovery and consumers need the time: a consumer group notices a member that was killed after
    ten seconds. Blocks. Raises `UserError` if Kafka or Redis cannot be read, `Stopped`, and what
    `stores.database` raises.
    """
    deadline = time.monotonic() + within
    room = room or RoomSamples(stores.redis_url)
    while True:
        room.sample()
        facts = Facts(stores, room)
        if time.monotonic() >= deadline or not any(each.count(facts) for each in INVARIANTS):
            return {each.name: each.count(facts) for each in INVARIANTS}
        stopping.wait(_POLL_SECONDS)


def violated(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts that are not 0."""
    return {name: number for name, number in counts.items() if number}
