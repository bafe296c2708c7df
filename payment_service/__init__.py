"""Takes payments and finishes each one, also after a crash.

Owns the MariaDB schema `payment` (payments with their unsent events, idempotency keys).
Calls reservation_service (BeginPayment) and the payment provider. Publishes `payment.events`;
consumes `reservation.events`.

Read `saga.py` first: it has the steps of a payment. `recovery.py` finishes what a crash left
unfinished, `relay.py` publishes the committed events to Kafka, `retention.py` removes old rows.
"""
