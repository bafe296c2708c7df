"""Makes people ready before k6 starts, when they are too many for its setup().

They enter and hold seats through the public routes, as lib/people.js does it for fewer people, and
are written to a file, PREPARED_FILE, of which k6 keeps one copy for all its users.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import random
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.alias_generators import to_camel

from harness import stopping
from harness.client import AnyResponse, Client, connect
from harness.errors import UserError

# More of them make it no faster on two cores.
_CONNECTIONS = 24
# Making a person ready costs the shop no more than a payment. So in twice the duration of the load
# more people are made than it can use, however many users there are.
_MAKING_TIMES = 2
_LEAST_MAKING_SECONDS = 20.0
# A hold lasts 300 s. k6 takes the oldest first, so that the first and the last of a minute's load
# both are in time.
_MOST_MAKING_SECONDS = 200.0
_LEAVING_SECONDS = 60.0
_RESPONSE_SECONDS = 30.0
_SEATS_TRIED = 5
# As newUser() in lib/env.js.
_USERS = range(1_000_000_000, 91_000_000_000)

T = TypeVar("T")
Progress = Callable[[str, float], None]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a script says that it needs, see peopleOf() in lib/profile.js."""

    people: int
    #: Whether each holds a seat.
    holds: bool
    #: Whether k6's setup() makes them itself.
    in_setup: bool


class Person(BaseModel):
    """A user who has entered. The last two fields are of one who holds a seat."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    user_id: int
    token: str
    order: int
    reservation_id: int | None = None
    held_until: str | None = None


_PEOPLE = TypeAdapter(list[Person])


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The people who are ready. `environ` are the variables that tell k6 of them."""

    base_url: str
    people: Sequence[Person]
    environ: Mapping[str, str]

    def send_home(self, *, without: int = 0) -> None:
        """Lets all people but the first `without` leave, so that the room is as it was.

        A person whose request fails leaves when the admission ends.
        """
        leaving = iter(self.people[without:])

        async def leave(gateway: httpx.AsyncClient) -> None:
            await Client(gateway, token=next(leaving).token).leave()

        count = len(self.people) - without
        with contextlib.suppress(UserError):
            _each(self.base_url, count, leave, _LEAVING_SECONDS, lambda left: None)


@contextlib.contextmanager
def prepared(
    wanted: Wanted, load_seconds: float, environ: Mapping[str, str], progress: Progress
) -> Iterator[Prepared]:
    """Makes the wanted people ready, or as many as a load of so many seconds can use; nobody if
    setup() makes them. The file exists as long as the context. Raises `UserError`."""
    base_url = environ["BASE_URL"]
    if wanted.in_setup:
        yield Prepared(base_url, [], {})
        return
    within = max(_LEAST_MAKING_SECONDS, min(_MAKING_TIMES * load_seconds, _MOST_MAKING_SECONDS))
    people = make(wanted, within, environ, progress)
    # In a private folder: the tokens buy seats.
    with tempfile.TemporaryDirectory(prefix="frontrow-people-") as folder:
        file = Path(folder) / "people.json"
        file.write_bytes(_PEOPLE.dump_json(people, by_alias=True, exclude_none=True))
        yield Prepared(base_url, people, {"PREPARED_FILE": str(file)})


def make(
    wanted: Wanted, within: float, environ: Mapping[str, str], progress: Progress
) -> list[Person]:
    """Makes as many people ready as it can in `within` seconds, in the order in which they became
    ready. `environ` holds BASE_URL and the variables of what is for sale. Raises `UserError`."""
    seats = _seats(environ, _SEATS_TRIED * wanted.people) if wanted.holds else iter(())

    async def person(gateway: httpx.AsyncClient) -> Person:
        client = Client(gateway, random.choice(_USERS))
        entered = await client.enter()
        if entered.status_code != 201:
            raise _cannot("enter the queue", entered)
        made = Person(user_id=client.user_id, token=client.token, order=entered.body.order)
        return await _hold(client, made, seats) if wanted.holds else made

    people = _each(
        environ["BASE_URL"],
        wanted.people,
        person,
        within,
        lambda done: progress(f"{done:,} of {wanted.people:,} people ready", 0.0),
    )
    if len(people) < wanted.people:
        print(
            f"  {len(people):,} of {wanted.people:,} people were ready within {within:.0f} s; if"
            " they do not suffice, more are made while it runs",
            flush=True,
        )
    return people


