"""Settings of payment_service, from PAYMENT_* environment variables."""

from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from servicekit.settings import ListenAddress, ServiceSettings, config, is_loopback


class Settings(ServiceSettings):
    """Settings of payment_service."""

    model_config = config("PAYMENT_")

    listen: ListenAddress = "127.0.0.1:9104"
    """Address of the gRPC server, host:port."""

    metrics_listen: ListenAddress = "127.0.0.1:9204"
    """Address of the Prometheus metrics over HTTP, host:port."""

    mysql_url: str = "mysql://payment:payment@127.0.0.1:3306/payment"
    """The schema, mysql://user:password@host:port/schema."""

    mysql_connections: int = Field(default=16, ge=2)
    """Connections to MariaDB; a payment needs one for a few milliseconds at a time."""

    kafka_bootstrap: str = "127.0.0.1:9092"
    """Kafka brokers, host:port, separated by commas."""

    kafka_session_seconds: float = Field(default=10.0, gt=0)
    """After how many seconds without a heartbeat Kafka gives the partitions of this consumer to
    another one. The broker rejects less than its group.min.session.timeout.ms, 6 s by default."""

    reservation_addr: str = "127.0.0.1:9103"
    """reservation_service: host:port or a gRPC target."""

    reservation_timeout_seconds: float = Field(default=3.0, gt=0)
    """How long BeginPayment may take, retries included, in seconds: longer than a quick restart of
    reservation_service."""

    provider: Literal["", "sandbox", "http"] = ""
    """The payment provider. `sandbox` approves nearly everything and moves no money, so it must be
    named unless PAYMENT_LISTEN is a loopback address: there, empty means sandbox, with a
    warning. `make run` and `make up` also want it named unless the gateway's address is one."""

    provider_timeout_seconds: float = Field(default=3.0, gt=0)
    """How long the provider may take for one step, retries included, in seconds. After that the
    caller receives PENDING, and recovery settles the payment."""

    breaker_failures: int = Field(default=10, ge=1)
    """Consecutive failed charges after which no charge is sent for a while."""

    breaker_open_seconds: float = Field(default=5.0, gt=0)
    """How long no charge is sent before one is tried again, in seconds."""

    http_base_url: str = "http://127.0.0.1:9999"
    """Base address of the provider `http`."""

    http_api_key: SecretStr = SecretStr("")
    """Its bearer key."""

    lease_seconds: float = Field(default=10.0, gt=0)
    """How long one driver may work on a payment, in seconds; recovery claims the payment of a
    crashed driver after that. Longer than the two timeouts above, plus two seconds for the
    database."""

    recovery_interval_seconds: float = Field(default=2.0, gt=0)
    """Pause between two polls for payments that nobody drives, in seconds."""

    hold_renewal_seconds: float = Field(default=600.0, ge=0)
    """How long a hold is renewed while the outcome of its charge is unknown, in seconds. After that
    the seat is on sale again; a late success is refunded if the seat is lost."""

    failed_retention_days: int = Field(default=1, ge=0, le=3650)
    """How long a failed payment is kept (declined, or not charged at all), in days; 0 keeps it for
    ever. Not shorter than the lease and the renewal of holds. Payments that moved money are never
    removed: those that succeeded, were refunded, or were charged another amount."""

    sandbox_retention_days: int = Field(default=30, ge=0, le=3650)
    """How long the sandbox provider keeps a charge, in days; 0 keeps it for ever. Not shorter than
    the lease and the renewal of holds."""

    # Keeps the name of its environment variable, which deployments may set already.
    announce_again_seconds: float = Field(default=1800.0, gt=0, le=604_800)
    """How far back `payment_service.republish_outcomes` goes, in seconds before the newest change
    of the restored database: longer than the lag of any consumer when the backup was made. The
    default is three payment leases. A payment that waits longer has lost its seat anyway, and the
    events of that time are handled within one lease, before the holds of new payments expire."""

    @model_validator(mode="after")
    def _sandbox_is_named(self) -> Self:
        if not self.provider and not is_loopback(self.listen):
            raise ValueError(
                "PAYMENT_PROVIDER must be set, because PAYMENT_LISTEN is no loopback address:"
                " http, or sandbox, which approves nearly everything and moves no money"
            )
        return self

    @model_validator(mode="after")
    def _retention_outlasts_payments(self) -> Self:
        longest = max(self.lease_seconds, self.hold_renewal_seconds)
        for days in (self.failed_retention_days, self.sandbox_retention_days):
            if 0 < days * 86_400 < longest:
                raise ValueError(
                    "PAYMENT_FAILED_RETENTION_DAYS and PAYMENT_SANDBOX_RETENTION_DAYS must not be"
                    " shorter than PAYMENT_LEASE_SECONDS and PAYMENT_HOLD_RENEWAL_SECONDS"
                )
        return self
