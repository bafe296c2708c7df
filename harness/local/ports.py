"""The TCP ports on 127.0.0.1 that the stack uses, and whether they are free."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import socket
from collections.abc import Mapping

from harness import topology
from harness.errors import UserError

HOST = "127.0.0.1"

# Ports for tests: above the well-known ones, and below 32768, where Linux begins to choose ports
# for outgoing connections. Each worker of a test run gets its own part of them, by this variable.
TEST_PORTS = "FRONTROW_TEST_PORTS"
_ALL_TEST_PORTS = "20000-31999"

# Ports that free_ports() returned already: a test may start its servers long after that.
_given: set[int] = set()

# Listeners that may be switched off.
_OPTIONAL = tuple(f"{each.name}_admin" for each in topology.PROGRAMS if each.admin_port)

# These settings of ours have no counterpart in a program: <NAME>_LISTEN means something else.
_SERVERS = {"kafka_controller", *(server.name for server in topology.SERVERS)}


@dataclasses.dataclass(frozen=True)
class Ports:
    """A port for each listener of `topology.PORTS`. The defaults are those of `make run`."""

    numbers: Mapping[str, int] = dataclasses.field(default_factory=lambda: topology.PORTS)
    #: Listeners that are switched off.
    unused: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> int:
        return self.numbers[name]

    def address(self, name: str) -> str:
        """host:port."""
        return f"{HOST}:{self[name]}"

    @classmethod
    def free(cls) -> Ports:
        """Ports that nobody listens on now; for tests."""
        return cls(dict(zip(topology.PORTS, free_ports(len(topology.PORTS)), strict=True)))

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Ports:
        """The default ports, changed by `FRONTROW_<NAME>_PORT`, or by a program's own
        `<PREFIX>_LISTEN` or `<PREFIX>_METRICS_LISTEN` (host:port). A `GATEWAY_ADMIN_LISTEN` that is
        empty switches that listener off, so it needs no port.

        Raises UserError for a setting that is no port.
        """
        chosen = dict(topology.PORTS)
        for name in chosen:
            settings = [setting_of(name)]
            if name not in _SERVERS:
                settings.append(_listen(name))
            for setting in filter(environ.get, settings):
                value = environ[setting].rpartition(":")[2]
                if not (value.isdecimal() and 0 < int(value) < 65536):
                    raise UserError(
                        f"{setting} must end with a port between 1 and 65535, not {value!r}."
                    )
                chosen[name] = int(value)
        return cls(
            chosen, frozenset(name for name in _OPTIONAL if environ.get(_listen(name)) == "")
        )

    def require_free(self) -> None:
        """Raises UserError with the ports that are taken, their purposes and the fix."""
        owners: dict[int, str] = {}
        used = {name: port for name, port in self.numbers.items() if name not in self.unused}
        for name, port in used.items():
            if (owner := owners.setdefault(port, name)) != name:
                raise UserError(
                    f"Port {port} is set for both {owner} and {name}; change {setting_of(name)}."
                )
        taken = {name: port for name, port in used.items() if not is_free(port)}
        if taken:
            ports = ", ".join(f"{port} (for {name})" for name, port in taken.items())
            fix = " ".join(f"{setting_of(name)}=<port>" for name in taken)
            raise UserError(
                f"Taken by other programs: port {ports}. Stop those programs, or choose other ports"
                f" with {fix}."
            )


def _listen(name: str) -> str:
    return f"{name.upper()}_LISTEN"


def setting_of(name: str) -> str:
    """The environment variable that changes the port `name`."""
    return f"FRONTROW_{name.upper()}_PORT"


def is_free(port: int) -> bool:
    """Whether nobody listens on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set it too: connections of a previous run in TIME_WAIT do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """`count` different ports that are free now, and that no earlier call has returned.

    Random, so that test runs that start at the same time hardly ever collide. Raises UserError if
    there are not enough.
    """
    first, _, last = os.environ.get(TEST_PORTS, _ALL_TEST_PORTS).partition("-")
    shuffled = random.sample(range(int(first), int(last) + 1), int(last) - int(first) + 1)
    unused = (port for port in shuffled if port not in _given and is_free(port))
    chosen = list(itertools.islice(unused, count))
    if len(chosen) < count:
        raise UserError(f"Fewer than {count} free ports between {first} and {last}.")
    _given.update(chosen)
    return chosen
