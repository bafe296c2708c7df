"""Several seats in a reservation: a row for each, and one for each seat that is taken.

Expanding: the version before (of revision 0002) goes on serving, and triggers keep the new tables
right for what it writes. The programs of this version set @frontrow_writes_claims and write the new
tables themselves, so the triggers do nothing for them. 0004 ends this phase. May be interrupted
anywhere, and repeated (docs/adr/0045-migration-in-two-steps.md).

With a million reservations, on two busy cores, the columns take 72 ms, the key 2.6 s during which
others read and write, a trigger up to 40 ms, and the backfill 24 s, or 84 s beside writers, who
wait for a batch at most. Changes of the table also wait for the transactions that use it.
"""

import time

from alembic import op

from servicekit.ddl import change_tables, transaction

revision = "0003"
down_revision = "0002"

#: Reservations in a transaction of the backfill: their writers wait for it.
BATCH = 2_000
SHOW_SECONDS = 1.0

_LIVE = "('HELD', 'PAYING', 'CONFIRMED')"

# The version before knows 1062 on a row of `reservation` as "another request took the seat", and
# reads the seat again. It does not know an error of the new tables. The row of the claim is locked
# by the INSERT, so a locking read returns what is true until the end of the transaction.
_CLAIM = """
    INSERT INTO seat_claim (seat_id, reservation_id, schedule_id)
    VALUES (NEW.seat_id, NEW.id, NEW.schedule_id)
    ON DUPLICATE KEY UPDATE reservation_id = IF(reservation_id = 0, NEW.id, reservation_id);
    SELECT reservation_id INTO holder FROM seat_claim WHERE seat_id = NEW.seat_id FOR UPDATE;
    IF holder <> NEW.id THEN
        SIGNAL SQLSTATE '23000' SET MYSQL_ERRNO = 1062,
            MESSAGE_TEXT = 'Duplicate entry: another reservation has claimed the seat';
    END IF;
"""

# The order matters: a row that is inserted before there is a trigger for inserts gets its claim
# from the backfill, and by then every update and delete of it must act on the claim. The other way
# round left claims of reservations that had ended.
TRIGGERS = (
    f"""
    CREATE OR REPLACE TRIGGER claim_after_update AFTER UPDATE ON reservation FOR EACH ROW
    BEGIN
        DECLARE holder BIGINT;
        IF @frontrow_writes_claims IS NULL THEN
            IF OLD.status IN {_LIVE} AND NEW.status NOT IN {_LIVE} THEN
                UPDATE seat_claim SET reservation_id = 0
                WHERE seat_id = OLD.seat_id AND reservation_id = OLD.id;
            ELSEIF OLD.status NOT IN {_LIVE} AND NEW.status IN {_LIVE} THEN
                {_CLAIM}
            END IF;
        END IF;
    END
    """,
    # The version before removes reservations that have ended: they claim nothing.
    """
    CREATE OR REPLACE TRIGGER seats_after_delete AFTER DELETE ON reservation FOR EACH ROW
    BEGIN
        IF @frontrow_writes_claims IS NULL THEN
            DELETE FROM reservation_seat WHERE reservation_id = OLD.id;
        END IF;
    END
    """,
    f"""
    CREATE OR REPLACE TRIGGER claim_after_insert AFTER INSERT ON reservation FOR EACH ROW
    BEGIN
        DECLARE holder BIGINT;
        IF @frontrow_writes_claims IS NULL THEN
            INSERT INTO buyer (user_id) VALUES (NEW.user_id)
            ON DUPLICATE KEY UPDATE user_id = NEW.user_id;
            INSERT INTO reservation_seat (reservation_id, seat_id, seat_num, price)
            VALUES (NEW.id, NEW.seat_id, NEW.seat_num, NEW.price);
            {_CLAIM}
        END IF;
    END
    """,
)


