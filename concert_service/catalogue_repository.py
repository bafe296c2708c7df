"""The SQL of the catalogue's changes, for those who follow it."""

from collections.abc import Collection, Sequence
from datetime import datetime

from concert_service.catalogue import CatalogueChanges, CatalogueConcert, CatalogueNews
from concert_service.changes import KEPT_VERSIONS
from concert_service.domain import EventStatus
from concert_service.rooms.repository import ROOMS, ROOMS_NAMED, to_room
from concert_service.seat_map_repository import SET_MAX_LENGTH
from servicekit.mysql import Database, Row

# One statement, so that both are of the same moment.
CHANGES = """
SELECT catalogue.version AS newest, c.concert_id, c.room
FROM catalogue LEFT JOIN catalogue_change c ON c.version > %s
WHERE catalogue.id = 1
"""

# One statement, because it is asked all the time. No date ends after NULL.
NEWS = """
SELECT version, UTC_TIMESTAMP(3) AS now,
       (SELECT GROUP_CONCAT(DISTINCT concert_id) FROM schedule
        WHERE listed_until > %s AND listed_until <= UTC_TIMESTAMP(3)) AS ended
FROM catalogue WHERE id = 1
"""

# One row for each concert: to read 10,000 schedules as rows takes 60 ms of the event loop.
_CONCERT = """
SELECT concert.id, concert.room, concert.status,
       GROUP_CONCAT(schedule.id ORDER BY schedule.id) AS schedule_ids
FROM concert LEFT JOIN schedule ON schedule.concert_id = concert.id
"""

CONCERTS = f"{_CONCERT} WHERE concert.id IN %s GROUP BY concert.id ORDER BY concert.id"

PUBLISHED = f"{_CONCERT} WHERE concert.status = 'PUBLISHED' GROUP BY concert.id ORDER BY concert.id"


class CatalogueRepository:
    """Implements `ports.CatalogueStore` in MariaDB."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def news(self, since: datetime | None) -> CatalogueNews:
        async with self._database.connection() as connection:
            row = await connection.fetch_one(NEWS, since)
        assert row is not None  # the migration has added it
        return CatalogueNews(row.version, row.now, _ids(row.ended))

    async def changes_after(self, version: int, also: Collection[int] = ()) -> CatalogueChanges:
        if version == 0:
            return await self._everything((await self.news(None)).version)
        async with self._database.connection() as connection:
            rows = await connection.fetch_all(CHANGES, version)
        newest = rows[0].newest
        # A later version is that of a database which was replaced by an older backup.
        if not newest - KEPT_VERSIONS <= version <= newest:
            return await self._everything(newest)
        return await self._changes(
            newest,
            {*also, *(row.concert_id for row in rows if row.concert_id)},
            {row.room for row in rows if row.room},
        )

    async def _everything(self, version: int) -> CatalogueChanges:
        async with self._database.connection() as connection:
            _, concerts, rooms = await connection.execute_together(
                (SET_MAX_LENGTH,), (PUBLISHED,), (ROOMS,)
            )
        return CatalogueChanges(
            version,
            is_reset=True,
            concerts=_concerts(concerts.rows),
            rooms=[to_room(row) for row in rooms.rows],
        )

    async def _changes(
        self, version: int, concert_ids: Collection[int], rooms: Collection[str]
    ) -> CatalogueChanges:
        """Reads the newest state of these, which may be of a later version."""
        found_concerts: Sequence[Row] = ()
        found_rooms: Sequence[Row] = ()
        async with self._database.connection() as connection:
            if concert_ids:
                _, found = await connection.execute_together(
                    (SET_MAX_LENGTH,), (CONCERTS, tuple(concert_ids))
                )
                found_concerts = found.rows
            if rooms:
                found_rooms = await connection.fetch_all(ROOMS_NAMED, tuple(rooms))
        return CatalogueChanges(
            version,
            is_reset=False,
            concerts=_concerts(found_concerts),
            rooms=[to_room(row) for row in found_rooms],
            removed_rooms=sorted(set(rooms).difference(row.name for row in found_rooms)),
        )


def _concerts(rows: Sequence[Row]) -> list[CatalogueConcert]:
    return [
        CatalogueConcert(row.id, row.room, EventStatus(row.status), _ids(row.schedule_ids))
        for row in rows
    ]


def _ids(text: str | None) -> list[int]:
    """Reads ids that GROUP_CONCAT has joined."""
    return [int(id) for id in text.split(",")] if text else []
