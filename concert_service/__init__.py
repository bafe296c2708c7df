"""Concerts, their schedules, seats and prices: facts that hardly change. Sends each change to
callers that keep copies.

Owns the MariaDB schema `concert`. Calls no other service and publishes nothing. Whether a seat is
available is reservation_service's to decide.
"""
