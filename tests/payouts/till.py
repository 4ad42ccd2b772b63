"""What tests of withdrawals share: filled wallets, destinations at each provider, and books that are looked at after each."""

from typing import Any
from uuid import UUID, uuid4

import httpx

from payflow.core.ids import uuid7
from payflow.core.money import Money
from payflow.ledger import journals
from payflow.ledger.repository import INSERT_ENTRIES, INSERT_JOURNALS, Accounts, parameters
from tests.house import House, Merchant, eventually

BANK = {"type": "bank_account", "bank_code": "057", "account_number": "0123456789", "account_name": "Ada Obi"}
# An account at each, and an amount that chooses no outcome of the simulator.
WITHDRAWALS: dict[str, dict[str, Any]] = {
    "paystack": {"amount": "1500.00", "currency": "NGN", "destination": BANK},
    "flutterwave": {
        "amount": "1500.00",
        "currency": "NGN",
        "destination": {**BANK, "bank_code": "044", "account_number": "0690000032"},
    },
    "moniepoint": {"amount": "1500.00", "currency": "NGN", "destination": {**BANK, "bank_code": "058"}},
    "mpesa": {
        "amount": "500",
        "currency": "KES",
        "destination": {"type": "mobile_money", "phone": "+254708374149"},
    },
    "cpay": {
        "amount": "150.00",
        "currency": "LSL",
        "destination": {"type": "mobile_money", "phone": "+26657012345"},
    },
}


async def fill(house: House, merchant: Merchant, minor: int, currency: str = "NGN") -> None:
    """As a completed funding leaves the wallet."""
    paid = Money(minor, currency)
    journal = journals.collected(uuid7(), None, UUID(merchant.id), "paystack", paid, None, account="wallet")  # type: ignore[arg-type]
    headers, entries = parameters([journal])
    async with house.services.database.transaction() as connection:
        await Accounts().open(connection, [journal])
        await connection.execute(INSERT_JOURNALS, *headers)
        await connection.execute(INSERT_ENTRIES, *entries)


def body(provider: str = "paystack", **changes: Any) -> dict[str, Any]:
    wanted = {**WITHDRAWALS[provider], "provider": provider, **changes}
    if (
        provider == "moniepoint" and "destination" not in changes
    ):  # the same amount to the same account is refused for two minutes
        account = f"{uuid4().int % 9_000_000_000 + 1_000_000_000}"
        wanted["destination"] = {**wanted["destination"], "account_number": account}
    return wanted


async def withdraw(
    merchant: Merchant, provider: str = "paystack", *, key: str | None = None, **changes: Any
) -> httpx.Response:
    return await merchant.post("/wallet/withdraw", key=key or str(uuid4()), json=body(provider, **changes))


async def began(merchant: Merchant, provider: str = "paystack", **changes: Any) -> dict[str, Any]:
    answer = await withdraw(merchant, provider, **changes)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def whole(merchant: Merchant, withdrawal_id: str) -> dict[str, Any]:
    answer = await merchant.get(f"/wallet/withdrawals/{withdrawal_id}")
    assert answer.status_code == 200, answer.text
    found = dict(answer.json())
    assert [event["sequence"] for event in found["timeline"]] == list(range(1, found["version"] + 1))
    return found


async def until(merchant: Merchant, withdrawal_id: str, *statuses: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def there() -> bool:
        found.update(await whole(merchant, withdrawal_id))
        return found["status"] in statuses

    await eventually(there, what=lambda: f"{statuses}, but it is {found.get('status')}")
    return found


def story(withdrawal: dict[str, Any]) -> list[str]:
    return [event["type"] for event in withdrawal["timeline"]]


async def purse(house: House, merchant: Merchant, currency: str = "NGN") -> tuple[int, int]:
    """(available, held) of a wallet, minor units."""
    rows = await house.rows(
        "SELECT available_minor, held_minor FROM wallets WHERE user_id = $1::uuid AND currency = $2",
        merchant.id,
        currency,
    )
    return (rows[0]["available_minor"], rows[0]["held_minor"]) if rows else (0, 0)


async def audit(house: House) -> None:
    """Whatever happened: the books balance, no wallet is below zero or says other than its entries, what is held is what is
    on its way, and what completed was captured once."""
    wrong = await house.rows(
        """
        SELECT w.user_id, w.available_minor, w.held_minor, e.available, e.held FROM wallets w
        LEFT JOIN LATERAL (
            SELECT coalesce(-sum(e.amount_minor) FILTER (WHERE a.code = 'wallet'), 0) AS available,
                   coalesce(-sum(e.amount_minor) FILTER (WHERE a.code = 'wallet_held'), 0) AS held
            FROM ledger_entries e JOIN ledger_accounts a ON a.id = e.account_id
            WHERE a.user_id = w.user_id AND a.currency = w.currency) e ON true
        WHERE w.available_minor < 0 OR w.held_minor < 0 OR w.available_minor <> e.available OR w.held_minor <> e.held
        """
    )
    assert wrong == []
    unbalanced = await house.rows(
        "SELECT currency, sum(amount_minor) FROM ledger_entries GROUP BY currency HAVING sum(amount_minor) <> 0"
    )
    assert unbalanced == []
    ends = await house.rows(
        """
        SELECT t.id, t.status, h.status AS hold,
            (SELECT count(*) FROM ledger_journals j WHERE j.transaction_id = t.id AND j.kind = 'held') AS held,
            (SELECT count(*) FROM ledger_journals j WHERE j.transaction_id = t.id AND j.kind LIKE 'captured%') AS captured,
            (SELECT count(*) FROM ledger_journals j WHERE j.transaction_id = t.id AND j.kind = 'released') AS released,
            (SELECT count(*) FROM ledger_journals j WHERE j.transaction_id = t.id AND j.kind = 'returned') AS returned
        FROM transactions t JOIN holds h ON h.transaction_id = t.id WHERE t.kind = 'withdrawal'
        """
    )
    for end in ends:
        assert end["held"] == 1, end
        if end["status"] == "completed":
            assert (end["captured"], end["returned"]) == (1, 0), end
        elif end["status"] in ("failed", "cancelled", "reversed"):
            assert end["captured"] == end["returned"], end
            # Released, found to have gone after all, and come back, or one of the two.
            assert max(end["released"], end["captured"]) == 1, end
        elif end["status"] == "under_review":
            assert end["captured"] <= 1, end
        else:
            assert (end["hold"], end["captured"], end["released"]) == ("held", 0, 0), end


async def attempt_of(merchant: Merchant, withdrawal_id: str) -> str:
    """Our reference at the provider."""
    return str((await whole(merchant, withdrawal_id))["attempts"][0]["reference"])
