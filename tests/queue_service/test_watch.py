"""WatchRoom, as a gateway meets it: over gRPC, with the fake and the real store behind it."""

import asyncio
import math
from collections.abc import Callable, Sequence
from itertools import chain

import grpc
import pytest
from prometheus_client import REGISTRY

from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from queue_service import recent_changes, room_copy, watch
from queue_service.domain import Place, Room
from queue_service.watchers import Watchers
from room_view.view import RoomView
from servicekit import call_interceptor
from servicekit.call_interceptor import CallInterceptor
from servicekit.client import connect, open_stream
from servicekit.errors import Unavailable
from servicekit.rpc_errors import RemoteError
from tests.queue_service import watching as watching_module
from tests.queue_service.conftest import MakeRoom, RoomHandle, entries
from tests.queue_service.watching import Mirror, Store, mirror, replica


@pytest.fixture(autouse=True)
def no_heartbeat_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """On however slow a machine, a heartbeat waits for its changes; a test shortens that if it is
    about it. A caller here fails if it gets one earlier."""
    monkeypatch.setattr(watch, "_REACHED_SECONDS", 8.0)


def is_copy(view: RoomView | None, room: Room) -> bool:
    return (
        view is not None
        and (view.epoch, view.seq, view.last) == (room.epoch, room.seq, room.last)
        and (len(view.line), len(view.admitted)) == (room.waiting, room.admitted)
        and view.fields == room.fields()
    )


async def is_exact(watching: Mirror, room: RoomHandle) -> bool:
    await watching.beat()
    return is_copy(watching.view, await room.tick())


def line(watching: Mirror) -> tuple[int, ...]:
    return tuple(score for block in watching.room.line.blocks() for score in block)


def place(number: int, user_id: int = 1, room: str = "main") -> queue_pb2.Place:
    return queue_pb2.Place(room=room, number=number, user_id=user_id)


class TestTheRoom:
    async def test_is_a_snapshot_then_every_change(self, make_room: MakeRoom) -> None:
        room = make_room(capacity=2)
        first, second, third = await room.enter(1, 2, 3)
        async with (
            replica(room.store, room.room) as service,
            mirror(service.address, room.room) as watching,
        ):
            view = watching.room
            assert sorted(view.admitted) == [first.number, second.number]
            assert view.order(third.number) == 1
            (fourth,) = await room.enter(4)
            await room.leave(first)
            await watching.until(lambda: view.order(fourth.number) == 1)
            assert sorted(view.admitted) == [second.number, third.number]
            assert await is_exact(watching, room)
            assert watching.snapshots == 1

    async def test_is_the_same_for_all_who_watch(self, make_room: MakeRoom) -> None:
        room = make_room(capacity=3, max_waiting=1_000)
        places = await room.enter(*range(1, 101))
        async with (
            replica(room.store, room.room) as one,
            replica(room.at_new_replica().store, room.room) as other,
            mirror(one.address, room.room) as early,
        ):
            for n in range(0, 60, 3):
                await room.leave(places[n])
                await room.enter(1_000 + n)
                await room.update(capacity=3 + n % 2)
            async with (
                mirror(one.address, room.room) as late,
                mirror(other.address, room.room) as elsewhere,
            ):
                for watching in (early, late, elsewhere):
                    assert await is_exact(watching, room)
                lines = {line(early), line(late), line(elsewhere)}
                assert len(lines) == 1
            assert early.snapshots == 1

    async def test_starts_anew_when_the_store_has_lost_it(self, make_room: MakeRoom) -> None:
        room = make_room(capacity=1)
        await room.enter(1, 2, 3)
        async with (
            replica(room.store, room.room) as service,
            mirror(service.address, room.room) as watching,
        ):
            lost = watching.room.epoch
            await room.forget()
            await room.enter(4)
            await watching.until(lambda: watching.room.epoch > lost)
            assert watching.snapshots == 2
            assert await is_exact(watching, room)

    async def test_unknown_to_the_service(self) -> None:
        async with replica(Store()) as service, connect(service.address) as channel:
            method = queue_pb2_grpc.QueueServiceStub(channel).WatchRoom
            async with open_stream(method) as stream:
                await stream.send(queue_pb2.WatchRoomRequest(room="other"))
                with pytest.raises(RemoteError) as refused:
                    await anext(aiter(stream))
        assert refused.value.code == "ROOM_NOT_FOUND"


