"""Rows of `room` and their messages."""

import hashlib

from protos.frontrow.concert.v1 import rooms_pb2
from servicekit.mysql import Row

ROOM_COLUMNS = "name, version, definition, seed, public_value, cohort_size, cohort_sha256"


def to_room(row: Row) -> rooms_pb2.Room:
    """Converts a row with ROOM_COLUMNS. The message has the secret seed of a draw: it is for
    programs of Frontrow only."""
    room = rooms_pb2.Room.FromString(row.definition)
    room.name, room.version = row.name, row.version
    if row.seed is not None:
        room.draw.seed = row.seed
        room.draw.seed_sha256 = hashlib.sha256(row.seed).digest()
        room.draw.public_value = row.public_value
        if row.cohort_size is not None:
            room.draw.cohort.size = row.cohort_size
            room.draw.cohort.sha256 = row.cohort_sha256
    return room
