"""Removes the table of the outbox, once no program of the version before runs.

What it could not send while Kafka was unavailable becomes a flag of its payment. The reason of a
decline that is sent this way is PAYMENT_DECLINED: the provider's own is in the payload only.
"""

from alembic import op

from servicekit.ddl import change_tables, transaction

revision = "0004"
down_revision = "0003"
contracting = True


def upgrade() -> None:
    if not list(op.get_bind().exec_driver_sql("SHOW TABLES LIKE 'outbox'")):
        return  # an interrupted run has removed it
    transaction(
        "flags of unsent events",
        # A payment that was refunded has one event left, the refund, or both: they leave in order.
        """
        UPDATE payment p
        JOIN (
            SELECT payment_id, MAX(shard) AS shard, COUNT(*) AS events FROM outbox
            GROUP BY payment_id
        ) o ON o.payment_id = p.id
        SET p.unsent = p.unsent | IF(p.status <> 'REFUNDED', 1, IF(o.events = 1, 2, 3)),
            p.unsent_shard = o.shard, p.updated_at = p.updated_at
        WHERE p.status <> 'INITIATED'
        """,
    )
    change_tables("DROP TABLE outbox")
