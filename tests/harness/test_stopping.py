"""Signals request the stop, and waits observe it."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from harness import stopping
from harness.stopping import Stopped, stop_on_signals

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]

WAITS: dict[str, Callable[[], object]] = {
    "sleep": lambda: stopping.wait(60),
    "command": lambda: stopping.run(SLEEP, timeout=60),
    "coroutine": lambda: stopping.run_async(asyncio.sleep(60)),
    "thread": lambda: ThreadPoolExecutor().submit(stopping.wait, 60).result(),
}


def kill_and_wait(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)
    stopping.wait(60)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_each_wait_ends_when_a_signal_arrives(number: int, wait: Callable[[], object]) -> None:
    def wait_for_the_signal() -> None:
        threading.Timer(0.2, os.kill, [os.getpid(), number]).start()
        wait()

    began = time.monotonic()
    with pytest.raises(Stopped) as stopped, stop_on_signals():
        wait_for_the_signal()
    assert time.monotonic() - began < 10
    assert stopped.value.status == 128 + number


def test_a_command_is_ended_before_the_stop_is_reported(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    program = f"echo $$ >{pid_file}; kill -TERM $PPID; exec sleep 60"
    with pytest.raises(Stopped), stop_on_signals():
        stopping.run(["sh", "-c", program], timeout=60)
    assert not psutil.pid_exists(int(pid_file.read_text()))


def test_a_coroutine_cleans_up_before_the_stop_is_reported() -> None:
    cleaned_up = False

    async def work() -> None:
        nonlocal cleaned_up
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.2)
            cleaned_up = True

    with pytest.raises(Stopped), stop_on_signals():
        stopping.run_async(work())
    assert cleaned_up


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_does_not_cut_the_stopping_short(number: int) -> None:
    stopped_in_order = False

    def work() -> None:
        nonlocal stopped_in_order
        try:
            kill_and_wait(number)
        finally:
            for each in SIGNALS:
                os.kill(os.getpid(), each)
            time.sleep(0.1)
            stopped_in_order = True

    with pytest.raises(Stopped) as stopped, stop_on_signals():
        work()
    assert stopped_in_order
    assert stopped.value.status == 128 + number, "the first signal decides"


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            stopping.raise_if_requested()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_afterwards_signals_have_their_old_handlers_and_nothing_is_requested() -> None:
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with pytest.raises(Stopped), stop_on_signals():
            kill_and_wait()
        os.kill(os.getpid(), signal.SIGTERM)
        stopping.wait(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_a_command_that_takes_too_long_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        stopping.run(SLEEP, timeout=0.1)


def test_a_command_gives_its_status_and_output() -> None:
    program = "import sys; print('x' * 100_000); sys.exit(3)"
    ran = stopping.run([sys.executable, "-c", program], timeout=60, stdout=subprocess.PIPE)
    assert (ran.returncode, len(ran.stdout)) == (3, 100_001)
