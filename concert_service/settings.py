"""Settings of concert_service, from CONCERT_* environment variables."""

from pydantic import Field

from servicekit.settings import ListenAddress, ServiceSettings, config


class Settings(ServiceSettings):
    """Settings of concert_service."""

    model_config = config("CONCERT_")

    listen: ListenAddress = "127.0.0.1:9102"
    """Address of the gRPC server, host:port."""

    metrics_listen: ListenAddress = "127.0.0.1:9202"
    """Address of the Prometheus metrics over HTTP, host:port."""

    mysql_url: str = "mysql://concert:concert@127.0.0.1:3306/concert"
    """The MariaDB schema, mysql://user:password@host:port/schema."""

    mysql_connections: int = Field(default=16, ge=1, le=1000)
    """Most connections of this process to MariaDB."""

    cached_schedules: int = Field(default=500, ge=1)
    """Most schedules whose seats are cached in memory; 150 seats take about 40 kB. A schedule with
    more seats counts as several."""

    cache_seconds: float = Field(default=60.0, ge=0, le=3600)
    """Maximum age of cached seats, in seconds: prices and dates hardly change."""
