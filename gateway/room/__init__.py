"""The gateway's copy of the room, from which it answers without a call.

`watch` receives it, `copy` keeps it exact, `freshness` proves how new it is, `signs` reports who
polled. See docs/adr/0040-room-view.md.
"""
