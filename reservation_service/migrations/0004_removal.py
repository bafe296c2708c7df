"""What the removal of old reservations needs."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE lost_seat ADD KEY of_reservation (reservation_id)")
