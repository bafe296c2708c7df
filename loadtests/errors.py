"""What can be wrong with a load test, told to the person who started it."""


class CannotTest(Exception):
    """Why there is nothing to measure, in one sentence. Exit status 2."""
