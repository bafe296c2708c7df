"""What anybody may request does not slow down the others, however often it is requested."""

import asyncio
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
import pytest

from tests.gateway.fakes import KEYS, Services
from tests.gateway.serving import free_address

CLIENTS = 16
REQUESTS = 500

# Threads, because reading from a socket releases the interpreter.
HAMMER = """
import http.client, sys, threading
host, path, clients = sys.argv[1], sys.argv[2], int(sys.argv[3])
def hammer():
    connection = http.client.HTTPConnection(host)
    buffer = bytearray(1 << 16)
    while True:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        while response.readinto(buffer):
            pass
for _ in range(clients):
    threading.Thread(target=hammer).start()
print("hammering", flush=True)
"""


@contextmanager
def running(*command: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    command = (sys.executable, *command)
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def p99(host: str, path: str) -> float:
    """Returns the 99th percentile of REQUESTS requests, one after the other, in seconds."""
    seconds = []
    with closing(http.client.HTTPConnection(host)) as connection:
        for _ in range(REQUESTS):
            started = time.perf_counter()
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            seconds.append(time.perf_counter() - started)
            assert response.status == 200
    return sorted(seconds)[REQUESTS * 99 // 100 - 1]


@pytest.mark.long
@pytest.mark.parametrize(
    "path",
    ["/static-offline-docs/swagger-ui-bundle.js", "/openapi.json", "/docs", "/health/ready"],
)
async def test_it_slows_down_nobody(services: Services, path: str) -> None:
    host = free_address()
    env = os.environ | {
        "GATEWAY_LISTEN": host,
        "GATEWAY_METRICS_LISTEN": free_address(),
        "GATEWAY_TOKEN_KEYS": json.dumps(KEYS),
    }
    for service in ("QUEUE", "CONCERT", "RESERVATION", "PAYMENT"):
        env[f"GATEWAY_{service}_ADDR"] = services.address
    with running("-m", "gateway", env=env):
        async with httpx.AsyncClient(base_url=f"http://{host}") as client, asyncio.timeout(30):
            while True:
                try:
                    if (await client.get("/health/ready")).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)
        with running("-c", HAMMER, host, path, str(CLIENTS)) as hammer:
            assert hammer.stdout is not None
            await asyncio.to_thread(hammer.stdout.readline)
            slowest = await asyncio.to_thread(p99, host, "/health/live")
            print(f"{path}: p99 {slowest * 1000:.1f} ms")
            assert hammer.poll() is None
    assert slowest < 0.1
