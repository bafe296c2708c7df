"""Several seats in a reservation: one row for each, and one for each seat that is taken.

Expanding: the version before can still write. See 0004 for what ends that.
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # The seats of a reservation. Never changes.
    op.execute("""
        CREATE TABLE reservation_seat (
            reservation_id BIGINT NOT NULL,
            seat_id BIGINT NOT NULL,
            seat_num VARCHAR(16) NOT NULL,
            price DECIMAL(12, 2) NOT NULL,
            PRIMARY KEY (reservation_id, seat_id)
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
    """)
    # The primary key is the invariant that a seat has at most one live reservation. A row stays
    # when its seat is free again (reservation_id 0) and is updated in place: with inserts and
    # deletes, or with a secondary unique key, neighbouring seats deadlock.
    op.execute("""
        CREATE TABLE seat_claim (
            seat_id BIGINT NOT NULL PRIMARY KEY,
            reservation_id BIGINT NOT NULL,
            schedule_id BIGINT NOT NULL,
            KEY of_schedule (schedule_id, seat_id)
        ) ENGINE = InnoDB
    """)
    # One row for each user who has held a seat. Its lock decides the limits per user.
    op.execute("CREATE TABLE buyer (user_id BIGINT NOT NULL PRIMARY KEY) ENGINE = InnoDB")
    # seat_id, seat_num: the first seat of reservation_seat. price: the total.
    op.execute("ALTER TABLE reservation ADD COLUMN seats SMALLINT NOT NULL DEFAULT 1")
    op.execute("ALTER TABLE reservation ADD KEY of_user (user_id, status)")
    # What a request with this key asked for, unless it was one seat by its id: a hash.
    op.execute("ALTER TABLE idempotency_key ADD COLUMN request BINARY(32) NULL")
