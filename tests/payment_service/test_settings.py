"""Which provider is used, and where it has to be named."""

import pytest
from structlog.testing import CapturingLogger

from payment_service import providers
from payment_service.providers import connect_provider
from payment_service.providers.http import HttpProvider
from payment_service.providers.sandbox import SandboxProvider
from payment_service.settings import Settings
from servicekit.settings import load

LOOPBACK = ["127.0.0.1:9104", "127.1.2.3:9104", "[::1]:9104", "localhost:9104"]
REACHABLE = ["0.0.0.0:9104", "10.0.0.5:9104", "[::]:9104", "payment:9104"]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    log = CapturingLogger()
    monkeypatch.setattr(providers, "log", log)
    return log


@pytest.mark.parametrize("listen", LOOPBACK)
async def test_on_a_loopback_address_the_sandbox_is_the_default_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, log: CapturingLogger, listen: str
) -> None:
    monkeypatch.setenv("PAYMENT_PROVIDER", "")
    monkeypatch.setenv("PAYMENT_LISTEN", listen)
    async with connect_provider(load(Settings)) as provider:
        assert isinstance(provider, SandboxProvider)
    assert [(call.method_name, *call.args) for call in log.calls] == [
        ("warning", "sandbox_by_default")
    ]


@pytest.mark.parametrize("listen", REACHABLE)
def test_elsewhere_the_start_is_refused_until_the_provider_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], listen: str
) -> None:
    monkeypatch.delenv("PAYMENT_PROVIDER", raising=False)
    monkeypatch.setenv("PAYMENT_LISTEN", listen)
    with pytest.raises(SystemExit) as refused:
        load(Settings)
    assert refused.value.code == 2
    assert "PAYMENT_PROVIDER must be set" in capsys.readouterr().err


@pytest.mark.parametrize("listen", [*LOOPBACK, *REACHABLE])
@pytest.mark.parametrize(("name", "kind"), [("sandbox", SandboxProvider), ("http", HttpProvider)])
async def test_a_named_provider_is_used_anywhere_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, log: CapturingLogger, listen: str, name: str, kind: type
) -> None:
    monkeypatch.setenv("PAYMENT_PROVIDER", name)
    monkeypatch.setenv("PAYMENT_LISTEN", listen)
    async with connect_provider(load(Settings)) as provider:
        assert isinstance(provider, kind)
    assert log.calls == []
