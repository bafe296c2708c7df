"""The public HTTP API in front of the gRPC services: routes, tokens, JSON, errors.

Owns: nothing, so any number of processes may run. Caches what may be stale.
Calls: queue_service, concert_service, reservation_service, payment_service.
Publishes: nothing.
"""
