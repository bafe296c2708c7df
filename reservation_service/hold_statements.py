"""The SQL statements that hold seats. See `rows` about times and the order of locks."""

from collections.abc import Iterable, Sequence
from typing import Any

from reservation_service.domain import Admission, Hold, HoldTerms, IdempotencyKey, SeatRequest
from reservation_service.hold_decisions import Granted
from reservation_service.rows import COLUMNS, SEATS, microseconds
from servicekit.mysql import Statement

# A statement of a group waits for a lock for this many seconds (MariaDB counts whole ones), a
# thousand times what a transaction takes: a row that stays locked for longer concerns one item,
# which is then done alone.
PATIENCE_SECONDS = 1
PATIENCE = f"SET STATEMENT innodb_lock_wait_timeout = {PATIENCE_SECONDS} FOR "
# A locked row of a key belongs to a request that is in progress.
NO_PATIENCE = "SET STATEMENT innodb_lock_wait_timeout = 0 FOR "

# A user's reservations that a decision may depend on, %s being microseconds: those that are live,
# and those that ended at most so long ago. The index `of_user` finds them.
_RECENT = "(r.status = 'CONFIRMED' OR r.lapses_at > NOW(6) - INTERVAL %s MICROSECOND)"
_UNPAID = "(r.status IN ('HELD', 'PAYING') AND r.lapses_at > NOW(6))"

# Whether one item of a group needs a decision: a seat is claimed; the user would exceed a limit, or
# has held a seat within the cool-down. Must be true whenever hold_decisions.decide would refuse or
# shorten a hold, also for a user without rows (their sum is NULL): what needs no decision is held.
# Likewise the check of `lone_hold`.
_NEEDS_DECISION = f"""
EXISTS(SELECT 1 FROM seat_claim c WHERE c.seat_id IN %s AND c.reservation_id <> 0)
OR (SELECT COALESCE(SUM(IF({_UNPAID}, r.seats, 0)), 0) > %s
        OR COALESCE(SUM(IF(r.schedule_id = %s AND (r.status = 'CONFIRMED' OR {_UNPAID}),
                           r.seats, 0)), 0) > %s
        OR %s AND COALESCE(SUM(EXISTS(SELECT 1 FROM reservation_seat s
                                      WHERE s.reservation_id = r.id AND s.seat_id IN %s)), 0)
    FROM reservation r FORCE INDEX (of_user) WHERE r.user_id = %s AND {_RECENT})
"""

# NOW(6) has the same value throughout a statement. In the same statement as the check for a
# payment, because a payment may begin after any earlier read: without a status, which is an error,
# nothing is inserted. The check reads an index only, and LIMIT keeps the optimizer from rewriting
# it; it locks what it finds, so it waits for a payment that begins now.
_INSERT = f"""
{PATIENCE}INSERT INTO reservation (
    user_id, seat_id, schedule_id, seat_num, price, currency, seats, held_until, lapses_at,
    created_at, updated_at, room, place_number, status)
VALUES {{}} RETURNING id, held_until, created_at
"""
_ROW = """(%s, %s, %s, %s, %s, %s, %s, NOW(6) + INTERVAL %s MICROSECOND,
 NOW(6) + INTERVAL %s MICROSECOND, NOW(6), NOW(6), %s, %s, {})"""
_IS_PAID = "EXISTS(SELECT 1 FROM reservation p WHERE p.paid_place = %s AND p.room = %s LIMIT 1)"

# The id of the n-th row of that INSERT: its ids follow one another, because MariaDB knows the
# number of its rows from the start.
_ID = "LAST_INSERT_ID() + %s * @@auto_increment_increment"

CLAIMS = """
SELECT c.seat_id, r.id, r.status, r.lapses_at <= NOW(6) AS lapsed
FROM seat_claim c STRAIGHT_JOIN reservation r ON r.id = c.reservation_id WHERE c.seat_id IN %s
"""

LOCK_BUYERS = f"{PATIENCE}SELECT user_id FROM buyer WHERE user_id IN %s ORDER BY user_id FOR UPDATE"

SEATS_OF_USERS = f"""
SELECT r.user_id, r.schedule_id, SUM(IF({_UNPAID}, r.seats, 0)) AS unpaid, SUM(r.seats) AS seats
FROM reservation r FORCE INDEX (of_user)
WHERE r.user_id IN %s AND (r.status = 'CONFIRMED' OR {_UNPAID}) GROUP BY r.user_id, r.schedule_id
"""

