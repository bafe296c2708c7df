"""Events as columns of their payments, in place of rows of an outbox; the reason of a decline."""

from servicekit.ddl import change_tables

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # The version before neither reads nor writes these columns; it sends its own events from the
    # table `outbox`.
    change_tables(
        """
        ALTER TABLE payment
            ADD COLUMN IF NOT EXISTS
                decline_reason VARCHAR(64) CHARACTER SET ascii NOT NULL DEFAULT '',
            -- A flag for each kind of event that Kafka has not acknowledged: 1 outcome, 2 refund.
            ADD COLUMN IF NOT EXISTS unsent TINYINT UNSIGNED NOT NULL DEFAULT 0,
            -- The shard of the reservation while a flag is set.
            ADD COLUMN IF NOT EXISTS unsent_shard TINYINT UNSIGNED NULL,
            ALGORITHM = INSTANT
        """,
        """
        ALTER TABLE payment ADD KEY IF NOT EXISTS unsent (unsent_shard),
            ALGORITHM = NOCOPY, LOCK = NONE
        """,
    )
