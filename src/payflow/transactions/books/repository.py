"""The statements of the books check. Each selects what does not agree as (id, expected, found), and nothing when all is well.

They see one snapshot (REPEATABLE READ, READ ONLY), so that a check under load never mixes before and after; they lock nothing
and read each table as a whole, which is quicker than asking for every row's partner.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from payflow.infra.database import Database, RawConnection, dumps
from payflow.ledger.books import Books, Break
from payflow.transactions.refunds import MADE_ELSEWHERE

LISTED = 100
STATEMENT_SECONDS = 600.0
KEPT = timedelta(days=90)
PLANNING = (
    "work_mem = '64MB'",
    # One processor: payments need the others, and each worker would build the same sums for itself.
    "max_parallel_workers_per_gather = 0",
    # Ids follow time, so reading in the order of an index reads the table nearly in the order of the disk.
    "random_page_cost = 1.1",
)
_ONE_AT_A_TIME = 0x626F_6F6B_73  # "books": the advisory lock that lets one process check at a time

TRIAL_BALANCE = """
    SELECT currency AS id, '0' AS expected, sum(amount_minor)::text AS found
    FROM ledger_entries GROUP BY currency HAVING sum(amount_minor) <> 0
"""
JOURNAL = """
    SELECT journal_id || ' ' || currency AS id, '0' AS expected, sum(amount_minor)::text AS found
    FROM ledger_entries GROUP BY journal_id, currency HAVING sum(amount_minor) <> 0
"""
# Journals of nothing: what they name does not exist, or is of another transaction. A journal without entries cannot be
# committed.
ORPHAN = """
    SELECT j.id::text AS id, j.source_type || ' ' || j.source_id AS expected, 'missing' AS found FROM (
        -- Apart, since NOT EXISTS within OR is no join: it is looked up for each journal.
        SELECT * FROM ledger_journals j
        WHERE j.source_type = 'attempt' AND NOT EXISTS (
            SELECT FROM attempts a WHERE a.id = j.source_id AND a.transaction_id = j.transaction_id)
        UNION ALL SELECT * FROM ledger_journals j
        WHERE j.source_type = 'refund' AND NOT EXISTS (
            SELECT FROM refunds r WHERE r.id = j.source_id AND r.transaction_id = j.transaction_id)
        UNION ALL SELECT * FROM ledger_journals j
        WHERE j.source_type = 'hold' AND NOT EXISTS (
            SELECT FROM holds h WHERE h.id = j.source_id AND h.transaction_id = j.transaction_id)
        UNION ALL SELECT * FROM ledger_journals j
        WHERE j.source_type NOT IN ('attempt', 'refund', 'hold')
          AND NOT EXISTS (SELECT FROM ledger_repairs p WHERE p.journal_id = j.id)
    ) j
"""
# Whoever a transaction's money is, and whichever provider has it, its attempts say.
ACCOUNT = """
    SELECT j.id || ' ' || c.code AS id, 'the owner and a provider of transaction ' || j.transaction_id AS expected,
           concat_ws(' of ', c.code, c.user_id) AS found
    FROM ledger_accounts c JOIN ledger_entries e ON e.account_id = c.id JOIN ledger_journals j ON j.id = e.journal_id
    WHERE j.transaction_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM attempts a WHERE a.transaction_id = j.transaction_id
            AND (a.user_id = c.user_id OR (c.user_id IS NULL AND c.code = 'provider_clearing:' || a.provider)))
"""
_WALLET_SUMS = """
    SELECT a.user_id, a.currency,
           coalesce(sum(s.minor) FILTER (WHERE a.code = 'wallet'), 0) AS available,
           coalesce(sum(s.minor) FILTER (WHERE a.code = 'wallet_held'), 0) AS held
    FROM ledger_accounts a
    JOIN (SELECT account_id, -sum(amount_minor) AS minor FROM ledger_entries GROUP BY account_id) s ON s.account_id = a.id
    WHERE a.code IN ('wallet', 'wallet_held') GROUP BY a.user_id, a.currency
