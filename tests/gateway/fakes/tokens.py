"""Tokens as queue_service gives them."""

import time
from typing import Any

import jwt

from protos.frontrow.queue.v1 import queue_pb2

KEY_ID = "test"
KEYS = {KEY_ID: "a secret of the tests with 32 bytes or more"}
GIVEN_AT = int(time.time()) - 60


def sign(
    place: queue_pb2.Place, key: str = KEYS[KEY_ID], /, *, algorithm: str = "HS256", **changes: Any
) -> str:
    """Returns the token of a place. `changes` replace claims; None removes one."""
    claims = {
        "room": place.room,
        "place": place.number,
        "user": place.user_id,
        "epoch": place.epoch,
        "iat": GIVEN_AT,
    } | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": KEY_ID})


def token(text: str) -> dict[str, str]:
    """Returns the header of a request with this token."""
    return {"X-Access-Token": text}
