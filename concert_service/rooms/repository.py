"""The SQL of rooms and of the cohorts of draws."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from concert_service.changes import note_change
from concert_service.rooms.ports import Part
from concert_service.rooms.rules import Decide, Found, StoredRoom
from protos.frontrow.concert.v1 import rooms_pb2
from servicekit.errors import InvalidRequest
from servicekit.mysql import Connection, Database, Row

NUMBER_BYTES = 8

_COLUMNS = """
name, version, definition, seed, public_value, cohort_attempt, cohort_size, cohort_sha256,
is_removed
"""

ROOMS = f"SELECT {_COLUMNS} FROM room WHERE NOT is_removed ORDER BY name"

ROOMS_NAMED = f"SELECT {_COLUMNS} FROM room WHERE NOT is_removed AND name IN %s ORDER BY name"

ROOM = f"SELECT {_COLUMNS} FROM room WHERE name = %s"

LOCK_ROOM = f"{ROOM} FOR UPDATE"

# For a room that does not exist yet: there is no row to lock, and rooms are counted.
LOCK_CATALOGUE = "SELECT version FROM catalogue WHERE id = 1 FOR UPDATE"

COUNT_ROOMS = "SELECT COUNT(*) AS rooms FROM room WHERE NOT is_removed"

CONCERTS_OF_ROOM = (
    "SELECT id FROM concert WHERE room = %s AND status = 'PUBLISHED' ORDER BY id LIMIT 100"
)

SET_ROOM = """
INSERT INTO room
    (name, version, definition, seed, public_value, cohort_attempt, cohort_size, cohort_sha256,
     is_removed)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE version = VALUES(version), definition = VALUES(definition),
    seed = VALUES(seed), public_value = VALUES(public_value),
    cohort_attempt = VALUES(cohort_attempt), cohort_size = VALUES(cohort_size),
    cohort_sha256 = VALUES(cohort_sha256), is_removed = VALUES(is_removed)
"""

DELETE_PARTS = "DELETE FROM cohort_part WHERE room = %s"

DELETE_PARTS_OF_OTHERS = "DELETE FROM cohort_part WHERE room = %s AND attempt <> %s"

PART_BEFORE = """
SELECT position, numbers FROM cohort_part
WHERE room = %s AND attempt = %s AND position < %s ORDER BY position DESC LIMIT 1
"""

PART = "SELECT numbers FROM cohort_part WHERE room = %s AND attempt = %s AND position = %s"

ADD_PART = """
INSERT INTO cohort_part (room, attempt, position, numbers, created_at)
VALUES (%s, %s, %s, %s, UTC_TIMESTAMP(3))
"""

POSITIONS = "SELECT position FROM cohort_part WHERE room = %s AND attempt = %s ORDER BY position"

PART_WITH = """
SELECT position, numbers FROM cohort_part
WHERE room = %s AND attempt = %s AND position <= %s ORDER BY position DESC LIMIT 1
"""


class RoomRepository:
    """Implements `ports.RoomStore` in MariaDB."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rooms(self) -> Sequence[StoredRoom]:
        async with self._database.connection() as connection:
            return [_stored(row) for row in await connection.fetch_all(ROOMS)]

    async def room(self, name: str) -> StoredRoom | None:
        async with self._database.connection() as connection:
            row = await connection.fetch_one(ROOM, name)
        return None if row is None else _stored(row)

    async def change(self, name: str, decide: Decide) -> StoredRoom | None:
        async def work(connection: Connection) -> StoredRoom | None:
            _, _, found, count, concerts = await connection.execute_together(
                (LOCK_ROOM, name),
                (LOCK_CATALOGUE,),
                # Again, because somebody may have created it before the second lock.
                (LOCK_ROOM, name),
                (COUNT_ROOMS,),
                (CONCERTS_OF_ROOM, name),
            )
            before = _stored(found.rows[0]) if found.rows else None
            concert_ids = tuple(row.id for row in concerts.rows)
            after = decide(Found(before, count.rows[0].rooms, concert_ids))
            if after is None:
                return before
            if before is not None and before.cohort_attempt and not after.cohort_attempt:
                await connection.execute(DELETE_PARTS, name)
            await _write(connection, after)
            return after

        return await self._database.run(work)

    async def put_part(
        self, name: str, part: Part, check: Callable[[StoredRoom | None], None]
    ) -> StoredRoom:
        async def work(connection: Connection) -> StoredRoom:
            row = await connection.fetch_one(LOCK_ROOM, name)
            room = None if row is None else _stored(row)
            check(room)
            assert room is not None
            if room.cohort_sha256 is not None:
                return room
            await _add_part(connection, name, part)
            if not part.is_last:
                return room
            size, digest = await _digest(connection, name, part.attempt)
            room = replace(
                room,
                version=room.version + 1,
                cohort_attempt=part.attempt,
                cohort_size=size,
                cohort_sha256=digest,
            )
            await connection.execute(DELETE_PARTS_OF_OTHERS, name, part.attempt)
            await _write(connection, room)
            return room

        return await self._database.run(work)

    async def cohort_numbers(self, room: StoredRoom, offset: int) -> bytes:
        async with self._database.connection() as connection:
            row = await connection.fetch_one(PART_WITH, room.name, room.cohort_attempt, offset)
        return b"" if row is None else row.numbers[(offset - row.position) * NUMBER_BYTES :]


