"""Wallets and holds: balances that follow from the entries, never below zero; a hold is captured or released once.

Revision ID: 0010
Revises: 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATEMENTS = (
    # A view of the entries of the accounts `wallet` and `wallet_held`, kept by a trigger: it cannot say something else.
    """
    CREATE TABLE wallets (
        id uuid CONSTRAINT pk_wallets PRIMARY KEY DEFAULT gen_random_uuid(),
        user_id uuid NOT NULL CONSTRAINT fk_wallets_user_id REFERENCES users (id),
        currency char(3) NOT NULL CONSTRAINT ck_wallets_currency CHECK (currency ~ '^[A-Z]{3}$'),
        available_minor bigint NOT NULL DEFAULT 0 CONSTRAINT ck_wallets_available CHECK (available_minor >= 0),
        held_minor bigint NOT NULL DEFAULT 0 CONSTRAINT ck_wallets_held CHECK (held_minor >= 0),
        status text NOT NULL DEFAULT 'active' CONSTRAINT ck_wallets_status CHECK (status IN ('active', 'inactive', 'frozen')),
        status_reason text,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT uq_wallets_user_id UNIQUE (user_id, currency)
    ) WITH (fillfactor = 70)
    """,
    """
    CREATE TABLE holds (
        id uuid CONSTRAINT pk_holds PRIMARY KEY,
        user_id uuid NOT NULL CONSTRAINT fk_holds_user_id REFERENCES users (id),
        transaction_id uuid NOT NULL CONSTRAINT fk_holds_transaction_id REFERENCES transactions (id),
        source_type text NOT NULL CONSTRAINT ck_holds_source_type CHECK (source_type IN ('transaction', 'refund')),
        source_id uuid NOT NULL,
        currency char(3) NOT NULL,
        amount_minor bigint NOT NULL CONSTRAINT ck_holds_amount CHECK (amount_minor > 0),
        status text NOT NULL DEFAULT 'held' CONSTRAINT ck_holds_status CHECK (status IN ('held', 'captured', 'released')),
        created_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        CONSTRAINT uq_holds_source UNIQUE (source_type, source_id),
        CONSTRAINT ck_holds_ended CHECK ((status = 'held') = (ended_at IS NULL))
    )
    """,
    "CREATE INDEX ix_holds_transaction_id ON holds (transaction_id)",
    "CREATE INDEX ix_holds_held ON holds (user_id, currency) WHERE status = 'held'",
    """
    CREATE FUNCTION check_hold_move() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.status <> 'held' AND NEW.status IS DISTINCT FROM OLD.status THEN
            RAISE EXCEPTION 'hold % has ended as %', OLD.id, OLD.status USING ERRCODE = 'check_violation';
        END IF;
        IF (NEW.user_id, NEW.transaction_id, NEW.source_type, NEW.source_id, NEW.currency, NEW.amount_minor)
           IS DISTINCT FROM
           (OLD.user_id, OLD.transaction_id, OLD.source_type, OLD.source_id, OLD.currency, OLD.amount_minor) THEN
            RAISE EXCEPTION 'what hold % is about never changes', OLD.id USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END $$
    """,
    "CREATE TRIGGER holds_move BEFORE UPDATE ON holds FOR EACH ROW EXECUTE FUNCTION check_hold_move()",
    "CREATE TRIGGER holds_no_delete BEFORE DELETE ON holds FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    # One statement's entries at once. The rows are locked in order of their ids, as everybody does.
    """
    CREATE FUNCTION keep_wallets() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        change record;
    BEGIN
        FOR change IN
            SELECT a.user_id, a.currency,
                   -coalesce(sum(e.amount_minor) FILTER (WHERE a.code = 'wallet'), 0) AS available,
                   -coalesce(sum(e.amount_minor) FILTER (WHERE a.code = 'wallet_held'), 0) AS held
            FROM written e JOIN ledger_accounts a ON a.id = e.account_id
            WHERE a.code IN ('wallet', 'wallet_held') GROUP BY a.user_id, a.currency ORDER BY a.user_id, a.currency
        LOOP
            UPDATE wallets SET available_minor = available_minor + change.available,
                held_minor = held_minor + change.held, updated_at = now()
            WHERE user_id = change.user_id AND currency = change.currency;
            IF NOT FOUND THEN
                INSERT INTO wallets (user_id, currency, available_minor, held_minor)
                VALUES (change.user_id, change.currency, change.available, change.held)
                ON CONFLICT (user_id, currency) DO UPDATE SET
                    available_minor = wallets.available_minor + excluded.available_minor,
                    held_minor = wallets.held_minor + excluded.held_minor, updated_at = now();
            END IF;
        END LOOP;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER ledger_entries_wallets AFTER INSERT ON ledger_entries REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION keep_wallets()
    """,
    # What entries say, nobody writes by hand: outside the trigger above a balance never changes.
    """
    CREATE FUNCTION refuse_balance() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_trigger_depth() < 2 THEN
            RAISE EXCEPTION 'a balance follows from entries' USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER wallets_balance BEFORE UPDATE OF available_minor, held_minor ON wallets
    FOR EACH ROW EXECUTE FUNCTION refuse_balance()
    """,
    """
    CREATE TRIGGER wallets_start BEFORE INSERT ON wallets FOR EACH ROW
    WHEN (NEW.available_minor <> 0 OR NEW.held_minor <> 0) EXECUTE FUNCTION refuse_balance()
    """,
    "CREATE TRIGGER wallets_no_delete BEFORE DELETE ON wallets FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    # Where a withdrawal goes: personal data, apart from the books, so that it can be erased.
    """
    CREATE TABLE payout_destinations (
        transaction_id uuid CONSTRAINT pk_payout_destinations PRIMARY KEY
            CONSTRAINT fk_payout_destinations_transaction_id REFERENCES transactions (id),
        type text NOT NULL CONSTRAINT ck_payout_destinations_type CHECK (type IN ('bank_account', 'mobile_money')),
        account_name text,
        bank_code text,
        account_number text,
        phone text,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    # An approval is of one withdrawal, by one who did not ask for it.
    """
    CREATE TABLE payout_approvals (
        transaction_id uuid CONSTRAINT pk_payout_approvals PRIMARY KEY
            CONSTRAINT fk_payout_approvals_transaction_id REFERENCES transactions (id),
        requested_by uuid NOT NULL CONSTRAINT fk_payout_approvals_requested_by REFERENCES users (id),
        decided_by uuid CONSTRAINT fk_payout_approvals_decided_by REFERENCES users (id),
        decision text CONSTRAINT ck_payout_approvals_decision CHECK (decision IN ('approved', 'rejected')),
        reason text,
        created_at timestamptz NOT NULL DEFAULT now(),
        decided_at timestamptz,
        CONSTRAINT ck_payout_approvals_checker CHECK (decided_by IS NULL OR decided_by <> requested_by),
        CONSTRAINT ck_payout_approvals_decided CHECK ((decision IS NULL) = (decided_by IS NULL))
    )
    """,
    # What was bought: which service, for which number.
    """
    CREATE TABLE airtime_purchases (
        transaction_id uuid CONSTRAINT pk_airtime_purchases PRIMARY KEY
            CONSTRAINT fk_airtime_purchases_transaction_id REFERENCES transactions (id),
        service_id text NOT NULL,
        variation_code text,
        phone text,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "INSERT INTO transitions VALUES ('withdrawal', 'pending', 'cancelled', 'operator')",
    "INSERT INTO transitions VALUES ('airtime', 'pending', 'cancelled', 'operator')",
    # The wallets of fundings that were posted before there were wallets.
    """
    INSERT INTO wallets (user_id, currency) SELECT DISTINCT user_id, currency FROM ledger_accounts
    WHERE code = 'wallet' AND user_id IS NOT NULL ON CONFLICT DO NOTHING
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.execute(
        "DELETE FROM transitions WHERE from_status = 'pending' AND to_status = 'cancelled' AND cause = 'operator'"
    )
    op.execute("DROP TRIGGER ledger_entries_wallets ON ledger_entries")
    for table in ("airtime_purchases", "payout_approvals", "payout_destinations", "holds", "wallets"):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP FUNCTION keep_wallets, refuse_balance, check_hold_move")
