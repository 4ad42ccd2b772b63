"""Transactions, attempts, refunds, and the table of permitted moves with the trigger that reads it.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# A copy of payflow.transactions.lifecycle as it was then (a test compares the newest): from, to, causes.
COLLECTION = (
    ("pending", "requires_action", "provider"),
    ("pending", "processing", "provider timer"),
    ("pending", "completed", "provider"),
    ("pending", "failed", "provider timer"),
    ("pending", "cancelled", "provider user"),
    ("pending", "expired", "provider timer"),
    ("pending", "under_review", "provider timer"),
    ("requires_action", "processing", "provider"),
    ("requires_action", "completed", "provider"),
    ("requires_action", "failed", "provider"),
    ("requires_action", "cancelled", "provider user"),
    ("requires_action", "expired", "provider timer"),
    ("requires_action", "under_review", "provider timer"),
    ("processing", "requires_action", "provider"),
    ("processing", "completed", "provider"),
    ("processing", "failed", "provider"),
    ("processing", "cancelled", "provider"),
    ("processing", "expired", "provider timer"),
    ("processing", "under_review", "provider timer"),
    ("under_review", "completed", "operator"),
    ("under_review", "failed", "operator"),
    ("under_review", "refunded", "operator"),
    ("under_review", "reversed", "operator provider"),
    ("completed", "partially_refunded", "provider"),
    ("completed", "refunded", "provider"),
    ("completed", "reversed", "provider"),
    ("completed", "under_review", "provider"),
    ("failed", "completed", "provider"),
    ("failed", "under_review", "provider"),
    ("cancelled", "completed", "provider"),
    ("cancelled", "under_review", "provider"),
    ("expired", "completed", "provider"),
    ("expired", "under_review", "provider"),
    ("partially_refunded", "refunded", "provider"),
    ("partially_refunded", "reversed", "provider"),
    ("partially_refunded", "completed", "provider"),
    ("refunded", "partially_refunded", "provider"),
    ("refunded", "reversed", "provider"),
    ("refunded", "completed", "provider"),
    ("reversed", "completed", "provider"),
)
MONEY_OUT = (
    ("pending", "requires_action", "provider"),
    ("pending", "processing", "provider timer"),
    ("pending", "completed", "provider"),
    ("pending", "failed", "provider"),
    ("pending", "cancelled", "provider user"),
    ("pending", "under_review", "provider timer"),
    ("requires_action", "processing", "provider"),
    ("requires_action", "completed", "provider"),
    ("requires_action", "failed", "provider"),
    ("requires_action", "cancelled", "provider"),
    ("requires_action", "under_review", "provider timer"),
    ("processing", "requires_action", "provider"),
    ("processing", "completed", "provider"),
    ("processing", "failed", "provider"),
    ("processing", "cancelled", "provider"),
    ("processing", "under_review", "provider timer"),
    ("under_review", "completed", "operator"),
    ("under_review", "failed", "operator"),
    ("under_review", "reversed", "operator provider"),
    ("completed", "reversed", "provider"),
    ("completed", "under_review", "provider"),
    ("failed", "under_review", "provider"),
    ("cancelled", "under_review", "provider"),
)

STATUSES = (
    "'pending', 'requires_action', 'processing', 'under_review', 'completed', 'failed', 'cancelled', 'expired', "
    "'partially_refunded', 'refunded', 'reversed'"
)
PROVIDER_NAME = "~ '^[a-z][a-z0-9_]{1,40}$'"

STATEMENTS = (
    """
    CREATE TABLE transitions (
        kind text NOT NULL,
        from_status text NOT NULL,
        to_status text NOT NULL,
        cause text NOT NULL,
        CONSTRAINT pk_transitions PRIMARY KEY (kind, from_status, to_status, cause)
    )
    """,
    f"""
    CREATE TABLE transactions (
        id uuid CONSTRAINT pk_transactions PRIMARY KEY,
        user_id uuid NOT NULL CONSTRAINT fk_transactions_user_id REFERENCES users (id),
        kind text NOT NULL CONSTRAINT ck_transactions_kind
            CHECK (kind IN ('payment', 'funding', 'withdrawal', 'airtime')),
        reference text NOT NULL CONSTRAINT uq_transactions_reference UNIQUE
            CONSTRAINT ck_transactions_reference CHECK (reference ~ '^[a-z0-9]{{16,50}}$'),
        status text NOT NULL CONSTRAINT ck_transactions_status CHECK (status IN ({STATUSES})),
        version integer NOT NULL CONSTRAINT ck_transactions_version CHECK (version >= 1),
        last_cause text,
        amount_minor bigint NOT NULL CONSTRAINT ck_transactions_amount CHECK (amount_minor > 0),
        currency char(3) NOT NULL CONSTRAINT ck_transactions_currency CHECK (currency ~ '^[A-Z]{{3}}$'),
        paid_minor bigint NOT NULL DEFAULT 0 CONSTRAINT ck_transactions_paid CHECK (paid_minor >= 0),
        fee_minor bigint CONSTRAINT ck_transactions_fee CHECK (fee_minor >= 0),
        refunded_minor bigint NOT NULL DEFAULT 0,
        provider text CONSTRAINT ck_transactions_provider CHECK (provider {PROVIDER_NAME}),
        method text,
        description text,
        customer_id text,
        customer_email text,
        customer_phone text,
        customer_name text,
        metadata jsonb NOT NULL DEFAULT '{{}}'::jsonb,
        return_url text,
        next_action jsonb,
        checkout_url text,
        failure_code text,
        failure_message text,
        correlation_id text,
        check_count integer NOT NULL DEFAULT 0,
        next_check_at timestamptz,
        expires_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        CONSTRAINT ck_transactions_refunded CHECK (refunded_minor BETWEEN 0 AND amount_minor),
        CONSTRAINT ck_transactions_checked CHECK
            (status NOT IN ('pending', 'requires_action', 'processing') OR next_check_at IS NOT NULL),
        CONSTRAINT ck_transactions_completed_paid CHECK (status <> 'completed' OR paid_minor > 0)
    ) WITH (fillfactor = 85)
    """,
    "CREATE INDEX ix_transactions_user_id ON transactions (user_id, id)",
    "CREATE INDEX ix_transactions_customer_id ON transactions (user_id, customer_id, id) WHERE customer_id IS NOT NULL",
    "CREATE INDEX ix_transactions_next_check_at ON transactions (next_check_at) WHERE next_check_at IS NOT NULL",
    f"""
    CREATE TABLE attempts (
        id uuid CONSTRAINT pk_attempts PRIMARY KEY,
        transaction_id uuid NOT NULL CONSTRAINT fk_attempts_transaction_id REFERENCES transactions (id),
        user_id uuid NOT NULL,
        number smallint NOT NULL CONSTRAINT ck_attempts_number CHECK (number >= 1),
        operation text NOT NULL CONSTRAINT ck_attempts_operation
            CHECK (operation IN ('collect', 'refund', 'payout', 'purchase')),
        provider text NOT NULL CONSTRAINT ck_attempts_provider CHECK (provider {PROVIDER_NAME}),
        reference text NOT NULL CONSTRAINT uq_attempts_reference UNIQUE,
        provider_references text[] NOT NULL DEFAULT '{{}}',
        receipt text,
        status text NOT NULL CONSTRAINT ck_attempts_status CHECK (status IN (
            'created', 'requires_action', 'processing', 'unknown', 'succeeded', 'declined', 'refused', 'not_sent',
            'cancelled', 'expired', 'under_review', 'reversed')),
        amount_minor bigint NOT NULL CONSTRAINT ck_attempts_amount CHECK (amount_minor > 0),
        currency char(3) NOT NULL,
        paid_minor bigint,
        paid_currency char(3),
        fee_minor bigint,
        raw_status text,
        failure_code text,
        failure_message text,
        provider_code text,
        routing jsonb NOT NULL DEFAULT '{{}}'::jsonb,
        session_ends_at timestamptz,
        last_checked_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT uq_attempts_transaction_id UNIQUE (transaction_id, number)
    ) WITH (fillfactor = 85)
    """,
    "CREATE INDEX ix_attempts_provider_references ON attempts USING gin (provider_references) WITH (fastupdate = off)",
    # One provider payment pays one attempt: the ids of two attempts of a provider never overlap once money was taken.
    """
    CREATE UNIQUE INDEX uq_attempts_receipt ON attempts (provider, receipt)
    WHERE receipt IS NOT NULL AND status IN ('succeeded', 'under_review')
    """,
    """
    CREATE TABLE refunds (
        id uuid CONSTRAINT pk_refunds PRIMARY KEY,
        transaction_id uuid NOT NULL CONSTRAINT fk_refunds_transaction_id REFERENCES transactions (id),
        user_id uuid NOT NULL,
        reference text NOT NULL CONSTRAINT uq_refunds_reference UNIQUE,
        provider_reference text,
        status text NOT NULL CONSTRAINT ck_refunds_status
            CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'cancelled', 'under_review')),
        amount_minor bigint NOT NULL CONSTRAINT ck_refunds_amount CHECK (amount_minor > 0),
        currency char(3) NOT NULL,
        reason text,
        failure_code text,
        failure_message text,
        attempts_made smallint NOT NULL DEFAULT 0,
        next_check_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT ck_refunds_checked CHECK (status NOT IN ('pending', 'processing') OR next_check_at IS NOT NULL)
    )
    """,
    "CREATE INDEX ix_refunds_transaction_id ON refunds (transaction_id)",
    "CREATE INDEX ix_refunds_next_check_at ON refunds (next_check_at) WHERE next_check_at IS NOT NULL",
    "ALTER TABLE events ADD CONSTRAINT fk_events_transaction_id FOREIGN KEY (transaction_id) REFERENCES transactions (id)",
    """
    ALTER TABLE ledger_journals ADD CONSTRAINT fk_ledger_journals_transaction_id
        FOREIGN KEY (transaction_id) REFERENCES transactions (id)
    """,
    """
    ALTER TABLE idempotency_keys ADD CONSTRAINT fk_idempotency_keys_transaction_id
        FOREIGN KEY (transaction_id) REFERENCES transactions (id) DEFERRABLE INITIALLY DEFERRED
    """,
    # The second guard behind `transactions.move`: a status changes only along the table, with a version that grows.
    """
    CREATE FUNCTION check_transaction_move() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.version < OLD.version THEN
            RAISE EXCEPTION 'version of transaction % goes back', OLD.id USING ERRCODE = 'check_violation';
        END IF;
        IF NEW.status IS DISTINCT FROM OLD.status THEN
            IF NEW.version = OLD.version THEN
                RAISE EXCEPTION 'transaction % moves without an event', OLD.id USING ERRCODE = 'check_violation';
            END IF;
            IF NOT EXISTS (SELECT FROM transitions WHERE kind = OLD.kind AND from_status = OLD.status
                           AND to_status = NEW.status AND cause = NEW.last_cause) THEN
                RAISE EXCEPTION 'transaction % may not move from % to % by %',
                    OLD.id, OLD.status, NEW.status, coalesce(NEW.last_cause, 'nobody') USING ERRCODE = 'check_violation';
            END IF;
        END IF;
        IF (NEW.user_id, NEW.kind, NEW.reference, NEW.amount_minor, NEW.currency)
           IS DISTINCT FROM (OLD.user_id, OLD.kind, OLD.reference, OLD.amount_minor, OLD.currency) THEN
            RAISE EXCEPTION 'what transaction % is about never changes', OLD.id USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER transactions_move BEFORE UPDATE ON transactions
    FOR EACH ROW EXECUTE FUNCTION check_transaction_move()
    """,
    """
    CREATE FUNCTION check_transaction_start() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.status NOT IN ('pending', 'under_review') THEN
            RAISE EXCEPTION 'a transaction starts as pending or under_review' USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER transactions_start BEFORE INSERT ON transactions
    FOR EACH ROW EXECUTE FUNCTION check_transaction_start()
    """,
    "CREATE TRIGGER transactions_no_delete BEFORE DELETE ON transactions FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    "CREATE TRIGGER attempts_no_delete BEFORE DELETE ON attempts FOR EACH ROW EXECUTE FUNCTION refuse_change()",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    for kinds, table in ((("payment", "funding"), COLLECTION), (("withdrawal", "airtime"), MONEY_OUT)):
        for kind in kinds:
            for before, after, causes in table:
                for cause in causes.split():
                    op.execute(f"INSERT INTO transitions VALUES ('{kind}', '{before}', '{after}', '{cause}')")


def downgrade() -> None:
    op.execute("ALTER TABLE events DROP CONSTRAINT fk_events_transaction_id")
    op.execute("ALTER TABLE ledger_journals DROP CONSTRAINT fk_ledger_journals_transaction_id")
    op.execute("ALTER TABLE idempotency_keys DROP CONSTRAINT fk_idempotency_keys_transaction_id")
    for table in ("refunds", "attempts", "transactions", "transitions"):
        op.execute(f"DROP TABLE {table} CASCADE")
    op.execute("DROP FUNCTION check_transaction_move, check_transaction_start")
