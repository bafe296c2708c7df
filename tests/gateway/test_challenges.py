"""The challenge at entry: what is asked, what counts as solved, and that each is good once."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import altcha
import httpx
import pytest

from gateway.challenges.altcha import AltchaChallenge
from gateway.challenges.http import HttpChallenge
from gateway.challenges.port import Solved
from servicekit.errors import Unavailable
from tests.gateway.conftest import OpenGateway
from tests.gateway.fakes import Services, sign
from tests.gateway.problems import assert_problem
from tests.gateway.test_identity import jwt_mode, key_file, proof

KEY = "a key of the tests with 32 bytes or more"
ALTCHA = {
    "challenge": "altcha",
    "challenge_altcha_key": KEY,
    # Solved in 4,096 cheap tries.
    "challenge_altcha_difficulty": 4_096,
}


def solve(challenge: dict[str, Any]) -> str:
    """What a browser sends for a challenge of a problem."""
    asked = altcha.Challenge.from_dict(challenge)
    solution = altcha.solve_challenge(asked)
    assert solution is not None
    return str(altcha.Payload(asked, solution).to_base64())


async def enter(client: httpx.AsyncClient, user_id: int = 42, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("/queues/enqueue", json={"userId": user_id}, headers=named)


async def asked(client: httpx.AsyncClient, user_id: int = 42, **headers: str) -> dict[str, Any]:
    """The challenge of a refusal."""
    challenge: dict[str, Any] = assert_problem(
        await enter(client, user_id, **headers), 403, "CHALLENGE_REQUIRED"
    )["challenge"]
    return challenge


class TestProofOfWork:
    @pytest.fixture
    async def client(self, open_gateway: OpenGateway) -> httpx.AsyncClient:
        return await open_gateway(**ALTCHA)

    async def test_a_solved_challenge_gets_a_place(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        challenge = await asked(client)
        assert not services.faults.of("EnterQueue"), "refused without a call"
        assert challenge["parameters"]["expiresAt"] == pytest.approx(time.time() + 600, abs=5)
        entered = await enter(client, X_Challenge_Solution=solve(challenge))
        assert (entered.status_code, entered.json()["order"]) == (201, 0)
        (call,) = services.faults.of("EnterQueue")
        (entrant,) = call.request.entrants
        assert entrant.solution_id == challenge["parameters"]["nonce"]
        # Kept longer than it is accepted.
        assert entrant.solution_expires_ms >= challenge["parameters"]["expiresAt"] * 1000 + 60_000

    async def test_a_solution_is_good_for_one_place(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        solution = solve(await asked(client))
        first = await enter(client, X_Challenge_Solution=solution)
        # A repeat gets the same place; once that has ended, the solution is worth nothing.
        again = await enter(client, X_Challenge_Solution=solution)
        assert again.headers["X-Access-Token"] == first.headers["X-Access-Token"]
        services.queue.end(next(iter(services.queue.admitted)))
        fresh = await asked(client, X_Challenge_Solution=solution)
        assert (await enter(client, X_Challenge_Solution=solve(fresh))).status_code == 201

    async def test_a_solution_is_good_for_its_user_only(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        solution = solve(await asked(client, 42))
        await asked(client, 43, X_Challenge_Solution=solution)
        assert not services.faults.of("EnterQueue")

    async def test_each_gateway_takes_the_solutions_of_the_others(
        self, client: httpx.AsyncClient, open_gateway: OpenGateway
    ) -> None:
        other = await open_gateway(**ALTCHA)
        solution = solve(await asked(client))
        assert (await enter(other, X_Challenge_Solution=solution)).status_code == 201

    @pytest.mark.parametrize(
        "changes", [{"challenge_altcha_key": KEY[::-1]}, {"room": "other"}], ids=["key", "room"]
    )
    async def test_a_challenge_of_another_key_or_room_does_not_count(
        self, client: httpx.AsyncClient, open_gateway: OpenGateway, changes: dict[str, str]
    ) -> None:
        foreign = await asked(await open_gateway(**(ALTCHA | changes)))
        await asked(client, X_Challenge_Solution=solve(foreign))

    async def test_an_expired_challenge_does_not_count(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        solution = solve(await asked(client))
        now = time.time()
        monkeypatch.setattr("altcha.v2.time.time", lambda: now + 601)
        await asked(client, X_Challenge_Solution=solution)

    @pytest.mark.parametrize(
        "solution", ["", "x", "====", "AAAA", "A" * 4_096, "A" * 15_000], ids=len
    )
    async def test_junk_is_asked_to_solve(self, client: httpx.AsyncClient, solution: str) -> None:
        await asked(client, X_Challenge_Solution=solution)

    async def test_whoever_has_the_token_of_a_live_place_need_not_solve_again(
        self, client: httpx.AsyncClient, services: Services
    ) -> None:
        token = services.token(42)
        entered = await enter(client, 42, X_Access_Token=token)
        assert (entered.status_code, entered.headers["X-Access-Token"]) == (201, token)
        # Neither with a forged token, nor for another user, nor once the place has ended.
        forged = sign(services.queue.enter(42), KEY)
        await asked(client, 42, X_Access_Token=forged)
        await asked(client, 43, X_Access_Token=token)
        assert len(services.faults.of("EnterQueue")) == 1
        # Also beside a wrong solution: it may be that of a request whose response was lost.
        again = await enter(client, 42, X_Access_Token=token, X_Challenge_Solution="spent")
        assert (again.status_code, again.headers["X-Access-Token"]) == (201, token)
        services.queue.end(next(iter(services.queue.admitted)))
        await asked(client, 42, X_Access_Token=token)
        await asked(client, 42, X_Access_Token=token, X_Challenge_Solution="spent")
        assert not services.queue.admitted


async def test_a_login_gets_a_live_place_back_without_solving(
    open_gateway: OpenGateway, services: Services, tmp_path: Path
) -> None:
    file = tmp_path / "login.key"
    file.write_bytes(key_file("HS256"))
    login_system = jwt_mode(identity_key_file=file, identity_algorithm="HS256")
    client = await open_gateway(**(ALTCHA | login_system))
    login = f"Bearer {proof('HS256')}"
    await asked(client, Authorization=login)
    entered = await enter(
        client,
        X_Challenge_Solution=solve(await asked(client, Authorization=login)),
        Authorization=login,
    )
    assert entered.status_code == 201
    for solution in ("", "spent"):
        again = await enter(client, Authorization=login, X_Challenge_Solution=solution)
        assert again.headers["X-Access-Token"] == entered.headers["X-Access-Token"]
    services.queue.end(next(iter(services.queue.admitted)))
    await asked(client, Authorization=login)
    assert not services.queue.admitted


async def test_no_shape_of_a_solution_is_an_error() -> None:
    challenge = AltchaChallenge(KEY, 4_096, 600)
    asked = json.loads(json.dumps(challenge.new(1, "main")))
    right = json.loads(base64.b64decode(solve(asked)))
    odd: list[Any] = [None, True, [], {}, "", -1, 10**400, "\ud800", [[[]]], 1.5]
    odd += [float("inf"), float("nan")]

    def variants(node: Any, put: Callable[[Any], Any]) -> list[Any]:
        found = [put(value) for value in odd]
        for name, child in node.items() if isinstance(node, dict) else ():
            others = {key: value for key, value in node.items() if key != name}
            found.append(put(others))
            found += variants(child, lambda new, n=name, o=others: put(o | {n: new}))  # type: ignore[misc]
        return found

    for shape in variants(right, lambda new: new):
        sent = base64.b64encode(json.dumps(shape).encode()).decode()
        solved = await challenge.verify(sent, 1, "main", None)
        assert solved is None or solved.id == asked["parameters"]["nonce"]


class TestAProvider:
    @pytest.fixture(autouse=True)
    async def _client(self) -> AsyncIterator[None]:
        self.asked: list[dict[str, str]] = []
        self.answer: Callable[[], httpx.Response] = lambda: httpx.Response(
            200, json={"success": True}
        )
        self.seconds = 0.0

        async def provider(request: httpx.Request) -> httpx.Response:
            self.asked.append(dict(httpx.QueryParams(request.content.decode())))
            await asyncio.sleep(self.seconds)
            return self.answer()

        async with httpx.AsyncClient(transport=httpx.MockTransport(provider)) as client:
            self.challenge = HttpChallenge(
                client, "https://provider.test/siteverify", "secret", "site", 0.2
            )
            yield

    async def test_asks_the_provider(self) -> None:
        solved = await self.challenge.verify("solution", 42, "main", "192.0.2.7")
        assert self.asked == [{"secret": "secret", "response": "solution", "remoteip": "192.0.2.7"}]
        assert isinstance(solved, Solved)
        assert solved.expires_ms > time.time() * 1000
        again = await self.challenge.verify("solution", 42, "main", None)
        other = await self.challenge.verify("another", 42, "main", None)
        assert again is not None
        assert other is not None
        assert solved.id == again.id != other.id
        assert "remoteip" not in self.asked[1]

    @pytest.mark.parametrize(
        "code", ["invalid-input-response", "timeout-or-duplicate", "bad-request"]
    )
    async def test_a_wrong_solution(self, code: str) -> None:
        self.answer = lambda: httpx.Response(200, json={"success": False, "error-codes": [code]})
        assert await self.challenge.verify("solution", 42, "main", None) is None

    @pytest.mark.parametrize(
        "answer",
        [
            httpx.Response(200, json={"success": False, "error-codes": ["invalid-input-secret"]}),
            httpx.Response(200, json={"success": False, "error-codes": ["internal-error"]}),
            httpx.Response(500, json={"success": True}),
            httpx.Response(200, text="<html>"),
            httpx.Response(200, json={"success": "perhaps"}),
            httpx.Response(302, headers={"Location": "/"}),
        ],
    )
    async def test_no_verdict_is_an_outage(self, answer: httpx.Response) -> None:
        self.answer = lambda: answer
        with pytest.raises(Unavailable):
            await self.challenge.verify("solution", 42, "main", None)

    async def test_a_slow_provider_is_an_outage(self) -> None:
        self.seconds = 1.0
        with pytest.raises(Unavailable):
            await self.challenge.verify("solution", 42, "main", None)

    async def test_an_outage_is_logged_once_without_the_secret(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level("INFO")
        monkeypatch.setattr("gateway.challenges.http._SETTLED_SECONDS", 0.0)
        self.answer, right = (lambda: httpx.Response(503)), self.answer
        for _ in range(3):
            with pytest.raises(Unavailable):
                await self.challenge.verify("solution", 42, "main", None)
        self.answer = right
        await self.challenge.verify("solution", 42, "main", None)
        events = [record.getMessage() for record in caplog.records if "httpx" not in record.name]
        assert events == ["challenge_provider_unavailable", "challenge_provider_available"]

    async def test_a_provider_that_fails_now_and_then_is_logged_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        right = self.answer
        for _ in range(3):
            self.answer = lambda: httpx.Response(503)
            with pytest.raises(Unavailable):
                await self.challenge.verify("solution", 42, "main", None)
            self.answer = right
            assert await self.challenge.verify("solution", 42, "main", None)
        events = [record.getMessage() for record in caplog.records if "httpx" not in record.name]
        assert events == ["challenge_provider_unavailable"]


class SlowChallenge:
    """Verifies a solution when the test lets it."""

    def __init__(self) -> None:
        self._verifying = 0
        self.has_eight = asyncio.Event()
        self.may_end = asyncio.Event()

    def new(self, user_id: int, room: str) -> dict[str, object]:
        return {"siteKey": "site"}

    async def verify(
        self, solution: str, user_id: int, room: str, address: str | None
    ) -> Solved | None:
        self._verifying += 1
        if self._verifying == 8:
            self.has_eight.set()
        await self.may_end.wait()
        return Solved(solution, 2**50)


async def test_one_source_cannot_occupy_the_provider(
    open_gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowChallenge()
    monkeypatch.setattr("gateway.challenges.entry.HttpChallenge", lambda *_: slow)
    client = await open_gateway(
        challenge="http",
        challenge_http_url="http://127.0.0.1:1/siteverify",
        challenge_http_secret="secret",
        challenge_http_site_key="site",
        trusted_proxies=["127.0.0.0/8"],
    )

    async def attempt(user_id: int, source: str) -> httpx.Response:
        return await enter(
            client, user_id, X_Challenge_Solution=f"s{user_id}", X_Forwarded_For=source
        )

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        # Addresses of one /64 are one source.
        accepted = [tasks.create_task(attempt(n, f"2001:db8::{n}")) for n in range(1, 9)]
        await slow.has_eight.wait()
        refused = await attempt(20, "2001:db8::20")
        accepted.append(tasks.create_task(attempt(21, "192.0.2.1")))
        slow.may_end.set()
    assert_problem(refused, 429, "TOO_MANY_REQUESTS", 1)
    assert [each.result().status_code for each in accepted] == [201] * 9
    # Once they have ended, the source may go on.
    assert (await attempt(22, "2001:db8::22")).status_code == 201


async def test_a_provider_that_is_away_leaves_entering_unavailable(
    open_gateway: OpenGateway, services: Services, unused_address: str
) -> None:
    client = await open_gateway(
        challenge="http",
        challenge_http_url=f"http://{unused_address}/siteverify",
        challenge_http_secret="secret",
        challenge_http_site_key="site",
    )
    assert await asked(client) == {"siteKey": "site"}
    assert_problem(await enter(client, X_Challenge_Solution="x"), 503, "UNAVAILABLE", 1)
    # Who has a place gets it back meanwhile.
    entered = await enter(client, X_Access_Token=services.token(42))
    assert entered.status_code == 201
