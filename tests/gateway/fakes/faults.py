"""Errors and delays of the fakes, on demand, and a record of the calls to them."""

import asyncio
from dataclasses import dataclass
from typing import Any

from servicekit import call_context
from servicekit.errors import ServiceError


def service_error(
    code: str,
    kind: type[ServiceError] = ServiceError,
    detail: str = "Something for a person to read.",
    /,
    **metadata: str,
) -> ServiceError:
    """Returns an error as a service would raise it."""
    named: type[ServiceError] = type(code, (kind,), {"code": code})
    return named(detail, **metadata)


@dataclass
class Call:
    """One call to a fake."""

    method: str
    request: Any
    request_id: str
    seconds_left: float


class Faults:
    """Errors and delays of the fakes, by method name, and a record of all calls.

    `item_errors` fail each item of a call for several items, when the call itself succeeds.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.errors: dict[str, Exception] = {}
        self.item_errors: dict[str, ServiceError] = {}
        self.delays: dict[str, float] = {}
        self.calls: list[Call] = []

    async def before(self, method: str, request: Any) -> None:
        """Records the call, then delays or fails it; every fake method calls this first."""
        self.calls.append(
            Call(method, request, call_context.request_id.get(), call_context.remaining(3_600))
        )
        await asyncio.sleep(self.delays.get(method, 0))
        if method in self.errors:
            raise self.errors[method]

    def before_item(self, method: str) -> None:
        """Fails an item; a fake method for several items calls this first for each."""
        if method in self.item_errors:
            raise self.item_errors[method]

    def of(self, method: str) -> list[Call]:
        """Returns the calls of one method."""
        return [call for call in self.calls if call.method == method]
