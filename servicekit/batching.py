"""Natural batching: collects callers while one call is in flight, then sends them as one call.

It adds no wait when idle: a batch starts in the next turn of the event loop, with all callers of
this one. Every answer is exact. A short pause after a batch with several callers prevents small,
expensive batches long before the machine is full. The callers of a batch fail together, unless
`send` returns an error in place of a result. See docs/adr/0003-natural-batching.md.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from servicekit import call_context
from servicekit.errors import ServiceError, TimedOut, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

# The pause after a batch, per caller in it: it grows with the load, from nearly nothing.
PAUSE_EACH_SECONDS = 0.002


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    answer: asyncio.Future[Result]
    arrived: float
    context: contextvars.Context
    # Of its caller, with `direct`, until a batch has taken it.
    timeout: asyncio.Timeout | None = None


class Batcher(Generic[Item, Result]):
    """Combines calls for one item into calls for many.

    `send` gets at most `max_batch` items and returns one result per item, in order: an exception
    is raised for the caller of its item alone. At most `max_in_flight` sends run at once. Between
    the starts of two sends there is a pause: 2 ms for each caller of the first, but at most
    `longest_pause` seconds. A batch leaves out the callers who have waited more than `budget`
    seconds for it to start; they get TimedOut then, and no earlier, however long the batch before
    it takes. `max_waiting` is the most callers that wait. A batch runs in the context of its first
    caller, hence with that caller's request id.

    `direct` is for a `send` that ends within `budget` seconds by itself and may be cancelled with
    its caller. A caller who finds that a batch may start then calls it at once, which saves three
    turns of the event loop; not if the batch before had several callers, because callers who have
    travelled together come to their next step in the same turn. The batch of every other caller
    starts within half of `budget`, and otherwise its item is not sent and it gets Unavailable; so a
    batch has the other half at least. Its deadline (`call_context`) is that of its first caller: it
    works for nobody who has already got TimedOut.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        budget: float,
        max_batch: int,
        longest_pause: float = 0.0,
        max_in_flight: int = 1,
        max_waiting: int = 20_000,
        direct: bool = False,
    ) -> None:
        self._send = send
        self._budget = budget
        self._max_batch = max_batch
        self._longest_pause = longest_pause
        self._max_in_flight = max_in_flight
        self._max_waiting = max_waiting
        self._direct = direct
        self._direct_in_flight = 0
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._beginning: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._last_size = 0
        self._pause: asyncio.TimerHandle | None = None

    async def submit(self, item: Item) -> Result:
        """Returns the result of one item.

        Raises Unavailable if too many callers wait, TimedOut if earlier batches took too long (with
        `direct`, Unavailable), and whatever `send` raised for the batch of this item.
        """
        if not self._direct:
            waiting = self._enqueue(item)
            self._start_batches()
            return await waiting.answer
        if not self._waiting and self._last_size <= 1 and self._may_start():
            return await self._send_directly(item)
        waiting = self._enqueue(item)
        try:
            async with asyncio.timeout_at(waiting.arrived + self._budget / 2) as waiting.timeout:
                self._start_batches()
                return await waiting.answer
        except TimeoutError:
            raise self._too_late() if waiting.timeout else _no_answer() from None

    async def submit_all(self, items: Sequence[Item]) -> list[Result | Exception]:
        """Returns the result or the error of each item, in order; errors are those of `submit`.
        Items that come in one call travel together, as far as a batch has room."""
        if len(items) == 1:
            try:
                return [await self.submit(items[0])]
            except Exception as error:
                return [error]
        answers: list[asyncio.Future[Result] | Unavailable] = []
        for item in items:
            try:
                answers.append(self._enqueue(item).answer)
            except Unavailable as error:
                answers.append(error)
        self._start_batches()
        waiting = [answer for answer in answers if not isinstance(answer, Unavailable)]
        await asyncio.gather(*waiting, return_exceptions=True)
        results: list[Result | Exception] = []
        for answer in answers:
            if isinstance(answer, Unavailable):
                results.append(answer)
                continue
            failure = answer.exception()
            results.append(failure if isinstance(failure, Exception) else answer.result())
        return results

    def _enqueue(self, item: Item) -> _Waiting[Item, Result]:
        if len(self._waiting) >= self._max_waiting:
            raise Unavailable("Too many requests are waiting for an answer.")
        loop = asyncio.get_running_loop()
        waiting = _Waiting[Item, Result](
            item, loop.create_future(), loop.time(), contextvars.copy_context()
        )
        self._waiting.append(waiting)
        return waiting

    async def _send_directly(self, item: Item) -> Result:
        self._note_start(1)
        self._direct_in_flight += 1
        try:
            (result,) = _checked(await self._send([item]), 1)
        finally:
            self._direct_in_flight -= 1
            self._start_batches()
        if isinstance(result, Exception):
            raise result
        return result

    def fail_waiting(self, error: Exception) -> None:
        """Raises `error` for the callers that wait for a batch to start: the caller knows that none
        would succeed."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.answer.done():
                waiting.answer.set_exception(error)

    async def settled(self) -> None:
        """Returns once no batch is in flight. Its callers may be cancelled, and it goes on; not so
        what a caller has sent directly."""
        while self._in_flight:
            await asyncio.wait(self._in_flight)

    def _start_batches(self) -> None:
        """Starts a batch if one may start. It takes its callers only when its task begins, so that
        those of the same turn of the event loop travel together."""
        if not self._waiting or not self._may_start():
            return
        task = asyncio.create_task(self._run(), context=self._waiting[0].context)
        self._beginning = task
        self._in_flight.add(task)
        task.add_done_callback(self._batch_done)

    def _may_start(self) -> bool:
        """Returns whether another batch may start. If only the pause is not over, its end starts
        one."""
        in_flight = len(self._in_flight) + self._direct_in_flight
        if self._beginning or in_flight >= self._max_in_flight:
            return False
        if not self._not_before:  # without pauses, the clock need not be read
            return True
        loop = asyncio.get_running_loop()
        if loop.time() >= self._not_before:
            return True
        if self._pause is None:
            self._pause = loop.call_at(self._not_before, self._pause_over)
        return False

    def _note_start(self, size: int) -> None:
        self._last_size = size
        if self._longest_pause:
            pause = min(self._longest_pause, PAUSE_EACH_SECONDS * size)
            self._not_before = asyncio.get_running_loop().time() + pause

    def _pause_over(self) -> None:
        self._pause = None
        self._start_batches()

    def _batch_done(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if task is self._beginning:  # cancelled before it began
            self._beginning = None
        self._start_batches()

    def _take_batch(self) -> "list[_Waiting[Item, Result]]":
        now = asyncio.get_running_loop().time()
        longest_wait = self._budget / 2 if self._direct else self._budget
        batch: list[_Waiting[Item, Result]] = []
        while self._waiting and len(batch) < self._max_batch:
            waiting = self._waiting.popleft()
            if waiting.answer.done():  # the caller was cancelled
                continue
            if now > waiting.arrived + longest_wait:
                waiting.answer.set_exception(self._too_late())
                continue
            if waiting.timeout is not None:
                waiting.timeout.reschedule(waiting.arrived + self._budget)
                waiting.timeout = None
            batch.append(waiting)
        return batch

    def _too_late(self) -> ServiceError:
        """Returns the error of an item that was not sent."""
        if self._direct:
            return Unavailable("Earlier requests took too long, so this one was not begun.")
        return _no_answer()

    async def _run(self) -> None:
        self._beginning = None
        batch = self._take_batch()
        if not batch:
            return
        self._note_start(len(batch))
        self._start_batches()
        if self._direct:
            elapsed = asyncio.get_running_loop().time() - batch[0].arrived
            call_context.set_deadline(self._budget - elapsed)
        try:
            results = _checked(await self._send([waiting.item for waiting in batch]), len(batch))
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.answer.cancel()
            raise
        except Exception as error:
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting, result in zip(batch, results, strict=True):
            if waiting.answer.done():  # the caller was cancelled
                continue
            if isinstance(result, Exception):
                waiting.answer.set_exception(result)
            else:
                waiting.answer.set_result(result)


def _checked(results: Sequence[Result | Exception], count: int) -> Sequence[Result | Exception]:
    if len(results) != count:
        raise RuntimeError("`send` returned another number of results than items")
    return results


def _no_answer() -> TimedOut:
    return TimedOut("The answer took too long.")
