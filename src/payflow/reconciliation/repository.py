"""The lines of a file beside what we have, in PostgreSQL: the memory that a file takes here does not grow with it.

The lines lie in a temporary table of one connection. It is filled in short statements of their own, and read in a transaction
that writes nothing: a long one that writes would hold back all who read the event log behind `pg_snapshot_xmin`.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from payflow.events.repository import EventRepository, first_id_at
from payflow.events.types import Event
from payflow.gateway.contract import ACCOUNT_REFERENCE_LENGTH, Operation
from payflow.infra.database import Database, RawConnection
from payflow.ledger.journals import Journal, Line
from payflow.ledger.repository import INSERT_ENTRIES, INSERT_JOURNALS, Accounts, parameters
from payflow.reconciliation.formats import LineKind, SettlementLine

STATEMENT_SECONDS = 600.0
BATCH = 2_000  # lines, or rows about them, that are in memory at once

CREATE_LINES = """
    CREATE TEMPORARY TABLE settlement_lines (
        number int PRIMARY KEY, key text, kind text, status text, raw_status text, names text[], amount_minor bigint,
        currency text, fee_minor bigint, fee_rounded boolean, occurred_at timestamptz, account text, attempt_id uuid,
        transaction_id uuid
    )
"""
FORGET_LINES = "CLOSE ALL; DROP TABLE IF EXISTS pg_temp.settlement_lines"
LINE_COLUMNS = (*(field.name for field in fields(SettlementLine)), "attempt_id", "transaction_id")

# By our own reference first; a provider's id may be the payment's of several attempts. A receipt is unique only among what
# was paid, which is also what its index holds.
FIND_ATTEMPTS = """
    WITH named AS MATERIALIZED (SELECT * FROM unnest($2::int[], $3::text[]) AS n (number, name))
    SELECT n.number, 1 AS rank, a.id, a.transaction_id, a.operation, a.status, a.created_at
    FROM named n JOIN attempts a ON a.reference = n.name WHERE a.provider = $1
    UNION ALL
    SELECT n.number, 2, a.id, a.transaction_id, a.operation, a.status, a.created_at
    FROM named n JOIN attempts a ON a.provider_references @> ARRAY[n.name] WHERE a.provider = $1
    UNION ALL
    SELECT n.number, 2, a.id, a.transaction_id, a.operation, a.status, a.created_at
    FROM named n JOIN attempts a ON a.receipt = n.name AND a.provider = $1 AND a.status IN ('succeeded', 'under_review')
"""
# The receipts of payments that were taken back are in no index: looked through once, for the lines that are left, and for what
# was charged under them. A cursor that outlives its transaction takes no parameters; the provider is one of those whose format
# is known.
FIND_REVERSED = """
    SELECT DISTINCT ON (l.number) l.number, a.id, a.transaction_id
    FROM (SELECT number, kind, unnest(names) AS name FROM settlement_lines WHERE attempt_id IS NULL) l
    JOIN attempts a ON a.receipt = l.name AND a.provider = '{provider}' AND a.status NOT IN ('succeeded', 'under_review')
    WHERE (l.kind, a.operation) IN (('payment', 'collect'), ('payout', 'payout'), ('refund', 'refund'))
       OR (l.kind = 'fee' AND a.operation IN ('collect', 'payout', 'refund'))
    ORDER BY l.number, a.created_at
"""
# A payment whose receipt nobody told us is the one that was made to its account, with what was charged under that receipt. One
# that has a receipt is not: another receipt to its account is other money. So is what comes days later, in a file where the
# payment's own line does not stand: such a payment was a prompt, which is answered within minutes.
FIND_BY_ACCOUNT = f"""
    WITH paid AS (
        SELECT DISTINCT ON (a.id) l.names[1] AS receipt, a.id, a.transaction_id
        FROM settlement_lines l JOIN attempts a ON right(a.reference, {ACCOUNT_REFERENCE_LENGTH}) = l.account
        WHERE l.kind = 'payment' AND l.account <> '' AND l.attempt_id IS NULL
          AND a.provider = '{{provider}}' AND a.operation = 'collect' AND a.receipt IS NULL
          AND l.occurred_at < a.created_at + interval '1 day'
          AND NOT EXISTS (SELECT FROM settlement_lines o WHERE o.attempt_id = a.id AND o.kind = 'payment')
        ORDER BY a.id, (l.status = 'succeeded') DESC, l.occurred_at, l.number
    )
    SELECT l.number, p.id, p.transaction_id FROM paid p
    JOIN settlement_lines l ON l.names[1] = p.receipt AND l.kind IN ('payment', 'fee') AND l.attempt_id IS NULL
