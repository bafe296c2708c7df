"""The place of each reservation, one payment for each place, earlier payments, no price below 0,
and what the removal of old reservations needs."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # paid_place is the invariant that of the reservations of one place in a waiting room at most
    # one is being paid or paid. Reservations that were made without an admission have no place.
    # One statement, because the stored column and the CHECK each make MariaDB 10.11 copy the table,
    # and writers wait meanwhile: 16 s for a million rows. A virtual column needs no copy, but every
    # later column would then need one.
    op.execute("""
        ALTER TABLE reservation
            ADD COLUMN room VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL,
            ADD COLUMN place_number BIGINT NULL,
            ADD COLUMN paid_place BIGINT GENERATED ALWAYS AS (
                CASE WHEN status IN ('PAYING', 'CONFIRMED') THEN place_number END
            ) STORED,
            ADD UNIQUE KEY one_payment_a_place (paid_place, room),
            ADD KEY of_user_and_seat (user_id, seat_id),
            ADD CONSTRAINT no_negative_price CHECK (price >= 0)
    """)
    # The payments that a reservation no longer names as its payment_id, because they failed or
    # another one took their place. Rows live as long as their reservation.
    op.execute("""
        CREATE TABLE earlier_payment (
            reservation_id BIGINT NOT NULL,
            payment_id BIGINT NOT NULL,
            PRIMARY KEY (reservation_id, payment_id)
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
    """)
    op.execute("ALTER TABLE lost_seat ADD KEY of_reservation (reservation_id)")