def to_room(row: Row) -> rooms_pb2.Room:
    """Converts a row of ROOMS or ROOMS_NAMED, as `to_message` does."""
    return to_message(_stored(row))


def to_message(room: StoredRoom) -> rooms_pb2.Room:
    """Returns the message of a room with the seed of its draw, which only programs of Frontrow
    may see."""
    message = rooms_pb2.Room()
    message.CopyFrom(room.definition)
    message.name = room.name
    message.version = room.version
    if room.seed is not None:
        draw = message.draw
        draw.seed = room.seed
        draw.seed_sha256 = hashlib.sha256(room.seed).digest()
        draw.public_value = room.public_value
        if room.cohort_sha256 is not None:
            draw.cohort.size = room.cohort_size
            draw.cohort.sha256 = room.cohort_sha256
    return message


async def _write(connection: Connection, room: StoredRoom) -> None:
    await connection.execute(
        SET_ROOM,
        *(room.name, room.version, room.definition.SerializeToString(), room.seed),
        *(room.public_value, room.cohort_attempt),
        None if room.cohort_sha256 is None else room.cohort_size,
        *(room.cohort_sha256, room.is_removed),
    )
    await note_change(connection, rooms=(room.name,))


async def _add_part(connection: Connection, name: str, part: Part) -> None:
    known = await connection.fetch_one(PART, name, part.attempt, part.offset)
    if known is not None:
        if known.numbers != part.numbers:
            raise InvalidRequest("This part of the cohort was stored with other numbers.")
        return
    before = await connection.fetch_one(PART_BEFORE, name, part.attempt, part.offset)
    end, last = 0, b""
    if before is not None:
        end = before.position + len(before.numbers) // NUMBER_BYTES
        last = before.numbers[-NUMBER_BYTES:]
    if end != part.offset:
        raise InvalidRequest(f"The next part of the cohort begins at {end}.")
    # Big-endian numbers are in the order of their bytes.
    if part.numbers and last >= part.numbers[:NUMBER_BYTES]:
        raise InvalidRequest("The numbers of a cohort ascend.")
    # An empty part tells nothing, and its key would be that of the next one.
    if part.numbers:
        await connection.execute(ADD_PART, name, part.attempt, part.offset, part.numbers)


async def _digest(connection: Connection, name: str, attempt: str) -> tuple[int, bytes]:
    """Returns the size and the SHA-256 of the parts of an attempt. One part at a time: a million
    numbers are 8 MB."""
    digest = hashlib.sha256()
    size = 0
    for row in await connection.fetch_all(POSITIONS, name, attempt):
        part = await connection.fetch_one(PART, name, attempt, row.position)
        assert part is not None
        digest.update(part.numbers)
        size += len(part.numbers) // NUMBER_BYTES
    return size, digest.digest()


def _stored(row: Row) -> StoredRoom:
    return StoredRoom(
        name=row.name,
        version=row.version,
        definition=rooms_pb2.Room.FromString(row.definition),
        seed=row.seed,
        public_value=row.public_value,
        cohort_attempt=row.cohort_attempt,
        cohort_size=row.cohort_size or 0,
        cohort_sha256=row.cohort_sha256,
        is_removed=bool(row.is_removed),
    )
