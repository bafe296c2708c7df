"""`make demo EVENT=theatre`: imports an example, opens a waiting room for it, and buys from it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from concert_service.domain import DEFAULT_ROOM
from harness import demo, stopping
from harness.admin_client import AdminClient
from harness.errors import UserError
from harness.event_commands import KEY, URL, with_client
from harness.local import keys

EXAMPLES = Path(__file__).parents[1] / "deploy" / "examples"
# Long enough to see people gather.
_OPENS_AFTER = timedelta(seconds=8)
_CAPACITY = 100


def run(name: str, environ: Mapping[str, str]) -> None:
    """Imports the example, publishes it, opens its room, and buys two tickets. Uses the API key in
    FRONTROW_ADMIN_KEY, or one that it creates for `make run` and revokes. Raises UserError."""
    examples = sorted(path.stem for path in EXAMPLES.glob("*.json"))
    if name not in examples:
        raise UserError(f"EVENT must be one of {', '.join(examples)}, not {name!r}.")
    with contextlib.ExitStack() as stack:
        if not environ.get(KEY):
            if environ.get(URL):
                raise UserError(f"Set {KEY} to an API key for {URL}.")
            environ = {**environ, KEY: stack.enter_context(keys.temporary("demo", environ))}
        # A room of its own: nobody waits behind the crowd of another event.
        concert_id = with_client(lambda client: open_event(client, name, room=name), environ)
    stopping.run_async(demo.buy(demo.url_of(environ), concert_id))


async def open_event(client: AdminClient, name: str, room: str) -> int:
    """Imports and publishes an example, and defines its room unless it is there; returns the id of
    the concert. Raises UserError."""
    document = json.loads((EXAMPLES / f"{name}.json").read_bytes())
    document["room"] = room
    if room != DEFAULT_ROOM and not await client.has_room(room):
        opens_at = (datetime.now(UTC) + _OPENS_AFTER).replace(microsecond=0)
        zone = document["timeZone"]
        definition = {"capacity": _CAPACITY, "timeZone": zone, "opensAt": opens_at.isoformat()}
        await client.put_room(room, definition)
        print(f"Room {room!r} opens at {opens_at}")
    result = await client.import_event(json.dumps(document, ensure_ascii=False).encode())
    print(f"Imported {result.external_id!r}: version {result.version}")
    event = (await client.set_status(result.external_id, "publish")).event
    print(f"Published {event.title!r}: {event.seats:,} seats on {len(event.schedule_ids)} dates")
    return result.concert_id
