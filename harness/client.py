"""The HTTP client of the public routes, for the demo, the tests and the preparation of load tests.

async with connect("http://127.0.0.1:8080") as http:
    client = Client(http, user_id=42)
    order = (await client.enter()).body.order
    seats = (await client.seats(1)).body.seats
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import httpx
from pydantic import BaseModel

from gateway.schemas import (
    Concerts,
    Health,
    Hold,
    Payment,
    Problem,
    QueueOrder,
    Reservation,
    ResponseBody,
    Schedules,
    Seats,
)
from harness.errors import UserError

TOKEN_HEADER = "X-Access-Token"
_TIMEOUT_SECONDS = 30.0
# To load the certificate authorities takes 20 ms; no request here is encrypted.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

T = TypeVar("T", bound=BaseModel, covariant=True)


@dataclass(frozen=True)
class Response(Generic[T]):
    """What the gateway answered: `body` if the status is 2xx, otherwise `problem`."""

    http: httpx.Response
    _model: type[T]

    @property
    def status_code(self) -> int:
        return self.http.status_code

    @property
    def headers(self) -> httpx.Headers:
        return self.http.headers

    @property
    def text(self) -> str:
        return self.http.text

    def json(self) -> Any:
        """The body as it is, without its model."""
        return self.http.json()

    @property
    def token(self) -> str:
        """The access token, if the gateway gave a new one."""
        return str(self.http.headers.get(TOKEN_HEADER, ""))

    @property
    def body(self) -> T:
        """The body of a success. Raises `UserError` for another status."""
        if not self.http.is_success:
            request = self.http.request
            raise UserError(f"{request.method} {request.url.path} answered {self.summary}")
        return self._model.model_validate_json(self.http.content)

    @property
    def problem(self) -> Problem:
        """The body of a refusal. Raises pydantic's `ValidationError` for another body."""
        return Problem.model_validate_json(self.http.content)

    @property
    def code(self) -> str:
        """The code of a refusal; empty for a success."""
        return "" if self.http.is_success else self.problem.code

    @property
    def retry_after(self) -> float | None:
        """Seconds until the next try, if the gateway names them."""
        seconds = self.http.headers.get("Retry-After")
        return None if seconds is None else float(seconds)

    @property
    def summary(self) -> str:
        """Status, code and detail of a refusal; status and text of any other response."""
        try:
            return f"{self.status_code} {self.problem.code}: {self.problem.detail}"
        except ValueError:
            return f"{self.status_code}: {self.text[:200]}"


AnyResponse: TypeAlias = Response[BaseModel]


class TokenClaims(BaseModel):
    """What an access token states, as far as a client of this project reads it."""

    place: int
    epoch: int

    @classmethod
    def of(cls, token: str) -> TokenClaims:
        """Reads the claims without checking the signature. Raises `ValueError` for no token."""
        _, payload, _ = token.split(".")
        return cls.model_validate_json(
            base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        )


def connect(base_url: str, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """Connections to one gateway, which several clients may share."""
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=_TIMEOUT_SECONDS,
        trust_env=False,
        verify=_NO_TLS,
        transport=transport,
    )


class Client:
    """One user. Each method is one request to one route.

    Raises `httpx.TransportError` if there is no response. `token` is the newest access token that
    the gateway gave, and goes with every request.
    """

    def __init__(self, http: httpx.AsyncClient, user_id: int = 0, token: str = "") -> None:
        self.http = http
        self.user_id = user_id
        self.token = token

    async def send(
        self,
        method: str,
        path: str,
        model: type[T],
        body: object = None,
        headers: dict[str, str] | None = None,
    ) -> Response[T]:
        headers = ({TOKEN_HEADER: self.token} if self.token else {}) | (headers or {})
        http = await self.http.request(method, path, headers=headers, json=body)
        response = Response(http, model)
        self.token = response.token or self.token
        return response

    async def ready(self) -> Response[Health]:
        return await self.send("GET", "/health/ready", Health)

    async def enter(self, concert_id: int | None = None) -> Response[QueueOrder]:
        """Takes a place in the queue, or returns the user's live place: that of the concert's room,
        or of the main one."""
        body: dict[str, object] = {"userId": self.user_id}
        if concert_id is not None:
            body["concertId"] = concert_id
        return await self.send("POST", "/queues/enqueue", QueueOrder, body)

    async def order(self) -> Response[QueueOrder]:
        return await self.send("GET", "/queues/order", QueueOrder)

    async def leave(self) -> Response[ResponseBody]:
        """Gives the place or the admission back."""
        return await self.send("DELETE", "/queues/order", ResponseBody)

    async def concerts(self, **query: str | int) -> Response[Concerts]:
        return await self.send("GET", f"/concerts?{httpx.QueryParams(query)}", Concerts)

    async def schedules(self, concert_id: int | str) -> Response[Schedules]:
        return await self.send("GET", f"/concerts/{concert_id}/schedules", Schedules)

    async def seats(self, schedule_id: int | str) -> Response[Seats]:
        return await self.send("GET", f"/concerts/schedules/{schedule_id}/seats", Seats)

    async def reserve(self, seat_id: int, *, key: str = "") -> Response[Hold]:
        """Holds a seat; `key` is the idempotency key."""
        return await self._reserve({"concertSeatId": seat_id}, key)

    async def reserve_several(self, seat_ids: Sequence[int], *, key: str = "") -> Response[Hold]:
        """Holds seats of one date, all or none."""
        return await self._reserve({"concertSeatIds": list(seat_ids)}, key)

    async def reserve_best(
        self, schedule_id: int, count: int, *, key: str = "", allow_split: bool = False
    ) -> Response[Hold]:
        """Holds the best seats that are available."""
        best = {"scheduleId": schedule_id, "count": count, "allowSplit": allow_split}
        return await self._reserve({"bestAvailable": best}, key)

    async def _reserve(self, choice: dict[str, object], key: str) -> Response[Hold]:
        body = {"userId": self.user_id} | choice
        return await self.send("POST", "/concerts/reservation", Hold, body, _idempotency(key))

    async def pay(self, reservation_id: int | str, *, key: str = "") -> Response[Payment]:
        path = f"/concerts/reservations/{reservation_id}/pay"
        return await self.send("POST", path, Payment, {"userId": self.user_id}, _idempotency(key))

    async def reservation(self, reservation_id: int | str) -> Response[Reservation]:
        return await self.send("GET", f"/concerts/reservations/{reservation_id}", Reservation)

    async def cancel(self, reservation_id: int | str) -> Response[ResponseBody]:
        """Gives a hold back."""
        return await self.send("DELETE", f"/concerts/reservations/{reservation_id}", ResponseBody)


def _idempotency(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key} if key else {}
