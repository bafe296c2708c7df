"""The errors of keys and of the audit log."""

from servicekit.errors import Forbidden, NotFound


class KeyNotFound(NotFound):
    code = "KEY_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such key.")


class InvalidKey(Forbidden):
    code = "INVALID_KEY"

    def __init__(self) -> None:
        super().__init__("There is no such key, or it is revoked.")


class AuditEntryNotFound(NotFound):
    code = "AUDIT_ENTRY_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("There is no such entry.")
