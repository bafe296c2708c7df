"""Assertions for the tests of the contract's error table.

These are test_errors_<what is to blame>.py; the first line of each names its rows by status.
"""

from harness.client import AnyResponse
from tests.e2e.shop import Fan, assert_problem

MAX_ID = 2**63 - 1


async def routes_for_admitted_users(fan: Fan) -> list[AnyResponse]:
    """Routes 3 to 7. No test makes the reservation that is paid: it would have an outcome."""
    return [
        await fan.concerts(),
        await fan.schedules(1),
        await fan.seats(1),
        await fan.reserve(1),
        await fan.pay(2**62),
    ]


def assert_refused_for_now(reply: AnyResponse, status: int, code: str) -> None:
    """Asserts that the response is this problem and names the time of the next try."""
    assert_problem(reply, status, code)
    assert int(reply.headers["Retry-After"]) >= 1
