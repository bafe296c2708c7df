"""The contract of the store of the catalogue's versions, on the fake and on MariaDB."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime, timedelta

import pytest

from concert_service import catalogue_repository, changes
from concert_service.catalogue import CatalogueChanges, CatalogueConcert
from concert_service.catalogue_repository import CatalogueRepository
from concert_service.catalogue_watch import CatalogueWatchers
from concert_service.changes import note_change
from concert_service.domain import EventStatus
from concert_service.ports import CatalogueStore
from protos.frontrow.concert.v1 import rooms_pb2
from servicekit.mysql import Connection, Database
from tests.concert_service.conftest import BASE
from tests.fakes.catalogue import FakeCatalogueStore

KEPT = 5


class RealStore(CatalogueRepository):
    """The repository, with methods to change the catalogue."""

    async def put(self, concert: CatalogueConcert) -> int:
        async def work(connection: Connection) -> int:
            return await write(connection, concert)

        return await self._database.run(work)

    async def put_room(self, name: str) -> int:
        async def work(connection: Connection) -> int:
            await connection.execute(
                "INSERT INTO room (name, version, definition) VALUES (%s, 1, %s)",
                *(name, rooms_pb2.Room(name=name).SerializeToString()),
            )
            return await note_change(connection, rooms=[name])

        return await self._database.run(work)

    async def remove_room(self, name: str) -> int:
        async def work(connection: Connection) -> int:
            await connection.execute("UPDATE room SET is_removed = TRUE WHERE name = %s", name)
            return await note_change(connection, rooms=[name])

        return await self._database.run(work)

    async def end_date(self, concert_id: int, at: datetime) -> None:
        async with self._database.connection() as connection:
            await connection.execute(
                "UPDATE schedule SET listed_until = %s WHERE concert_id = %s LIMIT 1",
                *(at.replace(tzinfo=None), concert_id),
            )

    async def clear(self) -> None:
        async with self._database.transaction() as t:
            await t.execute("DELETE FROM schedule WHERE id >= %s", BASE)
            await t.execute("DELETE FROM concert WHERE id >= %s", BASE)
            await t.execute("DELETE FROM room WHERE name LIKE 'catalogue-%%'")


async def write(connection: Connection, concert: CatalogueConcert) -> int:
    """Adds a concert, or changes its room and status."""
    await connection.execute(
        "INSERT INTO concert (id, title, room, status) VALUES (%s, 'C', %s, %s)"
        " ON DUPLICATE KEY UPDATE room = VALUES(room), status = VALUES(status)",
        *(concert.id, concert.room, concert.status),
    )
    for id in concert.schedule_ids:
        await connection.execute(
            "INSERT IGNORE INTO schedule (id, concert_id, date, seat_count)"
            " VALUES (%s, %s, CURRENT_DATE, 0)",
            *(id, concert.id),
        )
    return await note_change(connection, [concert.id])


Store = FakeCatalogueStore | RealStore


@pytest.fixture(params=["fake", "real"])
async def store(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    if request.param == "fake":
        yield FakeCatalogueStore(kept=KEPT)
        return
    for module in (changes, catalogue_repository):
        monkeypatch.setattr(module, "KEPT_VERSIONS", KEPT)
    async with Database(request.getfixturevalue("mysql_urls")["concert"]) as database:
        real = RealStore(database)
        await real.clear()
        yield real
        await real.clear()


def concert(
    id: int, status: EventStatus = EventStatus.PUBLISHED, *, room: str = "main"
) -> CatalogueConcert:
    id += BASE
    return CatalogueConcert(id, room, status, [id * 10, id * 10 + 1])


async def version_of(store: CatalogueStore) -> int:
    return (await store.news(None)).version


def of_this_test(found: CatalogueChanges) -> list[CatalogueConcert]:
    """Other tests have concerts in the same schema."""
    return [concert for concert in found.concerts if concert.id >= BASE]


async def test_each_change_has_the_next_version(store: Store) -> None:
    before = await version_of(store)
    found = await store.changes_after(before)
    assert (found.version, found.is_reset) == (before, False)
    assert not any((found.concerts, found.rooms, found.removed_rooms))
    assert await store.put(concert(1)) == before + 1
    assert await store.put(concert(2, EventStatus.DRAFT)) == before + 2
    assert await store.put_room("catalogue-a") == before + 3
    assert await version_of(store) == before + 3

    found = await store.changes_after(before)
    assert (found.version, found.is_reset) == (before + 3, False)
    assert list(found.concerts) == [concert(1), concert(2, EventStatus.DRAFT)]
    assert [room.name for room in found.rooms] == ["catalogue-a"]
    assert list(found.removed_rooms) == []

    found = await store.changes_after(before + 1)
    assert list(found.concerts) == [concert(2, EventStatus.DRAFT)]

    # Twice changed, told once, in the newest state.
    await store.put(concert(2, room="side"))
    await store.remove_room("catalogue-a")
    found = await store.changes_after(before + 2)
    assert (found.version, list(found.concerts)) == (before + 5, [concert(2, room="side")])
    assert list(found.rooms) == []
    assert list(found.removed_rooms) == ["catalogue-a"]


async def test_who_is_too_far_behind_gets_all(store: Store) -> None:
    first = await store.put(concert(1))
    await store.put(concert(2, EventStatus.DRAFT))
    await store.put(concert(3, EventStatus.CANCELLED))
    await store.put_room("catalogue-a")
    await store.put_room("catalogue-b")
    newest = await store.remove_room("catalogue-b")
    assert newest == first + KEPT
    assert not (await store.changes_after(first)).is_reset
    for version in (0, first - 1, newest + 1):
        found = await store.changes_after(version)
        assert (found.version, found.is_reset) == (newest, True)
        assert of_this_test(found) == [concert(1)]
        names = [room.name for room in found.rooms if room.name.startswith("catalogue-")]
        assert names == ["catalogue-a"]
        assert list(found.removed_rooms) == []


async def test_a_date_that_ends_is_news_once(store: Store) -> None:
    await store.put(concert(1))
    await store.put(concert(2))
    news = await store.news(None)
    assert news.ended == []
    end = datetime.now(UTC) + timedelta(milliseconds=50)
    await store.end_date(concert(1).id, end)
    await store.end_date(concert(2).id, end + timedelta(hours=1))
    ended: list[int] = []
    async with asyncio.timeout(5):
        while not ended:
            news = await store.news(news.now)
            ended += news.ended
    assert ended == [concert(1).id]
    later = await store.news(news.now + timedelta(milliseconds=100))
    assert (later.ended, later.version) == ([], news.version)
    found = await store.changes_after(news.version, ended)
    assert (found.version, list(found.concerts)) == (news.version, [concert(1)])


async def test_replicas_tell_a_commit_within_a_second(store: Store) -> None:
    await store.put(concert(1))
    replicas = [CatalogueWatchers(store) for _ in range(2)]
    polls = [asyncio.create_task(replica.run()) for replica in replicas]
    streams = [replica.changes(await version_of(store)) for replica in replicas]
    for stream in streams:
        await anext(stream)
    for status in (EventStatus.CANCELLED, EventStatus.ARCHIVED):
        version = await store.put(concert(1, status))
        async with asyncio.timeout(1):
            for stream in streams:
                found = await anext(stream)
                assert (found.version, list(found.concerts)) == (version, [concert(1, status)])
    for stream in streams:
        await stream.aclose()
    for poll in polls:
        poll.cancel()
    await asyncio.gather(*polls, return_exceptions=True)


async def test_no_change_of_concurrent_writers_is_missed(mysql_urls: dict[str, str]) -> None:
    """Whoever has seen a version has seen all before it, whichever transaction is slow."""
    writers, each = 6, 5
    versions: list[int] = []

    async with Database(mysql_urls["concert"]) as database:
        store = RealStore(database)
        await store.clear()

        async def write_some(first: int) -> None:
            for id in range(first, first + each):
                async with database.transaction() as transaction:
                    version = await write(transaction, concert(id))
                    await asyncio.sleep(random.uniform(0, 0.01))
                versions.append(version)  # in the order of the commits, but for their replies

        async def follow(ids: Collection[int]) -> list[int]:
            seen: list[int] = []
            missing, known = set(ids), before
            async with asyncio.timeout(10):
                while missing:
                    found = await store.changes_after(known)
                    known = found.version
                    missing -= {concert.id for concert in found.concerts}
                    seen.append(known)
            return seen

        before = await version_of(store)
        ids = [concert(id).id for id in range(writers * each)]
        following = asyncio.create_task(follow(ids))
        await asyncio.gather(*(write_some(n * each) for n in range(writers)))
        seen = await following
        assert sorted(versions) == list(range(before + 1, before + 1 + len(ids)))
        assert seen == sorted(seen)
        assert len(set(seen)) > each  # it looked while they wrote
        await store.clear()


def check(_: CatalogueStore) -> None:
    """Makes mypy compare both stores with the Protocol."""


check(FakeCatalogueStore())
