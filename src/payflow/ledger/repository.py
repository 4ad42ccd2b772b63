"""Posting: accounts are opened on first use, journals and entries are written in the caller's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from payflow.core.ids import uuid7
from payflow.core.money import Money
from payflow.infra.database import RawConnection
from payflow.ledger.journals import Hold, HoldStatus, Journal, Line, Reversals, account_id

OPEN_ACCOUNTS = """
    INSERT INTO ledger_accounts (id, code, user_id, currency)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[]) ON CONFLICT DO NOTHING RETURNING id
"""
# Those that are there for good: what this transaction itself opened, perhaps for an earlier journal, may yet roll back.
COMMITTED_ACCOUNTS = """
    SELECT id FROM ledger_accounts WHERE id = ANY($1::uuid[]) AND xmin <> pg_current_xact_id()::xid
"""
INSERT_JOURNALS = """
    INSERT INTO ledger_journals (id, kind, source_type, source_id, transaction_id)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::uuid[])
"""
INSERT_ENTRIES = """
    INSERT INTO ledger_entries (journal_id, account_id, currency, amount_minor)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[])
"""


class Accounts:
    """Which accounts this process knows to exist, so that only a first posting asks the database.

    An account is remembered when it was found, not when it was opened: the transaction that opened it may yet roll back.
    """

    def __init__(self) -> None:
        self._known: set[UUID] = set()

    async def open(self, connection: RawConnection, journals: Sequence[Journal]) -> None:
        """Open the accounts of these journals that are not known yet, in the caller's transaction."""
        fresh: dict[UUID, Line] = {}
        for journal in journals:
            for line in journal.lines:
                identity = account_id(line.code, line.user_id, line.currency)
                if identity not in self._known:
                    fresh[identity] = line
        if not fresh:
            return
        ordered = sorted(fresh.items())
        opened = await connection.fetch(
            OPEN_ACCOUNTS,
            [identity for identity, _ in ordered],
            [line.code for _, line in ordered],
            [line.user_id for _, line in ordered],
            [line.currency for _, line in ordered],
        )
        if len(self._known) > 100_000:
            self._known.clear()
        found = fresh.keys() - {row["id"] for row in opened}
        if found:
            self._known |= {row["id"] for row in await connection.fetch(COMMITTED_ACCOUNTS, list(found))}


def parameters(journals: Sequence[Journal]) -> tuple[list[list[Any]], list[list[Any]]]:
    """The arrays of `INSERT_JOURNALS` and of `INSERT_ENTRIES`."""
    ids = [uuid7() for _ in journals]
    lines = [(identity, line) for identity, journal in zip(ids, journals, strict=True) for line in journal.lines]
    return (
        [
            ids,
            [journal.kind for journal in journals],
            [journal.source_type for journal in journals],
            [journal.source_id for journal in journals],
            [journal.transaction_id for journal in journals],
        ],
        [
            [identity for identity, _ in lines],
            [account_id(line.code, line.user_id, line.currency) for _, line in lines],
            [line.currency for _, line in lines],
            [line.amount_minor for _, line in lines],
        ],
    )


@dataclass(slots=True)
class Wallet:
    """A wallet as it stands. `available` can be spent, `held` is on its way out; minor units."""

    id: UUID
    user_id: UUID
    currency: str
    available_minor: int
    held_minor: int
    status: str
    status_reason: str | None
    created_at: datetime


_WALLET = "id, user_id, currency, available_minor, held_minor, status, status_reason, created_at"


def _wallet(row: Mapping[str, Any]) -> Wallet:
    return Wallet(**{name: row[name] for name in _WALLET.split(", ")})


async def open_wallet(connection: RawConnection, user_id: UUID, currency: str) -> None:
    """A user's wallet in a currency, unless there is one."""
    await connection.execute(
        "INSERT INTO wallets (user_id, currency) VALUES ($1, $2) ON CONFLICT DO NOTHING", user_id, currency
    )


async def lock_wallet(connection: RawConnection, user_id: UUID, currency: str) -> Wallet | None:
    """The wallet, locked: what it holds now is what it holds at the commit."""
    row = await connection.fetchrow(
        f"SELECT {_WALLET} FROM wallets WHERE user_id = $1 AND currency = $2 FOR UPDATE", user_id, currency
    )
    return None if row is None else _wallet(row)


async def wallets_of(connection: RawConnection, user_id: UUID) -> list[Wallet]:
    rows = await connection.fetch(f"SELECT {_WALLET} FROM wallets WHERE user_id = $1 ORDER BY currency", user_id)
    return [_wallet(row) for row in rows]


async def set_wallet_status(
    connection: RawConnection, user_id: UUID, currency: str, status: str, reason: str | None
) -> bool:
    """active, inactive (by its owner) or frozen (by us). False when there is no such wallet."""
    changed = await connection.fetchval(
        """
        UPDATE wallets SET status = $3, status_reason = $4, updated_at = now()
        WHERE user_id = $1 AND currency = $2 RETURNING id
        """,
        user_id,
        currency,
        status,
        reason,
    )
    return changed is not None


