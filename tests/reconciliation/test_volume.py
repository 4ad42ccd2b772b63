"""A file of any length: read, looked up and told in parts, so that the memory it takes here does not grow with it."""

import csv
import io
import tracemalloc
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from payflow.core.ids import uuid7
from payflow.infra.database import Database
from payflow.reconciliation.report import write_report
from payflow.reconciliation.repository import BATCH
from payflow.reconciliation.service import DifferenceKind, Summary
from tests.house import Urls, migrated_database
from tests.reconciliation.books import NOW, Books, at

# Payments of 5,000.00, each with its posting and with a refund of 1,000.00 of its own, as the core leaves them. Written past
# the triggers: through the core a thousand take some seconds.
MAKE = """
    CREATE TEMP TABLE made ON COMMIT DROP AS
        SELECT n, {id} AS payment, {id} AS attempt, {id} AS journal, {id} AS refund, {id} AS back, {id} AS returned
        FROM generate_series(1, {number}) AS n;
    INSERT INTO transactions (id, user_id, kind, reference, status, version, amount_minor, currency, paid_minor,
            refunded_minor, provider)
        SELECT payment, '{user}', 'payment', 'pay' || lpad(n::text, 26, '0'), 'partially_refunded', 4, 500000, 'NGN', 500000,
            100000, 'paystack' FROM made;
    INSERT INTO attempts (id, transaction_id, user_id, number, operation, provider, reference, provider_references, status,
            amount_minor, currency, paid_minor, paid_currency, fee_minor)
        SELECT attempt, payment, '{user}'::uuid, 1, 'collect', 'paystack', 'att' || lpad(n::text, 26, '0'),
            ARRAY['40' || n], 'succeeded', 500000, 'NGN', 500000, 'NGN', 7500 FROM made
        UNION ALL
        SELECT back, payment, '{user}', 2, 'refund', 'paystack', 'atr' || lpad(n::text, 26, '0'),
            '{{}}', 'succeeded', 100000, 'NGN', NULL, NULL, NULL FROM made;
    INSERT INTO refunds (id, transaction_id, user_id, attempt_id, payment_attempt_id, reference, status, amount_minor,
            currency)
        SELECT refund, payment, '{user}', back, attempt, 'ref' || lpad(n::text, 26, '0'), 'completed', 100000, 'NGN'
        FROM made;
    INSERT INTO ledger_journals (id, kind, source_type, source_id, transaction_id)
        SELECT journal, 'collected', 'attempt', attempt, payment FROM made
        UNION ALL SELECT returned, 'refunded', 'refund', refund, payment FROM made;
    INSERT INTO ledger_accounts (id, code, user_id, currency) VALUES
        (gen_random_uuid(), 'provider_clearing:paystack', NULL, 'NGN'),
        (gen_random_uuid(), 'provider_fees', '{user}', 'NGN'), (gen_random_uuid(), 'sales', '{user}', 'NGN')
        ON CONFLICT DO NOTHING;
    INSERT INTO ledger_entries (journal_id, account_id, currency, amount_minor)
        SELECT l.journal, a.id, 'NGN', l.minor FROM (
            SELECT journal, 'provider_clearing:paystack' AS code, 492500 AS minor FROM made
            UNION ALL SELECT journal, 'provider_fees', 7500 FROM made
            UNION ALL SELECT journal, 'sales', -500000 FROM made
            UNION ALL SELECT returned, 'sales', 100000 FROM made
            UNION ALL SELECT returned, 'provider_clearing:paystack', -100000 FROM made
        ) l JOIN ledger_accounts a ON a.code = l.code
"""
# A UUIDv7 of this moment.
ID = """
    (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || 7
        || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid
"""
COLUMNS = ("Reference", "Amount", "Currency", "Status", "Transaction date", "Paystack fee", "Transaction ID")


@pytest.fixture
async def database(urls: Urls) -> AsyncIterator[Database]:
    async with migrated_database(urls, pool_size=2) as built:
        yield built


async def made(database: Database, number: int, batch: int = BATCH) -> Books:
    """The books of a merchant with so many payments, each of them refunded in part."""
    user_id = uuid7()
    async with database.raw() as raw:
        await raw.execute(
            "INSERT INTO users (id, email, name, password_hash, role, created_at)"
            " VALUES ($1, 'ada@example.com', 'Ada', 'x', 'admin', now())",
            user_id,
        )
    books = Books(database, user_id, batch=batch)
    async with database.transaction() as raw:
        await raw.execute("SET LOCAL session_replication_role = replica")
        await raw.execute(MAKE.format(id=ID, user=user_id, number=number), timeout=300)
    async with database.raw() as raw:
        await raw.execute("ANALYZE")
    return books


def exported(path: Path, number: int, *, wrong_each: int = 0) -> Path:
    """Of each payment its line, and that of its refund. Of each `wrong_each`th the amount differs."""
    day, later = at(NOW), at(NOW + timedelta(hours=1))
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for n in range(1, number + 1):
            amount = "4999.00" if wrong_each and n % wrong_each == 0 else "5000.00"
            rows.writerow((f"att{n:026}", amount, "NGN", "success", day, "75.00", f"40{n}"))
            rows.writerow((f"att{n:026}", "-1000.00", "NGN", "success", later, "", f"40{n}"))
    return path


class Nowhere(io.TextIOBase):
    """Counts the lines that are written to it, and keeps none."""

    lines = 0

    def write(self, text: str) -> int:
        self.lines += text.count("\n")
        return len(text)


async def reconciled(books: Books, path: Path) -> tuple[Summary, int]:
    """The summary, and how many lines the report has."""
    out = Nowhere()
    async with books.service.reconcile("paystack", path, books.window) as (summary, found):
        await write_report("csv", out, summary, found)
    return summary, out.lines


async def peak(books: Books, path: Path) -> int:
    """The most bytes of memory that were taken at once."""
    tracemalloc.start()
    try:
        await reconciled(books, path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_every_line_of_a_long_file_is_matched(database: Database, tmp_path: Path) -> None:
    books = await made(database, 4_000)
    summary, report = await reconciled(books, exported(tmp_path / "file.csv", 4_000, wrong_each=100))
    assert (summary.lines, summary.agreed, summary.differences) == (8_000, 7_960, {DifferenceKind.AMOUNT: 40})
    assert report == 41
    # Of a file that ends early, what it does not tell: payments only, as Paystack's exports list no refunds.
    summary, report = await reconciled(books, exported(tmp_path / "short.csv", 100))
    assert (summary.lines, summary.agreed) == (200, 200)
    assert summary.differences == {DifferenceKind.MISSING_THERE: 3_900}
    assert report == 3_901


async def test_the_memory_it_takes_does_not_grow_with_the_file(database: Database, tmp_path: Path) -> None:
    """Every line of it differs, and every refund has to be paired with ours."""
    books = await made(database, 1_200, batch=50)
    await reconciled(books, exported(tmp_path / "first.csv", 10))  # what is loaded once
    short = await peak(books, exported(tmp_path / "short.csv", 150, wrong_each=1))
    long = await peak(books, exported(tmp_path / "long.csv", 1_200, wrong_each=1))
    assert long < 1.25 * short
