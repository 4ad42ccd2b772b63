"""Double entry: in memory, and as the database itself enforces it."""

from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from payflow.core.ids import uuid7
from payflow.core.money import Money
from payflow.infra.database import Database
from payflow.ledger import journals
from payflow.ledger.journals import Journal, Line, account_id
from payflow.ledger.repository import INSERT_ENTRIES, INSERT_JOURNALS, Accounts, parameters
from tests.house import Urls, migrated_database

USER, PAID = uuid7(), Money(500_000, "NGN")


@pytest.fixture(scope="module")
async def database(urls: Urls) -> AsyncIterator[Database]:
    async with migrated_database(urls) as built:
        yield built


async def post(raw: Any, accounts: Accounts, *posted: Journal) -> None:
    await accounts.open(raw, posted)
    headers, entries = parameters(posted)
    await raw.execute(INSERT_JOURNALS, *headers)
    await raw.execute(INSERT_ENTRIES, *entries)


def collected(**changes: Any) -> Journal:
    values: dict[str, Any] = {"provider": "paystack", "paid": PAID, "fee": None, "account": "sales", **changes}
    return journals.collected(uuid7(), None, USER, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "lines", [[], [Line("sales", USER, "NGN", 1)], [Line("sales", USER, "NGN", -5), Line("suspense", USER, "USD", 5)]]
)
def test_a_journal_that_does_not_balance_cannot_be_made(lines: list[Line]) -> None:
    with pytest.raises(ValueError, match="does not balance"):
        Journal("odd", "attempt", uuid7(), None, lines)


@given(minor=st.integers(1, 10**15), fee=st.one_of(st.none(), st.integers(0, 10**15)))
def test_a_collection_credits_all_that_was_paid(minor: int, fee: int | None) -> None:
    journal = collected(paid=Money(minor, "NGN"), fee=None if fee is None else Money(fee, "NGN"))
    amounts = {line.code: line.amount_minor for line in journal.lines}
    assert amounts["sales"] == -minor
    assert sum(amounts.values()) == 0
    assert all(amount != 0 for amount in amounts.values())
    assert amounts.get("provider_fees", 0) == (fee if fee and fee < minor else 0)


def test_a_fee_in_another_currency_is_not_posted() -> None:
    assert [line.code for line in collected(fee=Money(5, "USD")).lines] == ["provider_clearing:paystack", "sales"]


def test_an_accounts_id_follows_from_what_it_is() -> None:
    assert account_id("sales", USER, "NGN") == account_id("sales", USER, "NGN")
    kinds = product(("sales", "wallet"), (USER, None), ("NGN", "USD"))
    several = {account_id(*kind) for kind in kinds}
    assert len(several) == 8


async def test_a_posting_opens_its_accounts_once(database: Database) -> None:
    accounts = Accounts()
    for _ in range(3):
        async with database.transaction() as raw:
            await post(raw, accounts, collected(fee=Money(7_500, "NGN")))
    async with database.raw() as raw:
        rows = await raw.fetch(
            "SELECT a.code, sum(e.amount_minor)::bigint FROM ledger_entries e JOIN ledger_accounts a ON a.id = e.account_id"
            " GROUP BY a.id, a.code"
        )
    assert sorted(map(tuple, rows)) == [
        ("provider_clearing:paystack", 3 * 492_500),
        ("provider_fees", 3 * 7_500),
        ("sales", -3 * 500_000),
    ]


async def test_an_account_opened_in_vain_is_opened_again(database: Database) -> None:
    """The transaction that opened it was rolled back: nobody may remember it."""
    accounts, journal = Accounts(), collected(provider="stripe")
    with pytest.raises(RuntimeError):
        async with database.transaction() as raw:
            await post(raw, accounts, journal)
            raise RuntimeError
    async with database.transaction() as raw:
        await post(raw, accounts, journal)
        assert await raw.fetchval("SELECT count(*) FROM ledger_accounts WHERE code = 'provider_clearing:stripe'") == 1


async def test_a_source_is_posted_once_for_each_kind(database: Database) -> None:
    journal = collected()
    async with database.transaction() as raw:
        await post(raw, Accounts(), journal)
    with pytest.raises(asyncpg.UniqueViolationError, match="uq_ledger_journals_source"):
        async with database.transaction() as raw:
            await post(raw, Accounts(), journal)


