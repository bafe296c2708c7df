"""The challenge that is solved before a user gets a place.

`altcha` and `http` are the two kinds, `entry` is the check that uses one of them. Each solution is
good for one place: the room spends it in the step that gives the place, so it is spent once however
many gateways run.
"""
