"""Error table, 401 and 403 NOT_YOURS: the token is no good, or what it asks for is another's."""

import json
from collections.abc import Iterator
from typing import Any

import jwt

from harness.client import AnyResponse
from harness.local.stack import Stack
from tests.e2e.conftest import NOBODY, in_thread, start_all
from tests.e2e.refusals import routes_for_admitted_users
from tests.e2e.shop import Fan, Shop, assert_problem, eventually

# 401 INVALID_TOKEN.


async def every_route_with_a_token(fan: Fan) -> list[AnyResponse]:
    return [
        await fan.order(),
        await fan.leave(),
        *await routes_for_admitted_users(fan),
        await fan.reservation(1),
        await fan.cancel(1),
    ]


def signed_with(stack: Stack, genuine: str) -> tuple[dict[str, Any], str, str]:
    """Returns the claims of a token, and the key that signed it with its id."""
    claims: dict[str, Any] = jwt.decode(genuine, options={"verify_signature": False})
    key_id = jwt.get_unverified_header(genuine)["kid"]
    secret = json.loads(stack.environment("queue_service")["QUEUE_TOKEN_KEYS"])[key_id]
    return claims, secret, key_id


def forged_tokens(stack: Stack, genuine: str) -> Iterator[str]:
    claims, secret, key_id = signed_with(stack, genuine)
    stranger = "a secret of somebody else, 32 bytes"

    def signed(claims: dict[str, Any], key: str = secret, **header: str) -> str:
        return jwt.encode(claims, key, algorithm="HS256", headers={"kid": key_id, **header})

    yield ""
    yield "nonsense"
    yield "a.b.c"
    yield genuine[:-2]
    yield genuine + "x"
    yield "x" * 10_000
    head, body, signature = genuine.split(".")
    yield f"{head}.{body}."
    yield f"{head}.{body[:-1]}{'A' if body[-1] != 'A' else 'B'}.{signature}"
    yield signed(claims, stranger)
    yield signed(claims, kid="another")
    yield jwt.encode(claims, "", algorithm="none", headers={"kid": key_id})
    yield jwt.encode(claims, secret, algorithm="HS512", headers={"kid": key_id})
    yield signed({name: value for name, value in claims.items() if name != "user"})
    yield signed({**claims, "place": "seven"})
    yield signed({**claims, "user": True})
    yield signed({**claims, "iat": 10**400})
    yield signed({**claims, "iat": claims["iat"] + 86_400})


async def test_a_token_that_is_not_genuine(shop: Shop, stack: Stack) -> None:
    genuine = await shop.admitted()
    for token in forged_tokens(stack, genuine.token):
        fan = shop.fan(user_id=genuine.user_id)
        fan.token = token
        for reply in await every_route_with_a_token(fan):
            assert_problem(reply, 401, "INVALID_TOKEN")
            assert reply.headers["WWW-Authenticate"]
    assert (await genuine.order()).json()["order"] == 0


# 401 TOKEN_EXPIRED.


async def test_the_token_of_a_place_that_was_left(shop: Shop) -> None:
    fan = await shop.admitted()
    await fan.leave()
    for reply in [await fan.order(), *await routes_for_admitted_users(fan)]:
        assert_problem(reply, 401, "TOKEN_EXPIRED")


async def test_the_token_of_a_room_that_is_no_more(shop: Shop, stack: Stack) -> None:
    """A room that was just created might not be known yet, so a token of the last 30 s is told to
    ask again."""
    fan = await shop.admitted()
    claims, secret, key_id = signed_with(stack, fan.token)
    for age, status, code in ((60, 401, "TOKEN_EXPIRED"), (0, 503, "UNAVAILABLE")):
        changed = {**claims, "room": "elsewhere", "iat": claims["iat"] - age}
        fan.token = jwt.encode(changed, secret, algorithm="HS256", headers={"kid": key_id})
        for reply in [await fan.order(), *await routes_for_admitted_users(fan)]:
            assert_problem(reply, status, code)


async def test_the_token_of_an_admission_that_ran_out(shop: Shop, stack: Stack) -> None:
    """At a replica of the waiting room whose admissions last a second, with a room of its own."""
    queue = stack.add_replica(
        "queue_service",
        {
            "QUEUE_ROOMS": '["brief"]',
            "QUEUE_ADMISSION_TTL_SECONDS": "1",
            # It knows nothing of the rooms that payments are made in.
            "QUEUE_KAFKA_BOOTSTRAP": NOBODY,
        },
    )
    gateway = stack.add_replica(
        "gateway", {"GATEWAY_ROOM": "brief", "GATEWAY_QUEUE_ADDR": queue.address}
    )
    await in_thread(start_all, stack, queue.name, gateway.name)
    try:
        fan = await shop.admitted(gateway.name)

        async def over() -> None:
            assert_problem(await fan.order(), 401, "TOKEN_EXPIRED")

        assert (await fan.concerts()).status_code == 200
        await eventually(over, within=3)
        for reply in await routes_for_admitted_users(fan):
            assert_problem(reply, 401, "TOKEN_EXPIRED")
    finally:
        gateway.kill()
        queue.kill()


# 403 NOT_YOURS.


async def test_what_belongs_to_another_user(shop: Shop) -> None:
    date_ = shop.new_schedule()
    owner, other = await shop.crowd(2)
    reservation = await owner.hold(date_.seats[0])
    # Another's token, another's reservation.
    for path, body in (
        ("/concerts/reservation", {"userId": owner.user_id, "concertSeatId": date_.seats[1]}),
        (f"/concerts/reservations/{reservation}/pay", {"userId": owner.user_id}),
    ):
        assert_problem(await other.request("POST", path, body), 403, "NOT_YOURS")
    for reply in (
        await other.pay(reservation),
        await other.reservation(reservation),
        await other.cancel(reservation),
    ):
        assert_problem(reply, 403, "NOT_YOURS")
    # Nothing of it has done harm.
    assert (await owner.reservation(reservation)).json()["status"] == "HELD"
    assert (await owner.pay(reservation)).status_code == 200
    # Nor is a paid reservation another's.
    assert_problem(await other.pay(reservation), 403, "NOT_YOURS")
