"""OTP submissions: one at a time for an attempt.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A lease and not a flag: a process that dies while it passes an OTP on must not lock the attempt for ever.
    op.execute("ALTER TABLE attempts ADD COLUMN submitting_until timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE attempts DROP COLUMN submitting_until")
