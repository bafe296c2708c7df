"""The stores, the seat directory and the seat locks of reservation_service, in memory."""

from tests.fakes.reservation.seats import SEATS_PER_SCHEDULE as SEATS_PER_SCHEDULE
from tests.fakes.reservation.seats import FakeSeatDirectory as FakeSeatDirectory
from tests.fakes.reservation.seats import FakeSeatLocks as FakeSeatLocks
from tests.fakes.reservation.seats import UselessLocks as UselessLocks
from tests.fakes.reservation.store import FakeReservationStore as FakeReservationStore
