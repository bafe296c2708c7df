"""A price is not below 0."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE seat ADD CONSTRAINT no_negative_price CHECK (price >= 0)")
