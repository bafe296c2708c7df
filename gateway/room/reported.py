"""When each place was reported last, in memory of a bounded size."""

from array import array

_WAYS = 4
_BITS = 16
_SIZE = _WAYS << _BITS
_MIXER = 0x9E3779B97F4A7C15  # spreads numbers that follow each other


class Reported:
    """Remembers a time for each of about 100,000 places, in 4 MB, which it takes with the first.

    Each number has four slots, which it shares with others. If all are taken, the oldest is
    forgotten: of 100,000 places, 4 % share their slots with more than three others.
    """

    def __init__(self) -> None:
        self.forget_all()

    def forget_all(self) -> None:
        """Forgets all places."""
        # A process knows up to 1,000 rooms, and hears of places of a few.
        self._numbers = array("q")  # 0 is no place
        self._times = array("d")

    def get(self, number: int) -> float | None:
        """Returns the time of a place, or None."""
        slot = self._slot(number)
        return None if slot is None else self._times[slot]

    def put(self, number: int, now: float) -> None:
        """Remembers that a place was reported now."""
        if not self._numbers:
            self._numbers = array("q", bytes(8 * _SIZE))
            self._times = array("d", bytes(8 * _SIZE))
        slot = self._slot(number)
        if slot is None:
            slot = min(_slots(number), key=self._times.__getitem__)
        self._numbers[slot], self._times[slot] = number, now

    def drop(self, number: int) -> None:
        """Forgets a place, if it is there."""
        slot = self._slot(number)
        if slot is not None:
            self._numbers[slot], self._times[slot] = 0, 0.0

    def _slot(self, number: int) -> int | None:
        numbers = self._numbers
        if not numbers:
            return None
        for slot in _slots(number):
            if numbers[slot] == number:
                return slot
        return None


def _slots(number: int) -> range:
    first = _WAYS * ((number * _MIXER & (1 << 64) - 1) >> 64 - _BITS)
    return range(first, first + _WAYS)
