"""Seat maps as concert_service packs them and others keep them."""

import tracemalloc
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from concert_service.domain import Seat
from concert_service.seat_map import MAX_LAYOUT_BYTES, PackedLayout, pack
from concert_service.seat_map_service import ASKED_BYTES, SIBLINGS_BYTES, SeatMaps
from concert_service.servicer import to_seat_maps_response
from protos.frontrow.concert.v1 import concert_pb2
from seat_maps.decoding import MAX_RESPONSE_BYTES, SeatMapDecoder
from seat_maps.layout import PriceCategory
from seat_maps.seat_map import SeatMap


def response_of(*schedules: list[Seat]) -> concert_pb2.GetSeatMapsResponse:
    """As concert_service answers; each list has the seats of one schedule."""
    maps, layouts = [], dict[bytes, PackedLayout]()
    for seats in schedules:
        seat_map, layout = pack(seats[0].schedule_id, seats)
        maps.append(seat_map)
        layouts[layout.digest] = layout
    found = to_seat_maps_response(SeatMaps(maps, list(layouts.values()), more=False))
    return concert_pb2.GetSeatMapsResponse.FromString(found.SerializeToString())


def hall(schedule_id: int, first_id: int, size: int = 150) -> list[Seat]:
    return [
        Seat(
            id=first_id + n,
            schedule_id=schedule_id,
            seat_num=f"{'ABCDEFGHIJ'[n // 15 % 10]}{n % 15 + 1}",
            price=Decimal("150000.00") if n < 45 else Decimal("90000.50"),
            row_name="ABCDEFGHIJ"[n // 15 % 10],
            place=n + 1,
            price_category="Front" if n < 45 else "Rear",
            section="Stalls",
            accessible=n == 149,
        )
        for n in range(size)
    ]


def test_a_map_has_what_was_packed() -> None:
    seats = hall(7, 1001)
    (seat_map,) = SeatMapDecoder().decode(response_of(seats))
    layout = seat_map.layout
    assert (seat_map.schedule_id, len(seat_map), len(layout)) == (7, 150, 150)
    assert layout.row_names == tuple("ABCDEFGHIJ")
    assert layout.row_sections == ("Stalls",) * 10
    assert layout.price_categories == (
        PriceCategory("Front", Decimal("150000.00")),
        PriceCategory("Rear", Decimal("90000.50")),
    )
    for index, seat in enumerate(seats):
        assert seat_map.id_at(index) == seat.id
        assert seat_map.index_of(seat.id) == index
        assert layout.seat_nums[index] == seat.seat_num
        assert layout.price(index) == seat.price
        assert layout.row_names[layout.rows[index]] == seat.row_name
        assert layout.places[index] == seat.place
        assert bool(layout.accessible[index]) == seat.accessible


def test_maps_share_a_layout_also_of_different_responses() -> None:
    decoder = SeatMapDecoder()
    one, two = decoder.decode(response_of(hall(1, 1), hall(2, 151)))
    (three,) = decoder.decode(response_of(hall(3, 301)))
    (other,) = decoder.decode(response_of(hall(4, 451, 149)))
    assert one.layout is two.layout is three.layout is not other.layout
    assert SeatMapDecoder().decode(response_of(hall(1, 1))) == [one]
    assert len({one, two, three, *SeatMapDecoder().decode(response_of(hall(1, 1)))}) == 3
    assert one != SeatMapDecoder().decode(response_of(hall(1, 2)))[0]
    assert one != "one"


ids_in_any_order = st.lists(st.integers(1, 40), min_size=1, max_size=40, unique=True)


@given(ids_in_any_order)
@example([7])
@example([7, 8, 9, 10])
def test_every_id_has_its_index_in_any_order_of_ids(ids: list[int]) -> None:
    seats = [Seat(id, 1, f"A{id}", Decimal(1)) for id in ids]
    (seat_map,) = SeatMapDecoder().decode(response_of(seats))
    assert list(seat_map.ids()) == ids
    assert [seat_map.id_at(index) for index in range(len(ids))] == ids
    for id in range(-1, 43):
        assert seat_map.index_of(id) == (ids.index(id) if id in ids else None)
    backwards = list(range(43, -2, -1))
    assert seat_map.indexes_of(backwards) == [ids.index(id) for id in backwards if id in ids]
    for index in (-1, len(ids)):
        with pytest.raises(IndexError):
            seat_map.id_at(index)


def test_a_schedule_without_seats() -> None:
    response = concert_pb2.GetSeatMapsResponse(layouts=[concert_pb2.SeatLayout(digest=b"none")])
    response.seat_maps.add(schedule_id=1)
    (seat_map,) = SeatMapDecoder().decode(response)
    assert (len(seat_map), list(seat_map.runs()), list(seat_map.ids())) == (0, [], [])
    assert seat_map.index_of(1) is None


def test_what_contradicts_its_layout_is_refused() -> None:
    (seat_map,) = SeatMapDecoder().decode(response_of(hall(1, 1)))
    for runs in ([(1, 149)], [(1, 151)], [(1, 100), (90, 50)], [(1, 151), (200, -1)], []):
        with pytest.raises(ValueError, match="schedule 1"):
            SeatMap(1, seat_map.layout, runs)
    broken = response_of(hall(1, 1))
    broken.layouts[0].rows.pop()
    with pytest.raises(ValueError, match="columns"):
        SeatMapDecoder().decode(broken)


def test_no_response_exceeds_what_a_channel_accepts() -> None:
    # The first map that is asked for comes with any layout; all others within a limit.
    assert max(MAX_LAYOUT_BYTES + 16 * 65_536 + 1_000, ASKED_BYTES, SIBLINGS_BYTES) < (
        MAX_RESPONSE_BYTES
    )
    longest = [Seat(2 * n, 1, "🎟" * 16, Decimal("9999999999.99")) for n in range(65_536)]
    assert response_of(longest).ByteSize() < MAX_RESPONSE_BYTES


def test_ten_thousand_dates_take_a_few_megabytes() -> None:
    decoder = SeatMapDecoder()
    response = response_of(*(hall(n, 1 + 150 * n) for n in range(100)))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    kept = []
    for concert in range(100):
        for seat_map in response.seat_maps:
            seat_map.schedule_id += 100
            seat_map.runs[0].first_seat_id += 15_000
        kept.append(decoder.decode(response))
        assert len(kept[concert]) == 100
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken < 5_000_000  # 3.0 MB


def test_a_map_has_the_sale_and_what_an_event_document_knows() -> None:
    seats = [
        replace(seat, general_admission=True, companion=n == 1, x=n, y=-n)
        for n, seat in enumerate(hall(7, 1001, 3))
    ]
    response = response_of(seats)
    message = response.seat_maps[0]
    message.concert_id, message.room, message.currency = 9, "side", "KWD"
    message.sales_from_ms, message.sales_until_ms = 1, 2
    (seat_map,) = SeatMapDecoder().decode(response)
    assert (seat_map.concert_id, seat_map.room, seat_map.currency) == (9, "side", "KWD")
    assert (seat_map.sales_from_ms, seat_map.sales_until_ms) == (1, 2)
    layout = seat_map.layout
    assert (layout.companion, layout.general_admission) == (b"\0\1\0", b"\1")
    assert (list(layout.x), list(layout.y)) == ([0, 1, 2], [0, -1, -2])
    # A map that differs in one of these is another one.
    message.sales_until_ms = 3
    assert SeatMapDecoder().decode(response) != [seat_map]


def test_a_service_of_the_version_before_knows_none_of_it() -> None:
    response = response_of(hall(7, 1001))
    for field in ("concert_id", "room", "currency"):
        response.seat_maps[0].ClearField(field)
    (seat_map,) = SeatMapDecoder().decode(response)
    assert (seat_map.concert_id, seat_map.room, seat_map.currency) == (0, "main", "KRW")
    assert (seat_map.sales_from_ms, seat_map.sales_until_ms) == (0, 0)
    layout = seat_map.layout
    assert not any(layout.companion)
    assert not any(layout.general_admission)
    assert (len(layout.companion), len(layout.general_admission)) == (150, 10)
    assert len(layout.x) == len(layout.y) == 0


@pytest.mark.parametrize("column", ["companion", "general_admission", "x", "y", "row_sections"])
def test_a_column_of_another_length_is_refused(column: str) -> None:
    response = response_of(hall(1, 1, 3))
    getattr(response.layouts[0], column).extend(["A"] * 2 if column == "row_sections" else [1] * 2)
    with pytest.raises(ValueError, match="columns"):
        SeatMapDecoder().decode(response)
