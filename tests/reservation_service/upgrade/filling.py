"""Many reservations in the tables of the version before."""

from pymysql.cursors import Cursor

#: Locks of a transaction take memory, so that one for all would end the server.
BATCH = 50_000

# Seats that are not for sale any more. Half have a live reservation, as after many sales.
_RESERVATIONS = """
INSERT INTO reservation (id, user_id, seat_id, schedule_id, seat_num, price, status, held_until,
                         lapses_at, created_at, updated_at)
SELECT seq, seq % {users} + 1, seq % {seats} + 1000001, seq % {seats} DIV 150 + 10001,
       CONCAT('A', seq % 150 + 1), 100, IF(seq > {seats}, 'CONFIRMED', 'EXPIRED'),
       NOW(6), NOW(6), NOW(6), NOW(6)
FROM {numbers}
"""
_SEATS = """
INSERT INTO reservation_seat SELECT id, seat_id, seat_num, price FROM reservation
WHERE id BETWEEN {first} AND {last}
"""
_CLAIMS = """
INSERT INTO seat_claim SELECT seat_id, id, schedule_id FROM reservation
WHERE id BETWEEN {first} AND {last} AND status = 'CONFIRMED'
"""
_BUYERS = """
INSERT IGNORE INTO buyer SELECT DISTINCT user_id FROM reservation
WHERE id BETWEEN {first} AND {last}
"""


def fill(cursor: Cursor, reservations: int) -> None:
    """Makes reservations of one seat each."""
    for first in range(1, reservations + 1, BATCH):
        last = min(first + BATCH - 1, reservations)
        for sql in (_RESERVATIONS, _SEATS, _CLAIMS, _BUYERS):
            cursor.execute(
                sql.format(
                    users=max(1, reservations * 3 // 10),
                    seats=reservations // 2,
                    numbers=f"seq_{first}_to_{last}",
                    first=first,
                    last=last,
                )
            )
