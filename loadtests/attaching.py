"""What is behind a gateway that runs: found in the containers of `make up`, or told by settings.

Refused unless it is certainly one system.
"""

from __future__ import annotations

import ipaddress
import random
import socket
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import grpc
import psutil
import redis

from harness.errors import UserError
from harness.local import Ports
from harness.local.programs import mysql_url, redis_url
from harness.local.supervisor import LOCAL
from harness.secrets import Secrets
from harness.topology import SCHEMAS
from loadtests import containers, gateway, room
from loadtests.containers import Container
from loadtests.target import Target
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc

#: Where the parts of a system are that was not started here.
_SETTINGS = (
    *(f"{name.upper()}_MYSQL_URL" for name in SCHEMAS),
    "QUEUE_REDIS_URL",
    "QUEUE_KAFKA_BOOTSTRAP",
    "QUEUE_LISTEN",
)
_SECONDS = 10.0


def attached(base_url: str, environ: Mapping[str, str], ports: Ports) -> Target:
    """What is told nowhere is taken to be as `make up` or `make run` has it, but only if the
    gateway is on this machine."""
    found: Sequence[Container] = ()
    if _is_here(base_url):
        found = containers.find(urlsplit(base_url).port or 80)
    elif missing := [name for name in _SETTINGS if not environ.get(name)]:
        raise UserError(
            f"The gateway at {base_url} is on another machine: set {', '.join(missing)} to what is"
            " behind it."
        )
    target = (
        _attached_to_containers(base_url, ports, found)
        if found
        else _attached_to_settings(base_url, environ, ports)
    )
    _require_same(target)
    return target


def _is_here(base_url: str) -> bool:
    """Whether the URL's host is this machine."""
    own = {each.address for addresses in psutil.net_if_addrs().values() for each in addresses}
    try:
        found = socket.getaddrinfo(urlsplit(base_url).hostname, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    addresses = {str(each[4][0]) for each in found}
    return all(each in own or ipaddress.ip_address(each).is_loopback for each in addresses)


def _attached_to_containers(base_url: str, ports: Ports, found: Sequence[Container]) -> Target:
    """From this machine the containers can be reached by their addresses, as nobody else can."""
    first = {each.service: each for each in reversed(found)}
    missing = sorted({"mariadb", "redis", "kafka", "queue", *SCHEMAS} - first.keys())
    if missing:
        raise UserError(f"No container runs of {', '.join(missing)}: see docker ps, and make up.")

    def at(service: str, port: int) -> str:
        network = "services" if service == "queue" else service
        return f"{first[service].addresses[network]}:{port}"

    def here(url: str, service: str, port: int) -> str:
        """The URL that a program was told, with an address in place of the service's name."""
        return url.replace(f"@{service}:{port}", f"@{at(service, port)}")

    return Target(
        base_url=base_url,
        mysql_urls={
            name: here(first[name].env[f"{name.upper()}_MYSQL_URL"], "mariadb", 3306)
            for name in SCHEMAS
        },
        redis_url=here(first["queue"].env["QUEUE_REDIS_URL"], "redis", 6379),
        kafka_bootstrap=at("kafka", 9094),
        queue_addr=at("queue", 9101),
        ports=ports,
        own=False,
        containers=found,
    )


def _attached_to_settings(base_url: str, environ: Mapping[str, str], ports: Ports) -> Target:
    secrets = LOCAL / "secrets.json"
    urls = {}
    for name in SCHEMAS:
        url = environ.get(f"{name.upper()}_MYSQL_URL")
        if not url and not secrets.exists():
            raise UserError(
                f"The gateway at {base_url} was not started by make run here: set"
                f" {', '.join(_SETTINGS)} to what is behind it."
            )
        urls[name] = url or mysql_url(name, ports, Secrets.load_or_create(secrets))
    return Target(
        base_url=base_url,
        mysql_urls=urls,
        redis_url=environ.get("QUEUE_REDIS_URL") or redis_url(ports),
        kafka_bootstrap=environ.get("QUEUE_KAFKA_BOOTSTRAP") or ports.address("kafka"),
        queue_addr=environ.get("QUEUE_LISTEN") or ports.address("queue"),
        ports=ports,
        own=False,
    )


def _require_same(target: Target) -> None:
    """Raises UserError unless the gateway, queue_service and Redis are of one system: somebody
    enters through the gateway, is found in Redis, and is gone from it after leaving through
    queue_service."""
    user = random.randint(1_000_000_000, 90_000_000_000)
    token = gateway.enter(target.base_url, user)
    try:
        claims = gateway.claims(token)
        place = queue_pb2.Place(
            room=room.ROOM, number=claims.place, user_id=user, epoch=claims.epoch
        )
        with (
            redis.Redis.from_url(target.redis_url, socket_timeout=_SECONDS) as connection,
            grpc.insecure_channel(target.queue_addr) as channel,
        ):
            users = f"{{queue:{room.ROOM}}}:users"
            if connection.hget(users, str(user)) != str(claims.place).encode():
                raise UserError(
                    f"Whoever enters through {target.base_url} is not in the Redis that would be"
                    " watched: set QUEUE_REDIS_URL to the one behind that gateway."
                )
            queue_pb2_grpc.QueueServiceStub(channel).LeaveQueue(
                queue_pb2.LeaveQueueRequest(place=place), timeout=_SECONDS
            )
            if connection.hexists(users, str(user)):
                raise UserError(
                    f"Whoever enters through {target.base_url} cannot leave at"
                    f" {target.queue_addr}: set QUEUE_LISTEN to the queue_service behind that"
                    " gateway."
                )
    except (redis.RedisError, ValueError) as error:
        raise UserError(
            "The waiting room's Redis does not answer: set QUEUE_REDIS_URL to where it is."
        ) from error
    except grpc.RpcError as error:
        raise room.away(target.queue_addr) from error
    finally:
        gateway.leave(target.base_url, token)
