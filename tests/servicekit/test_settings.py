"""Settings from the environment, and what is said of bad ones."""

from typing import Annotated, Self

import pytest
from pydantic import AfterValidator, Field, model_validator
from structlog.testing import CapturingLogger

from servicekit import settings as settings_module
from servicekit.settings import ServiceSettings, config, load, split_address, warn_of_unknown

SECRET = "hunter2-hunter2"


def _long_enough(keys: dict[str, str]) -> dict[str, str]:
    if any(len(secret) < 32 for secret in keys.values()):
        raise ValueError("must each have 32 bytes or more")
    return keys


class Settings(ServiceSettings):
    model_config = config("TESTS_")

    listen: str = "127.0.0.1:9100"
    metrics_listen: str = "127.0.0.1:9200"
    store_url: str = "redis://127.0.0.1"
    keys: Annotated[dict[str, str], AfterValidator(_long_enough)] = Field(default_factory=dict)
    pool_size: int = Field(default=10, ge=1)
    hosts: tuple[Annotated[str, Field(max_length=3)], ...] = ()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.pool_size == 13:
            raise ValueError("TESTS_POOL_SIZE must not be 13")
        return self


class Strict(ServiceSettings):
    model_config = config("TESTS_")


def test_the_environment_overrides_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTS_POOL_SIZE", "7")
    monkeypatch.setenv("TESTS_DRAIN_SECONDS", "0.5")
    monkeypatch.setenv("POOL_SIZE", "8")
    settings = load(Settings)
    assert (settings.pool_size, settings.drain_seconds) == (7, 0.5)


def test_what_is_bad_is_named_in_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TESTS_POOL_SIZE", "0")
    monkeypatch.setenv("TESTS_LOG_LEVEL", "LOUD")
    monkeypatch.setenv("TESTS_DRAIN_SECONDS", "-1")
    with pytest.raises(SystemExit) as stopped:
        load(Settings)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "TESTS_LOG_LEVEL",
        "TESTS_DRAIN_SECONDS",
        "TESTS_POOL_SIZE",
    ]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("POOL_SIZE", "13", "TESTS_POOL_SIZE must not be 13"),
        ("KEYS", '{"a": "short"}', "TESTS_KEYS: must each have 32 bytes or more"),
        ("KEYS", "a", 'TESTS_KEYS: must be JSON, such as {"name": "value"}'),
        ("HOSTS", "a", 'TESTS_HOSTS: must be JSON, such as ["one", "another"]'),
        ("HOSTS", '["abcd"]', "TESTS_HOSTS: String should have at most 3 characters"),
    ],
)
def test_a_message_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    said: str,
) -> None:
    monkeypatch.setenv(f"TESTS_{name}", value)
    with pytest.raises(SystemExit):
        load(Settings)
    assert capsys.readouterr().err == f"{said}\n"


def test_a_variable_that_is_no_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    log = CapturingLogger()
    monkeypatch.setattr(settings_module, "log", log)
    for name in ("TESTS_POOL_SIZE", "tests_keys", "OTHER_POOL_SIZ", "TESTSPOOL"):
        monkeypatch.setenv(name, "{}" if name == "tests_keys" else "7")
    # As Kubernetes names the addresses of a service `tests`.
    for name in ("TESTS_PORT", "TESTS_PORT_80_TCP_ADDR", "TESTS_SERVICE_HOST"):
        monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    warn_of_unknown(load(Settings))
    assert log.calls == []
    monkeypatch.setenv("TESTS_POOL_SIZ", SECRET)
    warn_of_unknown(load(Settings))
    (call,) = log.calls
    assert (call.method_name, call.args, call.kwargs) == (
        "warning",
        ("unknown_setting",),
        {"name": "TESTS_POOL_SIZ"},
    )


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(Strict)
    assert capsys.readouterr().err.splitlines() == [
        "TESTS_LISTEN: Field required",
        "TESTS_METRICS_LISTEN: Field required",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TESTS_KEYS", '{"a": "' + SECRET + '"}'),
        ("TESTS_KEYS", '{"a": ["' + SECRET + '"]}'),
        ("TESTS_KEYS", '{"a": "' + SECRET),
        ("TESTS_KEYS", SECRET),
        ("TESTS_POOL_SIZE", SECRET),
        ("TESTS_LOG_LEVEL", SECRET),
    ],
)
def test_no_value_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        load(Settings)
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(name)
    assert SECRET not in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("value", ["9101", ":9101", "host", "host:", "host:x", "h:70000", "h:-1"])
def test_an_address_is_host_and_port(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TESTS_LISTEN", value)
    monkeypatch.setenv("TESTS_METRICS_LISTEN", "127.0.0.1:9200")
    with pytest.raises(SystemExit):
        load(Strict)


def test_an_address_is_taken_apart() -> None:
    assert split_address("127.0.0.1:9101") == ("127.0.0.1", 9101)
    assert split_address("[::1]:9101") == ("::1", 9101)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(Settings).pool_size = 3
