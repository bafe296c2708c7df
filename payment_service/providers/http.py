"""A payment service provider over HTTP and JSON.

    POST {base}/charges                    {"paymentId": "3", "userId": "42", "amount": "150000.00",
                                            "currency": "KRW"}
    GET  {base}/charges/{paymentId}
    POST {base}/charges/{paymentId}/refund

with `Authorization: Bearer <key>`; the POSTs also with `Idempotency-Key`. The first two answer
200, 201 or 202 with {"status": "APPROVED" | "DECLINED" | "PENDING" | "REFUNDED", "amount":
"150000.00", "currency": "KRW", "reason": "CARD_DECLINED"}; a decline may also come as 402 with that
body. 404 for a charge that the provider does not know. A refund answers 2xx, and has to bar a
charge that the provider has not received yet. A provider with another API needs an adapter like
this one.

A currency is an ISO 4217 code; an answer without one means KRW. An amount is a string of digits,
without a point, or with one and one or two places, or three where the currency has three. Anything
else is no amount: a JSON number may have lost places, and "1e5" or "NaN" is no sum of money. An
approved charge without a valid amount counts as a charge of another amount than asked. A charge of
nothing is never asked for.
"""

import re
from decimal import Decimal
from typing import Any

import httpx
import pydantic

from payment_service.domain import Charge, ChargeStatus, Money
from payment_service.errors import ProviderRefused, ProviderUnavailable
from protos import money

# The 4xx that may succeed later: request timeout, too many requests.
_TEMPORARY = (408, 429)

# As many digits as the columns of amounts have.
_AMOUNT = re.compile(r"-?[0-9]{1,12}(\.(?P<places>[0-9]{1,3}))?")
_REASON = re.compile(r"[A-Z0-9_]{1,64}")


class _Response(pydantic.BaseModel):
    status: ChargeStatus
    amount: Any = None
    currency: Any = money.DEFAULT_CURRENCY
    reason: Any = None


class HttpProvider:
    """Implements `ports.PaymentProvider`. `client` has the base address and the credentials.

    Any other response raises ProviderUnavailable: the provider may have charged, so recovery asks
    again instead of treating it as a decline. Only a 4xx that a repeat will not change raises
    ProviderRefused.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def charge(self, payment_id: int, user_id: int, amount: Money) -> Charge:
        response = await self._send(
            "POST",
            "/charges",
            headers={"Idempotency-Key": f"charge-{payment_id}"},
            json={
                "paymentId": str(payment_id),
                "userId": str(user_id),
                "amount": money.to_text(*amount),
                "currency": amount.currency,
            },
        )
        charge = _read(response)
        if charge.status is ChargeStatus.REFUNDED:
            return Charge(ChargeStatus.DECLINED, charge.amount, "BARRED")
        return charge

    async def get_charge(self, payment_id: int) -> Charge:
        response = await self._send("GET", f"/charges/{payment_id}")
        if response.status_code == 404:
            return Charge(ChargeStatus.UNKNOWN)
        return _read(response)

    async def refund(self, payment_id: int) -> None:
        response = await self._send(
            "POST",
            f"/charges/{payment_id}/refund",
            headers={"Idempotency-Key": f"refund-{payment_id}"},
        )
        if not response.is_success:
            raise _error_of(response)

    async def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return await self._client.request(method, path, **arguments)
        except httpx.TimeoutException as error:
            raise TimeoutError("The payment provider did not answer in time.") from error
        except httpx.HTTPError as error:
            raise ProviderUnavailable("The payment provider is unavailable.") from error


def _error_of(response: httpx.Response) -> Exception:
    status = response.status_code
    if response.is_client_error and status not in _TEMPORARY:
        return ProviderRefused(f"The payment provider refused with {status}.")
    return ProviderUnavailable(f"The payment provider answered with {status}.")


def _read(response: httpx.Response) -> Charge:
    if response.status_code not in (200, 201, 202, 402):
        raise _error_of(response)
    try:
        body = _Response.model_validate_json(response.content)
    except pydantic.ValidationError as error:
        raise ProviderUnavailable("The payment provider's response is invalid.") from error
    amount = _money(body.amount, body.currency)
    if body.status is not ChargeStatus.DECLINED:
        return Charge(body.status, amount)
    return Charge(
        body.status, amount, body.reason if _matches(_REASON, body.reason) else "DECLINED"
    )


def _money(amount: object, currency: object) -> Money | None:
    """Returns what the provider states, None if that is no sum of money."""
    if not isinstance(currency, str) or not money.is_currency(currency):
        return None
    found = _AMOUNT.fullmatch(amount) if isinstance(amount, str) else None
    if found is None or len(found["places"] or "") > max(2, money.decimal_places(currency)):
        return None
    return Money(Decimal(found[0]), currency)


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
