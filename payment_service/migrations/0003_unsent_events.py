"""Events as columns of their payments, in place of rows of an outbox; the reason of a decline."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # The version before neither reads nor writes these columns; it sends its own events from the
    # table `outbox`.
    op.execute("""
        ALTER TABLE payment
            ADD COLUMN decline_reason VARCHAR(64) CHARACTER SET ascii NOT NULL DEFAULT '',
            -- A flag for each kind of event that Kafka has not acknowledged: 1 outcome, 2 refund.
            ADD COLUMN unsent TINYINT UNSIGNED NOT NULL DEFAULT 0,
            -- The shard of the reservation while a flag is set.
            ADD COLUMN unsent_shard TINYINT UNSIGNED NULL,
            ALGORITHM = INSTANT
    """)
    op.execute("ALTER TABLE payment ADD KEY unsent (unsent_shard), ALGORITHM = NOCOPY, LOCK = NONE")
