"""Settings of the gateway, from GATEWAY_* environment variables."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings

from servicekit.settings import ListenAddress, LogLevel, config


def _long_enough(keys: dict[str, SecretStr]) -> dict[str, SecretStr]:
    secrets = [key.get_secret_value() for key in keys.values()]
    if not keys or any(len(secret.encode()) < 32 for secret in secrets):
        raise ValueError("must hold at least one key, each of 32 bytes or more (RFC 7518, 3.2)")
    return keys


class GatewaySettings(BaseSettings):
    """Settings of the gateway."""

    model_config = config("GATEWAY_")

    listen: ListenAddress = "127.0.0.1:8080"
    """Address of the HTTP server, host:port."""

    metrics_listen: ListenAddress = "127.0.0.1:9200"
    """Address of the Prometheus metrics over HTTP, host:port."""

    workers: int = Field(default=1, ge=1, le=64)
    """Processes that serve the address together. One per core that the gateway may use; more
    than cores makes it slower."""

    log_level: LogLevel = "INFO"
    """Lowest level that is logged: DEBUG, INFO, WARNING or ERROR."""

    queue_addr: str = "127.0.0.1:9101"
    """queue_service: host:port or a gRPC target such as dns:///queue:9101."""

    concert_addr: str = "127.0.0.1:9102"
    """concert_service: host:port or a gRPC target."""

    reservation_addr: str = "127.0.0.1:9103"
    """reservation_service: host:port or a gRPC target."""

    payment_addr: str = "127.0.0.1:9104"
    """payment_service: host:port or a gRPC target."""

    token_keys: Annotated[dict[str, SecretStr], AfterValidator(_long_enough)]
    """Keys that access tokens may be signed with, as JSON {"key id": "secret"}. A superset of
    the keys of queue_service: add a new key here first, remove an old one here last."""

    token_max_age_seconds: float = Field(default=86_400, gt=0)
    """Age at which any token counts as expired, in seconds."""

    room: str = "main"
    """The waiting room whose tokens are taken and that new users enter."""

    read_budget_seconds: float = Field(default=2.0, gt=0)
    """How long a read may take behind the gateway, in seconds; then 504."""

    write_budget_seconds: float = Field(default=5.0, gt=0)
    """How long reserving, cancelling or leaving may take, in seconds; then 504."""

    pay_budget_seconds: float = Field(default=8.0, gt=0)
    """How long paying may take, in seconds. Above the payment provider's time-out, so that a
    slow provider is a 202 and not a 504."""

    batch_pause_seconds: float = Field(default=0.006, ge=0, le=0.1)
    """How long, at most, the next callers of queue_service are collected after a call began, in
    seconds: 2 ms for each caller that it carried. A call costs both sides about 1.2 ms of processor
    time, whatever it carries (see ADR 0003); 0 sends as soon as the call before has returned."""

    admission_ttl_seconds: float = Field(default=1.0, ge=0, le=1)
    """How long a token that was seen admitted is taken as admitted without asking, in seconds."""

    seats_ttl_seconds: float = Field(default=1.0, ge=0, le=1)
    """Age of a seat map at which it is read again, in seconds. The contract allows 1."""

    schedules_ttl_seconds: float = Field(default=5.0, ge=0, le=60)
    """Age of a schedule's status (AVAILABLE or SOLD_OUT) at which it is read again, in seconds.
    Reading it counts the sold seats of all dates of a concert: at 1 s, 100 concerts that are
    looked at all the time took a third of two cores."""

    facts_ttl_seconds: float = Field(default=30.0, ge=0)
    """Age of concerts, dates, seat numbers and prices at which they are read again, in seconds;
    at the latest at midnight UTC, when dates pass."""

    requests_per_second: int = Field(default=20, ge=0)
    """Requests a second that one place in line (or, to enter, one user id) may send to each
    gateway process, as many of them at once; above it 429. 0 switches the limit off."""

    drain_announce_seconds: float = Field(default=2.0, ge=0)
    """After SIGTERM, how long requests are still taken while /health/ready says 503 and every
    reply closes its connection, in seconds: time for a load balancer to look away."""

    drain_seconds: int = Field(default=15, ge=0)
    """Then, how long accepted requests may take to finish, in whole seconds."""
