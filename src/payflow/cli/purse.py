"""The wallet that `payflow demo` fills and spends from, with every unit of it counted again.

What should be in it is added up here, from what was ordered alone, and compared with what PayFlow says at every step: the
wallet, what is held of it, the running balance of its statement, and at last the books.
"""

import asyncio
from collections.abc import Sequence
from textwrap import indent
from typing import Any

from payflow.cli.books import books_table
from payflow.cli.shop import FINAL, POLL_SECONDS, DemoFailed, Shop, Step, in_columns, say
from payflow.cli.stack import Stack
from payflow.core.money import Money
from payflow.ledger.books import Books
from payflow.transactions.books.service import CheckRunning

CURRENCY = "NGN"
FUNDING: dict[str, Any] = {
    "provider": "paystack",
    "amount": "10000.50",
    "currency": CURRENCY,
    "customer": {"email": "ada@example.com", "name": "Ada Obi"},
    "return_url": "https://shop.example/return",
}
ACCOUNT = {"type": "bank_account", "bank_code": "057", "account_number": "0123456789"}
WITHDRAWAL: dict[str, Any] = {"provider": "paystack", "amount": "3500.25", "currency": CURRENCY}
AIRTIME: dict[str, Any] = {
    "provider": "vtpass",
    "service_id": "mtn",
    "phone": "+2348030000001",
    "amount": "500.00",
    "currency": CURRENCY,
}

# Of each kind: where it is found, and its first and last event.
FOLLOWED = {
    "funding": ("payments", "payment.initiated", "wallet.credited"),
    "withdrawal": ("wallet/withdrawals", "withdrawal.initiated", "wallet.debited"),
    "airtime": ("airtime/purchases", "airtime.initiated", "wallet.debited"),
}

# An entry of the statement: its type, its amount (minor units, negative where it left), and its transaction.
Entry = tuple[str, int, str]


