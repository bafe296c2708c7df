"""What can go wrong, told to the operator."""

from __future__ import annotations


class DeployError(Exception):
    """One clear sentence on what is wrong and how to mend it; the program exits with status 2."""
