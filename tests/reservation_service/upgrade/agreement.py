"""What must hold between reservations, their seats and the claims at any moment."""

from pymysql.cursors import Cursor

LIVE = "('HELD', 'PAYING', 'CONFIRMED')"

#: What is wrong → a query for the rows with it.
_WRONG = {
    "a live reservation lacks the claim of a seat": f"""
        SELECT r.id, s.seat_id, c.reservation_id FROM reservation r
        LEFT JOIN reservation_seat s ON s.reservation_id = r.id
        LEFT JOIN seat_claim c ON c.seat_id = s.seat_id AND c.schedule_id = r.schedule_id
        WHERE r.id > 0 AND r.status IN {LIVE} AND NOT c.reservation_id <=> r.id
    """,
    "a claim of a reservation that is not live, or of a seat that is not in it": f"""
        SELECT c.seat_id, c.reservation_id, r.status FROM seat_claim c
        LEFT JOIN reservation r ON r.id = c.reservation_id
        LEFT JOIN reservation_seat s
            ON s.reservation_id = c.reservation_id AND s.seat_id = c.seat_id
        WHERE c.reservation_id > 0
            AND (r.id IS NULL OR r.status NOT IN {LIVE} OR s.seat_id IS NULL)
    """,
    "a seat of the house without its reservation": """
        SELECT c.seat_id, c.reservation_id FROM seat_claim c
        LEFT JOIN reservation r
            ON r.id = c.reservation_id AND r.status = 'CONFIRMED' AND r.schedule_id = c.schedule_id
        WHERE c.reservation_id < 0 AND r.id IS NULL
    """,
    "a reservation differs from its seats": """
        SELECT r.id, r.seats FROM reservation r
        WHERE r.id > 0 AND (
            SELECT COUNT(*) = r.seats AND SUM(s.price) = r.price AND MIN(s.seat_id) = r.seat_id
            FROM reservation_seat s WHERE s.reservation_id = r.id
        ) IS NOT TRUE
    """,
    "seats of a reservation that was removed": """
        SELECT s.reservation_id, s.seat_id FROM reservation_seat s
        LEFT JOIN reservation r ON r.id = s.reservation_id WHERE r.id IS NULL
    """,
    "a user without a row to lock": """
        SELECT r.id, r.user_id FROM reservation r
        LEFT JOIN buyer b ON b.user_id = r.user_id
        WHERE r.id > 0 AND b.user_id IS NULL
    """,
}


def disagreements(cursor: Cursor) -> dict[str, list[tuple[object, ...]]]:
    """What is wrong → the first rows with it, all as of one moment."""
    cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
    found = {}
    for wrong, query in _WRONG.items():
        cursor.execute(f"{query} LIMIT 5")
        if rows := list(cursor.fetchall()):
            found[wrong] = rows
    cursor.execute("COMMIT")
    return found
