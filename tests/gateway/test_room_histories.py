"""The copy of the room against a model, in random histories in which everything goes wrong.

The model numbers its changes and remembers how the room was after each. What it sends is lost,
repeated and swapped; its log is cut; its room is lost as a whole or in part; snapshots are read
while the room changes, also by a replica that is behind. After every message the copy must be what
the model was after the copy's last change, and as new as its freshness says.
"""

import random
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field

import pytest

from gateway.room.copy import RoomCopy
from protos.frontrow.queue.v1 import queue_pb2
from room_view.view import Gap, RoomView

Change = queue_pb2.RoomChange
Message = queue_pb2.WatchRoomResponse

HISTORIES = 2_000
STEPS = 40
RULES = queue_pb2.RoomRules(poll_min_ms=1_000)


@dataclass
class Room:
    """What a view shows: the line, who is admitted, and the capacity for the fields."""

    waiting: set[int] = field(default_factory=set)
    admitted: dict[int, tuple[int, int, bool]] = field(default_factory=dict)
    capacity: int = 1

    def seen_in(self, view: RoomView) -> bool:
        line = [number for block in view.line.blocks() for number in block]
        admitted = {n: (a.user_id, a.until_ms, a.claimed) for n, a in view.admitted.items()}
        return (
            line == sorted(self.waiting)
            and admitted == self.admitted
            and view.fields.capacity == self.capacity
        )


