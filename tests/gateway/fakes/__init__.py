"""The four services behind the gateway, in memory, with faults on demand.

They keep state like the real ones, as far as the gateway sees it. One gRPC server serves all.
"""

from tests.gateway.fakes.concerts import ROWS_PER_PAGE
from tests.gateway.fakes.faults import service_error
from tests.gateway.fakes.payments import PENDING, REFUNDED, SUCCEEDED
from tests.gateway.fakes.reservations import CANCELLED, CONFIRMED, HELD
from tests.gateway.fakes.services import Services
from tests.gateway.fakes.tokens import GIVEN_AT, KEY_ID, KEYS, sign

__all__ = [
    "CANCELLED",
    "CONFIRMED",
    "GIVEN_AT",
    "HELD",
    "KEYS",
    "KEY_ID",
    "PENDING",
    "REFUNDED",
    "ROWS_PER_PAGE",
    "SUCCEEDED",
    "Services",
    "service_error",
    "sign",
]