"""
WALLET = f"""
    SELECT coalesce(w.user_id, s.user_id) || ' ' || coalesce(w.currency, s.currency) AS id,
           format('available %s, held %s', coalesce(s.available, 0), coalesce(s.held, 0)) AS expected,
           coalesce(format('available %s, held %s', w.available_minor, w.held_minor), 'no wallet') AS found
    FROM wallets w FULL JOIN ({_WALLET_SUMS}) s ON s.user_id = w.user_id AND s.currency = w.currency
    WHERE w.id IS NULL OR w.available_minor <> coalesce(s.available, 0) OR w.held_minor <> coalesce(s.held, 0)
"""
NEGATIVE_WALLET = """
    SELECT user_id || ' ' || currency AS id, 'not below 0' AS expected,
           format('available %s, held %s', available_minor, held_minor) AS found
    FROM wallets WHERE available_minor < 0 OR held_minor < 0
"""
WALLET_HOLDS = """
    SELECT w.user_id || ' ' || w.currency AS id, coalesce(h.minor, 0)::text AS expected, w.held_minor::text AS found
    FROM wallets w LEFT JOIN (
        SELECT user_id, currency, sum(amount_minor) AS minor FROM holds WHERE status = 'held' GROUP BY user_id, currency
    ) h ON h.user_id = w.user_id AND h.currency = w.currency
    WHERE w.held_minor <> coalesce(h.minor, 0)
"""
# What the postings of a hold add up to: the money waits, has gone, or is the owner's again. NULL: no such postings can be.
_HOLDS = """
    SELECT h.id, h.source_type, h.source_id, h.status, CASE
        WHEN h.status = 'held' AND j.kinds = 'held' THEN 'waits'
        WHEN h.status = 'captured' AND j.kinds = 'captured,held' THEN 'gone'
        WHEN h.status = 'captured' AND j.kinds = 'captured,held,returned' THEN 'back'
        WHEN h.status = 'released' AND j.kinds = 'held,released' THEN 'back'
        WHEN h.status = 'released' AND j.kinds = 'captured,held,released' THEN 'gone'
        WHEN h.status = 'released' AND j.kinds = 'captured,held,released,returned' THEN 'back'
        END AS standing, j.kinds
    FROM holds h LEFT JOIN (
        SELECT source_id, string_agg(kind, ',' ORDER BY kind) AS kinds FROM ledger_journals
        WHERE source_type = 'hold' GROUP BY source_id
    ) j ON j.source_id = h.id
"""
HOLD_POSTINGS = f"""
    SELECT id::text AS id, status || ', and postings to match' AS expected, coalesce(kinds, 'no posting') AS found
    FROM ({_HOLDS}) h WHERE standing IS NULL
"""
HOLD_OF_TRANSACTION = f"""
    SELECT * FROM (
        SELECT t.id::text AS id, t.status, CASE
            WHEN t.status IN ('pending', 'requires_action', 'processing') THEN 'waits'
            WHEN t.status = 'completed' THEN 'gone'
            WHEN t.status IN ('failed', 'cancelled', 'reversed') THEN 'back'
            WHEN t.status = 'under_review' THEN coalesce(h.standing, 'a hold')
            ELSE 'no such status' END AS expected, coalesce(h.standing, 'no hold') AS found
        FROM transactions t LEFT JOIN ({_HOLDS}) h ON h.source_type = 'transaction' AND h.source_id = t.id
        WHERE t.kind IN ('withdrawal', 'airtime')
    ) b WHERE expected <> found
"""
# A refund waits, has gone or came to nothing, by its hold or (without a wallet, out of suspense, or made elsewhere) by its
# own postings.
REFUND_POSTINGS = f"""
    SELECT * FROM (
        SELECT r.id::text AS id,
               CASE r.status WHEN 'completed' THEN 'gone' WHEN 'failed' THEN 'back'
                   ELSE CASE WHEN t.kind = 'funding' AND a.routing ->> 'reason' <> '{MADE_ELSEWHERE}'
                                  AND a.routing ->> 'from' IS DISTINCT FROM 'suspense'
                             THEN 'waits' ELSE coalesce(h.standing, 'nothing') END END AS expected,
               CASE WHEN h.id IS NOT NULL AND j.kinds IS NOT NULL THEN 'a hold and ' || j.kinds
                    WHEN h.id IS NOT NULL THEN h.standing
                    WHEN j.kinds = 'refunded' THEN 'gone'
                    WHEN j.kinds = 'refund_failed,refunded' OR (j.kinds IS NULL AND r.status = 'failed') THEN 'back'
                    ELSE coalesce(j.kinds, 'nothing') END AS found
        FROM refunds r JOIN transactions t ON t.id = r.transaction_id JOIN attempts a ON a.id = r.attempt_id
        LEFT JOIN ({_HOLDS}) h ON h.source_type = 'refund' AND h.source_id = r.id
        LEFT JOIN (
            SELECT source_id, string_agg(kind, ',' ORDER BY kind) AS kinds FROM ledger_journals
            WHERE source_type = 'refund' GROUP BY source_id
        ) j ON j.source_id = r.id
    ) b WHERE expected IS DISTINCT FROM found
