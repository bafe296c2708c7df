"""Tells those who keep copies of the catalogue that a transaction changes it."""

from collections.abc import Collection

from servicekit.mysql import Connection

KEPT_VERSIONS = 10_000
"""A caller that is further behind gets a reset. A version takes about 60 bytes."""

NEXT_VERSION = "UPDATE catalogue SET version = version + 1 WHERE id = 1"

VERSION = "SELECT version FROM catalogue WHERE id = 1"

ADD_CHANGE = """
INSERT INTO catalogue_change (version, concert_id, room, created_at)
VALUES (%s, %s, %s, UTC_TIMESTAMP(3))
"""

FORGET_CHANGES = "DELETE FROM catalogue_change WHERE version <= %s"


async def note_change(
    connection: Connection, concert_ids: Collection[int] = (), rooms: Collection[str] = ()
) -> int:
    """Notes that the transaction of this connection changes these concerts (also their schedules or
    seats) and rooms; returns the new version of the catalogue. It is seen with the transaction's
    commit, within a second, by every process that follows the catalogue.

    Call it once in a transaction, after its other locks: it locks the row of the catalogue until
    the commit, so that versions are in the order of the commits. A transaction that holds that row
    waits for no other lock: so none deadlocks, and the next waits only for a commit. Expects at
    least one concert or room.
    """
    assert concert_ids or rooms, "a change of nothing"
    _, found = await connection.execute_together((NEXT_VERSION,), (VERSION,))
    version: int = found.rows[0].version
    await connection.execute_together(
        *((ADD_CHANGE, version, concert_id, "") for concert_id in sorted(set(concert_ids))),
        *((ADD_CHANGE, version, 0, room) for room in sorted(set(rooms))),
        (FORGET_CHANGES, version - KEPT_VERSIONS),
    )
    return version