def upgrade() -> None:
    change_tables(
        # The seats of a reservation. Never changes.
        """
        CREATE TABLE IF NOT EXISTS reservation_seat (
            reservation_id BIGINT NOT NULL,
            seat_id BIGINT NOT NULL,
            seat_num VARCHAR(16) NOT NULL,
            price DECIMAL(12, 2) NOT NULL,
            PRIMARY KEY (reservation_id, seat_id)
        ) ENGINE = InnoDB CHARACTER SET utf8mb4
        """,
        # The primary key is the invariant that a seat has at most one live reservation. A row stays
        # when its seat is free again (reservation_id 0) and is updated in place: with inserts and
        # deletes, or with a secondary unique key, neighbouring seats deadlock.
        """
        CREATE TABLE IF NOT EXISTS seat_claim (
            seat_id BIGINT NOT NULL PRIMARY KEY,
            reservation_id BIGINT NOT NULL,
            schedule_id BIGINT NOT NULL,
            KEY of_schedule (schedule_id, seat_id)
        ) ENGINE = InnoDB
        """,
        # One row for each user who has held a seat. Its lock decides the limits per user.
        """
        CREATE TABLE IF NOT EXISTS buyer (user_id BIGINT NOT NULL PRIMARY KEY) ENGINE = InnoDB
        """,
        # seat_id, seat_num: the first seat of reservation_seat. price: the total.
        """
        ALTER TABLE reservation ADD COLUMN IF NOT EXISTS seats SMALLINT NOT NULL DEFAULT 1,
            ALGORITHM = INSTANT
        """,
        # What a request with this key asked for, unless it was one seat by its id: a hash.
        """
        ALTER TABLE idempotency_key ADD COLUMN IF NOT EXISTS request BINARY(32) NULL,
            ALGORITHM = INSTANT
        """,
        """
        ALTER TABLE reservation ADD KEY IF NOT EXISTS of_user (user_id, status, lapses_at),
            ALGORITHM = NOCOPY, LOCK = NONE
        """,
        *TRIGGERS,
    )
    _backfill()


def _backfill() -> None:
    """Writes the new tables for the reservations that are older than the triggers."""
    ((last,),) = op.get_bind().exec_driver_sql("SELECT COALESCE(MAX(id), 0) FROM reservation")
    began = shown = time.monotonic()
    done = after = 0
    while after < last:
        ((end, count),) = op.get_bind().exec_driver_sql(
            "SELECT COALESCE(MAX(id), 0), COUNT(*) FROM (SELECT id FROM reservation"
            f" WHERE id > {after} AND id <= {last} ORDER BY id LIMIT {BATCH}) batch"
        )
        if not count:
            break
        _copy(after, end)
        done, after = done + count, end
        if time.monotonic() - shown >= SHOW_SECONDS:
            shown = time.monotonic()
            print(
                f"  seats of {done:,} reservations in {shown - began:.0f} s, up to id {after:,}"
                f" of {last:,}",
                flush=True,
            )
    print(f"  seats of {done:,} reservations in {time.monotonic() - began:.1f} s", flush=True)


def _copy(after: int, end: int) -> None:
    """Copies the reservations with ids above `after`, up to `end`. Their headers are locked first
    and then their claims, as the programs do it."""
    batch = f"FROM reservation WHERE id > {after} AND id <= {end}"
    results = transaction(
        f"reservations {after + 1} to {end}",
        f"SELECT COUNT(*) FROM (SELECT id {batch} FOR UPDATE) locked",
        f"""
        INSERT INTO buyer (user_id) SELECT DISTINCT user_id {batch} ORDER BY user_id
        ON DUPLICATE KEY UPDATE user_id = buyer.user_id
        """,
        f"""
        INSERT INTO reservation_seat (reservation_id, seat_id, seat_num, price)
        SELECT id, seat_id, seat_num, price {batch} ORDER BY id
        ON DUPLICATE KEY UPDATE seat_id = reservation_seat.seat_id
        """,
        f"""
        INSERT INTO seat_claim (seat_id, reservation_id, schedule_id)
        SELECT seat_id, id, schedule_id {batch} AND status IN {_LIVE} ORDER BY seat_id
        ON DUPLICATE KEY UPDATE seat_claim.reservation_id =
            IF(seat_claim.reservation_id = 0, VALUES(reservation_id), seat_claim.reservation_id)
        """,
        f"""
        SELECT r.id FROM reservation r
        LEFT JOIN seat_claim c ON c.seat_id = r.seat_id AND c.reservation_id = r.id
        WHERE r.id > {after} AND r.id <= {end} AND r.status IN {_LIVE} AND c.seat_id IS NULL
        """,
    )
    if unclaimed := [id for (id,) in results[-1]]:
        raise RuntimeError(
            f"the seats of reservations {unclaimed[:10]} are claimed by others, which must not be:"
            " look into seat_claim, and run this again"
        )
