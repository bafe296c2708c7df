"""The seats of schedules as reservation_service and each gateway keep them in memory.

`seat_map` has the ids of a schedule's seats, `layout` what many schedules share, `decoding` makes
both of responses of concert_service's GetSeatMaps. No I/O.
See docs/adr/0046-packed-seat-maps.md.
"""
