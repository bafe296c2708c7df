"""One call to another service: its error, its deadline, its request id, its retries."""

import asyncio
import time

import grpc
import pytest

from servicekit import call_context
from servicekit.client import call
from servicekit.errors import Conflict, Unavailable
from servicekit.rpc_errors import RemoteError
from tests.servicekit.hops import Method, connected, hop, start


class SeatHeld(Conflict):
    code = "SEAT_HELD"


async def echo(request: bytes) -> bytes:
    return request


async def error_of(method: Method, budget: float = 5) -> RemoteError:
    """What the call fails with."""
    with pytest.raises(RemoteError) as failed:
        await call(method, b"", budget=budget)
    return failed.value


async def test_a_call_gets_its_reply() -> None:
    async with hop(echo) as method:
        assert await call(method, b"hello", budget=5) == b"hello"


class TestErrors:
    @pytest.mark.parametrize("hops", [1, 2, 3])
    async def test_cross_any_number_of_hops_intact(self, hops: int) -> None:
        async def fail(_: bytes) -> bytes:
            raise SeatHeld("Sitz 7 ist leider vergeben: schön war er.", seat_id=7, code="x")

        async def over(method: Method, more: int) -> RemoteError:
            if more == 0:
                return await error_of(method)

            async def hand_on(request: bytes) -> bytes:
                return await call(method, request, budget=5)

            async with hop(hand_on) as next_method:
                return await over(next_method, more - 1)

        async with hop(fail) as method:
            error = await over(method, hops - 1)
        assert (error.code, error.detail) == (
            "SEAT_HELD",
            "Sitz 7 ist leider vergeben: schön war er.",
        )
        assert error.metadata == {"seat_id": "7", "code": "x"}
        assert error.status == grpc.StatusCode.ALREADY_EXISTS

    async def test_that_are_defects_are_masked_and_logged_where_they_happened(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def fail(_: bytes) -> bytes:
            raise LookupError("SELECT * FROM seats at db-7")

        async with hop(fail) as method:

            async def hand_on(request: bytes) -> bytes:
                return await call(method, request, budget=5)

            async with hop(hand_on) as outer:
                error = await error_of(outer)
        assert (error.code, error.status) == ("INTERNAL", grpc.StatusCode.INTERNAL)
        assert "db-7" not in str(error)
        assert [record.message for record in caplog.records] == ["call_failed"]

    async def test_that_cannot_be_encoded_are_masked_too(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def answer_with_text(_: bytes) -> bytes:
            return "no bytes"  # type: ignore[return-value]

        async with hop(answer_with_text) as method:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await method(b"")
        assert failed.value.code() == grpc.StatusCode.INTERNAL
        assert failed.value.details() == "internal error"
        assert [record.message for record in caplog.records] == ["call_failed"]

    async def test_of_a_method_that_there_is_not(self, caplog: pytest.LogCaptureFixture) -> None:
        server, address = await start(echo)
        async with grpc.aio.insecure_channel(address) as channel:
            error = await error_of(channel.unary_unary("/frontrow.tests.Hop/Undo"))
        await server.stop(None)
        assert (error.code, error.status) == ("INTERNAL", grpc.StatusCode.UNIMPLEMENTED)
        (record,) = caplog.records
        assert record.message == "unexpected_status"
        assert vars(record)["method"] == "/frontrow.tests.Hop/Undo"
        assert vars(record)["status"] == "UNIMPLEMENTED"

    async def test_of_a_service_that_is_not_there(self) -> None:
        async with connected("127.0.0.1:1") as method:
            error = await error_of(method)
        assert error.code == "UNAVAILABLE"
        assert "127.0.0.1" not in error.detail


class TestDeadlines:
    async def test_a_call_ends_with_its_budget(self) -> None:
        ended = asyncio.Event()

        async def sleep(_: bytes) -> bytes:
            try:
                await asyncio.sleep(30)
            finally:
                ended.set()
            return b""

        async with hop(sleep) as method:
            started = time.monotonic()
            assert (await error_of(method, budget=0.3)).code == "TIMEOUT"
            assert time.monotonic() - started < 2
            # And so does the work for it.
            await asyncio.wait_for(ended.wait(), 2)

    @pytest.mark.parametrize(("callers_budget", "own_budget", "left"), [(5, 60, 5), (60, 5, 5)])
    async def test_the_smaller_of_budget_and_deadline_goes_on(
        self, callers_budget: float, own_budget: float, left: float
    ) -> None:
        seen = []

        async def check(request: bytes) -> bytes:
            seen.append(call_context.remaining(3_600))
            return request

        async with hop(check) as method:

            async def hand_on(request: bytes) -> bytes:
                return await call(method, request, budget=own_budget)

            async with hop(hand_on) as outer:
                await call(outer, b"", budget=callers_budget)
        assert len(seen) == 1
        # On the wire a deadline of seconds is rounded up to hundredths.
        assert 0 < seen[0] <= left + 0.01

    async def test_a_deadline_two_hops_away_ends_both(self) -> None:
        ended = []

        async def sleep(_: bytes) -> bytes:
            try:
                await asyncio.sleep(30)
            finally:
                ended.append("inner")
            return b""

        async with hop(sleep) as method:

            async def hand_on(request: bytes) -> bytes:
                try:
                    return await call(method, request, budget=30)
                finally:
                    ended.append("outer")

            async with hop(hand_on) as outer:
                assert (await error_of(outer, budget=0.4)).code == "TIMEOUT"
                async with asyncio.timeout(2):
                    while len(ended) < 2:  # noqa: ASYNC110
                        await asyncio.sleep(0.005)
        assert sorted(ended) == ["inner", "outer"]

    async def test_who_gives_none_gets_the_default(self) -> None:
        seen = []

        async def check(request: bytes) -> bytes:
            seen.append(call_context.remaining(3_600))
            await asyncio.sleep(float(request))
            return b""

        async with hop(check, default_deadline_seconds=0.2) as method:
            await method(b"0")
            assert 0 < seen[0] <= 0.2
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await method(b"30")
            assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED

    async def test_nothing_left_fails_at_once(self) -> None:
        called = False

        async def note(request: bytes) -> bytes:
            nonlocal called
            called = True
            return request

        async def ask(method: Method) -> str:
            call_context.set_deadline(-1)
            assert call_context.remaining(5) == 0
            return (await error_of(method)).code

        async with hop(note) as method:
            assert await asyncio.create_task(ask(method)) == "TIMEOUT"
        assert not called

    async def test_outside_of_a_call_the_budget_counts_alone(self) -> None:
        assert call_context.remaining(7) == 7


class TestTheRequestId:
    async def test_goes_on_over_two_hops_and_stays_with_its_call(self) -> None:
        async def answer(_: bytes) -> bytes:
            return call_context.request_id.get().encode()

        async with hop(answer) as method:

            async def hand_on(request: bytes) -> bytes:
                await asyncio.sleep(0.001 * (int(request) % 3))
                inner = await call(method, request, budget=5)
                return inner + b" " + call_context.request_id.get().encode()

            async with hop(hand_on) as outer:

                async def ask(number: int) -> bytes:
                    call_context.request_id.set(f"request-{number}")
                    return await call(outer, b"%d" % number, budget=5)

                replies = await asyncio.gather(*(ask(number) for number in range(50)))
        assert replies == [b"request-%d request-%d" % (n, n) for n in range(50)]

    @pytest.mark.parametrize("request_id", ["", "x" * 65, "x" * 6_000])
    async def test_is_replaced_if_it_is_none_of_ours(self, request_id: str) -> None:
        async def answer(_: bytes) -> bytes:
            return call_context.request_id.get().encode()

        async with hop(answer) as method:
            metadata = ((call_context.REQUEST_ID_HEADER, request_id),)
            assert len(await method(b"", timeout=5, metadata=metadata)) == 32

    async def test_is_made_for_who_has_none(self) -> None:
        async def answer(_: bytes) -> bytes:
            return call_context.request_id.get().encode()

        async with hop(answer) as method:
            ids = {await method(b"", timeout=5) for _ in range(3)}
        assert {len(request_id) for request_id in ids} == {32}
        assert len(ids) == 3


class TestRetries:
    async def failing(self, times: int, *, idempotent: bool) -> str:
        """The result of a method that is unavailable so many times, and the number of calls."""
        calls = 0

        async def fail(request: bytes) -> bytes:
            nonlocal calls
            calls += 1
            if calls <= times:
                raise Unavailable("down")
            return b"done"

        async with hop(fail, idempotent=idempotent) as method:
            try:
                outcome = (await call(method, b"", budget=5)).decode()
            except RemoteError as error:
                outcome = error.code
        return f"{outcome} after {calls}"

    async def test_what_is_idempotent_is_tried_three_times(self) -> None:
        assert await self.failing(2, idempotent=True) == "done after 3"
        assert await self.failing(99, idempotent=True) == "UNAVAILABLE after 3"

    async def test_what_is_not_is_tried_once(self) -> None:
        assert await self.failing(1, idempotent=False) == "UNAVAILABLE after 1"

    async def test_an_answer_is_not_asked_for_again(self) -> None:
        calls = 0

        async def fail(_: bytes) -> bytes:
            nonlocal calls
            calls += 1
            raise SeatHeld("Held.")

        async with hop(fail, idempotent=True) as method:
            assert (await error_of(method)).code == "SEAT_HELD"
        assert calls == 1


async def test_a_service_that_comes_back_is_used_again() -> None:
    server, address = await start(echo)
    async with connected(address) as method:
        assert await call(method, b"1", budget=5) == b"1"
        await server.stop(None)
        assert (await error_of(method)).code == "UNAVAILABLE"
        server, _ = await start(echo, address)
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await call(method, b"2", budget=5) == b"2"
                    break
                except RemoteError:
                    await asyncio.sleep(0.02)
    await server.stop(None)


async def test_a_caller_that_goes_away_ends_the_work_and_harms_nobody() -> None:
    ended = asyncio.Event()
    entered = asyncio.Event()

    async def sleep(request: bytes) -> bytes:
        if request == b"long":
            entered.set()
            try:
                await asyncio.sleep(30)
            finally:
                ended.set()
        return request

    async with hop(sleep) as method:
        caller = asyncio.create_task(call(method, b"long", budget=30))
        await asyncio.wait_for(entered.wait(), 5)
        caller.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        assert await call(method, b"short", budget=5) == b"short"
    with pytest.raises(asyncio.CancelledError):
        await caller
