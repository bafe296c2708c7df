"""Rules of texts that operators write and everybody reads."""

import unicodedata

from pydantic_core import PydanticCustomError

# Marks that begin an embedding, an override or an isolate, each with the mark that ends it.
_END_OF = dict.fromkeys("\u202a\u202b\u202d\u202e", "\u202c") | dict.fromkeys(
    "\u2066\u2067\u2068", "\u2069"
)
_ENDS = frozenset(_END_OF.values())
_CONTROLS = frozenset(("Cc", "Cs", "Zl", "Zp"))


def fault_of_text(text: str, most: int) -> str:
    """Returns what is wrong with a text of one line, for a person; "" if nothing is.

    At most `most` code points of any Unicode, but no control characters, and no mark of direction
    without its end: it would turn round what a page shows after the text.
    """
    if len(text) > most:
        return f"must have at most {most} characters"
    expected: list[str] = []
    for character in text:
        if unicodedata.category(character) in _CONTROLS:
            return "must not contain control characters or line breaks"
        if character in _END_OF:
            expected.append(_END_OF[character])
        elif character in _ENDS and (not expected or expected.pop() != character):
            return "must end each mark of the direction of text with its own"
    if expected:
        return "must end each mark of the direction of text that it begins"
    return ""


def one_line(value: str) -> str:
    """Returns the text. Raises PydanticCustomError if it is not one line that people can read."""
    if value.isascii() and value.isprintable() and value.strip() == value:
        return value  # most labels
    fault = fault_of_text(value, len(value))
    if not fault and value.strip() != value:
        fault = "must not begin or end with a blank"
    if fault:
        raise PydanticCustomError("text", f"{fault[0].upper()}{fault[1:]}.")
    return value


def several_lines(value: str) -> str:
    """Like `one_line`, for text that may have line feeds."""
    for line in value.split("\n"):
        one_line(line.strip(" "))
    return value
