"""The service over gRPC, as the gateway and an operator meet it; real Redis behind it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import jwt
import pytest
import typer
from google.protobuf.message import Message
from structlog.testing import CapturingLogger

from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from queue_service import admin, admin_guard
from queue_service.admin_guard import AdminGuard, AdminTokenRequired, credentials
from queue_service.domain import Limits
from queue_service.repository import QueueRepository
from queue_service.service import QueueService
from queue_service.servicer import QueueAdminServicer, QueueServicer
from queue_service.settings import Settings
from queue_service.tokens import Signer
from room_view.position import Pacing
from servicekit import client, redis_client
from servicekit.call_interceptor import Context
from servicekit.rpc_errors import RemoteError
from servicekit.server import Server
from tests.queue_service.conftest import RULES, OwnRedis

SECRET = "0123456789abcdef0123456789abcdef"
ADMIN_TOKEN = "an admin token of the tests, 32 bytes"
AS_ADMIN = credentials(ADMIN_TOKEN)
BUDGET = 5.0


@pytest.fixture
async def address(own_redis: OwnRedis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A running server with one slot and two places to wait."""
    monkeypatch.setenv("QUEUE_TOKEN_KEYS", f'{{"k1": "{SECRET}"}}')
    monkeypatch.setenv("QUEUE_TOKEN_SIGNING_KEY_ID", "k1")
    settings = Settings()
    async with redis_client.connect(own_redis.url, timeout=1.0, retries=1) as redis:
        service = QueueService(
            QueueRepository(redis, RULES, Limits(capacity=1, max_waiting=2)),
            Signer(settings.token_signing_key_id, settings.signing_secret),
            Pacing(
                queue_pb2.RoomRules(poll_min_ms=1_000, poll_max_ms=10_000, admission_ttl_ms=60_000)
            ),
            settings.rooms,
        )
        server = Server(settings, "queue_service").grpc
        queue_pb2_grpc.add_QueueServiceServicer_to_server(QueueServicer(service, {}), server)
        guard = AdminGuard(ADMIN_TOKEN, settings.listen)
        queue_pb2_grpc.add_QueueAdminServiceServicer_to_server(
            QueueAdminServicer(service, guard), server
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield f"127.0.0.1:{port}"
        await server.stop(0)


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with client.connect(address) as channel:
        yield channel


async def test_from_the_door_into_the_shop(channel: grpc.aio.Channel) -> None:
    queue = queue_pb2_grpc.QueueServiceStub(channel)
    entered = await client.call(
        queue.EnterQueue,
        queue_pb2.EnterQueueRequest(room="main", user_ids=[11, 12, 0, 13, 14]),
        budget=BUDGET,
    )
    first, second, bad, third, full = entered.results
    assert (bad.error_code, full.error_code) == ("INVALID_REQUEST", "QUEUE_FULL")
    assert not bad.HasField("place")
    assert first.position.state == queue_pb2.PLACE_STATE_ADMITTED
    assert first.position.admitted_until_ms > 0
    assert (second.position.state, second.position.order) == (queue_pb2.PLACE_STATE_WAITING, 1)
    assert second.position.poll_after_ms >= 1_000
    assert second.position.estimated_wait_ms > 0

    claims = jwt.decode(second.access_token, SECRET, algorithms=["HS256"])
    assert jwt.get_unverified_header(second.access_token)["kid"] == "k1"
    place = queue_pb2.Place(
        room=claims["room"],
        number=claims["place"],
        user_id=claims["user"],
        epoch=claims["epoch"],
    )
    assert place == second.place

    # Who leaves makes room, and the next to ask sees it.
    await client.call(
        queue.LeaveQueue, queue_pb2.LeaveQueueRequest(place=first.place), budget=BUDGET
    )
    response = await client.call(
        queue.GetPositions,
        queue_pb2.GetPositionsRequest(places=[first.place, place, third.place]),
        budget=BUDGET,
    )
    positions = response.positions
    assert response.epoch == place.epoch
    assert response.seq > 0
    assert [position.state for position in positions] == [
        queue_pb2.PLACE_STATE_ENDED,
        queue_pb2.PLACE_STATE_ADMITTED,
        queue_pb2.PLACE_STATE_WAITING,
    ]
    assert [position.order for position in positions] == [0, 0, 1]


async def test_the_proof_of_an_entrant_and_a_fresh_token(channel: grpc.aio.Channel) -> None:
    queue = queue_pb2_grpc.QueueServiceStub(channel)

    async def enter(**known: Any) -> queue_pb2.EnterQueueResponse.Result:
        entrant = queue_pb2.EnterQueueRequest.Entrant(needs_proof=True, **known)
        request = queue_pb2.EnterQueueRequest(
            room="main", user_ids=[11], entrants=[entrant], renew_issued_before=2**40
        )
        (result,) = (await client.call(queue.EnterQueue, request, budget=BUDGET)).results
        return result

    first = await enter(attempt_id="a1")
    assert first.place.user_id == 11
    assert (await enter(attempt_id="a1")).place == first.place
    assert (await enter(proven_place=first.place.number)).place == first.place
    refused = await enter(proven_place=first.place.number + 1, attempt_id="a2")
    assert refused == queue_pb2.EnterQueueResponse.Result(error_code="NOT_YOURS")

    place = queue_pb2.Place(
        room="main", number=first.place.number, user_id=11, epoch=first.place.epoch, issued_at=1_000
    )
    for renew_before, is_fresh in ((1_000, False), (1_001, True)):
        request = queue_pb2.GetPositionsRequest(places=[place], renew_issued_before=renew_before)
        (position,) = (await client.call(queue.GetPositions, request, budget=BUDGET)).positions
        assert bool(position.access_token) == is_fresh
    claims = jwt.decode(position.access_token, SECRET, algorithms=["HS256"])
    assert claims["place"] == place.number


async def test_errors_carry_their_code(channel: grpc.aio.Channel) -> None:
    queue = queue_pb2_grpc.QueueServiceStub(channel)
    operator = queue_pb2_grpc.QueueAdminServiceStub(channel)
    places = [queue_pb2.Place(room="main", number=1, user_id=1)]
    for method, request, code in (
        (
            queue.EnterQueue,
            queue_pb2.EnterQueueRequest(room="main", user_ids=[1] * 257),
            "INVALID_REQUEST",
        ),
        (queue.GetPositions, queue_pb2.GetPositionsRequest(places=places * 257), "INVALID_REQUEST"),
        (
            queue.GetPositions,
            queue_pb2.GetPositionsRequest(places=[*places, queue_pb2.Place(room="b")]),
            "INVALID_REQUEST",
        ),
        (queue.EnterQueue, queue_pb2.EnterQueueRequest(user_ids=[1]), "ROOM_NOT_FOUND"),
        (
            operator.UpdateRoom,
            queue_pb2.UpdateRoomRequest(room="main", capacity=-1),
            "INVALID_REQUEST",
        ),
    ):
        with pytest.raises(RemoteError) as error:
            await client.call(method, request, budget=BUDGET, metadata=AS_ADMIN)
        assert error.value.code == code


async def test_redis_away_is_unavailable(channel: grpc.aio.Channel, own_redis: OwnRedis) -> None:
    queue = queue_pb2_grpc.QueueServiceStub(channel)
    request = queue_pb2.EnterQueueRequest(room="main", user_ids=[11])
    await client.call(queue.EnterQueue, request, budget=BUDGET)
    own_redis.kill()
    with pytest.raises(RemoteError) as error:
        await client.call(queue.EnterQueue, request, budget=BUDGET)
    assert error.value.code == "UNAVAILABLE"
    own_redis.start()
    (result,) = (await client.call(queue.EnterQueue, request, budget=BUDGET)).results
    assert result.position.order == 0


async def test_zero_is_a_limit_that_is_set(channel: grpc.aio.Channel) -> None:
    operator = queue_pb2_grpc.QueueAdminServiceStub(channel)
    updated = await client.call(
        operator.UpdateRoom,
        queue_pb2.UpdateRoomRequest(room="main", capacity=0),
        budget=BUDGET,
        metadata=AS_ADMIN,
    )
    assert (updated.capacity, updated.max_waiting, updated.paused) == (0, 2, False)
    room = await client.call(
        operator.GetRoom,
        queue_pb2.GetRoomRequest(room="main"),
        budget=BUDGET,
        metadata=AS_ADMIN,
    )
    assert (room.room, room.capacity, room.recovering) == ("main", 0, False)
    assert room.epoch > 0


@pytest.mark.parametrize(
    "value",
    [None, "", "Bearer", "Bearer ", f"bearer {ADMIN_TOKEN}", ADMIN_TOKEN, f"Bearer {SECRET}",
     f"Bearer {ADMIN_TOKEN} ", f"Bearer {ADMIN_TOKEN[:-1]}", f"Basic {ADMIN_TOKEN}"],
)  # fmt: skip
async def test_every_rpc_of_operators_wants_the_admin_token(
    channel: grpc.aio.Channel, value: str | None
) -> None:
    operator = queue_pb2_grpc.QueueAdminServiceStub(channel)
    methods = queue_pb2.DESCRIPTOR.services_by_name["QueueAdminService"].methods
    for method in methods:
        request = getattr(queue_pb2, method.input_type.name)(room="main")
        with pytest.raises(RemoteError) as error:
            await client.call(
                getattr(operator, method.name),
                request,
                budget=BUDGET,
                metadata=() if value is None else (("authorization", value),),
            )
        assert error.value.code == "ADMIN_TOKEN_REQUIRED"
        assert error.value.status is grpc.StatusCode.PERMISSION_DENIED
        assert ADMIN_TOKEN not in error.value.detail


class TestWithoutAnAdminToken:
    """Only a machine's own loopback address is safe."""

    class Call:
        @staticmethod
        def invocation_metadata() -> tuple[tuple[str, str], ...]:
            return AS_ADMIN

    @pytest.mark.parametrize("listen", ["127.0.0.1:9101", "127.8.0.1:1", "[::1]:1", "localhost:1"])
    def test_a_loopback_address_is_open(self, listen: str) -> None:
        AdminGuard(None, listen).check(cast(Context, self.Call()))

    @pytest.mark.parametrize(
        "listen", ["0.0.0.0:9101", "[::]:1", "192.0.2.1:1", "queue:1", "localhost.example:1"]
    )
    def test_every_other_is_closed(self, listen: str, monkeypatch: pytest.MonkeyPatch) -> None:
        log = CapturingLogger()
        monkeypatch.setattr(admin_guard, "log", log)
        guard = AdminGuard(None, listen)
        with pytest.raises(AdminTokenRequired):
            guard.check(cast(Context, self.Call()))
        assert [call.args for call in log.calls] == [("admin_token_missing",)]


async def test_the_operators_command(address: str) -> None:
    async def run(*arguments: str, token: str = ADMIN_TOKEN) -> tuple[int | None, str]:
        # A process of its own: gRPC wants one event loop in each.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "queue_service.admin", *arguments, "--address", address),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ | {"QUEUE_ADMIN_TOKEN": token},
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode().strip()

    assert await run("pause") == (0, "main: 0 of 1 admitted, 0 of 2 waiting, paused")
    assert await run("capacity", "70") == (0, "main: 0 of 70 admitted, 0 of 2 waiting, paused")
    assert await run("resume") == (0, "main: 0 of 70 admitted, 0 of 2 waiting")
    assert await run("show", "--room", "nowhere") == (2, "There is no such waiting room.")
    refusal = (
        f"{address} refuses: set QUEUE_ADMIN_TOKEN to the admin token of queue_service."
        " That of `make run` is printed by `.venv/bin/python -m harness.secrets`."
    )
    assert await run("pause", token="") == (2, refusal)


async def test_the_operators_command_without_a_service(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as end:
        await admin.ask("127.0.0.1:1", queue_pb2.GetRoomRequest(room="main"))
    assert end.value.exit_code == 2
    assert (
        capsys.readouterr().err
        == "No queue_service answers at 127.0.0.1:1, or its Redis is unavailable.\n"
    )


@pytest.mark.parametrize("rpc", ["EnterQueue", "GetPositions", "LeaveQueue"])
async def test_a_room_that_has_less_than_its_callers_saw_recovers(
    channel: grpc.aio.Channel, rpc: str
) -> None:
    queue = queue_pb2_grpc.QueueServiceStub(channel)
    entered = await client.call(
        queue.EnterQueue, queue_pb2.EnterQueueRequest(room="main", user_ids=[11]), budget=BUDGET
    )
    place = entered.results[0].place
    epoch = place.epoch + 4096 * 60_000
    memory = queue_pb2.RoomMemory(epoch=epoch, seq=7, last=epoch + 3, capacity=1, max_waiting=2)
    requests: dict[str, Message] = {
        "EnterQueue": queue_pb2.EnterQueueRequest(room="main", user_ids=[12], memory=memory),
        "GetPositions": queue_pb2.GetPositionsRequest(places=[place], memory=memory),
        "LeaveQueue": queue_pb2.LeaveQueueRequest(place=place, memory=memory),
    }
    await client.call(getattr(queue, rpc), requests[rpc], budget=BUDGET)
    room = await client.call(
        queue_pb2_grpc.QueueAdminServiceStub(channel).GetRoom,
        queue_pb2.GetRoomRequest(room="main"),
        budget=BUDGET,
        metadata=AS_ADMIN,
    )
    assert room.epoch > memory.last
    assert room.recovering


async def test_a_lost_epoch_is_given_back(channel: grpc.aio.Channel) -> None:
    queue = queue_pb2_grpc.QueueServiceStub(channel)
    entered = await client.call(
        queue.EnterQueue, queue_pb2.EnterQueueRequest(room="main", user_ids=[11]), budget=BUDGET
    )
    lost = entered.results[0].place.epoch - 4096 * 60_000

    async def hand_back(**states: Any) -> queue_pb2.HandBackResponse:
        known = {
            "room": "main",
            "bidder": "b1",
            "lost_epoch": lost,
            "lost_seq": 7,
            "last": lost + 9,
        }
        request = queue_pb2.HandBackRequest(**{**known, **states})
        return await client.call(queue.HandBack, request, budget=BUDGET)

    assert (await hand_back()).granted
    # Impossible places are ignored.
    assert (await hand_back(waiting=[lost + 8, lost + 9, -1])).granted
    assert (await hand_back(ended=[queue_pb2.Place(number=lost + 8, user_id=12)])).granted
    done = await hand_back(done=True)
    assert (done.granted, done.done, done.retry_after_ms) == (True, True, 0)
    places = [
        queue_pb2.Place(room="main", number=lost + n, user_id=4 + n, epoch=lost) for n in (8, 9)
    ]
    response = await client.call(
        queue.GetPositions, queue_pb2.GetPositionsRequest(places=places), budget=BUDGET
    )
    assert [(position.state, position.order) for position in response.positions] == [
        (queue_pb2.PLACE_STATE_ENDED, 0),
        (queue_pb2.PLACE_STATE_WAITING, 1),
    ]
    for wrong, code in (
        ({"waiting": range(1, 258)}, "INVALID_REQUEST"),
        ({"bidder": ""}, "INVALID_REQUEST"),
        ({"room": "other"}, "ROOM_NOT_FOUND"),
    ):
        with pytest.raises(RemoteError) as refused:
            await hand_back(**wrong)
        assert refused.value.code == code
