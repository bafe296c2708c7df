"""A proof of work that the browser solves and the gateway verifies by itself (altcha.org, v2)."""

import time
from collections.abc import Mapping

import altcha

from gateway.challenges.port import Solved

# Solving tries 16^3 keys on average, each of them as expensive as verifying: fine enough steps for
# the difficulty, and a wrong solution costs us a 4,096th of a right one.
_PREFIX = "000"
_TRIES = 4_096


class AltchaChallenge:
    """Implements Challenge. `difficulty` is the number of hash iterations that solving takes on
    average, `seconds` the time to solve and to enter.

    Signed with `key`, so that no gateway stores a challenge and each accepts those of the others. A
    challenge is good for one user and one room: solutions cannot be kept in stock for other users.
    """

    def __init__(self, key: str, difficulty: int, seconds: float) -> None:
        self._key = key
        self._cost = max(1, difficulty // _TRIES)
        self._seconds = seconds

    def new(self, user_id: int, room: str) -> Mapping[str, object]:
        """Takes about 50 µs."""
        challenge: Mapping[str, object] = altcha.create_challenge(
            "PBKDF2/SHA-256",
            self._cost,
            key_prefix=_PREFIX,
            expires_at=int(time.time() + self._seconds),
            data=_bound_to(user_id, room),
            hmac_secret=self._key,
        ).to_dict()
        return challenge

    async def verify(
        self, solution: str, user_id: int, room: str, address: str | None
    ) -> Solved | None:
        """Takes about 200 µs at the usual difficulty."""
        try:
            payload = altcha.Payload.from_base64(solution)
            result = altcha.verify_solution(payload, self._key)
        # What a client sends is not shaped like a payload, or has numbers beyond any float.
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
            return None
        # From here on the parameters are known to be ours.
        parameters = payload.challenge.parameters
        if not result.verified or parameters.data != _bound_to(user_id, room):
            return None
        assert parameters.expires_at is not None
        return Solved(parameters.nonce, parameters.expires_at * 1000)


def _bound_to(user_id: int, room: str) -> dict[str, str]:
    # A text: numbers in JavaScript are exact up to 2^53 only.
    return {"room": room, "user": str(user_id)}
