"""What revisions need to change filled tables while programs write to them.

A change of a table waits for the transactions that use it, and later statements on the table wait
behind the change. So a change waits for a second at most, lets the others go on, and tries again.
Only for revisions: the functions run on the connection of the migration.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import sqlalchemy
from alembic import op
from pymysql.constants import ER

#: How long one attempt to change a table may make its readers and writers wait, in seconds.
LOCK_SECONDS = 1
#: How long they go on between two attempts, in seconds.
PAUSE_SECONDS = 1.0
#: A minute and a half of writers who wait, at most, within three minutes.
ATTEMPTS = 90

Value = TypeVar("Value")


def change_tables(*statements: str) -> None:
    """Runs statements that change tables or triggers, each as soon as no transaction uses its
    table.

    Each commits by itself and must be safe to repeat: a revision that fails is run again from its
    beginning. Raises RuntimeError after 90 attempts, three minutes, and SQLAlchemy's errors.
    """
    connection = op.get_bind()
    connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {LOCK_SECONDS}")
    for sql in statements:
        what = " ".join(sql.split())[:70]
        _patiently(what, partial(connection.exec_driver_sql, sql))


def transaction(what: str, *statements: str) -> list[sqlalchemy.CursorResult[tuple[object, ...]]]:
    """Runs statements as one transaction, under READ COMMITTED, and returns their results.

    It waits for a locked row for a second at most, then rolls back and tries again, and so it does
    after a deadlock. `what` names it in messages. Raises RuntimeError after 90 attempts, and
    SQLAlchemy's errors.
    """
    connection = op.get_bind()
    # What preceded on this connection. READ COMMITTED locks rows, and no gaps for new rows.
    connection.exec_driver_sql("COMMIT")
    connection.exec_driver_sql(
        f"SET SESSION innodb_lock_wait_timeout = {LOCK_SECONDS}, tx_isolation = 'READ-COMMITTED'"
    )

    def work() -> list[sqlalchemy.CursorResult[tuple[object, ...]]]:
        try:
            results = [connection.exec_driver_sql(sql) for sql in statements]
        except sqlalchemy.exc.DBAPIError:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")
        return results

    return _patiently(what, work)


def _patiently(what: str, work: Callable[[], Value]) -> Value:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except sqlalchemy.exc.OperationalError as error:
            number = error.orig.args[0] if error.orig is not None else 0
            if number not in (ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK):
                raise
            print(f"  {what}: a transaction uses it, attempt {attempt} of {ATTEMPTS}", flush=True)
            time.sleep(PAUSE_SECONDS)
    raise RuntimeError(
        f"{what!r} was tried for three minutes, and other transactions used its table all the"
        " time: end them, and run this again"
    )
