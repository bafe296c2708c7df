"""Records, and the headers that dead letters and replays carry."""

from dataclasses import dataclass, field

DEAD_LETTER_SUFFIX = ".dlq"
# Where a dead letter came from and why it failed; the record's own headers stay beside these.
DEAD_LETTER_HEADER = "dlq-"
# A replayed record is for the group that failed on it. If every group handled it, each replay
# would double the dead letters of a record that two groups cannot handle.
REPLAY_HEADER = "replay-group"


class PoisonRecord(Exception):
    """A handler raises it for a record that no attempt can handle: the record goes to the
    dead-letter topic at once."""


@dataclass(frozen=True)
class Record:
    """One record, published or consumed. The key decides the partition, and records of one
    partition keep their order."""

    topic: str
    key: bytes
    value: bytes
    headers: dict[str, bytes] = field(default_factory=dict)