# Of each user and seat the last reservation, in the order of their ids; in microseconds how much
# was left of its hold when it ended, and how much is left of the cool-down.
LAST_HOLDS = f"""
SELECT user_id, seat_id, ended, TIMESTAMPDIFF(MICROSECOND, ended_at, held_until) AS unused,
       TIMESTAMPDIFF(MICROSECOND, NOW(6), ended_at + INTERVAL %s MICROSECOND) AS cooling
FROM (
    SELECT r.id, r.user_id, s.seat_id, r.held_until,
           IF(r.status = 'CANCELLED', r.updated_at, r.lapses_at) AS ended_at,
           r.status IN ('CANCELLED', 'EXPIRED') OR r.lapses_at <= NOW(6) AS ended
    FROM reservation r FORCE INDEX (of_user)
    STRAIGHT_JOIN reservation_seat s ON s.reservation_id = r.id AND s.seat_id IN %s
    WHERE r.user_id IN %s AND {_RECENT}
) last ORDER BY id
"""

_KEYS = f"""
SELECT k.user_id AS key_user_id, k.idem_key, k.seat_id AS key_seat_id, k.request,
       k.reservation_id IS NULL AS seat_missing, {COLUMNS}
FROM idempotency_key k LEFT JOIN reservation r ON r.id = k.reservation_id {SEATS}
WHERE {{}} ORDER BY k.user_id, k.idem_key, s.seat_id
"""

# The reservation of a place that is being paid or paid; the unique index allows one. One whose
# lease has run out is dead.
_PAID = """
SELECT id, room, place_number, status, COALESCE(payment_id, 0) AS payment_id,
       lapses_at <= NOW(6) AS lapsed
FROM reservation WHERE {}
"""

# A claim fails, because it would be NULL, if the seat is claimed.
_CLAIM = """
INSERT INTO seat_claim (seat_id, reservation_id, schedule_id) VALUES {}
ON DUPLICATE KEY UPDATE reservation_id = IF(reservation_id = 0, VALUES(reservation_id), NULL)
"""

CLOSED = "SELECT schedule_id FROM closed_schedule WHERE schedule_id IN %s"

# Fails, because the id would be NULL, if one of the schedules is closed; otherwise changes and
# locks nothing. Behind the claims: whoever closes a schedule first commits that, and then ends the
# holds whose claims are there. So a hold sees that the schedule is closed, or its claims are seen.
CHECK_OPEN = "UPDATE closed_schedule SET schedule_id = NULL WHERE schedule_id {}"

# The result of a key is "seat not found", unless a reservation is named.
_INSERT_KEYS = """
INSERT INTO idempotency_key (user_id, idem_key, seat_id, request, reservation_id, created_at)
VALUES {}
"""


def check_all(holds: Sequence[Hold], terms: HoldTerms) -> Statement:
    """Sets @undecided to whether any item needs a decision. A SELECT, because SET would lock what
    it reads."""
    values: list[Any] = []
    never = 2**31
    cool_down = microseconds(terms.cool_down_seconds)
    for hold in holds:
        ids, count = _ids(hold), len(hold.seats)
        values += (
            ids,
            (terms.max_unpaid_seats or never) - count,
            hold.schedule_id,
            (terms.max_seats_per_schedule or never) - count,
            cool_down > 0,
            ids,
            hold.user_id,
            cool_down,
        )
    return f"SELECT {' OR '.join([_NEEDS_DECISION] * len(holds))} INTO @undecided", *values


def lock_or_insert_buyers(holds: Sequence[Hold]) -> Statement:
    """Locks the rows of all buyers, known or new."""
    sql, *users = insert_buyers({hold.user_id for hold in holds})
    return f"{sql} ON DUPLICATE KEY UPDATE user_id = VALUES(user_id)", *users


def insert_buyers(users: Iterable[int]) -> Statement:
    """Inserts buyers, who must be new."""
    ordered = sorted(users)
    return f"{PATIENCE}INSERT INTO buyer (user_id) VALUES {_rows('(%s)', ordered)}", *ordered


def insert_reservations(granted: Sequence[Granted], *, if_decided: bool = False) -> Statement:
    """Inserts the headers; fails with MissingValue if the place of any is being paid or paid, and
    with `if_decided` if @undecided."""
    rows, values = [], []
    for item in granted:
        hold, length = item.hold, microseconds(item.seconds)
        first, place = hold.seats[0], hold.admission
        conditions = ["@undecided"] if if_decided else []
        values += [hold.user_id, first.id, first.schedule_id, first.seat_num, hold.price]
        values += [hold.currency, len(hold.seats), length, length]
        values += (place.room, place.place_number) if place else (None, None)
        if place is not None:
            conditions.append(_IS_PAID)
            values += (place.place_number, place.room)
        rows.append(
            _ROW.format(f"IF({' OR '.join(conditions)}, NULL, 'HELD')" if conditions else "'HELD'")
        )
    return _INSERT.format(",".join(rows)), *values


