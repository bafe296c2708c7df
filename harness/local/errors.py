"""What can go wrong with the local stack, told to the person who started it."""


class StackError(Exception):
    """One clear sentence on what is wrong and how to mend it; the program exits with code 2."""
