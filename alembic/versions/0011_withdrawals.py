"""An index for what went out of a wallet lately: its limits are counted while the wallet is locked.

Revision ID: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX ix_transactions_withdrawals ON transactions (user_id, currency, created_at)"
        " WHERE kind = 'withdrawal'"
    )


def downgrade() -> None:
    op.execute("DROP INDEX ix_transactions_withdrawals")
