"""Payments, each driven to an end whatever crashes.

Owns the MariaDB schema `payment` (payments, the outbox of their events, idempotency keys).
Calls reservation_service (BeginPayment) and the payment provider. Publishes `payment.events`;
listens to `reservation.events`.

Read `saga.py` first: it is the service. `recovery.py` finishes what a crash left unfinished,
`relay.py` brings the committed events to Kafka.
"""
