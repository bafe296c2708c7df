"""Who has which seat, and until when. The only writer of seat availability.

Owns the MariaDB schema `reservation` and the Redis keys `seat-lock:*`. Calls concert_service for
what a seat is and costs. Consumes `payment.events`; publishes to `reservation.events` when a
payment came too late for its seat.
"""
