"""Sends the webhooks, in order within one change, and again while the receiver does not answer 2xx (VTPass: its words).

Signing is done here from the providers' documents and not with the service's own code; each try is signed anew, as
Stripe does.
"""

import asyncio
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx
from httpx_aiohttp import AiohttpTransport

from payflow.simulator.settings import Behaviour

KEPT_DELIVERIES = 20_000
LONGEST_BACKOFF_SECONDS = 10.0

Clock = Callable[[], float]
Headers = dict[str, str]


def paystack_headers(secret: str, body: bytes) -> Headers:
    signature = hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()
    return {"Content-Type": "application/json", "x-paystack-signature": signature}


def stripe_headers(secret: str, body: bytes, timestamp: int) -> Headers:
    """The key is the whole secret as text, `whsec_` included; it is not base64-decoded."""
    signature = hmac.new(secret.encode(), b"%d.%b" % (timestamp, body), hashlib.sha256).hexdigest()
    return {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": f"t={timestamp},v1={signature}"}


@dataclass
class Message:
    provider: str
    event: str
    reference: str
    url: str
    body: bytes
    headers: Callable[[bytes], Headers]
    retries: int = 0
    identity: str = ""  # the event's own id, where the provider has one
    wanted_answer: Any = None  # what the receiver has to answer, beside its 2xx


@dataclass
class Delivery:
    id: str
    message: Message
    created_at: float
    tries: list[dict[str, Any]] = field(default_factory=list)
    delivered: bool = False
    answer: bytes = b""  # of the last try

    def describe(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "provider": self.message.provider,
            "event": self.message.event,
            "reference": self.message.reference,
            "url": self.message.url,
            "created_at": self.created_at,
            "delivered": self.delivered,
            "attempts": len(self.tries),
            "status_codes": [item["status"] for item in self.tries],
            "tries": self.tries,
            "body": self.message.body.decode(),
        }


class Tasks:
    """What runs beside the requests. It owns the tasks, so nothing outlives the simulator."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task

    async def cancel(self) -> None:
        tasks = list(self.running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Webhooks:
    def __init__(
        self, behaviour: Behaviour, tasks: Tasks, clock: Clock, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.behaviour = behaviour
        self.tasks = tasks
        self.clock = clock
        self.transport = transport
        self.client: httpx.AsyncClient | None = None
        self.deliveries: OrderedDict[str, Delivery] = OrderedDict()
        self.numbers = count(1)

    def send(self, messages: list[Message]) -> asyncio.Task[None] | None:
        """The task ends when every message was tried once; later tries run on by themselves."""
        if not self.behaviour.deliver_webhooks or not messages:
            return None
        return self.tasks.spawn(self.deliver([self.record(message) for message in messages]))

    def record(self, message: Message) -> Delivery:
        delivery = Delivery(f"whd_{next(self.numbers)}", message, self.clock())
        self.deliveries[delivery.id] = delivery
        while len(self.deliveries) > KEPT_DELIVERIES:
            self.deliveries.popitem(last=False)
        return delivery

    async def deliver(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            await self.try_once(delivery)
            if not delivery.delivered and delivery.message.retries:
                self.tasks.spawn(self.retry(delivery))

    async def retry(self, delivery: Delivery) -> None:
        for number in range(delivery.message.retries):
            await asyncio.sleep(min(self.behaviour.webhook_backoff_seconds * 2**number, LONGEST_BACKOFF_SECONDS))
            await self.try_once(delivery)
            if delivery.delivered:
                return

    async def try_once(self, delivery: Delivery) -> None:
        message = delivery.message
        result: dict[str, Any] = {"at": self.clock(), "status": None, "error": None}
        try:
            response = await self.http().post(
                message.url,
                content=message.body,
                headers=message.headers(message.body),
                timeout=self.behaviour.webhook_timeout_seconds,
            )
            result["status"], delivery.answer = response.status_code, response.content
            delivery.delivered = delivery.delivered or (response.is_success and fits(message.wanted_answer, response))
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            result["error"] = f"{type(error).__name__}: {error}"
        delivery.tries.append(result)

    def http(self) -> httpx.AsyncClient:
        if self.client is None:
            self.client = httpx.AsyncClient(
                transport=self.transport or AiohttpTransport(trust_env=False),
                trust_env=False,  # a proxy of the machine has no business between simulator and service
                follow_redirects=False,
            )
        return self.client

    async def aclose(self) -> None:
        if self.client is not None:
            await self.client.aclose()
            self.client = None


def fits(wanted: Any, response: httpx.Response) -> bool:
    try:
        return wanted is None or bool(response.json() == wanted)
    except ValueError:
        return False
