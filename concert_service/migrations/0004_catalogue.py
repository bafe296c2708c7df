"""The catalogue that operators write: event documents, rooms, API keys, the audit log."""

from servicekit.ddl import change_tables

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # Columns have defaults, because the version before inserts rows without them: its concerts are
    # published, and their prices are in KRW. INSTANT: no row is copied or changed.
    change_tables(
        # version: counts the changes of an event. Only events that were imported have an external
        # id.
        """
        ALTER TABLE concert
            ADD COLUMN IF NOT EXISTS external_id VARCHAR(64)
                CHARACTER SET ascii COLLATE ascii_bin NULL,
            ADD COLUMN IF NOT EXISTS description TEXT NOT NULL DEFAULT '',
            ADD COLUMN IF NOT EXISTS venue VARCHAR(200) NOT NULL DEFAULT '',
            ADD COLUMN IF NOT EXISTS time_zone VARCHAR(64) NOT NULL DEFAULT 'UTC',
            ADD COLUMN IF NOT EXISTS image_url VARCHAR(500) NOT NULL DEFAULT '',
            ADD COLUMN IF NOT EXISTS status ENUM('DRAFT', 'PUBLISHED', 'CANCELLED', 'ARCHIVED')
                NOT NULL DEFAULT 'PUBLISHED',
            ADD COLUMN IF NOT EXISTS room VARCHAR(64) NOT NULL DEFAULT 'main',
            ADD COLUMN IF NOT EXISTS currency CHAR(3) NOT NULL DEFAULT 'KRW',
            ADD COLUMN IF NOT EXISTS version BIGINT NOT NULL DEFAULT 1,
            ALGORITHM = INSTANT
        """,
        """
        ALTER TABLE concert ADD UNIQUE KEY IF NOT EXISTS by_external_id (external_id),
            ALGORITHM = NOCOPY, LOCK = NONE
        """,
        # date is the date of starts_at at the venue. listed_until is the instant when that date
        # ends there; NULL: at the end of the date in UTC.
        """
        ALTER TABLE schedule
            ADD COLUMN IF NOT EXISTS external_id VARCHAR(64)
                CHARACTER SET ascii COLLATE ascii_bin NULL,
            ADD COLUMN IF NOT EXISTS starts_at DATETIME(3) NULL,
            ADD COLUMN IF NOT EXISTS listed_until DATETIME(3) NULL,
            ADD COLUMN IF NOT EXISTS sales_from DATETIME(3) NULL,
            ADD COLUMN IF NOT EXISTS sales_until DATETIME(3) NULL,
            ADD COLUMN IF NOT EXISTS is_cancelled BOOLEAN NOT NULL DEFAULT FALSE,
            ALGORITHM = INSTANT
        """,
        # row_rank: the best row of the hall has the lowest; NULL: rows rank in seat order. removed:
        # a seat that the document no longer has, whose id stays.
        """
        ALTER TABLE seat
            ADD COLUMN IF NOT EXISTS row_rank INT NULL,
            ADD COLUMN IF NOT EXISTS is_companion BOOLEAN NOT NULL DEFAULT FALSE,
            ADD COLUMN IF NOT EXISTS is_general_admission BOOLEAN NOT NULL DEFAULT FALSE,
            ADD COLUMN IF NOT EXISTS x INT NULL,
            ADD COLUMN IF NOT EXISTS y INT NULL,
            ADD COLUMN IF NOT EXISTS is_blocked BOOLEAN NOT NULL DEFAULT FALSE,
            ADD COLUMN IF NOT EXISTS is_removed BOOLEAN NOT NULL DEFAULT FALSE,
            ALGORITHM = INSTANT
        """,
        # The documents of the last versions of an event, the newest of which is its definition.
        """
        CREATE TABLE IF NOT EXISTS event_version (
            concert_id BIGINT NOT NULL,
            version BIGINT NOT NULL,
            document LONGBLOB NOT NULL,
            operator VARCHAR(64) NOT NULL,
            created_at DATETIME(3) NOT NULL,
            PRIMARY KEY (concert_id, version),
            FOREIGN KEY (concert_id) REFERENCES concert (id)
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
        """,
        # One row, which every transaction that changes the catalogue locks until its commit: so
        # versions are in the order of the commits, and a reader of one can read all earlier ones.
        """
        CREATE TABLE IF NOT EXISTS catalogue (
            id TINYINT NOT NULL PRIMARY KEY,
            version BIGINT NOT NULL
        ) ENGINE = InnoDB
        """,
        "INSERT INTO catalogue (id, version) VALUES (1, 1) ON DUPLICATE KEY UPDATE id = id",
        # What each version changed: a concert, or a room.
        """
        CREATE TABLE IF NOT EXISTS catalogue_change (
            version BIGINT NOT NULL,
            concert_id BIGINT NOT NULL DEFAULT 0,
            room VARCHAR(64) NOT NULL DEFAULT '',
            created_at DATETIME(3) NOT NULL,
            PRIMARY KEY (version, concert_id, room)
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
        """,
        # definition: a frontrow.concert.v1.Room without its draw. A room that was removed keeps its
        # row, so that its version goes on.
        """
        CREATE TABLE IF NOT EXISTS room (
            name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
            version BIGINT NOT NULL,
            definition BLOB NOT NULL,
            seed BINARY(32) NULL,
            public_value VARCHAR(500) NOT NULL DEFAULT '',
            cohort_attempt VARCHAR(64) NOT NULL DEFAULT '',
            cohort_size BIGINT NULL,
            cohort_sha256 BINARY(32) NULL,
            is_removed BOOLEAN NOT NULL DEFAULT FALSE
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
        """,
        # position: of the first number in the cohort (OFFSET is a reserved word). numbers: 8 bytes
        # each, big-endian. Only the parts of room.cohort_attempt count.
        """
        CREATE TABLE IF NOT EXISTS cohort_part (
            room VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
            attempt VARCHAR(64) NOT NULL,
            position BIGINT NOT NULL,
            numbers MEDIUMBLOB NOT NULL,
            created_at DATETIME(3) NOT NULL,
            PRIMARY KEY (room, attempt, position)
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
        """,
        """
        CREATE TABLE IF NOT EXISTS api_key (
            id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            name VARCHAR(64) NOT NULL,
            role ENUM('VIEWER', 'OPERATOR', 'ADMIN') NOT NULL,
            secret_sha256 BINARY(32) NOT NULL,
            created_at DATETIME(3) NOT NULL,
            last_used_at DATETIME(3) NULL,
            revoked_at DATETIME(3) NULL,
            UNIQUE KEY by_secret (secret_sha256)
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
        """,
        """
        CREATE TABLE IF NOT EXISTS audit_entry (
            id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            at DATETIME(3) NOT NULL,
            key_id BIGINT NOT NULL,
            key_name VARCHAR(64) NOT NULL,
            action VARCHAR(64) NOT NULL,
            subject VARCHAR(200) NOT NULL,
            detail MEDIUMTEXT NOT NULL,
            outcome VARCHAR(64) NOT NULL DEFAULT '',
            request_id VARCHAR(64) NOT NULL
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
        """,
    )
