"""Limits of the protocols that both sides of a call must know."""

MAX_ITEMS = 256
"""The most items of one call, or of one message of a stream, to queue_service, to
reservation_service and to payment_service. In queue_service they take Redis one to two
milliseconds, in which it serves no other call."""

MAX_SEATS_PER_HOLD = 50
"""The most seats that one item of HoldSeats may ask for, whatever the settings of
reservation_service allow."""

CATALOGUE_BEAT_SECONDS = 5.0
"""WatchCatalogue sends a message at least so often, if need be an empty one. A caller that hears
nothing for much longer has no peer."""
