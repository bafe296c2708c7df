"""A service of ours to start, stop and inspect: `python -m tests.servicekit.program`.

GetRoom of the room "wait" answers after SIGUSR1, of any other at once; UpdateRoom returns how many
wait. WatchRoom answers its first request and stays open until the drain. Work in the background
says "tick" at every start and fails at once.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc

from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from servicekit import logs
from servicekit.call_interceptor import Context
from servicekit.errors import Unavailable
from servicekit.server import Server, run
from servicekit.settings import ServiceSettings, config, load


class Settings(ServiceSettings):
    model_config = config("PROGRAM_")


class Waiter(queue_pb2_grpc.QueueAdminServiceServicer):
    def __init__(self) -> None:
        self._released = asyncio.Event()
        self._waiting = 0
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._released.set)

    async def GetRoom(
        self, request: queue_pb2.GetRoomRequest, context: object
    ) -> queue_pb2.GetRoomResponse:
        if request.room == "wait":
            self._waiting += 1
            await self._released.wait()
        return queue_pb2.GetRoomResponse(room=request.room)

    async def UpdateRoom(
        self, request: queue_pb2.UpdateRoomRequest, context: object
    ) -> queue_pb2.UpdateRoomResponse:
        return queue_pb2.UpdateRoomResponse(waiting=self._waiting)


def add_watch(drains: asyncio.Event, server: grpc.aio.Server) -> None:
    """Adds WatchRoom alone, of all the methods of its service."""

    async def watch(
        requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[queue_pb2.WatchRoomResponse]:
        async for _ in requests:
            yield queue_pb2.WatchRoomResponse()
            await drains.wait()
            raise Unavailable("The service drains.")

    method: Any = grpc.stream_stream_rpc_method_handler(
        watch, response_serializer=queue_pb2.WatchRoomResponse.SerializeToString
    )
    service = queue_pb2.DESCRIPTOR.services_by_name["QueueService"].full_name
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"WatchRoom": method}),)
    )


async def tick() -> None:
    print("tick", flush=True)
    raise RuntimeError("the background failed")


async def stray() -> None:
    """Meets the cancellation of a future that a library gave up."""
    print("stray", flush=True)
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def linger() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        print("background ended", flush=True)


async def main() -> None:
    settings = load(Settings)
    logs.configure(settings.log_level)
    async with Server(settings, "program") as server:
        server.add(
            queue_pb2_grpc.add_QueueAdminServiceServicer_to_server, Waiter(), queue_pb2.DESCRIPTOR
        )
        drains = asyncio.Event()
        add_watch(drains, server.grpc)
        server.add_streams(drains.set)
        server.add_background("tick", tick)
        server.add_background("stray", stray)
        server.add_background("linger", linger)
        await server.serve()
        print("drained", flush=True)


if __name__ == "__main__":
    run(main)
