"""Calling another service: the channel, and one call with a deadline."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from servicekit import call_context
from servicekit.rpc_errors import RemoteError, from_rpc_error

Response = TypeVar("Response")

# Pings every 30 s find a dead peer; the server allows them from 20 s on (see `server`). More
# often, and gRPC servers answer with GOAWAY "too many pings".
KEEPALIVE_MS = 30_000


def connect(address: str, *, idempotent: dict[str, list[str]] | None = None) -> grpc.aio.Channel:
    """A channel to one service; connects on first use and reconnects for ever.

    `address` is host:port or any gRPC target (dns:///name:port spreads calls over all replicas).
    `idempotent` names the methods of each full service name that gRPC may send again when the
    service was unavailable: at most 3 tries, within the call's deadline.
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
            ("grpc.service_config", json.dumps(service_config)),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", 5_000),
            # A service that comes back is used again within a second, not after two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
        ],
    )


async def call(
    method: Callable[..., Awaitable[Response]], request: Any, *, budget: float
) -> Response:
    """Makes one unary call and returns its reply.

    Takes at most `budget` seconds, or what is left of the deadline of the call being served.
    Raises RemoteError with the code the other side gave, UNAVAILABLE or TIMEOUT if it gave none.
    """
    seconds = call_context.remaining(budget)
    if seconds <= 0:  # gRPC may well send a call that has no time
        raise RemoteError("TIMEOUT", grpc.StatusCode.DEADLINE_EXCEEDED, "No time was left to ask.")
    try:
        return await method(
            request,
            timeout=seconds,
            metadata=((call_context.REQUEST_ID_HEADER, call_context.request_id.get()),),
        )
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
