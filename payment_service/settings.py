"""payment_service's environment: PAYMENT_…"""

from typing import Literal

from pydantic import Field, SecretStr

from servicekit.settings import ListenAddress, ServiceSettings, config


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

    reservation_addr: str = "127.0.0.1:9103"
    """reservation_service: host:port or a gRPC target."""

    reservation_timeout_seconds: float = Field(default=3.0, gt=0)
    """How long BeginPayment may take, retries included, in seconds: outlasts a quick restart."""

    provider: Literal["sandbox", "http"] = "sandbox"
    """Who moves the money; sandbox moves none."""

    provider_timeout_seconds: float = Field(default=3.0, gt=0)
    """How long the provider may take for one step, retries included, in seconds. After that the
    caller is told PENDING, and recovery settles it."""

    breaker_failures: int = Field(default=10, ge=1)
    """Failed charges in a row after which the provider is left alone."""

    breaker_open_seconds: float = Field(default=5.0, gt=0)
    """How long it is left alone before one charge is tried again, in seconds."""

    http_base_url: str = "http://127.0.0.1:9999"
    """Base address of the provider `http`."""

    http_api_key: SecretStr = SecretStr("")
    """Its bearer key."""

    lease_seconds: float = Field(default=10.0, gt=0)
    """How long one driver has for a payment, in seconds; a crashed driver's payment is taken up
    after that. Above the two time-outs above plus a second or two for the database."""

    recovery_interval_seconds: float = Field(default=2.0, gt=0)
    """How often to look for payments that nobody drives, in seconds."""

    hold_renewal_seconds: float = Field(default=600.0, ge=0)
    """How long a hold is renewed while the provider does not tell what became of a charge, in
    seconds; after that the seat goes back on sale and a late success is refunded if need be."""

    announce_again_seconds: float = Field(default=1800.0, gt=0, le=604_800)
    """How far back `payment_service.announce_again` goes, in seconds before the newest change of
    the restored database: longer than any consumer lay behind when the backup was made. Three
    payment leases: what waits longer has lost its seat anyway, and even of a sale's busiest time
    so much is handled within one lease, before new payments that wait behind it lapse."""
