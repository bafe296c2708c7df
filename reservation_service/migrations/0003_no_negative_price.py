"""A price is not below 0."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("ALTER TABLE reservation ADD CONSTRAINT no_negative_price CHECK (price >= 0)")
