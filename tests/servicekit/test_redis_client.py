"""Which errors of Redis mean that it is unavailable, and which are defects."""

import asyncio
from collections.abc import AsyncIterator
from typing import Self

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from reservation_service.locks import RedisSeatLocks
from servicekit.errors import Unavailable
from servicekit.redis_client import connect, translated_errors
from servicekit.redis_errors import MEANINGS, Treatment

# Cluster errors name a slot and a node.
TEXTS = {"MOVED": "866 127.0.0.1:1", "ASK": "866 127.0.0.1:1"}


class Server:
    """A Redis that answers every command with the same error. Counts its connections."""

    def __init__(self, answer: str) -> None:
        self._answer = answer.encode() + b"\r\n"
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while head := await reader.readline():
            parts = []
            for _ in range(int(head[1:])):
                length = int((await reader.readline())[1:])
                parts.append((await reader.readexactly(length + 2))[:-2])
            if parts[0] == b"HELLO":
                writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
            else:
                writer.write(b"+OK\r\n" if parts[0] == b"CLIENT" else self._answer)
        writer.close()


def answer(code: str) -> str:
    return f"-{code} {TEXTS.get(code, 'Text of the server.')}"


@pytest.fixture
async def client() -> AsyncIterator[Redis]:
    async with connect("redis://127.0.0.1:1", timeout=0.1) as redis:
        yield redis


async def ask(redis: Redis) -> None:
    async with translated_errors(redis, "The store is unavailable."):
        await redis.get("key")


@pytest.mark.parametrize("code", MEANINGS)
async def test_a_server_that_cannot_serve_now_is_unavailable(code: str) -> None:
    async with Server(answer(code)) as server, connect(server.url, timeout=1) as redis:
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"^The store is unavailable\.$") as raised:
                await ask(redis)
        assert isinstance(raised.value.__cause__, RedisError)
        if MEANINGS[code][0] is Treatment.MOVE:
            assert server.connections == 3  # the address may lead to another server


@pytest.mark.parametrize("code", MEANINGS)
async def test_seat_locks_do_without_a_server_that_cannot_serve_now(code: str) -> None:
    async with Server(answer(code)) as server, connect(server.url, timeout=1) as redis:
        for _ in range(3):
            # The pause after a lost connection belongs to one object.
            locks = RedisSeatLocks(redis, lock_seconds=1.0)
            async with locks.seats([7]) as elsewhere:
                assert not elsewhere
        if MEANINGS[code][0] is Treatment.MOVE:
            assert server.connections == 3


@pytest.mark.parametrize(
    "answered", ["-ERR max number of clients reached", "HTTP/1.1 400 Bad Request"]
)
async def test_a_server_that_takes_no_commands_is_unavailable(answered: str) -> None:
    async with Server(answered) as server, connect(server.url, timeout=1) as redis:
        with pytest.raises(Unavailable):
            await ask(redis)


async def test_a_timeout_is_unavailable() -> None:
    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with (
        await asyncio.start_server(never_answer, "127.0.0.1", 0) as silent,
        connect(f"redis://127.0.0.1:{silent.sockets[0].getsockname()[1]}", timeout=0.1) as redis,
    ):
        with pytest.raises(Unavailable):
            await ask(redis)


async def test_a_server_that_cannot_be_reached_is_unavailable(client: Redis) -> None:
    with pytest.raises(Unavailable):
        await ask(client)


@pytest.mark.parametrize(
    "answered",
    [
        "-ERR wrong number of arguments",
        "-WRONGTYPE Operation against a key holding the wrong kind of value",
        "-CROSSSLOT Keys in request don't hash to the same slot",
    ],
)
async def test_a_refused_command_is_a_defect(answered: str) -> None:
    async with Server(answered) as server, connect(server.url, timeout=1) as redis:
        with pytest.raises(ResponseError):
            await ask(redis)
        with pytest.raises(ResponseError):
            await ask(redis)
        assert server.connections == 1


async def test_another_defect_passes_unchanged(client: Redis) -> None:
    error = ValueError("a defect")
    with pytest.raises(ValueError, match="a defect") as raised:
        async with translated_errors(client, "The store is unavailable."):
            raise error
    assert raised.value is error
