"""The waiting room: places in line, admissions, and how many may be admitted at once.

Owns Redis keys `{queue:<room>}:*`. Calls nobody. Publishes nothing; listens to payment.events,
where a successful payment ends its admission. Any number of replicas may run.
"""