"""
# Credited once; taken back as often as it was not given again; suspended money lies there until it is given or sent back.
COLLECTED = """
    SELECT id::text AS id, expected, coalesce(
        (SELECT string_agg(kind, ', ' ORDER BY kind) FROM ledger_journals WHERE source_type = 'attempt' AND source_id = b.id),
        'no posting') AS found
    FROM (
        SELECT a.id, a.status AS expected, CASE
            WHEN a.status = 'succeeded' THEN
                j.credited = 1 AND j.taken = 0 AND j.suspended = j.released + j.returned
            WHEN a.status = 'under_review' THEN
                coalesce(j.credited, 0) = 0 AND coalesce(j.returned, 0) = 0 AND coalesce(j.taken, 0) = 0
                AND coalesce(j.suspended, 0) = (coalesce(a.paid_minor, 1) > 0)::int
            WHEN a.status = 'reversed' THEN
                j.source_id IS NULL OR (j.credited = 1 AND j.taken IN (0, 1))
                OR (j.credited = 0 AND j.taken = 0 AND j.suspended = 1 AND (j.returned = 1 OR EXISTS (
                    SELECT FROM refunds r WHERE r.payment_attempt_id = a.id AND r.status = 'completed')))
            ELSE j.source_id IS NULL END AS agrees
        FROM attempts a LEFT JOIN (
            SELECT source_id,
                   count(*) FILTER (WHERE kind IN ('collected', 'released')) AS credited,
                   count(*) FILTER (WHERE kind = 'suspended') AS suspended,
                   count(*) FILTER (WHERE kind = 'released') AS released,
                   count(*) FILTER (WHERE kind = 'returned') AS returned,
                   count(*) FILTER (WHERE kind LIKE 'reversed%')
                       - count(*) FILTER (WHERE kind LIKE 'reinstated%') AS taken
            FROM ledger_journals WHERE source_type = 'attempt' GROUP BY source_id
        ) j ON j.source_id = a.id
        WHERE a.operation = 'collect'
    ) b WHERE agrees IS NOT TRUE
