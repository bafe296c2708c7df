"""Mistakes of event documents, as an operator sees them over HTTP."""

from typing import Any

import httpx
from pydantic import JsonValue

from concert_service.events.service import EventService
from concert_service.events.servicer import CatalogueAdminServicer
from tests.concert_service.events.documents import encoded, hamlet, put
from tests.concert_service.events.test_reading import BROKEN, field, line_of
from tests.gateway.admin.fakes import AdminServices
from tests.gateway.admin.problems import problem


class NoStore:
    """Of events: nothing may be asked of it while a document has mistakes."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was called for a document with mistakes")


async def test_each_mistake_is_named_and_nothing_is_stored(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    service = EventService(NoStore())
    services.catalogue.importer = CatalogueAdminServicer(service)
    headers = {"Content-Type": "application/json"}
    path: tuple[str | int, ...]
    value: JsonValue
    for path, value, reason in BROKEN:
        document = hamlet()
        put(document, path, value)
        body = encoded(document)
        told = problem(
            await admin.post("/admin/events", content=body, headers=headers),
            422,
            "INVALID_REQUEST",
        )
        expected = {"field": field(path), "message": reason, "line": line_of(document, path)}
        assert expected in told["errors"], path
    assert set(services.steps) == {"plan"}
    assert services.operator_store.entries == []


async def test_mistakes_of_a_file_of_seats_have_its_lines(
    admin: httpx.AsyncClient, services: AdminServices
) -> None:
    service = EventService(NoStore())
    services.catalogue.importer = CatalogueAdminServicer(service)
    lines = (
        "section,row,place,label,priceCategory",
        "Stalls,A,1,A1,Stalls",
        "Stalls,A,x,A2,Stalls",
        "Stalls,A,3,A3,Nowhere",
    )
    files = {"document": encoded(hamlet()).decode(), "seatsCsv": "\n".join(lines)}
    told = problem(await admin.post("/admin/events/from-files", json=files), 422, "INVALID_REQUEST")
    assert {(e["field"], e["line"]) for e in told["errors"]} >= {
        ("seatsCsv: place", 3),
        ("seatsCsv: priceCategory", 4),
    }
