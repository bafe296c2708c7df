"""All who follow the catalogue at this replica."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator

from concert_service.catalogue import CatalogueChanges
from concert_service.ports import CatalogueStore
from servicekit import logs
from servicekit.background import repeat
from servicekit.errors import InvalidRequest, Unavailable
from servicekit.retries import Outage

log = logs.get(__name__)

POLL_SECONDS = 0.2
"""How long a commit may stay unseen, of which another replica does not tell. One query of a row."""


class CatalogueWatchers:
    """All who follow the catalogue at this replica: one query for all of them finds out whether
    there is a change."""

    def __init__(self, store: CatalogueStore) -> None:
        self._store = store
        self._version = 0  # the one that was polled last
        self._wakes: set[asyncio.Event] = set()
        self._is_watched = asyncio.Event()
        self._draining = False
        self._outage = Outage(log, "catalogue_poll_failed", "catalogue_poll_succeeded")

    async def run(self) -> None:
        """Looks for changes every 200 ms while somebody follows, until cancelled."""
        await repeat(self._poll, seconds=POLL_SECONDS, outage=self._outage)

    def end(self) -> None:
        """Ends all streams, and each later one."""
        self._draining = True
        self._wake()

    async def changes(self, after_version: int) -> AsyncGenerator[CatalogueChanges, None]:
        """Yields what has changed since this version, which may be nothing, and then every change,
        until the replica drains. Raises InvalidRequest, and Unavailable, also when it drains."""
        if after_version < 0:
            raise InvalidRequest("after_version must not be below 0.")
        with self._watching() as wake:
            changes = await self._store.changes_after(after_version)
            yield changes
            while True:
                await wake.wait()
                wake.clear()
                if self._draining:
                    raise Unavailable("The service drains.")
                known = changes.version
                changes = await self._store.changes_after(known)
                if changes.is_reset or changes.version != known:
                    yield changes

    @contextlib.contextmanager
    def _watching(self) -> Iterator[asyncio.Event]:
        wake = asyncio.Event()
        if self._draining:
            wake.set()
        self._wakes.add(wake)
        self._is_watched.set()
        try:
            yield wake
        finally:
            self._wakes.discard(wake)
            if not self._wakes:
                self._is_watched.clear()

    async def _poll(self) -> None:
        await self._is_watched.wait()
        version = await self._store.version()
        # A follower that has read this version meanwhile finds nothing new.
        if version != self._version:
            self._version = version
            self._wake()

    def _wake(self) -> None:
        for wake in self._wakes:
            wake.set()
