"""The environment of reservation_service: RESERVATION_*."""

from pydantic import Field

from servicekit.settings import ListenAddress, ServiceSettings, config


class ReservationSettings(ServiceSettings):
    """Everything reservation_service can be told."""

    model_config = config("RESERVATION_")

    listen: ListenAddress = "127.0.0.1:9103"
    """Address of the gRPC server, host:port."""

    metrics_listen: ListenAddress = "127.0.0.1:9203"
    """Address of the Prometheus metrics over HTTP, host:port."""

    mysql_url: str = "mysql://reservation:reservation@127.0.0.1:3306/reservation"
    """The MariaDB schema, mysql://user:password@host:port/schema."""

    mysql_connections: int = Field(default=16, ge=1, le=1000)
    """Most connections of this process to MariaDB. Two cores are busy with far fewer."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    """The Redis (7 or later) of the seat locks. May be away: that costs speed, never truth."""

    redis_timeout_seconds: float = Field(default=0.1, gt=0, le=0.1)
    """How long a lock may take before we go on without, in seconds."""

    lock_seconds: float = Field(default=3.0, gt=0, le=60)
    """After which a seat lock ends by itself, in seconds: longer than a reservation takes, and
    as long as a seat seems held when a process dies in the middle of one."""

    kafka_bootstrap: str = "127.0.0.1:9092"
    """Kafka's brokers, host:port[,host:port]."""

    concert_addr: str = "127.0.0.1:9102"
    """concert_service, host:port or a gRPC target."""

    cached_seats: int = Field(default=50_000, ge=1)
    """How many seats' facts are kept in memory, about 0.5 kB each."""

    cache_seconds: float = Field(default=60.0, ge=0, le=3600)
    """How old those facts may be, in seconds."""

    hold_seconds: float = Field(default=300.0, gt=0, le=86_400)
    """How long a seat is held for its user to pay, in seconds."""

    payment_lease_seconds: float = Field(default=600.0, gt=0, le=86_400)
    """How long a seat stays held from the start of a payment, at least, in seconds: longer than
    the payment service needs to find out what became of a charge, crashes included."""

    sweep_interval_seconds: float = Field(default=5.0, ge=0)
    """Pause between two rounds of tidying lapsed holds, in seconds; 0 turns it off. Nothing but
    the size of the tables depends on it."""
