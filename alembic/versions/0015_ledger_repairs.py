"""What a person posted to the ledger after a settlement file, and why.

Revision ID: 0015
Revises: 0014
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE ledger_repairs (
        journal_id uuid CONSTRAINT pk_ledger_repairs PRIMARY KEY
            CONSTRAINT fk_ledger_repairs_journal_id REFERENCES ledger_journals (id),
        provider text NOT NULL,
        line_key text NOT NULL,
        kind text NOT NULL CONSTRAINT ck_ledger_repairs_kind CHECK (kind IN ('fee', 'suspense')),
        attempt_id uuid CONSTRAINT fk_ledger_repairs_attempt_id REFERENCES attempts (id),
        reason text NOT NULL CONSTRAINT ck_ledger_repairs_reason CHECK (length(btrim(reason)) > 0),
        repaired_by uuid NOT NULL CONSTRAINT fk_ledger_repairs_repaired_by REFERENCES users (id),
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT uq_ledger_repairs_line UNIQUE (provider, line_key, kind)
    )
    """,
    "CREATE INDEX ix_ledger_repairs_attempt_id ON ledger_repairs (attempt_id) WHERE attempt_id IS NOT NULL",
    """
    CREATE TRIGGER ledger_repairs_append_only BEFORE UPDATE OR DELETE ON ledger_repairs
    FOR EACH ROW EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE TRIGGER ledger_repairs_no_truncate BEFORE TRUNCATE ON ledger_repairs
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE ledger_repairs")
