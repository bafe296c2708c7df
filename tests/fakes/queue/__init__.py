"""A waiting room in memory: what `QueueRepository` promises, without Redis.

Runs the same contract tests (tests/queue_service/test_waiting_room.py). Its clock moves
only when a test advances it.
"""

from tests.fakes.queue.state import CHUNK as CHUNK
from tests.fakes.queue.state import number_at as number_at
from tests.fakes.queue.store import FakeQueueStore as FakeQueueStore
