"""Knows who has which seat, and until when. The only writer of seat availability.

Owns the MariaDB schema `reservation` and the Redis keys `seat-lock:*`. Calls concert_service for
the facts about a seat. Consumes `payment.events`; publishes to `reservation.events` when a payment
succeeded too late for its seat.
"""
