"""A service of one method, made of any function, to call over a real connection."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from servicekit.client import connect
from servicekit.server import Server
from servicekit.settings import ServiceSettings

SERVICE = "frontrow.tests.Hop"
Handler = Callable[[bytes], Awaitable[bytes]]
Method = Callable[..., Awaitable[bytes]]


async def start(
    handler: Handler, address: str = "127.0.0.1:0", **settings: Any
) -> tuple[grpc.aio.Server, str]:
    """Serves `handler` as every service of ours is served, but for signals and metrics; returns
    the server and its address."""

    async def serve(request: bytes, context: object) -> bytes:
        return await handler(request)

    server = Server(ServiceSettings(listen=address, metrics_listen=address, **settings), "hop").grpc
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                SERVICE, {"Do": grpc.unary_unary_rpc_method_handler(serve)}
            ),
        )
    )
    port = server.add_insecure_port(address)
    await server.start()
    return server, f"127.0.0.1:{port}"


def method_of(channel: grpc.aio.Channel, name: str = "Do") -> Method:
    method: Method = channel.unary_unary(f"/{SERVICE}/{name}")
    return method


@asynccontextmanager
async def connected(address: str, *, idempotent: bool = False) -> AsyncIterator[Method]:
    """The method of the service at this address."""
    channel = connect(address, idempotent={SERVICE: ["Do"]} if idempotent else None)
    async with channel:
        yield method_of(channel)


@asynccontextmanager
async def hop(
    handler: Handler, *, idempotent: bool = False, **settings: Any
) -> AsyncIterator[Method]:
    """Serves `handler`; yields the method to call."""
    server, address = await start(handler, **settings)
    try:
        async with connected(address, idempotent=idempotent) as method:
            yield method
    finally:
        await server.stop(None)
