"""The five programs of Frontrow: their environment, and how to see that they serve."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness.local.credentials import Credentials
from harness.local.ports import HOST, Ports
from harness.local.process import Process
from harness.local.servers import REPOSITORY

PYTHON = REPOSITORY / ".venv" / "bin" / "python"

#: Module → prefix of its settings; in the order they are listed and logged.
PREFIXES: Mapping[str, str] = {
    "queue_service": "QUEUE",
    "concert_service": "CONCERT",
    "reservation_service": "RESERVATION",
    "payment_service": "PAYMENT",
    "gateway": "GATEWAY",
}
#: The programs with a schema, and the environment variable that migrations read.
MIGRATED: Mapping[str, str] = {
    "concert_service": "CONCERT_MYSQL_URL",
    "reservation_service": "RESERVATION_MYSQL_URL",
    "payment_service": "PAYMENT_MYSQL_URL",
}


def settings(program: str, ports: Ports, credentials: Credentials) -> dict[str, str]:
    """What a program must be told to be part of the stack with these ports and secrets."""

    def at(port: int) -> str:
        return f"{HOST}:{port}"

    def mysql(schema: str) -> str:
        return mysql_url(schema, ports, credentials)

    redis_url = f"redis://{at(ports.redis)}/0"
    token_keys = json.dumps(credentials.token_keys)
    match program:
        case "queue_service":
            return {
                "QUEUE_LISTEN": at(ports.queue),
                "QUEUE_METRICS_LISTEN": at(ports.queue_metrics),
                "QUEUE_REDIS_URL": redis_url,
                "QUEUE_KAFKA_BOOTSTRAP": at(ports.kafka),
                "QUEUE_TOKEN_KEYS": token_keys,
                "QUEUE_TOKEN_SIGNING_KEY_ID": credentials.token_signing_key_id,
            }
        case "concert_service":
            return {
                "CONCERT_LISTEN": at(ports.concert),
                "CONCERT_METRICS_LISTEN": at(ports.concert_metrics),
                "CONCERT_MYSQL_URL": mysql("concert"),
            }
        case "reservation_service":
            return {
                "RESERVATION_LISTEN": at(ports.reservation),
                "RESERVATION_METRICS_LISTEN": at(ports.reservation_metrics),
                "RESERVATION_MYSQL_URL": mysql("reservation"),
                "RESERVATION_REDIS_URL": redis_url,
                "RESERVATION_KAFKA_BOOTSTRAP": at(ports.kafka),
                "RESERVATION_CONCERT_ADDR": at(ports.concert),
            }
        case "payment_service":
            return {
                "PAYMENT_LISTEN": at(ports.payment),
                "PAYMENT_METRICS_LISTEN": at(ports.payment_metrics),
                "PAYMENT_MYSQL_URL": mysql("payment"),
                "PAYMENT_KAFKA_BOOTSTRAP": at(ports.kafka),
                "PAYMENT_RESERVATION_ADDR": at(ports.reservation),
                "PAYMENT_PROVIDER": "sandbox",
            }
        case "gateway":
            return {
                "GATEWAY_LISTEN": at(ports.gateway),
                "GATEWAY_METRICS_LISTEN": at(ports.gateway_metrics),
                "GATEWAY_QUEUE_ADDR": at(ports.queue),
                "GATEWAY_CONCERT_ADDR": at(ports.concert),
                "GATEWAY_RESERVATION_ADDR": at(ports.reservation),
                "GATEWAY_PAYMENT_ADDR": at(ports.payment),
                "GATEWAY_TOKEN_KEYS": token_keys,
            }
        case _:
            raise ValueError(f"no such program: {program}")


def mysql_url(schema: str, ports: Ports, credentials: Credentials) -> str:
    return f"mysql://{schema}:{credentials.mysql[schema]}@{HOST}:{ports.mariadb}/{schema}"


def environment(
    program: str,
    defaults: Mapping[str, str],
    overrides: Mapping[str, str],
    inherit_settings: bool,
) -> dict[str, str]:
    """The whole environment of a program.

    `inherit_settings`: variables of ours with its prefix win over the defaults (`make run`).
    Otherwise they are left out (tests, which must not depend on the caller's shell).
    `overrides` win over everything.
    """
    prefix = PREFIXES[program] + "_"
    inherited = {
        name: value
        for name, value in os.environ.items()
        if inherit_settings or not name.startswith(tuple(f"{p}_" for p in PREFIXES.values()))
    }
    own = {name: value for name, value in inherited.items() if name.startswith(prefix)}
    # Unbuffered: what a program said before it was killed must be in its log.
    return {**inherited, **defaults, **own, "PYTHONUNBUFFERED": "1", **overrides}


class Program(Process):
    """A program of ours. Started as `python -m <module>` from the top of the repository."""

    start_timeout = 60.0
    # A program drains for as long as it is told to (10 s by default).
    stop_timeout = 20.0

    def __init__(
        self,
        program: str,
        *,
        name: str,
        env: Mapping[str, str],
        log_path: Path,
        stopping: threading.Event,
    ) -> None:
        super().__init__(name, log_path=log_path, cwd=REPOSITORY, stopping=stopping)
        self.program = program
        self._env = env

    @property
    def address(self) -> str:
        """host:port where it serves (gRPC; HTTP for the gateway), as seen from this machine."""
        host, _, port = self._env[f"{PREFIXES[self.program]}_LISTEN"].rpartition(":")
        return f"{HOST if host in ('', '0.0.0.0', '[::]') else host}:{port}"

    def command(self, module: str | None) -> Sequence[str]:
        return [str(PYTHON), "-m", module or self.program]

    def environment(self) -> Mapping[str, str]:
        return self._env

    def probe(self) -> bool:
        if self.program == "gateway":
            return _http_status(self.address, "/health/ready") == 200
        return _grpc_serves(self.address)


def _http_status(address: str, path: str) -> int:
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except http.client.HTTPException:
        return 0
    finally:
        connection.close()


def _grpc_serves(address: str) -> bool:
    """The standard health check of gRPC, for the whole server."""
    with grpc.insecure_channel(address) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=""), timeout=2
            )
        except grpc.RpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
