"""The admin API: describing events and rooms, changing them while they sell, keys, the audit log.

It has a listener of its own in the gateway's process (docs/adr/0055-admin-api.md). FastAPI serves
it: a few operators use it, so the plainest way is good enough.
"""
