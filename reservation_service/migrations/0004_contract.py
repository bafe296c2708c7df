"""Several seats, the second step: removes what only the version before needs.

Contracting: no program of that version may run any more, nor be started again. It would fail at the
first statement of each hold, for want of live_seat_id; but its sweep would expire holds without
their claims, and nobody would get those seats.

With a million reservations the columns and keys take 63 ms and a trigger up to 40 ms (on a machine
that was busy), beside the wait for the transactions that use the table.
"""

from servicekit.ddl import change_tables

revision = "0004"
down_revision = "0003"
contracting = True


def upgrade() -> None:
    change_tables(
        # Before the triggers: from here on, a forgotten program of the version before holds no
        # seat, and the rest of what it does still reaches the claims.
        """
        ALTER TABLE reservation
            DROP KEY IF EXISTS one_live_reservation_a_seat,
            DROP KEY IF EXISTS taken_of_schedule,
            DROP KEY IF EXISTS of_user_and_seat,
            DROP COLUMN IF EXISTS live_seat_id,
            ALGORITHM = NOCOPY, LOCK = NONE
        """,
        "DROP TRIGGER IF EXISTS claim_after_insert",
        "DROP TRIGGER IF EXISTS seats_after_delete",
        "DROP TRIGGER IF EXISTS claim_after_update",
    )
