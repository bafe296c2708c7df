"""What must be true of the databases and the topic when everything has come to rest.

Each is a number of violations, counted over all that ever happened in the shop; see the
invariants of the architecture. Money is looked for where it really is: in the sandbox provider's
own book.
"""

from __future__ import annotations

from collections import defaultdict

from protos.frontrow.payment.v1 import events_pb2
from tests.e2e.shop import Shop, eventually

_VIOLATIONS = {
    "seats with more than one live reservation": """
        SELECT COUNT(*) FROM (
            SELECT seat_id FROM reservation.reservation
            WHERE status = 'CONFIRMED'
                OR (status IN ('HELD', 'PAYING') AND lapses_at > NOW(6))
            GROUP BY seat_id HAVING COUNT(*) > 1) twice
    """,
    "reservations charged more than once": """
        SELECT COUNT(*) FROM (
            SELECT p.reservation_id
            FROM payment.sandbox_charge c JOIN payment.payment p ON p.id = c.payment_id
            WHERE c.status = 'APPROVED' GROUP BY p.reservation_id HAVING COUNT(*) > 1) twice
    """,
    "charged, neither confirmed nor refunded": """
        SELECT COUNT(*)
        FROM payment.sandbox_charge c
        LEFT JOIN payment.payment p ON p.id = c.payment_id
        LEFT JOIN reservation.reservation r
            ON r.id = p.reservation_id AND r.payment_id = p.id AND r.status = 'CONFIRMED'
        WHERE c.status = 'APPROVED' AND r.id IS NULL
    """,
    "confirmed, not charged": """
        SELECT COUNT(*)
        FROM reservation.reservation r
        LEFT JOIN payment.sandbox_charge c ON c.payment_id = r.payment_id
        WHERE r.status = 'CONFIRMED' AND COALESCE(c.status, '') <> 'APPROVED'
    """,
    "confirmed at another price than charged": """
        SELECT COUNT(*)
        FROM reservation.reservation r JOIN payment.sandbox_charge c ON c.payment_id = r.payment_id
        WHERE r.status = 'CONFIRMED' AND c.amount <> r.price
    """,
    "payments without an end": """
        SELECT COUNT(*) FROM payment.payment WHERE status = 'INITIATED'
    """,
    "payments that differ from the provider's book": """
        SELECT COUNT(*)
        FROM payment.payment p LEFT JOIN payment.sandbox_charge c ON c.payment_id = p.id
        WHERE (p.status = 'SUCCEEDED') <> (COALESCE(c.status, '') = 'APPROVED')
    """,
    "reservations left in the middle of a payment": """
        SELECT COUNT(*) FROM reservation.reservation r
        LEFT JOIN payment.payment p ON p.id = r.payment_id
        WHERE r.status = 'PAYING' AND r.lapses_at > NOW(6)
            AND COALESCE(p.status, '') <> 'INITIATED'
    """,
    "events not sent": "SELECT COUNT(*) FROM payment.outbox",
    "schedules whose sold seats are miscounted": """
        SELECT COUNT(*) FROM (
            SELECT r.schedule_id, COALESCE(MAX(s.sold), 0) counted, SUM(r.status = 'CONFIRMED') sold
            FROM reservation.reservation r
            LEFT JOIN reservation.schedule_sales s ON s.schedule_id = r.schedule_id
            GROUP BY r.schedule_id HAVING counted <> sold) wrong
    """,
}


def violations(shop: Shop) -> dict[str, int]:
    """How often each is violated now, in the databases; those that hold are left out."""
    counts = {what: shop.number("payment", sql) for what, sql in _VIOLATIONS.items()}
    return {what: count for what, count in counts.items() if count}


async def wrong_events(shop: Shop) -> dict[str, list[int]]:
    """Payments whose events are not what the payments table says: each outcome is told by exactly
    one event, however often that was sent, and nothing else is."""
    told: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for record in await shop.records("payment.events"):
        if not record.key.isdigit():
            continue  # a test's own, and no event
        event = events_pb2.PaymentEvent.FromString(record.value)
        told[event.payment_id][event.event_id] = event.WhichOneof("event") or ""
    wrong: dict[str, list[int]] = {}
    for payment_id, status, charged in shop.rows(
        "payment", "SELECT id, status, amount IS NOT NULL FROM payment"
    ):
        events = sorted(told.pop(payment_id, {}).values())
        match status:
            case "SUCCEEDED":
                right = events == ["succeeded"]
            case "REFUNDED":
                right = events == ["refunded", "succeeded"]
            case "FAILED" if charged:
                right = events == ["failed"]
            case _:
                # Refused before it was charged: the reservation may have to be told, or not.
                right = events in ([], ["failed"])
        if not right:
            wrong.setdefault(f"{status} told as {events}", []).append(payment_id)
    if told:
        wrong["events of payments that there are not"] = sorted(told)
    return wrong


async def assert_all_hold(shop: Shop, *, within: float = 45.0) -> None:
    """Waits until recovery and the consumers have done their work; then nothing may be wrong.

    A consumer group notices a member that was killed after ten seconds, hence the patience.
    """

    async def hold() -> None:
        assert violations(shop) == {}

    await eventually(hold, within=within, every=0.2)
    assert await wrong_events(shop) == {}
