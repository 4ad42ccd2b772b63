"""What one simulator knows: switches, charges, every call that reached it; and the life that all charges share."""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import httpx
import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from payflow.simulator.outcomes import Decision, Outcome, Overrides
from payflow.simulator.settings import SimulatorSettings
from payflow.simulator.webhooks import Clock, Tasks, Webhooks

KEPT_REQUESTS = 5_000
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


class NoSuchCharge(LookupError):
    """No charge of this provider has this reference."""


class NotPossible(ValueError):
    """The charge is not in a state in which this can happen."""


@dataclass
class Submission:
    """One call that asked for money, whatever was answered."""

    provider: str
    operation: str
    reference: str
    amount: int
    currency: str
    outcome: str
    at: float
    result: str  # charged | refused | duplicate | replayed


@dataclass
class Charge:
    """Amounts are in the currency's minor unit."""

    provider: str
    reference: str
    id: str
    amount: int
    currency: str
    decision: Decision
    created_at: float
    status: str = "pending"  # pending | paid | failed | cancelled | expired
    failure: str | None = None
    money_taken: int = 0
    refunded: int = 0
    customer: asyncio.Task[None] | None = None

    @property
    def outcome(self) -> Outcome:
        return self.decision.outcome

    def describe(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "status": self.status,
            "failure": self.failure,
            "outcome": self.outcome.name,
            "amount_minor": self.amount,
            "currency": self.currency,
            "money_taken_minor": self.money_taken,
            "refunded_minor": self.refunded,
            "created_at": self.created_at,
        }


class Provider(Protocol):
    def act(self, charge: Charge, action: str) -> asyncio.Task[None] | None:
        """The customer (or the acquirer) does something; the task ends when the webhooks were tried once."""


@dataclass
class Journal:
    """Counts what reached the simulator, so that a test can say how often a provider was really asked."""

    clock: Clock
    submissions: dict[tuple[str, str], list[Submission]] = field(default_factory=dict)
    charges: dict[tuple[str, str], list[Charge]] = field(default_factory=dict)
    aliases: dict[tuple[str, str], Charge] = field(default_factory=dict)
    requests: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=KEPT_REQUESTS))

    def submit(
        self,
        provider: str,
        reference: str,
        amount: int,
        currency: str,
        outcome: str,
        result: str,
        operation: str = "collect",
    ) -> None:
        submission = Submission(provider, operation, reference, amount, currency, outcome, self.clock(), result)
        self.submissions.setdefault((provider, reference), []).append(submission)

    def add(self, charge: Charge, *aliases: str) -> Charge:
        self.charges.setdefault((charge.provider, charge.reference), []).append(charge)
        for alias in (charge.reference, charge.id, *aliases):
            self.aliases[charge.provider, alias] = charge
        return charge

    def clear(self) -> None:
        for store in (self.submissions, self.charges, self.aliases, self.requests):
            store.clear()

    def find(self, provider: str, name: str) -> Charge:
        charge = self.aliases.get((provider, name))
        if charge is None:
            raise NoSuchCharge(f"{provider} has no charge {name!r}")
        return charge

    def keys(self, provider: str | None, reference: str | None) -> Iterator[tuple[str, str]]:
        if provider and reference and (charge := self.aliases.get((provider, reference))):
            yield charge.provider, charge.reference
            return
        for key in {**self.submissions, **self.charges}:
            if (not provider or key[0] == provider) and (not reference or key[1] == reference):
                yield key

    def describe(self, key: tuple[str, str]) -> dict[str, Any]:
        charges, submissions = self.charges.get(key, []), self.submissions.get(key, [])
        refunds = [item for item in submissions if item.operation == "refund"]
        return {
            "provider": key[0],
            "reference": key[1],
            "submissions": len(submissions) - len(refunds),
            "refund_submissions": len(refunds),
            "charges": len(charges),
            "money_taken_minor": sum(charge.money_taken for charge in charges),
            "refunded_minor": sum(charge.refunded for charge in charges),
            "currency": (charges[-1] if charges else submissions[-1]).currency,
            "status": charges[-1].status if charges else None,
            "attempts": [vars(item) for item in submissions],
            "items": [charge.describe() for charge in charges],
        }


