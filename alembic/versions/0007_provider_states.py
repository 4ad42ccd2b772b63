"""Which providers take no new orders for the moment.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE provider_states (
            provider text CONSTRAINT pk_provider_states PRIMARY KEY,
            drained boolean NOT NULL,
            reason text,
            changed_by uuid NOT NULL CONSTRAINT fk_provider_states_changed_by REFERENCES users (id),
            changed_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE provider_states")
