"""Settings of reservation_service, from RESERVATION_* environment variables."""

from pydantic import Field

from servicekit.settings import ListenAddress, ServiceSettings, config


class Settings(ServiceSettings):
    """Settings of reservation_service."""

    model_config = config("RESERVATION_")

    listen: ListenAddress = "127.0.0.1:9103"
    """Address of the gRPC server, host:port."""

    metrics_listen: ListenAddress = "127.0.0.1:9203"
    """Address of the Prometheus metrics over HTTP, host:port."""

    mysql_url: str = "mysql://reservation:reservation@127.0.0.1:3306/reservation"
    """The MariaDB schema, mysql://user:password@host:port/schema."""

    mysql_connections: int = Field(default=16, ge=1, le=1000)
    """Maximum number of connections of this process to MariaDB. Two cores need far fewer."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    """The Redis of the seat locks. While it is unavailable, reservations are slower
    but correct."""

    redis_timeout_seconds: float = Field(default=0.1, gt=0, le=0.1)
    """How long a lock may take before the reservation continues without it, in seconds."""

    lock_seconds: float = Field(default=5.0, gt=0, le=60)
    """When a seat lock expires, in seconds: longer than a reservation takes (4 s). A seat seems
    held for that long after a process died during a reservation."""

    kafka_bootstrap: str = "127.0.0.1:9092"
    """Kafka's brokers, host:port[,host:port]."""

    kafka_session_seconds: float = Field(default=10.0, gt=0)
    """After how many seconds without a heartbeat Kafka gives the partitions of this consumer to
    another one. The broker rejects less than its group.min.session.timeout.ms, 6 s by default."""

    concert_addr: str = "127.0.0.1:9102"
    """concert_service, host:port or a gRPC target."""

    seat_maps_mb: int = Field(default=16, ge=1)
    """How much memory the cached seats take at most, in MB. A date takes 0.6 kB, and the seats of a
    hall 80 bytes each, once for all dates with the same seats and prices."""

    cache_seconds: float = Field(default=60.0, ge=0, le=3600)
    """How old cached seats may be, in seconds. After 3/4 of it they are read again, so that nobody
    waits."""

    hold_seconds: float = Field(default=300.0, gt=0, le=86_400)
    """How long a hold lasts, in seconds."""

    max_seats: int = Field(default=8, ge=0, le=50)
    """The most seats of a reservation, and the most that a user may hold without having paid, over
    all reservations. 0 turns the limit off; a reservation then has at most 50 seats."""

    max_seats_per_schedule: int = Field(default=8, ge=0, le=1000)
    """The most seats of one schedule that a user may hold or have bought; 0 turns the limit off."""

    refuse_single_seats: bool = False
    """Refuse a request for seats by their ids that would leave a single free seat between taken
    ones, or at the end of a row, although as many others nearby would not. Costs a read of the
    taken seats for each reservation. The best available seats avoid single seats in any case."""

    cool_down_seconds: float | None = Field(default=None, ge=0, le=86_400)
    """How long a user who has held a seat gets only what was left of that hold, in seconds from its
    end, so that nobody keeps a seat off sale by cancelling and holding it again. Once its whole
    time is used up, the user gets SEAT_HELD until then; others may take the seat at once. Unset:
    RESERVATION_HOLD_SECONDS; 0 turns it off. At most a day, the shortest retention."""

    payment_lease_seconds: float = Field(default=600.0, gt=0, le=86_400)
    """How long a seat stays held after the start of its payment, at least, in seconds: longer than
    payment_service needs to learn the outcome of a charge, crashes included."""

    sweep_interval_seconds: float = Field(default=5.0, ge=0)
    """Pause between two sweeps, which mark expired holds and remove old rows, in seconds; 0 turns
    the sweep off. Only the size of the tables depends on it."""

    retention_days: int = Field(default=7, ge=0, le=3650)
    """How long a reservation is kept after its end if it was cancelled or has expired, in days; 0
    keeps it for ever. After that it is not found, and a payment that succeeds so late is refunded.
    A day is longer than the longest hold and payment lease. Paid reservations are never removed."""
