"""Reservations, what is sold, seats that were lost to late payments, idempotency keys."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    # live_seat_id is the invariant that a seat has at most one live reservation.
    op.execute("""
        CREATE TABLE reservation (
            id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            user_id BIGINT NOT NULL,
            seat_id BIGINT NOT NULL,
            schedule_id BIGINT NOT NULL,
            seat_num VARCHAR(16) NOT NULL,
            price DECIMAL(12, 2) NOT NULL,
            status ENUM('HELD', 'PAYING', 'CONFIRMED', 'CANCELLED', 'EXPIRED') NOT NULL,
            held_until DATETIME(6) NOT NULL,
            lapses_at DATETIME(6) NOT NULL,
            payment_id BIGINT NULL,
            created_at DATETIME(6) NOT NULL,
            updated_at DATETIME(6) NOT NULL,
            live_seat_id BIGINT GENERATED ALWAYS AS (
                CASE WHEN status IN ('HELD', 'PAYING', 'CONFIRMED') THEN seat_id END
            ) STORED,
            UNIQUE KEY one_live_reservation_a_seat (live_seat_id),
            KEY taken_of_schedule (schedule_id, live_seat_id),
            KEY to_sweep (status, lapses_at)
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
    """)
    op.execute("""
        CREATE TABLE schedule_sales (
            schedule_id BIGINT NOT NULL PRIMARY KEY,
            sold INT NOT NULL
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
    """)
    # Payments that succeeded after another user had taken the seat. They are refunded, so they
    # must never confirm a reservation later.
    op.execute("""
        CREATE TABLE lost_seat (
            payment_id BIGINT NOT NULL PRIMARY KEY,
            reservation_id BIGINT NOT NULL,
            lost_at DATETIME(6) NOT NULL
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
    """)
    # A row without a reservation means that the result was "seat not found". Keys differ by every
    # character, including case and trailing blanks.
    op.execute("""
        CREATE TABLE idempotency_key (
            user_id BIGINT NOT NULL,
            idem_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
            seat_id BIGINT NOT NULL,
            reservation_id BIGINT NULL,
            created_at DATETIME(6) NOT NULL,
            PRIMARY KEY (user_id, idem_key),
            KEY to_prune (created_at)
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
    """)