class Model:
    """The room, its log, and the room after each change."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.room = Room()
        self.epoch, self.seq, self.last = 1, 0, 0
        self.log: list[queue_pb2.RoomChanges] = []
        self.after: dict[tuple[int, int], Room] = {(1, 0): Room()}

    @property
    def at(self) -> tuple[int, int]:
        return self.epoch, self.seq

    def step(self) -> None:
        """Makes one to three random changes in one entry of the log."""
        self._record([self._change() for _ in range(self.chance.choice((1, 1, 1, 2, 3)))])

    def lose(self) -> None:
        """Goes back to an earlier room of any epoch, or to an empty one. The next caller remembers
        more than that, so that a new epoch begins."""
        self.room = deepcopy(self.chance.choice([Room(), *self.after.values()]))
        self.epoch, self.seq = self.epoch + 1, 0
        self.log = []
        self._record([self._capacity()])

    def trim(self) -> None:
        self.log = self.log[self.chance.randrange(len(self.log) + 1) :]

    def _record(self, changes: list[Change]) -> None:
        self.seq += 1
        self.log.append(queue_pb2.RoomChanges(epoch=self.epoch, seq=self.seq, changes=changes))
        self.after[self.at] = deepcopy(self.room)

    def _change(self) -> Change:
        room, chance = self.room, self.chance
        waiting, admitted = sorted(room.waiting), sorted(room.admitted)
        kind = chance.choice(
            ("join", "join", "restore", "admit", "enter", "claim", "end", "fields")
        )
        if kind == "restore":  # in the middle of the line
            return self._join(chance.randint(1, self.last + 1))
        if kind == "admit" and waiting:
            return self._let_in(waiting[0], claimed=False)
        if kind == "enter":
            self.last += chance.randint(1, 9)
            return self._let_in(self.last, claimed=True)
        if kind == "claim" and admitted:  # or the claim window gets longer
            return self._let_in(chance.choice(admitted), claimed=chance.random() < 0.7)
        if kind == "end" and (waiting or admitted):
            number = chance.choice(waiting + admitted)
            room.waiting.discard(number)
            room.admitted.pop(number, None)
            return Change(kind=Change.KIND_ENDED, number=number)
        if kind == "fields":
            return self._capacity()
        return self._join(self.last + chance.randint(1, 9))

    def _join(self, number: int) -> Change:
        self.last = max(self.last, number)
        self.room.waiting.add(number)
        self.room.admitted.pop(number, None)
        return Change(kind=Change.KIND_WAITING, number=number)

    def _let_in(self, number: int, *, claimed: bool) -> Change:
        self.room.waiting.discard(number)
        until = self.chance.randint(1, 1_000)
        self.room.admitted[number] = (number + 7, until, claimed)
        return Change(
            kind=Change.KIND_CLAIMED if claimed else Change.KIND_ADMITTED,
            number=number,
            user_id=number + 7,
            admitted_until_ms=until,
        )

    def _capacity(self) -> Change:
        self.room.capacity = self.chance.randint(1, 1_000)
        fields = queue_pb2.RoomFields(capacity=self.room.capacity)
        return Change(kind=Change.KIND_FIELDS, fields=fields)


class Replica:
    """Sends a snapshot, then every change. It reads the snapshot while the room changes, or has an
    old copy of the room."""

    def __init__(self, model: Model, memory: queue_pb2.RoomMemory) -> None:
        self._model = model
        self._sent = model.epoch, 0
        self._snapshot: Iterator[queue_pb2.RoomSnapshot] = iter(())
        first = model.log[0].seq if model.log else model.seq + 1
        if memory.epoch == model.epoch and first - 1 <= memory.seq <= model.seq:
            self._sent = memory.epoch, memory.seq
        else:
            self._begin()

    def send(self, count: int) -> Iterator[Message]:
        """The next messages, at most so many."""
        for _ in range(count):
            part = next(self._snapshot, None)
            if part is not None:
                yield Message(snapshot=part)
                continue
            epoch, seq = self._sent
            log = self._model.log
            if self._sent == self._model.at:
                return
            if epoch != self._model.epoch or not log or log[0].seq > seq + 1:
                self._begin()
                continue
            changes = [c for c in log if c.seq > seq][: self._model.chance.randint(1, 3)]
            self._sent = epoch, changes[-1].seq
            yield Message(changes=changes)

    def _begin(self) -> None:
        model = self._model
        self._sent = model.at
        self._snapshot = self._read()
        if model.chance.random() < 0.2:
            self._sent = model.chance.choice(list(model.after))
            self._snapshot = self._old(*self._sent)

    def _old(self, epoch: int, seq: int) -> Iterator[queue_pb2.RoomSnapshot]:
        room = self._model.after[epoch, seq]
        yield queue_pb2.RoomSnapshot(
            epoch=epoch,
            seq=seq,
            fields=queue_pb2.RoomFields(capacity=room.capacity),
            rules=RULES,
            waiting=sorted(room.waiting),
            admitted=_admitted(room),
            complete_at_seq=seq,
            is_first=True,
            is_last=True,
        )

    def _read(self) -> Iterator[queue_pb2.RoomSnapshot]:
        """Reads a part whenever it is sent: the room changes between them."""
        model = self._model
        epoch, seq = model.at
        capacity = queue_pb2.RoomFields(capacity=model.room.capacity)
        yield queue_pb2.RoomSnapshot(
            epoch=epoch, seq=seq, fields=capacity, rules=RULES, last=model.last, is_first=True
        )
        above = 0
        while part := sorted(number for number in model.room.waiting if number > above)[:3]:
            yield queue_pb2.RoomSnapshot(waiting=part)
            above = part[-1]
            if model.epoch != epoch:
                return
        yield queue_pb2.RoomSnapshot(admitted=_admitted(model.room))
        if model.epoch == epoch:
            yield queue_pb2.RoomSnapshot(complete_at_seq=model.seq, last=model.last, is_last=True)


def _admitted(room: Room) -> list[queue_pb2.AdmittedPlace]:
    return [
        queue_pb2.AdmittedPlace(
            number=number, user_id=user, admitted_until_ms=until, claimed=claimed
        )
        for number, (user, until, claimed) in room.admitted.items()
    ]


class History:
    """One gateway's copy of one model."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.model = Model(chance)
        self.copy = RoomCopy(0.3)
        self.now = 1_000.0
        # When a heartbeat was asked for -> how far the room was.
        self.asked: dict[float, tuple[int, int]] = {}
        self.replica = Replica(self.model, self.copy.memory())
        self.on_the_way: list[Message] = []
        self.furthest = 0, 0
        self.checks = 0
        self.proofs = 0

    def step(self) -> None:
        self.now += 0.01
        kind = self.chance.choices(
            ("change", "deliver", "ask", "lose", "trim", "reconnect"), (10, 10, 4, 0.3, 0.5, 0.5)
        )[0]
        if kind == "change":
            self.model.step()
        elif kind == "deliver":
            self.on_the_way += self.replica.send(self.chance.randint(0, 4))
            self._disturb()
            arrived = self.chance.randint(0, len(self.on_the_way))
            while self.on_the_way and arrived:
                arrived -= 1
                self._apply(self.on_the_way.pop(0))
        elif kind == "ask":
            # The model answers at once; the answer is sent when all changes before it are.
            heartbeat_id = self.copy.freshness.asked()
            self.asked[self.now] = self.model.at
            self.on_the_way += self.replica.send(self.chance.choice((0, 100)))
            heartbeat = queue_pb2.Heartbeat(
                id=heartbeat_id, epoch=self.model.epoch, seq=self.model.seq
            )
            self.on_the_way.append(Message(heartbeat=heartbeat))
        elif kind == "lose":
            self.model.lose()
        elif kind == "trim":
            self.model.trim()
        else:
            self._reconnect()

    def _disturb(self) -> None:
        """Loses, repeats or swaps messages now and then, but no parts of a snapshot: these have no
        numbers, because a stream keeps their order."""
        messages, chance = self.on_the_way, self.chance
        if len(messages) < 2 or chance.random() > 0.1:
            return
        n = chance.randrange(len(messages) - 1)
        if messages[n].HasField("snapshot") or messages[n + 1].HasField("snapshot"):
            return
        kind = chance.choice(("lose", "repeat", "swap"))
        if kind == "lose":
            del messages[n]
        elif kind == "repeat":
            messages.insert(chance.randrange(len(messages)), messages[n])
        else:
            messages[n], messages[n + 1] = messages[n + 1], messages[n]

    def _apply(self, message: Message) -> None:
        try:
            self.copy.apply(message)
        except Gap:
            self._reconnect()
        self.check()

    def _reconnect(self) -> None:
        self.copy.disconnected()
        self.on_the_way = []
        self.replica = Replica(self.model, self.copy.memory())

    def check(self) -> None:
        view, as_of = self.copy.view, self.copy.freshness.as_of
        if view is None:
            return
        self.checks += 1
        assert (view.epoch, view.seq) >= self.furthest
        self.furthest = view.epoch, view.seq
        assert self.model.after[view.epoch, view.seq].seen_in(view)
        if as_of in self.asked:
            self.proofs += 1
            assert (view.epoch, view.seq) >= self.asked[as_of]


def test_the_copy_is_exact_whatever_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = proofs = 0
    for seed in range(HISTORIES):
        history = History(random.Random(seed))
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda history=history: history.now)
            for _ in range(STEPS):
                history.step()
        checks += history.checks
        proofs += history.proofs
    assert checks > 10 * HISTORIES
    assert proofs > 2 * HISTORIES
