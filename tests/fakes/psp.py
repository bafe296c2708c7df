"""A payment service provider behind HTTP, in memory."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

from payment_service.providers.http import HttpProvider

AS_ASKED = object()
ABSENT = object()

# What a provider may state instead of an amount.
INVALID_AMOUNTS: tuple[object, ...] = (
    ABSENT,
    None,
    True,
    [],
    150000,
    150000.00,
    float("nan"),
    "",
    "NaN",
    "Infinity",
    "1.5e5",
    "150000.000",
    "150000.0000",
    "150000.",
    "+150000.00",
    "150,000.00",
    "150_000.00",
    " 150000.00",
    "150000.00\n",
    "\u0661\u0665\u0660\u0660\u0660\u0660.00",
    "9999999999999.00",
)


class Psp:
    """A payment service provider behind HTTP, as `providers.http` describes it."""

    def __init__(self) -> None:
        self.charges: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.status = 200
        self.decision = "APPROVED"
        self.reason: object = "DECLINED"
        # What it states instead of the amount that it is asked for; ABSENT states none.
        self.amount: object = AS_ASKED
        # The same of the currency.
        self.currency: object = AS_ASKED
        self.refuses_refunds = False
        self.body: bytes | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        body = (await receive())["body"]
        content = json.loads(body) if body else None
        self.requests.append((scope["method"], scope["path"], headers, content))
        status, answer = self._answer(scope["method"], scope["path"], content)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": self.body or json.dumps(answer).encode()})

    def _answer(self, method: str, path: str, content: Any) -> tuple[int, dict[str, Any]]:
        if self.status >= 400 and self.status != 402:
            return self.status, {}
        if path == "/v1/charges":
            charge = {"status": self.decision, "reason": self.reason}
            for name, stated in (("amount", self.amount), ("currency", self.currency)):
                if stated is not ABSENT:
                    charge[name] = content[name] if stated is AS_ASKED else stated
            return self.status, self.charges.setdefault(content["paymentId"], charge)
        payment_id = path.split("/")[3]
        if path.endswith("/refund"):
            if self.refuses_refunds:
                return 409, {}
            self.charges[payment_id] = {"status": "REFUNDED"}
        if payment_id not in self.charges:
            return 404, {}
        return 200, self.charges[payment_id]


@contextlib.asynccontextmanager
async def http_provider(psp: Psp) -> AsyncIterator[HttpProvider]:
    """The adapter `providers.http`, connected to `psp`."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(psp),
        base_url="http://psp.test/v1",
        headers={"Authorization": "Bearer key"},
    ) as client:
        yield HttpProvider(client)
