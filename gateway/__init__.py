"""The public HTTP API in front of the gRPC services: routes, tokens, JSON, errors.

Owns: nothing, so any number of processes may run. Caches what may be stale.
Calls: queue_service, concert_service, reservation_service, payment_service.
Publishes: nothing.
"""

import os

# For jemalloc, the allocator of the HTTP server (gateway/server.py), which reads it when it is
# loaded. It returns freed memory at once, wastes no page per buffer, and keeps no freed buffers:
# 15,000 connections that each sent 15 KB of a head take 270 MB instead of 430.
os.environ.setdefault(
    "_RJEM_MALLOC_CONF",
    "narenas:1,cache_oblivious:false,lg_tcache_max:12,dirty_decay_ms:0,muzzy_decay_ms:0",
)
