"""Crowds of clients that misbehave, time limits of real length, and a hundred stops under load.

`make test-long`. The gateway is a process of its own with its default settings, and so are the
attackers; this process is the other client, who must not notice.
"""

import asyncio
import contextlib
import itertools
import multiprocessing
import random
import resource
import signal
import time
from asyncio import to_thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles

import pytest
import yaml

from harness.files import REPOSITORY
from tests.gateway.attackers import (
    BUNDLE,
    CLOSING,
    LIVE,
    bomb,
    connect,
    crowd,
    end_of,
    exchange,
    read_some,
    statuses,
)
from tests.gateway.fakes import Services
from tests.gateway.serving import addresses_of, free_address, program, restartable_address
from tests.gateway.test_memory_long import CACHES_MB

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

CROWD = 15_000
# A crowd that asks for something comes at this rate: more requests than the gateway can answer
# would make everybody wait, whatever their connections do.
PER_SECOND = 2_500
# The cap of a gateway's container (deploy/caps/2c4g.env), less what full caches may take.
MEMORY_MB = 448 - CACHES_MB
COMPOSE = yaml.safe_load((REPOSITORY / "deploy" / "compose.yml").read_text())
ALLOCATOR = "_RJEM_MALLOC_CONF"
P99_SECONDS = 0.1

Attack = Callable[[int], contextlib.AbstractContextManager[object]]


def idle(port: int) -> contextlib.AbstractContextManager[object]:
    return crowd(port, CROWD)


@contextmanager
def kept_alive(port: int) -> Iterator[None]:
    with crowd(port, CROWD, LIVE, per_second=PER_SECOND) as clients:
        for client in clients:
            assert statuses(read_some(client, 10)) == [200]
        yield


def stray_bytes(port: int) -> contextlib.AbstractContextManager[object]:
    return crowd(port, CROWD, LIVE + b"\r\n", per_second=PER_SECOND)


def half_heads(port: int) -> contextlib.AbstractContextManager[object]:
    return crowd(port, CROWD, LIVE[:-2] + b"X: " + b"x" * 15_000)


def slow_readers(port: int) -> contextlib.AbstractContextManager[object]:
    return crowd(port, 1_000, BUNDLE * 10, receive_buffer=4_096)


@contextmanager
def pipelining(port: int) -> Iterator[None]:
    with crowd(port, 16, receive_buffer=4_096) as clients:
        for client in clients:
            client.setblocking(False)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            for client in clients:
                with contextlib.suppress(OSError):
                    client.send(LIVE * 200)
            time.sleep(0.01)
        yield


@contextmanager
def head_bombs(port: int) -> Iterator[None]:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        bomb(port)
    yield


@contextmanager
def long_values(port: int) -> Iterator[None]:
    for _ in range(10):
        exchange(port, LIVE[:-2] + b"X: " + b"x" * 44_000_000)
    yield


ATTACKS = [
    idle,
    kept_alive,
    stray_bytes,
    half_heads,
    slow_readers,
    pipelining,
    head_bombs,
    long_values,
]


def _attack(attack: Attack, port: int, begun: "multiprocessing.synchronize.Event") -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    begun.set()
    with attack(port):
        time.sleep(3)


def seconds_of_a_request(port: int) -> float:
    """Returns the duration of a request over a connection of its own."""
    started = time.monotonic()
    with connect(port) as client:
        client.sendall(CLOSING)
        assert statuses(read_some(client, 10)) == [200]
    return time.monotonic() - started


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("services_run", [True, False], ids=["services run", "services stopped"])
async def test_another_client_does_not_notice(
    services: Services,
    unused_address: str,
    services_run: bool,
    attack: Attack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ALLOCATOR, COMPOSE["services"]["gateway"]["environment"][ALLOCATOR])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CROWD + 1_000:
        pytest.skip(f"the hard limit of open files is {hard} here")
    addresses = addresses_of(services)
    if not services_run:
        addresses = dict.fromkeys(addresses, unused_address)
    listen = free_address()
    port = int(listen.rpartition(":")[2])
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    attacker = context.Process(target=_attack, args=(attack, port, begun))
    async with program(addresses, listen=listen, metrics_listen=free_address()) as gateway:
        attacker.start()
        assert await to_thread(begun.wait, 30)
        durations = []
        while attacker.is_alive():
            durations.append(await to_thread(seconds_of_a_request, port))
            await asyncio.sleep(0.01)
        assert attacker.exitcode == 0
        peak = _peak_mb(gateway.pid)
        p99 = quantiles(durations, n=100)[98]
        print(f"\n{attack.__name__}: p99 {p99 * 1000:.0f} ms of {len(durations)}, peak {peak} MB")
        assert len(durations) >= 100
        assert p99 < P99_SECONDS
        assert peak < MEMORY_MB
        # All connections of the crowd are closed, and nothing of it is kept.
        assert await to_thread(_files_fall_below, gateway.pid, 200, 10)