class Purse:
    """`entries` are what the statement has to show, oldest first."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.entries: list[Entry] = []

    def steps(self) -> list[Step]:
        return [
            (f"wallet: fund it with {_amount(FUNDING)} through {FUNDING['provider']}", self._fund),
            (f"wallet: withdraw {_amount(WITHDRAWAL)} to a bank account", self._withdraw),
            (f"wallet: buy airtime for {_amount(AIRTIME)}", self._buy_airtime),
            ("wallet: its statement", self._statement),
            ("books: all that `payflow books` checks", self._books),
        ]

    async def _fund(self, shop: Shop) -> None:
        funding = await shop.initialize(FUNDING, "/wallet/fund")
        await self._follow(shop, funding)
        self.entries.append(("funding", funding["amount_minor"], funding["id"]))
        await self._wallet(shop, held=0)

    async def _withdraw(self, shop: Shop) -> None:
        """The bank waits until the hold was seen."""
        destination = {**ACCOUNT, "account_name": await self._holder(shop)}
        await self._stack.control(
            "/outcomes", {"provider": WITHDRAWAL["provider"], "operation": "payout", "outcome": "silent", "times": 1}
        )
        withdrawal = await shop.post("/wallet/withdraw", {**WITHDRAWAL, "destination": destination}, 201)
        say(f"  POST /wallet/withdraw → {withdrawal['status']}")
        if withdrawal["status"] != "processing":
            raise DemoFailed(f"the withdrawal is {withdrawal['status']}: {withdrawal['failure']}")
        self.entries.append(("hold", -withdrawal["amount_minor"], withdrawal["id"]))
        await self._wallet(shop, held=withdrawal["amount_minor"])
        (attempt,) = (await shop.get(f"/wallet/withdrawals/{withdrawal['id']}"))["attempts"]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(shop, withdrawal))
            group.create_task(self._stack.control(f"/charges/{attempt['provider']}/{attempt['reference']}/pay"))
        await self._wallet(shop, held=0)

    async def _holder(self, shop: Shop) -> str:
        """Whose account it is, as its bank says."""
        query = f"currency={CURRENCY}&provider={WITHDRAWAL['provider']}"
        banks = {bank["code"]: bank["name"] for bank in (await shop.get(f"/wallet/banks?{query}"))["data"]}
        if ACCOUNT["bank_code"] not in banks:
            raise DemoFailed(f"the bank {ACCOUNT['bank_code']} is not in the list: {banks}")
        say(f"  GET  /wallet/banks → {len(banks)}, of them {ACCOUNT['bank_code']} {banks[ACCOUNT['bank_code']]}")
        question = {**ACCOUNT, "currency": CURRENCY, "provider": WITHDRAWAL["provider"]}
        name = str((await shop.post("/wallet/resolve-account", question, 200))["account_name"])
        say(f"  POST /wallet/resolve-account {ACCOUNT['account_number']} → {name}")
        return name

    async def _buy_airtime(self, shop: Shop) -> None:
        services = {each["id"]: each["name"] for each in (await shop.get("/airtime/services"))["data"]}
        if AIRTIME["service_id"] not in services:
            raise DemoFailed(f"{AIRTIME['service_id']} is not in the list: {services}")
        say(f"  GET  /airtime/services → {', '.join(services.values())}")
        purchase = await shop.post("/airtime/purchase", AIRTIME, 201)
        say(f"  POST /airtime/purchase → {purchase['status']}  {purchase['description']} for {purchase['phone']}")
        self.entries.append(("hold", -purchase["amount_minor"], purchase["id"]))
        await self._follow(shop, purchase)
        await self._wallet(shop, held=0)

    async def _statement(self, shop: Shop) -> None:
        page = await shop.get(f"/wallet/statement?currency={CURRENCY}&limit=100")
        entries = page["data"][::-1]
        say(indent(statement_table(entries), "  "))
        check_statement(entries, self.entries, await self._wallet(shop, held=0))

    async def _books(self, shop: Shop) -> None:
        books = await self._checked(shop.timeout_seconds)
        say(indent(books_table(books), "  "))
        if not books.clean:
            first = books.breaks[0]
            raise DemoFailed(
                f"the books do not agree: {books.breaks_found} breaks, the first in {first.what} {first.id}, "
                f"which should be {first.expected} and is {first.found}"
            )

    async def _checked(self, seconds: float) -> Books:
        """Another process on the same database may be at it."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self._stack.services.books.check()
                    except CheckRunning:
                        await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise DemoFailed(f"the books were being checked by somebody else for {seconds:.0f} s") from None

    async def _follow(self, shop: Shop, movement: dict[str, Any]) -> None:
        """Watch it on the wallet's socket until its money has moved. DemoFailed unless it completed and `GET` agrees."""
        folder, first, last = FOLLOWED[movement["kind"]]
        named = [{"type": "auth", "token": shop.token}, {"tx_ref": movement["reference"]}]
        frames = await shop.watch(
            movement["kind"],
            "/ws/wallet",
            named,
            lambda frame: frame["type"] == last or frame.get("status") in FINAL - {"completed"},
        )
        await shop.agreed(f"/{folder}/{movement['id']}", frames, first, last)

    async def _wallet(self, shop: Shop, *, held: int) -> int:
        """What can be spent. DemoFailed unless that and what is held are right to the minor unit."""
        wallets = {each["currency"]: each for each in (await shop.get("/wallet"))["data"]}
        if CURRENCY not in wallets:
            raise DemoFailed(f"there is no wallet in {CURRENCY}")
        wallet = wallets[CURRENCY]
        say(f"  GET  /wallet → {wallet['available']} {CURRENCY} available, {wallet['held']} held")
        available = sum(minor for _, minor, _ in self.entries)
        if (wallet["available_minor"], wallet["held_minor"]) != (available, held):
            raise DemoFailed(
                f"the wallet has {wallet['available_minor']} available and {wallet['held_minor']} held, "
                f"but it should be {available} and {held}"
            )
        return available


def check_statement(entries: Sequence[dict[str, Any]], expected: Sequence[Entry], available: int) -> None:
    """Oldest first; `available` is what the wallet says (minor units). DemoFailed unless these are all its entries, each
    balance is the one before with its amount, and the last is the wallet's."""
    told = [(entry["type"], entry["amount_minor"], entry["transaction_id"]) for entry in entries]
    if told != list(expected):
        raise DemoFailed(f"the statement tells {told}, but what happened is {list(expected)}")
    balance = 0
    for entry in entries:
        balance += entry["amount_minor"]
        if (entry["balance_minor"], entry["balance"]) != (balance, Money(balance, CURRENCY).decimal_text()):
            raise DemoFailed(f"the statement says {entry['balance']} after {entry['reference']}, which makes {balance}")
    if balance != available:
        raise DemoFailed(f"the statement ends with {balance}, but the wallet has {available}")


def statement_table(entries: Sequence[dict[str, Any]]) -> str:
    head = ("time", "entry", "for", "provider", "reference", "amount", "balance")
    rows = [
        (
            entry["created_at"][11:19],
            entry["type"],
            entry["transaction_kind"],
            entry["provider"],
            entry["reference"],
            entry["amount"],
            entry["balance"],
        )
        for entry in entries
    ]
    return in_columns(head, rows, to_the_right={"amount", "balance"})


def _amount(body: dict[str, Any]) -> str:
    return f"{body['amount']} {body['currency']}"
