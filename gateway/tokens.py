"""Verifies access tokens and reads the place that they state.

queue_service signs them; the gateway verifies the signature without a call.
"""

import math
import re
import time
from hashlib import blake2b

import jwt
from jwt.types import Options
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from gateway.errors import InvalidToken
from gateway.recent import Recent
from protos.frontrow.queue.v1 import queue_pb2
from servicekit import hmac_keys

hmac_keys.examine_once()

HEADER = "X-Access-Token"
_HEADER_NAME = HEADER.lower().encode()
# Where a request keeps the fresh token that its response will carry.
_FRESH = "frontrow.fresh_token"
_OPTIONS: Options = {
    "require": ["room", "place", "user", "epoch", "iat"],
    # Checked below, with a leeway.
    "verify_iat": False,
}
# The names that queue_service accepts.
_ROOM = re.compile(r"[a-z0-9_-]{1,64}")
# Our tokens have about 250 characters.
_MAX_LENGTH = 1_024
_MAX_INT64 = 2**63 - 1
# 6 MB. To verify a token takes at least as long as the rest of a poll. The last half of these is
# remembered for certain: more people than poll at one process within a minute, the longest pause.
_MAX_DECODED = 32_000
# Nobody finds two tokens with the same digest of 16 bytes, and the tokens would take 10 MB more.
_DIGEST_BYTES = 16
# The clock that issued a token may be ahead of ours by this, in seconds. A token from further in
# the future would stay young for as long.
_FUTURE_LEEWAY = 300


class TokenVerifier:
    """Verifies signatures with any of `keys` (key id -> secret). The room that a token names need
    not exist."""

    def __init__(self, keys: dict[str, str], max_age_seconds: float) -> None:
        self._keys = keys
        self._max_age = max_age_seconds
        # A client sends the same token with every request. Digest of a genuine token -> its place,
        # serialised, which takes a tenth of the memory.
        self._known = Recent[bytes, bytes](math.inf, _MAX_DECODED)

    def place(self, request: Request) -> queue_pb2.Place:
        """Returns the place of the request's token, whatever its age. Raises InvalidToken."""
        for name, value in request.scope["headers"]:  # 1 µs less than request.headers takes
            if name == _HEADER_NAME:
                if value:
                    return self._place(value)
                break
        raise InvalidToken(f"Send the token of your place in the {HEADER} header.")

    def is_over_aged(self, place: queue_pb2.Place) -> bool:
        """Returns whether the token of this place is older than the greatest age. Only the room
        knows whether the place lives."""
        return place.issued_at < time.time() - self._max_age

    def _place(self, token: bytes) -> queue_pb2.Place:
        digest = blake2b(token, digest_size=_DIGEST_BYTES).digest()
        known = self._known.get(digest)
        if known is not None:
            return queue_pb2.Place.FromString(known)
        place = self._verify(token.decode("latin-1"))
        self._known.put(digest, place.SerializeToString())
        return place

    def _verify(self, token: str) -> queue_pb2.Place:
        not_genuine = InvalidToken("The token is malformed or its signature is not valid.")
        if len(token) > _MAX_LENGTH:
            raise not_genuine
        try:
            key = self._keys.get(str(jwt.get_unverified_header(token).get("kid")))
            if key is None:
                raise not_genuine
            claims = jwt.decode(token, key, algorithms=["HS256"], options=_OPTIONS)
            return queue_pb2.Place(
                room=_room(claims["room"]),
                number=_integer(claims["place"], least=1),
                user_id=_integer(claims["user"], least=1),
                epoch=_integer(claims["epoch"]),
                issued_at=_integer(claims["iat"], most=int(time.time()) + _FUTURE_LEEWAY),
            )
        # OverflowError: PyJWT converts an infinite `exp` or `nbf` to an integer.
        except (jwt.InvalidTokenError, TypeError, ValueError, OverflowError):
            raise not_genuine from None


def renew_issued_before(max_age_seconds: float) -> int:
    """Returns the time before which an issued token is over-aged now, Unix time in seconds."""
    return math.ceil(time.time() - max_age_seconds)


def keep_fresh_token(request: Request, token: str) -> None:
    """Makes the response of this request carry a fresh token, be it a success or an error."""
    request.scope[_FRESH] = token


def add_fresh_token(scope: Scope, response: Response) -> None:
    """Adds the fresh token of a request, if it has one, to its response."""
    token = scope.get(_FRESH)
    if token is not None:
        response.headers[HEADER] = token


def _room(claim: object) -> str:
    """Returns the claim. Raises ValueError unless it may be the name of a room."""
    if type(claim) is not str or not _ROOM.fullmatch(claim):
        raise ValueError("the room is not a name")
    return claim


def _integer(claim: object, least: int = 0, most: int = _MAX_INT64) -> int:
    """Returns the claim. Raises ValueError unless it is an integer of JSON within the limits."""
    # Not isinstance: True is an int.
    if type(claim) is not int or not least <= claim <= most:
        raise ValueError("a claim is not an integer within its limits")
    return claim
