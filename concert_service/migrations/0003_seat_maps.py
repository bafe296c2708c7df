"""What is needed to choose among seats, and the seats of each schedule packed."""

from servicekit.ddl import change_tables

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    change_tables(
        # NULL or a default, because the version before inserts seats without these columns: see
        # `concert_service.seat_map` for what NULL means. INSTANT: no row is copied or changed.
        """
        ALTER TABLE seat
            ADD COLUMN IF NOT EXISTS row_name VARCHAR(16) NULL,
            ADD COLUMN IF NOT EXISTS place SMALLINT UNSIGNED NULL,
            ADD COLUMN IF NOT EXISTS price_category VARCHAR(32) NULL,
            ADD COLUMN IF NOT EXISTS section VARCHAR(32) NOT NULL DEFAULT '',
            ADD COLUMN IF NOT EXISTS is_accessible BOOLEAN NOT NULL DEFAULT FALSE,
            ALGORITHM = INSTANT
        """,
        # Both follow from the rows of `seat`. The digest is that of the content, so a layout never
        # changes; packed is a frontrow.concert.v1.SeatLayout without its digest; source is the hash
        # of the rows that it was made of, so that the same rows are not packed again.
        """
        CREATE TABLE IF NOT EXISTS seat_layout (
            digest BINARY(16) NOT NULL PRIMARY KEY,
            source BINARY(32) NULL,
            packed MEDIUMBLOB NOT NULL,
            KEY by_source (source)
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
        """,
        # runs: the ids of the seats in seat order, as in "1+150 301+20".
        """
        CREATE TABLE IF NOT EXISTS seat_map (
            schedule_id BIGINT NOT NULL PRIMARY KEY,
            layout BINARY(16) NOT NULL,
            runs MEDIUMTEXT CHARACTER SET ascii NOT NULL,
            FOREIGN KEY (schedule_id) REFERENCES schedule (id) ON DELETE CASCADE,
            FOREIGN KEY (layout) REFERENCES seat_layout (digest)
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
        """,
    )