"""
# What all journals of a transaction did to its owner, against what the transaction itself says.
OWNED = """
    WITH taken AS (
        -- Up to here a payment that was taken back is looked at: what its refunds did afterwards (came back, or went all the
        -- same) is the owner's. Entries are numbered under the lock of their transaction, so their order is that of the moves.
        SELECT j.transaction_id, max(e.id) AS entry_id
        FROM ledger_journals j JOIN ledger_entries e ON e.journal_id = j.id
        WHERE j.source_type = 'attempt' AND j.kind LIKE 'reversed%' GROUP BY j.transaction_id
    ), paid AS (
        -- Only a transaction that was taken back is held against its attempts, and of these only what became the owner's: what
        -- went back out of suspense never did.
        SELECT a.transaction_id, coalesce(sum(a.paid_minor) FILTER (WHERE a.status = 'succeeded'), 0) AS stays,
               sum(a.paid_minor) AS whole
        FROM attempts a JOIN transactions t ON t.id = a.transaction_id AND t.status = 'reversed'
        WHERE a.operation = 'collect' AND a.status IN ('succeeded', 'reversed') AND EXISTS (
            SELECT FROM ledger_journals j
            WHERE j.source_type = 'attempt' AND j.source_id = a.id AND j.kind IN ('collected', 'released'))
        GROUP BY a.transaction_id
    ), owned AS (
        SELECT j.transaction_id, -sum(e.amount_minor) AS minor,
               -sum(e.amount_minor) FILTER (WHERE e.id <= b.entry_id) AS until_taken
        FROM ledger_journals j JOIN ledger_entries e ON e.journal_id = j.id JOIN ledger_accounts a ON a.id = e.account_id
        LEFT JOIN taken b ON b.transaction_id = j.transaction_id
        WHERE a.code IN ('sales', 'wallet', 'wallet_held', 'receivable') GROUP BY j.transaction_id
    )
    SELECT id, expected::text, found::text FROM (
        SELECT t.id::text AS id, CASE
            WHEN t.kind NOT IN ('payment', 'funding') THEN CASE
                WHEN t.status = 'completed' OR (t.status = 'under_review' AND o.minor = -t.amount_minor) THEN -t.amount_minor
                ELSE 0 END
            WHEN t.status IN ('pending', 'requires_action', 'processing', 'failed', 'cancelled', 'expired') THEN 0
            WHEN t.status <> 'reversed' THEN t.paid_minor - t.refunded_minor
            WHEN o.until_taken IS NULL THEN coalesce(p.whole, 0) - t.refunded_minor
            ELSE coalesce(p.stays, 0) END AS expected,
            CASE t.status WHEN 'reversed' THEN coalesce(o.until_taken, o.minor, 0) ELSE coalesce(o.minor, 0) END AS found
        FROM transactions t LEFT JOIN owned o ON o.transaction_id = t.id LEFT JOIN paid p ON p.transaction_id = t.id
    ) b WHERE expected <> found
"""
REFUNDED = """
    SELECT t.id::text AS id, coalesce(r.minor, 0)::text AS expected, t.refunded_minor::text AS found
    FROM transactions t LEFT JOIN (
        -- A second payment goes back out of suspense: it never was the owner's.
        SELECT f.transaction_id, sum(f.amount_minor) AS minor FROM refunds f JOIN attempts o ON o.id = f.attempt_id
        WHERE f.status = 'completed' AND o.routing ->> 'from' IS DISTINCT FROM 'suspense' GROUP BY f.transaction_id
    ) r ON r.transaction_id = t.id
    WHERE t.refunded_minor <> coalesce(r.minor, 0)
      -- What an operator says was given back outside of us has no refund here.
      AND NOT (t.status IN ('refunded', 'partially_refunded', 'completed') AND EXISTS (
          SELECT FROM attempts a WHERE a.transaction_id = t.id AND a.operation = 'collect' AND a.status = 'reversed'))
"""
PAID = """
    SELECT t.id::text AS id, coalesce(a.minor, 0)::text AS expected, t.paid_minor::text AS found
    FROM transactions t LEFT JOIN (
        SELECT a.transaction_id, sum(coalesce(a.paid_minor, a.amount_minor)) AS minor FROM attempts a
        WHERE a.operation = 'collect' AND a.status IN ('succeeded', 'reversed') AND EXISTS (
            SELECT FROM ledger_journals j
            WHERE j.source_type = 'attempt' AND j.source_id = a.id AND j.kind IN ('collected', 'released'))
        GROUP BY a.transaction_id
    ) a ON a.transaction_id = t.id
    WHERE t.kind IN ('payment', 'funding') AND t.paid_minor <> coalesce(a.minor, 0)
"""
# What lies in suspense of a transaction is what its attempts that wait for a person brought, in each currency.
SUSPENSE = """
    WITH lies AS (
        SELECT j.transaction_id, e.currency, -sum(e.amount_minor) AS minor
        FROM ledger_accounts c JOIN ledger_entries e ON e.account_id = c.id JOIN ledger_journals j ON j.id = e.journal_id
        WHERE c.code = 'suspense' AND j.transaction_id IS NOT NULL GROUP BY j.transaction_id, e.currency
    ), waits AS (
        SELECT a.transaction_id, coalesce(a.paid_currency, a.currency) AS currency,
               sum(coalesce(a.paid_minor, a.amount_minor)) AS minor
        FROM attempts a WHERE a.operation = 'collect' AND a.status = 'under_review'
        GROUP BY a.transaction_id, coalesce(a.paid_currency, a.currency)
    )
    SELECT coalesce(l.transaction_id, w.transaction_id) || ' ' || coalesce(l.currency, w.currency) AS id,
           coalesce(w.minor, 0)::text AS expected, coalesce(l.minor, 0)::text AS found
    FROM lies l FULL JOIN waits w ON w.transaction_id = l.transaction_id AND w.currency = l.currency
    WHERE coalesce(l.minor, 0) <> coalesce(w.minor, 0)
