"""Calls another service: the channel, one call with a deadline, and streams."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

import grpc

from servicekit import call_context, cancellation
from servicekit.rpc_errors import RemoteError, from_rpc_error

Request = TypeVar("Request")
Response = TypeVar("Response")

# A ping every 30 s detects a dead peer. The server allows an interval of 20 s or more (see
# `server`); with a shorter one it would send GOAWAY "too many pings".
KEEPALIVE_MS = 30_000
# Our own services are reached directly. Without this option gRPC sends every channel, also one to
# 127.0.0.1, to the proxy of `http_proxy`, which machines set for their package managers.
DIRECT = (("grpc.enable_http_proxy", 0),)

# gRPC's own.
DEFAULT_MAX_RESPONSE_BYTES = 4 * 1024 * 1024


def connect(
    address: str,
    *,
    idempotent: dict[str, list[str]] | None = None,
    max_response_bytes: int = DEFAULT_MAX_RESPONSE_BYTES,
) -> grpc.aio.Channel:
    """Returns a channel to one service, which connects on first use and always reconnects.

    `address` is host:port or any gRPC target (dns:///name:port spreads calls over all replicas);
    a proxy of the environment is never used.
    `idempotent` maps a full service name to the methods that gRPC may retry while the service is
    unavailable: at most 3 attempts, within the deadline of the call. A larger response than
    `max_response_bytes` fails.
    """
    service_config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{"service": service, "method": method} for method in methods],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
            for service, methods in (idempotent or {}).items()
        ],
    }
    return grpc.aio.insecure_channel(
        address,
        options=[
            *DIRECT,
            ("grpc.service_config", json.dumps(service_config)),
            ("grpc.max_receive_message_length", max_response_bytes),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", 5_000),
            # Reconnects to a restarted service within a second, not after two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
        ],
    )


async def call(
    method: Callable[..., Awaitable[Response]],
    request: Any,
    *,
    budget: float,
    metadata: tuple[tuple[str, str], ...] = (),
) -> Response:
    """Makes one unary call, with this metadata, and returns its response.

    Takes at most `budget` seconds, or the rest of the deadline of the call that is being served.
    Raises RemoteError with the code of the other service, or UNAVAILABLE or TIMEOUT if there is
    none.
    """
    seconds = _time_left(budget)
    try:
        return await method(
            request,
            timeout=seconds,
            metadata=((call_context.REQUEST_ID_HEADER, call_context.request_id.get()), *metadata),
        )
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, _name(method)) from None


class Responses(Generic[Response]):
    """The responses of an open call: `open_responses` makes it."""

    def __init__(
        self,
        call: grpc.aio.UnaryStreamCall[Any, Response] | grpc.aio.StreamStreamCall[Any, Response],
        method: str,
        expected: grpc.StatusCode | None = None,
    ) -> None:
        self._call = call
        self._method = method
        self._expected = expected

    async def __aiter__(self) -> AsyncIterator[Response]:
        """Iterates over the responses, until the other side ends the stream without an error.
        Raises RemoteError."""
        while True:
            async with self._translated_errors():
                response: Any = await self._call.read()
            if response is grpc.aio.EOF:
                return
            yield response

    @contextlib.asynccontextmanager
    async def _translated_errors(self) -> AsyncIterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._method, self._expected) from None
        except asyncio.InvalidStateError:  # a write after the end
            raise _ended() from None
        except asyncio.CancelledError as error:
            if cancellation.is_ours(error):
                raise
            raise _ended() from None  # the channel was closed


class Stream(Responses[Response], Generic[Request, Response]):
    """An open call in which both sides send messages: `open_stream` makes it. One task may send
    while another one iterates over the responses."""

    def __init__(
        self,
        call: grpc.aio.StreamStreamCall[Request, Response],
        method: str,
        expected: grpc.StatusCode | None = None,
    ) -> None:
        super().__init__(call, method, expected)
        self._requests = call

    async def send(self, request: Request) -> None:
        """Sends a request; waits while the other side reads too slowly. Raises RemoteError if the
        stream has ended."""
        async with self._translated_errors():
            await self._requests.write(request)


@contextlib.asynccontextmanager
async def open_responses(
    method: Callable[..., grpc.aio.UnaryStreamCall[Request, Response]],
    request: Request,
    *,
    budget: float | None = None,
    expected: grpc.StatusCode | None = None,
) -> AsyncIterator[Responses[Response]]:
    """Opens a call with one request and a stream of responses; leaving the block cancels it.

    It has a deadline only with a `budget`, as `call`, and is retried only if its method is
    idempotent and no response has come. Errors are those of `call`; a status that is `expected` is
    not logged.
    """
    call = method(
        request,
        timeout=None if budget is None else _time_left(budget),
        metadata=((call_context.REQUEST_ID_HEADER, call_context.request_id.get()),),
    )
    try:
        yield Responses(call, _name(method), expected)
    finally:
        call.cancel()


@contextlib.asynccontextmanager
async def open_stream(
    method: Callable[..., grpc.aio.StreamStreamCall[Request, Response]],
    *,
    expected: grpc.StatusCode | None = None,
) -> AsyncIterator[Stream[Request, Response]]:
    """Opens a call in which both sides send messages; leaving the block cancels it.

    It has no deadline and is never retried. Errors are those of `call`; a status that is `expected`
    is not logged.
    """
    call = method(metadata=((call_context.REQUEST_ID_HEADER, call_context.request_id.get()),))
    try:
        yield Stream(call, _name(method), expected)
    finally:
        call.cancel()


def _time_left(budget: float) -> float:
    seconds = call_context.remaining(budget)
    if seconds <= 0:  # gRPC may send a call that has no time left
        raise RemoteError(
            "TIMEOUT", grpc.StatusCode.DEADLINE_EXCEEDED, "No time was left for the call."
        )
    return seconds


def _name(method: object) -> str:
    # Not a public attribute, but nothing else names the method.
    return str(getattr(method, "_method", b"").decode())


def _ended() -> RemoteError:
    return RemoteError("UNAVAILABLE", grpc.StatusCode.UNAVAILABLE, "The stream has ended.")
