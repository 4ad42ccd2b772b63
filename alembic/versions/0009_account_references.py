"""Payments that a customer starts alone name an order by the end of its reference.

Revision ID: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # No condition on the provider: statements are planned without their parameters, and would not find it.
    op.execute(
        "CREATE INDEX ix_attempts_account_reference ON attempts (right(reference, 12), provider) "
        "WHERE operation = 'collect'"
    )


def downgrade() -> None:
    op.execute("DROP INDEX ix_attempts_account_reference")