async def add_hold(connection: RawConnection, hold: Hold) -> None:
    await connection.execute(
        """
        INSERT INTO holds (id, user_id, transaction_id, source_type, source_id, currency, amount_minor)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        """,
        hold.id,
        hold.user_id,
        hold.transaction_id,
        hold.source_type,
        hold.source_id,
        hold.amount.currency,
        hold.amount.minor,
    )


async def lock_holds(connection: RawConnection, transaction_ids: Sequence[UUID]) -> list[Hold]:
    """The holds of these transactions, which are locked already."""
    rows = await connection.fetch(
        """
        SELECT id, user_id, transaction_id, source_type, source_id, currency, amount_minor, status, ended_at,
            (SELECT count(*) FILTER (WHERE j.kind = 'captured') > count(*) FILTER (WHERE j.kind = 'returned')
             FROM ledger_journals j WHERE j.source_type = 'hold' AND j.source_id = holds.id) AS gone
        FROM holds WHERE transaction_id = ANY($1::uuid[]) ORDER BY id FOR UPDATE
        """,
        list(transaction_ids),
    )
    return [
        Hold(
            row["id"],
            row["user_id"],
            row["transaction_id"],
            row["source_type"],
            row["source_id"],
            Money(row["amount_minor"], row["currency"]),
            HoldStatus(row["status"]),
            row["ended_at"],
            row["gone"],
        )
        for row in rows
    ]


async def debts(connection: RawConnection, source_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Minor units that their wallets lacked when these holds or refunds went, and that are owed still."""
    rows = await connection.fetch(
        """
        SELECT j.source_id, sum(e.amount_minor)::bigint AS minor
        FROM ledger_journals j JOIN ledger_entries e ON e.journal_id = j.id JOIN ledger_accounts a ON a.id = e.account_id
        WHERE j.source_type IN ('hold', 'refund') AND j.source_id = ANY($1::uuid[]) AND a.code = 'receivable'
        GROUP BY j.source_id HAVING sum(e.amount_minor) <> 0
        """,
        list(source_ids),
    )
    return {row["source_id"]: row["minor"] for row in rows}


async def end_holds(connection: RawConnection, holds: Sequence[Hold]) -> None:
    await connection.execute(
        """
        UPDATE holds h SET status = u.status, ended_at = u.ended_at
        FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS u (id, status, ended_at) WHERE h.id = u.id
        """,
        [hold.id for hold in holds],
        [hold.status.value for hold in holds],
        [hold.ended_at for hold in holds],
    )


async def reversals(connection: RawConnection, attempt_ids: Sequence[UUID]) -> dict[UUID, Reversals]:
    """What was taken back of these attempts, and given again; and how often their sums were corrected."""
    found = {attempt_id: Reversals() for attempt_id in attempt_ids}
    rows = await connection.fetch(
        """
        SELECT source_id, count(*) FILTER (WHERE kind LIKE 'reversed%') AS taken,
            count(*) FILTER (WHERE kind LIKE 'reinstated%') AS given_again,
            count(*) FILTER (WHERE kind LIKE 'corrected%') AS corrected
        FROM ledger_journals WHERE source_type = 'attempt' AND source_id = ANY($1::uuid[]) GROUP BY source_id
        """,
        list(attempt_ids),
    )
    for row in rows:
        found[row["source_id"]] = Reversals(row["taken"], row["given_again"], corrected=row["corrected"])
    rows = await connection.fetch(
        """
        SELECT j.source_id, a.code, a.user_id, a.currency, sum(e.amount_minor)::bigint AS minor
        FROM ledger_journals j JOIN ledger_entries e ON e.journal_id = j.id JOIN ledger_accounts a ON a.id = e.account_id
        WHERE j.source_type = 'attempt' AND j.source_id = ANY($1::uuid[])
          AND (j.kind LIKE 'reversed%' OR j.kind LIKE 'reinstated%')
        GROUP BY j.source_id, a.id HAVING sum(e.amount_minor) <> 0 ORDER BY j.source_id, a.code
        """,
        list(attempt_ids),
    )
    for row in rows:
        line = Line(row["code"], row["user_id"], row["currency"], row["minor"])
        found[row["source_id"]].lines.append(line)
    return found


async def balance_at(connection: RawConnection, account: UUID, moment: datetime | None = None) -> int:
    """What an account's entries add up to, now or as it stood at a moment: debits positive, minor units. A journal counts
    from the beginning of the database transaction that posted it."""
    return int(
        await connection.fetchval(
            """
            SELECT coalesce(sum(e.amount_minor), 0)::bigint FROM ledger_entries e
            JOIN ledger_journals j ON j.id = e.journal_id
            WHERE e.account_id = $1 AND ($2::timestamptz IS NULL OR j.created_at <= $2)
            """,
            account,
            moment,
        )
    )
