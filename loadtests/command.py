"""What the commands of the load tests have in common: how they read their arguments, how they are
stopped, and how they fail."""

from __future__ import annotations

import argparse
from typing import NoReturn

from harness.cli import run_command
from harness.errors import UserError


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


run = run_command
