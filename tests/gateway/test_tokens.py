"""Access tokens: only genuine ones pass, and others cause no call."""

import base64
import json
import math
import time
from typing import Any

import httpx
import jwt
import pytest
from starlette.requests import Request

from gateway.errors import InvalidToken
from gateway.tokens import TokenVerifier
from protos.frontrow.queue.v1 import queue_pb2
from tests.gateway.fakes import GIVEN_AT, KEY_ID, KEYS, Services, sign
from tests.gateway.problems import assert_problem

PLACE = queue_pb2.Place(room="main", number=7, user_id=42, epoch=3, issued_at=GIVEN_AT)
OTHER_KEY = "another secret that has 32 bytes or more"


def part(value: Any) -> str:
    """Encodes one of the three parts of a token."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def with_header(**header: Any) -> str:
    """Returns a correctly signed token with a header that jwt.encode would not write."""
    claims = sign(PLACE).split(".")[1]
    signed = f"{part(header)}.{claims}"
    signature = jwt.get_algorithm_by_name("HS256").sign(signed.encode(), KEYS[KEY_ID].encode())
    return f"{signed}.{part(signature)}"


def verifier(max_age_seconds: float = 3_600, keys: dict[str, str] = KEYS) -> TokenVerifier:
    return TokenVerifier(keys, max_age_seconds)


def request(*headers: tuple[bytes, bytes]) -> Request:
    return Request({"type": "http", "headers": headers})


def with_token(token: str) -> Request:
    return request((b"x-access-token", token.encode("latin-1")))


GENUINE = sign(PLACE)
HEADER, CLAIMS, SIGNATURE = GENUINE.split(".")
NOT_INTEGERS: dict[str, Any] = {
    "a text": "7",
    "true": True,
    "a fraction": 7.5,
    "a float": 7.0,
    "an exponent": 1e300,
    "infinite": math.inf,
    "negative infinite": -math.inf,
    "not a number": math.nan,
    "huge": 10**400,
    "beyond 64 bits": 2**63,
    "negative": -1,
    "huge and negative": -(10**400),
    "a list": [7],
    "an object": {"7": 7},
}
NOT_GENUINE = {
    "empty": "",
    "blank": " ",
    "a word": "token",
    "dots": "..",
    "one part": HEADER,
    "two parts": f"{HEADER}.{CLAIMS}",
    "four parts": f"{GENUINE}.x",
    "no signature": f"{HEADER}.{CLAIMS}.",
    "a cut signature": GENUINE[:-5],
    "another's signature": sign(PLACE, user=43).rpartition(".")[0] + "." + SIGNATURE,
    "another key": sign(PLACE, OTHER_KEY),
    "alg none": f"{part({'alg': 'none', 'kid': KEY_ID})}.{CLAIMS}.",
    "alg NONE": f"{part({'alg': 'NONE', 'kid': KEY_ID})}.{CLAIMS}.{SIGNATURE}",
    "another algorithm": sign(PLACE, KEYS[KEY_ID] * 2, algorithm="HS512"),
    "another algorithm, our key": jwt.encode(
        jwt.decode(GENUINE, options={"verify_signature": False}),
        KEYS[KEY_ID].ljust(64, "x"),
        algorithm="HS384",
        headers={"kid": KEY_ID},
    ),
    "no key id": with_header(alg="HS256"),
    "unknown key id": with_header(alg="HS256", kid="other"),
    "key id of another type": with_header(alg="HS256", kid=["test"]),
    "key id null": with_header(alg="HS256", kid=None),
    "unknown critical header": with_header(alg="HS256", kid=KEY_ID, crit=["x"], x=1),
    "header not JSON": f"{part(b'{')}.{CLAIMS}.{SIGNATURE}",
    "header a list": f"{part([])}.{CLAIMS}.{SIGNATURE}",
    "header nested": f"{part(b'[' * 500)}.{CLAIMS}.{SIGNATURE}",
    "not base64": f"{HEADER}.ä.{SIGNATURE}",
    "room not a name": sign(PLACE, room="Main room"),
    "room too long": sign(PLACE, room="x" * 65),
    "expired by its exp claim": sign(PLACE, exp=GIVEN_AT),
    "place not a number": sign(PLACE, place="7"),
    "place too large": sign(PLACE, place=2**63),
    "room not a string": sign(PLACE, room=1),
    "iat not a number": sign(PLACE, iat="now"),
    "no room": sign(PLACE, room=None),
    "no place": sign(PLACE, place=None),
    "no user": sign(PLACE, user=None),
    "no epoch": sign(PLACE, epoch=None),
    "no iat": sign(PLACE, iat=None),
    "exp infinite": sign(PLACE, exp=math.inf),
    "nbf infinite": sign(PLACE, nbf=math.inf),
    "exp not a number": sign(PLACE, exp=[]),
    # Each claim with each of these, signed with our key.
    **{
        f"{claim} {what}": sign(PLACE, **{claim: value})
        for claim in ("place", "user", "epoch", "iat")
        for what, value in NOT_INTEGERS.items()
    },
    "place 0": sign(PLACE, place=0),
    "user 0": sign(PLACE, user=0),
    "iat in the future": sign(PLACE, iat=int(time.time()) + 600),
    "iat at the end of 64 bits": sign(PLACE, iat=2**63 - 1),
    "room a list": sign(PLACE, room=["main"]),
    "room an object": sign(PLACE, room={}),
    "too long": sign(PLACE, more="x" * 1_024),
    "very long": "x" * 100_000,
}


def test_a_genuine_token_states_its_place() -> None:
    assert verifier().place(with_token(GENUINE)) == PLACE


def test_any_known_key_is_accepted() -> None:
    keys = {"next": OTHER_KEY} | KEYS
    assert verifier(keys=keys).place(with_token(GENUINE)) == PLACE


@pytest.mark.parametrize("what", NOT_GENUINE)
def test_other_tokens_are_refused(what: str) -> None:
    with pytest.raises(InvalidToken):
        verifier().place(with_token(NOT_GENUINE[what]))


def test_a_token_ahead_of_our_clock_is_genuine() -> None:
    issued_at = int(time.time()) + 30
    place = verifier().place(with_token(sign(PLACE, iat=issued_at)))
    assert place.issued_at == issued_at


def test_the_age_is_checked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = verifier(max_age_seconds=3_600)
    assert not tokens.is_over_aged(tokens.place(with_token(GENUINE)))
    monkeypatch.setattr("gateway.tokens.time.time", lambda: GIVEN_AT + 3_601)
    assert tokens.is_over_aged(tokens.place(with_token(GENUINE)))


class TestOverHttp:
    @pytest.mark.parametrize(
        "claims",
        [{"iat": 10**400}, {"iat": math.inf}, {"exp": math.inf}, {"user": True}, {"place": 1e3}],
    )
    async def test_odd_claims_with_a_valid_signature(
        self, client: httpx.AsyncClient, services: Services, claims: dict[str, Any]
    ) -> None:
        token = sign(services.queue.enter(42), **claims)
        response = await client.get("/queues/order", headers={"X-Access-Token": token})
        assert_problem(response, 401, "INVALID_TOKEN")
        made_by = response.headers["X-Request-Id"]
        assert made_by not in [call.request_id for call in services.faults.calls]

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/queues/order"),
            ("DELETE", "/queues/order"),
            ("GET", "/concerts"),
            ("GET", "/concerts/1/schedules"),
            ("GET", "/concerts/schedules/11/seats"),
            ("POST", "/concerts/reservation"),
            ("POST", "/concerts/reservations/1/pay"),
            ("GET", "/concerts/reservations/1"),
            ("DELETE", "/concerts/reservations/1"),
        ],
    )
    async def test_an_invalid_token_causes_no_call(
        self, client: httpx.AsyncClient, services: Services, method: str, path: str
    ) -> None:
        forged = sign(services.queue.enter(42), OTHER_KEY)
        ids = set()
        for headers in ({}, {"X-Access-Token": ""}, {"X-Access-Token": forged}):
            response = await client.request(method, path, headers=headers)
            body = assert_problem(response, 401, "INVALID_TOKEN")
            assert forged not in body["detail"]
            ids.add(response.headers["X-Request-Id"])
        # Seats that are left are counted in the background.
        assert not [call for call in services.faults.calls if call.request_id in ids]


def test_a_genuine_token_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = 0
    verify = jwt.decode

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal verified
        verified += 1
        return verify(*arguments, **options)

    monkeypatch.setattr(jwt, "decode", counted)
    one, other = with_token(GENUINE), with_token(f"{HEADER}.{CLAIMS}.{part(b'0' * 32)}")
    known = verifier()
    assert [known.place(one), known.place(one)] == [PLACE, PLACE]
    assert verified == 1
    for _ in range(2):  # a forged one is never known, nor a genuine one for it
        with pytest.raises(InvalidToken):
            known.place(other)
    assert verified == 3
