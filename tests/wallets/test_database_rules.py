"""What no code of ours can do, and no hand at a SQL prompt: the database refuses it."""

from typing import Any
from uuid import UUID

import asyncpg
import pytest

from payflow.core.ids import uuid7
from payflow.core.money import Money
from payflow.ledger import journals
from payflow.ledger import repository as ledger
from payflow.ledger.journals import Hold, HoldStatus, Journal, Line
from payflow.ledger.repository import Accounts
from tests.house import House, Merchant
from tests.wallets.conftest import fund, holds


async def attempt(shop: House, statement: str, *values: Any) -> None:
    async with shop.services.database.transaction() as raw:
        await raw.execute(statement, *values)


async def post(shop: House, lines: list[Line]) -> None:
    async with shop.services.database.transaction() as raw:
        journal = Journal("made_up", "test", uuid7(), None, lines)
        await Accounts().open(raw, [journal])
        first, second = ledger.parameters([journal])
        await raw.execute(ledger.INSERT_JOURNALS, *first)
        await raw.execute(ledger.INSERT_ENTRIES, *second)


def out(merchant: Merchant, minor: int, account: str = "wallet") -> list[Line]:
    return [Line(account, UUID(merchant.id), "NGN", minor), Line("provider_clearing:paystack", None, "NGN", -minor)]


@pytest.mark.parametrize(
    "change",
    [
        "available_minor = 1",
        "available_minor = available_minor + 1",
        "held_minor = 1",
        "available_minor = 0, held_minor = 50000",
    ],
)
async def test_nobody_writes_a_balance(shop: House, ada: Merchant, change: str) -> None:
    await fund(shop, ada)
    with pytest.raises(asyncpg.RestrictViolationError, match="a balance follows from entries"):
        await attempt(shop, f"UPDATE wallets SET {change} WHERE user_id = $1::uuid", ada.id)
    assert await holds(ada) == (50_000, 0, "active")


async def test_no_wallet_is_born_rich(shop: House, ada: Merchant) -> None:
    with pytest.raises(asyncpg.RestrictViolationError, match="a balance follows from entries"):
        await attempt(
            shop, "INSERT INTO wallets (user_id, currency, available_minor) VALUES ($1::uuid, 'USD', 1)", ada.id
        )
    assert [wallet["currency"] for wallet in (await ada.get("/wallet")).json()["data"]] == ["NGN"]


async def test_no_wallet_is_deleted(shop: House, ada: Merchant) -> None:
    with pytest.raises(asyncpg.PostgresError, match="append-only"):
        await attempt(shop, "DELETE FROM wallets WHERE user_id = $1::uuid", ada.id)
    assert await holds(ada) == (0, 0, "active")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_entries SET amount_minor = amount_minor * 2 WHERE {mine}",
        "UPDATE ledger_entries SET created_at = now() WHERE {mine}",
        "DELETE FROM ledger_entries WHERE {mine}",
        "DELETE FROM ledger_journals WHERE id IN (SELECT journal_id FROM ledger_entries WHERE {mine})",
    ],
)
async def test_an_entry_is_never_edited(shop: House, ada: Merchant, statement: str) -> None:
    await fund(shop, ada)
    mine = "account_id IN (SELECT id FROM ledger_accounts WHERE user_id = $1::uuid)"
    before = await shop.rows(f"SELECT * FROM ledger_entries WHERE {mine} ORDER BY id", ada.id)
    assert before
    with pytest.raises(asyncpg.PostgresError, match="append-only"):
        await attempt(shop, statement.format(mine=mine), ada.id)
    assert await shop.rows(f"SELECT * FROM ledger_entries WHERE {mine} ORDER BY id", ada.id) == before


async def test_a_journal_that_does_not_balance_is_not_committed(shop: House, ada: Merchant) -> None:
    await fund(shop, ada)
    lopsided = Journal("made_up", "test", uuid7(), None, out(ada, -100))
    with pytest.raises(asyncpg.CheckViolationError, match="does not balance"):
        async with shop.services.database.transaction() as raw:
            first, second = ledger.parameters([lopsided])
            await raw.execute(ledger.INSERT_JOURNALS, *first)
            await raw.execute(ledger.INSERT_ENTRIES, *([column[0]] for column in second))
            # Within the transaction the money seems to be there; the commit takes it away.
            seen = await raw.fetchval("SELECT available_minor FROM wallets WHERE user_id = $1::uuid", UUID(ada.id))
            assert seen == 50_100
    assert await holds(ada) == (50_000, 0, "active")


@pytest.mark.parametrize(("account", "minor"), [("wallet", 50_001), ("wallet_held", 1)])
async def test_no_wallet_is_overdrawn(shop: House, ada: Merchant, account: str, minor: int) -> None:
    await fund(shop, ada)
    with pytest.raises(asyncpg.CheckViolationError, match=r"ck_wallets_(available|held)"):
        await post(shop, out(ada, minor, account))
    assert await holds(ada) == (50_000, 0, "active")
    await post(shop, out(ada, 50_000))
    assert await holds(ada) == (0, 0, "active")


async def test_a_wallet_has_one_of_three_statuses(shop: House, ada: Merchant) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="ck_wallets_status"):
        await attempt(shop, "UPDATE wallets SET status = 'generous' WHERE user_id = $1::uuid", ada.id)


async def test_a_user_has_one_wallet_in_a_currency(shop: House, ada: Merchant) -> None:
    with pytest.raises(asyncpg.UniqueViolationError):
        await attempt(shop, "INSERT INTO wallets (user_id, currency) VALUES ($1::uuid, 'NGN')", ada.id)


async def test_a_hold_ends_once_and_never_says_something_else(shop: House, ada: Merchant) -> None:
    funding = await fund(shop, ada)
    user, transaction = UUID(ada.id), UUID(funding["id"])
    hold = Hold(uuid7(), user, transaction, "refund", uuid7(), Money(100, "NGN"))
    async with shop.services.database.transaction() as raw:
        await ledger.add_hold(raw, hold)
        hold.status, hold.ended_at = HoldStatus.RELEASED, shop.services.clock()
        await ledger.end_holds(raw, [hold])
        posted = [journals.held(hold), journals.released_hold(hold)]  # so that the books of this house stay clean
        await Accounts().open(raw, posted)
        for statement, values in zip(
            (ledger.INSERT_JOURNALS, ledger.INSERT_ENTRIES), ledger.parameters(posted), strict=True
        ):
            await raw.execute(statement, *values)
    for change in ("status = 'captured'", "status = 'held', ended_at = NULL"):
        with pytest.raises(asyncpg.CheckViolationError, match="has ended as released"):
            await attempt(shop, f"UPDATE holds SET {change} WHERE id = $1", hold.id)
    with pytest.raises(asyncpg.CheckViolationError, match="never changes"):
        await attempt(shop, "UPDATE holds SET amount_minor = 1 WHERE id = $1", hold.id)
    with pytest.raises(asyncpg.PostgresError, match="append-only"):
        await attempt(shop, "DELETE FROM holds WHERE id = $1", hold.id)
