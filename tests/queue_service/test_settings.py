"""Which settings are refused, and that a refusal shows no secret."""

import pytest
from pydantic import ValidationError

from queue_service.settings import Settings

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_TOKEN_KEYS", f'{{"k1": "{SECRET}"}}')
    monkeypatch.setenv("QUEUE_TOKEN_SIGNING_KEY_ID", "k1")


def test_keys_are_all_it_must_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    assert settings.signing_secret == SECRET
    assert settings.rooms == ("main",)
    assert SECRET not in repr(settings)
    assert settings.admin_secret is None
    monkeypatch.setenv("QUEUE_ADMIN_TOKEN", SECRET)
    assert Settings().admin_secret == SECRET
    assert SECRET not in repr(Settings())
    monkeypatch.setenv("QUEUE_ADMIN_TOKEN", "")
    assert Settings().admin_secret is None
    assert settings.rules.seen_resolution_ms == 5_000
    monkeypatch.delenv("QUEUE_TOKEN_KEYS")
    with pytest.raises(ValidationError, match="token_keys"):
        Settings()


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("TOKEN_KEYS", '{"k1": "only-31-bytes-of-secret-here..."}', "shorter than 32 bytes"),
        ("TOKEN_SIGNING_KEY_ID", "k2", "not among QUEUE_TOKEN_KEYS"),
        ("GRACE_SECONDS", "60", "QUEUE_GRACE_SECONDS must be above"),
        ("CLAIM_WINDOW_SECONDS", "60", "QUEUE_CLAIM_WINDOW_SECONDS must be above"),
        ("ABSENT_AFTER_SECONDS", "90", "QUEUE_ABSENT_AFTER_SECONDS must be above"),
        ("POLL_MIN_SECONDS", "61", "QUEUE_POLL_MIN_SECONDS is above"),
        ("ADMIN_TOKEN", "31-bytes-of-secret-and-no-more!", "shorter than 32 bytes"),
        ("CAPACITY", "-1", "greater than or equal to 0"),
        ("ROOMS", '["a b"]', "should match pattern"),
        ("ROOMS", "[]", "at least 1 item"),
    ],
)
def test_what_cannot_work_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(f"QUEUE_{name}", value)
    with pytest.raises(ValidationError, match=complaint) as refusal:
        Settings()
    assert "of-secret" not in str(refusal.value)
