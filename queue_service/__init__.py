"""The waiting room: places in line, admissions, and how many may be admitted at once.

Owns the Redis keys `{queue:<room>}:*`. Calls no service and publishes no events. Consumes
payment.events: a successful payment ends its admission. Any number of replicas may run.
"""
