"""The health check of a container, against gRPC's own implementation and a plain HTTP server."""

import asyncio
import socket
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from servicekit import probe


@pytest.fixture
async def served() -> AsyncIterator[tuple[health.aio.HealthServicer, int]]:
    servicer = health.aio.HealthServicer()
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, port
    await server.stop(None)


async def run_probe(kind: str, port: int) -> int:
    return await asyncio.to_thread(probe.main, [kind, str(port)])


async def test_a_server_that_serves(served: tuple[health.aio.HealthServicer, int]) -> None:
    servicer, port = served
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    assert await run_probe("grpc", port) == 0


async def test_a_server_that_drains(served: tuple[health.aio.HealthServicer, int]) -> None:
    servicer, port = served
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    await servicer.enter_graceful_shutdown()
    assert await run_probe("grpc", port) == 1


async def test_a_server_without_the_health_service() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert await run_probe("grpc", port) == 1
    await server.stop(None)


async def test_nobody_listens(unused_port: int) -> None:
    assert await run_probe("grpc", unused_port) == 1
    assert await run_probe("http", unused_port) == 1


@pytest.fixture
def unused_port() -> int:
    """Of a server that has closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(("status", "expected"), [(b"200 OK", 0), (b"503 Unavailable", 1)])
async def test_the_gateway(status: bytes, expected: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        assert await run_probe("http", server.sockets[0].getsockname()[1]) == expected
