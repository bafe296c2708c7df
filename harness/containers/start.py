"""up and down."""

from __future__ import annotations

import contextlib
import errno
import socket
from pathlib import Path

from harness.containers.engine import Engine
from harness.containers.settings import PROGRAMS, Settings
from harness.errors import UserError
from harness.files import REPOSITORY

#: Of this repository, what compose.yml gives to the servers.
MOUNTS = tuple(
    REPOSITORY / "deploy" / name
    for name in ("config/mariadb", "config/kafka", "config/kafka/log4j2.properties")
)


def build(engine: Engine, settings: Settings) -> None:
    tag = f"frontrow:{settings.FRONTROW_VERSION}"
    print(f"Building the image {tag}", flush=True)
    engine.build(tag, Path(REPOSITORY, "deploy", "Dockerfile"), REPOSITORY)


def require_ports(engine: Engine, settings: Settings) -> None:
    """Raises UserError if somebody else has one of the gateways' ports."""
    mine = {port for each in engine.containers("gateway") for port in each.ports}
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
                        raise UserError(
                            f"port {port} is taken (by `make run`?): stop what listens there, or"
                            " choose another with PORT."
                        ) from error
                    if error.errno == errno.EADDRNOTAVAIL:
                        raise UserError(
                            f"FRONTROW_BIND={settings.FRONTROW_BIND} is no address of this machine."
                        ) from error
                    raise


def require_readable_mounts() -> None:
    """Raises UserError if the servers, which run as users of their own, could not read the files
    of the repository that they are given."""
    for mount in MOUNTS:
        for path in (mount, *mount.rglob("*")):
            needed = 0o005 if path.is_dir() else 0o004
            if path.stat().st_mode & needed != needed:
                raise UserError(
                    f"{path} is not for other users to read, and MariaDB and Kafka are such:"
                    f" chmod -R a+rX {' '.join(map(str, MOUNTS))}."
                )


def up(engine: Engine, settings: Settings) -> None:
    """All of it, from an image that is built. Leaves what runs already and is as it should be."""
    scales = [argument for name in PROGRAMS for argument in ("--scale", f"{name}={settings.scale}")]
    print(
        f"Starting {settings.CAP}, {settings.scale} of each program, SEED={settings.SEED}",
        flush=True,
    )
    engine.compose(
        *("up", "--detach", "--remove-orphans", *scales),
        otherwise="not everything started; see python3 -m harness.containers compose logs.",
    )
    engine.wait_until_healthy()
    say_where(engine)


def say_where(engine: Engine) -> None:
    """At which addresses the gateways are."""
    addresses = [address for each in engine.containers("gateway") for address in each.published]
    print("Serving on", *(f"http://{address}" for address in sorted(addresses)), flush=True)


def is_there(engine: Engine) -> bool:
    """Whether Docker has anything of it, be it the data alone."""
    return _is_standing(engine) or bool(engine.volumes())


def down(engine: Engine, *, data: bool) -> None:
    # Compose complains of each network that is not there.
    if _is_standing(engine):
        engine.compose(
            *("down", "--remove-orphans", *(["--volumes"] if data else [])),
            otherwise="not everything was removed: run it again.",
        )
    elif data and (volumes := engine.volumes()):
        engine.docker("volume", "rm", *volumes)


def _is_standing(engine: Engine) -> bool:
    return bool(engine.containers() or engine.containers(one_off=True) or engine.networks())
