"""Event log, idempotency keys, double-entry ledger.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    # What must never change is refused by the database itself, whoever asks.
    """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END $$
    """,
    """
    CREATE TABLE events (
        id uuid CONSTRAINT pk_events PRIMARY KEY,
        transaction_id uuid,
        user_id uuid,
        sequence integer,
        type text NOT NULL CONSTRAINT ck_events_type CHECK (type ~ '^[a-z_]+[.][a-z_]+$'),
        status text,
        data jsonb NOT NULL DEFAULT '{}'::jsonb,
        actor text NOT NULL CONSTRAINT ck_events_actor CHECK (actor IN ('user', 'provider', 'system')),
        ip_address text,
        user_agent text,
        correlation_id text,
        created_at timestamptz NOT NULL DEFAULT now(),
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        CONSTRAINT ck_events_sequence CHECK ((transaction_id IS NULL) = (sequence IS NULL) AND sequence > 0),
        CONSTRAINT uq_events_transaction_id UNIQUE (transaction_id, sequence)
    )
    """,
    "CREATE INDEX ix_events_user_id ON events (user_id, id) WHERE user_id IS NOT NULL",
    "CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    "CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
    """
    CREATE TABLE idempotency_keys (
        principal text NOT NULL,
        method text NOT NULL,
        path text NOT NULL,
        key text NOT NULL CONSTRAINT ck_idempotency_keys_key CHECK (length(key) BETWEEN 1 AND 255),
        fingerprint bytea NOT NULL,
        transaction_id uuid NOT NULL,
        status_code smallint,
        body bytea,
        created_at timestamptz NOT NULL DEFAULT now(),
        lease_until timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        CONSTRAINT pk_idempotency_keys PRIMARY KEY (principal, method, path, key),
        CONSTRAINT ck_idempotency_keys_finished CHECK ((status_code IS NULL) = (body IS NULL))
    )
    """,
    "CREATE INDEX ix_idempotency_keys_expires_at ON idempotency_keys (expires_at)",
    """
    CREATE TABLE ledger_accounts (
        id uuid CONSTRAINT pk_ledger_accounts PRIMARY KEY,
        code text NOT NULL CONSTRAINT ck_ledger_accounts_code CHECK (code ~ '^[a-z_]+(:[a-z0-9_]+)?$'),
        user_id uuid,
        currency char(3) NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT uq_ledger_accounts_code UNIQUE NULLS NOT DISTINCT (code, user_id, currency),
        CONSTRAINT uq_ledger_accounts_id UNIQUE (id, currency)
    )
    """,
    """
    CREATE TABLE ledger_journals (
        id uuid CONSTRAINT pk_ledger_journals PRIMARY KEY,
        kind text NOT NULL,
        source_type text NOT NULL,
        source_id uuid NOT NULL,
        transaction_id uuid,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT uq_ledger_journals_source UNIQUE (source_type, source_id, kind)
    )
    """,
    "CREATE INDEX ix_ledger_journals_transaction_id ON ledger_journals (transaction_id)",
    """
    CREATE TABLE ledger_entries (
        id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_ledger_entries PRIMARY KEY,
        journal_id uuid NOT NULL CONSTRAINT fk_ledger_entries_journal_id REFERENCES ledger_journals (id),
        account_id uuid NOT NULL,
        currency char(3) NOT NULL,
        amount_minor bigint NOT NULL CONSTRAINT ck_ledger_entries_amount CHECK (amount_minor <> 0),
        CONSTRAINT fk_ledger_entries_account_id FOREIGN KEY (account_id, currency)
            REFERENCES ledger_accounts (id, currency)
    )
    """,
    "CREATE INDEX ix_ledger_entries_journal_id ON ledger_entries (journal_id)",
    "CREATE INDEX ix_ledger_entries_account_id ON ledger_entries (account_id, id)",
    # Deferred to the commit: a journal and its entries are several rows. Debits are positive, credits negative.
    """
    CREATE FUNCTION check_entry_balanced() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM ledger_entries WHERE journal_id = NEW.journal_id
                   GROUP BY currency HAVING sum(amount_minor) <> 0) THEN
            RAISE EXCEPTION 'journal % does not balance', NEW.journal_id USING ERRCODE = 'check_violation';
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE FUNCTION check_journal_filled() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM ledger_entries WHERE journal_id = NEW.id) THEN
            RAISE EXCEPTION 'journal % has no entries', NEW.id USING ERRCODE = 'check_violation';
        END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE CONSTRAINT TRIGGER ledger_entries_balanced AFTER INSERT ON ledger_entries
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_entry_balanced()
    """,
    """
    CREATE CONSTRAINT TRIGGER ledger_journals_filled AFTER INSERT ON ledger_journals
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_journal_filled()
    """,
    *(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        for table in ("ledger_entries", "ledger_journals")
    ),
    *(
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        for table in ("ledger_entries", "ledger_journals")
    ),
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    for table in ("ledger_entries", "ledger_journals", "ledger_accounts", "idempotency_keys", "events"):
        op.execute(f"DROP TABLE {table} CASCADE")
    op.execute("DROP FUNCTION check_entry_balanced, check_journal_filled, refuse_change")
