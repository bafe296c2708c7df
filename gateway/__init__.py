"""The public HTTP API in front of the gRPC services: routes, tokens, JSON, errors.

Owns: nothing; any number of it may run. Keeps caches of what may be stale.
Calls: queue_service, concert_service, reservation_service, payment_service.
Publishes: nothing.
"""