class TestAHeartbeat:
    async def test_follows_all_changes_before_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(watch, "JOINS_EVERY_SECONDS", math.inf)
        store = Store()
        async with replica(store) as service, mirror(service.address) as watching:
            for n in range(20):
                await store.enter("main", entries([n + 1]))
                heartbeat = await watching.beat()
                # `beat` fails if the changes up to `seq` are missing then.
                assert (heartbeat.epoch, heartbeat.seq) == (watching.room.epoch, watching.room.seq)
                assert heartbeat.now_ms == store.now

    async def test_reports_signs_of_life(self) -> None:
        store = Store()
        async with replica(store) as service, mirror(service.address) as watching:
            await watching.beat(place(1), place(2), place(3, room="other"), place(-1))
            # Also without a heartbeat.
            await watching.stream.send(queue_pb2.WatchRoomRequest(seen=[place(4)]))
            await watching.beat()
        assert store.seen == [[1, 2], [4]]

    async def test_is_a_poll_unless_it_begins_a_stream(self) -> None:
        store = Store()
        async with (
            replica(store) as service,
            mirror(service.address),
            mirror(service.address) as watching,
        ):
            assert store.polls == 0
            await watching.beat()
        assert store.polls == 1

    async def test_of_too_many_signs_is_refused(self) -> None:
        async with replica(Store()) as service, mirror(service.address) as watching:
            with pytest.raises(RemoteError) as refused:
                await watching.beat(*(place(n) for n in range(1, 258)))
        assert refused.value.code == "INVALID_REQUEST"

    async def test_shares_its_call_with_those_of_other_gateways(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = Store()
        async with (
            replica(store) as service,
            mirror(service.address) as one,
            mirror(service.address) as two,
            mirror(service.address) as three,
        ):
            asked = 0
            heartbeat = Watchers.heartbeat

            async def counted(watchers: Watchers, seen: Sequence[Place], *, polled: bool) -> Room:
                nonlocal asked
                asked += 1
                return await heartbeat(watchers, seen, polled=polled)

            monkeypatch.setattr(Watchers, "heartbeat", counted)
            store.heartbeats.clear()
            asking = [asyncio.create_task(one.beat(place(1)))]
            await until(lambda: store.waiting == 1)  # the call of the first is under way
            seen = [place(n) for n in range(3, 259)]
            asking += [
                asyncio.create_task(two.beat(place(2))),
                asyncio.create_task(three.beat(*seen)),
            ]
            await until(lambda: asked == 3)
            store.heartbeats.set()
            await asyncio.gather(*asking)
        # 257 signs need two calls.
        assert [len(numbers) for numbers in store.seen] == [1, 256, 1]
        assert sorted(chain.from_iterable(store.seen)) == list(range(1, 259))

    async def test_is_left_out_while_the_store_is_unavailable(self) -> None:
        store = Store()
        async with replica(store) as service, mirror(service.address) as watching:
            store.unavailable = Unavailable("The waiting room is unavailable.")
            unanswered = queue_pb2.WatchRoomRequest(heartbeat_id=77, seen=[place(1)])
            await watching.stream.send(unanswered)
            with pytest.raises(RemoteError) as refused:
                async with mirror(service.address):
                    pass
            assert refused.value.code == "UNAVAILABLE"
            store.unavailable = None
            await watching.beat(place(2))
            assert 77 not in watching.heartbeats
        # What could not be reported then is reported now.
        assert store.seen[-1] == [1, 2]

    async def test_confirms_no_sign_that_was_not_reported(self) -> None:
        store = Store()
        async with replica(store) as service, mirror(service.address) as watching:
            store.unavailable = Unavailable("The waiting room is unavailable.")
            for first in range(1, 769, 256):
                seen = [place(n) for n in range(first, first + 256)]
                await watching.stream.send(queue_pb2.WatchRoomRequest(heartbeat_id=77, seen=seen))
            async with asyncio.timeout(10):
                while store.polls < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            store.unavailable = None
            store.seen.clear()  # those of calls that failed
            await watching.beat(place(769))
        reported = {number for numbers in store.seen for number in numbers}
        assert reported == set(range(1, 770))
        assert max(map(len, store.seen)) == 256

    async def test_does_not_come_with_more_unreported_signs_than_are_kept(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The stream ends instead, so that the caller sends them again."""
        monkeypatch.setattr(watch, "MAX_UNREPORTED", 300)
        store = Store()
        async with replica(store) as service, mirror(service.address) as watching:
            store.unavailable = Unavailable("The waiting room is unavailable.")
            for first in (1, 201):
                seen = [place(n) for n in range(first, first + 200)]
                await watching.stream.send(queue_pb2.WatchRoomRequest(heartbeat_id=77, seen=seen))
            with pytest.raises(RemoteError) as refused:
                await asyncio.wait_for(watching.ended, 10)
        assert refused.value.code == "INVALID_REQUEST"
        assert 77 not in watching.heartbeats

    async def test_is_sent_without_the_changes_if_the_log_does_not_show_them(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watch, "_REACHED_SECONDS", 0.05)
        store = Store()
        async with replica(store) as service, mirror(service.address) as watching:
            store.log.clear()
            await store.enter("main", entries([1]))
            await watching.stream.send(queue_pb2.WatchRoomRequest(heartbeat_id=77))
            await watching.until(lambda: 77 in watching.heartbeats)
            assert watching.heartbeats[77].seq > watching.room.seq
            store.log.set()
            await watching.beat()


class TestAGap:
    async def test_in_the_log_leads_to_a_new_snapshot(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(room_copy, "_LOAD_EVERY_SECONDS", 0.0)
        store = Store()
        async with replica(store) as service, mirror(service.address) as watching:
            store.lose = {watching.room.seq + 2}
            for user_id in (1, 2, 3, 4):
                await store.enter("main", entries([user_id]))
            await watching.until(lambda: watching.snapshots == 2)
            await watching.beat()
            assert is_copy(watching.view, await store.tick("main"))

    async def test_that_shows_in_heartbeats_alone_leads_to_a_new_snapshot(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The log leads to another server, or its ids have begun anew: it shows nothing."""
        monkeypatch.setattr(room_copy, "_PATIENCE_SECONDS", 0.1)
        monkeypatch.setattr(room_copy, "_LOAD_EVERY_SECONDS", 0.0)
        store = Store()
        async with replica(store) as service, mirror(service.address) as watching:
            store.lose = {watching.room.seq + 1}
            await store.enter("main", entries([1]))
            await watching.beat()
            assert watching.snapshots == 2
            assert is_copy(watching.view, await store.tick("main"))


class TestAWatchThatWasCut:
    async def test_goes_on_where_it_was(self, make_room: MakeRoom) -> None:
        room = make_room(capacity=1)
        await room.enter(1, 2, 3)
        async with replica(room.store, room.room) as service:
            async with mirror(service.address, room.room) as before:
                await room.enter(4)
                await before.beat()
            await room.enter(5)
            async with mirror(service.address, room.room, before.view) as after:
                assert after.snapshots == 0
                assert await is_exact(after, room)

    async def test_by_the_age_of_its_connection(self) -> None:
        store = Store()
        async with replica(store) as service:
            # As servicekit's, but with an age of a second instead of ten minutes.
            server = grpc.aio.server(
                interceptors=[CallInterceptor(5.0)],
                options=[
                    ("grpc.max_connection_age_ms", 500),
                    ("grpc.max_connection_age_grace_ms", 100),
                ],
            )
            queue_pb2_grpc.add_QueueServiceServicer_to_server(service.servicer, server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            async with mirror(f"127.0.0.1:{port}") as before:
                await store.enter("main", entries([1]))
                with pytest.raises(RemoteError) as cut:
                    await asyncio.wait_for(before.ended, 10)
                assert cut.value.code == "UNAVAILABLE"
            await store.enter("main", entries([2]))
            async with mirror(f"127.0.0.1:{port}", view=before.view) as after:
                assert after.snapshots == 0
                await after.beat()
                assert is_copy(after.view, await store.tick("main"))
            await server.stop(None)

    async def test_too_long_ago_gets_a_snapshot(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recent_changes, "MAX_BYTES", 1_000)
        store = Store()
        async with replica(store) as service, mirror(service.address) as watching:
            async with mirror(service.address) as before:
                pass
            for user_id in range(1, 20):
                await store.enter("main", entries([user_id]))
                await watching.beat()
            async with mirror(service.address, view=before.view) as after:
                assert after.snapshots == 1
                assert is_copy(after.view, await store.tick("main"))

    async def test_before_a_loss_gets_a_snapshot(self, make_room: MakeRoom) -> None:
        room = make_room(capacity=1)
        await room.enter(1, 2)
        async with replica(room.store, room.room) as service:
            async with mirror(service.address, room.room) as before:
                lost = before.room.epoch
            await room.forget()
            async with mirror(service.address, room.room, before.view) as after:
                assert (after.snapshots, after.room.epoch > lost) == (1, True)

    async def test_waits_for_a_replica_that_is_behind(self) -> None:
        ahead = Store()
        behind = ahead.new_replica()
        async with (
            replica(ahead) as one,
            replica(behind) as other,
            mirror(other.address) as there,
            mirror(one.address) as here,
        ):
            behind.log.clear()
            await ahead.enter("main", entries([1, 2, 3]))
            await here.beat()
            assert here.room.seq > there.room.seq
            asyncio.get_running_loop().call_later(0.3, behind.log.set)
            async with mirror(other.address, view=here.view) as moved:
                assert moved.snapshots == 0
                assert is_copy(moved.view, await ahead.tick("main"))


async def test_a_store_with_less_than_the_copy_begins_a_new_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a fail-over and back that left no other trace. The last script of the replica was
    before that."""
    monkeypatch.setattr(watching_module, "TICK_SECONDS", 60)
    other = Store()
    async with replica(other.new_replica()) as service, mirror(service.address) as watching:
        before, kept = watching.room.epoch, other.copy_rooms()
        seq = (await other.enter("main", entries([1, 2])))[0].seq
        await watching.until(lambda: watching.room.seq == seq)
        other.cut_back(kept, unnoticed=True)
        await watching.beat()
        assert watching.room.epoch > before
        assert is_copy(watching.view, await other.tick("main"))


class TestTheOrderOfTheDay:
    async def test_ends_and_admissions_do_not_wait_and_joins_do(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = Store()
        room = RoomHandle(store, "main", store.advance, store.forget, store.new_replica)
        first, second = await room.enter(1, 2)
        async with replica(store) as service, mirror(service.address) as watching:
            monkeypatch.setattr(watch, "JOINS_EVERY_SECONDS", math.inf)
            before = len(watching.messages)
            await store.enter("main", entries([3]))
            await service.has_changes()
            assert len(watching.messages) == before
            await room.leave(first)
            await watching.until(lambda: first.number not in watching.room.admitted)
            assert second.number in watching.room.admitted
            # What had waited comes first.
            (message,) = watching.messages[before:]
            assert len(message.changes) == 2

    async def test_many_joins_share_a_message(self) -> None:
        store = Store()
        async with replica(store) as service, mirror(service.address) as watching:
            before = len(watching.messages)
            for user_id in range(1, 201):
                await store.enter("main", entries([user_id]))
                await asyncio.sleep(0.002)
            await watching.beat()
            assert len(watching.messages) - before < 30
            assert is_copy(watching.view, await store.tick("main"))


class TestTheEnd:
    async def test_of_a_drain_comes_at_once(self) -> None:
        async with replica(Store()) as service, mirror(service.address) as watching:
            service.watchers.end()
            with pytest.raises(RemoteError) as drained:
                await asyncio.wait_for(watching.ended, 5)
            assert (drained.value.code, drained.value.detail) == (
                "UNAVAILABLE",
                "The service drains.",
            )
            with pytest.raises(RemoteError) as refused:
                async with mirror(service.address):
                    pass
            assert refused.value.code == "UNAVAILABLE"

    async def test_of_the_program_waits_for_heartbeats_under_way(self) -> None:
        """Otherwise they would use a client that is closed."""
        store = Store()
        async with replica(store) as service:
            async with mirror(service.address) as watching:
                store.heartbeats.clear()
                await watching.stream.send(queue_pb2.WatchRoomRequest(heartbeat_id=77))
                await until(lambda: store.waiting == 1)
            await until_watchers(0)
            asyncio.get_running_loop().call_later(0.5, store.heartbeats.set)
        assert store.waiting == 0

    async def test_of_a_caller_is_noticed(self) -> None:
        async with replica(Store()) as service:
            async with mirror(service.address), mirror(service.address):
                assert watchers() == 2
            await until_watchers(0)

    async def test_of_a_caller_that_reads_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It takes what gRPC buffers, and is dropped when its next message has waited too long. The
        others notice nothing."""
        store = Store()
        store.crowd = 750_000  # 6 MB, of which gRPC buffers 4
        dropped = slow_readers()
        async with replica(store) as service, mirror(service.address) as watching:
            monkeypatch.setattr(call_interceptor, "STREAM_WRITE_SECONDS", 0.5)
            async with connect(service.address) as channel:
                method = queue_pb2_grpc.QueueServiceStub(channel).WatchRoom
                async with open_stream(method) as stream:
                    await stream.send(queue_pb2.WatchRoomRequest(room="main"))
                    await until_watchers(2)
                    for user_id in range(1, 11):
                        await store.enter("main", entries([user_id]))
                        await watching.beat()
                    await until_watchers(1)
            heartbeat = await watching.beat()
            assert watching.room.seq == heartbeat.seq
        assert slow_readers() == dropped + 1
        assert (len(watching.room.line), len(watching.room.admitted)) == (750_009, 1)

    async def test_of_a_caller_that_falls_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All watchers share the newest changes: nothing is kept for one that reads too slowly."""
        monkeypatch.setattr(recent_changes, "MAX_BYTES", 1_000)
        monkeypatch.setattr(watch, "JOINS_EVERY_SECONDS", math.inf)
        store = Store(capacity=0)
        async with replica(store) as service, mirror(service.address) as watching:
            for user_id in range(1, 20):
                await store.enter("main", entries([user_id]))
            with pytest.raises(RemoteError) as dropped:
                await asyncio.wait_for(watching.ended, 5)
            assert (dropped.value.code, dropped.value.detail) == (
                "UNAVAILABLE",
                "The caller reads too slowly.",
            )


def watchers() -> float:
    return REGISTRY.get_sample_value("queue_watchers", {"room": "main"}) or 0


def slow_readers() -> float:
    method = "/frontrow.queue.v1.QueueService/WatchRoom"
    return REGISTRY.get_sample_value("grpc_slow_readers_total", {"method": method}) or 0


async def until_watchers(count: int) -> None:
    await until(lambda: watchers() == count)


async def until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not ready():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
