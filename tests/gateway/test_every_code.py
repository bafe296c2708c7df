"""Every error code of a service has a row in the gateway's table or never reaches a client."""

import importlib
import pkgutil

import pytest

from gateway.admin.errors import ADMIN_TABLE
from gateway.errors import TABLE
from servicekit.errors import ServiceError

SERVICES = ("queue_service", "concert_service", "reservation_service", "payment_service")

# Kinds, which are not raised themselves, and errors that the gateway translates or prevents.
NOT_FOR_CLIENTS = {
    "CONFLICT",
    "FORBIDDEN",
    "GONE",
    "DECLINED",
    "EXHAUSTED",
    # The gateway answers UNAVAILABLE instead.
    "ROOM_NOT_FOUND",
    # An operator's mistake: GATEWAY_QUEUE_ADMIN_TOKEN is not QUEUE_ADMIN_TOKEN.
    "ADMIN_TOKEN_REQUIRED",
    # The gateway changes rooms in the catalogue.
    "ROOM_IS_DEFINED",
    # The gateway completes the entries that it has added.
    "AUDIT_ENTRY_NOT_FOUND",
    # The gateway answers TOKEN_EXPIRED instead.
    "PAYMENT_NOT_FOUND",
}


def kinds_of(error: type[ServiceError]) -> set[type[ServiceError]]:
    return {error}.union(*(kinds_of(kind) for kind in error.__subclasses__()))


@pytest.mark.parametrize("service", SERVICES)
def test_has_a_row(service: str) -> None:
    package = importlib.import_module(service)
    for module in pkgutil.walk_packages(package.__path__, f"{service}."):
        if "migrations" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    raised = {
        error.code
        for error in kinds_of(ServiceError)
        if error.__module__.startswith(service) and isinstance(error.code, str)
    }
    assert raised, "the service raises no error of its own?"
    assert raised - NOT_FOR_CLIENTS <= TABLE.keys() | ADMIN_TABLE.keys()
