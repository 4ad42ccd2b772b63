"""Refunds: each with its attempt and its request, moving along a table of their own, never more than an attempt was paid.

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# A copy of payflow.transactions.refunds.MOVES as it was then (a test compares the newest).
MOVES = (
    ("pending", "processing"),
    ("pending", "completed"),
    ("pending", "failed"),
    ("pending", "under_review"),
    ("processing", "completed"),
    ("processing", "failed"),
    ("processing", "under_review"),
    ("under_review", "processing"),
    ("under_review", "completed"),
    ("under_review", "failed"),
    ("completed", "failed"),
    ("failed", "completed"),
)
PAIRS = ", ".join(f"('{before}', '{after}')" for before, after in MOVES)

STATEMENTS = (
    # Nothing wrote refunds before this revision.
    "ALTER TABLE refunds ADD COLUMN attempt_id uuid NOT NULL CONSTRAINT uq_refunds_attempt_id UNIQUE "
    "CONSTRAINT fk_refunds_attempt_id REFERENCES attempts (id)",
    "ALTER TABLE refunds ADD COLUMN payment_attempt_id uuid NOT NULL "
    "CONSTRAINT fk_refunds_payment_attempt_id REFERENCES attempts (id)",
    "ALTER TABLE refunds ADD COLUMN request_digest bytea",
    "ALTER TABLE refunds DROP COLUMN provider_reference",
    "ALTER TABLE refunds RENAME COLUMN attempts_made TO check_count",
    "ALTER TABLE refunds ADD CONSTRAINT fk_refunds_user_id FOREIGN KEY (user_id) REFERENCES users (id)",
    # The second guard behind the idempotency key: one refund for one request.
    "CREATE INDEX ix_refunds_payment_attempt_id ON refunds (payment_attempt_id)",
    "CREATE UNIQUE INDEX uq_refunds_request ON refunds (transaction_id, request_digest) WHERE request_digest IS NOT NULL",
    # More than was asked for may have been paid (a fee on top), and all of it can go back.
    "ALTER TABLE transactions DROP CONSTRAINT ck_transactions_refunded",
    "ALTER TABLE transactions ADD CONSTRAINT ck_transactions_refunded "
    "CHECK (refunded_minor BETWEEN 0 AND greatest(amount_minor, paid_minor))",
    """
    CREATE FUNCTION check_refund_sum() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        paid bigint;
        taken bigint;
    BEGIN
        IF NEW.status = 'failed' OR NEW.status = 'cancelled' THEN
            RETURN NEW;
        END IF;
        SELECT paid_minor INTO paid FROM attempts WHERE id = NEW.payment_attempt_id FOR NO KEY UPDATE;
        SELECT coalesce(sum(amount_minor), 0) INTO taken FROM refunds
        WHERE payment_attempt_id = NEW.payment_attempt_id AND id <> NEW.id AND status NOT IN ('failed', 'cancelled');
        IF paid IS NULL OR taken + NEW.amount_minor > paid THEN
            RAISE EXCEPTION 'refunds of attempt % exceed what was paid', NEW.payment_attempt_id
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END $$
    """,
    # Of the status alone: whoever changes that holds the payment's lock already, so the two are locked in one order.
    """
    CREATE TRIGGER refunds_sum BEFORE INSERT OR UPDATE OF status ON refunds
    FOR EACH ROW EXECUTE FUNCTION check_refund_sum()
    """,
    f"""
    CREATE FUNCTION check_refund_move() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.status IS DISTINCT FROM OLD.status AND (OLD.status, NEW.status) NOT IN ({PAIRS}) THEN
            RAISE EXCEPTION 'refund % may not move from % to %', OLD.id, OLD.status, NEW.status
                USING ERRCODE = 'check_violation';
        END IF;
        IF (NEW.transaction_id, NEW.user_id, NEW.attempt_id, NEW.payment_attempt_id,
            NEW.reference, NEW.amount_minor, NEW.currency)
           IS DISTINCT FROM
           (OLD.transaction_id, OLD.user_id, OLD.attempt_id, OLD.payment_attempt_id,
            OLD.reference, OLD.amount_minor, OLD.currency) THEN
            RAISE EXCEPTION 'what refund % is about never changes', OLD.id USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END $$
    """,
    "CREATE TRIGGER refunds_move BEFORE UPDATE ON refunds FOR EACH ROW EXECUTE FUNCTION check_refund_move()",
    "CREATE TRIGGER refunds_no_delete BEFORE DELETE ON refunds FOR EACH ROW EXECUTE FUNCTION refuse_change()",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER refunds_no_delete ON refunds")
    op.execute("DROP TRIGGER refunds_move ON refunds")
    op.execute("DROP TRIGGER refunds_sum ON refunds")
    op.execute("DROP FUNCTION check_refund_move, check_refund_sum")
    op.execute("ALTER TABLE transactions DROP CONSTRAINT ck_transactions_refunded")
    op.execute(
        "ALTER TABLE transactions ADD CONSTRAINT ck_transactions_refunded "
        "CHECK (refunded_minor BETWEEN 0 AND amount_minor)"
    )
    op.execute("DROP INDEX uq_refunds_request")
    op.execute("ALTER TABLE refunds DROP CONSTRAINT fk_refunds_user_id")
    op.execute("ALTER TABLE refunds RENAME COLUMN check_count TO attempts_made")
    op.execute("ALTER TABLE refunds ADD COLUMN provider_reference text")
    op.execute("ALTER TABLE refunds DROP COLUMN request_digest, DROP COLUMN attempt_id, DROP COLUMN payment_attempt_id")
