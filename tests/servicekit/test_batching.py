"""Natural batching: what is sent together, when, and which caller gets which result."""

import asyncio
from collections.abc import Sequence

import pytest

from servicekit import call_context
from servicekit.batching import PAUSE_EACH_SECONDS, Batcher
from servicekit.errors import ServiceError, TimedOut, Unavailable
from tests.virtual_time import run

MAX_BATCH = 256


class Sends:
    """Doubles every number it is sent, once it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.request_ids: list[str] = []
        self.error: Exception | None = None
        self._gate = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        self.request_ids.append(call_context.request_id.get())
        await self._gate.wait()
        if self.error is not None:
            raise self.error
        return [2 * item for item in items]

    def let_go(self) -> None:
        self._gate.set()

    def hold(self) -> None:
        self._gate.clear()


async def settle() -> None:
    """Lets every task run until it waits for something outside."""
    for _ in range(20):
        await asyncio.sleep(0)


def batcher(
    sends: Sends,
    *,
    budget: float = 10,
    max_in_flight: int = 1,
    max_waiting: int = 20_000,
    direct: bool = False,
) -> Batcher[int, int]:
    return Batcher(
        sends,
        budget=budget,
        max_batch=MAX_BATCH,
        max_in_flight=max_in_flight,
        max_waiting=max_waiting,
        direct=direct,
    )


def submit(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.submit(item)) for item in items]


async def test_the_idle_wait_for_nobody() -> None:
    sends = Sends()
    (task,) = submit(batcher(sends), 1)
    await asyncio.sleep(0)  # the caller runs
    await asyncio.sleep(0)  # its batch runs
    assert sends.batches == [[1]]
    sends.let_go()
    assert await task == 2


async def test_who_comes_while_a_batch_is_under_way_goes_together() -> None:
    sends = Sends()
    tasks = submit(one := batcher(sends), 1)
    await settle()
    tasks += submit(one, *range(2, 50))
    await settle()
    assert sends.batches == [[1]]
    sends.let_go()
    assert await asyncio.gather(*tasks) == [2 * item for item in range(1, 50)]
    assert sends.batches == [[1], list(range(2, 50))]


async def test_who_comes_in_the_same_turn_of_the_event_loop_goes_together() -> None:
    sends = Sends()
    tasks = submit(batcher(sends, max_in_flight=2), 1, 2, 3)
    await asyncio.sleep(0)  # the callers run
    await asyncio.sleep(0)  # their batch runs
    assert sends.batches == [[1, 2, 3]]
    sends.let_go()
    assert await asyncio.gather(*tasks) == [2, 4, 6]


async def test_the_larger_a_batch_the_longer_the_next_is_collected() -> None:
    sends = Sends()
    sends.let_go()
    one = Batcher(sends, budget=10, max_batch=MAX_BATCH, longest_pause=1)
    clock = asyncio.get_running_loop().time
    began = clock()
    await asyncio.gather(*submit(one, *range(100)))
    # Long since answered, yet the next ones wait, and go together.
    assert await asyncio.gather(*submit(one, 100, 101)) == [200, 202]
    assert [len(batch) for batch in sends.batches] == [100, 2]
    assert clock() - began >= 100 * PAUSE_EACH_SECONDS


async def test_no_pause_is_longer_than_allowed() -> None:
    sends = Sends()
    sends.let_go()
    one = Batcher(sends, budget=10, max_batch=MAX_BATCH, longest_pause=0.001)
    async with asyncio.timeout(1):
        await asyncio.gather(*submit(one, *range(2_000)))


async def test_who_comes_after_the_pause_waits_for_nobody() -> None:
    sends = Sends()
    sends.let_go()
    one = Batcher(sends, budget=10, max_batch=MAX_BATCH, longest_pause=1)
    await one.submit(1)
    await asyncio.sleep(1.1 * PAUSE_EACH_SECONDS)
    submit(one, 2)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sends.batches == [[1], [2]]


async def test_a_batch_has_at_most_256_items() -> None:
    sends = Sends()
    tasks = submit(one := batcher(sends), 0)
    await settle()
    tasks += submit(one, *range(1, 601))
    await settle()
    sends.let_go()
    assert await asyncio.gather(*tasks) == [2 * item for item in range(601)]
    assert [len(batch) for batch in sends.batches] == [1, MAX_BATCH, MAX_BATCH, 600 - 2 * MAX_BATCH]


async def test_no_more_batches_are_under_way_than_allowed() -> None:
    sends = Sends()
    one = batcher(sends, max_in_flight=2)
    tasks = []
    for item in range(4):
        tasks += submit(one, item)
        await settle()
    assert sends.batches == [[0], [1]]
    sends.let_go()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6]


async def test_everybody_gets_their_own_answer_in_any_disorder() -> None:
    async def send(items: Sequence[int]) -> Sequence[int]:
        await asyncio.sleep(0.0001 * (items[0] % 5))
        return [-item for item in items]

    one = Batcher(send, budget=10, max_batch=MAX_BATCH, max_in_flight=3)

    async def ask(item: int) -> None:
        await asyncio.sleep(0.0001 * (item * 7 % 90))
        assert await one.submit(item) == -item

    await asyncio.gather(*(ask(item) for item in range(1_000)))


async def test_who_has_gone_away_is_not_sent() -> None:
    sends = Sends()
    first, *rest = submit(one := batcher(sends), 1)
    await settle()
    rest = submit(one, 2, 3, 4)
    await settle()
    rest[1].cancel()
    await settle()
    sends.let_go()
    assert list(await asyncio.gather(first, rest[0], rest[2])) == [2, 4, 8]
    assert sends.batches == [[1], [2, 4]]


async def test_who_goes_away_in_flight_spoils_nothing() -> None:
    sends = Sends()
    tasks = submit(one := batcher(sends), 1)
    await settle()
    tasks += submit(one, 2, 3)
    await settle()
    tasks[0].cancel()
    await settle()
    sends.let_go()
    assert await asyncio.gather(*tasks[1:]) == [4, 6]


async def test_nobody_left_sends_nothing() -> None:
    sends = Sends()
    tasks = submit(one := batcher(sends), 1)
    await settle()
    gone = submit(one, 2, 3)
    await settle()
    for task in gone:
        task.cancel()
    sends.let_go()
    await tasks[0]
    await settle()
    assert sends.batches == [[1]]
    assert await one.submit(5) == 10


async def test_a_batch_that_fails_fails_its_own_callers_only() -> None:
    sends = Sends()
    first = submit(one := batcher(sends), 1)
    await settle()
    second = submit(one, 2, 3)
    await settle()
    sends.error = Unavailable("down")
    sends.let_go()
    with pytest.raises(Unavailable):
        await first[0]
    sends.error = None
    assert await asyncio.gather(*second) == [4, 6]


async def test_an_error_in_place_of_a_result_is_raised_for_its_caller_alone() -> None:
    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        return [Unavailable("odd") if item % 2 else item for item in items]

    batcher = Batcher[int, int](send, budget=1.0, max_batch=MAX_BATCH)
    results = await asyncio.gather(*map(batcher.submit, range(4)), return_exceptions=True)
    assert [type(result) for result in results] == [int, Unavailable, int, Unavailable]


async def test_items_of_one_call_travel_together_and_fail_alone() -> None:
    batches: list[list[int]] = []

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        batches.append(list(items))
        return [ValueError(item) if item % 2 else item for item in items]

    subject = Batcher(send, budget=10, max_batch=3, max_waiting=4)
    two, three, *_, five, six = await subject.submit_all([2, 3, 4, 5, 6])
    assert batches == [[2, 3, 4], [5]]
    assert (two, repr(three), repr(five)) == (2, "ValueError(3)", "ValueError(5)")
    assert isinstance(six, Unavailable), "only four may wait"
    assert await subject.submit_all([]) == []


async def test_who_goes_away_with_several_items_is_not_sent() -> None:
    sends = Sends()
    subject = batcher(sends)
    [first] = submit(subject, 1)
    await settle()
    several = asyncio.create_task(subject.submit_all([2, 3]))
    [last] = submit(subject, 4)
    await settle()
    several.cancel()
    await settle()
    sends.let_go()
    assert (await first, await last) == (2, 8)
    assert sends.batches == [[1], [4]]


async def test_another_number_of_answers_is_no_answer() -> None:
    async def send(items: Sequence[int]) -> Sequence[int]:
        return items[1:]

    with pytest.raises(RuntimeError, match="number of results"):
        await Batcher(send, budget=10, max_batch=MAX_BATCH).submit(1)


async def test_too_many_are_turned_away_at_once() -> None:
    sends = Sends()
    tasks = submit(one := batcher(sends, max_waiting=3), 0)
    await settle()
    tasks += submit(one, 1, 2, 3)
    await settle()
    with pytest.raises(Unavailable):
        await one.submit(4)
    sends.let_go()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6]
    assert await one.submit(4) == 8


async def test_who_waited_too_long_is_told_so_and_not_sent() -> None:
    sends = Sends()
    tasks = submit(one := batcher(sends, budget=0.2), 1)
    await settle()
    late = submit(one, 2)
    await asyncio.sleep(0.25)
    fresh = submit(one, 3)
    await settle()
    sends.let_go()
    assert list(await asyncio.gather(tasks[0], fresh[0])) == [2, 6]
    with pytest.raises(TimedOut):
        await late[0]
    assert sends.batches == [[1], [3]]


async def test_a_batch_has_the_request_id_of_its_first_caller() -> None:
    sends = Sends()
    one = batcher(sends)

    async def ask(item: int) -> int:
        call_context.request_id.set(f"request-{item}")
        return await one.submit(item)

    tasks = [asyncio.create_task(ask(1))]
    await settle()
    tasks += [asyncio.create_task(ask(item)) for item in (2, 3)]
    await settle()
    sends.let_go()
    await asyncio.gather(*tasks)
    assert sends.request_ids == ["request-1", "request-2"]


async def test_cancelling_the_send_lets_nobody_hang() -> None:
    async def send(items: Sequence[int]) -> Sequence[int]:
        raise asyncio.CancelledError

    one = Batcher(send, budget=10, max_batch=MAX_BATCH)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(one.submit(1), 1)


class TestSendingDirectly:
    async def test_a_caller_who_finds_nobody_sends_in_the_same_turn(self) -> None:
        sends = Sends()
        (task,) = submit(one := batcher(sends, direct=True), 1)
        await asyncio.sleep(0)  # the caller runs
        assert sends.batches == [[1]]
        tasks = [task, *submit(one, 2, 3)]
        await settle()
        assert sends.batches == [[1]]
        sends.let_go()
        assert await asyncio.gather(*tasks) == [2, 4, 6]
        assert sends.batches == [[1], [2, 3]]

    async def test_callers_who_have_travelled_together_go_on_together(self) -> None:
        batches: list[list[int]] = []

        async def send(items: Sequence[int]) -> Sequence[int]:
            batches.append(list(items))
            await asyncio.sleep(0.001)
            return items

        one = Batcher(send, budget=10, max_batch=MAX_BATCH, max_in_flight=2, direct=True)
        await asyncio.gather(*submit(one, 1, 2, 3, 4))
        # The first two find nobody; the others have travelled together.
        await asyncio.gather(*submit(one, 5, 6, 7))
        await asyncio.gather(*submit(one, 8, 9))
        assert batches == [[1], [2], [3, 4], [5, 6, 7], [8, 9]]
        await one.submit(10)
        (task,) = submit(one, 11)
        await asyncio.sleep(0)  # the caller runs
        assert batches[-1] == [11]
        await task

    async def test_a_failure_is_the_callers_and_the_next_ones_go_on(self) -> None:
        async def send(items: Sequence[int]) -> Sequence[int]:
            await asyncio.sleep(0)
            if 1 in items:
                raise Unavailable("down")
            return items

        one = Batcher(send, budget=10, max_batch=MAX_BATCH, direct=True)
        results = await asyncio.gather(*map(one.submit, (1, 2, 3)), return_exceptions=True)
        assert isinstance(results[0], Unavailable)
        assert results[1:] == [2, 3]

    async def test_an_error_in_place_of_the_result_is_raised(self) -> None:
        async def send(items: Sequence[int]) -> Sequence[int | Exception]:
            return [Unavailable("odd") for _ in items]

        one = Batcher[int, int](send, budget=1, max_batch=MAX_BATCH, direct=True)
        with pytest.raises(Unavailable, match="odd"):
            await one.submit(1)

    async def test_another_number_of_answers_is_no_answer(self) -> None:
        async def send(items: Sequence[int]) -> Sequence[int]:
            return []

        with pytest.raises(RuntimeError, match="number of results"):
            await Batcher(send, budget=10, max_batch=MAX_BATCH, direct=True).submit(1)

    async def test_a_cancelled_caller_ends_its_send_and_lets_the_next_go(self) -> None:
        sends = Sends()
        (gone,) = submit(one := batcher(sends, direct=True), 1)
        await settle()
        waiting = submit(one, 2, 3)
        await settle()
        gone.cancel()
        await settle()
        assert sends.batches == [[1], [2, 3]]
        sends.let_go()
        assert await asyncio.gather(*waiting) == [4, 6]

    async def test_it_waits_for_the_end_of_a_pause(self) -> None:
        sends = Sends()
        sends.let_go()
        one = Batcher(sends, budget=10, max_batch=MAX_BATCH, longest_pause=1, direct=True)
        await one.submit(1)
        await asyncio.gather(*submit(one, 2, 3))
        assert sends.batches == [[1], [2, 3]]

    def test_who_waits_has_a_deadline_of_its_own_and_so_has_each_batch(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            batches: list[tuple[list[int], float]] = []
            gates = [asyncio.Event() for _ in range(4)]

            async def send(items: Sequence[int]) -> Sequence[int]:
                batches.append((list(items), round(call_context.remaining(100), 3)))
                await gates[items[0]].wait()
                return items

            async def outcome(item: int) -> tuple[str, float]:
                try:
                    code = str(await one.submit(item))
                except ServiceError as error:
                    code = error.code
                return code, round(now() - began, 3)

            async def ask(item: int, at: float) -> asyncio.Task[tuple[str, float]]:
                await asyncio.sleep(began + at - now())
                return asyncio.create_task(outcome(item))

            one = Batcher(send, budget=4, max_batch=MAX_BATCH, direct=True)
            now = asyncio.get_running_loop().time
            began = now()
            first = await ask(0, 0)
            unsent = await ask(1, 0.5)
            early = await ask(2, 1.5)
            late = await ask(3, 2.75)
            await asyncio.sleep(began + 3 - now())
            gates[0].set()
            # Half of its time was over before a batch could start.
            assert await unsent == ("UNAVAILABLE", 2.5)
            assert await first == ("0", 3)
            # Its batch is on its way, and serves one who has more time.
            assert await early == ("TIMEOUT", 5.5)
            gates[2].set()
            assert await late == ("3", 5.5)
            # What is sent alone has no deadline but its caller's; a batch that of its first caller.
            assert batches == [([0], 100), ([2, 3], 2.5)]

        run(main(), monkeypatch)

    def test_no_batch_is_late_for_one_of_several_items(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            sends = Sends()
            one = batcher(sends, budget=4, direct=True)
            first = asyncio.create_task(one.submit(1))
            await settle()
            several = asyncio.create_task(one.submit_all([2, 3]))
            await asyncio.sleep(2.5)
            sends.let_go()
            assert await first == 2
            codes = [type(result) for result in await several]
            assert codes == [Unavailable, Unavailable]
            assert sends.batches == [[1]]

        run(main(), monkeypatch)
