"""Holds the seats of one request with one statement, which MariaDB parses once per connection.

At 150 holds/s most come alone. The packet of a group then costs more for its parsing, its texts
and its seven replies than for what it does: docs/adr/0050-hops-and-trips.md.
"""

from functools import lru_cache
from typing import Any

from reservation_service.domain import Hold, HoldTerms
from reservation_service.hold_statements import CHECK_OPEN
from reservation_service.rows import microseconds
from servicekit.mysql import Statement

# A connection keeps a program for each number of seats, with a key and without one.
MAX_SEATS = 8

_NEVER = 2**31
_SEAT = """
    DECLARE seat_{0} BIGINT DEFAULT ?; DECLARE num_{0} VARCHAR(16) DEFAULT ?;
    DECLARE price_{0} DECIMAL(15, 3) DEFAULT ?;
"""
_KEY = """
    DECLARE key_value VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT ?;
    DECLARE key_request BINARY(32) DEFAULT UNHEX(?);
"""
# At once if a request with the key is in progress.
_INSERT_KEY = """
    SET STATEMENT innodb_lock_wait_timeout = 0 FOR
    INSERT INTO idempotency_key (user_id, idem_key, seat_id, request, reservation_id, created_at)
    VALUES (buyer_id, key_value, seat_0, key_request, LAST_INSERT_ID(), NOW(6));
"""
_ENDED = "r.status IN ('CANCELLED', 'EXPIRED') OR r.status <> 'CONFIRMED' AND r.lapses_at <= NOW(6)"
# A hold of one of these seats that ended within the cool-down.
_COOLS_DOWN = f"""
    OR COALESCE(SUM(IF({_ENDED}, EXISTS(SELECT 1 FROM reservation_seat s
                                        WHERE s.reservation_id = r.id
                                            AND s.seat_id IN ({{seats}})), 0)), 0)
"""

# The statements of `hold_statements`, for one hold; with its reasons. Without a status, which is
# an error, the header is not inserted. `undecided` must be true whenever hold_decisions.decide
# would refuse or shorten a hold, also for a user without rows, whose sums are NULL.
_PROGRAM = f"""
BEGIN NOT ATOMIC
    DECLARE buyer_id BIGINT DEFAULT ?; DECLARE schedule BIGINT DEFAULT ?;
    DECLARE money CHAR(3) CHARACTER SET ascii DEFAULT ?;
    DECLARE place BIGINT DEFAULT ?;
    DECLARE place_room VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin DEFAULT ?;
    {{declare}}
    DECLARE undecided BOOLEAN;
    DECLARE began_at, ends_at DATETIME(6);
    START TRANSACTION;
    INSERT INTO buyer (user_id) VALUES (buyer_id) ON DUPLICATE KEY UPDATE user_id = buyer_id;
    SELECT COALESCE(SUM(IF({_ENDED} OR r.status = 'CONFIRMED', 0, r.seats)), 0) > {{unpaid}}
        OR COALESCE(SUM(IF(r.schedule_id <> schedule OR {_ENDED}, 0, r.seats)), 0) > {{of_schedule}}
        {{cools_down}}
    INTO undecided FROM reservation r FORCE INDEX (of_user)
    WHERE r.user_id = buyer_id
        AND (r.status = 'CONFIRMED' OR r.lapses_at > NOW(6) - INTERVAL {{cool_down}} MICROSECOND);
    SET began_at = NOW(6), ends_at = began_at + INTERVAL {{length}} MICROSECOND;
    INSERT INTO reservation (
        user_id, seat_id, schedule_id, seat_num, price, currency, seats, held_until, lapses_at,
        created_at, updated_at, room, place_number, status)
    VALUES (buyer_id, seat_0, schedule, num_0, {{price}}, money, {{count}}, ends_at, ends_at,
        began_at, began_at, place_room, place,
        IF(undecided OR EXISTS(SELECT 1 FROM reservation p
                               WHERE p.paid_place = place AND p.room = place_room LIMIT 1),
           NULL, 'HELD'));
    INSERT INTO reservation_seat (reservation_id, seat_id, seat_num, price) VALUES {{rows}};
    {{insert_key}}
    INSERT INTO seat_claim (seat_id, reservation_id, schedule_id) VALUES {{claims}}
    ON DUPLICATE KEY UPDATE
        reservation_id = IF(reservation_id = 0, VALUES(reservation_id), NULL);
    {CHECK_OPEN.format("= schedule")};
    COMMIT;
    SELECT LAST_INSERT_ID() AS id, ends_at AS held_until, began_at AS created_at;
END
"""


def hold_alone(hold: Hold, terms: HoldTerms) -> Statement:
    """The program that holds these seats and returns the header, and its values. It fails with
    MissingValue or DuplicateKey, inside a transaction, if the hold needs a decision: a seat is
    claimed, the place is being paid or paid, a limit would be exceeded, the cool-down applies, the
    schedule is closed."""
    place = hold.admission
    values: list[Any] = [hold.user_id, hold.schedule_id, hold.currency]
    values += (place.place_number, place.room) if place else (None, None)
    for seat in hold.seats:
        values += (seat.id, seat.seat_num, seat.price)
    if hold.key is not None:
        values += (hold.key.value, hold.request.digest.hex() or None)
    return _program(len(hold.seats), hold.key is not None, terms), *values


@lru_cache(maxsize=64)
def _program(count: int, keyed: bool, terms: HoldTerms) -> str:
    numbers = range(count)
    seats = ", ".join(f"seat_{n}" for n in numbers)
    return _PROGRAM.format(
        declare="".join(_SEAT.format(n) for n in numbers) + (_KEY if keyed else ""),
        unpaid=(terms.max_unpaid_seats or _NEVER) - count,
        of_schedule=(terms.max_seats_per_schedule or _NEVER) - count,
        cools_down=_COOLS_DOWN.format(seats=seats) if terms.cool_down_seconds else "",
        cool_down=microseconds(terms.cool_down_seconds),
        price=" + ".join(f"price_{n}" for n in numbers),
        count=count,
        length=microseconds(terms.hold_seconds),
        rows=", ".join(f"(LAST_INSERT_ID(), seat_{n}, num_{n}, price_{n})" for n in numbers),
        insert_key=_INSERT_KEY if keyed else "",
        claims=", ".join(f"(seat_{n}, LAST_INSERT_ID(), schedule)" for n in numbers),
    )