async def _hold(client: Client, person: Person, seats: Iterator[int]) -> Person:
    """Holds the next of these seats that is free. Raises `UserError`."""
    for _, seat in zip(range(_SEATS_TRIED), seats):  # noqa: B905
        held = await client.reserve(seat)
        if held.status_code == 200:
            hold = held.body
            return person.model_copy(
                update={"reservation_id": hold.reservation_id, "held_until": hold.held_until}
            )
        if held.status_code != 409:
            raise _cannot("hold a seat", held)
    raise UserError("Seats cannot be held before the measurement: are there any left?")


def _seats(environ: Mapping[str, str], count: int) -> Iterator[int]:
    """At most `count` random seats, each once; numbered as by anySeat() in lib/env.js."""
    concerts, schedules, ids, seats = (
        int(environ[name]) for name in ("CONCERTS", "SCHEDULES", "SCHEDULE_IDS", "SEATS")
    )
    every = range(concerts * schedules * seats)
    for number in random.sample(every, min(count, len(every))):
        schedule, seat = divmod(number, seats)
        concert, date = divmod(schedule, schedules)
        yield (concert * ids + date) * seats + seat + 1


def _cannot(what: str, response: AnyResponse) -> UserError:
    return UserError(
        f"Nobody can {what} before the measurement: the gateway says {response.summary}"
    )


def _each(
    base_url: str,
    count: int,
    do: Callable[[httpx.AsyncClient], Awaitable[T]],
    seconds: float,
    progress: Callable[[int], None],
) -> list[T]:
    """Calls `do` `count` times, over a few connections at once, or fewer times if `seconds` are
    over, and returns the results. Raises what it raises, and `UserError` if there is no response.
    """
    deadline = time.monotonic() + seconds
    ended = threading.Event()
    numbers = iter(range(count))
    done: list[T] = []

    async def work() -> None:
        async with connect(base_url, _BlockingTransport(base_url)) as gateway:
            for _ in numbers:
                if ended.is_set():
                    return
                done.append(await do(gateway))

    try:
        with ThreadPoolExecutor(_CONNECTIONS, "prepare") as pool:
            futures = [pool.submit(asyncio.run, work()) for _ in range(_CONNECTIONS)]
            try:
                while time.monotonic() < deadline:
                    finished, running = wait(futures, timeout=0.2, return_when=FIRST_EXCEPTION)
                    progress(len(done))
                    if not running or any(future.exception() for future in finished):
                        break
                    stopping.raise_if_requested()
            finally:
                # Each thread finishes its current call.
                ended.set()
        for future in futures:
            future.result()
    except httpx.TransportError as error:
        raise UserError(
            f"The gateway at {base_url} does not answer while people are made ready: is it"
            " overloaded?"
        ) from error
    return done


class _BlockingTransport(httpx.AsyncBaseTransport):
    """One connection for a thread with an event loop of its own, which it blocks.

    A request takes 0.4 ms of processor time; with httpx's own transport it takes 1.0 ms, and a
    third as many people enter per second, because the gateway shares the processor.
    """

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=_RESPONSE_SECONDS
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            self._connection.request(
                request.method,
                request.url.raw_path.decode(),
                await request.aread(),
                dict(request.headers),
            )
            response = self._connection.getresponse()
            return httpx.Response(
                response.status, headers=response.getheaders(), content=response.read()
            )
        except (OSError, http.client.HTTPException) as error:
            raise httpx.TransportError(str(error)) from error

    async def aclose(self) -> None:
        self._connection.close()