"""
# Which of several lines about the same is the first: what moved money, then the oldest. The rest only sees to it that how a
# file is sorted changes nothing; lines that are alike in all of it are interchangeable.
FIRST = """
    (status = 'succeeded') DESC, occurred_at, amount_minor, currency, fee_minor, fee_rounded, status, raw_status, kind, key,
    names, attempt_id, number
"""
# A refund that the file names by its payment alone is the one of that payment with this amount; the first with the first. A
# line that is told again takes no other's refund.
PAIR_REFUNDS = f"""
    WITH lines AS (
        SELECT number, transaction_id, amount_minor,
            row_number() OVER (PARTITION BY transaction_id, amount_minor ORDER BY {FIRST}) AS nth
        FROM (SELECT *, row_number() OVER (PARTITION BY key ORDER BY {FIRST}) AS nth_of_key FROM settlement_lines) l
        WHERE kind = 'refund' AND attempt_id IS NULL AND transaction_id IS NOT NULL AND nth_of_key = 1
    ), refunded AS (
        SELECT a.id, a.transaction_id, a.amount_minor, row_number() OVER (
            PARTITION BY a.transaction_id, a.amount_minor ORDER BY (a.status = 'succeeded') DESC, a.number) AS nth
        FROM attempts a WHERE a.operation = 'refund' AND a.provider = '{{provider}}'
          AND a.transaction_id IN (SELECT transaction_id FROM lines)
          AND NOT EXISTS (SELECT FROM settlement_lines l WHERE l.attempt_id = a.id)
    )
    SELECT l.number, r.id, l.transaction_id FROM lines l JOIN refunded r USING (transaction_id, amount_minor, nth)
"""
SET_ATTEMPTS = """
    UPDATE settlement_lines l SET attempt_id = f.attempt_id, transaction_id = f.transaction_id
    FROM unnest($1::int[], $2::uuid[], $3::uuid[]) AS f (number, attempt_id, transaction_id) WHERE l.number = f.number
"""

# What the ledger holds about one attempt: its own posting and what was repaired of it.
POSTED = """
    SELECT sum(e.amount_minor) FILTER (WHERE c.code IN ('provider_clearing:' || a.provider, 'provider_fees')) AS moved,
        coalesce(sum(e.amount_minor) FILTER (WHERE c.code = 'provider_fees'), 0) AS fee_minor, min(e.currency) AS currency
    FROM ledger_journals j
    JOIN ledger_entries e ON e.journal_id = j.id JOIN ledger_accounts c ON c.id = e.account_id
    WHERE j.transaction_id = a.transaction_id AND (
        (j.source_type = 'attempt' AND j.source_id = a.id
            AND (j.kind IN ('collected', 'suspended') OR j.kind LIKE 'corrected%'))
        OR (j.source_type = 'refund' AND j.kind = 'refunded'
            AND j.source_id IN (SELECT r.id FROM refunds r WHERE r.attempt_id = a.id))
        OR (j.source_type = 'hold' AND j.kind = 'captured' AND j.source_id IN (
            SELECT h.id FROM holds h WHERE h.transaction_id = a.transaction_id AND (
                (h.source_type = 'transaction' AND a.operation = 'payout')
                OR h.source_id IN (SELECT r.id FROM refunds r WHERE r.attempt_id = a.id))))
        OR (j.source_type = 'repair' AND j.id IN (SELECT p.journal_id FROM ledger_repairs p WHERE p.attempt_id = a.id)))
"""
# What was posted for the line itself, while nobody here knew what it is about: money that came, or a charge.
REPAIRED = """
    SELECT min(e.currency) AS currency, coalesce(sum(CASE r.kind WHEN 'fee' THEN e.amount_minor ELSE -e.amount_minor END)
        FILTER (WHERE c.code = CASE r.kind WHEN 'fee' THEN 'provider_fees' ELSE 'suspense' END), 0)::bigint AS minor
    FROM ledger_repairs r JOIN ledger_entries e ON e.journal_id = r.journal_id
    JOIN ledger_accounts c ON c.id = e.account_id
    WHERE r.provider = $1 AND r.line_key = l.key AND r.attempt_id IS NULL AND r.kind <> 'release'
        AND NOT EXISTS (
            SELECT FROM ledger_repairs o WHERE o.provider = r.provider AND o.line_key = r.line_key AND o.kind = 'release')
    GROUP BY r.journal_id LIMIT 1
