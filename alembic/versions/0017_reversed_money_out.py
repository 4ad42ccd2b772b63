"""Money out that went though a person had called it reversed is put before a person again.

Revision ID: 0017
Revises: 0016
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

KINDS = ("withdrawal", "airtime")


def upgrade() -> None:
    for kind in KINDS:
        op.execute(f"INSERT INTO transitions VALUES ('{kind}', 'reversed', 'under_review', 'provider')")


def downgrade() -> None:
    op.execute("DELETE FROM transitions WHERE from_status = 'reversed' AND to_status = 'under_review'")
