"""The gateway's settings."""

import json

import pytest

from gateway.settings import Settings
from servicekit.settings import load
from tests.gateway.fakes import KEYS


def test_only_the_keys_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TOKEN_KEYS", json.dumps(KEYS))
    settings = load(Settings)
    assert {key: secret.get_secret_value() for key, secret in settings.token_keys.items()} == KEYS
    assert settings.listen == "127.0.0.1:8080"


@pytest.mark.parametrize("keys", [{}, {"a": "short"}, KEYS | {"b": "short"}])
def test_weak_keys_are_refused_without_showing_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], keys: dict[str, str]
) -> None:
    monkeypatch.setenv("GATEWAY_TOKEN_KEYS", json.dumps(keys))
    with pytest.raises(SystemExit):
        load(Settings)
    shown = capsys.readouterr().err
    assert shown.startswith("GATEWAY_TOKEN_KEYS: ")
    assert not any(secret in shown for secret in keys.values())


@pytest.mark.parametrize("setting", ["ADMISSION_TTL_SECONDS", "SEATS_TTL_SECONDS"])
def test_staleness_that_the_contract_limits_to_a_second_cannot_be_longer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    monkeypatch.setenv("GATEWAY_TOKEN_KEYS", json.dumps(KEYS))
    monkeypatch.setenv(f"GATEWAY_{setting}", "1.1")
    with pytest.raises(SystemExit):
        load(Settings)
    assert f"GATEWAY_{setting}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"CHALLENGE": "altcha"}, "CHALLENGE_ALTCHA_KEY"),
        ({"CHALLENGE": "altcha", "CHALLENGE_ALTCHA_KEY": "short"}, "CHALLENGE_ALTCHA_KEY"),
        ({"CHALLENGE": "http"}, "CHALLENGE_HTTP_URL"),
        (
            {"CHALLENGE": "http", "CHALLENGE_HTTP_URL": "https://provider.test"},
            "CHALLENGE_HTTP_SECRET",
        ),
        (
            {
                "CHALLENGE": "http",
                "CHALLENGE_HTTP_URL": "https://provider.test",
                "CHALLENGE_HTTP_SECRET": "hidden",
            },
            "CHALLENGE_HTTP_SITE_KEY",
        ),
        ({"TRUSTED_PROXIES": '["10.0.0.1/8"]'}, "TRUSTED_PROXIES"),
        ({"TRUSTED_PROXIES": '["proxy"]'}, "TRUSTED_PROXIES"),
    ],
)
def test_half_a_challenge_or_no_network_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, str],
    missing: str,
) -> None:
    monkeypatch.setenv("GATEWAY_TOKEN_KEYS", json.dumps(KEYS))
    for name, value in settings.items():
        monkeypatch.setenv(f"GATEWAY_{name}", value)
    with pytest.raises(SystemExit):
        load(Settings)
    shown = capsys.readouterr().err
    assert f"GATEWAY_{missing}" in shown
    assert not any(secret in shown for secret in ("short", "hidden"))
