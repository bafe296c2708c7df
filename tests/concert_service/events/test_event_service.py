"""What many operators at once may cost."""

import asyncio

from concert_service.domain import EventStatus
from concert_service.events.domain import Effects, Event, Imported
from concert_service.events.reading import ValidDocument
from concert_service.events.service import EventService
from tests.concert_service.events.documents import encoded, hamlet


class BusyStore:
    """A store of which each change takes a connection until `end`."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.end = asyncio.Event()

    async def import_event(
        self, document: ValidDocument, expected_version: int, operator: str, *, dry_run: bool
    ) -> Imported:
        await self.begun.put("import")
        await self.end.wait()
        return Imported(document.event.external_id, None)

    async def set_status(
        self, external_id: str, status: EventStatus, expected_version: int, *, dry_run: bool
    ) -> tuple[Event, Effects]:
        await self.begun.put("status")
        await self.end.wait()
        return Event(external_id, 1, 1, status, "", "main", (), 0), Effects()

    async def event(self, external_id: str) -> Event | None:
        raise NotImplementedError

    async def document(self, concert_id: int, version: int) -> bytes | None:
        raise NotImplementedError

    async def events_after(self, external_id: str, limit: int) -> list[Event]:
        raise NotImplementedError

    async def has_room(self, name: str) -> bool:
        raise NotImplementedError


async def test_imports_leave_connections_to_others() -> None:
    store = BusyStore()
    service = EventService(store)
    published = EventStatus.PUBLISHED
    async with asyncio.TaskGroup() as tasks:
        for n in range(4):
            document = encoded(hamlet(externalId=f"hamlet-{n}"))
            tasks.create_task(service.import_event(document, b"", 0, "", dry_run=True))
        for _ in range(2):
            await store.begun.get()
        tasks.create_task(service.set_status("hamlet", published, 0, dry_run=True))
        await asyncio.sleep(0.1)
        assert store.begun.empty()
        store.end.set()
    assert store.begun.qsize() == 3
