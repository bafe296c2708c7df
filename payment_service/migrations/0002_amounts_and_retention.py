"""The amount due, no negative amounts, and what the removal of old rows needs."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # NULL until it is known, and in rows of an earlier version. A CHECK makes MariaDB copy the
    # table, and writers wait meanwhile: 13 s for a million rows.
    op.execute("""
        ALTER TABLE payment
            ADD COLUMN amount_due DECIMAL(12, 2) NULL,
            ADD CONSTRAINT no_negative_amount CHECK (amount >= 0),
            ADD CONSTRAINT no_negative_amount_due CHECK (amount_due >= 0)
    """)
    # The result of a key whose payment was rejected, and which therefore has no row any more.
    op.execute("""
        ALTER TABLE idempotency_key
            ADD COLUMN failure_code VARCHAR(64) CHARACTER SET ascii NOT NULL DEFAULT ''
    """)
    # Rows of an earlier version count as made now.
    op.execute("""
        ALTER TABLE sandbox_charge
            ADD COLUMN created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
            ADD KEY age (created_at)
    """)
