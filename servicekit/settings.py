"""The settings that all services share, read from prefixed environment variables."""

import ipaddress
import os
import re
import sys
from typing import Annotated, Literal, TypeVar, get_origin

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from servicekit import logs

log = logs.get(__name__)

# `make run` takes ports from such variables, and Kubernetes names the addresses of services so.
_PORTS = re.compile(r"_(PORT|SERVICE_HOST)(_|$)")


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ValueError("must be host:port, as in 127.0.0.1:9101")
    return value


ListenAddress = Annotated[str, AfterValidator(_host_and_port)]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


def config(prefix: str) -> SettingsConfigDict:
    """Returns a configuration that reads environment variables with this prefix."""
    return SettingsConfigDict(env_prefix=prefix, use_attribute_docstrings=True, frozen=True)


class ServiceSettings(BaseSettings):
    """The settings that every gRPC service has."""

    model_config = config("")

    listen: ListenAddress
    """Address of the gRPC server, host:port."""

    metrics_listen: ListenAddress
    """Address of the Prometheus metrics over HTTP, host:port."""

    log_level: LogLevel = "INFO"
    """Lowest level that is logged: DEBUG, INFO, WARNING or ERROR."""

    drain_seconds: float = Field(default=10.0, ge=0)
    """How long accepted calls may take to finish after SIGTERM, in seconds. Must be below the grace
    period of the process supervisor."""

    default_deadline_seconds: float = Field(default=10.0, gt=0)
    """Deadline of a call without one, in seconds."""


def split_address(address: str) -> tuple[str, int]:
    """Splits host:port into a pair; the host of [::1]:9101 loses its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Returns whether host:port can be reached from this machine only. A name counts as reachable
    from elsewhere, except localhost."""
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


Settings = TypeVar("Settings", bound=BaseSettings)


def load(settings: type[Settings]) -> Settings:
    """Reads the settings from the environment. If one is invalid, prints a message for each and
    exits with status 2; never echoes a value, because it may be a secret."""
    prefix = str(settings.model_config.get("env_prefix", ""))
    try:
        return settings()
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_context=False, include_url=False):
            message = problem["msg"].removeprefix("Value error, ")
            # No location: several settings do not fit together, and the message names them. The
            # rest of a location is a position in a list or a key, which may be secret.
            name = f"{prefix}{problem['loc'][0]}: ".upper() if problem["loc"] else ""
            print(f"{name}{message}", file=sys.stderr)
        sys.exit(2)
    except SettingsError as error:
        # A value is not valid JSON; only the message names its field.
        field = re.search(r'field "(\w+)"', str(error))
        if field is None:
            print(error, file=sys.stderr)
            sys.exit(2)
        is_map = get_origin(settings.model_fields[field.group(1)].annotation) is dict
        example = '{"name": "value"}' if is_map else '["one", "another"]'
        print(f"{prefix}{field.group(1).upper()}: must be JSON, such as {example}", file=sys.stderr)
        sys.exit(2)


def warn_of_unknown(settings: BaseSettings) -> None:
    """Warns of each environment variable that has the prefix of these settings and is none of
    them, such as a misspelt one. Names only: a value may be a secret."""
    prefix = str(settings.model_config.get("env_prefix", ""))
    known = {(prefix + name).upper() for name in type(settings).model_fields}
    for name in sorted(map(str.upper, os.environ)):
        if name.startswith(prefix) and name not in known and not _PORTS.search(name):
            log.warning("unknown_setting", name=name)
