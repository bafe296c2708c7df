"""up and down."""

from __future__ import annotations

import errno
import socket

from harness import topology
from harness.containers.engine import Engine
from harness.containers.migration import contract
from harness.containers.settings import PROGRAMS, Settings
from harness.errors import UserError
from harness.files import REPOSITORY

#: Its files are mounted into the servers.
CONFIG = REPOSITORY / "deploy" / "config"


def require_ports(engine: Engine, settings: Settings) -> None:
    """Raises UserError if another program has one of the gateways' ports."""
    ours = {port for each in engine.containers("gateway") for port in each.ports}
    wanted = [
        *((settings.FRONTROW_BIND, port, "PORT") for port in settings.ports),
        *(("127.0.0.1", port, "ADMIN_PORT") for port in settings.admin_ports),
    ]
    for address, port, name in wanted:
        if port in ours:
            continue
        try:
            socket.create_server((address, port)).close()
        except PermissionError:
            continue  # Docker may use a port below 1024 even if we may not.
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(
                    f"FRONTROW_BIND={settings.FRONTROW_BIND} is no address of this machine."
                ) from error
            if error.errno != errno.EADDRINUSE:
                raise
            raise UserError(
                f"port {port} is taken (by `make run`?): stop what listens there, or choose"
                f" another with {name}."
            ) from error


def require_readable_config() -> None:
    """Raises UserError if the servers, which run as other users, cannot read their files."""
    for path in CONFIG.rglob("*"):
        needed = 0o005 if path.is_dir() else 0o004
        if path.stat().st_mode & needed != needed:
            raise UserError(
                f"MariaDB and Kafka, which run as other users, cannot read {path}:"
                f" chmod -R a+rX {CONFIG}."
            )


def start(engine: Engine, settings: Settings) -> None:
    """Starts everything from an image that is built. Containers that are up to date stay."""
    scales = [argument for name in PROGRAMS for argument in ("--scale", f"{name}={settings.scale}")]
    print(
        f"Starting {settings.CAP}, {settings.scale} of each program, SEED={settings.SEED}",
        flush=True,
    )
    if not settings.PAYMENT_PROVIDER:
        print(
            "PAYMENT_PROVIDER is not set: the sandbox approves payments and moves no money",
            flush=True,
        )
    engine.compose(
        *("up", "--detach", "--remove-orphans", *scales),
        failure="not everything started; see python3 -m harness.containers compose logs.",
    )
    engine.wait_until_healthy()
    # Compose replaced the containers of an earlier version, which served until then.
    contract(engine, repeat="make up")
    print_addresses(engine)


def print_addresses(engine: Engine) -> None:
    """Prints the URLs of the gateways and of their admin APIs."""
    gateway = topology.BY_MODULE["gateway"]
    for what, port in (("Serving", gateway.port), ("Admin API", gateway.admin_port)):
        published = [each.published for each in engine.containers("gateway")]
        addresses = sorted(each[port] for each in published if port and port in each)
        if addresses:
            print(what, "on", *(f"http://{address}" for address in addresses), flush=True)


def exists(engine: Engine) -> bool:
    """Whether Docker has anything of the project, including volumes."""
    return any(engine.listed(kind) for kind in ("container", "network", "volume"))


def down(engine: Engine, *, data: bool) -> None:
    """Removes containers and networks; with `data` also the volumes."""
    # Compose complains about networks that do not exist.
    if engine.listed("container") or engine.listed("network"):
        engine.compose(
            *("down", "--remove-orphans", *(["--volumes"] if data else [])),
            failure="not everything was removed: run it again.",
        )
    elif data and (volumes := engine.listed("volume")):
        engine.docker("volume", "rm", *volumes)
