"""The breaker, the guard, the sandbox and the HTTP provider."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from decimal import Decimal

import httpx
import pytest

from payment_service.domain import Charge, ChargeStatus, Money
from payment_service.errors import ProviderRefused, ProviderUnavailable
from payment_service.providers import sandbox
from payment_service.providers.breaker import CircuitBreaker
from payment_service.providers.guarded import GuardedProvider
from payment_service.providers.http import HttpProvider
from payment_service.providers.sandbox import SandboxProvider
from servicekit.errors import is_transient
from servicekit.mysql import Database
from tests.fakes.payment import FakeProvider
from tests.fakes.psp import ABSENT, INVALID_AMOUNTS, Psp, http_provider

PRICE = Money(Decimal("150000.00"))
APPROVED = Charge(ChargeStatus.APPROVED, PRICE)
DECLINED = Charge(ChargeStatus.DECLINED, PRICE, "CARD_DECLINED")
payment_ids = itertools.count(random.randrange(1, 1 << 40))


class TestBreaker:
    def test_it_opens_after_failures_in_a_row_and_probes(self) -> None:
        now = 0.0
        breaker = CircuitBreaker(3, open_seconds=5, clock=lambda: now)
        for _ in range(2):
            breaker.failed()
        breaker.succeeded()
        for _ in range(3):
            assert breaker.allows()
            breaker.failed()
        assert not breaker.allows()
        now = 5.0
        assert breaker.allows(), "a probe"
        assert not breaker.allows(), "one probe at a time"
        breaker.failed()
        now = 9.9
        assert not breaker.allows()
        now = 10.0
        assert breaker.allows(), "the next probe, though nothing was heard of the last"
        breaker.succeeded()
        assert breaker.allows()
        assert breaker.allows()


class TestGuard:
    @pytest.fixture
    def inner(self) -> FakeProvider:
        return FakeProvider()

    @pytest.fixture
    def guarded(self, inner: FakeProvider) -> GuardedProvider:
        return GuardedProvider(inner, timeout=1.0, breaker=CircuitBreaker(2, 60))

    async def test_errors_are_retried_with_a_bound(
        self, inner: FakeProvider, guarded: GuardedProvider
    ) -> None:
        inner.troubles = [ProviderUnavailable("no")] * 3
        assert await guarded.charge(1, 42, PRICE) == APPROVED
        inner.troubles = [ProviderUnavailable("no")] * 5
        with pytest.raises(ProviderUnavailable):
            await guarded.charge(2, 42, PRICE)
        assert len(inner.troubles) == 1

    async def test_a_timeout_is_not_retried(
        self, inner: FakeProvider, guarded: GuardedProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = 0

        async def silent(*_: object) -> Charge:
            nonlocal calls
            calls += 1
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        monkeypatch.setattr(guarded, "_timeout", 0.05)
        monkeypatch.setattr(inner, "charge", silent)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await guarded.charge(1, 42, PRICE)
        with pytest.raises(ProviderUnavailable):
            await guarded.charge(1, 42, PRICE)
        assert calls == 2, "the breaker lets nothing through"

    async def test_a_decline_is_not_retried(
        self, inner: FakeProvider, guarded: GuardedProvider
    ) -> None:
        inner.answer = ChargeStatus.DECLINED
        for number in range(5):
            assert await guarded.charge(number, 42, PRICE) == DECLINED


class TestSandbox:
    @pytest.fixture
    async def database(self, mysql_urls: dict[str, str]) -> AsyncIterator[Database]:
        async with Database(mysql_urls["payment"]) as database:
            yield database

    @pytest.fixture
    def provider(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> SandboxProvider:
        monkeypatch.setattr(sandbox, "SLOW_SECONDS", 0.2)
        monkeypatch.setattr(sandbox, "SETTLING_SECONDS", 0.3)
        return SandboxProvider(database)

    @pytest.mark.parametrize(("kind", "decision"), [(0, APPROVED), (sandbox.DECLINED, DECLINED)])
    async def test_a_charge_is_decided_once(
        self, provider: SandboxProvider, kind: int, decision: Charge
    ) -> None:
        payment_id = next(payment_ids)
        assert await provider.get_charge(payment_id) == Charge(ChargeStatus.UNKNOWN)
        charges = await asyncio.gather(
            *(provider.charge(payment_id, kind * sandbox.MAGIC + 7, PRICE) for _ in range(10))
        )
        assert charges == [decision] * 10
        assert await provider.get_charge(payment_id) == decision

    async def test_a_charge_that_waited_for_another(
        self, database: Database, provider: SandboxProvider
    ) -> None:
        """Its statement started a second before the other one decided."""
        payment_id = next(payment_ids)
        assert await provider.charge(payment_id, 42, PRICE) == APPROVED
        async with database.connection() as connection:
            # What NOW returns on this connection, which is the one that the pool lends next.
            await connection.execute("SET timestamp = UNIX_TIMESTAMP(SYSDATE(6)) - 1")
        async with asyncio.timeout(5):
            assert await provider.get_charge(payment_id) == APPROVED
            assert await provider.charge(payment_id, 42, PRICE) == APPROVED

    async def test_a_slow_charge(self, provider: SandboxProvider) -> None:
        started = asyncio.get_running_loop().time()
        charge = await provider.charge(next(payment_ids), sandbox.SLOW * sandbox.MAGIC, PRICE)
        assert charge == APPROVED
        assert asyncio.get_running_loop().time() - started >= 0.2

    async def test_a_failing_charge(self, provider: SandboxProvider) -> None:
        payment_id, user_id = next(payment_ids), sandbox.FAILING * sandbox.MAGIC
        for _ in range(2):
            with pytest.raises(ProviderUnavailable):
                await provider.charge(payment_id, user_id, PRICE)
            assert await provider.get_charge(payment_id) == Charge(ChargeStatus.UNKNOWN)
        assert await provider.charge(payment_id, user_id, PRICE) == APPROVED

    @pytest.mark.parametrize(
        ("kind", "decision"),
        [(sandbox.SILENT_APPROVED, APPROVED), (sandbox.SILENT_DECLINED, DECLINED)],
    )
    async def test_a_charge_without_an_answer(
        self, provider: SandboxProvider, kind: int, decision: Charge
    ) -> None:
        payment_id = next(payment_ids)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await provider.charge(payment_id, kind * sandbox.MAGIC, PRICE)
        assert await provider.get_charge(payment_id) == Charge(ChargeStatus.PENDING)
        await asyncio.sleep(0.3)
        assert await provider.get_charge(payment_id) == decision

    async def test_refunds(self, provider: SandboxProvider) -> None:
        payment_id = next(payment_ids)
        await provider.charge(payment_id, 42, PRICE)
        for _ in range(2):
            await provider.refund(payment_id)
        assert await provider.get_charge(payment_id) == Charge(ChargeStatus.REFUNDED, PRICE)
        barred = next(payment_ids)
        await provider.refund(barred)
        assert (await provider.charge(barred, 42, PRICE)).status is ChargeStatus.DECLINED


class TestHttp:
    @pytest.fixture
    def psp(self) -> Psp:
        return Psp()

    @pytest.fixture
    async def provider(self, psp: Psp) -> AsyncIterator[HttpProvider]:
        async with http_provider(psp) as provider:
            yield provider

    async def test_a_charge(self, psp: Psp, provider: HttpProvider) -> None:
        assert await provider.get_charge(3) == Charge(ChargeStatus.UNKNOWN)
        assert await provider.charge(3, 42, PRICE) == APPROVED
        assert await provider.get_charge(3) == APPROVED
        method, path, headers, content = psp.requests[1]
        assert (method, path) == ("POST", "/v1/charges")
        assert headers["authorization"] == "Bearer key"
        assert headers["idempotency-key"] == "charge-3"
        assert content == {
            "paymentId": "3",
            "userId": "42",
            "amount": "150000.00",
            "currency": "KRW",
        }

    @pytest.mark.parametrize("status", [200, 402])
    async def test_a_decline(self, psp: Psp, provider: HttpProvider, status: int) -> None:
        psp.status, psp.decision = status, "DECLINED"
        charge = await provider.charge(3, 42, PRICE)
        assert (charge.status, charge.reason) == (ChargeStatus.DECLINED, "DECLINED")

    @pytest.mark.parametrize(
        ("reason", "read"),
        [("CARD_STOLEN", "CARD_STOLEN"), ("x" * 100_000, "DECLINED"), (7, "DECLINED")],
    )
    async def test_the_reason_of_a_decline(
        self, psp: Psp, provider: HttpProvider, reason: object, read: str
    ) -> None:
        psp.decision, psp.reason = "DECLINED", reason
        assert (await provider.charge(3, 42, PRICE)).reason == read

    @pytest.mark.parametrize("amount", ["150000.00", "150000.0", "150000"])
    async def test_a_valid_amount(self, psp: Psp, provider: HttpProvider, amount: str) -> None:
        psp.amount = amount
        for charge in (await provider.charge(3, 42, PRICE), await provider.get_charge(3)):
            assert charge.is_of(PRICE)

    @pytest.mark.parametrize(("amount", "currency"), [("7.50", "EUR"), ("12.345", "KWD")])
    async def test_an_amount_has_the_places_of_its_currency(
        self, psp: Psp, provider: HttpProvider, amount: str, currency: str
    ) -> None:
        price = Money(Decimal(amount), currency)
        assert (await provider.charge(3, 42, price)).is_of(price)
        assert (await provider.get_charge(3)).is_of(price)
        content = psp.requests[0][3]
        assert (content["amount"], content["currency"]) == (amount, currency)

    async def test_an_answer_without_a_currency_means_krw(
        self, psp: Psp, provider: HttpProvider
    ) -> None:
        psp.currency = ABSENT
        assert await provider.charge(3, 42, PRICE) == APPROVED
        euros = Money(PRICE.amount, "EUR")
        assert not (await provider.charge(4, 42, euros)).is_of(euros)

    @pytest.mark.parametrize("currency", [None, 410, "", "krw", "KRX", "XAU", "KRWKRW"])
    async def test_an_amount_in_no_currency_is_none(
        self, psp: Psp, provider: HttpProvider, currency: object
    ) -> None:
        psp.currency = currency
        assert await provider.charge(3, 42, PRICE) == Charge(ChargeStatus.APPROVED, None)

    @pytest.mark.parametrize("amount", INVALID_AMOUNTS)
    async def test_an_invalid_amount_is_none(
        self, psp: Psp, provider: HttpProvider, amount: object
    ) -> None:
        psp.amount = amount
        for charge in (await provider.charge(3, 42, PRICE), await provider.get_charge(3)):
            assert charge == Charge(ChargeStatus.APPROVED, None)
            assert not charge.is_of(PRICE)

    async def test_pending(self, psp: Psp, provider: HttpProvider) -> None:
        psp.status, psp.decision = 202, "PENDING"
        assert (await provider.charge(3, 42, PRICE)).status is ChargeStatus.PENDING

    async def test_refunds(self, psp: Psp, provider: HttpProvider) -> None:
        await provider.charge(3, 42, PRICE)
        for _ in range(2):
            await provider.refund(3)
        assert (await provider.get_charge(3)).status is ChargeStatus.REFUNDED
        assert psp.requests[1][2]["idempotency-key"] == "refund-3"
        assert (await provider.charge(3, 42, PRICE)).status is ChargeStatus.DECLINED

    @pytest.mark.parametrize(
        ("status", "body"), [(503, b"{}"), (200, b"<html>"), (200, b'{"status": "MAYBE"}')]
    )
    async def test_an_invalid_response_means_unavailable(
        self, psp: Psp, provider: HttpProvider, status: int, body: bytes
    ) -> None:
        psp.status, psp.body = status, body
        with pytest.raises(ProviderUnavailable):
            await provider.charge(3, 42, PRICE)

    @pytest.mark.parametrize("status", [408, 429, 500, 503])
    async def test_a_temporary_error_means_unavailable(
        self, psp: Psp, provider: HttpProvider, status: int
    ) -> None:
        psp.status = status
        for call in (provider.charge(3, 42, PRICE), provider.get_charge(3), provider.refund(3)):
            with pytest.raises(ProviderUnavailable):
                await call

    @pytest.mark.parametrize("status", [400, 401, 409, 422])
    async def test_a_final_error_means_refused(
        self, psp: Psp, provider: HttpProvider, status: int
    ) -> None:
        psp.status = status
        for call in (provider.charge(3, 42, PRICE), provider.get_charge(3), provider.refund(3)):
            with pytest.raises(ProviderRefused) as refused:
                await call
            assert not is_transient(refused.value), "the consumer would try for ever"

    @pytest.mark.parametrize(
        ("error", "raised"),
        [
            (httpx.ReadTimeout("slow"), TimeoutError),
            (httpx.ConnectError("unavailable"), ProviderUnavailable),
        ],
    )
    async def test_a_provider_that_does_not_answer(
        self, error: Exception, raised: type[Exception]
    ) -> None:
        def fail(request: httpx.Request) -> httpx.Response:
            raise error

        async with httpx.AsyncClient(
            transport=httpx.MockTransport(fail), base_url="http://psp.test"
        ) as client:
            provider = HttpProvider(client)
            for call in (provider.charge(3, 42, PRICE), provider.get_charge(3), provider.refund(3)):
                with pytest.raises(raised):
                    await call
