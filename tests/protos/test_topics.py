"""The command that creates the topics."""

import pytest
from aiokafka.errors import InvalidTopicError

from protos import topics


async def test_a_topic_that_kafka_refuses_is_an_error(
    kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "TOPICS", {"no such name": 1})
    with pytest.raises(InvalidTopicError):
        await topics.create(kafka_bootstrap)


def test_without_an_address_it_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    assert topics.main() == 2
    assert capsys.readouterr().err.count("\n") == 1
