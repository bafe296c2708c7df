"""The public HTTP API in front of the gRPC services: routes, tokens, JSON, errors.

Owns: nothing, so any number of processes may run. Caches what may be stale.
Calls: queue_service, concert_service, reservation_service, payment_service.
Publishes: nothing.
"""

import os

# For jemalloc, the allocator of the HTTP server (gateway/server.py), which reads it when it is
# loaded. It wastes no page per buffer and keeps freed memory for a second. Where memory is capped,
# it is returned at once instead (deploy/compose.yml): 15,000 connections that each sent 15 KB of a
# head take 270 MB then, and 390 MB otherwise, but a response costs 30 to 60 % more CPU.
os.environ.setdefault(
    "_RJEM_MALLOC_CONF",
    "narenas:1,cache_oblivious:false,lg_tcache_max:12,dirty_decay_ms:1000,muzzy_decay_ms:0",
)
