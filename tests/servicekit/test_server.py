"""A service as a process: what it serves beside its calls, and how it stops."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from servicekit.client import call, connect
from servicekit.rpc_errors import RemoteError
from servicekit.server import Server
from servicekit.settings import ServiceSettings

SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass
class Program:
    """tests.servicekit.program, running."""

    process: asyncio.subprocess.Process
    address: str
    metrics_address: str
    channel: grpc.aio.Channel

    async def ask(self, room: str) -> str:
        """One call; of the room "wait" it ends after SIGUSR1."""
        method = queue_pb2_grpc.QueueAdminServiceStub(self.channel).GetRoom
        reply = await call(method, queue_pb2.GetRoomRequest(room=room), budget=30)
        return reply.room

    async def first_error(self) -> str:
        """The code of the first error that a new call meets."""
        try:
            while True:
                await self.ask("main")
        except RemoteError as error:
            return error.code

    async def has_waiting(self, count: int) -> None:
        """Returns once so many calls are under way."""
        method = queue_pb2_grpc.QueueAdminServiceStub(self.channel).UpdateRoom
        waiting = 0
        async with asyncio.timeout(30):
            while waiting < count:
                reply = await call(method, queue_pb2.UpdateRoomRequest(), budget=5)
                waiting = reply.waiting

    async def output(self) -> str:
        """All that it said, once it has ended."""
        output, _ = await asyncio.wait_for(self.process.communicate(), 30)
        return output.decode()


def free_addresses(count: int) -> list[str]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes]
    for probe in probes:
        probe.close()
    return addresses


@asynccontextmanager
async def running(repository: Path, drain_seconds: float = 10) -> AsyncIterator[Program]:
    address, metrics_address = free_addresses(2)
    environment = os.environ | {
        "PROGRAM_LISTEN": address,
        "PROGRAM_METRICS_LISTEN": metrics_address,
        "PROGRAM_DRAIN_SECONDS": str(drain_seconds),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.servicekit.program",
        cwd=repository,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    channel = connect(address)
    try:
        await asyncio.wait_for(channel.channel_ready(), 30)
        yield Program(process, address, metrics_address, channel)
    finally:
        await channel.close()
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_a_service_from_its_start_to_its_end(repository: Path) -> None:
    async with running(repository) as program:
        health = health_pb2_grpc.HealthStub(program.channel)
        for name in ("", "frontrow.queue.v1.QueueService", "frontrow.queue.v1.QueueAdminService"):
            reply = await call(health.Check, health_pb2.HealthCheckRequest(service=name), budget=5)
            assert reply.status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await health.Check(health_pb2.HealthCheckRequest(service="unknown"))
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND

        assert {
            "frontrow.queue.v1.QueueService",
            "frontrow.queue.v1.QueueAdminService",
            "grpc.health.v1.Health",
        } <= await asyncio.to_thread(services_by_reflection, program.address)

        assert await program.ask("main") == "main"
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"http://{program.metrics_address}/metrics")).text
            health_url = f"http://{program.metrics_address}/health"
            assert (await http.get(health_url)).status_code == 200
        method = "/frontrow.queue.v1.QueueAdminService/GetRoom"
        assert f'grpc_calls_total{{code="OK",method="{method}"}} 1.0' in metrics
        assert f'grpc_call_seconds_count{{method="{method}"}} 1.0' in metrics

        # SIGTERM under calls: each is answered, health says at once that it is over, and who
        # comes now has to go to another server.
        watch = health.Watch(health_pb2.HealthCheckRequest())
        states = aiter(watch)
        assert (await anext(states)).status == SERVING
        calls = [asyncio.create_task(program.ask("wait")) for _ in range(20)]
        await program.has_waiting(20)
        program.process.send_signal(signal.SIGTERM)
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        assert await program.first_error() == "UNAVAILABLE"
        async with httpx.AsyncClient() as http:
            assert (await http.get(health_url)).status_code == 503
        program.process.send_signal(signal.SIGUSR1)
        assert await asyncio.gather(*calls) == ["wait"] * 20

        output = await program.output()
    assert program.process.returncode == 0
    lines = output.splitlines()
    # The background outlives the calls, and is over before the process is.
    assert lines.index("drained") < lines.index("background ended")
    assert lines.count("tick") >= 1
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    events = [line["event"] for line in logged]
    failed = {line["work"] for line in logged if line["event"] == "background_work_failed"}
    assert failed == {"tick", "stray"}
    assert "call_failed" not in events
    assert events[-1] == "stopped"


async def test_bytes_that_are_no_request_are_refused_without_names_of_classes(
    repository: Path,
) -> None:
    garbage = b"\xff\xff\xff"
    health, reflect = "/grpc.health.v1.Health", "/grpc.reflection.v1alpha.ServerReflection"
    async with running(repository) as program:
        channel: Any = program.channel  # as a client without our stubs has it
        for call_ in (
            channel.unary_unary("/frontrow.queue.v1.QueueAdminService/GetRoom")(garbage),
            channel.unary_unary(f"{health}/Check")(garbage),
            channel.unary_stream(f"{health}/Watch")(garbage),
            channel.stream_stream(f"{reflect}/ServerReflectionInfo")([garbage]),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await (call_ if isinstance(call_, grpc.aio.UnaryUnaryCall) else anext(aiter(call_)))
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert refused.value.details() == "The request is not a message of this method."
        # The connection and the other calls are not harmed.
        assert await program.ask("main") == "main"
        program.process.send_signal(signal.SIGTERM)
        assert "DecodeError" not in await program.output()
    assert program.process.returncode == 0


async def test_a_call_that_outlasts_the_drain_is_given_up(repository: Path) -> None:
    async with running(repository, drain_seconds=0.1) as program:
        endless = asyncio.create_task(program.ask("wait"))
        await program.has_waiting(1)
        program.process.send_signal(signal.SIGINT)
        with pytest.raises(RemoteError) as given_up:
            await asyncio.wait_for(endless, 10)
        assert given_up.value.code == "UNAVAILABLE"
        await program.output()
    assert program.process.returncode == 0


async def test_a_taken_address_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = ServiceSettings(listen=address, metrics_listen="127.0.0.1:0")
        async with Server(settings, "some_service") as server:
            with pytest.raises(OSError, match=f"some_service cannot listen on {address}"):
                await server.serve()


def services_by_reflection(address: str) -> set[str]:
    """The services that a client finds who knows nothing but the address."""
    with grpc.insecure_channel(address) as channel:
        return set(ProtoReflectionDescriptorDatabase(channel).get_services())
