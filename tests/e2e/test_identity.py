"""Who may enter as whom, and tokens that have grown old, on the running system."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest

from harness.local.stack import Stack
from tests.e2e.conftest import in_thread, start_all
from tests.e2e.shop import Fan, Shop, assert_problem, new_user_id, place_of

SECRET = "a secret of the login system, 32 bytes or more"


@dataclass(frozen=True)
class Gateways:
    """Names of gateways: one wants a login, the other one the token of a live place."""

    login: str
    strict: str


@pytest.fixture(scope="module")
async def gateways(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateways]:
    file: Path = tmp_path_factory.mktemp("login") / "secret"
    await in_thread(file.write_text, SECRET)
    login = stack.add_replica(
        "gateway",
        {
            "GATEWAY_IDENTITY": "jwt",
            "GATEWAY_IDENTITY_KEY_FILE": str(file),
            "GATEWAY_IDENTITY_ALGORITHM": "HS256",
            "GATEWAY_IDENTITY_ISSUER": "https://login.example",
            "GATEWAY_IDENTITY_AUDIENCE": "frontrow",
            # Every token that is a second old is replaced.
            "GATEWAY_TOKEN_MAX_AGE_SECONDS": "1",
        },
    )
    strict = stack.add_replica("gateway", {"GATEWAY_REENTRY_WITHOUT_TOKEN": "false"})
    await in_thread(start_all, stack, login.name, strict.name)
    yield Gateways(login.name, strict.name)
    login.kill()
    strict.kill()


def proof(user_id: int) -> dict[str, str]:
    claims = {
        "iss": "https://login.example",
        "aud": "frontrow",
        "sub": str(user_id),
        "exp": int(time.time()) + 60,
    }
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


async def enter(fan: Fan, headers: dict[str, str]) -> None:
    entered = await fan.request("POST", "/queues/enqueue", {}, headers=headers)
    assert entered.status_code == 201


async def test_a_login_enters_and_enters_again(shop: Shop, gateways: Gateways) -> None:
    fan = shop.fan(gateways.login)
    refused = assert_problem(await fan.enter(), 401, "IDENTITY_REQUIRED")
    assert refused.request_id
    await enter(fan, proof(fan.user_id))
    # On another device.
    again = shop.fan(gateways.login, fan.user_id)
    await enter(again, proof(fan.user_id))
    assert place_of(again.token) == place_of(fan.token)
    reply = await fan.request(
        "POST", "/queues/enqueue", {"userId": fan.user_id}, headers=proof(new_user_id())
    )
    assert_problem(reply, 403, "NOT_YOURS")


async def test_an_old_token_is_replaced_while_its_place_lives(
    shop: Shop, gateways: Gateways
) -> None:
    fan = shop.fan(gateways.login)
    await enter(fan, proof(fan.user_id))
    first = fan.token
    await asyncio.sleep(2.1)  # its time of issue is in whole seconds
    assert (await fan.concerts()).status_code == 200
    assert fan.token != first
    assert place_of(fan.token) == place_of(first)
    assert (await fan.order()).json()["order"] == 0
    # Entering again returns a young one, too.
    fan.token = ""
    await enter(fan, proof(fan.user_id))
    assert fan.token != first
    assert (await fan.leave()).status_code == 204
    fan.token = first
    assert_problem(await fan.order(), 401, "TOKEN_EXPIRED")
    assert fan.token == first


async def test_a_live_place_is_its_owners(shop: Shop, gateways: Gateways) -> None:
    owner = shop.fan(gateways.strict)
    assert (await owner.enter()).status_code == 201
    stranger = shop.fan(gateways.strict, owner.user_id)
    assert_problem(await stranger.enter(), 403, "NOT_YOURS")
    stranger.token = (await shop.admitted(gateways.strict)).token
    assert_problem(await stranger.enter(), 403, "NOT_YOURS")
    place = place_of(owner.token)
    assert (await owner.enter()).status_code == 201
    assert place_of(owner.token) == place
