"""What Redis' error codes mean while a node is lost, and how each is treated.

The code is the first word of the error. Each one here is Unavailable for the caller; a code that is
not here is a defect of the command and passes unchanged. Retries are the callers': gRPC repeats
idempotent calls.

Supported is one Redis behind one address, also if that address follows the primary after a
fail-over (Sentinel with a script or a proxy, a managed service). The client follows no redirection,
so a Redis Cluster of several shards is not supported.
"""

from enum import Enum

from redis.exceptions import RedisError


class Treatment(Enum):
    """How the client treats an error, before the caller gets Unavailable."""

    MOVE = "connections are replaced: the address may lead to another server"
    WAIT = "connections are kept"


MOVE, WAIT = Treatment

MEANINGS: dict[str, tuple[Treatment, str]] = {
    # This server is no primary (any more).
    "READONLY": (MOVE, "the server is a replica"),
    "MASTERDOWN": (MOVE, "the server is a replica that has lost its primary"),
    "MOVED": (MOVE, "Cluster: another node owns the slot of this key"),
    "ASK": (MOVE, "Cluster: the key moves to another node"),
    "REDIRECT": (MOVE, "Valkey: the server is a replica"),
    "CLUSTERDOWN": (MOVE, "Cluster: no quorum, or slots without a node"),
    "UNBLOCKED": (MOVE, "a blocking command ended because the server became a replica"),
    # The server needs time or space.
    "TRYAGAIN": (WAIT, "Cluster: the keys of a command are on their way to another node"),
    "LOADING": (WAIT, "the server loads its data"),
    "BUSY": (WAIT, "a script runs for too long"),
    "UNKILLABLE": (WAIT, "a script that runs for too long cannot be ended"),
    "NOREPLICAS": (WAIT, "fewer replicas than min-replicas-to-write"),
    "MISCONF": (WAIT, "the server cannot write to its disk"),
    "OOM": (WAIT, "maxmemory is reached"),
    "NOSCRIPT": (WAIT, "the server lost a script again right after it was loaded"),
    "EXECABORT": (WAIT, "one of the commands of a transaction was refused"),
    # Users. A server that has just become the primary may have others.
    "NOAUTH": (WAIT, "a password is needed"),
    "WRONGPASS": (WAIT, "user or password refused"),
    "NOPERM": (WAIT, "the user may not run this command, or not on this key"),
    "DENIED": (WAIT, "protected mode: no connections from other machines"),
}


def treatment(error: RedisError) -> Treatment | None:
    """Returns how an error that Redis answered is treated; None for a defect of the command."""
    # redis-py keeps the code apart from the message where it has a class of its own for it.
    code = error.status_code or str(error).partition(" ")[0]
    return MEANINGS[code][0] if code in MEANINGS else None
