"""The one error that a command reports to the person who ran it."""

from __future__ import annotations


class UserError(Exception):
    """One sentence that names the problem and the fix; the command exits with status 2.

    Standard library only: `harness.containers` runs where there is no virtual environment.
    """
