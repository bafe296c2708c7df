"""An exact copy of a waiting room, which queue_service keeps and each gateway keeps.

`line` has the places that wait, `view` the whole room and the rule that keeps it exact, `position`
what the owner of a place sees, `draw` the ranks that a draw gives. No I/O, but for the command
`verify_draw`.
See docs/adr/0040-room-view.md.
"""