def insert_seats(granted: Sequence[Granted]) -> Statement:
    """Inserts the seats of the headers that were inserted last."""
    values: list[Any] = []
    count = 0
    for number, item in enumerate(granted):
        for seat in item.hold.seats:
            values += (number, seat.id, seat.seat_num, seat.price)
            count += 1
    rows = ",".join([f"({_ID}, %s, %s, %s)"] * count)
    columns = "reservation_id, seat_id, seat_num, price"
    return f"INSERT INTO reservation_seat ({columns}) VALUES {rows}", *values


def insert_keys(granted: Sequence[Granted]) -> list[Statement]:
    """Stores the headers that were inserted last as the results of their keys, if they have any.
    Fails with LockTimeout at once if a request with one of the keys is in progress."""
    keyed = [
        (item.hold.key, number, item.hold)
        for number, item in enumerate(granted)
        if item.hold.key is not None
    ]
    if not keyed:
        return []
    values: list[Any] = []
    for key, number, hold in sorted(keyed, key=lambda item: (item[0].user_id, item[0].value)):
        values += (key.user_id, key.value, hold.seats[0].id, _hex(hold.request), number)
    rows = ",".join([f"(%s, %s, %s, UNHEX(%s), {_ID}, NOW(6))"] * len(keyed))
    return [(f"{NO_PATIENCE}{_INSERT_KEYS.format(rows)}", *values)]


def insert_key_of_missing_seat(
    key: IdempotencyKey, request: SeatRequest, seat_id: int
) -> Statement:
    """Stores "seat not found" as the result of a key; fails as `insert_keys` does."""
    row = "(%s, %s, %s, UNHEX(%s), NULL, NOW(6))"
    return (
        f"{NO_PATIENCE}{_INSERT_KEYS.format(row)}",
        *(key.user_id, key.value, seat_id, _hex(request)),
    )


def claim_seats(granted: Sequence[Granted]) -> Statement:
    """Claims the seats of the headers that were inserted last, in the order of the seats. Fails
    with MissingValue if one of them is claimed."""
    claims = sorted(
        (seat.id, number, seat.schedule_id)
        for number, item in enumerate(granted)
        for seat in item.hold.seats
    )
    rows = ",".join([f"(%s, {_ID}, %s)"] * len(claims))
    return f"{PATIENCE}{_CLAIM.format(rows)}", *(value for claim in claims for value in claim)


def check_open(granted: Sequence[Granted]) -> Statement:
    """Fails with MissingValue if the schedule of one of them is closed. Comes after
    `claim_seats`."""
    schedules = sorted({item.hold.schedule_id for item in granted})
    return f"{PATIENCE}{CHECK_OPEN.format('IN %s')}", schedules


def find_keys(keys: Sequence[IdempotencyKey]) -> Statement:
    """Reads what is stored for these keys."""
    where = " OR ".join(["(k.user_id = %s AND k.idem_key = %s)"] * len(keys))
    return _KEYS.format(where), *(value for key in keys for value in (key.user_id, key.value))


def lock_key(key: IdempotencyKey) -> Statement:
    """Fails with LockTimeout at once if a request with the key is in progress. For one key, because
    a search for several would also lock the rows between them."""
    return (
        f"{NO_PATIENCE}SELECT seat_id FROM idempotency_key"
        " WHERE user_id = %s AND idem_key = %s FOR UPDATE",
        *(key.user_id, key.value),
    )


def probe(hold: Hold) -> list[Statement]:
    """Fails with LockTimeout at once if another transaction has locked the buyer or a seat. Shared
    locks: those who ask at the same time do not see each other."""
    return [
        (f"{NO_PATIENCE}SELECT 1 FROM buyer WHERE user_id = %s LOCK IN SHARE MODE", hold.user_id),
        (
            f"{NO_PATIENCE}SELECT 1 FROM seat_claim WHERE seat_id IN %s LOCK IN SHARE MODE",
            _ids(hold),
        ),
    ]


def find_paid(places: Sequence[Admission]) -> Statement:
    """Reads the reservations of these places that are being paid or paid."""
    where = " OR ".join(["(paid_place = %s AND room = %s)"] * len(places))
    return _PAID.format(where), *(
        value for place in places for value in (place.place_number, place.room)
    )


def _ids(hold: Hold) -> list[int]:
    return [seat.id for seat in hold.seats]


def _hex(request: SeatRequest) -> str | None:
    return request.digest.hex() or None


def _rows(row: str, values: Sequence[object]) -> str:
    return ",".join([row] * len(values))