"""
EVENT_GAP = """
    SELECT t.id::text AS id, '1 to ' || t.version AS expected,
           coalesce(format('%s of %s to %s', e.number, e.first, e.last), 'none') AS found
    FROM transactions t LEFT JOIN (
        SELECT transaction_id, count(*) AS number, min(sequence) AS first, max(sequence) AS last FROM events
        WHERE transaction_id IS NOT NULL GROUP BY transaction_id
    ) e ON e.transaction_id = t.id
    WHERE e.number IS DISTINCT FROM t.version OR e.last IS DISTINCT FROM t.version
"""

BREAKS: Mapping[str, str] = {
    "trial_balance": TRIAL_BALANCE,
    "journal": JOURNAL,
    "orphan_journal": ORPHAN,
    "account": ACCOUNT,
    "wallet": WALLET,
    "negative_wallet": NEGATIVE_WALLET,
    "wallet_holds": WALLET_HOLDS,
    "hold_postings": HOLD_POSTINGS,
    "hold_of_transaction": HOLD_OF_TRANSACTION,
    "refund_postings": REFUND_POSTINGS,
    "collected": COLLECTED,
    "owned": OWNED,
    "refunded": REFUNDED,
    "paid": PAID,
    "suspense": SUSPENSE,
}
WARNINGS: Mapping[str, str] = {"event_gap": EVENT_GAP}


class BooksRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def check(self, now: datetime, *, alone: bool = False) -> Books | None:
        """Look through everything as it stands at one moment. With `alone`, None while another process does."""
        began = time.perf_counter()
        async with (
            self._database.raw() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            if alone and not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _ONE_AT_A_TIME):
                return None
            for setting in PLANNING:
                await connection.execute(f"SET LOCAL {setting}")
            entries = await connection.fetchval("SELECT count(*) FROM ledger_entries", timeout=STATEMENT_SECONDS)
            breaks_found, breaks = await _look(connection, BREAKS)
            warnings_found, warnings = await _look(connection, WARNINGS)
        seconds = time.perf_counter() - began
        return Books(now, seconds, entries, breaks_found, breaks, warnings_found, warnings)

    async def last(self) -> Books | None:
        """The newest check that was kept, by whichever process."""
        async with self._database.raw() as connection:
            row = await connection.fetchrow(
                """
                SELECT checked_at, seconds, entries, breaks_found, breaks, warnings_found, warnings FROM books_checks
                ORDER BY checked_at DESC, id DESC LIMIT 1
                """
            )
        if row is None:
            return None
        kept = {name: [Break(**entry) for entry in row[name]] for name in ("breaks", "warnings")}
        return Books(**{**dict(row), **kept})

    async def keep(self, books: Books, connection: RawConnection) -> None:
        """Write a check down, for the nodes that did not make it; checks of long ago are forgotten."""
        await connection.execute(
            """
            INSERT INTO books_checks (checked_at, seconds, entries, breaks_found, breaks, warnings_found, warnings)
            VALUES ($1, $2, $3, $4, $5, $6, $7)
            """,
            books.checked_at,
            books.seconds,
            books.entries,
            books.breaks_found,
            dumps(books.breaks),
            books.warnings_found,
            dumps(books.warnings),
        )
        await connection.execute("DELETE FROM books_checks WHERE checked_at < $1", books.checked_at - KEPT)


async def _look(connection: RawConnection, statements: Mapping[str, str]) -> tuple[int, Sequence[Break]]:
    number, listed = 0, []
    for what, statement in statements.items():
        rows: Sequence[Any] = await connection.fetch(
            f"SELECT id, expected, found, count(*) OVER () AS number FROM ({statement}) b ORDER BY id LIMIT {LISTED}",
            timeout=STATEMENT_SECONDS,
        )
        listed += [Break(what, row["id"], row["expected"], row["found"]) for row in rows]
        number += rows[0]["number"] if rows else 0
    return number, listed
