"""up and down."""

from __future__ import annotations

import contextlib
import errno
import socket

from harness.containers.engine import Engine
from harness.containers.settings import PROGRAMS, Settings
from harness.errors import UserError
from harness.files import REPOSITORY

#: The files of this repository that compose.yml mounts into the servers.
MOUNTS = tuple(
    REPOSITORY / "deploy" / name
    for name in ("config/mariadb", "config/kafka", "config/kafka/log4j2.properties")
)


def build(engine: Engine, settings: Settings) -> None:
    tag = f"frontrow:{settings.FRONTROW_VERSION}"
    print(f"Building the image {tag}", flush=True)
    engine.build(tag, REPOSITORY / "deploy" / "Dockerfile", REPOSITORY)


def require_ports(engine: Engine, settings: Settings) -> None:
    """Raises UserError if another program has one of the gateways' ports."""
    ours = {port for each in engine.containers("gateway") for port in each.ports}
    for port in settings.ports:
        if port in ours:
            continue
        # PermissionError: Docker may use a port below 1024 even if we may not.
        with contextlib.suppress(PermissionError), socket.socket() as probe:
            # Servers set it too: connections in TIME_WAIT do not matter.
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
    """Raises UserError if the servers, which run as other users, cannot read their mounts."""
    for mount in MOUNTS:
        for path in (mount, *mount.rglob("*")):
            needed = 0o005 if path.is_dir() else 0o004
            if path.stat().st_mode & needed != needed:
                raise UserError(
                    f"MariaDB and Kafka, which run as other users, cannot read {path}:"
                    f" chmod -R a+rX {' '.join(map(str, MOUNTS))}."
                )


def start(engine: Engine, settings: Settings) -> None:
    """Starts everything from an image that is built. Containers that are up to date stay."""
    scales = [argument for name in PROGRAMS for argument in ("--scale", f"{name}={settings.scale}")]
    print(
        f"Starting {settings.CAP}, {settings.scale} of each program, SEED={settings.SEED}",
        flush=True,
    )
    engine.compose(
        *("up", "--detach", "--remove-orphans", *scales),
        failure="not everything started; see python3 -m harness.containers compose logs.",
    )
    engine.wait_until_healthy()
    print_addresses(engine)


def print_addresses(engine: Engine) -> None:
    """Prints the URLs of the gateways."""
    addresses = [address for each in engine.containers("gateway") for address in each.published]
    print("Serving on", *(f"http://{address}" for address in sorted(addresses)), flush=True)


def exists(engine: Engine) -> bool:
    """Whether Docker has anything of the project, including volumes."""
    return _has_containers_or_networks(engine) or bool(engine.volumes())


def down(engine: Engine, *, data: bool) -> None:
    """Removes containers and networks; with `data` also the volumes."""
    # Compose complains about networks that do not exist.
    if _has_containers_or_networks(engine):
        engine.compose(
            *("down", "--remove-orphans", *(["--volumes"] if data else [])),
            failure="not everything was removed: run it again.",
        )
    elif data and (volumes := engine.volumes()):
        engine.docker("volume", "rm", *volumes)


def _has_containers_or_networks(engine: Engine) -> bool:
    return bool(engine.containers() or engine.containers(one_off=True) or engine.networks())
