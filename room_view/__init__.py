"""An exact copy of a waiting room, which queue_service keeps and each gateway keeps.

`line` has the places that wait, `view` the whole room and the rule that keeps it exact, `position`
what the owner of a place sees. No I/O.
See docs/adr/0040-room-view.md.
"""
