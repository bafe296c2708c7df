"""Amounts in any currency: three decimal places, and the currency of each."""

from servicekit.ddl import change_tables

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    # The version before knows KRW only, and inserts rows without a currency.
    # More places make MariaDB copy the tables, and writers wait meanwhile: 42 s for a million
    # payments and 14 s for their charges, on two busy cores. To repeat it takes no time.
    change_tables(
        """
        ALTER TABLE payment
            MODIFY COLUMN amount DECIMAL(15, 3) NULL,
            MODIFY COLUMN amount_due DECIMAL(15, 3) NULL,
            ADD COLUMN IF NOT EXISTS currency CHAR(3) CHARACTER SET ascii NOT NULL DEFAULT 'KRW'
        """,
        """
        ALTER TABLE sandbox_charge
            MODIFY COLUMN amount DECIMAL(15, 3) NULL,
            ADD COLUMN IF NOT EXISTS currency CHAR(3) CHARACTER SET ascii NOT NULL DEFAULT 'KRW'
        """,
    )
