"""Concerts, their schedules, seats and prices: facts that hardly change. Callers that keep copies
are told of each change.

Owns the MariaDB schema `concert`. Calls no other service and publishes nothing. Whether a seat is
available is reservation_service's to decide.
"""
