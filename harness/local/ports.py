"""Which TCP ports on 127.0.0.1 the stack uses, and whether they are to be had."""

from __future__ import annotations

import dataclasses
import random
import socket
from collections.abc import Mapping

from harness.errors import UserError

HOST = "127.0.0.1"

# Ports that a test may take: above the well-known ones, and below 32768, where Linux begins to
# hand out ports for outgoing connections, so that no connection sits on a port chosen here.
_TEST_PORTS = range(20_000, 32_000)

# Those that this process was given already. A test may start its servers long after it chose
# their ports: nobody else may be given them meanwhile.
_given: set[int] = set()

# These are no programs of ours, so they have no setting of their own.
_OF_SERVERS = {"redis", "mariadb", "kafka", "kafka_controller"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ports:
    """One port for each listener. The defaults are those of `make run`."""

    gateway: int = 8080
    gateway_metrics: int = 9200
    queue: int = 9101
    queue_metrics: int = 9201
    concert: int = 9102
    concert_metrics: int = 9202
    reservation: int = 9103
    reservation_metrics: int = 9203
    payment: int = 9104
    payment_metrics: int = 9204
    redis: int = 16379
    mariadb: int = 13306
    kafka: int = 19092
    kafka_controller: int = 19093

    @classmethod
    def names(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def free(cls) -> Ports:
        """Ports that nobody listens on now; for tests."""
        names = cls.names()
        return cls(**dict(zip(names, free_ports(len(names)), strict=True)))

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Ports:
        """The default ports, changed by `FRONTROW_<NAME>_PORT`, or by a program's own
        `<PREFIX>_LISTEN` or `<PREFIX>_METRICS_LISTEN` (host:port).

        Raises UserError for a setting that is no port.
        """
        chosen: dict[str, int] = {}
        for name in cls.names():
            settings = [setting_of(name)]
            if name not in _OF_SERVERS:
                settings.append(f"{name.upper()}_LISTEN")
            for setting in settings:
                if value := environ.get(setting):
                    chosen[name] = _port_number(setting, value.rpartition(":")[2])
        return cls(**chosen)

    def require_free(self) -> None:
        """Raises UserError with the ports that are taken, what they are for and the mend."""
        owners: dict[int, str] = {}
        taken: list[str] = []
        for name, port in dataclasses.asdict(self).items():
            if port in owners:
                raise UserError(
                    f"Port {port} is set for both {_purpose(owners[port])} and {_purpose(name)};"
                    f" change {setting_of(name)}."
                )
            owners[port] = name
            if not is_free(port):
                taken.append(name)
        if len(taken) == 1:
            raise UserError(
                f"Port {self._described(taken[0])} is taken by another program: stop that"
                f" program, or choose another port with {_assignment(taken[0])}."
            )
        if taken:
            raise UserError(
                f"Ports {', '.join(map(self._described, taken))} are taken by other programs: stop"
                f" those, or choose other ports with {' '.join(map(_assignment, taken))}."
            )

    def _described(self, name: str) -> str:
        return f"{getattr(self, name)} ({_purpose(name)})"


def setting_of(name: str) -> str:
    """The environment variable that changes the port `name`."""
    return f"FRONTROW_{name.upper()}_PORT"


def _assignment(name: str) -> str:
    return f"{setting_of(name)}=<port>"


def _purpose(name: str) -> str:
    return f"for {name.replace('_', ' ')}"


def _port_number(setting: str, value: str) -> int:
    if value.isdecimal() and 0 < int(value) < 65536:
        return int(value)
    raise UserError(f"{setting} must end with a port between 1 and 65535, not {value!r}.")


def is_free(port: int) -> bool:
    """Whether nobody listens on this port of 127.0.0.1. Others may take it a moment later."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a previous run in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """`count` different ports that are free now, and that no earlier call has returned.

    Chosen at random, so that test runs that start at the same time hardly ever meet. Raises
    UserError if there are not as many.
    """
    chosen: list[int] = []
    for port in random.sample(_TEST_PORTS, len(_TEST_PORTS)):
        if port not in _given and is_free(port):
            chosen.append(port)
            if len(chosen) == count:
                _given.update(chosen)
                return chosen
    raise UserError(f"Fewer than {count} free ports between 20000 and 31999 on this machine.")