"""
# A charge in another currency than the attempt's is nothing that its fee could be compared with: it stands for itself.
COMPARE = f"""
    WITH counted AS (
        SELECT *, row_number() OVER (PARTITION BY key ORDER BY {FIRST}) AS nth_of_key,
            row_number() OVER (PARTITION BY attempt_id, kind, status ORDER BY {FIRST}) AS nth_of_attempt
        FROM settlement_lines
    ), charged AS (
        SELECT attempt_id, currency, sum(amount_minor)::bigint AS amount_minor, min(number) AS number FROM counted
        WHERE kind = 'fee' AND status NOT IN ('failed', 'pending') AND nth_of_key = 1 AND attempt_id IS NOT NULL
        GROUP BY attempt_id, currency
    ), whole AS (SELECT DISTINCT attempt_id FROM settlement_lines WHERE kind <> 'fee' AND attempt_id IS NOT NULL)
    SELECT l.number, l.key, l.kind, l.status, l.raw_status, l.names, l.amount_minor, l.currency, l.fee_rounded,
        l.occurred_at, CASE WHEN l.kind = 'fee' THEN c.amount_minor
            WHEN l.fee_minor IS NULL THEN c.amount_minor ELSE l.fee_minor + coalesce(c.amount_minor, 0) END AS fee_minor,
        l.nth_of_key > 1 OR (l.attempt_id IS NOT NULL AND l.nth_of_attempt > 1 AND l.status = 'succeeded'
            AND l.kind IN ('payment', 'refund', 'payout')) AS repeated,
        l.kind = 'fee' AND a.id IS NOT NULL AND (w.attempt_id IS NOT NULL OR c.number IS DISTINCT FROM l.number)
            AS told_above,
        a.id AS attempt_id, a.transaction_id, a.user_id, a.reference, a.operation, a.status AS attempt_status,
        t.status AS transaction_status, abs(p.moved)::bigint AS posted_minor, p.fee_minor::bigint AS posted_fee_minor,
        p.currency AS posted_currency,
        EXISTS (SELECT FROM ledger_journals j WHERE j.transaction_id = a.transaction_id AND j.source_type = 'attempt'
            AND j.source_id = a.id AND j.kind IN ('reversed', 'returned')) AS taken_back,
        r.minor AS repaired_minor, r.currency AS repaired_currency
    FROM counted l
    LEFT JOIN attempts a ON a.id = l.attempt_id AND (l.kind <> 'fee' OR a.currency = l.currency)
    LEFT JOIN transactions t ON t.id = a.transaction_id
    LEFT JOIN charged c ON c.attempt_id = l.attempt_id AND c.currency = l.currency
    LEFT JOIN whole w ON w.attempt_id = l.attempt_id
    LEFT JOIN LATERAL ({POSTED}) p ON a.id IS NOT NULL
    LEFT JOIN LATERAL ({REPAIRED}) r ON true
    WHERE $2::int IS NULL OR l.number = $2
    ORDER BY l.number
"""
# A journal's id begins with its time, so a window of time is a range of the key.
MISSING_THERE = f"""
    SELECT a.id AS attempt_id, a.transaction_id, a.reference, a.operation, a.status AS attempt_status,
        abs(p.moved)::bigint AS posted_minor, p.currency AS posted_currency, f.created_at
    FROM (
        SELECT DISTINCT ON (m.attempt_id) m.attempt_id, m.created_at FROM (
            SELECT j.source_id AS attempt_id, j.created_at FROM ledger_journals j
            WHERE j.id >= $2 AND j.id < $3 AND j.source_type = 'attempt' AND j.kind IN ('collected', 'suspended')
            UNION ALL
            SELECT r.attempt_id, j.created_at FROM ledger_journals j JOIN refunds r ON r.id = j.source_id
            WHERE j.id >= $2 AND j.id < $3 AND j.source_type = 'refund' AND j.kind = 'refunded'
            UNION ALL
            SELECT coalesce(r.attempt_id, o.id), j.created_at FROM ledger_journals j JOIN holds h ON h.id = j.source_id
            LEFT JOIN refunds r ON h.source_type = 'refund' AND r.id = h.source_id
            LEFT JOIN attempts o ON h.source_type = 'transaction' AND o.transaction_id = h.transaction_id
                AND o.operation = 'payout' AND o.status IN ('succeeded', 'reversed')
            WHERE j.id >= $2 AND j.id < $3 AND j.source_type = 'hold' AND j.kind = 'captured'
        ) m ORDER BY m.attempt_id, m.created_at
    ) f
    JOIN attempts a ON a.id = f.attempt_id
    CROSS JOIN LATERAL ({POSTED}) p
    WHERE a.provider = $1 AND a.operation = ANY($4::text[])
      AND NOT EXISTS (SELECT FROM settlement_lines l WHERE l.attempt_id = a.id AND l.kind <> 'fee')
    ORDER BY f.created_at, a.id
