"""The health check of a container, against plain HTTP servers."""

import asyncio
import socket

import pytest

from servicekit import probe


async def run_probe(port: int) -> int:
    return await asyncio.to_thread(probe.main, port, "/health/ready")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0),
        (b"HTTP/1.0 200 OK\r\n\r\n", 0),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", 1),
        (b"", 1),
    ],
)
async def test_only_a_200_is_healthy(
    answer: bytes, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        # In two parts, as TCP may deliver it.
        writer.write(answer[:5])
        await writer.drain()
        writer.write(answer[5:])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        assert await run_probe(server.sockets[0].getsockname()[1]) == expected
    assert requests[0].startswith(b"GET /health/ready HTTP/1.1\r\n")
    assert ("does not serve" in capsys.readouterr().out) is bool(expected)


async def test_a_port_without_a_server_is_unhealthy(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    assert await run_probe(port) == 1
    assert "does not answer" in capsys.readouterr().out


async def test_a_server_that_never_answers_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert await run_probe(int(listener.getsockname()[1])) == 1
