"""Verifies access tokens and reads the place that they state.

queue_service signs them; the gateway verifies the signature without a call.
"""

import time
from functools import lru_cache

import jwt
from jwt.types import Options
from starlette.requests import Request

from gateway.errors import InvalidToken, TokenExpired
from protos.frontrow.queue.v1 import queue_pb2

HEADER = "X-Access-Token"
_OPTIONS: Options = {
    "require": ["room", "place", "user", "epoch", "iat"],
    # Checked below, with a leeway.
    "verify_iat": False,
}
# Our tokens have about 250 characters.
_MAX_LENGTH = 1_024
_MAX_INT64 = 2**63 - 1
# The clock that issued a token may be ahead of ours by this, in seconds. A token from further in
# the future would stay young for as long.
_FUTURE_LEEWAY = 300


class TokenVerifier:
    """Verifies signatures with any of `keys` (key id -> secret); accepts tokens of `room` only."""

    def __init__(self, keys: dict[str, str], room: str, max_age_seconds: float) -> None:
        self._keys = keys
        self._room = room
        self._max_age = max_age_seconds
        # A client sends the same token with every poll; 100,000 entries take about 60 MB.
        self._decode = lru_cache(maxsize=100_000)(self._decode_uncached)

    def place(self, request: Request) -> queue_pb2.Place:
        """Returns the place of the request's token. Raises InvalidToken, or TokenExpired if the
        token is too old."""
        token = request.headers.get(HEADER)
        if not token:
            raise InvalidToken(f"Send the token of your place in the {HEADER} header.")
        place, issued_at = self._decode(token)
        if time.time() - issued_at > self._max_age:
            raise TokenExpired
        return place

    def _decode_uncached(self, token: str) -> tuple[queue_pb2.Place, int]:
        not_genuine = InvalidToken("The token is malformed or its signature is not valid.")
        if len(token) > _MAX_LENGTH:
            raise not_genuine
        try:
            key = self._keys.get(str(jwt.get_unverified_header(token).get("kid")))
            if key is None:
                raise not_genuine
            claims = jwt.decode(token, key, algorithms=["HS256"], options=_OPTIONS)
            if claims["room"] != self._room:
                raise not_genuine
            place = queue_pb2.Place(
                room=claims["room"],
                number=_integer(claims["place"], least=1),
                user_id=_integer(claims["user"], least=1),
                epoch=_integer(claims["epoch"]),
            )
            issued_at = _integer(claims["iat"], most=int(time.time()) + _FUTURE_LEEWAY)
            return place, issued_at
        # OverflowError: PyJWT converts an infinite `exp` or `nbf` to an integer.
        except (jwt.InvalidTokenError, TypeError, ValueError, OverflowError):
            raise not_genuine from None


def _integer(claim: object, least: int = 0, most: int = _MAX_INT64) -> int:
    """Returns the claim. Raises ValueError unless it is an integer of JSON within the limits."""
    # Not isinstance: True is an int.
    if type(claim) is not int or not least <= claim <= most:
        raise ValueError("a claim is not an integer within its limits")
    return claim
