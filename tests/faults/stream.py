"""A provider that reports many payments: signed webhooks, each sent again until it is answered 200, and sometimes after."""

import asyncio
import hashlib
import hmac
import random
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import orjson

from payflow.simulator.settings import SimulatorSettings
from tests.faults.cluster import Cluster
from tests.house import BODIES, Merchant, eventually

SECRET = SimulatorSettings().paystack_secret_key.encode()
AT_ONCE = 8
PAUSE_SECONDS = 0.03
PATIENCE_SECONDS = 60.0

T = TypeVar("T")


@dataclass(frozen=True)
class Payment:
    id: str
    reference: str
    number: int


async def payments_of(cluster: Cluster, ada: Merchant, count: int) -> list[Payment]:
    """So many Paystack payments that wait for their customers."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def pay() -> None:
        async with gate:
            await ada.pay("paystack")

    await asyncio.gather(*(pay() for _ in range(count)))
    rows = await cluster.rows("SELECT transaction_id, reference FROM attempts WHERE user_id::text = $1", ada.id)
    assert len(rows) == count
    # Paystack's own numbers, which two merchants' payments must not share.
    first = random.randrange(10**9, 10**12)
    return [
        Payment(str(row["transaction_id"]), row["reference"], first + place) for place, row in enumerate(rows, start=1)
    ]


class WebhookStream:
    """`accepted` counts the answers 200 by payment, `refused` all others by status (0: no answer at all)."""

    def __init__(self, nodes: Sequence[str], payments: Sequence[Payment]) -> None:
        self.accepted: Counter[str] = Counter()
        self.refused: Counter[int] = Counter()
        self.problems: list[dict[str, Any]] = []
        self._urls = [f"{node}/api/v1/webhooks/paystack" for node in nodes]
        self._payments = payments
        self._unsent = list(payments)
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._client = httpx.AsyncClient(timeout=10, trust_env=False)

    async def send(self, count: int | None = None) -> Sequence[Payment]:
        """The next so many, or all that are left; returns them when each was answered 200."""
        chosen, self._unsent = self._unsent[:count], self._unsent[count:] if count is not None else []
        await asyncio.gather(*(self._deliver(payment) for payment in chosen))
        return chosen

    async def send_while(self, work: Awaitable[T]) -> T:
        """One after the other until the work is done: half of those left, then repeats, as providers do."""
        task = asyncio.ensure_future(work)
        fresh = len(self._unsent) // 2
        while not task.done():
            if fresh > 0:
                fresh -= 1
                await self.send(1)
            else:
                await self._deliver(random.choice(self._payments[: len(self._payments) - len(self._unsent)]))
            await asyncio.sleep(PAUSE_SECONDS)
        return await task

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _deliver(self, payment: Payment) -> None:
        body = webhook_body(payment)
        headers = {"content-type": "application/json", "x-paystack-signature": signature(body)}
        turn = 0

        async def taken() -> bool:
            nonlocal turn
            turn += 1
            try:
                answer = await self._client.post(self._urls[turn % len(self._urls)], content=body, headers=headers)
            except httpx.TransportError:
                self.refused[0] += 1
                await asyncio.sleep(PAUSE_SECONDS)
                return False
            if answer.status_code == 200:
                self.accepted[payment.id] += 1
                return True
            self.refused[answer.status_code] += 1
            self.problems.append(answer.json())
            await asyncio.sleep(PAUSE_SECONDS)
            return False

        async with self._gate:
            await eventually(taken, seconds=PATIENCE_SECONDS, what=lambda: f"a 200, so far {dict(self.refused)}")


def webhook_body(payment: Payment) -> bytes:
    data = {
        "id": payment.number,
        "reference": payment.reference,
        "status": "success",
        "amount": 500_000,
        "currency": "NGN",
        "channel": "card",
    }
    return orjson.dumps({"event": "charge.success", "data": data})


def signature(body: bytes) -> str:
    return hmac.new(SECRET, body, hashlib.sha512).hexdigest()


class Shopper:
    """Initializes payments while everything falls and rises, each with a key of its own, and keeps what was answered."""

    def __init__(self, ada: Merchant) -> None:
        self.answers: list[httpx.Response] = []
        self.keys: list[str] = []
        self._ada = ada

    async def buy_while(self, work: Awaitable[T]) -> T:
        task = asyncio.ensure_future(work)
        while not task.done():
            await self.buy()
            await asyncio.sleep(0.2)
        return await task

    async def buy(self) -> httpx.Response:
        self.keys.append(str(uuid4()))
        self.answers.append(await self._ada.initialize(BODIES["paystack"], key=self.keys[-1]))
        return self.answers[-1]

    async def buy_again(self) -> list[httpx.Response]:
        """Every request once more, with its key."""
        return [await self._ada.initialize(BODIES["paystack"], key=key) for key in self.keys]
