"""The contract of giving back a lost epoch, over the fake and over Redis."""

from queue_service.domain import HandBack, HandBackReply, LostAdmission, Place, Room
from room_view.position import PlaceState, Standing
from tests.queue_service.conftest import MakeRoom, RoomHandle

GRANTED = HandBackReply(granted=True, done=False, retry_after_ms=0)
DONE = HandBackReply(granted=True, done=True, retry_after_ms=0)
COVERED = HandBackReply(granted=False, done=True, retry_after_ms=0)


class Copy:
    """What a gateway knew of the room before the loss: these people, in the order of entering."""

    def __init__(
        self,
        room: RoomHandle,
        admitted: list[tuple[Place, Standing]],
        waiting: list[Place],
        *,
        seq: int = 10,
        name: str = "a",
        last: Place | None = None,
    ) -> None:
        self.room = room
        self.admitted = [
            LostAdmission(place.number, place.user_id, standing.admitted_until_ms, claimed=True)
            for place, standing in admitted
        ]
        self.waiting = waiting
        self.seq = seq
        self.name = name
        people = [*(place for place, _ in admitted), *waiting]
        self.epoch = max(place.epoch for place in people)
        self.last = (last or people[-1]).number

    async def send(self, **states: object) -> tuple[Room, HandBackReply]:
        """A bid, or with `states` a part of the hand-back."""
        hand_back = HandBack(self.name, self.epoch, self.seq, self.last, **states)  # type: ignore[arg-type]
        return await self.room.store.hand_back(self.room.room, hand_back)

    async def bid(self) -> HandBackReply:
        return (await self.send())[1]

    async def give_back(self, *ended: Place) -> Room:
        """All at once."""
        seen, reply = await self.send(
            ended=ended,
            admitted=self.admitted,
            waiting=[place.number for place in self.waiting],
            done=True,
        )
        assert reply == DONE
        return seen


async def crowd(room: RoomHandle, *users: int, inside: int = 1, **copy: object) -> Copy:
    """The users enter, the first `inside` of them the shop; a copy knows them all."""
    places = await room.enter(*users)
    standings = await room.standings(places)
    admitted = list(zip(places[:inside], standings[:inside], strict=True))
    assert all(standing.state is PlaceState.ADMITTED for _, standing in admitted)
    return Copy(room, admitted, places[inside:], **copy)  # type: ignore[arg-type]


async def test_all_is_as_it_was_and_the_grace_ends(make_room: MakeRoom) -> None:
    room = make_room(capacity=2)
    places = await room.enter(*range(11, 17))
    before = await room.standings(places)
    copy = Copy(room, list(zip(places[:2], before, strict=False)), places[2:])
    await room.forget()
    assert (await room.tick()).recovering
    assert await copy.bid() == GRANTED
    seen = await copy.give_back()
    assert (seen.admitted, seen.waiting, seen.recovering) == (2, 4, False)
    assert seen.settling, "an order may grow once, by a change that no copy saw"
    assert await room.standings(places) == before, "the same ends of admission"
    await room.leave(places[0])
    assert await room.orders(places) == [None, 0, 0, 1, 2, 3]


