"""The contract of a waiting room, over the fake and over Redis."""

from dataclasses import replace

import pytest

from queue_service.domain import Place, Refusal
from room_view.position import PlaceState
from tests.queue_service.conftest import RULES, MakeRoom, RoomHandle, entries

# As a difference of place numbers: twice heal_within_ms.
TWO_HOURS = 2 * 3_600_000 * 4096


async def test_admits_at_once_while_there_is_room_and_lines_up_the_rest(
    make_room: MakeRoom,
) -> None:
    room = make_room(capacity=2)
    places = await room.enter(11, 12, 13, 14)
    assert [p.number for p in places] == sorted({p.number for p in places})
    assert await room.orders(places) == [0, 0, 1, 2]
    seen = await room.tick()
    assert (seen.admitted, seen.waiting) == (2, 2)
    assert {p.epoch for p in places} == {seen.epoch}
    assert all(p.number > seen.epoch for p in places)


async def test_a_user_has_one_place(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    first = await room.enter(11, 12, 13)
    assert await room.enter(13, 12, 11, 12) == [first[2], first[1], first[0], first[1]]
    assert (await room.tick()).waiting == 2


async def test_a_batch_may_name_a_user_twice(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    a, b, c = await room.enter(11, 11, 12)
    assert a == b != c
    assert await room.orders([c, a, c]) == [1, 0, 1]


async def test_paused_takes_nobody_new_and_admits_nobody(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    shopping, waiting = await room.enter(11, 12)
    await room.update(paused=True)
    assert await room.try_enter(13) is Refusal.QUEUE_PAUSED
    assert await room.enter(12, 11) == [waiting, shopping]
    await room.leave(shopping)
    assert await room.orders([waiting]) == [1]
    assert (await room.update(paused=False)).admissions == 1
    assert await room.orders([waiting]) == [0]


async def test_a_full_room_refuses_only_who_has_no_place(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, max_waiting=1)
    shopping, waiting = await room.enter(11, 12)
    assert await room.try_enter(13) is Refusal.QUEUE_FULL
    assert await room.enter(12, 11) == [waiting, shopping]
    _, answers = await room.store.enter(room.room, entries([13, 12]))
    assert answers[0] is Refusal.QUEUE_FULL
    assert not isinstance(answers[1], Refusal)
    await room.leave(waiting)
    assert await room.try_enter(13) not in list(Refusal)


async def test_nobody_need_wait_where_nobody_may(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, max_waiting=0)
    (place,) = await room.enter(11)
    assert await room.orders([place]) == [0]
    assert await room.try_enter(12) is Refusal.QUEUE_FULL


async def test_leaving_admits_the_next_at_once(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    first, second, third = await room.enter(11, 12, 13)
    await room.leave(first)
    assert await room.orders([first, second, third]) == [None, 0, 1]
    # Again, and by somebody else: nothing changes.
    await room.leave(first)
    await room.store.leave(room.room, second.number, 99, second.epoch)
    assert await room.orders([first, second, third]) == [None, 0, 1]
    # Out of the middle of the line.
    (fourth,) = await room.enter(14)
    await room.leave(third)
    assert await room.orders([second, third, fourth]) == [0, None, 1]


async def test_whoever_has_left_lines_up_again_at_the_end(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    first, second, _ = await room.enter(11, 12, 13)
    await room.leave(first)
    (again,) = await room.enter(11)
    assert again.number > first.number
    assert await room.orders([first, second, again]) == [None, 0, 2]
    # The end of the old place a second time is no end of the new one.
    await room.leave(first)
    assert await room.orders([again]) == [2]


async def test_a_tick_knows_when_the_next_one_has_something_to_do(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, admission_ttl_ms=20_000)
    assert (await room.tick()).due_in == 60_000, "nobody is there"
    await room.enter(1, 2)
    due_in = (await room.tick()).due_in
    assert 10_000 < due_in <= 20_000, "the admission ends"
    await room.update(paused=True, capacity=2)
    assert (await room.tick()).due_in <= due_in, "a paused room admits nobody"


async def test_an_admission_runs_out(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, admission_ttl_ms=300)
    first, second = await room.enter(11, 12)
    await room.sleep(340, keep=[first])
    assert await room.orders([first, second]) == [None, 0]


async def test_a_no_show_loses_the_slot(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, claim_window_ms=300)
    first, second, third = await room.enter(11, 12, 13)
    await room.leave(first)
    await room.sleep(340, keep=[third])
    assert await room.orders([third, second]) == [0, None]


async def test_showing_up_starts_the_admission(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, claim_window_ms=300)
    first, second, third = await room.enter(11, 12, 13)
    await room.leave(first)
    seen, (standing,) = await room.store.positions(room.room, [second])
    assert standing.admitted_until_ms - seen.now == RULES.admission_ttl_ms
    await room.sleep(340, keep=[third])
    later = await room.standings([second, third])
    assert later[0] == standing, "asking again must not prolong it"
    assert later[1].order == 1


async def test_entering_again_shows_up_too(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, claim_window_ms=300)
    first, second, third = await room.enter(11, 12, 13)
    await room.leave(first)
    assert await room.enter(12) == [second]
    await room.sleep(340, keep=[third])
    assert await room.orders([second, third]) == [0, 1]


async def test_the_absent_are_skipped(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, absent_after_ms=600)
    first, gone, here = await room.enter(11, 12, 13)
    await room.sleep(700, keep=[here])
    await room.leave(first)
    assert await room.orders([here, gone]) == [0, None]


async def test_entering_again_is_a_sign_of_life(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, absent_after_ms=600)
    first, second = await room.enter(11, 12)
    for _ in range(3):
        await room.sleep(240)
        await room.enter(12)
    await room.leave(first)
    assert await room.orders([second]) == [0]


async def test_a_silent_room_holds_nothing_against_anybody(make_room: MakeRoom) -> None:
    """If nobody at all asks, the gateway is down; all come back to their places."""
    room = make_room(capacity=1, grace_ms=200, claim_window_ms=200, absent_after_ms=200)
    first, second, third, fourth = await room.enter(11, 12, 13, 14)
    await room.leave(first)
    for _ in range(3):
        await room.sleep(240)
        await room.tick()
    assert (await room.update(capacity=2)).admitted == 1, "who would see it?"
    # The first to come back finds all others still there, heard of or not.
    assert await room.orders([fourth]) == [1]
    assert await room.orders([third, second]) == [0, 0]


@pytest.mark.parametrize("polled", [True, False])
async def test_polls_that_copies_of_the_room_answer_are_polls(
    make_room: MakeRoom, polled: bool
) -> None:
    """Also if those who poll were reported a while ago, as each is only now and then."""
    room = make_room(capacity=1, grace_ms=400)
    first, _ = await room.enter(11, 12)
    for _ in range(4):
        await room.sleep(150)
        await room.store.heartbeat(room.room, (), polled=polled)
    await room.leave(first)
    seen = await room.tick()
    assert (seen.admitted, seen.waiting) == ((1, 0) if polled else (0, 1))


async def test_capacity_follows_its_setting(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    places = await room.enter(11, 12, 13, 14)
    assert (await room.update(capacity=3)).admitted == 3
    assert await room.orders(places) == [0, 0, 0, 1]
    assert (await room.update(capacity=1)).admitted == 3
    await room.leave(places[0])
    await room.leave(places[1])
    assert await room.orders(places[2:]) == [0, 1]
    await room.leave(places[2])
    assert await room.orders(places[3:]) == [0]


async def test_a_place_is_its_owners(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    first, second = await room.enter(11, 12)
    stolen = Place(room.room, second.number, 99, second.epoch)
    await room.leave(first)
    assert await room.orders([stolen]) == [None]
    assert await room.orders([second]) == [0]


async def test_numbers_that_were_never_given_have_ended(make_room: MakeRoom) -> None:
    room = make_room()
    (place,) = await room.enter(11)
    for number in (1, place.number + 1, place.number + 2**45):
        assert await room.orders([Place(room.room, number, 12, place.epoch)]) == [None]
    assert (await room.tick()).waiting == 0


async def test_a_loss_of_everything_costs_nobody_the_place(make_room: MakeRoom) -> None:
    room = make_room(capacity=2, grace_ms=1000)
    await room.update(max_waiting=50)
    places = await room.enter(*range(11, 21))
    await room.forget()
    # A newcomer first, then the others from the back: the line is as it was all the same.
    (newcomer,) = await room.enter(99)
    assert newcomer.number > places[-1].number
    for place in reversed(places):
        seen, (standing,) = await room.store.positions(room.room, [place])
        assert seen.recovering
        assert seen.settling
        assert standing.order == 1
    seen = await room.tick()
    assert (seen.waiting, seen.admitted, seen.recovering) == (11, 0, True)
    assert seen.limits.max_waiting == 50, "what was set at run time is remembered"
    everybody = [*places, newcomer]
    assert await room.enter(*[p.user_id for p in everybody]) == everybody, "epoch and all"
    await room.sleep(1040, keep=everybody)
    assert await room.orders(everybody) == [0, 0, *range(1, 10)]
    assert not (await room.tick()).recovering


async def test_a_latecomer_returns_and_marks_the_orders(make_room: MakeRoom) -> None:
    room = make_room(capacity=0, grace_ms=600)
    early, late = await room.enter(11, 12)
    await room.forget()
    await room.sleep(1300, keep=[late])
    seen, (standing,) = await room.store.positions(room.room, [late])
    assert (standing.order, seen.settling) == (1, False)
    assert await room.orders([early]) == [1]
    seen, (standing,) = await room.store.positions(room.room, [late])
    assert (standing.order, seen.settling, seen.recovering) == (2, True, False)


async def test_of_two_places_the_older_one_lives(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    _, old, between = await room.enter(11, 12, 13)
    await room.forget()
    (new,) = await room.enter(12)
    assert await room.orders([between, old, new]) == [2, 1, None]
    # Whichever returns first.
    await room.forget()
    assert await room.orders([old]) == [1]
    assert await room.orders([new, between]) == [None, 2]


async def test_one_call_may_bring_back_old_and_new_and_old_again(make_room: MakeRoom) -> None:
    room = make_room(capacity=0, absent_after_ms=400)
    old, other = await room.enter(12, 13)
    await room.forget()
    (new,) = await room.enter(12)
    # Long enough for a sign of life to be noted, in the middle of all that.
    await room.sleep(200, keep=[other])
    assert await room.orders([old, new, old, other]) == [1, None, 1, 2]
    assert await room.orders([new, old]) == [None, 1]
    assert (await room.tick()).waiting == 2
    await room.forget()
    assert await room.orders([old, old, old]) == [1, 1, 1]
    await room.leave(old)
    assert await room.orders([old, other]) == [None, 1]


async def test_a_newer_place_that_is_admitted_stays(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, grace_ms=300)
    _, old = await room.enter(11, 12)
    await room.forget()
    (new,) = await room.enter(12)
    await room.sleep(340, keep=[new])
    assert await room.orders([new]) == [0]
    assert await room.orders([old, new]) == [None, 0]
    await room.leave(new)
    assert await room.orders([old, new]) == [None, None]


async def test_what_ended_after_a_loss_stays_ended(make_room: MakeRoom) -> None:
    room = make_room(capacity=1, grace_ms=1000)
    paid, left, waiting = await room.enter(11, 12, 13)
    await room.forget()
    # Its payment is known, though the place is not.
    await room.leave(paid)
    await room.standings([left, waiting])
    await room.leave(left)
    assert await room.orders([paid, left, waiting]) == [None, None, 1]
    await room.sleep(1040, keep=[waiting])
    assert await room.orders([waiting]) == [0]
    await room.leave(waiting)
    assert await room.orders([paid, left, waiting]) == [None, None, None]


async def test_an_old_token_does_not_lead_the_line(make_room: MakeRoom) -> None:
    room = make_room(heal_within_ms=200)
    _, old = await room.enter(11, 12)
    await room.sleep(300)
    await room.forget()
    assert await room.orders([old]) == [None]


async def test_a_young_token_brings_an_old_place_back(make_room: MakeRoom) -> None:
    room = make_room(capacity=0)
    (young,) = await room.enter(11)
    await room.forget()
    now = (await room.tick()).now // 1000
    old = Place(room.room, young.number - TWO_HOURS, 12, epoch=1)
    assert await room.orders([old]) == [None]
    assert await room.orders([replace(old, issued_at=now - 7_200)]) == [None]
    assert await room.orders([replace(old, issued_at=now)]) == [1]
    assert await room.enter(12) == [old], "number and epoch"


async def test_an_old_place_ends_once(make_room: MakeRoom) -> None:
    room = make_room(capacity=0)
    (young,) = await room.enter(11)
    await room.forget()
    now = (await room.tick()).now // 1000
    old = Place(room.room, young.number - TWO_HOURS, 12, epoch=1, issued_at=now)
    assert await room.orders([old]) == [1]
    await room.leave(old)
    await room.tick()
    assert await room.orders([old]) == [None], "its token is still young"


async def test_a_first_start_makes_nobody_wait(make_room: MakeRoom) -> None:
    room = make_room(capacity=1)
    (place,) = await room.enter(11)
    assert await room.orders([place]) == [0]
    assert not (await room.tick()).recovering


async def test_a_start_after_a_loss_is_seen_by_who_comes_back(make_room: MakeRoom) -> None:
    """Store and replicas began anew together: the first lost place starts the grace."""
    room = make_room(capacity=1, grace_ms=1000)
    early, middle, late = await room.enter(11, 12, 13)
    await room.forget()
    room = room.at_new_replica()
    assert not (await room.tick()).recovering
    assert await room.orders([late]) == [1]
    assert (await room.tick()).recovering
    assert await room.orders([middle, early]) == [2, 1]
    await room.sleep(1040, keep=[early, middle, late])
    assert await room.orders([early, middle, late]) == [0, 1, 2]


async def test_a_replica_that_remembers_corrects_one_that_guessed(make_room: MakeRoom) -> None:
    room = make_room(capacity=50, max_waiting=100, grace_ms=1000)
    await room.update(capacity=2, max_waiting=30)
    places = await room.enter(*range(11, 21))
    await room.forget()
    # A new one is first to notice: it takes the settings for the limits, and admits whom it hears.
    new = room.at_new_replica()
    seen = await new.tick()
    assert (seen.limits.capacity, seen.recovering) == (50, False)
    (early_bird,) = await new.enter(98)
    assert await new.orders([early_bird]) == [0]
    # Then the old one: now all is as it was, but for who is inside.
    seen = await room.tick()
    assert (seen.limits.capacity, seen.limits.max_waiting, seen.recovering) == (2, 30, True)
    assert seen.settling
    (newcomer,) = await new.enter(99)
    assert await new.orders([newcomer, early_bird]) == [1, 0]
    everybody = [early_bird, *places, newcomer]
    assert await new.orders(list(reversed(everybody))) == list(range(11, -1, -1))
    await room.sleep(1040, keep=everybody)
    assert await room.orders(everybody) == [0, 0, *range(1, 11)]
    assert (await new.tick()).admitted == 2
    await new.leave(early_bird)
    assert await new.orders(places[:3]) == [0, 0, 1]


async def test_a_pause_outlives_a_replica_that_guessed(make_room: MakeRoom) -> None:
    room = make_room()
    await room.update(paused=True)
    await room.forget()
    new = room.at_new_replica()
    assert not (await new.tick()).limits.paused
    assert await room.try_enter(11) is Refusal.QUEUE_PAUSED
    assert (await new.tick()).limits.paused
    # It has learned, and is believed from now on.
    await room.forget()
    assert (await new.tick()).limits.paused
    assert (await room.update(paused=False)).recovering


async def test_what_an_operator_set_after_a_guess_stands(make_room: MakeRoom) -> None:
    room = make_room(capacity=50, max_waiting=100)
    await room.update(capacity=2, max_waiting=30)
    await room.forget()
    new = room.at_new_replica()
    await new.update(capacity=3)
    seen = await room.tick()
    assert (seen.limits.capacity, seen.limits.max_waiting) == (3, 30)


async def test_replicas_of_one_start_correct_nobody(make_room: MakeRoom) -> None:
    room = make_room(capacity=5)
    await room.tick()
    new = room.at_new_replica()
    await new.update(capacity=7)
    for replica in (room, new, room.at_new_replica()):
        seen = await replica.tick()
        assert (seen.limits.capacity, seen.recovering) == (7, False)


@pytest.mark.parametrize("batch", [1, 7, 256])
async def test_the_line_moves_in_the_order_of_joining(make_room: MakeRoom, batch: int) -> None:
    room = make_room(capacity=3, max_waiting=1000)
    users = list(range(1, 257))
    places: list[Place] = []
    for at in range(0, len(users), batch):
        places += await room.enter(*users[at : at + batch])
    last: dict[int, int] = {}
    entered: list[int] = []
    for _ in range(len(users) // 2 + 1):
        inside = await _look_around(room, places, last, entered)
        for place in inside[:2]:
            await room.leave(place)
    assert entered == users


async def _look_around(
    room: RoomHandle, places: list[Place], last: dict[int, int], entered: list[int]
) -> list[Place]:
    """Everybody asks; notes who has newly entered. Returns who is inside."""
    inside = []
    for place, standing in zip(places, await room.standings(places), strict=True):
        if standing.state is PlaceState.ENDED:
            continue
        assert standing.order <= last.get(place.user_id, 1000), "an order grew"
        last[place.user_id] = standing.order
        if standing.state is PlaceState.ADMITTED:
            inside.append(place)
            if place.user_id not in entered:
                entered.append(place.user_id)
    assert len(inside) <= 3
    return inside
