"""How a service runs: server, client, deadlines, errors, stores, events, logs, metrics.

It knows nothing about tickets. A module enters with three real callers or a runtime concern of its
own, and with its own test.
"""
