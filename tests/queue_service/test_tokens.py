"""What a token says, and who can check it."""

import jwt
import pytest

from queue_service.domain import Place
from queue_service.tokens import Signer

SECRET = "0123456789abcdef0123456789abcdef"
# 2026-01-02T00:00:00Z, the seventh place of that millisecond.
PLACE = Place("main", 86_400_000 * 4096 + 7, 42, 86_000_000 * 4096)


def test_a_token_states_its_place() -> None:
    token = Signer("k1", SECRET).sign(PLACE, PLACE.given_at)
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "kid": "k1", "typ": "JWT"}
    assert jwt.decode(token, SECRET, algorithms=["HS256"]) == {
        "room": "main",
        "place": PLACE.number,
        "user": 42,
        "epoch": PLACE.epoch,
        "iat": 1_767_312_000,
    }


def test_another_key_does_not_open_it() -> None:
    token = Signer("k1", SECRET).sign(PLACE, PLACE.given_at)
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, SECRET[::-1], algorithms=["HS256"])
