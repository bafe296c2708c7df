"""Runs a program that kills itself, with SIGKILL, at a step of ours.

    python -m tests.faults.crash_at \
        payment_service.repository:PaymentRepository.create_payment payment_service

kills payment_service right after its first call of that method has returned. `--before`: right
before it begins; `--call 3`: at the third call. The step is module:function or
module:Class.method, plain or async. The program itself knows nothing of this.

Without arguments, they are those of the environment variable CRASH_AT.
"""

import argparse
import functools
import importlib
import inspect
import itertools
import os
import runpy
import shlex
import signal
import sys
from collections.abc import Callable
from typing import Any


def crash_at(step: str, *, call: int, before: bool) -> None:
    """From now on, the given call (1 = the first) of `step` kills this process."""
    module, _, path = step.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original: Callable[..., Any] = getattr(owner, name)
    calls = itertools.count(1)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(original)
    async def wrapped_async(*arguments: Any, **named: Any) -> Any:
        ours = next(calls) == call
        if ours and before:
            die()
        result = await original(*arguments, **named)
        if ours:
            die()
        return result

    @functools.wraps(original)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        ours = next(calls) == call
        if ours and before:
            die()
        result = original(*arguments, **named)
        if ours:
            die()
        return result

    setattr(owner, name, wrapped_async if inspect.iscoroutinefunction(original) else wrapped)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.crash_at")
    parser.add_argument("step", help="module:function or module:Class.method")
    parser.add_argument("program", help="module to run, such as payment_service")
    parser.add_argument("--before", action="store_true", help="before the step, not after it")
    parser.add_argument("--call", type=int, default=1, help="at which call; 1 = the first")
    arguments = sys.argv[1:] or shlex.split(os.environ.get("CRASH_AT", ""))
    options, rest = parser.parse_known_args(arguments)
    crash_at(options.step, call=options.call, before=options.before)
    sys.argv[1:] = rest
    runpy.run_module(options.program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
