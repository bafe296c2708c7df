"""What is behind a gateway that runs: refused unless it is certainly one system."""

import pytest

from harness.errors import UserError
from harness.local import Ports
from loadtests import attaching, containers

SETTINGS = dict.fromkeys(attaching._SETTINGS, "x")


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://localhost:8080", True),
        ("http://[::1]:8080", True),
        ("http://192.0.2.1:8080", False),
        ("http://no-such-host.invalid", False),
    ],
)
def test_what_is_here(url: str, here: bool) -> None:
    assert attaching._is_here(url) == here


def test_a_gateway_elsewhere_has_no_defaults() -> None:
    given = SETTINGS | {"PAYMENT_MYSQL_URL": "", "QUEUE_LISTEN": ""}
    with pytest.raises(UserError, match="another machine: set PAYMENT_MYSQL_URL, QUEUE_LISTEN to"):
        attaching.attached("http://192.0.2.1:8080", given, Ports())


def test_containers_here_are_no_part_of_a_gateway_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(containers, "find", None)
    monkeypatch.setattr(attaching, "_require_same", lambda found: None)
    found = attaching.attached("http://192.0.2.1:8080", SETTINGS, Ports())
    assert found.redis_url == "x"
    assert not found.containers