class Simulation:
    """Everything one simulator holds; `create_simulator` makes one and hands it to the provider halves."""

    def __init__(
        self, settings: SimulatorSettings, clock: Clock, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.settings = settings
        self.behaviour = settings.behaviour()
        self.clock = clock
        self.overrides = Overrides()
        self.journal = Journal(clock)
        self.tasks = Tasks()
        self.webhooks = Webhooks(self.behaviour, self.tasks, clock, transport)
        self.last_id = 0

    def next_id(self) -> int:
        """Above int32 as the real ones, and never repeated after a restart: a service keeps them unique for ever."""
        self.last_id = max(self.last_id + 1, int(self.clock() * 1000))
        return self.last_id

    def change(self, values: dict[str, Any]) -> None:
        merged = type(self.behaviour).model_validate(self.behaviour.model_dump() | values)
        for name in values:
            setattr(self.behaviour, name, getattr(merged, name))

    def plan(self, provider: Provider, charge: Charge, done: int = 0) -> None:
        """Let the customer act by itself; the first `done` actions have happened already."""
        actions = charge.outcome.customer[done:]
        if self.behaviour.automatic_customer and actions:
            charge.customer = self.tasks.spawn(self.live(provider, charge, actions))

    async def live(self, provider: Provider, charge: Charge, actions: tuple[str, ...]) -> None:
        for action in actions:
            await asyncio.sleep(self.delay(charge.decision))
            await self.perform(provider, charge, action)

    async def perform(self, provider: Provider, charge: Charge, action: str) -> None:
        try:
            task = provider.act(charge, action)
        except NotPossible:
            return  # somebody else acted first, as on a hosted page
        if task is not None:
            await asyncio.shield(task)  # whoever sends this customer home does not call the webhook back

    def delay(self, decision: Decision) -> float:
        given = decision.delay_seconds
        return self.behaviour.customer_delay_seconds if given is None else given

    async def answer(
        self,
        request: Request,
        provider: Provider,
        charge: Charge,
        answer: Callable[[], Response],
        failure: Callable[[str], Response],
    ) -> Response:
        """Tell the outcome of a call whose charge exists: at once, late, wrongly, or not at all."""
        outcome = charge.outcome
        response = answer()
        if outcome.webhook_before_answer and self.behaviour.automatic_customer:
            await self.perform(provider, charge, outcome.customer[0])
            self.plan(provider, charge, done=1)
        else:
            self.plan(provider, charge)
        return await self.deliver_answer(request, charge.decision, response, failure)

    async def deliver_answer(
        self, request: Request, decision: Decision, response: Response, failure: Callable[[str], Response]
    ) -> Response:
        match decision.outcome.answer:
            case "normal":
                return response
            case "slow":
                await asyncio.sleep(self.behaviour.slow_seconds)
                return response
            case "hang":
                await hang(request, self.behaviour.hang_seconds)
                return failure("server_error")
            case "drop":
                return DroppedAnswer()
            case kind:
                return failure(kind)

    async def reset(self) -> None:
        """As freshly started: settings back, nothing remembered, nothing under way."""
        await self.tasks.cancel()
        self.change(self.settings.behaviour().model_dump())
        self.overrides.clear()
        self.journal.clear()
        self.webhooks.deliveries.clear()

    async def aclose(self) -> None:
        await self.tasks.cancel()
        await self.webhooks.aclose()


async def hang(request: Request, seconds: float) -> None:
    """Until the caller gives up. The body must have been read before, else its parts would look like news."""
    try:
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        pass


class DroppedAnswer(Response):
    """Promises a body and breaks off: the caller sees a connection lost in the middle of an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"4096")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"status":', "more_body": True})


def reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


def html_error() -> Response:
    return HTMLResponse(
        "<html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>", 502
    )


def token(length: int, alphabet: str = ALPHABET) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def iso(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
