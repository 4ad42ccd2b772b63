"""What was put into suspense after a settlement file can be taken out again, once it is known whose it is.

Revision ID: 0016
Revises: 0015
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

NARROW = "kind IN ('fee', 'suspense')"
WIDE = "kind IN ('fee', 'suspense', 'release')"


def upgrade() -> None:
    _replace(WIDE)


def downgrade() -> None:
    _replace(NARROW)


def _replace(condition: str) -> None:
    op.execute("ALTER TABLE ledger_repairs DROP CONSTRAINT ck_ledger_repairs_kind")
    op.execute(f"ALTER TABLE ledger_repairs ADD CONSTRAINT ck_ledger_repairs_kind CHECK ({condition})")
