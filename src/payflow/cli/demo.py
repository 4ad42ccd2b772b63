"""`payflow demo`: what PayFlow does, shown live and checked as a doubtful customer would check it.

A payment with each provider, one that its customer pays step by step, money given back in parts and at once, payments that
find another provider where one is drained or refuses, and a wallet that is filled and spent from (`purse`). Exit 0 only if
every payment completed, its frames had no gap, what `GET` tells is what the socket told, every refund came to its end, and
wallet, statement and books agree; else 1, with the reason.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import websockets

from payflow.bootstrap import Services
from payflow.cli.purse import Purse
from payflow.cli.shop import DemoFailed, Sale, Shop, Step, in_columns, say
from payflow.cli.stack import Stack
from payflow.core.ids import uuid7
from payflow.core.money import Money
from payflow.core.settings import Settings
from payflow.events.types import Actor, Event, Origin
from payflow.infra.database import RawConnection

PAYMENTS: tuple[dict[str, Any], ...] = (
    {
        "provider": "paystack",
        "amount": "5000.00",
        "currency": "NGN",
        "customer": {"email": "ada@example.com", "name": "Ada Obi"},
        "return_url": "https://shop.example/return",
    },
    {
        "provider": "mpesa",
        "amount": "250",
        "currency": "KES",
        "customer": {"phone": "+254708374149", "name": "Wanjiru"},
    },
    {
        "provider": "stripe",
        "amount": "19.90",
        "currency": "USD",
        "customer": {"email": "jenny@example.com", "name": "Jenny Rosen"},
        "return_url": "https://shop.example/return",
    },
    {
        "provider": "flutterwave",
        "amount": "1200.00",
        "currency": "GHS",
        "customer": {"email": "kofi@example.com", "name": "Kofi Mensah"},
        "return_url": "https://shop.example/return",
    },
    {
        "provider": "moniepoint",
        "amount": "4200.00",
        "currency": "NGN",
        "customer": {"email": "chidi@example.com", "name": "Chidi Eze"},
        "return_url": "https://shop.example/return",
    },
    {
        "provider": "cpay",
        "method": "otp",
        "amount": "150.00",
        "currency": "LSL",
        "customer": {"phone": "+26657012345", "name": "Lineo"},
    },
    {
        "provider": "standardbank_pay",
        "amount": "99.50",
        "currency": "ZAR",
        "customer": {"phone": "+27821234567", "name": "Palesa"},
    },
)
DIRECT: dict[str, Any] = {
    "provider": "paystack",
    "method": "bank",
    "amount": "2500.00",
    "currency": "NGN",
    "customer": {"email": "ngozi@example.com", "name": "Ngozi Ade"},
    "payment_details": {"bank_code": "057", "account_number": "0000000000"},
}
# Several providers take it, so that which one does is PayFlow's choice.
UNNAMED: dict[str, Any] = {
    "amount": "1750.00",
    "currency": "NGN",
    "customer": {"email": "emeka@example.com", "name": "Emeka Bello"},
    "return_url": "https://shop.example/return",
}
PART = "1500.00"


class Demo:
    """`run` goes through all the steps; what they took stands in `sales`, in their order."""

    def __init__(self, stack: Stack, *, timeout_seconds: float) -> None:
        self._stack = stack
        self._timeout = timeout_seconds
        self._purse = Purse(stack)
        self.sales: list[Sale] = []

    async def run(self) -> int:
        """0, or 1 with the reason printed."""
        say(f"API {self._stack.url}/api/v1   docs {self._stack.url}/docs")
        for part, where in self._stack.parts.items():
            say(f"  {part}: {where}")
        failed: BaseException | None = None
        try:
            await self._play()
        except* DemoFailed as group:
            failed = _first(group)
            say(f"\nFAILED: {failed}")
        except* (httpx.HTTPError, OSError, websockets.WebSocketException) as group:
            failed = _first(group)
            say(f"\nFAILED: {type(failed).__name__}: {failed}")
        if failed:
            return 1
        say("\n" + table(self.sales))
        refunds = sum(len(sale.payment["refunds"]) for sale in self.sales)
        say(
            f"\nOK: {len(self.sales)} payments and {refunds} refunds completed, every frame in order, GET agrees; "
            "the wallet, its statement and the books agree too."
        )
        return 0

    async def _play(self) -> None:
        url = self._stack.url
        async with httpx.AsyncClient(base_url=url + "/api/v1", trust_env=False, timeout=60) as client:
            shop = Shop(url, client, timeout_seconds=self._timeout)
            await shop.sign_in()
            steps = self._steps()
            for number, (title, step) in enumerate(steps, start=1):
                say(f"\n[{number}/{len(steps)}] {title}")
                await step(shop)

    def _steps(self) -> list[Step]:
        def paying(body: dict[str, Any]) -> Callable[[Shop], Awaitable[None]]:
            async def pay(shop: Shop) -> None:
                self.sales.append(await shop.pay("payment", body))

            return pay

        return [
            *((f"{body['provider']}: {_amount(body)}", paying(body)) for body in PAYMENTS),
            (f"paystack: {_amount(DIRECT)} from a bank account, without a page, step by step", self._direct),
            (f"paystack: give {PART} NGN back, then the rest", self._refund_in_parts),
            ("stripe: give all of it back at once", self._refund_at_once),
            (f"no provider named: {_amount(UNNAMED)}, PayFlow chooses", self._routed),
            ("failover: the provider chosen just now is drained", self._drained),
            ("failover: the provider chosen first refuses", self._refused),
            *self._purse.steps(),
        ]

    async def _direct(self, shop: Shop) -> None:
        sale = await shop.pay("direct charge", DIRECT)
        if len(sale.ways) < 2:
            raise DemoFailed(f"the bank asked for one thing only: {sale.ways}")
        self.sales.append(sale)

    async def _refund_in_parts(self, shop: Shop) -> None:
        sale = self._sale("paystack")
        await shop.refund(sale, PART, leaves="partially_refunded")
        await shop.refund(sale, None, leaves="refunded")
        sale.what = "refund in two parts"

    async def _refund_at_once(self, shop: Shop) -> None:
        sale = self._sale("stripe")
        await shop.refund(sale, None, leaves="refunded")
        sale.what = "refund at once"

    async def _routed(self, shop: Shop) -> None:
        sale = await shop.pay("provider chosen", UNNAMED)
        say(f"  Chosen: {sale.payment['provider']}, {_reason(sale)}")
        self.sales.append(sale)

    async def _drained(self, shop: Shop) -> None:
        """Drained only while the payment is begun: somebody else's may be waiting for this provider."""
        name = self.sales[-1].payment["provider"]
        async with drained(self._stack.services, name, shop.user_id):
            say(f"  {name} is drained.")
            begun = await shop.initialize(UNNAMED)
        say(f"  {name} is in use again.")
        sale = await shop.complete(f"{name} drained", begun)
        skipped = {each["provider"]: each["why"] for each in sale.collecting[0]["routing"]["considered"]}
        if sale.payment["provider"] == name or skipped.get(name) != "drained":
            raise DemoFailed(f"{name} is drained, and {sale.payment['provider']} got the payment: {skipped}")
        say(f"  Chosen: {sale.payment['provider']}, {_reason(sale)}; {name} was skipped: {skipped[name]}")
        self.sales.append(sale)

    async def _refused(self, shop: Shop) -> None:
        """One refusal of the simulated provider that an unnamed payment went to before."""
        name = self._sale("provider chosen").payment["provider"]
        await self._stack.control("/outcomes", {"provider": name, "outcome": "refuse", "times": 1})
        sale = await shop.pay(f"{name} refused", UNNAMED)
        went = [(attempt["provider"], attempt["status"]) for attempt in sale.collecting]
        second = sale.payment["provider"]
        if went != [(name, "refused"), (second, "succeeded")] or second == name:
            raise DemoFailed(f"{name} should have refused and another provider succeeded, but the attempts were {went}")
        say(f"  Attempts: {', '.join(f'{provider} {status}' for provider, status in went)}")
        self.sales.append(sale)

    def _sale(self, name: str) -> Sale:
        """The first that was taken by this provider, or is called so."""
        return next(sale for sale in self.sales if name in (sale.payment["provider"], sale.what))


