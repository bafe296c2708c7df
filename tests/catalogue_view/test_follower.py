"""The follower and WatchCatalogue together, over gRPC, on a fake store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from catalogue_view.follower import CatalogueFollower
from concert_service.catalogue import CatalogueConcert
from concert_service.catalogue_servicer import CatalogueServicer
from concert_service.catalogue_watch import CatalogueWatchers
from concert_service.domain import EventStatus
from protos.frontrow.concert.v1 import catalogue_pb2, catalogue_pb2_grpc
from servicekit import client
from servicekit.call_interceptor import CallInterceptor
from servicekit.errors import Unavailable
from servicekit.rpc_errors import RemoteError
from tests.fakes.catalogue import FakeCatalogueStore


def concert(id: int, status: EventStatus = EventStatus.PUBLISHED) -> CatalogueConcert:
    return CatalogueConcert(id, "main", status, [10 * id, 10 * id + 1])


class Follower:
    """A CatalogueFollower that keeps what it was told."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.heard: asyncio.Queue[catalogue_pb2.WatchCatalogueResponse] = asyncio.Queue()
        stub = catalogue_pb2_grpc.CatalogueServiceStub(channel)
        self.follower = CatalogueFollower(stub, self.heard.put_nowait)
        self.task = asyncio.create_task(self.follower.run())

    async def next(self) -> catalogue_pb2.WatchCatalogueResponse:
        async with asyncio.timeout(1):
            return await self.heard.get()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def serving(
    store: FakeCatalogueStore, port: int = 0, *, older: bool = False
) -> AsyncIterator[tuple[CatalogueWatchers, grpc.aio.Server, int]]:
    """A server with this store; `older`: of the version before."""
    server = grpc.aio.server(interceptors=[CallInterceptor(5.0)])
    watchers = CatalogueWatchers(store)
    if not older:
        servicer = CatalogueServicer(watchers)
        catalogue_pb2_grpc.add_CatalogueServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    polling = asyncio.create_task(watchers.run())
    try:
        yield watchers, server, port
    finally:
        polling.cancel()
        await server.stop(None)


@pytest.fixture
async def store() -> FakeCatalogueStore:
    store = FakeCatalogueStore(kept=5)
    await store.put(concert(1))
    await store.put(concert(2, EventStatus.DRAFT))
    await store.put_room("main")
    return store


async def test_it_begins_with_all_and_gets_each_change(store: FakeCatalogueStore) -> None:
    async with serving(store) as (_, _, port), client.connect(f"127.0.0.1:{port}") as channel:
        one, two = Follower(channel), Follower(channel)
        for follower in (one, two):
            first = await follower.next()
            assert (first.version, first.reset) == (4, True)
            assert [c.id for c in first.concerts] == [1]
            assert list(first.concerts[0].schedule_ids) == [10, 11]
            assert [room.name for room in first.rooms] == ["main"]
        await store.put(concert(2))
        await store.put_room("side")
        for follower in (one, two):
            second = await follower.next()
            assert (second.version, second.reset) == (6, False)
            assert [(c.id, c.status) for c in second.concerts] == [
                (2, catalogue_pb2.EVENT_STATUS_PUBLISHED)
            ]
            assert [room.name for room in second.rooms] == ["side"]
        await store.remove_room("side")
        third = await one.next()
        assert (third.version, list(third.removed_rooms)) == (7, ["side"])
        assert not third.concerts
        assert not third.rooms
        for follower in (one, two):
            await follower.stop()