async def test_slow_readers_lose_their_sockets_in_time(services: Services) -> None:
    listen = free_address()
    port = int(listen.rpartition(":")[2])
    async with program(
        addresses_of(services), listen=listen, metrics_listen=free_address()
    ) as gateway:
        with crowd(port, 1_000, BUNDLE, receive_buffer=4_096):
            await asyncio.sleep(5)
            assert _open_files(gateway.pid) > 1_000
            memory = _peak_mb(gateway.pid)
            assert await to_thread(_files_fall_below, gateway.pid, 200, 40)
    print(f"\nslow readers: peak {memory} MB")


async def test_time_limits_of_real_length(services: Services) -> None:
    listen = free_address()
    port = int(listen.rpartition(":")[2])
    late_body = b"POST /queues/enqueue HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{"
    limits = [  # what is sent, and after how many seconds the connection ends
        (b"", 65),
        (LIVE, 65),
        (LIVE + b"\r\n", 65),
        (LIVE[:-2], 65),
        (LIVE + LIVE[:-2], 65),
        (late_body, 10),
    ]

    def seconds_until_the_end(sent: bytes) -> float:
        with connect(port) as client:
            client.sendall(sent)
            started = time.monotonic()
            assert end_of(client, 90) == "FIN"
            return time.monotonic() - started

    async with program(addresses_of(services), listen=listen, metrics_listen=free_address()):
        ends = await asyncio.gather(*(to_thread(seconds_until_the_end, s) for s, _ in limits))
    for (sent, limit), seconds in zip(limits, ends, strict=True):
        assert limit - 1 <= seconds <= limit + 5, sent


class Visitor:
    """A client of two gateways that keeps its connections, and pauses as people do."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = itertools.cycle(addresses)
        self.answered = 0
        self.cut: list[str] = []
        self.leaves = False

    async def visit(self) -> None:
        """Sends requests until `leaves`. A connection that is refused, or not accepted in time,
        sends the visitor to the other gateway; a request without a response is a cut."""
        while not self.leaves:
            host, _, port = next(self._addresses).rpartition(":")
            try:
                async with asyncio.timeout(0.5):
                    reader, writer = await asyncio.open_connection(host, int(port))
            except (OSError, TimeoutError):
                await asyncio.sleep(0.01)
                continue
            while not self.leaves:
                try:
                    writer.write(LIVE)
                    async with asyncio.timeout(30):
                        head = await reader.readuntil(b"\r\n\r\n")
                        await reader.readexactly(len(b'{"status":"live"}'))
                except (OSError, EOFError, TimeoutError) as error:
                    self.cut.append(repr(error))
                    break
                self.answered += 1
                if b"connection: close" in head:
                    break
                await asyncio.sleep(random.uniform(0, 0.05))
            writer.close()


async def test_a_hundred_stops_under_load_cut_no_request(services: Services) -> None:
    addresses = [restartable_address(), restartable_address()]
    visitors = [Visitor(addresses) for _ in range(30)]
    visits: list[asyncio.Task[None]] = []

    async def serve(address: str, stops: int) -> None:
        for _ in range(stops):
            async with (
                program(
                    addresses_of(services),
                    listen=address,
                    metrics_listen=free_address(),
                    drain_announce_seconds=1,
                ) as gateway,
                turn,
            ):  # the other gateway serves meanwhile
                await asyncio.sleep(random.uniform(0.2, 0.4))
                gateway.send_signal(signal.SIGTERM)
                output, _ = await asyncio.wait_for(gateway.communicate(), 30)
                assert gateway.returncode == 0, output.decode()

    turn = asyncio.Lock()
    visits = [asyncio.create_task(visitor.visit()) for visitor in visitors]
    await asyncio.gather(*(serve(address, 50) for address in addresses))
    for visitor in visitors:
        visitor.leaves = True
    await asyncio.gather(*visits)
    cut = [error for visitor in visitors for error in visitor.cut]
    print(f"\n{sum(visitor.answered for visitor in visitors)} requests, cut: {cut}")
    assert not cut
    assert all(visitor.answered > 100 for visitor in visitors)


def _open_files(process: int) -> int:
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def _files_fall_below(process: int, number: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if _open_files(process) < number:
            return True
        time.sleep(0.1)
    return False


def _peak_mb(process: int) -> int:
    """Returns the largest resident memory of a process so far."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise AssertionError("no VmHWM")
