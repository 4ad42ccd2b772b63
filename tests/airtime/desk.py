"""What the tests of airtime share: a wallet with money, purchases, the books, and a way to the provider that can be cut."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import httpx

from payflow.events.types import Origin
from payflow.payments.schemas import InitializePayment
from payflow.transactions.lifecycle import Kind
from tests.house import PAYSTACK, House, Merchant, eventually

AIRTIME = {"service_id": "mtn", "phone": "+2348030000001", "amount": "500.00", "currency": "NGN"}
DATA = {"service_id": "mtn-data", "variation_code": "mtn-10mb-100", "phone": "+2348030000001"}
PURCHASE = "/airtime/purchase"


class Way(httpx.AsyncBaseTransport):
    """The way to the simulator. It counts what goes over it; `before` runs first, and may raise."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.asked: Counter[str] = Counter()
        self.before: Callable[[httpx.Request], Awaitable[None]] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked[request.url.path] += 1
        if self.before is not None:
            await self.before(request)
        return await self.inner.handle_async_request(request)


def phone(number: int) -> str:
    """VTPass refuses the same service for the same phone within half a minute: each purchase has its own."""
    return f"+23480{number:08d}"


async def fund(house: House, merchant: Merchant, naira: int) -> None:
    """Money into the wallet, as it comes: by a completed funding."""
    services = house.services
    body = InitializePayment.model_validate({**PAYSTACK, "amount": str(naira)})
    scope = services.idempotency.scope(merchant.id, "POST", "/the/tests/funding", str(uuid4()))
    reply = await services.payments.initialize(
        UUID(merchant.id), body, scope, Origin(), instance="/", kind=Kind.FUNDING
    )
    assert reply.status_code == 201, reply.body
    await house.until(merchant, str(reply.transaction_id), "completed")


async def rich(house: House, naira: int = 100_000) -> Merchant:
    merchant = await house.merchant()
    await fund(house, merchant, naira)
    return merchant


async def buy(merchant: Merchant, *, key: str | None = None, **body: Any) -> httpx.Response:
    return await merchant.post(PURCHASE, key=key or str(uuid4()), json={**AIRTIME, **body})


async def bought(merchant: Merchant, **body: Any) -> dict[str, Any]:
    answer = await buy(merchant, **body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def purchase_of(merchant: Merchant, purchase_id: str) -> dict[str, Any]:
    answer = await merchant.get(f"/airtime/purchases/{purchase_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def until(merchant: Merchant, purchase_id: str, status: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def there() -> bool:
        found.update(await purchase_of(merchant, purchase_id))
        return bool(found["status"] == status)

    await eventually(there, what=lambda: f"{status}, but it is {found.get('status')}")
    return found


async def wallet(house: House, merchant: Merchant) -> tuple[int, int]:
    """What is available and what is held, in kobo."""
    rows = await house.rows(
        "SELECT available_minor, held_minor FROM wallets WHERE user_id = $1::text::uuid", merchant.id
    )
    return rows[0]["available_minor"], rows[0]["held_minor"]


async def holds(house: House, purchase_id: str) -> list[str]:
    rows = await house.rows("SELECT status FROM holds WHERE transaction_id = $1::text::uuid", purchase_id)
    return [row["status"] for row in rows]


async def posted(house: House, purchase_id: str) -> dict[str, dict[str, int]]:
    """Every journal of a purchase by its kind: what it put on which account. Each kind once."""
    rows = await house.rows(
        """
        SELECT j.id, j.kind, a.code, e.amount_minor FROM ledger_journals j
        JOIN ledger_entries e ON e.journal_id = j.id JOIN ledger_accounts a ON a.id = e.account_id
        WHERE j.transaction_id = $1::text::uuid
        """,
        purchase_id,
    )
    assert len({row["id"] for row in rows}) == len({row["kind"] for row in rows})
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        found.setdefault(row["kind"], {})[row["code"]] = row["amount_minor"]
    return found


async def balanced(house: House) -> None:
    """The books: entries sum to zero, each wallet is what its entries say, and what is held is what open holds hold."""
    total = await house.rows("SELECT coalesce(sum(amount_minor), 0)::bigint AS amount FROM ledger_entries")
    assert total[0]["amount"] == 0
    rows = await house.rows(
        """
        SELECT w.available_minor, w.held_minor,
               -coalesce(sum(e.amount_minor) FILTER (WHERE a.code = 'wallet'), 0)::bigint AS of_wallet,
               -coalesce(sum(e.amount_minor) FILTER (WHERE a.code = 'wallet_held'), 0)::bigint AS of_held,
               (SELECT coalesce(sum(h.amount_minor), 0)::bigint FROM holds h
                WHERE h.user_id = w.user_id AND h.currency = w.currency AND h.status = 'held') AS of_holds
        FROM wallets w LEFT JOIN ledger_accounts a ON a.user_id = w.user_id AND a.currency = w.currency
             AND a.code IN ('wallet', 'wallet_held')
        LEFT JOIN ledger_entries e ON e.account_id = a.id
        GROUP BY w.id, w.available_minor, w.held_minor, w.user_id, w.currency
        """
    )
    assert rows
    for row in rows:
        assert row["available_minor"] == row["of_wallet"]
        assert row["held_minor"] == row["of_held"] == row["of_holds"]


async def transactions_of(house: House, merchant: Merchant) -> int:
    rows = await house.rows(
        "SELECT count(*) AS many FROM transactions WHERE user_id = $1::text::uuid AND kind = 'airtime'", merchant.id
    )
    return int(rows[0]["many"])


def story(purchase: dict[str, Any]) -> list[str]:
    return [event["type"] for event in purchase["timeline"]]
