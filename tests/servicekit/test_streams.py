"""Streams: their errors, request id and metrics, callers that do not read, and the drain."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from servicekit import call_context, call_interceptor
from servicekit.client import Stream, connect, open_stream
from servicekit.errors import Conflict
from servicekit.rpc_errors import RemoteError
from servicekit.server import Server
from servicekit.settings import ServiceSettings
from tests.servicekit.test_server import running

SERVICE = "frontrow.queue.v1.QueueService"
METHOD = f"/{SERVICE}/WatchRoom"
Requests = AsyncIterator[queue_pb2.WatchRoomRequest]
Responses = AsyncIterator[queue_pb2.WatchRoomResponse]
Handler = Callable[[Requests], Responses]
Watch = Stream[queue_pb2.WatchRoomRequest, queue_pb2.WatchRoomResponse]


class SeatHeld(Conflict):
    code = "SEAT_HELD"


def beat(number: int) -> queue_pb2.WatchRoomResponse:
    return queue_pb2.WatchRoomResponse(heartbeat=queue_pb2.Heartbeat(id=number))


def ask(number: int) -> queue_pb2.WatchRoomRequest:
    return queue_pb2.WatchRoomRequest(heartbeat_id=number)


async def echo(requests: Requests) -> Responses:
    async for request in requests:
        yield beat(request.heartbeat_id)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[tuple[grpc.aio.Server, grpc.aio.Channel]]:
    def watch(requests: Any, context: object) -> Responses:
        return handler(requests)

    settings = ServiceSettings(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0")
    server = Server(settings, "streams").grpc
    method = grpc.stream_stream_rpc_method_handler(
        watch,
        request_deserializer=queue_pb2.WatchRoomRequest.FromString,
        response_serializer=queue_pb2.WatchRoomResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"WatchRoom": method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with connect(f"127.0.0.1:{port}") as channel:
            yield server, channel
    finally:
        await server.stop(None)


def watching(channel: grpc.aio.Channel) -> AbstractAsyncContextManager[Watch]:
    return open_stream(queue_pb2_grpc.QueueServiceStub(channel).WatchRoom)


@asynccontextmanager
async def stream_to(handler: Handler) -> AsyncIterator[Watch]:
    async with serving(handler) as (_, channel), watching(channel) as stream:
        yield stream


async def error_of(stream: Watch) -> RemoteError:
    """What the iteration over the responses fails with."""

    async def read_all() -> None:
        async for _ in stream:
            pass

    with pytest.raises(RemoteError) as failed:
        await asyncio.wait_for(read_all(), 10)
    return failed.value


def served(code: str) -> float:
    return REGISTRY.get_sample_value("grpc_calls_total", {"method": METHOD, "code": code}) or 0


async def until_served(code: str, count: float) -> None:
    """Returns once the server has ended so many streams with this code."""
    async with asyncio.timeout(10):
        while served(code) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_both_sides_send_until_the_server_ends_it() -> None:
    before = served("OK")

    async def three(requests: Requests) -> Responses:
        async for request in requests:
            yield beat(request.heartbeat_id)
            if request.heartbeat_id == 3:
                return

    async with stream_to(three) as stream:
        responses = aiter(stream)
        for number in (1, 2, 3):
            await stream.send(ask(number))
            assert (await anext(responses)).heartbeat.id == number
        with pytest.raises(StopAsyncIteration):
            await anext(responses)
        with pytest.raises(RemoteError) as ended:
            await stream.send(ask(4))
        assert ended.value.code == "UNAVAILABLE"
    await until_served("OK", before + 1)


async def test_an_error_arrives_intact_and_after_the_responses_before_it() -> None:
    before = served("SEAT_HELD")

    async def fail(requests: Requests) -> Responses:
        yield beat(1)
        raise SeatHeld("Sitz 7 ist vergeben: schön war er.", seat_id=7)

    async with stream_to(fail) as stream:
        responses = aiter(stream)
        assert (await anext(responses)).heartbeat.id == 1
        with pytest.raises(RemoteError) as failed:
            await anext(responses)
    error = failed.value
    assert (error.code, error.detail) == ("SEAT_HELD", "Sitz 7 ist vergeben: schön war er.")
    assert error.metadata == {"seat_id": "7"}
    assert error.status == grpc.StatusCode.ALREADY_EXISTS
    assert served("SEAT_HELD") == before + 1


async def test_a_defect_is_masked_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(requests: Requests) -> Responses:
        yield beat(1)
        raise LookupError("SELECT * FROM seats at db-7")

    async with stream_to(fail) as stream:
        error = await error_of(stream)
    assert (error.code, error.status) == ("INTERNAL", grpc.StatusCode.INTERNAL)
    assert "db-7" not in str(error)
    assert [record.message for record in caplog.records] == ["call_failed"]


async def test_a_later_request_that_cannot_be_decoded_ends_it() -> None:
    async with serving(echo) as (_, channel):
        bytewise: Any = channel  # as a client without our stubs has it
        call = bytewise.stream_stream(METHOD)()
        await call.write(ask(1).SerializeToString())
        assert await call.read() == beat(1).SerializeToString()
        await call.write(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "The request is not a message of this method."


async def test_a_method_that_there_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(echo) as (_, channel):
        bytewise: Any = channel
        async with open_stream(bytewise.stream_stream("/frontrow.tests.Hop/Undo")) as stream:
            error = await error_of(stream)
    assert (error.code, error.status) == ("INTERNAL", grpc.StatusCode.UNIMPLEMENTED)
    assert [record.message for record in caplog.records] == ["unexpected_status"]


async def test_a_service_that_is_not_there() -> None:
    async with connect("127.0.0.1:1") as channel, watching(channel) as stream:
        assert (await error_of(stream)).code == "UNAVAILABLE"


async def test_it_has_the_request_id_of_the_caller_and_no_deadline() -> None:
    seen = []

    async def look(requests: Requests) -> Responses:
        seen.append((call_context.request_id.get(), call_context.remaining(3_600)))
        yield beat(1)

    call_context.request_id.set("request-7")
    async with stream_to(look) as stream:
        async for _ in stream:
            pass
    assert seen == [("request-7", 3_600)]


async def test_leaving_it_ends_the_work_of_the_server() -> None:
    before, ended = served("CANCELLED"), asyncio.Event()

    async def wait(requests: Requests) -> Responses:
        try:
            yield beat(1)
            await asyncio.sleep(30)
        finally:
            ended.set()

    async with serving(wait) as (_, channel):
        async with watching(channel) as stream:
            await anext(aiter(stream))
        await asyncio.wait_for(ended.wait(), 5)
        await until_served("CANCELLED", before + 1)


@pytest.mark.parametrize("closed", ["channel", "server"])
async def test_an_end_from_outside_is_an_error_and_no_cancellation(closed: str) -> None:
    async with serving(echo) as (server, channel), watching(channel) as stream:
        await stream.send(ask(1))
        await anext(aiter(stream))
        reading = asyncio.create_task(error_of(stream))
        await asyncio.sleep(0)
        await (channel.close() if closed == "channel" else server.stop(None))
        assert (await reading).code == "UNAVAILABLE"


async def test_a_caller_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_interceptor, "STREAM_WRITE_SECONDS", 0.3)
    before, ended, sent = served("UNAVAILABLE"), asyncio.Event(), 0

    async def flood(requests: Requests) -> Responses:
        nonlocal sent
        message = queue_pb2.WatchRoomResponse(
            snapshot=queue_pb2.RoomSnapshot(waiting=range(65_536))
        )
        try:
            while True:
                yield message
                sent += message.ByteSize()
        finally:
            ended.set()

    async with stream_to(flood) as stream:
        await stream.send(ask(1))
        await asyncio.wait_for(ended.wait(), 10)
        await until_served("UNAVAILABLE", before + 1)
        # What gRPC buffers for it is bounded.
        assert sent < 16 * 1024 * 1024
        # A caller that reads after all learns that it was dropped.
        error = await error_of(stream)
    assert (error.code, error.detail) == ("UNAVAILABLE", "The caller reads too slowly.")


async def test_the_drain_ends_streams_first(repository: Path) -> None:
    async with (
        running(repository, drain_seconds=30) as program,
        watching(program.channel) as stream,
    ):
        await stream.send(ask(1))
        await anext(aiter(stream))
        started = time.monotonic()
        program.process.send_signal(signal.SIGTERM)
        error = await error_of(stream)
        assert (error.code, error.detail) == ("UNAVAILABLE", "The service drains.")
        await program.output()
        assert time.monotonic() - started < 10
    assert program.process.returncode == 0
