"""A wallet's statement: each entry of what can be spent, with the balance after it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from payflow.infra.database import Database
from payflow.ledger.journals import account_id
from payflow.ledger.repository import Wallet, wallets_of

# The balance after an entry is what the wallet has now (or had after a later entry, $9 and $10) less all that came between:
# nothing is summed from the beginning, and balance and entries are those of one snapshot. `found` and both sums read only
# the account's index.
STATEMENT = """
    WITH found AS MATERIALIZED (
        SELECT id FROM ledger_entries
        WHERE account_id = $1 AND id < coalesce($2::bigint, 9223372036854775807)
          AND created_at >= coalesce($3::timestamptz, '-infinity') AND created_at < coalesce($4::timestamptz, 'infinity')
        ORDER BY id DESC LIMIT $5 OFFSET $6
    ), later AS MATERIALIZED (
        SELECT coalesce(sum(amount_minor), 0) AS minor FROM ledger_entries
        WHERE account_id = $1 AND id > (SELECT max(id) FROM found)
          AND id <= coalesce($9::bigint, 9223372036854775807)
    ), balances AS MATERIALIZED (
        -- Also of what the period leaves out: entries are in order of their ids, and nearly in order of their times.
        SELECT id, sum(amount_minor) OVER (ORDER BY id DESC ROWS UNBOUNDED PRECEDING) - amount_minor AS since
        FROM ledger_entries
        WHERE account_id = $1 AND id BETWEEN (SELECT min(id) FROM found) AND (SELECT max(id) FROM found)
    )
    SELECT e.id, e.created_at, -e.amount_minor AS amount_minor,
        (coalesce($10::bigint, w.available_minor) + later.minor + balances.since)::bigint AS balance_minor,
        j.source_type, j.kind AS journal_kind, t.id AS transaction_id, t.kind, t.reference, t.provider, t.description
    FROM found JOIN balances USING (id) JOIN ledger_entries e USING (id) JOIN ledger_journals j ON j.id = e.journal_id
    LEFT JOIN transactions t ON t.id = j.transaction_id
    CROSS JOIN later JOIN wallets w ON w.user_id = $7 AND w.currency = $8
    ORDER BY e.id DESC
"""


@dataclass(frozen=True, slots=True)
class StatementQuery:
    user_id: UUID
    currency: str
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None
    limit: int = 20
    offset: int = 0
    known: tuple[int, int] | None = None
    """An entry that all that is asked for lies before, and the balance after it."""


@dataclass(frozen=True, slots=True)
class StatementLine:
    """`amount_minor` > 0 came in; the balance is what could be spent after it."""

    id: int
    created_at: datetime
    amount_minor: int
    balance_minor: int
    source_type: str
    journal_kind: str
    transaction_id: UUID | None
    kind: str | None
    reference: str | None
    provider: str | None
    description: str | None


def _line(row: Mapping[str, Any]) -> StatementLine:
    identity = row["transaction_id"]
    # asyncpg gives a subclass of UUID, which orjson refuses.
    return StatementLine(**{**row, "transaction_id": identity and UUID(int=identity.int)})


class WalletRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_user(self, user_id: UUID) -> list[Wallet]:
        async with self._database.raw() as connection:
            return await wallets_of(connection, user_id)

    async def get(self, user_id: UUID, currency: str) -> Wallet | None:
        return next((wallet for wallet in await self.of_user(user_id) if wallet.currency == currency), None)

    async def statement(self, query: StatementQuery) -> list[StatementLine]:
        """Newest first."""
        known_id, known_balance = query.known or (None, None)
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                STATEMENT,
                account_id("wallet", query.user_id, query.currency),
                query.before,
                query.since,
                query.until,
                query.limit,
                query.offset,
                query.user_id,
                query.currency,
                known_id,
                known_balance,
            )
        return [_line(row) for row in rows]
