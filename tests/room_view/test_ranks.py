"""A view of a room whose line is a draw, against a model that sorts all places."""

import random
from array import array
from itertools import count

import pytest

from protos.frontrow.queue.v1 import queue_pb2
from room_view import ranks
from room_view.draw import Draw, draw_key
from room_view.position import PlaceState, Standing
from room_view.view import RoomView
from tests.room_view import described_draw

Change = queue_pb2.RoomChange
HISTORIES = 60
SEED = bytes(range(32))
CLOSED = 1_000
"""Numbers up to this entered before gathering closed."""
OPENED_MS = 10
GATHERING_MS = 5


class Model:
    """The room itself. Its cohort is drawn in steps while people leave, return and join."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.waiting = set(chance.sample(range(1, CLOSED + 1), chance.randrange(60)))
        self.late = count(CLOSED + 1)
        self.fields = queue_pb2.RoomFields(
            definition_version=1, is_draw=True, gather_until_ms=1, opens_at_ms=OPENED_MS
        )
        self.cohort: list[int] = []
        self.order: list[int] = []
        self.seq = 0

    def close(self) -> None:
        self.fields.cohort_last = CLOSED
        self.cohort = sorted(self.waiting)
        self.order = described_draw.order(SEED, "", self.cohort)

    def change(self) -> queue_pb2.RoomChanges:
        """Changes the room at random; the cohort does not change."""
        change = self.chance.choice(
            [self._join, self._leave, self._return, self._give_ranks, self._admit]
        )()
        self.seq += 1
        return queue_pb2.RoomChanges(epoch=1, seq=self.seq, changes=[change])

    def _join(self) -> Change:
        number = next(self.late)
        self.waiting.add(number)
        return Change(kind=Change.KIND_WAITING, number=number)

    def _leave(self) -> Change:
        number = self.chance.choice(sorted(self.waiting) or [1])
        self.waiting.discard(number)
        return Change(kind=Change.KIND_ENDED, number=number)

    def _admit(self) -> Change:
        change = self._leave()
        change.kind, change.admitted_until_ms = Change.KIND_ADMITTED, 10**6
        return change

    def _return(self) -> Change:
        """Of the cohort, or one that was lost when it was stored."""
        number = self.chance.choice([*self.cohort, self.chance.randint(1, CLOSED)])
        self.waiting.add(number)
        return Change(kind=Change.KIND_WAITING, number=number)

    def _give_ranks(self) -> Change:
        self.fields.cohort_size = len(self.cohort)
        drawn = min(max(1, len(self.cohort)), self.fields.drawn + self.chance.randrange(20))
        self.fields.drawn = max(self.fields.drawn, drawn)
        fields = queue_pb2.RoomFields()
        fields.CopyFrom(self.fields)
        return Change(kind=Change.KIND_FIELDS, fields=fields)

    def standings(self) -> dict[int, Standing]:
        """Where everybody stands after the opening."""
        drawn = [n for n in self.order[: self.fields.drawn] if n in self.waiting]
        others = sorted(self.waiting - set(drawn))
        line = [*drawn, *others]
        is_over = self.fields.drawn >= max(1, len(self.cohort))
        return {
            number: Standing(PlaceState.WAITING, order)
            if number > CLOSED or number in drawn or is_over
            else Standing(PlaceState.WAITING, sum(n <= CLOSED for n in line), is_drawn=False)
            for order, number in enumerate(line, 1)
        }


def seen(view: RoomView, model: Model, now_ms: int) -> dict[int, Standing | None]:
    return {number: view.standing(number, 1, now_ms) for number in model.waiting}


@pytest.mark.parametrize("step", [3, 1_000])
def test_a_view_orders_a_line_as_the_room_does(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(ranks, "STEP", step)
    for seed in range(HISTORIES):
        chance = random.Random(seed)
        model = Model(chance)
        model.close()
        fields = queue_pb2.RoomFields()
        fields.CopyFrom(model.fields)
        view = RoomView(1, 0, queue_pb2.RoomRules(), fields)
        view.add(queue_pb2.RoomSnapshot(waiting=sorted(model.waiting)))
        draw = Draw(array("q", model.cohort), draw_key(SEED, ""))
        takes_draw_at = chance.randrange(40)
        for n in range(60):
            view.apply(model.change())
            if n == takes_draw_at:
                view.use(draw)
            if chance.random() < 0.5:
                view.advance()
            assert len(view.line) == len(model.waiting)
            before = {Standing(PlaceState.WAITING, len(model.waiting))}
            assert set(seen(view, model, GATHERING_MS).values()) <= before
            # What is not known yet is asked for; what is said is right.
            expected = model.standings()
            for number, standing in seen(view, model, OPENED_MS).items():
                assert standing in (expected[number], None), (seed, n, number)
                assert standing is not None or number <= CLOSED
            if view.ranks is not None and not view.is_behind():
                assert seen(view, model, OPENED_MS) == expected, (seed, n)
        view.use(draw)
        while view.advance():
            pass
        assert seen(view, model, OPENED_MS) == model.standings()


def test_everybody_who_gathers_has_the_number_of_those_who_wait() -> None:
    fields = queue_pb2.RoomFields(definition_version=1, is_draw=True, opens_at_ms=OPENED_MS)
    view = RoomView(1, 0, queue_pb2.RoomRules(), fields)
    view.add(queue_pb2.RoomSnapshot(waiting=[3, 5, 9]))
    assert {view.standing(number, 1, GATHERING_MS) for number in (3, 5, 9)} == {
        Standing(PlaceState.WAITING, 3)
    }
