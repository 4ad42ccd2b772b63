"""The spool (the queue in PostgreSQL) and the dead letters of both queues."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Every message is inserted, updated once or twice and deleted. Room on the page keeps the updates off the index
    # (available_at is never updated), and vacuum comes by count, because a share of a nearly empty table says nothing.
    op.execute(
        """
        CREATE TABLE queue_messages (
            id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_queue_messages PRIMARY KEY,
            topic text NOT NULL,
            message_id text NOT NULL,
            body bytea NOT NULL,
            headers jsonb NOT NULL,
            attempts integer NOT NULL DEFAULT 0 CONSTRAINT ck_queue_messages_attempts CHECK (attempts >= 0),
            deliveries integer NOT NULL DEFAULT 0 CONSTRAINT ck_queue_messages_deliveries CHECK (deliveries >= 0),
            reason text NOT NULL DEFAULT '',
            available_at timestamptz NOT NULL DEFAULT now(),
            locked_until timestamptz,
            created_at timestamptz NOT NULL DEFAULT now()
        ) WITH (
            fillfactor = 70,
            autovacuum_vacuum_scale_factor = 0,
            autovacuum_vacuum_threshold = 1000,
            autovacuum_analyze_scale_factor = 0,
            autovacuum_analyze_threshold = 5000,
            autovacuum_vacuum_cost_delay = 0
        )
        """
    )
    op.execute("CREATE INDEX ix_queue_messages_topic_available_at ON queue_messages (topic, available_at)")
    op.execute(
        """
        CREATE TABLE dead_letters (
            id uuid CONSTRAINT pk_dead_letters PRIMARY KEY,
            topic text NOT NULL,
            message_id text NOT NULL,
            body bytea NOT NULL,
            headers jsonb NOT NULL,
            attempts integer NOT NULL CONSTRAINT ck_dead_letters_attempts CHECK (attempts >= 0),
            reason text NOT NULL,
            dead_at timestamptz NOT NULL DEFAULT now(),
            replayed_at timestamptz,
            replayed_by text,
            CONSTRAINT ck_dead_letters_replayed CHECK ((replayed_at IS NULL) = (replayed_by IS NULL))
        )
        """
    )
    op.execute(
        "CREATE UNIQUE INDEX uq_dead_letters_topic_message_id ON dead_letters (topic, message_id) "
        "WHERE replayed_at IS NULL"
    )
    op.execute("CREATE INDEX ix_dead_letters_topic_id ON dead_letters (topic, id)")


def downgrade() -> None:
    op.execute("DROP TABLE dead_letters")
    op.execute("DROP TABLE queue_messages")
