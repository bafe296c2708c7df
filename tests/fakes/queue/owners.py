"""Whose places are whose, also after a loss."""

from dataclasses import replace

from queue_service.domain import (
    Place,
)
from room_view import phase as phases
from room_view.position import ENDED, PlaceState, Standing
from tests.fakes.queue.flow import Flow
from tests.fakes.queue.state import UNKNOWN_OWNER, State, number_at


class Owners(Flow):
    """Finds, restores and ends places."""

    def _place_of(self, state: State, user_id: int) -> Place | None:
        return next((p for p in state.live.values() if p.user_id == user_id), None)

    def _is_lost(self, state: State, number: int, issued_at: int) -> bool:
        newest = max(number, number_at(issued_at * 1000))
        oldest = number_at(self.now - self._rules.heal_within_ms)
        return newest > oldest and self._is_unknown(state, number)

    def _is_unknown(self, state: State, number: int) -> bool:
        known = any(number in numbers for numbers in state.known)
        return state.certain < number <= state.epoch and not known and number not in state.ended

    def _live_had_ended(self, state: State, older: int, newer_epoch: int) -> bool:
        restored_in = state.restored_in.get(older, 0)
        return restored_in <= newer_epoch or 0 < newer_epoch < older

    def _lost_one_stays(self, state: State, lost: Place, live: Place) -> bool:
        if live.number < lost.number:
            return self._live_had_ended(state, live.number, lost.epoch)
        return lost.number <= live.epoch and live.number in state.waiting

    def _restore(self, state: State, place: Place) -> None:
        if not self._prevails(state, place):
            state.ended.add(place.number)
            return
        self._note_owner(state, place)
        state.waiting.add(place.number)
        if not state.healed:
            state.grace_until = max(state.grace_until, state.resumed_at + self._rules.grace_ms)
        state.settled_at = self.now + self._rules.grace_ms

    def _adopt(self, state: State, place: Place) -> None:
        if self._prevails(state, place):
            self._note_owner(state, place)
            state.restored_in[place.number] -= 0.5  # by a copy, not by its owner
        else:
            self._end(state, place.number)

    def _prevails(self, state: State, place: Place) -> bool:
        other = self._place_of(state, place.user_id)
        if other is not None and other.number != place.number:
            if not self._lost_one_stays(state, place, other):
                return False
            self._end(state, other.number)
        return True

    def _note_owner(self, state: State, place: Place) -> None:
        state.live[place.number] = replace(place, issued_at=0)
        state.seen[place.number] = self.now
        state.restored_in[place.number] = state.epoch

    def _poll(self, state: State, place: Place) -> bool:
        live = state.live.get(place.number)
        if live is None:
            if self._is_lost(state, place.number, place.issued_at):
                self._restore(state, place)
        elif live.user_id == UNKNOWN_OWNER:
            self._adopt(state, place)
        elif live.user_id == place.user_id:
            state.seen[place.number] = self.now
        return live is None or live.user_id in (place.user_id, UNKNOWN_OWNER)

    def _leave(self, state: State, place: Place) -> None:
        live = state.live.get(place.number)
        owner_unknown = live is not None and live.user_id == UNKNOWN_OWNER
        if owner_unknown or (live is None and self._is_unknown(state, place.number)):
            other = self._place_of(state, place.user_id)
            older = other is not None and other.number < place.number
            if (
                other is not None
                and older
                and self._live_had_ended(state, other.number, place.epoch)
            ):
                self._end(state, other.number)
        if live is None or owner_unknown or live.user_id == place.user_id:
            self._end(state, place.number)

    def _end(self, state: State, number: int) -> None:
        state.live.pop(number, None)
        state.seen.pop(number, None)
        state.waiting.discard(number)
        state.admitted.pop(number, None)
        state.unclaimed.discard(number)
        state.restored_in.pop(number, None)
        if self._is_unknown(state, number):
            state.ended.add(number)

    def _claim(self, state: State, number: int) -> None:
        if number in state.unclaimed:
            state.unclaimed.remove(number)
            state.admitted[number] = self.now + self._rules.admission_ttl_ms

    def _standing(self, state: State, number: int) -> Standing:
        if number in state.waiting:
            order = sum(1 for other in state.waiting if other <= number)
            if not phases.is_ordered(self._fields(state), self.now):
                order = len(state.waiting)
            return Standing(PlaceState.WAITING, order=order)
        if (until := state.admitted.get(number, 0)) > self.now:
            return Standing(PlaceState.ADMITTED, admitted_until_ms=until)
        return ENDED
