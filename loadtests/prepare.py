"""People who are made ready before k6 starts, because they are too many for its setup().

They enter and hold seats through the public routes, as lib/people.js lets others do it, and go
into a file, of which k6 keeps one copy for all its users: PREPARED_FILE.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import itertools
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from harness import stopping
from harness.errors import UserError

# Threads with http.client, in which a request takes 0.2 ms of the processor (with httpx 0.6, with
# its asyncio 1.4), since that is the gateway's too. More of them make it no quicker on two cores.
_CONNECTIONS = 24
# To make somebody ready costs the shop no more than to let somebody pay: in twice the time that the
# load lasts more of them are made than it can use, however many users there are.
_MAKING_TIMES = 2
_LEAST_MAKING_SECONDS = 20.0
# A hold lasts 300 s. k6 takes the oldest first, so that the first and the last of a minute's load
# both come in time.
_MOST_MAKING_SECONDS = 200.0
_LEAVING_SECONDS = 60.0
_REPLY_SECONDS = 30.0
_SEATS_TRIED = 5
# As newUser() in lib/env.js.
_USERS = range(1_000_000_000, 91_000_000_000)

T = TypeVar("T")
Person = dict[str, Any]
Progress = Callable[[str, float], None]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a script says that it needs, see peopleOf() in lib/profile.js."""

    people: int
    #: Whether each holds a seat.
    holds: bool
    #: Whether k6's setup() makes them itself.
    in_setup: bool


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Who is ready; `environ` is what k6 must be told."""

    base_url: str
    people: Sequence[Person]
    environ: Mapping[str, str]

    def send_home(self, *, without: int = 0) -> None:
        """All leave but the first `without`, so that the room is as it was. Whoever does not get
        through leaves when the admission ends."""
        leaving = iter(self.people[without:])

        def leave(gateway: _Gateway) -> None:
            gateway.ask("DELETE", "/queues/order", token=next(leaving)["token"])

        count = len(self.people) - without
        with contextlib.suppress(UserError):
            _each(self.base_url, count, leave, _LEAVING_SECONDS, lambda left: None)


@contextlib.contextmanager
def prepared(
    wanted: Wanted, load_seconds: float, environ: Mapping[str, str], progress: Progress
) -> Iterator[Prepared]:
    """Those who are wanted, or as many as are enough for a load that lasts so long; nobody if
    setup() makes them. The file is there as long as the context. Raises UserError."""
    base_url = environ["BASE_URL"]
    if wanted.in_setup:
        yield Prepared(base_url, [], {})
        return
    within = max(_LEAST_MAKING_SECONDS, min(_MAKING_TIMES * load_seconds, _MOST_MAKING_SECONDS))
    people = make(wanted, within, environ, progress)
    # Nobody else's business: the tokens buy seats.
    with tempfile.TemporaryDirectory(prefix="frontrow-people-") as folder:
        file = Path(folder) / "people.json"
        file.write_text(json.dumps(people))
        yield Prepared(base_url, people, {"PREPARED_FILE": str(file)})


def make(
    wanted: Wanted, within: float, environ: Mapping[str, str], progress: Progress
) -> list[Person]:
    """[{"userId", "token", "order"; of who holds a seat also "reservationId", "heldUntil"}, …], as
    many as are ready `within` so many seconds; who is ready first comes first. `environ` tells
    BASE_URL and what is for sale. Raises UserError."""
    seats = _seats(environ, _SEATS_TRIED * wanted.people) if wanted.holds else iter(())

    def person(gateway: _Gateway) -> Person:
        user = random.choice(_USERS)
        body = {"userId": user}
        status, answer, token = gateway.ask("POST", "/queues/enqueue", body)
        if status != 201 or not token:
            raise _cannot("enter the queue", status, answer)
        made = body | {"token": token, "order": answer["order"]}
        return made | gateway.hold(made, seats) if wanted.holds else made

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


def _seats(environ: Mapping[str, str], count: int) -> Iterator[int]:
    """At most so many seats by chance, each once; numbered as by anySeat() in lib/env.js."""
    concerts, schedules, ids, seats = (
        int(environ[name]) for name in ("CONCERTS", "SCHEDULES", "SCHEDULE_IDS", "SEATS")
    )
    every = range(concerts * schedules * seats)
    chosen = []
    for number in random.sample(every, min(count, len(every))):
        schedule, seat = divmod(number, seats)
        concert, date = divmod(schedule, schedules)
        chosen.append((concert * ids + date) * seats + seat + 1)
    # Of a list: generators cannot be shared between threads.
    return iter(chosen)


class _Gateway:
    """One connection."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._path = parts.path
        self._connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=_REPLY_SECONDS
        )

    def close(self) -> None:
        self._connection.close()

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str = ""
    ) -> tuple[int, dict[str, Any], str]:
        """Status, body, and the access token if there is one. Raises UserError."""
        headers = {"Content-Type": "application/json"} | (
            {"X-Access-Token": token} if token else {}
        )
        sent = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, self._path + path, sent, headers)
            reply = self._connection.getresponse()
            answer = json.loads(reply.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UserError(
                f"The gateway broke off {method} {path} while people were made ready: is it"
                " overloaded?"
            ) from error
        return reply.status, answer, reply.headers.get("X-Access-Token") or ""

    def hold(self, person: Person, seats: Iterator[int]) -> dict[str, Any]:
        """Any of these seats. Raises UserError."""
        for seat in itertools.islice(seats, _SEATS_TRIED):
            body = {"userId": person["userId"], "concertSeatId": seat}
            status, answer, _ = self.ask("POST", "/concerts/reservation", body, person["token"])
            if status == 200:
                return {key: answer[key] for key in ("reservationId", "heldUntil")}
            if status != 409:
                raise _cannot("hold a seat", status, answer)
        raise UserError("Seats cannot be held before the measurement: are there any left?")


def _cannot(what: str, status: int, answer: Mapping[str, Any]) -> UserError:
    return UserError(
        f"Nobody can {what} before the measurement: the gateway says {status}"
        f" {answer.get('code', '')}".rstrip()
        + "."
    )


def _each(
    base_url: str,
    count: int,
    do: Callable[[_Gateway], T],
    seconds: float,
    progress: Callable[[int], None],
) -> list[T]:
    """What `do` returned `count` times, over some connections at once, or fewer times if `seconds`
    are over. Raises what it raises."""
    deadline = time.monotonic() + seconds
    stop = threading.Event()
    numbers = iter(range(count))
    done: list[T] = []

    def work() -> None:
        gateway = _Gateway(base_url)
        with contextlib.closing(gateway):
            for _ in numbers:
                if stop.is_set():
                    return
                done.append(do(gateway))

    with ThreadPoolExecutor(_CONNECTIONS, "prepare") as pool:
        futures = [pool.submit(work) for _ in range(_CONNECTIONS)]
        try:
            while time.monotonic() < deadline:
                ended, running = wait(futures, timeout=0.5, return_when=FIRST_EXCEPTION)
                stopping.raise_if_requested()
                progress(len(done))
                if not running or any(future.exception() for future in ended):
                    break
        finally:
            # Also when we are interrupted: each ends what it is about.
            stop.set()
    for future in futures:
        future.result()
    return done
