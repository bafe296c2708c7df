"""The benchmark of a replicated room: its arithmetic, its figures, and its constant rate."""

import asyncio
from pathlib import Path

import pytest

from benchmarks import room
from benchmarks.model import RoomBench, RoomRow
from tests.virtual_time import run

MCORES = {"queue_service": 30.2, "gateway": 20.0, "redis": 10.1}


def a_row(**changes: object) -> RoomRow:
    fields: dict[str, object] = {"title": "50 changes/s", "waiting": 1_000, "mcores": MCORES}
    return RoomRow.model_validate(fields | changes)


def shown(*rows: RoomRow, file: Path) -> list[str]:
    result = {"taken": "2026-01-02T03:04:05Z", "seconds": 30, "machine": {}, "rows": list(rows)}
    RoomBench.model_validate(result).write(file)
    return room.figures(RoomBench.read(file)).splitlines()


def test_targets_are_judged_as_they_are_printed() -> None:
    assert a_row().verdict == "as it comes"
    assert a_row(target=60).verdict == "≤ 60.0: met"  # 60.3 is printed as 60
    assert a_row(target=59).verdict == "≤ 59.0: MISSED"


def test_redis_grows_with_the_line() -> None:
    met = a_row(waiting=250_000, mcores=MCORES | {"redis": 125.0})
    assert met.redis_with_a_million == 500
    assert met.redis_verdict == "≤ 500: met"
    missed = a_row(waiting=250_000, mcores=MCORES | {"redis": 126.0})
    assert missed.redis_verdict == "≤ 500: MISSED"


def test_a_row_has_its_targets_and_a_short_line_computes_nothing(tmp_path: Path) -> None:
    long = a_row(title="long", waiting=500_000)
    lines = shown(a_row(target=60), long, file=tmp_path / "room.json")
    assert lines[2] == "| 50 changes/s | **60** | ≤ 60.0: met | 30.2 | 20.0 | 10.1 |  |  |"
    assert lines[3] == "| long | **60** | as it comes | 30.2 | 20.0 | 10.1 | 20 | ≤ 500: met |"
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")


def test_a_delay_does_not_lower_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[float] = []

    async def act() -> None:
        begun.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1.0 if len(begun) == 1 else 0.0)

    async def acts() -> None:
        began = asyncio.get_running_loop().time()
        await room.repeat(act, per_second=10, seconds=2)
        assert [round(at - began, 3) for at in begun[:2]] == [0.0, 1.0]
        assert begun[-1] - began == pytest.approx(1.9)

    run(acts(), monkeypatch)
    assert len(begun) == 20
