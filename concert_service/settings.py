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
