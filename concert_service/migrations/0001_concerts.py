"""Concerts, schedules, seats."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE concert (
            id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            title VARCHAR(200) NOT NULL
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
    """)
    op.execute("""
        CREATE TABLE schedule (
            id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            concert_id BIGINT NOT NULL,
            date DATE NOT NULL,
            seat_count INT NOT NULL,
            KEY of_concert_by_date (concert_id, date),
            FOREIGN KEY (concert_id) REFERENCES concert (id)
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
    """)
    # position is the seat order, A2 before A10, which the seat's name alone does not give.
    op.execute("""
        CREATE TABLE seat (
            id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            schedule_id BIGINT NOT NULL,
            position SMALLINT UNSIGNED NOT NULL,
            seat_num VARCHAR(16) NOT NULL,
            price DECIMAL(12, 2) NOT NULL,
            UNIQUE KEY of_schedule_in_order (schedule_id, position),
            FOREIGN KEY (schedule_id) REFERENCES schedule (id)
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
    """)
