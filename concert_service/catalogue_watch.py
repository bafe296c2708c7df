"""The open WatchCatalogue streams of this replica."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from datetime import datetime

from concert_service.catalogue import CatalogueChanges
from concert_service.ports import CatalogueStore
from protos.limits import CATALOGUE_BEAT_SECONDS
from servicekit import logs
from servicekit.background import repeat
from servicekit.errors import InvalidRequest, Unavailable
from servicekit.retries import Outage

log = logs.get(__name__)

POLL_SECONDS = 0.25
"""How long a commit of any replica may stay unseen. A poll is one small query, and takes up to
0.9 ms of CPU."""


@dataclass(eq=False, slots=True)
class _Watcher:
    """One stream. `ended`: concerts of which a date has ended; the stream has to send them."""

    wake: asyncio.Event
    ended: set[int]

    async def woken(self) -> bool:
        """Waits until it is woken; returns False if that takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATALOGUE_BEAT_SECONDS):
                await self.wake.wait()
        is_woken = self.wake.is_set()
        self.wake.clear()
        return is_woken


class CatalogueWatchers:
    """All who follow the catalogue at this replica: one query for all of them finds out whether
    there is a change. A date that ends at its venue is one, too, without a new version."""

    def __init__(self, store: CatalogueStore) -> None:
        self._store = store
        self._watchers: set[_Watcher] = set()
        self._is_watched = asyncio.Event()
        self._draining = False
        self._outage = Outage(log, "catalogue_poll_failed", "catalogue_poll_succeeded")
        # Of the last poll.
        self._version = 0
        self._polled_at: datetime | None = None

    async def run(self) -> None:
        """Looks for changes every 250 ms while somebody follows, until cancelled."""
        await repeat(self._poll, seconds=POLL_SECONDS, outage=self._outage)

    def end(self) -> None:
        """Ends all streams, and each later one."""
        self._draining = True
        for watcher in self._watchers:
            watcher.wake.set()

    async def changes(self, after_version: int) -> AsyncGenerator[CatalogueChanges, None]:
        """Yields what has changed since this version, which may be nothing, and then every change,
        until the replica drains. Yields nothing new if there is none for 5 s, so that the caller
        knows that it is still followed. Raises InvalidRequest, and Unavailable, also when it
        drains."""
        if after_version < 0:
            raise InvalidRequest("after_version must not be below 0.")
        with self._watching() as watcher:
            changes = await self._store.changes_after(after_version)
            yield changes
            while True:
                if not await watcher.woken():
                    yield CatalogueChanges(changes.version, is_reset=False)
                    continue
                if self._draining:
                    raise Unavailable("The service drains.")
                known, ended = changes.version, frozenset(watcher.ended)
                watcher.ended.clear()
                changes = await self._store.changes_after(known, ended)
                if changes.is_reset or changes.version != known or ended:
                    yield changes

    @contextlib.contextmanager
    def _watching(self) -> Iterator[_Watcher]:
        watcher = _Watcher(asyncio.Event(), set())
        if self._draining:
            watcher.wake.set()
        self._watchers.add(watcher)
        self._is_watched.set()
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                self._is_watched.clear()

    async def _poll(self) -> None:
        if not self._is_watched.is_set():
            await self._is_watched.wait()
            # What has ended before, nobody who follows has seen.
            self._polled_at = None
        news = await self._store.news(self._polled_at)
        is_new = news.version != self._version
        self._version, self._polled_at = news.version, news.now
        for watcher in self._watchers:
            watcher.ended.update(news.ended)
            # A follower that has read this version meanwhile finds nothing new.
            if is_new or news.ended:
                watcher.wake.set()