"""

OPERATIONS = {
    LineKind.PAYMENT: (Operation.COLLECT,),
    LineKind.REVERSAL: (Operation.COLLECT,),
    LineKind.REINSTATEMENT: (Operation.COLLECT,),
    LineKind.REFUND: (Operation.REFUND,),
    LineKind.PAYOUT: (Operation.PAYOUT,),
    LineKind.FEE: (Operation.COLLECT, Operation.PAYOUT, Operation.REFUND),
}
"""Which attempts a line may be about."""


@dataclass(frozen=True, slots=True)
class ComparedLine:
    """A line beside the attempt it is about (None: nobody here knows of it) and what the ledger holds of that.

    `fee_minor` includes the charges that the file tells in lines of their own; a charge is `told_above` if such a line has it
    already. `taken_back`: the ledger once gave the payment back. `repaired_minor` is what a repair has posted for the line by
    itself: what came, or went if negative."""

    number: int
    key: str
    kind: str
    status: str
    raw_status: str
    names: list[str]
    amount_minor: int
    currency: str
    fee_rounded: bool
    occurred_at: datetime
    fee_minor: int | None
    repeated: bool
    told_above: bool
    attempt_id: UUID | None
    transaction_id: UUID | None
    user_id: UUID | None
    reference: str | None
    operation: str | None
    attempt_status: str | None
    transaction_status: str | None
    posted_minor: int | None
    posted_fee_minor: int | None
    posted_currency: str | None
    taken_back: bool
    repaired_minor: int | None
    repaired_currency: str | None


@dataclass(frozen=True, slots=True)
class Unlisted:
    """Money of ours that the file does not tell."""

    attempt_id: UUID
    transaction_id: UUID
    reference: str
    operation: str
    attempt_status: str
    posted_minor: int
    posted_currency: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Repair:
    journal: Journal
    provider: str
    line_key: str
    attempt_id: UUID | None
    reason: str
    repaired_by: UUID


class Lines:
    """The lines of one file on one connection. First `add` all, then `settle`, then read."""

    def __init__(self, connection: RawConnection, provider: str, batch: int) -> None:
        self._connection, self._provider = connection, provider
        self.batch = batch

    async def add(self, lines: Sequence[SettlementLine]) -> None:
        named = [(line.number, name) for line in lines for name in line.names]
        arguments = (self._provider, [number for number, _ in named], [name for _, name in named])
        async with self._connection.transaction(readonly=True):
            # Without statistics of the attempts, the planner would look through all of them for each name.
            await self._connection.execute("SET LOCAL enable_seqscan = off")
            rows = await self._connection.fetch(FIND_ATTEMPTS, *arguments, timeout=STATEMENT_SECONDS)
        # The surest name first, then what was paid, then the oldest.
        rows.sort(key=lambda row: (row["rank"], row["status"] not in ("succeeded", "under_review"), row["created_at"]))
        found: dict[int, dict[str, Any]] = {}
        for row in rows:
            found.setdefault(row["number"], {}).setdefault(row["operation"], row)
        records = [self._record(line, found.get(line.number, {})) for line in lines]
        await self._connection.copy_records_to_table("settlement_lines", records=records, columns=LINE_COLUMNS)

    def _record(self, line: SettlementLine, found: dict[str, Any]) -> tuple[Any, ...]:
        known = next((found[operation] for operation in OPERATIONS[line.kind] if operation in found), None)
        payment = found.get(Operation.COLLECT) if line.kind is LineKind.REFUND else None
        about = known or payment
        values = [getattr(line, name) for name in LINE_COLUMNS[:-2]]
        return (*values, known and known["id"], about and about["transaction_id"])

    async def settle(self) -> None:
        """Find what takes all the lines to be found."""
        await self._connection.execute("CREATE INDEX ON settlement_lines (attempt_id)", timeout=STATEMENT_SECONDS)
        await self._connection.execute("ANALYZE settlement_lines", timeout=STATEMENT_SECONDS)
        for statement in (FIND_REVERSED, FIND_BY_ACCOUNT, PAIR_REFUNDS):
            # What is found is kept by the server, where the transaction that looked for it has written nothing.
            async with self._connection.transaction(readonly=True):
                await self._connection.execute(
                    f"DECLARE found CURSOR WITH HOLD FOR {statement.format(provider=self._provider)}",
                    timeout=STATEMENT_SECONDS,
                )
            while rows := await self._connection.fetch(f"FETCH {self.batch} FROM found", timeout=STATEMENT_SECONDS):
                columns = ([row[place] for row in rows] for place in range(3))
                await self._connection.execute(SET_ATTEMPTS, *columns, timeout=STATEMENT_SECONDS)
            await self._connection.execute("CLOSE found")

    async def compared(self, number: int | None = None) -> AsyncIterator[ComparedLine]:
        """All lines in order, or the one with this number."""
        async with self._reading():
            cursor = self._connection.cursor(COMPARE, self._provider, number, timeout=STATEMENT_SECONDS)
            async for row in cursor:
                yield ComparedLine(**dict(row.items()))

    async def unlisted(
        self, since: datetime, until: datetime, operations: frozenset[Operation]
    ) -> AsyncIterator[Unlisted]:
        """What we posted in this time and no line is about, oldest first."""
        window = (first_id_at(since), first_id_at(until))
        async with self._reading():
            asked = (self._provider, *window, sorted(operations))
            async for row in self._connection.cursor(MISSING_THERE, *asked, timeout=STATEMENT_SECONDS):
                yield Unlisted(**dict(row.items()))

    def _reading(self) -> Any:
        return self._connection.transaction(isolation="repeatable_read", readonly=True)


class ReconciliationRepository:
    def __init__(self, database: Database, events: EventRepository, batch: int = BATCH) -> None:
        self._database, self._events, self._batch = database, events, batch
        self._accounts = Accounts()

    @asynccontextmanager
    async def lines(self, provider: str) -> AsyncIterator[Lines]:
        """An empty table of lines, gone at the end."""
        async with self._database.raw() as connection:
            await connection.execute(FORGET_LINES)
            await connection.execute(CREATE_LINES)
            try:
                yield Lines(connection, provider, self._batch)
            finally:
                if not connection.is_closed() and not connection.is_in_transaction():
                    await connection.execute(FORGET_LINES)

    async def repair_of(self, provider: str, line_key: str, kind: str) -> UUID | None:
        """The journal that this line was repaired by."""
        async with self._database.raw() as connection:
            found: UUID | None = await connection.fetchval(
                "SELECT journal_id FROM ledger_repairs WHERE provider = $1 AND line_key = $2 AND kind = $3",
                provider,
                line_key,
                kind,
            )
        return found

    async def posted_for(self, provider: str, line_key: str) -> list[Line]:
        """What was posted for the line by itself, while nobody knew what it is about."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                """
                SELECT c.code, c.user_id, e.currency, e.amount_minor
                FROM ledger_repairs r JOIN ledger_entries e ON e.journal_id = r.journal_id
                JOIN ledger_accounts c ON c.id = e.account_id
                WHERE r.provider = $1 AND r.line_key = $2 AND r.attempt_id IS NULL AND r.kind <> 'release'
                """,
                provider,
                line_key,
            )
        return [Line(*row) for row in rows]

    async def post(self, repair: Repair, event: Event, posted_fee_minor: int | None) -> UUID | None:
        """Post the journal, its reason and the event together. None where nothing was posted: another has repaired this line,
        or the fee in the ledger is no longer `posted_fee_minor`."""

        async def work(connection: RawConnection) -> UUID | None:
            if repair.attempt_id is not None:
                # Whoever posts about a transaction holds its row.
                await connection.execute(
                    "SELECT FROM transactions WHERE id = $1 FOR UPDATE", repair.journal.transaction_id
                )
                now = await connection.fetchval(
                    f"SELECT p.fee_minor::bigint FROM attempts a CROSS JOIN LATERAL ({POSTED}) p WHERE a.id = $1",
                    repair.attempt_id,
                )
                if now != posted_fee_minor:
                    return None
            return await self._write(connection, repair, event)

        try:
            return await self._database.in_transaction(work)
        except asyncpg.UniqueViolationError:
            return None

    async def _write(self, connection: RawConnection, repair: Repair, event: Event) -> UUID:
        await self._accounts.open(connection, [repair.journal])
        journals, entries = parameters([repair.journal])
        await connection.execute(INSERT_JOURNALS, *journals)
        await connection.execute(INSERT_ENTRIES, *entries)
        journal_id: UUID = journals[0][0]
        await connection.execute(
            """
            INSERT INTO ledger_repairs (journal_id, provider, line_key, kind, attempt_id, reason, repaired_by, created_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
            """,
            journal_id,
            repair.provider,
            repair.line_key,
            repair.journal.kind,
            repair.attempt_id,
            repair.reason,
            repair.repaired_by,
            event.created_at,
        )
        await self._events.add([event], connection)
        return journal_id
