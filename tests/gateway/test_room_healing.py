"""A lost epoch: what is answered from its last view, and how it is given back."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest
from structlog.testing import CapturingLogger

from gateway.room import healing
from gateway.room.answers import RoomAnswers
from gateway.room.copy import RoomCopy
from gateway.room.healing import Healing
from gateway.room.outage import QueueOutage
from gateway.room.signs import SignsOfLife
from protos.frontrow.queue.v1 import queue_pb2
from servicekit.errors import Unavailable
from tests.gateway.polling import until
from tests.gateway.test_room_copy import CLAIMED, ENDED, WAITING, change, heartbeat, snapshot

GRANTED = queue_pb2.HandBackResponse(granted=True)
DONE = queue_pb2.HandBackResponse(granted=True, done=True)


def admitted(number: int, user_id: int, *, claimed: bool = True) -> queue_pb2.AdmittedPlace:
    return queue_pb2.AdmittedPlace(
        number=number,
        user_id=user_id,
        admitted_until_ms=int(time.time() * 1000) + 60_000,
        claimed=claimed,
    )


def place(number: int, user_id: int) -> queue_pb2.Place:
    return queue_pb2.Place(room="main", number=number, user_id=user_id)


@dataclass
class Gateway:
    """A copy of the room whose hand-backs are answered by a test."""

    copy: RoomCopy
    answers: RoomAnswers
    signs: SignsOfLife
    requests: list[queue_pb2.HandBackRequest] = field(default_factory=list)
    reply: Callable[[queue_pb2.HandBackRequest], queue_pb2.HandBackResponse] = lambda request: (
        DONE if request.done else GRANTED
    )

    async def hand_back(self, request: queue_pb2.HandBackRequest) -> queue_pb2.HandBackResponse:
        self.requests.append(request)
        return self.reply(request)

    def know(
        self,
        epoch: int,
        waiting: Sequence[int] = (),
        shopping: Sequence[queue_pb2.AdmittedPlace] = (),
        *,
        grace: bool = False,
    ) -> None:
        """Gets a snapshot of the room and a proof that it is fresh. With `grace`, places still
        return."""
        message = snapshot(epoch, 1, waiting, shopping)
        fields = message.snapshot.fields
        fields.grace_until_ms = fields.settled_at_ms = (
            (int(time.time()) + 60) * 1000 if grace else 0
        )
        message.snapshot.last = max([epoch, *waiting, *(a.number for a in shopping)])
        self.copy.apply(message)
        self.copy.apply(heartbeat(self.copy.freshness.asked(), 1, epoch))

    async def healed(self) -> None:
        await until(lambda: not self.copy.lost)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    copy, signs = RoomCopy(0.3), SignsOfLife()
    gateway = Gateway(copy, RoomAnswers(copy, signs, QueueOutage(60, "main")), signs)
    running = asyncio.create_task(Healing(copy, signs, gateway.hand_back, "main").run())
    yield gateway
    running.cancel()
    await asyncio.wait([running])


def ungranted(request: queue_pb2.HandBackRequest) -> queue_pb2.HandBackResponse:
    return queue_pb2.HandBackResponse(retry_after_ms=20)


class TestAnswers:
    async def test_nobody_is_interrupted(self, gateway: Gateway) -> None:
        gateway.reply = ungranted
        gateway.know(100, [103, 104], [admitted(101, 1), admitted(102, 2, claimed=False)])
        gateway.know(200, [], [], grace=True)
        for number in (101, 102):
            assert gateway.answers.is_admitted(place(number, number - 100))
            position = gateway.answers.position(place(number, number - 100))
            assert position
            assert (position.state, position.recovering) == (queue_pb2.PLACE_STATE_ADMITTED, True)
        waiting = gateway.answers.position(place(104, 4))
        assert waiting
        assert (waiting.order, waiting.recovering) == (2, True)
        assert not gateway.answers.is_admitted(place(104, 4))
        assert gateway.answers.state() == "healing"

    async def test_no_order_of_before_the_opening_is_a_bound(self, gateway: Gateway) -> None:
        gateway.know(100, [103, 104, 105])
        assert gateway.copy.view
        fields = gateway.copy.view.fields
        fields.definition_version, fields.opens_at_ms = 1, int(time.time() * 1000) + 60_000
        for phase in (queue_pb2.ROOM_PHASE_PAUSED, queue_pb2.ROOM_PHASE_GATHERING):
            said = queue_pb2.Position(state=queue_pb2.PLACE_STATE_WAITING, order=2, phase=phase)
            gateway.answers.note_reply(place(105, 5), said)
            fields.opens_at_ms = 1
            position = gateway.answers.position(place(105, 5))
            assert position
            assert position.order == 3
            fields.opens_at_ms = int(time.time() * 1000) + 60_000

    async def test_what_is_not_known_is_asked_for(self, gateway: Gateway) -> None:
        gateway.reply = ungranted
        gateway.know(100, [103], [admitted(101, 1), admitted(102, 2), admitted(105, 5)])
        gateway.know(200, [], [], grace=True)
        gateway.copy.apply(change(2, ENDED, 101, epoch=200))
        gateway.answers.left(place(102, 2))
        gateway.answers.note_reply(
            place(105, 5), queue_pb2.Position(state=queue_pb2.PLACE_STATE_ENDED)
        )
        for number in (101, 102, 105, 199):
            assert gateway.answers.position(place(number, number - 100)) is None
        assert gateway.answers.position(place(101, 9)) is None, "of another user"

    async def test_ends_that_the_stream_had_not_told_before_the_loss_are_known(
        self, gateway: Gateway
    ) -> None:
        gateway.reply = ungranted
        gateway.know(100, [103], [admitted(101, 1), admitted(102, 2)])
        gateway.answers.left(place(101, 1))
        gateway.answers.note_reply(
            place(102, 2), queue_pb2.Position(state=queue_pb2.PLACE_STATE_ENDED)
        )
        gateway.know(200, [], [], grace=True)
        for number in (101, 102):
            assert gateway.answers.position(place(number, number - 100)) is None
            assert not gateway.answers.is_admitted(place(number, number - 100))

    async def test_a_payment_that_began_before_the_loss_goes_on(self, gateway: Gateway) -> None:
        gateway.reply = ungranted
        gateway.know(100, [], [admitted(101, 1)])
        gateway.answers.forget(place(101, 1))  # it may end, but nobody has said so
        gateway.know(200, [], [], grace=True)
        assert gateway.answers.is_admitted(place(101, 1))

    async def test_the_new_view_speaks_for_those_whom_it_has_admitted(
        self, gateway: Gateway
    ) -> None:
        gateway.reply = ungranted
        gateway.know(100, [103, 104])
        gateway.know(200, [], [admitted(103, 3)], grace=True)
        assert gateway.answers.is_admitted(place(103, 3))

    async def test_the_lost_view_speaks_no_longer_than_in_an_outage(self, gateway: Gateway) -> None:
        gateway.reply = ungranted
        gateway.know(100, [103])
        gateway.know(200, grace=True)
        assert gateway.answers.position(place(103, 3))
        gateway.copy.lost.lost_at -= 60
        assert gateway.answers.position(place(103, 3)) is None

    async def test_without_a_grant_calls_restore_the_places(self, gateway: Gateway) -> None:
        gateway.reply = ungranted
        gateway.know(100, [103], [admitted(101, 1)])
        gateway.know(200, grace=True)
        assert gateway.answers.is_admitted(place(101, 1))
        gateway.copy.lost.granted_at -= 10
        assert not gateway.answers.is_admitted(place(101, 1))
        assert gateway.answers.position(place(103, 3)) is None

    async def test_who_waits_is_reported_meanwhile(self, gateway: Gateway) -> None:
        gateway.reply = ungranted
        gateway.know(100, [103], [admitted(101, 1)])
        gateway.know(200, grace=True)
        for number in (101, 103):
            assert gateway.answers.position(place(number, number - 100))
        assert [seen.number for seen in gateway.signs.take(1)] == [103]

    async def test_a_view_that_misses_changes_does_not_speak(self, gateway: Gateway) -> None:
        gateway.reply = ungranted
        gateway.know(100, [103], [admitted(101, 1)])
        assert gateway.copy.view
        gateway.copy.view.fields.unrecorded_at_ms = int(time.time() * 1000)
        gateway.know(200, grace=True)
        for number in (101, 103):
            assert gateway.answers.position(place(number, number - 100)) is None


def waits(epoch: int, seq: int, order: int = 9) -> queue_pb2.GetPositionsResponse:
    position = queue_pb2.Position(
        state=queue_pb2.PLACE_STATE_WAITING, order=order, access_token="fresh"
    )
    return queue_pb2.GetPositionsResponse(positions=[position], epoch=epoch, seq=seq)


class TestAnswersOfCalls:
    """A call is answered by the new epoch, where the place waits again."""

    def believed(
        self, gateway: Gateway, number: int, response: queue_pb2.GetPositionsResponse
    ) -> queue_pb2.Position:
        positions = gateway.answers.believed([place(number, number - 100)], response)
        assert positions
        return positions[0]

    @pytest.mark.parametrize("is_told", [False, True], ids=["before the stream", "after it"])
    @pytest.mark.parametrize("claimed", [True, False])
    async def test_nobody_is_interrupted(
        self, gateway: Gateway, *, claimed: bool, is_told: bool
    ) -> None:
        gateway.reply = ungranted
        gateway.know(100, [103, 104], [admitted(101, 1, claimed=claimed)])
        if is_told:
            gateway.know(200, [101], grace=True)
        shopping = self.believed(gateway, 101, waits(200, 5))
        assert (shopping.state, shopping.recovering) == (queue_pb2.PLACE_STATE_ADMITTED, True)
        assert shopping.access_token == "fresh"
        waiting = self.believed(gateway, 104, waits(200, 5))
        assert (waiting.order, waiting.recovering) == (2, True)

    async def test_also_if_the_answer_does_not_say_its_epoch(self, gateway: Gateway) -> None:
        gateway.reply = ungranted
        gateway.know(100, [], [admitted(101, 1)])
        gateway.know(200, [101], grace=True)
        assert self.believed(gateway, 101, waits(0, 0)).state == queue_pb2.PLACE_STATE_ADMITTED

    async def test_an_answer_that_arrives_after_the_hand_back_is_old(
        self, gateway: Gateway
    ) -> None:
        gateway.know(100, [103], [admitted(101, 1)])
        gateway.know(200, [103], [admitted(101, 1)])
        await gateway.healed()
        late = self.believed(gateway, 101, waits(200, 1))
        assert (late.state, late.recovering) == (queue_pb2.PLACE_STATE_ADMITTED, False)
        assert self.believed(gateway, 101, waits(200, 2)).order == 9, "newer than the view"
        assert self.believed(gateway, 103, waits(200, 1)).order == 9

    async def test_an_answer_of_an_epoch_that_is_over_is_not_believed(
        self, gateway: Gateway
    ) -> None:
        gateway.know(200, [103], [admitted(101, 1)])
        assert gateway.answers.believed([place(101, 1)], waits(100, 7)) is None

    async def test_what_the_lost_view_does_not_know_is_believed(self, gateway: Gateway) -> None:
        gateway.know(100, [103], [admitted(101, 1)])
        assert self.believed(gateway, 105, waits(200, 5)).order == 9, "younger than the view"
        response = waits(200, 5)
        response.positions[0].state = queue_pb2.PLACE_STATE_ENDED
        assert self.believed(gateway, 101, response).state == queue_pb2.PLACE_STATE_ENDED

    async def test_an_old_view_speaks_no_longer_than_in_an_outage(self, gateway: Gateway) -> None:
        gateway.know(100, [], [admitted(101, 1)])
        gateway.copy.disconnected()
        freshness = gateway.copy.freshness
        freshness.as_of = freshness._followed_until = freshness.as_of - 60
        assert self.believed(gateway, 101, waits(200, 5)).order == 9

    async def test_a_view_speaks_after_a_silence(self, gateway: Gateway) -> None:
        """Nobody has asked for heartbeats, but the stream would have brought each change."""
        gateway.know(100, [], [admitted(101, 1)])
        gateway.copy.freshness.as_of -= 60
        assert self.believed(gateway, 101, waits(200, 5)).order == 0

    async def test_a_view_that_misses_changes_does_not_speak(self, gateway: Gateway) -> None:
        gateway.know(100, [], [admitted(101, 1)])
        assert gateway.copy.view is not None
        gateway.copy.view.fields.unrecorded_at_ms = gateway.copy.freshness.now_ms()
        assert self.believed(gateway, 101, waits(200, 5)).order == 9


class TestHandBack:
    async def test_ends_come_before_lives_and_the_grace_ends_last(self, gateway: Gateway) -> None:
        seq = 1

        def reply(request: queue_pb2.HandBackRequest) -> queue_pb2.HandBackResponse:
            """The room changes as the store changes it."""
            nonlocal seq
            for ended in request.ended:
                view = gateway.copy.view
                if view and (view.order(ended.number) or ended.number in view.admitted):
                    seq += 1
                    gateway.copy.apply(change(seq, ENDED, ended.number, epoch=200))
            if request.waiting and seq == 2:  # one that had ended returns by its token
                seq += 1
                gateway.copy.apply(change(seq, WAITING, 102, epoch=200))
            return DONE if request.done else GRANTED

        gateway.reply = reply
        gateway.know(100, [103, 104, 105], [admitted(101, 1)])
        gateway.answers.left(place(104, 4))
        gateway.know(200, [102, 103, 201], grace=True)
        await gateway.healed()
        sent = [
            (
                [p.number for p in request.ended],
                [p.number for p in request.admitted],
                list(request.waiting),
                request.done,
            )
            for request in gateway.requests
        ]
        assert sent == [
            ([104], [], [], False),  # acknowledged
            ([], [], [], False),  # the bid
            ([102], [], [], False),  # by the rules: it does not live in the lost view
            ([], [101], [], False),
            ([], [], [105], False),
            ([102], [], [], False),  # has returned meanwhile
            ([], [], [], True),
        ]
        (name,) = {request.bidder for request in gateway.requests}
        assert name
        assert {
            (request.lost_epoch, request.lost_seq, request.last, request.settled)
            for request in gateway.requests
        } == {(100, 1, 105, True)}

    async def test_another_one_gives_back(self, gateway: Gateway) -> None:
        bids = 0

        def reply(request: queue_pb2.HandBackRequest) -> queue_pb2.HandBackResponse:
            nonlocal bids
            bids += 1
            return queue_pb2.HandBackResponse(done=bids == 3, retry_after_ms=10)

        gateway.reply = reply
        gateway.know(100, [103])
        gateway.know(200, grace=True)
        await gateway.healed()
        assert len(gateway.requests) == 3
        assert not any(request.waiting for request in gateway.requests)

    async def test_the_lost_view_speaks_until_the_view_shows_what_another_one_gave_back(
        self, gateway: Gateway
    ) -> None:
        gateway.reply = lambda _: DONE
        gateway.know(100, [103], [admitted(101, 1)])
        gateway.know(200, [101, 103], grace=True)
        questions: list[int] = []

        def ask() -> bool:
            questions.append(gateway.copy.freshness.asked())
            return True

        gateway.copy.freshness.ask = ask
        await until(lambda: bool(questions))
        assert gateway.answers.is_admitted(place(101, 1))
        message = change(2, CLAIMED, 101, epoch=200)
        (claim,) = message.changes[0].changes
        claim.user_id, claim.admitted_until_ms = 1, int(time.time() * 1000) + 60_000
        gateway.copy.apply(message)
        gateway.copy.apply(heartbeat(questions[0], 2, 200))
        await gateway.healed()
        assert gateway.answers.is_admitted(place(101, 1))

    @pytest.mark.parametrize("cause", ["another_copy", "no_snapshot", "version_before"])
    async def test_what_holds_it_up_is_logged(
        self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, cause: str
    ) -> None:
        logged = CapturingLogger()
        monkeypatch.setattr(healing, "log", logged)
        monkeypatch.setattr(healing, "_USUAL_SECONDS", 0.1)
        if cause != "no_snapshot":
            gateway.reply = ungranted
        gateway.know(100, [103], [admitted(101, 1)])
        if cause == "no_snapshot":
            gateway.copy.apply(heartbeat(gateway.copy.freshness.asked(), 1, 200))
        else:
            gateway.know(200, grace=True)
        if cause == "version_before":
            assert gateway.copy.view
            gateway.copy.view.fields.unrecorded_at_ms = int(time.time() * 1000)
        await until(lambda: len(logged.calls) > 1)
        await asyncio.sleep(0.1)
        lost, held_up = logged.calls
        assert lost.args == ("room_lost",)
        assert (held_up.method_name, held_up.args) == ("warning", ("room_hand_back_held_up",))
        assert held_up.kwargs == {"room": "main", "by": cause}

    async def test_a_grant_may_be_lost_in_the_middle(self, gateway: Gateway) -> None:
        def reply(request: queue_pb2.HandBackRequest) -> queue_pb2.HandBackResponse:
            if request.waiting:
                return queue_pb2.HandBackResponse(retry_after_ms=10)
            return DONE if len(gateway.requests) > 2 else GRANTED

        gateway.reply = reply
        gateway.know(100, [103, 104])
        gateway.know(200, grace=True)
        await gateway.healed()
        assert not any(request.done for request in gateway.requests)

    async def test_no_step_is_long_however_many_shop(self, gateway: Gateway) -> None:
        gateway.know(100, [], [admitted(n, n) for n in range(1_000, 21_000)])
        gateway.know(200, grace=True)
        longest, before = 0.0, time.thread_time()
        while gateway.copy.lost:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, before = max(longest, now - before), now
        assert sum(len(request.admitted) for request in gateway.requests) == 20_000
        assert longest < 0.02

    async def test_errors_are_retried(self, gateway: Gateway) -> None:
        def reply(request: queue_pb2.HandBackRequest) -> queue_pb2.HandBackResponse:
            if len(gateway.requests) == 1:
                raise Unavailable("The waiting room is unavailable.")
            return DONE if request.done else GRANTED

        gateway.reply = reply
        gateway.know(100, [103])
        gateway.know(200, grace=True)
        await gateway.healed()
        assert [103] in [list(request.waiting) for request in gateway.requests]

    async def test_one_that_began_while_places_returned_names_ends_only(
        self, gateway: Gateway
    ) -> None:
        gateway.know(100, [103, 104], [admitted(101, 1)], grace=True)
        gateway.answers.left(place(104, 4))
        gateway.know(200, grace=True)
        await until(lambda: len(gateway.requests) == 1)
        await asyncio.sleep(0.1)
        # Until the others have given back what they know.
        assert gateway.answers.is_admitted(place(101, 1))
        assert gateway.answers.position(place(103, 3)) is None, "one of them may shop by now"
        assert gateway.copy.view
        gateway.copy.view.fields.grace_until_ms = 0
        await gateway.healed()
        (request,) = gateway.requests
        assert [p.number for p in request.ended] == [104]

    async def test_a_second_loss_gives_back_both_epochs(self, gateway: Gateway) -> None:
        gateway.reply = ungranted
        gateway.know(100, [103, 104], [admitted(101, 1)])
        gateway.know(200, [104, 201], grace=True)
        await until(lambda: len(gateway.requests) > 0)
        gateway.reply = lambda request: DONE if request.done else GRANTED
        gateway.know(300, grace=True)
        assert gateway.answers.is_admitted(place(101, 1)), "of the epoch before the last"
        await gateway.healed()
        last = [request for request in gateway.requests if request.lost_epoch == 200]
        assert [list(r.waiting) for r in last if r.waiting] == [[104, 201, 103]]
        assert [r.admitted[0].number for r in last if r.admitted] == [101]
        assert not any(request.settled for request in last)
