"""Settings of the waiting room: the environment variables that begin with QUEUE_."""

from typing import Annotated, Self

from pydantic import Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import SettingsConfigDict

from queue_service.domain import Limits, Pacing, Rules
from servicekit.settings import ListenAddress, ServiceSettings, config

RoomName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,64}$")]

MIN_KEY_BYTES = 32
"""As long as an HS256 signature; shorter ones can be guessed (RFC 7518, 3.2)."""


class Settings(ServiceSettings):
    """Everything the waiting room can be told."""

    # Of a wrong value the message must not repeat it: it may be a key.
    model_config = SettingsConfigDict(**config("QUEUE_"), hide_input_in_errors=True)

    listen: ListenAddress = "127.0.0.1:9101"
    """Address of the gRPC server, host:port."""

    metrics_listen: ListenAddress = "127.0.0.1:9201"
    """Address of the Prometheus metrics over HTTP, host:port."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    """Where the waiting room is kept. Wants the append-only file and no eviction."""

    redis_timeout_seconds: float = Field(default=1.0, gt=0)
    """How long one command may take, in seconds. A script takes about a millisecond; the rest is
    for a Redis that is busy saving or failing over."""

    kafka_bootstrap: str = "127.0.0.1:9092"
    """Kafka's address, host:port, for the payments that end admissions."""

    token_keys: dict[str, SecretStr]
    """Signing keys as JSON, {"key id": "secret"}; each secret at least 32 bytes. More than one
    while keys are changed: the gateway accepts all it knows."""

    token_signing_key_id: str
    """The key id that new tokens are signed with."""

    rooms: tuple[RoomName, ...] = Field(default=("main",), min_length=1)
    """The rooms that are run, as JSON."""

    capacity: int = Field(default=500, ge=0)
    """How many may be admitted at once, when the room is opened for the first time. The room
    remembers it; later it is changed with `python -m queue_service.admin capacity`."""

    max_waiting: int = Field(default=1_000_000, ge=0)
    """How many may wait at once, when the room is opened for the first time. A million take
    0.31 GB of Redis."""

    admission_ttl_seconds: float = Field(default=600.0, gt=0)
    """How long an admission lasts, in seconds. Long enough to choose a seat and to pay within its
    hold of five minutes."""

    claim_window_seconds: float = Field(default=90.0, gt=0)
    """Who is admitted and does not ask within this many seconds loses the slot. Above
    poll_max_seconds, and above the minute to which browsers stretch the timers of a hidden tab."""

    absent_after_seconds: float = Field(default=180.0, gt=0)
    """Who has not asked for this many seconds is skipped when the turn comes. Above one and a half
    times poll_max_seconds, since a sign of life is only noted to a quarter of this, at most 5 s;
    and well above the minute at which hidden tabs ask."""

    poll_min_seconds: float = Field(default=1.0, gt=0)
    """How soon those in front are told to ask again, in seconds."""

    poll_max_seconds: float = Field(default=10.0, gt=0)
    """How late anybody is told to ask again, in seconds; up to a quarter earlier, so that polls do
    not come in waves. 100,000 waiting make about 11,000 polls/s."""

    grace_seconds: float = Field(default=12.0, gt=0)
    """After Redis lost places, for how long nobody is admitted who may stand behind a lost one,
    in seconds. Above poll_max_seconds, so that everybody asks, and thereby returns, in time. A
    room that hears nobody for as long assumes that nobody can reach it."""

    heal_within_seconds: float = Field(default=86_400.0, gt=0)
    """A lost place older than this does not come back, in seconds: a token of last month's sale
    shall not lead the line of today's."""

    tick_seconds: float = Field(default=0.1, gt=0, le=1)
    """How often lapsed admissions are looked for, in seconds. Other slots are refilled at once."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.token_signing_key_id not in self.token_keys:
            raise ValueError("token_signing_key_id is not among token_keys")
        for key_id, secret in self.token_keys.items():
            if len(secret.get_secret_value().encode()) < MIN_KEY_BYTES:
                raise ValueError(f"token_keys: {key_id} is shorter than {MIN_KEY_BYTES} bytes")
        if self.poll_min_seconds > self.poll_max_seconds:
            raise ValueError("poll_min_seconds is above poll_max_seconds")
        if self.grace_seconds <= self.poll_max_seconds:
            raise ValueError("grace_seconds must be above poll_max_seconds")
        if self.claim_window_seconds <= self.poll_max_seconds:
            raise ValueError("claim_window_seconds must be above poll_max_seconds")
        if self.absent_after_seconds <= 1.5 * self.poll_max_seconds:
            raise ValueError("absent_after_seconds must be above 1.5 times poll_max_seconds")
        return self

    @property
    def signing_secret(self) -> str:
        """The secret that new tokens are signed with."""
        return self.token_keys[self.token_signing_key_id].get_secret_value()

    @property
    def limits(self) -> Limits:
        """The limits of a room that has not been told otherwise."""
        return Limits(self.capacity, self.max_waiting)

    @property
    def rules(self) -> Rules:
        """The times that the store goes by."""
        return Rules(
            grace_ms=_ms(self.grace_seconds),
            claim_window_ms=_ms(self.claim_window_seconds),
            admission_ttl_ms=_ms(self.admission_ttl_seconds),
            absent_after_ms=_ms(self.absent_after_seconds),
            heal_within_ms=_ms(self.heal_within_seconds),
        )

    @property
    def pacing(self) -> Pacing:
        """How often to ask again."""
        return Pacing(
            poll_min_ms=_ms(self.poll_min_seconds),
            poll_max_ms=_ms(self.poll_max_seconds),
            admission_ttl_ms=_ms(self.admission_ttl_seconds),
        )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
