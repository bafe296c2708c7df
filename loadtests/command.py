"""What the commands of the load tests have in common: how they read their arguments, how they are
stopped, and how they fail."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from typing import NoReturn

from harness.errors import UserError
from harness.local.stopping import Stopped, stoppable


class Parser(argparse.ArgumentParser):
    """Of `python -m loadtests.<name>`. --help prints the module's text and ends with status 0; what
    it does not know raises UserError."""

    def __init__(self, name: str, about: str | None) -> None:
        super().__init__(
            prog=f"python -m loadtests.{name}",
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}; --help says what there is.")


def run(command: Callable[[], int]) -> int:
    """Runs it and returns its exit status: 2, after one sentence on standard error, if it raises
    UserError, UserError or OSError; 128 + the signal's number if it is stopped by Ctrl-C,
    SIGTERM or the end of the terminal, whereupon everything that it started is ended in order."""
    with stoppable():
        try:
            return command()
        except UserError as error:
            _tell(str(error))
            return 2
        except OSError as error:
            _tell(f"{error.strerror or error}: {error.filename or 'the machine'}.")
            return 2
        except Stopped as stopped:
            _tell("Stopped.")
            return stopped.status


def _tell(sentence: str) -> None:
    # The terminal may be what went away.
    with contextlib.suppress(OSError):
        print(f"frontrow: {sentence}", file=sys.stderr, flush=True)
