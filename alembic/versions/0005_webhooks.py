"""Incoming webhooks: what was seen, what it led to, raw bodies; sealed provider credentials.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    # One row for each thing a trusted webhook told: the primary key is what makes a repeat a duplicate.
    """
    CREATE TABLE webhook_events (
        provider text NOT NULL,
        dedupe_key text NOT NULL,
        type text NOT NULL,
        message_id uuid NOT NULL,
        transaction_id uuid CONSTRAINT fk_webhook_events_transaction_id REFERENCES transactions (id),
        outcome text NOT NULL CONSTRAINT ck_webhook_events_outcome
            CHECK (outcome IN ('settled', 'ignored')),
        received_at timestamptz NOT NULL,
        processed_at timestamptz NOT NULL,
        CONSTRAINT pk_webhook_events PRIMARY KEY (provider, dedupe_key)
    )
    """,
    "CREATE INDEX ix_webhook_events_transaction_id ON webhook_events (transaction_id)",
    # Raw bodies hold personal data: kept for a time only, and apart, so that the rows above can stay.
    """
    CREATE TABLE webhook_bodies (
        message_id uuid CONSTRAINT pk_webhook_bodies PRIMARY KEY,
        provider text NOT NULL,
        body bytea NOT NULL,
        received_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX ix_webhook_bodies_received_at ON webhook_bodies (received_at)",
    """
    CREATE TABLE provider_configs (
        id uuid CONSTRAINT pk_provider_configs PRIMARY KEY,
        provider text NOT NULL,
        key_id text NOT NULL,
        sealed bytea NOT NULL,
        created_by uuid NOT NULL CONSTRAINT fk_provider_configs_created_by REFERENCES users (id),
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX ix_provider_configs_provider ON provider_configs (provider, id DESC)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    for table in ("provider_configs", "webhook_bodies", "webhook_events"):
        op.execute(f"DROP TABLE {table}")
