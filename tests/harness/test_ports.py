from __future__ import annotations

import socket

import pytest

from harness.errors import UserError
from harness.local import Ports
from harness.local.ports import free_ports, is_free


def test_all_taken_ports_are_named_with_their_purposes_and_the_fix() -> None:
    with socket.socket() as one, socket.socket() as other:
        for taken in (one, other):
            taken.bind(("127.0.0.1", 0))
            taken.listen()
        first, second = one.getsockname()[1], other.getsockname()[1]
        ports = Ports({**Ports.free().numbers, "redis": first, "queue": second})
        sentence = (
            rf"port {second} \(for queue\), {first} \(for redis\)\. Stop those programs, or choose"
            " other ports with FRONTROW_QUEUE_PORT=<port> FRONTROW_REDIS_PORT=<port>"
        )
        with pytest.raises(UserError, match=sentence):
            ports.require_free()


def test_a_port_on_all_addresses_counts_as_taken() -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        assert not is_free(other.getsockname()[1])


def test_one_port_for_two_purposes_is_refused() -> None:
    ports = Ports.free()
    with pytest.raises(UserError, match="is set for both"):
        Ports({**ports.numbers, "redis": ports["gateway"]}).require_free()


def test_ports_come_from_the_environment() -> None:
    ports = Ports.from_environ(
        {"FRONTROW_REDIS_PORT": "7000", "QUEUE_LISTEN": "0.0.0.0:7001", "FRONTROW_KAFKA_PORT": ""}
    )
    assert (ports["redis"], ports["queue"], ports["kafka"]) == (7000, 7001, Ports()["kafka"])


def test_the_admin_api_needs_no_port_if_it_is_switched_off() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        environ = {f"FRONTROW_{n.upper()}_PORT": str(p) for n, p in Ports.free().numbers.items()}
        environ["FRONTROW_GATEWAY_ADMIN_PORT"] = str(other.getsockname()[1])
        with pytest.raises(UserError, match="for gateway_admin"):
            Ports.from_environ(environ).require_free()
        Ports.from_environ({**environ, "GATEWAY_ADMIN_LISTEN": ""}).require_free()


def test_variables_of_other_servers_are_ignored() -> None:
    assert Ports.from_environ({"REDIS_LISTEN": "0.0.0.0:6379", "KAFKA_LISTEN": "x"}) == Ports()


@pytest.mark.parametrize("value", ["x", "0", "65536", "-1", "127.0.0.1:"])
def test_a_setting_that_is_no_port_is_refused_by_name(value: str) -> None:
    with pytest.raises(UserError, match="GATEWAY_LISTEN"):
        Ports.from_environ({"GATEWAY_LISTEN": value})


def test_no_port_is_returned_twice() -> None:
    assert len({*free_ports(100), *free_ports(100)}) == 200
