"""PyJWT examines an HMAC key at each use; here, once.

It tries to read the key as a public key, a certificate and a JWK, to refuse those. That takes
longer than all the rest of signing a token.
"""

from functools import lru_cache

import jwt
from jwt.algorithms import HMACAlgorithm

_ALGORITHM = "HS256"
# A process has few keys. What is refused is not remembered.
_MAX_KEYS = 64


class _KeysExaminedOnce(HMACAlgorithm):
    def __init__(self) -> None:
        super().__init__(HMACAlgorithm.SHA256)
        self._examined = lru_cache(_MAX_KEYS)(super().prepare_key)

    def prepare_key(self, key: str | bytes) -> bytes:
        return self._examined(key)


def examine_once() -> None:
    """Makes PyJWT examine each HS256 key once in this process. Idempotent."""
    if not isinstance(jwt.get_algorithm_by_name(_ALGORITHM), _KeysExaminedOnce):
        jwt.unregister_algorithm(_ALGORITHM)
        jwt.register_algorithm(_ALGORITHM, _KeysExaminedOnce())
