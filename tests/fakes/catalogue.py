"""A catalogue in memory."""

from collections.abc import Collection
from datetime import UTC, datetime

from concert_service.catalogue import CatalogueChanges, CatalogueConcert, CatalogueNews
from protos.frontrow.concert.v1 import rooms_pb2


class FakeCatalogueStore:
    """Implements ports.CatalogueStore. Set `error` to make it unavailable."""

    def __init__(self, *, kept: int = 10_000) -> None:
        self.concerts: dict[int, CatalogueConcert] = {}
        self.rooms: dict[str, rooms_pb2.Room] = {}
        self.error: Exception | None = None
        self._ends: dict[int, datetime] = {}
        self._kept = kept
        self._newest = 1
        self._changed: list[tuple[int, int, str]] = []

    async def put(self, concert: CatalogueConcert) -> int:
        """Adds or changes a concert; returns the new version."""
        self.concerts[concert.id] = concert
        return self._note(concert.id, "")

    async def put_room(self, name: str) -> int:
        """Adds a room, or changes it; returns the new version."""
        self.rooms[name] = rooms_pb2.Room(name=name)
        return self._note(0, name)

    async def remove_room(self, name: str) -> int:
        """Removes a room; returns the new version."""
        del self.rooms[name]
        return self._note(0, name)

    async def end_date(self, concert_id: int, at: datetime) -> None:
        """Has the first date of a concert end at this time, without a new version."""
        self._ends[concert_id] = at

    def _note(self, concert_id: int, room: str) -> int:
        self._newest += 1
        self._changed.append((self._newest, concert_id, room))
        return self._newest

    async def news(self, since: datetime | None) -> CatalogueNews:
        if self.error:
            raise self.error
        now = datetime.now(UTC)
        ended = [id for id, end in self._ends.items() if since is not None and since < end <= now]
        return CatalogueNews(self._newest, now, ended)

    async def changes_after(self, version: int, also: Collection[int] = ()) -> CatalogueChanges:
        newest = (await self.news(None)).version
        if version == 0 or not newest - self._kept <= version <= newest:
            published = [c for c in self.concerts.values() if c.status == "PUBLISHED"]
            return CatalogueChanges(newest, True, published, list(self.rooms.values()))
        changed = [(concert, room) for v, concert, room in self._changed if v > version]
        rooms = sorted({room for _, room in changed if room})
        return CatalogueChanges(
            newest,
            False,
            [self.concerts[id] for id in sorted({*also, *(id for id, _ in changed if id)})],
            [self.rooms[room] for room in rooms if room in self.rooms],
            [room for room in rooms if room not in self.rooms],
        )
