"""What text of an event document may contain."""

from pydantic_core import PydanticCustomError

from concert_service.texts import fault_of_text


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