@asynccontextmanager
async def drained(services: Services, provider: str, user_id: UUID) -> AsyncIterator[None]:
    """Take a provider out of use, and back into it however this ends.

    The endpoint for it is for administrators, and an administrator must not stay behind in somebody's database; what it
    writes is written here in the demo merchant's name.
    """
    try:
        await _set_drained(services, provider, user_id, True)
        yield
    finally:
        await _set_drained(services, provider, user_id, False)


async def _set_drained(services: Services, provider: str, user_id: UUID, out_of_use: bool) -> None:
    changed = Event(
        id=uuid7(),
        type="provider.drained" if out_of_use else "provider.resumed",
        created_at=services.clock(),
        user_id=user_id,
        data={"provider": provider, "reason": "payflow demo"},
        origin=Origin(Actor.USER),
    )

    async def work(connection: RawConnection) -> None:
        await services.drains.set(connection, provider, out_of_use, "payflow demo", user_id)
        await services.events.add([changed], connection)

    await services.database.in_transaction(work)
    services.drains.forget()


def table(sales: Sequence[Sale]) -> str:
    """What was taken, one line each, in columns."""
    head = ("what", "provider", "amount", "way", "status", "events", "refunded")
    return in_columns(head, [_row(sale) for sale in sales], to_the_right={"amount", "events", "refunded"})


def _row(sale: Sale) -> tuple[str, ...]:
    payment = sale.payment
    refunded = Money(payment["refunded_minor"], payment["currency"]).decimal_text()
    return (
        sale.what,
        " > ".join(attempt["provider"] for attempt in sale.collecting),
        f"{payment['amount']} {payment['currency']}",
        " > ".join(sale.ways),
        payment["status"],
        str(payment["version"]),
        refunded if payment["refunded_minor"] else "-",
    )


def _reason(sale: Sale) -> str:
    return str(sale.collecting[-1]["routing"]["reason"])


def _amount(body: dict[str, Any]) -> str:
    return f"{body['amount']} {body['currency']}"


def _first(group: BaseException) -> BaseException:
    """The error behind the groups that a task group wraps around it."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def demo_settings(settings: Settings) -> Settings:
    """Quieter than a server, since its output is for reading; no draw, so that two unnamed payments go the same way; and no
    approval, since nobody else is there to give it."""
    return settings.model_copy(update={"log_level": "ERROR", "provider_weights": {}, "withdrawal_approval_minor": {}})
