"""Settings of queue_service, from QUEUE_* environment variables."""

from typing import Annotated, Self

from pydantic import Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import SettingsConfigDict

from protos.frontrow.queue.v1 import queue_pb2
from queue_service.domain import Limits, Rules
from servicekit.settings import ListenAddress, ServiceSettings, config

RoomName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,64}$")]

MIN_KEY_BYTES = 32
"""The length of an HS256 signature; shorter keys can be guessed (RFC 7518, 3.2)."""


class Settings(ServiceSettings):
    """Settings of queue_service."""

    # Never echo invalid input: it may be a secret.
    model_config = SettingsConfigDict(**config("QUEUE_"), hide_input_in_errors=True)

    listen: ListenAddress = "127.0.0.1:9101"
    """Address of the gRPC server, host:port."""

    metrics_listen: ListenAddress = "127.0.0.1:9201"
    """Address of the Prometheus metrics over HTTP, host:port."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    """The Redis that stores the waiting room. It needs the append-only file and no eviction."""

    redis_timeout_seconds: float = Field(default=1.0, gt=0)
    """The longest time of one command, in seconds. A script takes about a millisecond; the rest is
    for a Redis that saves or fails over."""

    concert_addr: str = "127.0.0.1:9102"
    """concert_service, host:port or a gRPC target, which knows the definitions of rooms. While it
    does not answer, rooms go on by what is known of them."""

    kafka_bootstrap: str = "127.0.0.1:9092"
    """Kafka, host:port, for the payment events that end admissions."""

    kafka_session_seconds: float = Field(default=10.0, gt=0)
    """After how many seconds without a heartbeat Kafka gives the partitions of this consumer to
    another one. The broker rejects less than its group.min.session.timeout.ms, 6 s by default."""

    token_keys: dict[str, SecretStr]
    """Signing keys as JSON, {"key id": "secret"}; each secret has at least 32 bytes. Use several
    while keys rotate: the gateway accepts all of its keys."""

    token_signing_key_id: str
    """The id of the key that signs new tokens."""

    admin_token: SecretStr | None = None
    """The credential of operators: QueueAdminService wants it as `authorization: Bearer <token>`,
    and `python -m queue_service.admin` sends it from the same variable. At least 32 bytes. Not set:
    that service answers if QUEUE_LISTEN is a loopback address, and otherwise refuses every call."""

    rooms: tuple[RoomName, ...] = Field(default=("main",), min_length=1)
    """The names of the rooms that run although nobody has defined them, as JSON."""

    capacity: int = Field(default=500, ge=0)
    """How many fans may be admitted at once, when the room opens for the first time. The room
    stores it; change it later with `python -m queue_service.admin capacity`."""

    max_waiting: int = Field(default=1_000_000, ge=0)
    """How many fans may wait at once, when the room opens for the first time. A million take
    0.31 GB of Redis memory, and the log of changes of a room at most about 20 MB."""

    entries_per_source: int = Field(default=0, ge=0, le=10_000)
    """How many new places one source (an IPv4 address or an IPv6 /64) may take at once, counted by
    the room for all gateways together. 0 switches the limit off, for load tests and for people on
    one machine. For an on-sale, the largest number of fans behind one address: 30, or some hundreds
    if offices or mobile networks behind one address must get in together. Getting back a place that
    one has does not count."""

    entries_per_source_window_seconds: float = Field(default=600.0, ge=1, le=86_400)
    """The time that restores the whole allowance of a source, evenly, in seconds."""

    admission_ttl_seconds: float = Field(default=600.0, gt=0)
    """How long an admission lasts, in seconds: long enough to choose a seat and to pay within its
    hold of five minutes."""

    claim_window_seconds: float = Field(default=150.0, gt=0)
    """A fan who is admitted and does not poll within this many seconds loses the slot. Must be
    above poll_max_seconds, and should be above that plus a minute: browsers run the timers of a
    hidden tab once per minute, so that a pause of 60 s may become 120 s."""

    absent_after_seconds: float = Field(default=300.0, gt=0)
    """A fan who has not polled for this many seconds is skipped at admission. Must be above 1.5
    times poll_max_seconds, because polls are recorded with an error of up to a quarter of this, at
    most 5 s. Should be above twice the 120 s between two polls of a hidden tab, so that one poll
    may fail. A poll that comes too early and that the gateway answers from its memory is not
    recorded, but one in each poll_max_seconds is."""

    poll_min_seconds: float = Field(default=1.0, gt=0)
    """The shortest time between polls, for the front of the line, in seconds."""

    poll_max_seconds: float = Field(default=60.0, gt=0)
    """The longest time between polls, in seconds; up to a quarter less, so that polls do not come
    in waves. The pause grows with the order and with the wait, and the first 100 places poll every
    10 s or more often whatever this is. 100,000 waiting fans make about 2,000 polls/s."""

    grace_seconds: float = Field(default=75.0, gt=0)
    """After Redis lost places, how long no place that may stand behind a lost one is admitted, in
    seconds. Must be above poll_max_seconds, so that all fans poll in time and get their places
    back: 15 s more for requests that fail at first. A hidden tab may poll later and then stands at
    its number again, but others may have been admitted before it. A room without any poll for this
    long assumes that no fan can reach it."""

    heal_within_seconds: float = Field(default=90_000.0, gt=0)
    """A lost place is not restored if its newest token was issued longer ago than this, in seconds:
    a token of last month's sale must not lead today's line. Should be above
    GATEWAY_TOKEN_MAX_AGE_SECONDS by more than poll_max_seconds, because a token of that age is
    renewed at its next poll."""

    tick_seconds: float = Field(default=0.1, gt=0, le=1)
    """Shortest time between searches for expired admissions while somebody waits or is admitted, in
    seconds; at most ten times that, if none ends earlier. Other slots are refilled at once."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.token_signing_key_id not in self.token_keys:
            raise ValueError("QUEUE_TOKEN_SIGNING_KEY_ID is not among QUEUE_TOKEN_KEYS")
        for key_id, secret in self.token_keys.items():
            if len(secret.get_secret_value().encode()) < MIN_KEY_BYTES:
                raise ValueError(
                    f"QUEUE_TOKEN_KEYS: {key_id} is shorter than {MIN_KEY_BYTES} bytes"
                )
        if self.admin_secret is not None and len(self.admin_secret.encode()) < MIN_KEY_BYTES:
            raise ValueError(f"QUEUE_ADMIN_TOKEN is shorter than {MIN_KEY_BYTES} bytes")
        if self.poll_min_seconds > self.poll_max_seconds:
            raise ValueError("QUEUE_POLL_MIN_SECONDS is above QUEUE_POLL_MAX_SECONDS")
        if self.grace_seconds <= self.poll_max_seconds:
            raise ValueError("QUEUE_GRACE_SECONDS must be above QUEUE_POLL_MAX_SECONDS")
        if self.claim_window_seconds <= self.poll_max_seconds:
            raise ValueError("QUEUE_CLAIM_WINDOW_SECONDS must be above QUEUE_POLL_MAX_SECONDS")
        if self.absent_after_seconds <= 1.5 * self.poll_max_seconds:
            raise ValueError(
                "QUEUE_ABSENT_AFTER_SECONDS must be above 1.5 times QUEUE_POLL_MAX_SECONDS"
            )
        return self

    @property
    def signing_secret(self) -> str:
        """The secret that signs new tokens."""
        return self.token_keys[self.token_signing_key_id].get_secret_value()

    @property
    def admin_secret(self) -> str | None:
        """The admin token; None if it is not set or empty."""
        return (self.admin_token.get_secret_value() if self.admin_token else "") or None

    @property
    def limits(self) -> Limits:
        """The limits of a room that no operator has changed."""
        return Limits(self.capacity, self.max_waiting)

    @property
    def rules(self) -> Rules:
        """The times that the store uses."""
        return Rules(
            grace_ms=_ms(self.grace_seconds),
            claim_window_ms=_ms(self.claim_window_seconds),
            admission_ttl_ms=_ms(self.admission_ttl_seconds),
            absent_after_ms=_ms(self.absent_after_seconds),
            heal_within_ms=_ms(self.heal_within_seconds),
            entries_per_source=self.entries_per_source,
            source_window_ms=_ms(self.entries_per_source_window_seconds),
        )

    @property
    def room_rules(self) -> queue_pb2.RoomRules:
        """The times that positions and copies of a room depend on."""
        return queue_pb2.RoomRules(
            poll_min_ms=_ms(self.poll_min_seconds),
            poll_max_ms=_ms(self.poll_max_seconds),
            admission_ttl_ms=_ms(self.admission_ttl_seconds),
            claim_window_ms=_ms(self.claim_window_seconds),
            absent_after_ms=_ms(self.absent_after_seconds),
        )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
