"""The source of a request: which address counts, and who may name it."""

import random
from ipaddress import ip_network

import pytest

from gateway.sources import Sources

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


def source(client: str, *forwarded: str, trusted: bool = True) -> str:
    """The source of a request with these X-Forwarded-For headers."""
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    scope = {"client": (client, 1234), "headers": [(b"host", b"x"), *headers]}
    return Sources(PROXIES if trusted else []).of(scope)


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_the_address_that_connects(client: str, expected: str) -> None:
    assert source(client) == expected


def test_a_socket_without_an_address_is_one_source() -> None:
    for client in (None, ("", 0)):
        assert Sources([]).of({"client": client, "headers": []}) == "unknown"


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),  # the left one is the client's claim
        (["198.51.100.1,203.0.113.9,10.1.1.1 , 10.1.1.2"], "203.0.113.9"),
        (["198.51.100.1", "203.0.113.9", "10.1.1.1"], "203.0.113.9"),  # several headers, one list
        (["203.0.113.9, fd00::7"], "203.0.113.9"),
        (["203.0.113.9, ::ffff:10.1.1.1"], "203.0.113.9"),
        (["2001:db8:1:2::9"], "2001:db8:1:2::/64"),
        (["203.0.113.9:51234"], "203.0.113.9"),
        (["[2001:db8:1:2::9]:51234"], "2001:db8:1:2::/64"),
        (["[2001:db8:1:2::9]"], "2001:db8:1:2::/64"),
        (["10.1.1.1, 10.1.1.2"], "10.1.1.1"),  # all trusted: the farthest
        ([""], "10.9.9.9"),
        (["unknown"], "10.9.9.9"),
        (["203.0.113.9, unknown"], "10.9.9.9"),  # never what stands left of junk
        (["203.0.113.9, unknown, 10.1.1.1"], "10.1.1.1"),
        (["203.0.113.999"], "10.9.9.9"),
        (["010.1.1.1"], "10.9.9.9"),
        ([","], "10.9.9.9"),
        (["203.0.113.9, " + "1" * 16_000], "10.9.9.9"),
        (["203.0.113.9" + ", 10.1.1.1" * 1_000], "10.1.1.1"),
        ([*["203.0.113.9"] * 1_000, *["10.1.1.1"] * 1_000], "10.1.1.1"),
    ],
)
def test_what_trusted_proxies_say(forwarded: list[str], expected: str) -> None:
    assert source("10.9.9.9", *forwarded) == expected


@pytest.mark.parametrize("client", ["192.0.2.7", "2001:db8::1"])
def test_nobody_else_names_a_source(client: str) -> None:
    assert source(client, "203.0.113.9") == source(client)
    assert source("10.9.9.9", "203.0.113.9", trusted=False) == "10.9.9.9"


def test_no_header_of_a_client_changes_its_source() -> None:
    """Whatever a client sends, the proxy appends the client's address."""
    chance = random.Random(5)
    pieces = [",", " ", "10.1.1.1", "203.0.113.5", "::1", "[", "]:9", "%", "junk", "\xff", "\x00"]
    for _ in range(2_000):
        claim = "".join(chance.choices(pieces, k=chance.randrange(30)))
        assert source("10.9.9.9", f"{claim},192.0.2.7") == "192.0.2.7"
        assert source("10.9.9.9", claim, "192.0.2.7,10.1.1.1") == "192.0.2.7"
