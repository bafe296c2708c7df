"""Own services are reached directly, whatever proxy the environment names."""

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from payment_service.domain import ChargeStatus
from payment_service.providers import connect_provider
from payment_service.settings import Settings
from servicekit.client import call
from tests.servicekit.hops import hop

VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
# Their peers are on the internet, where a company's machine needs its proxy.
# The payment provider, and the provider of the challenge at entry.
OUTSIDE = {"payment_service/providers/__init__.py", "gateway/clients.py"}
CHANNELS = {"insecure_channel", "secure_channel"}
HTTP_CLIENTS = {"AsyncClient", "Client", "get", "post", "put", "delete", "request", "stream"}


async def echo(request: bytes) -> bytes:
    return request


async def test_a_channel_ignores_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(100))
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        for name in VARIABLES:
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with hop(echo) as method:
            assert await call(method, b"direct", budget=5) == b"direct"
    assert asked == []


def test_no_client_in_the_tree_uses_a_proxy(repository: Path) -> None:
    clients = list(clients_in(repository))
    assert len(clients) > 10
    assert [where for where, direct in clients if not direct] == []


async def test_the_payment_provider_may_be_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.get_running_loop().create_future()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set_result(await reader.readline())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        settings = Settings(
            provider="http", http_base_url="http://psp.example", http_api_key=SecretStr("key")
        )
        async with connect_provider(settings) as provider:
            charge = await provider.get_charge(3)
    assert charge.status is ChargeStatus.UNKNOWN
    assert await asked == b"GET http://psp.example/charges/3 HTTP/1.1\r\n"


def clients_in(repository: Path) -> Iterator[tuple[str, bool]]:
    """Where the programs, tools and examples make a client, and whether it is a direct one."""
    for path in sorted(repository.rglob("*.py")):
        folder, *_ = (name := str(path.relative_to(repository))).split("/")
        if folder in ("tests", "protos") or folder.startswith(".") or name in OUTSIDE:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                # They have no option for it.
                assert not names & {"urllib.request", "requests", "aiohttp", "urllib3"}, name
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                module, function = ast.unparse(node.func.value), node.func.attr
                options = {each.arg: ast.unparse(each.value) for each in node.keywords}
                where = f"{name}:{node.lineno}"
                if module in ("grpc", "grpc.aio") and function in CHANNELS:
                    yield where, "DIRECT" in options.get("options", "")
                elif module == "httpx" and function in HTTP_CLIENTS:
                    yield where, options.get("trust_env") == "False"
