"""Payments, their outbox, idempotency keys, and the sandbox provider's book."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE payment (
            id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            reservation_id BIGINT NOT NULL,
            user_id BIGINT NOT NULL,
            status VARCHAR(16) CHARACTER SET ascii NOT NULL DEFAULT 'INITIATED',
            amount DECIMAL(12, 2) NULL,
            failure_code VARCHAR(64) CHARACTER SET ascii NOT NULL DEFAULT '',
            outcome_told BOOL NOT NULL DEFAULT FALSE,
            room VARCHAR(64) NULL,
            place_number BIGINT NULL,
            failed_payment_id BIGINT NOT NULL DEFAULT 0,
            attempts INT NOT NULL DEFAULT 0,
            driven_until DATETIME(6) NOT NULL,
            created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
            updated_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
                ON UPDATE CURRENT_TIMESTAMP(6),
            -- One payment a reservation that is not FAILED. Per user, so that a stranger's
            -- attempt, which BeginPayment is going to refuse, keeps no owner waiting.
            live_reservation_id BIGINT
                AS (CASE WHEN status = 'FAILED' THEN NULL ELSE reservation_id END) STORED,
            UNIQUE KEY one_live_payment (live_reservation_id, user_id),
            KEY latest (reservation_id, user_id, id),
            KEY recovery (status, driven_until)
        ) ENGINE = InnoDB
    """)
    op.execute("""
        CREATE TABLE outbox (
            id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            shard TINYINT UNSIGNED NOT NULL,
            event_id CHAR(36) CHARACTER SET ascii NOT NULL,
            reservation_id BIGINT NOT NULL,
            payment_id BIGINT NOT NULL,
            payload BLOB NOT NULL,
            created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
            KEY unsent (shard, id),
            KEY waiting (created_at)
        ) ENGINE = InnoDB
    """)
    # One row per shard, locked by the relay that sends the shard's events.
    op.execute("CREATE TABLE outbox_shard (shard TINYINT UNSIGNED NOT NULL PRIMARY KEY)")
    op.execute("INSERT INTO outbox_shard (shard) SELECT seq FROM seq_0_to_15")
    op.execute("""
        CREATE TABLE idempotency_key (
            user_id BIGINT NOT NULL,
            idem_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL,
            reservation_id BIGINT NOT NULL,
            payment_id BIGINT NOT NULL,
            -- Until when the call that uses the key may still answer; NULL once it has.
            in_flight_until DATETIME(6) NULL,
            created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
            PRIMARY KEY (user_id, idem_key),
            KEY age (created_at)
        ) ENGINE = InnoDB
    """)
    # The charges that a real provider would store. The service reads them through the provider
    # port only.
    op.execute("""
        CREATE TABLE sandbox_charge (
            payment_id BIGINT NOT NULL PRIMARY KEY,
            user_id BIGINT NOT NULL,
            amount DECIMAL(12, 2) NULL,
            status VARCHAR(16) CHARACTER SET ascii NOT NULL,
            calls INT NOT NULL DEFAULT 0,
            decided_at DATETIME(6) NULL,
            refunded_at DATETIME(6) NULL
        ) ENGINE = InnoDB
    """)
