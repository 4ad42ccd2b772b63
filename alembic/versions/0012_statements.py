"""Statements: when an entry was written stands in the entry, and its account's index answers sums and periods alone.

Revision ID: 0012
Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE ledger_entries ADD COLUMN created_at timestamptz NOT NULL DEFAULT now()",
    # Entries are never changed; those that are there only learn what their journal has always said.
    "ALTER TABLE ledger_entries DISABLE TRIGGER ledger_entries_append_only",
    "UPDATE ledger_entries e SET created_at = j.created_at FROM ledger_journals j WHERE j.id = e.journal_id",
    "ALTER TABLE ledger_entries ENABLE TRIGGER ledger_entries_append_only",
    "DROP INDEX ix_ledger_entries_account_id",
    "CREATE INDEX ix_ledger_entries_account_id ON ledger_entries (account_id, id) INCLUDE (amount_minor, created_at)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP INDEX ix_ledger_entries_account_id")
    op.execute("CREATE INDEX ix_ledger_entries_account_id ON ledger_entries (account_id, id)")
    op.execute("ALTER TABLE ledger_entries DROP COLUMN created_at")