async def test_a_place_keeps_its_rank_until_its_owner_returns(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    copy = await crowd(room, 11, 12, 13, 14)
    await room.forget()
    await copy.give_back()
    # Newcomers stand behind those who do not poll, and 12 does not get a second live place.
    (newcomer, again) = await room.enter(99, 12)
    assert await room.orders([newcomer]) == [4]
    second, third, fourth = copy.waiting
    assert await room.orders([second, again]) == [1, None]
    assert await room.enter(12) == [second], "its owner is known now"
    assert await room.orders([third, fourth, newcomer]) == [2, 3, 4]
    assert await room.orders([Place(room.room, third.number, 99, third.epoch)]) == [None]


async def test_whose_turn_comes_is_admitted_without_a_known_owner(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    copy = await crowd(room, 11, 12, 13)
    await room.forget()
    await copy.give_back()
    first, second = copy.waiting
    await room.store.leave(room.room, copy.admitted[0].number, 11, 0)
    assert await room.orders([second]) == [1]
    assert await room.orders([first]) == [0]
    assert await room.enter(12) == [first], "number, user and epoch"


async def test_the_absent_are_skipped_only_after_the_window(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, absent_after_ms=600)
    copy = await crowd(room, 11, 12, 13)
    await room.forget()
    await copy.give_back()
    first, second = copy.waiting
    await room.sleep(700, keep=[second])
    await room.store.leave(room.room, copy.admitted[0].number, 11, 0)
    assert await room.orders([second, first]) == [0, None]


async def test_what_ended_does_not_return(make_room: MakeRoom) -> None:
    room = make_room(capacity=2)
    copy = await crowd(room, 11, 12, 13, 14, inside=2)
    left = copy.waiting.pop(0)
    await room.forget()
    assert await room.orders([left]) == [1], "by its token, before the hand-back"
    assert await copy.bid() == GRANTED
    await copy.send(ended=[Place(room.room, left.number, 0, 0)])
    assert await room.orders([left]) == [None]
    # Gone for good, also for a copy that has not come as far.
    late = Copy(room, [], [left], name="b", seq=99)
    assert await late.bid() == GRANTED
    await late.send(waiting=[left.number])
    assert await room.orders([left]) == [None]


async def test_a_place_that_the_copy_does_not_have_has_ended(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    copy = await crowd(room, 11, 12, 13)
    left = copy.waiting.pop(0)
    (unseen,) = await room.enter(14)
    await room.forget()
    await copy.give_back()
    assert await room.orders([left]) == [None]
    # What came after the last that the copy saw is lost, and returns by its token without a grace.
    assert await room.orders([unseen]) == [2]
    assert not (await room.tick()).recovering


async def test_an_acknowledged_end_is_added(make_room: MakeRoom) -> None:
    room = make_room(capacity=2)
    copy = await crowd(room, 11, 12, 13, 14, inside=2)
    paid, left = copy.admitted[0], copy.waiting[1]
    await room.forget()
    await copy.give_back(
        Place(room.room, paid.number, paid.user_id, 0),
        left,
    )
    assert await room.orders([left, copy.waiting[0]]) == [None, 0]
    assert await room.orders([Place(room.room, paid.number, paid.user_id, 0)]) == [None]


async def test_an_end_needs_its_owner(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    copy = await crowd(room, 11, 12)
    stranger = Place(room.room, copy.waiting[0].number, 99, 0)
    await copy.send(ended=[stranger])
    assert await room.orders(copy.waiting) == [1]


async def test_who_shops_goes_on_while_slots_are_free_and_else_leads_the_line(
    make_room: MakeRoom,
) -> None:
    room = make_room(capacity=2)
    copy = await crowd(room, 11, 12, 13, inside=2)
    await room.forget()
    await room.update(capacity=1)
    seen = await copy.give_back()
    assert (seen.admitted, seen.waiting) == (1, 2)
    first, second = copy.admitted
    shopper = Place(room.room, second.number, second.user_id, copy.epoch)
    assert await room.orders([shopper, *copy.waiting]) == [1, 2]
    await room.store.leave(room.room, first.number, first.user_id, copy.epoch)
    assert await room.orders([shopper, *copy.waiting]) == [0, 1]


async def test_a_shopper_who_polled_first_is_admitted_again(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    copy = await crowd(room, 11, 12)
    lost = copy.admitted[0]
    shopper = Place(room.room, lost.number, lost.user_id, copy.epoch)
    await room.forget()
    assert await room.orders([shopper]) == [1], "through a gateway without a copy"
    await copy.give_back()
    (standing,) = await room.standings([shopper])
    assert standing == Standing(PlaceState.ADMITTED, admitted_until_ms=lost.until_ms)


async def test_who_could_not_claim_gets_the_whole_window(make_room: MakeRoom) -> None:
    room = make_room(capacity=2)
    copy = await crowd(room, 11, 12, 13, inside=2)
    lapsed, unclaimed = copy.admitted
    await room.forget()
    now = (await room.tick()).now
    await copy.send(
        admitted=[
            LostAdmission(lapsed.number, lapsed.user_id, now - 1, claimed=True),
            LostAdmission(unclaimed.number, unclaimed.user_id, now - 1, claimed=False),
        ],
        done=True,
    )
    people = [
        Place(room.room, lost.number, lost.user_id, copy.epoch) for lost in (lapsed, unclaimed)
    ]
    assert await room.orders(people) == [None, 0]


async def test_a_newer_place_that_is_admitted_stays(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    copy = await crowd(room, 11, 12)
    (old,) = copy.waiting
    await room.forget()
    room = room.at_new_replica()
    (newer,) = await room.enter(12)
    assert await room.orders([newer]) == [0], "a first start, by a guess"
    copy.room = room
    await copy.give_back()
    assert await room.orders([old, newer]) == [None, 0]


async def test_an_owner_who_entered_again_keeps_the_older_place(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    copy = await crowd(room, 11, 12)
    (old,) = copy.waiting
    await room.forget()
    (newer,) = await room.enter(12)
    await copy.give_back()
    assert await room.orders([newer]) == [2]
    assert await room.orders([old, newer]) == [1, None]


async def test_the_copy_that_has_come_furthest_is_granted(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, bidding_ms=200)
    behind = await crowd(room, 11, 12, seq=5, name="behind")
    ahead = Copy(room, [], [*behind.waiting, *await room.enter(13)], seq=6, name="ahead")
    await room.forget()
    waiting = await behind.bid()
    assert not waiting.granted
    assert not waiting.done
    assert 0 < waiting.retry_after_ms <= 200
    assert (await ahead.bid()).retry_after_ms > 0
    await room.sleep(220)
    assert not (await behind.bid()).granted
    _, reply = await behind.send(waiting=[place.number for place in behind.waiting], done=True)
    assert not reply.granted
    assert not reply.done
    assert (await room.tick()).waiting == 0, "lives of a copy that is not granted are ignored"
    ahead.admitted = behind.admitted
    await ahead.give_back()
    assert await behind.bid() == COVERED
    assert await ahead.bid() == COVERED
    assert await room.orders(ahead.waiting) == [1, 2]


async def test_a_bidder_that_dies_is_replaced(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, lease_ms=200)
    dying = await crowd(room, 11, 12, 13, seq=6, name="dying")
    next_one = Copy(room, [], dying.waiting, seq=5, name="next")
    next_one.admitted = dying.admitted
    await room.forget()
    assert await dying.bid() == GRANTED
    await dying.send(admitted=dying.admitted, waiting=[dying.waiting[1].number])
    assert not (await next_one.bid()).granted
    await room.sleep(220)
    assert await next_one.bid() == GRANTED
    await next_one.give_back()
    assert await room.orders(dying.waiting) == [1, 2]
    # The one that was taken for dead has come further: its bid counts.
    assert await dying.bid() == GRANTED
    await dying.give_back()
    assert await room.orders(dying.waiting) == [1, 2]


async def test_a_better_copy_may_come_later(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    behind = await crowd(room, 11, 12, 13, 14, seq=5)
    first, left, third = behind.waiting
    ahead = Copy(room, [], [first, third, *await room.enter(15)], seq=9, name="late")
    ahead.admitted = behind.admitted
    await room.forget()
    await behind.give_back()
    assert (await room.tick()).waiting == 3
    assert await ahead.bid() == GRANTED
    await ahead.give_back(Place(room.room, left.number, 0, 0))
    assert await room.orders([*ahead.waiting, left]) == [1, 2, 3, None]


async def test_repeating_changes_nothing(make_room: MakeRoom) -> None:
    room = make_room(capacity=2)
    copy = await crowd(room, 11, 12, 13, 14, inside=2)
    await room.forget()
    for _ in range(2):
        await copy.send(admitted=copy.admitted)
        await copy.send(waiting=[place.number for place in copy.waiting])
    await room.leave(copy.waiting[0])
    await copy.send(waiting=[place.number for place in copy.waiting])
    await copy.give_back()
    assert await room.orders(copy.waiting) == [None, 1]
    assert (await room.tick()).admitted == 2


async def test_a_fresh_replica_lets_nobody_in_before_the_shoppers(make_room: MakeRoom) -> None:
    """The replica remembers nothing and guesses a first start, until somebody bids."""
    room = make_room(capacity=2)
    copy = await crowd(room, 11, 12, 13, inside=2)
    await room.forget()
    room = room.at_new_replica()
    copy.room = room
    assert not (await room.tick()).recovering
    await copy.bid()
    (newcomer,) = await room.enter(99)
    assert (await room.tick()).recovering
    await copy.give_back()
    assert await room.orders([*copy.waiting, newcomer]) == [1, 2]
    assert (await room.tick()).admitted == 2


async def test_a_copy_of_no_lost_epoch_gives_back_nothing(make_room: MakeRoom) -> None:
    room = make_room(capacity=0)
    copy = await crowd(room, 11, inside=0)
    stranger = copy.waiting[0].number - 4096
    _, reply = await copy.send(waiting=[stranger], done=True)
    assert not reply.granted
    assert not reply.done
    assert (await room.tick()).waiting == 1


async def test_a_copy_of_an_epoch_before_ends_nobody_who_has_just_returned(
    make_room: MakeRoom,
) -> None:
    room = make_room(capacity=1)
    shopper, hidden = await room.enter(11, 12)
    await room.forget()
    # Only the shopper returns before the second loss; the copy has never seen the other.
    assert await room.orders([shopper]) == [1]
    copy = Copy(room, [], [*await room.enter(13)])
    await room.forget()
    assert await room.orders([hidden]) == [1]
    await copy.send(ended=[Place(room.room, hidden.number, 0, 0)], waiting=[], done=True)
    assert await room.orders([hidden]) == [0]


async def test_a_settled_copy_knows_the_epochs_before_too(make_room: MakeRoom) -> None:
    room = make_room(capacity=0)
    early, missing = await room.enter(11, 12)
    await room.forget()
    assert await room.orders([early]) == [1]
    copy = Copy(room, [], [*await room.enter(13)])
    await room.leave(early)
    await room.forget()
    await copy.send(waiting=[copy.waiting[0].number], done=True)
    # Whether they ended or are missing is not known.
    assert await room.orders([missing]) == [1]
    await room.forget()
    await copy.send(waiting=[copy.waiting[0].number], done=True, settled=True)
    assert await room.orders([early, missing]) == [None, None]
    assert await room.orders(copy.waiting) == [1]


async def test_an_admission_without_a_known_owner_is_given_back(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    copy = await crowd(room, 11, 12)
    (place,) = copy.waiting
    await room.forget()
    now = (await room.tick()).now
    await copy.send(
        admitted=[LostAdmission(place.number, 0, now - 1, claimed=False)], done=True, settled=True
    )
    assert (await room.tick()).admitted == 1
    assert await room.orders([place]) == [0]
    assert await room.enter(12) == [place]
