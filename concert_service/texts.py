"""Rules of texts that operators write and everybody reads."""

import unicodedata

_OPENING = frozenset("\u202a\u202b\u202d\u202e\u2066\u2067\u2068")
_CLOSING = frozenset("\u202c\u2069")
_CONTROLS = frozenset(("Cc", "Cs", "Zl", "Zp"))


def fault_of_text(text: str, most: int) -> str:
    """Returns what is wrong with a text of one line, for a person; "" if nothing is.

    At most `most` code points of any Unicode, but no control characters, and no mark of direction
    without its end: it would turn round what a page shows after the text.
    """
    if len(text) > most:
        return f"must have at most {most} characters"
    depth = 0
    for character in text:
        if unicodedata.category(character) in _CONTROLS:
            return "must not contain control characters or line breaks"
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
            if depth < 0:
                break
    if depth:
        return "must end each mark of the direction of text that it begins"
    return ""
