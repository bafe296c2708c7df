"""The SQL of event documents."""

_CONCERT = """
SELECT id, external_id, version, status, title, room,
       (SELECT GROUP_CONCAT(s.id ORDER BY s.date, s.id) FROM schedule s
        WHERE s.concert_id = concert.id) AS schedule_ids,
       (SELECT COALESCE(SUM(s.seat_count), 0) FROM schedule s
        WHERE s.concert_id = concert.id) AS seats
FROM concert
"""

EVENT = f"{_CONCERT} WHERE external_id = %s"

EVENTS_AFTER = f"{_CONCERT} WHERE external_id > %s ORDER BY external_id LIMIT %s"

LOCK_EVENT = "SELECT id FROM concert WHERE external_id = %s FOR UPDATE"

# Each document belongs to the versions from its own to the next document's.
DOCUMENT = """
SELECT document FROM event_version WHERE concert_id = %s AND version <= %s
ORDER BY version DESC LIMIT 1
"""

ADD_DOCUMENT = """
INSERT INTO event_version (concert_id, version, document, operator, created_at)
VALUES (%s, %s, %s, %s, UTC_TIMESTAMP(3))
"""

FORGET_DOCUMENTS = """
DELETE FROM event_version WHERE concert_id = %s AND version <= (
    SELECT version FROM (
        SELECT version FROM event_version WHERE concert_id = %s
        ORDER BY version DESC LIMIT 1 OFFSET %s) oldest)
"""

# Until the commit, nobody removes the room. Last before the row of the catalogue, in the order of
# who changes a room: no deadlock, and a change of the room waits for the end of an import only.
LOCK_ROOM = "SELECT name FROM room WHERE name = %s AND NOT is_removed LOCK IN SHARE MODE"

HAS_ROOM = "SELECT name FROM room WHERE name = %s AND NOT is_removed"

ADD_CONCERT = """
INSERT INTO concert (external_id, title, description, venue, time_zone, image_url, room, currency,
                     status, version)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 'DRAFT', 1)
"""

SET_CONCERT = """
UPDATE concert SET title = %s, description = %s, venue = %s, time_zone = %s, image_url = %s,
    room = %s, currency = %s, version = version + 1
WHERE id = %s
"""

SET_STATUS = "UPDATE concert SET status = %s, version = version + 1 WHERE id = %s"

SCHEDULES = """
SELECT id, external_id, date, starts_at, listed_until, sales_from, sales_until, is_cancelled,
       was_closed, seat_count
FROM schedule WHERE concert_id = %s ORDER BY id
"""

# Also the lock that `concert_service.seat_map` asks for.
LOCK_SCHEDULES = f"{SCHEDULES} FOR UPDATE"

ADD_SCHEDULE = """
INSERT INTO schedule (concert_id, external_id, date, starts_at, listed_until, sales_from,
                      sales_until, is_cancelled, was_closed, seat_count)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""

SET_SCHEDULE = """
UPDATE schedule SET date = %s, starts_at = %s, listed_until = %s, sales_from = %s, sales_until = %s,
    is_cancelled = %s, was_closed = was_closed OR is_cancelled
WHERE id = %s
"""

CANCEL_SCHEDULES = "UPDATE schedule SET is_cancelled = TRUE, was_closed = TRUE WHERE id IN %s"

# Also seats that were removed: to reservation_service they are the house's, as blocked ones are,
# and who subtracts those must have counted them.
COUNT_SEATS = """
UPDATE schedule SET seat_count = (
    SELECT COUNT(*) FROM seat WHERE seat.schedule_id = schedule.id)
WHERE id IN %s
"""

DELETE_MAPS = "DELETE FROM seat_map WHERE schedule_id IN %s"

# Columns and their types, in the order of `plan.SeatState` with its facts.
_SEAT = {
    "position": "SMALLINT UNSIGNED",
    "is_blocked": "BOOLEAN",
    "is_removed": "BOOLEAN",
    "section": "VARCHAR(32)",
    "seat_num": "VARCHAR(16)",
    "row_name": "VARCHAR(16)",
    "place": "SMALLINT UNSIGNED",
    "price_category": "VARCHAR(32)",
    "price": "DECIMAL(15, 3)",
    "is_accessible": "BOOLEAN",
    "is_companion": "BOOLEAN",
    "is_general_admission": "BOOLEAN",
    "row_rank": "INT",
    "x": "INT",
    "y": "INT",
}
_NAMES = ", ".join(_SEAT)
# One value has many rows, so that Python does not escape each value.
_ROWS = ", ".join(
    f"{name} {kind} PATH '$[{index}]'"
    for index, (name, kind) in enumerate({"id": "BIGINT", **_SEAT}.items())
)

_SEATS = f"SELECT id, was_blocked, {_NAMES} FROM seat WHERE schedule_id = %s"

SEATS = f"{_SEATS} ORDER BY position, id"

# Labels are compared without regard to case here: the caller looks again.
SEATS_BLOCKED_OR_NAMED = f"{_SEATS} AND (was_blocked OR seat_num IN %s) ORDER BY position, id"

# In seat order, so that the ids of a date follow one another.
ADD_SEATS = f"""
INSERT INTO seat (schedule_id, was_blocked, {_NAMES})
SELECT %s, is_blocked OR is_removed, {_NAMES}
FROM JSON_TABLE(%s, '$[*]' COLUMNS ({_ROWS})) added ORDER BY position
"""

# A date that is added has the seats of another new one, which MariaDB has already: also those that
# are hidden there until they are blocked.
COPY_SEATS = f"""
INSERT INTO seat (schedule_id, was_blocked, {_NAMES})
SELECT %s, FALSE, {_NAMES.replace("is_blocked, is_removed", "FALSE, FALSE")}
FROM seat WHERE schedule_id = %s ORDER BY position
"""

BLOCK_SEATS = """
UPDATE seat SET is_blocked = TRUE, was_blocked = TRUE, is_removed = %s
WHERE schedule_id = %s AND position IN %s
"""

HIDDEN_SEATS = """
SELECT id FROM seat WHERE schedule_id = %s AND is_blocked AND is_removed ORDER BY id
"""

SET_SEATS = f"""
UPDATE JSON_TABLE(%s, '$[*]' COLUMNS ({_ROWS})) wanted STRAIGHT_JOIN seat ON seat.id = wanted.id
SET seat.was_blocked = seat.was_blocked OR wanted.is_blocked OR wanted.is_removed,
    {", ".join(f"seat.{name} = wanted.{name}" for name in _SEAT)}
"""

NOT_FOR_SALE = """
SELECT seat.schedule_id, seat.id FROM seat JOIN schedule ON schedule.id = seat.schedule_id
WHERE schedule.concert_id = %s AND (seat.is_blocked OR seat.is_removed)
ORDER BY seat.schedule_id, seat.id
"""