async def test_it_catches_up_with_the_next_server(
    store: FakeCatalogueStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The drain ends the stream at once, and the next server tells only what is new."""
    async with serving(store) as (watchers, server, port):
        channel = client.connect(f"127.0.0.1:{port}")
        follower = Follower(channel)
        await follower.next()
        watchers.end()
        async with asyncio.timeout(1):
            await server.stop(10)
    async with channel:
        version = await store.put(concert(3))
        async with serving(store, port):
            changes = await follower.next()
            assert (changes.version, changes.reset) == (version, False)
            assert [c.id for c in changes.concerts] == [3]
        for id in range(4, 11):  # more than are kept
            version = await store.put(concert(id))
        async with serving(store, port):
            changes = await follower.next()
            assert (changes.version, changes.reset) == (version, True)
            assert [c.id for c in changes.concerts] == [1, *range(3, 11)]
        await follower.stop()
    assert caplog.messages.count("catalogue_stream_unavailable") <= 2  # one for each outage


async def test_an_older_server_has_no_stream(
    store: FakeCatalogueStore,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("catalogue_view.follower.UNSUPPORTED_SECONDS", 0.05)
    caplog.set_level("INFO")
    async with serving(store, older=True) as (_, _, port):
        channel = client.connect(f"127.0.0.1:{port}")
        follower = Follower(channel)
        async with asyncio.timeout(2):
            while "catalogue_stream_unsupported" not in caplog.messages:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # several attempts
    async with channel, serving(store, port):
        assert (await follower.next()).reset
        await follower.stop()
    assert caplog.messages.count("catalogue_stream_unsupported") == 1
    assert "unexpected_status" not in caplog.messages


async def test_a_store_that_is_away_ends_no_stream(store: FakeCatalogueStore) -> None:
    async with serving(store) as (_, _, port), client.connect(f"127.0.0.1:{port}") as channel:
        follower = Follower(channel)
        await follower.next()
        store.error = Unavailable("away")
        await asyncio.sleep(0.3)  # a poll fails
        store.error = None
        await store.put(concert(3))
        changes = await follower.next()
        assert [c.id for c in changes.concerts] == [3]
        assert not changes.reset
        await follower.stop()


async def test_a_silent_server_is_left(
    store: FakeCatalogueStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalogue_view.follower.SILENT_SECONDS", 0.3)
    async with serving(store) as (_, _, port), client.connect(f"127.0.0.1:{port}") as channel:
        follower = Follower(channel)
        first = await follower.next()
        again = await follower.next()
        assert (again.version, again.reset) == (first.version, False)
        await follower.stop()


async def test_a_server_without_news_is_not_silent(
    store: FakeCatalogueStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concert_service.catalogue_watch.CATALOGUE_BEAT_SECONDS", 0.1)
    async with serving(store) as (_, _, port), client.connect(f"127.0.0.1:{port}") as channel:
        stub = catalogue_pb2_grpc.CatalogueServiceStub(channel)
        async with client.open_responses(
            stub.WatchCatalogue, catalogue_pb2.WatchCatalogueRequest()
        ) as responses:
            heard = aiter(responses)
            version = (await anext(heard)).version
            for _ in range(2):
                assert await anext(heard) == catalogue_pb2.WatchCatalogueResponse(version=version)
            version = await store.put(concert(3))
            async with asyncio.timeout(1):
                while not (news := await anext(heard)).concerts:
                    pass
            assert news.version == version


async def test_it_hears_of_a_date_that_ends_at_its_venue(store: FakeCatalogueStore) -> None:
    async with serving(store) as (_, _, port), client.connect(f"127.0.0.1:{port}") as channel:
        follower = Follower(channel)
        first = await follower.next()
        await store.end_date(1, datetime.now(UTC) + timedelta(seconds=0.3))
        ended = await follower.next()
        assert (ended.version, ended.reset) == (first.version, False)
        assert [c.id for c in ended.concerts] == [1]
        await asyncio.sleep(0.25)  # told once
        assert follower.heard.empty()
        await follower.stop()


async def test_a_version_that_does_not_exist_yet_is_a_reset(store: FakeCatalogueStore) -> None:
    """The database was replaced by an older backup."""
    async with serving(store) as (_, _, port), client.connect(f"127.0.0.1:{port}") as channel:
        stub = catalogue_pb2_grpc.CatalogueServiceStub(channel)
        request = catalogue_pb2.WatchCatalogueRequest(after_version=99)
        async with client.open_responses(stub.WatchCatalogue, request) as responses:
            assert (await anext(aiter(responses))).reset


async def test_a_negative_version_is_refused(store: FakeCatalogueStore) -> None:
    async with serving(store) as (_, _, port), client.connect(f"127.0.0.1:{port}") as channel:
        stub = catalogue_pb2_grpc.CatalogueServiceStub(channel)
        request = catalogue_pb2.WatchCatalogueRequest(after_version=-1)
        async with client.open_responses(stub.WatchCatalogue, request) as responses:
            with pytest.raises(RemoteError) as refused:
                await anext(aiter(responses))
    assert refused.value.code == "INVALID_REQUEST"
