"""Results of load tests that never ran."""

from typing import Any

from loadtests.model import Result, Script, Series

STATS = {
    "avg": 3.0, "min": 1.0, "med": 2.0, "max": 30.0, "p90": 5.0, "p95": 6.0, "p99": 20.0,
}  # fmt: skip


def a_script(name: str = "seats", **changes: Any) -> Script:
    figures = {
        "name": name,
        "passed": True,
        "thresholds": {"http_req_duration{phase:run} p(99)<200": True},
        "requests": 3_700,
        "per_second": 61.7,
        "seconds": 60,
        "duration": STATS,
        "wrong": 0,
        "prepared_wrong": 0,
        "routes": {name: {"requests": 3_700, "times": STATS}},
        "counted": {},
        "cpu": {"gateway": {"mean": 0.2, "peak": 0.4}, "k6": {"mean": 0.1, "peak": 0.2}},
        "other_cores": 0.01,
        "steal": 0.001,
        "users": 150,
        "scheduled_seconds": 60.0,
        "scenario": {},
        "before": {"mb": {"gateway": 80}, "connections": {"gateway": 4}},
        "after": {"mb": {"gateway": 90}, "connections": {"gateway": 5}},
        "room": {
            "capacity": 10, "samples": 3, "over_capacity": 0, "overtakers": 0, "most_waiting": 0,
        },
    }  # fmt: skip
    return Script.model_validate(figures | changes)


def a_result(*scripts: Script, **changes: Any) -> Result:
    figures = {
        "taken": "2026-01-02T03:04:05Z",
        "profile": "baseline",
        "about": "some users",
        "changed": {},
        "own_stack": True,
        "volume": {"concerts": 100, "schedules": 10_000, "seats": 1_500_000},
        "machine": {"processor": "some, 2 cores"},
        "invariants": {"charged and not confirmed": 0},
        "passed": True,
        "scripts": list(scripts or [a_script()]),
    }
    return Result.model_validate(figures | changes)


def a_series() -> Series:
    requests = [
        {"t": t, "n": 50 + t, "p50": 1.0 + t, "p99": 9.0 + t, "avg": 2.0, "at": 1000.0 + t}
        for t in range(5)
    ]
    machine = [
        {"at": 1000.4 + t, "cpu": {"gateway": 0.2, "k6": 0.1}, "mb": {"gateway": 80, "k6": 40}}
        for t in range(5)
    ]
    return Series.model_validate({"requests": requests, "machine": machine})
