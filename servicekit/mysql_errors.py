"""What MariaDB's error numbers mean while a node is lost, and how each is treated.

The numbers are those of MariaDB and Galera, of MaxScale and ProxySQL, and of the client's library.
A number that is not here is a defect of the statement (`mysql.DatabaseError`).
"""

from enum import Enum


class Treatment(Enum):
    """How an error of one statement is treated. In the end each of them is Unavailable, for
    callers HTTP 503 with Retry-After."""

    RETRY = "the transaction runs again at once, at most 8 times in all"
    MOVE = "connections are replaced, then the transaction runs once more"
    WAIT = "not repeated: the server needs time, or may have run the statement"
    DENIED = "not repeated, and logged as an error: an operator must act"


RETRY, MOVE, WAIT, DENIED = Treatment

# Whether to treat a number as MOVE: the server certainly did not run the statement, and another
# server behind the same name may run it.
MEANINGS: dict[int, tuple[Treatment, str]] = {
    # Another transaction was preferred.
    1020: (RETRY, "record has changed since last read (snapshot isolation)"),
    1205: (RETRY, "lock wait timeout"),
    1213: (RETRY, "deadlock; under Galera also a conflict found at COMMIT"),
    1412: (RETRY, "table definition has changed (a migration)"),
    # This server is no primary (any more).
    1036: (MOVE, "table is read-only"),
    1047: (MOVE, "Galera: the node is not ready (joining, or without a quorum)"),
    1290: (MOVE, "the server runs with --read-only"),
    1792: (MOVE, "the transaction is read-only"),
    1836: (MOVE, "running in read-only mode"),
    1874: (MOVE, "InnoDB is in read-only mode"),
    # The server stops, or ended this connection.
    1053: (WAIT, "server shutdown in progress"),
    1077: (WAIT, "normal shutdown"),
    1078: (WAIT, "the server got a signal"),
    1079: (WAIT, "shutdown complete"),
    1080: (WAIT, "forcing close of a thread"),
    1152: (WAIT, "aborted connection"),
    1158: (WAIT, "error reading communication packets"),
    1159: (WAIT, "timeout reading communication packets"),
    1160: (WAIT, "error writing communication packets"),
    1161: (WAIT, "timeout writing communication packets"),
    1184: (WAIT, "aborted connection"),
    1927: (WAIT, "connection was killed; MaxScale: the server behind it was lost"),
    # The server ended this statement.
    1180: (WAIT, "error during COMMIT; Galera: the node left the cluster during COMMIT"),
    1181: (WAIT, "error during ROLLBACK"),
    1317: (WAIT, "query execution was interrupted"),
    1969: (WAIT, "max_statement_time exceeded"),
    3024: (WAIT, "maximum statement execution time exceeded (MySQL)"),
    # Too much at once.
    1040: (WAIT, "too many connections"),
    1129: (WAIT, "host is blocked because of many connection errors"),
    1135: (WAIT, "cannot create a thread"),
    1203: (WAIT, "max_user_connections reached"),
    1206: (WAIT, "the lock table is full"),
    1223: (WAIT, "a read lock is held (a backup)"),
    1226: (WAIT, "a limit of this user is reached"),
    # The machine lacks something.
    3: (WAIT, "error writing a file"),
    5: (WAIT, "out of memory"),
    1015: (WAIT, "cannot lock a file"),
    1021: (WAIT, "disk full"),
    1024: (WAIT, "error reading a file"),
    1026: (WAIT, "error writing a file"),
    1030: (WAIT, "error from the storage engine, such as 28: no space left"),
    1037: (WAIT, "out of memory"),
    1038: (WAIT, "out of sort memory"),
    1041: (WAIT, "out of memory"),
    1114: (WAIT, "the table or its tablespace is full"),
    # The client could not connect, or lost the server. A proxy sends some of these too.
    1042: (WAIT, "cannot resolve the client's host name"),
    1043: (WAIT, "bad handshake"),
    2000: (WAIT, "unknown error of the client"),
    2001: (WAIT, "cannot create a socket"),
    2002: (WAIT, "cannot connect through the socket"),
    2003: (WAIT, "cannot connect"),
    2005: (WAIT, "unknown host name of the server"),
    2006: (WAIT, "the server has closed the connection"),
    2012: (WAIT, "error in the server's handshake"),
    2013: (WAIT, "connection lost during the query"),
    2014: (WAIT, "commands out of sync"),
    2026: (WAIT, "TLS connection error"),
    2027: (WAIT, "malformed packet"),
    2055: (WAIT, "connection lost"),
    9001: (WAIT, "ProxySQL: no server was reached in time"),
    9002: (WAIT, "ProxySQL: too many failed connections"),
    9004: (WAIT, "ProxySQL: the server is offline"),
    9005: (WAIT, "ProxySQL: the server lags behind"),
    9006: (WAIT, "ProxySQL: the server does not answer a ping"),
    # Users and grants. A server that has just become the primary may have others.
    1044: (DENIED, "access to the schema denied"),
    1045: (DENIED, "user or password refused"),
    1049: (DENIED, "unknown schema"),
    1130: (DENIED, "host is not allowed to connect"),
    1142: (DENIED, "statement on this table denied"),
    1143: (DENIED, "statement on this column denied"),
    1227: (DENIED, "a privilege is missing"),
    1251: (DENIED, "authentication protocol not supported"),
    1275: (DENIED, "old password format refused"),
    1370: (DENIED, "access to the routine denied"),
    1524: (DENIED, "authentication plugin is not loaded"),
    1698: (DENIED, "user or password refused"),
    1820: (DENIED, "the password must be changed"),
    1862: (DENIED, "the password has expired"),
    1873: (DENIED, "access denied while changing the user"),
    2059: (DENIED, "authentication plugin cannot be loaded"),
    2061: (DENIED, "error of the authentication plugin"),
    3118: (DENIED, "the account is locked (MySQL)"),
    3159: (DENIED, "TLS is required"),
    4151: (DENIED, "the account is locked"),
}


def treatment(number: int) -> Treatment | None:
    """Returns how an error of this number is treated; None for a defect of the statement."""
    return MEANINGS[number][0] if number in MEANINGS else None
