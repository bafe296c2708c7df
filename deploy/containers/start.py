"""up and down."""

from __future__ import annotations

import contextlib
import errno
import socket
from pathlib import Path

from deploy.containers.engine import Engine
from deploy.containers.errors import DeployError
from deploy.containers.settings import PROGRAMS, REPOSITORY, Settings


def build(engine: Engine, settings: Settings) -> None:
    tag = f"frontrow:{settings.FRONTROW_VERSION}"
    print(f"Building the image {tag}", flush=True)
    engine.build(tag, Path(REPOSITORY, "deploy", "Dockerfile"), REPOSITORY)


def require_ports(engine: Engine, settings: Settings) -> None:
    """Raises DeployError if somebody else has one of the gateways' ports."""
    mine = {
        int(address.rpartition(":")[2])
        for each in engine.containers("gateway")
        for address in each.published
    }
    for port in settings.ports:
        # Docker may use the ports below 1024 even if we may not.
        if port not in mine:
            with contextlib.suppress(PermissionError), socket.socket() as probe:
                # As servers do: connections in TIME_WAIT are no obstacle.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((settings.FRONTROW_BIND, port))
                except OSError as error:
                    if error.errno == errno.EADDRINUSE:
                        raise DeployError(
                            f"port {port} is taken (by `make run`?): stop what listens there, or"
                            " choose another with PORT."
                        ) from error
                    if error.errno == errno.EADDRNOTAVAIL:
                        raise DeployError(
                            f"FRONTROW_BIND={settings.FRONTROW_BIND} is no address of this machine."
                        ) from error
                    raise


def up(engine: Engine, settings: Settings) -> None:
    """All of it, from an image that is built. Leaves what runs already and is as it should be."""
    scales = [argument for name in PROGRAMS for argument in ("--scale", f"{name}={settings.scale}")]
    print(
        f"Starting {settings.CAP}, {settings.scale} of each program, SEED={settings.SEED}",
        flush=True,
    )
    engine.compose(
        *("up", "--detach", "--remove-orphans", *scales),
        otherwise="not everything started; see python3 -m deploy.containers compose logs.",
    )
    engine.wait_until_healthy()
    addresses = [address for each in engine.containers("gateway") for address in each.published]
    print("Serving on", *(f"http://{address}" for address in sorted(addresses)), flush=True)


def down(engine: Engine, *, data: bool) -> None:
    engine.compose(
        *("down", "--remove-orphans", *(["--volumes"] if data else [])),
        otherwise="not everything was removed: run it again.",
    )