async def count(database: Database) -> tuple[int, int]:
    async with database.raw() as raw:
        return (
            await raw.fetchval("SELECT count(*) FROM ledger_journals"),
            await raw.fetchval("SELECT count(*) FROM ledger_entries"),
        )


async def write(raw: Any, entries: list[tuple[str, int]]) -> None:
    """A journal with these entries by plain SQL, past what `Journal` checks."""
    identity = uuid7()
    await raw.execute(INSERT_JOURNALS, [identity], ["odd"], ["attempt"], [uuid7()], [None])
    for currency, amount in entries:
        await Accounts().open(raw, [Journal("", "", identity, None, [Line("odd", None, currency, 0)])])
        account = account_id("odd", None, currency)
        await raw.execute(INSERT_ENTRIES, [identity], [account], [currency], [amount])


@pytest.mark.parametrize("entries", [[("NGN", 5)], [("NGN", 5), ("NGN", -4)], [("NGN", 5), ("USD", -5)]])
async def test_what_does_not_balance_cannot_be_committed(database: Database, entries: list[tuple[str, int]]) -> None:
    before = await count(database)
    with pytest.raises(asyncpg.CheckViolationError, match="does not balance"):
        async with database.transaction() as raw:
            await write(raw, entries)
    assert await count(database) == before


async def test_a_journal_without_entries_cannot_be_committed(database: Database) -> None:
    before = await count(database)
    with pytest.raises(asyncpg.CheckViolationError, match="has no entries"):
        async with database.transaction() as raw:
            await write(raw, [])
    assert await count(database) == before


async def test_entries_added_to_an_old_journal_must_balance_too(database: Database) -> None:
    async with database.transaction() as raw:
        await post(raw, Accounts(), collected())
    before = await count(database)
    with pytest.raises(asyncpg.CheckViolationError, match="does not balance"):
        async with database.transaction() as raw:
            await raw.execute(
                "INSERT INTO ledger_entries (journal_id, account_id, currency, amount_minor)"
                " SELECT journal_id, account_id, currency, 1 FROM ledger_entries LIMIT 1"
            )
    assert await count(database) == before


async def test_an_entry_has_the_currency_of_its_account_and_is_not_nothing(database: Database) -> None:
    account = account_id("sales", USER, "NGN")
    async with database.transaction() as raw:
        await post(raw, Accounts(), collected())
        journal = await raw.fetchval("SELECT id FROM ledger_journals LIMIT 1")
    for currency, amount, error in (
        ("USD", 1, asyncpg.ForeignKeyViolationError),
        ("NGN", 0, asyncpg.CheckViolationError),
    ):
        with pytest.raises(error):
            async with database.transaction() as raw:
                await raw.execute(INSERT_ENTRIES, [journal], [account], [currency], [amount])


@pytest.mark.parametrize("table", ["ledger_entries", "ledger_journals"])
@pytest.mark.parametrize(
    "statement",
    ["UPDATE {} SET id = DEFAULT", "DELETE FROM {}", "TRUNCATE {} CASCADE"],
    ids=["update", "delete", "truncate"],
)
async def test_the_ledger_is_append_only(database: Database, table: str, statement: str) -> None:
    async with database.transaction() as raw:
        await post(raw, Accounts(), collected())
    before = await count(database)
    with pytest.raises(asyncpg.RestrictViolationError, match="is append-only"):
        async with database.transaction() as raw:
            await raw.execute(statement.format(table))
    assert await count(database) == before


async def test_what_is_known_is_forgotten_before_it_grows_too_large(database: Database) -> None:
    accounts = Accounts()
    accounts._known = {uuid7() for _ in range(100_001)}
    journal = collected()
    for _ in range(2):
        async with database.transaction() as raw:
            await accounts.open(raw, [journal])
    assert len(accounts._known) == 2


async def test_an_account_opened_in_a_transaction_that_rolls_back_is_opened_again(database: Database) -> None:
    """Posted to twice before the end, as a payment that is paid and charged back within one batch of webhooks."""
    accounts = Accounts()
    async with database.raw() as raw:
        rolled_back = raw.transaction()
        await rolled_back.start()
        await post(raw, accounts, collected(provider="twice"))
        await post(raw, accounts, collected(provider="twice"))
        await rolled_back.rollback()
        async with raw.transaction():
            await post(raw, accounts, collected(provider="twice"))
