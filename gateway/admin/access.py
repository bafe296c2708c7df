"""Who may use the admin API: bearer keys, their roles, and the limit of wrong ones."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from cachetools import TTLCache
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.admin.clients import READ_SECONDS, AdminClients
from gateway.admin.errors import KeyRequired, RoleRequired, admin_problem
from gateway.errors import TooManyRequests
from gateway.sources import Sources
from protos.frontrow.concert.v1 import operators_pb2
from servicekit.client import call
from servicekit.errors import ServiceError
from servicekit.rpc_errors import RemoteError

CACHE_SECONDS = 5.0
"""How long a key that was found valid is used without asking again: a revoked key ends then."""

WRONG_KEYS = 10
"""How many wrong keys a source may send until it has sent none for WRONG_SECONDS."""

WRONG_SECONDS = 60

_TRUSTED_SECONDS = 24 * 3600
"""How long a key that was found valid does not count as a guess: others at the same address, behind
one tunnel or proxy, must not lock its operator out."""

_OPERATOR = "frontrow.operator"
_MAX_SECRET = 200
_MAX_CACHED_KEYS = 1_000
_MAX_SOURCES = 10_000


class Role(IntEnum):
    """What a key allows. Each role may do what the roles before it may."""

    VIEWER = operators_pb2.ROLE_VIEWER
    OPERATOR = operators_pb2.ROLE_OPERATOR
    ADMIN = operators_pb2.ROLE_ADMIN


@dataclass(frozen=True)
class Operator:
    """Who sends a request."""

    key_id: int
    name: str
    role: int


class WrongKeys:
    """Counts the wrong keys of each source.

    A key counts before it is checked, so that many at once gain nothing; a right one is taken back.
    A source that is refused does not count: its time runs.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._wrong = TTLCache[str, int](_MAX_SOURCES, WRONG_SECONDS, timer=clock)

    def count(self, source: str) -> None:
        """Counts a key as wrong. Raises TooManyRequests."""
        wrong = self._wrong.get(source, 0)
        if wrong >= WRONG_KEYS:
            raise TooManyRequests(WRONG_SECONDS)
        self._wrong[source] = wrong + 1

    def take_back(self, source: str) -> None:
        """The key was not wrong, or nobody knows."""
        wrong = self._wrong.get(source, 0) - 1
        if wrong > 0:
            self._wrong[source] = wrong
        else:
            self._wrong.pop(source, None)


class Keys:
    """Finds the operator of a key, and remembers that for some seconds."""

    def __init__(
        self,
        clients: AdminClients,
        sources: Sources,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clients = clients
        self._sources = sources
        self._wrong = WrongKeys(clock)
        # By hash, so that no secret stays in memory.
        self._known = TTLCache[bytes, Operator](_MAX_CACHED_KEYS, CACHE_SECONDS, timer=clock)
        self._trusted = TTLCache[bytes, bool](_MAX_CACHED_KEYS, _TRUSTED_SECONDS, timer=clock)
        # Many requests at once with one key are one guess, and one call.
        self._asking: dict[bytes, asyncio.Task[Operator]] = {}

    async def operator_of(self, secret: str, scope: Scope) -> Operator:
        """Raises KeyRequired, and TooManyRequests for a source of wrong keys."""
        if not secret or len(secret) > _MAX_SECRET:
            raise KeyRequired
        digest = hashlib.sha256(secret.encode()).digest()
        known = self._known.get(digest)
        if known is not None:
            return known
        asking = self._asking.get(digest)
        if asking is None:
            source = self._sources.of(scope)
            asking = asyncio.create_task(self._ask(secret, digest, source))
            self._asking[digest] = asking
            asking.add_done_callback(lambda _: self._asking.pop(digest))
        return await asyncio.shield(asking)

    async def _ask(self, secret: str, digest: bytes, source: str) -> Operator:
        counts = digest not in self._trusted
        if counts:
            self._wrong.count(source)
        try:
            response = await call(
                self._clients.operators.Authenticate,
                operators_pb2.AuthenticateRequest(secret=secret),
                budget=READ_SECONDS,
            )
        except RemoteError as error:
            if error.code == KeyRequired.code:
                self._trusted.pop(digest, None)
                raise KeyRequired from None
            if counts:
                self._wrong.take_back(source)
            raise
        if counts:
            self._wrong.take_back(source)
        self._trusted[digest] = True
        key = response.key
        self._known[digest] = operator = Operator(key.id, key.name, key.role)
        return operator


class AccessMiddleware:
    """Finds the operator of each request before its body is read. The pages of the documentation
    need no key."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/admin"):
            try:
                scope[_OPERATOR] = await self._keys.operator_of(_secret(scope), scope)
            except ServiceError as error:
                await admin_problem(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _secret(scope: Scope) -> str:
    """Returns the token of Authorization: Bearer, or ""."""
    scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


# AccessMiddleware reads it; this one tells the OpenAPI document.
_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="key",
    description="An API key: `python -m concert_service.keys create`, or POST /admin/keys.",
)


def needs(role: Role) -> Callable[..., Awaitable[Operator]]:
    """Returns the dependency of a route that keys with this role, or one above it, may use."""

    async def operator(
        request: Request,
        _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Operator:
        found: Operator = request.scope[_OPERATOR]
        if found.role < role:
            raise RoleRequired(role.name)
        return found

    return operator


Viewer = Annotated[Operator, Depends(needs(Role.VIEWER))]
Changer = Annotated[Operator, Depends(needs(Role.OPERATOR))]
Admin = Annotated[Operator, Depends(needs(Role.ADMIN))]
