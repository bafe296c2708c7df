"""What the HTTP server does with clients that misbehave. Time limits are short here;
test_front_long.py has those of real length, and crowds."""

import asyncio
import contextlib
import time
from asyncio import to_thread

import pytest

from gateway.server import MAX_HEAD_BYTES
from tests.gateway.attackers import (
    BUNDLE,
    CLOSING,
    LIVE,
    bomb,
    connect,
    end_of,
    exchange,
    read,
    statuses,
)
from tests.gateway.fakes import Services
from tests.gateway.polling import until
from tests.gateway.serving import serving

ENTER = b"POST /queues/enqueue HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'{"userId": 42}'
UPGRADES = [
    # Java's HttpClient and `curl --http2`.
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n",
    b"Connection: Upgrade\r\nUpgrade: x\r\n",
]


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("pause", [0.0, 0.05], ids=["together", "body later"])
async def test_an_upgrade_is_ignored_and_the_body_belongs_to_its_request(
    services: Services, upgrade: bytes, pause: float
) -> None:
    head = ENTER + upgrade + b"Content-Length: %d\r\n\r\n" % len(BODY)
    async with serving(services) as gateway:
        responses = await to_thread(exchange, gateway.port, head, BODY, pause=pause)
    assert statuses(responses) == [201]
    assert len(services.faults.of("EnterQueue")) == 1


@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_a_body_is_never_the_next_request(services: Services, upgrade: bytes) -> None:
    hidden = b"DELETE /queues/order HTTP/1.1\r\nHost: x\r\nX-Access-Token: x\r\n\r\n"
    head = ENTER + upgrade + b"Content-Length: %d\r\n\r\n" % len(hidden)
    async with serving(services) as gateway:
        responses = await to_thread(exchange, gateway.port, head, hidden, pause=0.05)
    assert statuses(responses) == [422]


async def test_http_2_is_refused(services: Services) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    async with serving(services) as gateway:
        with await to_thread(connect, gateway.port) as client:
            client.sendall(preface)
            assert await to_thread(end_of, client, 5) in ("FIN", "RST")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        LIVE + b"\r\n",
        LIVE[:20],
        LIVE + LIVE[:-2],
        LIVE + b"x",
    ],
    ids=["nothing", "a stray line", "half a head", "half a second head", "a stray byte"],
)
async def test_idle_time_and_head_have_one_deadline(services: Services, sent: bytes) -> None:
    async with serving(services, idle_seconds=0.2) as gateway:
        with await to_thread(connect, gateway.port) as client:
            client.sendall(sent)
            assert await to_thread(end_of, client, 5) == "FIN"


async def test_a_head_that_arrives_byte_by_byte_does_not_extend_its_deadline(
    services: Services,
) -> None:
    async with serving(services, idle_seconds=0.3) as gateway:
        with await to_thread(connect, gateway.port) as client:
            started = time.monotonic()
            with contextlib.suppress(ConnectionError):
                while time.monotonic() - started < 5:
                    client.send(b"x")
                    await asyncio.sleep(0.02)
            assert time.monotonic() - started < 2


async def test_a_connection_is_kept_while_its_requests_are_in_time(services: Services) -> None:
    async with serving(services, idle_seconds=0.5) as gateway:
        with await to_thread(connect, gateway.port) as client:
            for _ in range(4):  # longer together than the deadline
                client.sendall(LIVE)
                assert statuses(await to_thread(read, client, 0.2)) == [200]


async def test_a_slow_answer_is_not_an_idle_connection(services: Services) -> None:
    services.faults.delays["EnterQueue"] = 0.4
    async with serving(services, idle_seconds=0.2) as gateway:
        request = ENTER + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
        with await to_thread(connect, gateway.port) as client:
            client.sendall(request)
            assert statuses(await to_thread(read, client, 2)) == [201]


async def test_a_client_that_does_not_read_loses_its_connection(services: Services) -> None:
    async with serving(services, write_seconds=0.3) as gateway:
        with await to_thread(connect, gateway.port, receive_buffer=4_096) as client:
            client.sendall(BUNDLE)
            await until(lambda: gateway.drain.requests == 1)
            await until(lambda: gateway.drain.requests == 0)
            assert await to_thread(end_of, client, 5) == "RST"


async def test_a_slow_reader_that_goes_on_gets_everything(services: Services) -> None:
    async with serving(services, write_seconds=0.5) as gateway:
        with await to_thread(connect, gateway.port, receive_buffer=65_536) as client:
            client.sendall(BUNDLE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            received = bytearray()
            while data := await to_thread(client.recv, 65_536):
                received += data
                await asyncio.sleep(0.02)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(body) in head


async def test_a_head_of_16_kib_is_served_and_a_larger_one_refused(services: Services) -> None:
    def head(size: int) -> bytes:
        start = CLOSING[:-2] + b"X: "
        return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"

    async with serving(services) as gateway:
        # The gateway counts decoded fields, which differ by a few bytes from those that were sent.
        assert statuses(await to_thread(exchange, gateway.port, head(MAX_HEAD_BYTES - 64))) == [200]
        for size in (MAX_HEAD_BYTES + 1, 200_000, 5_000_000):
            assert statuses(await to_thread(exchange, gateway.port, head(size))) == [431]


async def test_a_head_has_at_most_100_fields(services: Services) -> None:
    async with serving(services) as gateway:
        for number, status in ((98, 200), (99, 431), (10_000, 431)):
            fields = b"".join(b"x%d: y\r\n" % n for n in range(number))
            request = CLOSING[:-2] + fields + b"\r\n"
            assert statuses(await to_thread(exchange, gateway.port, request)) == [status], number


async def test_a_head_without_end_is_refused(services: Services) -> None:
    async with serving(services) as gateway:
        sent, response = await to_thread(bomb, gateway.port)
        # All but the 16 KiB was in the sockets' buffers.
        assert sent < 10_000_000
        assert statuses(response) in ([431], [])


async def test_one_request_of_a_connection_is_served_at_a_time(services: Services) -> None:
    services.faults.delays["EnterQueue"] = 0.1
    request = ENTER + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    async with serving(services) as gateway:
        with await to_thread(connect, gateway.port) as client:
            client.sendall(request * 3)
            for number in range(1, 4):
                while len(services.faults.of("EnterQueue")) < number:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                assert gateway.drain.requests == 1
                await asyncio.sleep(0.05)
                assert len(services.faults.of("EnterQueue")) == number
            assert statuses(await to_thread(read, client, 0.5)) == [201] * 3


async def test_requests_of_a_client_that_does_not_read_are_not_served(services: Services) -> None:
    """Otherwise their responses would fill the memory."""
    request = ENTER + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    async with serving(services) as gateway:
        with await to_thread(connect, gateway.port, receive_buffer=4_096) as client:
            client.setblocking(False)
            sent = client.send(request * 20_000) // len(request)
            served = -1
            async with asyncio.timeout(30):
                while served < len(services.faults.of("EnterQueue")):
                    served = len(services.faults.of("EnterQueue"))
                    await asyncio.sleep(0.3)
            assert 0 < served < sent / 2
            assert await to_thread(exchange, gateway.port, CLOSING)
