"""How any service of ours runs: server, client, deadlines, errors, stores, events, logs, metrics.

No ticketing noun in here. A module enters with three real callers or a runtime concern of its
own, and brings its test.
"""
