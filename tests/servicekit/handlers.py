"""Handlers of records, for tests of consumers."""

from collections.abc import Awaitable, Callable, Sequence

from servicekit.kafka import Handler, Record


def in_turn(handle: Callable[[Record], Awaitable[Sequence[Record]]]) -> Handler:
    """Handles one record after the other."""

    async def handle_all(records: Sequence[Record]) -> Sequence[Record]:
        return [result for record in records for result in await handle(record)]

    return handle_all
