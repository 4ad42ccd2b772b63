"""The ledger by itself: postings beside a bare `UPDATE`, pages of statements, and the check of a million entries.

Everything is in a database of its own. The million is written by SQL past the triggers, as a story in which all is well: the
check must find it clean, or nothing was measured.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from bench.meter import Meter, Used, used
from payflow.core.clock import utc_now
from payflow.core.ids import uuid7
from payflow.core.money import Money
from payflow.infra.database import Database, RawConnection
from payflow.ledger import journals
from payflow.ledger.journals import Journal, account_id
from payflow.ledger.repository import INSERT_ENTRIES, INSERT_JOURNALS, Accounts, parameters
from payflow.transactions.books.repository import BooksRepository
from payflow.wallets.repository import StatementQuery, WalletRepository

USERS = 1_000
AT_ONCE = 8
FUNDINGS_OF_A_MILLION = 333_334  # three entries each
PAGE = 50

PAST_THE_TRIGGERS = "SET LOCAL session_replication_role = replica"
MAKE_USERS = """
    INSERT INTO users (id, email, name, password_hash, role, created_at)
    SELECT id, id || '@example.com', 'Ada', 'x', 'user', now() FROM unnest($1::uuid[]) AS u (id)
"""
# A UUIDv7 of the n-th millisecond: as with our own ids, what came later sorts later.
ID_OF_N = (
    "(lpad(to_hex(1700000000000 + n), 12, '0') || 7 || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid"
)
# Every second funding is the first user's, the others go round: completed, collected with a fee, told twice.
MAKE_FUNDINGS = """
    CREATE TEMP TABLE made ON COMMIT DROP AS
        SELECT n, {id} AS id, {id} AS attempt_id, {id} AS journal_id,
               (ARRAY[{users}]::uuid[])[1 + CASE n % 2 WHEN 0 THEN 0 ELSE n / 2 % {number} END] AS user_id
        FROM generate_series(1, {fundings}) AS n;
    ANALYZE made;
    INSERT INTO transactions (id, user_id, kind, reference, status, version, amount_minor, currency, paid_minor, provider)
        SELECT id, user_id, 'funding', 'pay' || lpad(n::text, 24, '0'), 'completed', 2, 10000, 'NGN', 10000, 'paystack'
        FROM made;
    INSERT INTO attempts (id, transaction_id, user_id, number, operation, provider, reference, status, amount_minor, currency,
            paid_minor, paid_currency)
        SELECT attempt_id, id, user_id, 1, 'collect', 'paystack', 'att' || lpad(n::text, 26, '0'), 'succeeded', 10000, 'NGN',
            10000, 'NGN' FROM made;
    INSERT INTO events (id, transaction_id, user_id, sequence, type, status, actor)
        SELECT {id}, id, user_id, s, 'payment.completed', 'completed', 'provider'
        FROM made, generate_series(1, 2) AS s;
    INSERT INTO ledger_journals (id, kind, source_type, source_id, transaction_id)
        SELECT journal_id, 'collected', 'attempt', attempt_id, id FROM made;
    INSERT INTO ledger_entries (journal_id, account_id, currency, amount_minor)
        SELECT journal_id, account_id, 'NGN', minor FROM (
            SELECT m.n, m.journal_id, a.id AS account_id, 9900 AS minor
                FROM made m JOIN ledger_accounts a ON a.code = 'provider_clearing:paystack' AND a.user_id IS NULL
            UNION ALL
            SELECT m.n, m.journal_id, a.id, CASE a.code WHEN 'wallet' THEN -10000 ELSE 100 END
                FROM made m JOIN ledger_accounts a ON a.user_id = m.user_id AND a.code IN ('wallet', 'provider_fees')
        ) e ORDER BY n;
    INSERT INTO wallets (user_id, currency, available_minor)
        SELECT user_id, 'NGN', count(*) * 10000 FROM made GROUP BY user_id
