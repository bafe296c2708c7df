"""What copies of a room give back after a loss."""

from queue_service.domain import (
    HandBack,
    HandBackReply,
    LostAdmission,
    Place,
)
from tests.fakes.queue.owners import Owners
from tests.fakes.queue.state import ASK_AGAIN_MS, UNKNOWN_OWNER, Healing, State, number_at


class HandingBack(Owners):
    """Takes back what a copy knows."""

    def _bid(self, state: State, healing: Healing, hand_back: HandBack) -> HandBackReply:
        own = (hand_back.epoch, hand_back.seq)
        if own <= healing.handed:
            return HandBackReply(granted=False, done=True, retry_after_ms=0)
        if own > healing.bid or self.now - healing.bid_at > self._rules.lease_ms:
            healing.bid, healing.bidder = own, hand_back.bidder
        bidding_ms = max(0, healing.bids_until - self.now)
        if healing.bidder != hand_back.bidder:
            return HandBackReply(False, False, bidding_ms or ASK_AGAIN_MS)
        healing.bid_at = self.now
        young = state.epoch > number_at(self.now - self._rules.grace_ms)
        if not state.healed and state.grace_until <= self.now and young:
            if state.blind == state.epoch:
                state.safe = 0
            state.grace_until = state.settled_at = self.now + self._rules.grace_ms
        return HandBackReply(not bidding_ms, False, bidding_ms)

    def _end_by_rules(self, state: State, number: int, hand_back: HandBack) -> None:
        live = state.live.get(number)
        owned = live is not None and live.user_id != UNKNOWN_OWNER
        returned = state.restored_in.get(number) == state.epoch
        missing = not hand_back.settled and number <= hand_back.epoch
        if not (missing and owned and returned):
            self._end(state, number)

    def _give_back_admission(
        self, state: State, room: str, lost: LostAdmission, lost_epoch: int
    ) -> None:
        live = state.live.get(lost.number)
        if live is None and not self._is_unknown(state, lost.number):
            return
        if lost.user_id == UNKNOWN_OWNER and live is None:
            state.live[lost.number] = Place(room, lost.number, UNKNOWN_OWNER, 0)
            state.seen[lost.number] = self.now
        elif lost.user_id != UNKNOWN_OWNER and (live is None or live.user_id == UNKNOWN_OWNER):
            epoch = lost_epoch if lost.number > lost_epoch else 0
            self._adopt(state, Place(room, lost.number, lost.user_id, epoch))
            if lost.number not in state.live:
                return
        if lost.number in state.admitted:
            if lost.claimed and lost.number in state.unclaimed:
                state.unclaimed.remove(lost.number)
                state.admitted[lost.number] = lost.until_ms
            return
        until = lost.until_ms
        if not lost.claimed:
            until = max(until, state.resumed_at + self._rules.claim_window_ms)
        if until <= self.now:
            self._end(state, lost.number)
        elif self._free_slots(state) > 0:
            state.waiting.discard(lost.number)
            state.admitted[lost.number] = until
            if not lost.claimed:
                state.unclaimed.add(lost.number)
        else:
            state.waiting.add(lost.number)
