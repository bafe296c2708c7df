"""What the house has: its seats are claimed like those of a user, by a reservation of its own.

Each schedule has one such reservation at most. It is CONFIRMED, so everybody reads its seats as
sold, and it never ends. Its id is negative, so nobody owns, pays or cancels it. Which seats it has
only their claims say: it may have all of a hall.
"""

MAX_SEATS = 100_000
"""The most seats of one call that blocks or releases them."""

MAX_SCHEDULES = 1_000
"""The most schedules of one call that closes or reopens them."""

MAX_LISTED = 1_000
"""The most seats or reservations that an answer names."""

MAX_LISTED_SEATS = 20_000
"""The most seats of the reservations of one answer: they take 2 MB, half of what gRPC accepts."""

USER_ID = 0
"""The user of the house's reservations, which no user has."""


def reservation_of(schedule_id: int) -> int:
    """Returns the id of the house's reservation of a schedule."""
    return -schedule_id