"""
BARE_UPDATE = "UPDATE wallets SET status_reason = NULL, updated_at = now() WHERE user_id = $1 AND currency = 'NGN'"


@dataclass(frozen=True)
class Timing:
    """`latency_ms` has one for each operation."""

    row: str
    latency_ms: list[float]
    used: Used


async def measure(
    database_url: str, seconds: float, meter: Meter, fundings: int = FUNDINGS_OF_A_MILLION
) -> AsyncIterator[Timing]:
    """Timings, as they come. `database_url` is a migrated database that may be filled, on a server that `meter` reads."""
    database, users = Database(database_url, pool_size=AT_ONCE), [uuid7() for _ in range(USERS)]
    try:
        async with database.raw() as connection:
            await connection.execute(MAKE_USERS, users)
        await _open_accounts(database, users)
        async for timing in _postings(database, users, seconds, meter):
            yield timing
        async for timing in _million(database, users, fundings, meter):
            yield timing
    finally:
        await database.close()


def _collected(user: UUID) -> Journal:
    about = (uuid7(), None, user, "paystack", Money(10_000, "NGN"), Money(100, "NGN"))
    return journals.collected(*about, account="wallet")  # type: ignore[arg-type]


async def _post(connection: RawConnection, user: UUID) -> None:
    headers, entries = parameters([_collected(user)])
    async with connection.transaction():
        await connection.execute(INSERT_JOURNALS, *headers)
        await connection.execute(INSERT_ENTRIES, *entries)


async def _open_accounts(database: Database, users: list[UUID]) -> None:
    async with database.transaction() as connection:
        await Accounts().open(connection, [_collected(user) for user in users])
        await connection.executemany(
            "INSERT INTO wallets (user_id, currency) VALUES ($1, 'NGN')", [(user,) for user in users]
        )


async def _postings(database: Database, users: list[UUID], seconds: float, meter: Meter) -> AsyncIterator[Timing]:
    """A posting is journal, three entries and the wallet, in one transaction. In the same run, what PostgreSQL needs for the
    least that could be done instead: one UPDATE of the wallet's row."""

    async def update(connection: RawConnection, user: UUID) -> None:
        await connection.execute(BARE_UPDATE, user)

    for name, work in (("bare UPDATE", update), ("posting", _post)):
        for where, targets in (("many wallets", users), ("one hot wallet", users[:1])):
            row = f"{name}, {where}, {AT_ONCE} at once"
            yield await _timed(row, meter, _repeat(database, work, targets, seconds))


async def _repeat(
    database: Database,
    work: Callable[[RawConnection, UUID], Awaitable[None]],
    targets: list[UUID],
    seconds: float,
) -> list[float]:
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def one(offset: int) -> None:
        turn = offset
        async with database.raw() as connection:
            while (began := time.perf_counter()) < end:
                await work(connection, targets[turn % len(targets)])
                latencies.append((time.perf_counter() - began) * 1e3)
                turn += AT_ONCE

    await asyncio.gather(*(one(offset) for offset in range(AT_ONCE)))
    return latencies


async def _timed(row: str, meter: Meter, work: Awaitable[list[float]]) -> Timing:
    before, own = meter.read(), time.process_time()
    latencies = await work
    return Timing(row, latencies, used(before, meter.read(), load_seconds=time.process_time() - own))


async def _million(database: Database, users: list[UUID], fundings: int, meter: Meter) -> AsyncIterator[Timing]:
    async with database.transaction() as connection:
        await connection.execute(PAST_THE_TRIGGERS)
        # Postings of nothing, from above: the story begins anew.
        await connection.execute("DELETE FROM ledger_entries; DELETE FROM ledger_journals; DELETE FROM wallets")
        quoted = ", ".join(f"'{user}'" for user in users)
        make = MAKE_FUNDINGS.format(id=ID_OF_N, users=quoted, number=len(users), fundings=fundings)
        await connection.execute(make, timeout=600)
    async with database.raw() as connection:
        await connection.execute("VACUUM ANALYZE", timeout=600)
        hot = await connection.fetch(
            "SELECT id FROM ledger_entries WHERE account_id = $1 ORDER BY id", account_id("wallet", users[0], "NGN")
        )
    newest = [StatementQuery(user, "NGN", limit=PAGE) for user in users]
    oldest = StatementQuery(users[0], "NGN", limit=PAGE, before=hot[PAGE]["id"])
    of_hot = f"page of a wallet of {len(hot):,} entries"
    for row, queries in (
        ("newest page of a wallet", newest[1:201]),
        (f"newest {of_hot}", newest[:1] * 200),
        (f"oldest {of_hot}, by cursor", [oldest] * 200),
    ):
        yield await _timed(f"statement, {row}", meter, _pages(database, queries))
    yield await _timed(f"books check, {3 * fundings:,} entries", meter, _checks(database, 3 * fundings))


async def _pages(database: Database, queries: list[StatementQuery]) -> list[float]:
    wallets, latencies = WalletRepository(database), []
    for query in queries:
        began = time.perf_counter()
        page = await wallets.statement(query)
        latencies.append((time.perf_counter() - began) * 1e3)
        assert len(page) == PAGE
        assert page[0].balance_minor - page[-1].balance_minor == 10_000 * (PAGE - 1)
    return latencies


async def _checks(database: Database, entries: int) -> list[float]:
    latencies = []
    for _ in range(3):
        books = await BooksRepository(database).check(utc_now())
        assert books is not None
        assert (books.entries, books.breaks, books.warnings) == (entries, [], []), books
        latencies.append(books.seconds * 1e3)
    return latencies
