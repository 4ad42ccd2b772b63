"""Flutterwave's refunds: `completed` as soon as they are begun, done when they say how, told without an envelope."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from payflow.simulator import flutterwave_objects as shapes
from payflow.simulator.flutterwave_http import Refused, read_amount, read_body
from payflow.simulator.flutterwave_objects import Link, Try
from payflow.simulator.outcomes import Decision, Outcome, for_amount
from payflow.simulator.state import NotPossible, Simulation, iso

PAGE = 10
WAYS = {"card": "mpgs", "account": "bank-transfer", "bank_transfer": "bank-transfer", "ussd": "bank-transfer"}


@dataclass
class Refund:
    id: int
    link: Link
    tried: Try
    amount: int
    comments: str
    decision: Decision
    created_at: float
    updated_at: float
    status: str = "completed"

    @property
    def done(self) -> bool:
        return self.status.startswith("completed-")

    @property
    def open(self) -> bool:
        return self.status == "completed"


class Collecting(Protocol):
    """What refunds need of the half that took the money."""

    def paid_try(self, identity: str) -> tuple[Link, Try] | None: ...
    def refuse_query(self, link: Link | None) -> None: ...
    def post(
        self, reference: str, outcome: Outcome, bodies: list[tuple[str, dict[str, Any]]]
    ) -> asyncio.Task[None] | None: ...


class Refunds:
    def __init__(self, simulation: Simulation, collecting: Collecting) -> None:
        self.simulation = simulation
        self.collecting = collecting
        self.refunds: dict[int, Refund] = {}

    async def create(self, request: Request) -> Response:
        body = await read_body(request)
        found = self.collecting.paid_try(request.path_params["id"])
        if found is None:
            raise Refused(400, "No transaction was found for this id")
        link, tried = found
        left = self.left(tried)
        whole = body.get("amount") is None
        amount = left if whole else read_amount(body, tried.currency)
        if left <= 0:
            raise Refused(400, "Transaction has been refunded already")
        if amount > left:
            raise Refused(400, "Refund amount is more than what is left of the transaction")
        magic = [] if whole else [for_amount(amount)]
        decision = self.simulation.overrides.choose("flutterwave", "refund", magic)
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        self.simulation.journal.submit(
            "flutterwave", link.charge.reference, amount, tried.currency, outcome.name, result, operation="refund"
        )
        if not outcome.charges:
            return shapes.failure(outcome.answer)
        refund = self.open(link, tried, amount, body, decision)
        response = shapes.success("Transaction refund initiated", refund_row(refund))
        self.simulation.tasks.spawn(self.live(refund))
        return await self.simulation.deliver_answer(request, decision, response, shapes.failure)

    def left(self, tried: Try) -> int:
        """Refunds on their way count, those that failed do not."""
        gone = sum(item.amount for item in self.refunds.values() if item.tried is tried and item.status != "failed")
        return tried.amount - gone

    def open(self, link: Link, tried: Try, amount: int, body: dict[str, Any], decision: Decision) -> Refund:
        now = self.simulation.clock()
        comments = str(body.get("comments") or "")
        refund = Refund(self.simulation.next_id(), link, tried, amount, comments, decision, now, now)
        self.refunds[refund.id] = refund
        return refund

    async def live(self, refund: Refund) -> None:
        """Begun, then the end, each told by webhook; with nobody acting, only begun."""
        actions = refund.decision.outcome.customer
        if not actions:
            return
        await told(self.tell(refund))
        for action in actions:
            await asyncio.sleep(self.simulation.delay(refund.decision))
            if action == "pay" and not refund.open:
                return
            await told(self.move(refund, action))

    def move(self, refund: Refund, action: str) -> asyncio.Task[None] | None:
        if refund.done:
            refund.link.charge.refunded -= refund.amount
        way = WAYS.get(shapes.common(refund.tried)["payment_type"], "momo")
        refund.status = f"completed-{way}" if action == "pay" else "failed"
        refund.updated_at = self.simulation.clock()
        if refund.done:
            refund.link.charge.refunded += refund.amount
        return self.tell(refund)

    def tell(self, refund: Refund) -> asyncio.Task[None] | None:
        event = (f"refund.{refund.status}", refund_event(refund))
        return self.collecting.post(refund.link.charge.reference, refund.decision.outcome, [event])

    def act(self, link: Link, action: str) -> asyncio.Task[None] | None:
        for refund in reversed(self.refunds.values()):
            if refund.link is link and refund.open:
                return self.move(refund, "pay" if action == "refund_settle" else "decline")
        raise NotPossible("no refund is open")

    async def fetch(self, request: Request) -> Response:
        self.collecting.refuse_query(None)
        name = request.path_params["id"]
        refund = self.refunds.get(int(name)) if name.isascii() and name.isdigit() else None
        if refund is None:
            raise Refused(400, "Refund not found")
        self.collecting.refuse_query(refund.link)
        return shapes.success("Refund fetched", refund_row(refund))

    async def list_all(self, request: Request) -> Response:
        self.collecting.refuse_query(None)
        query = request.query_params
        rows = [
            item
            for item in reversed(self.refunds.values())
            if (query.get("from") or "") <= day(item.created_at) <= (query.get("to") or "9999")
        ]
        return shapes.paged("Refunds fetched", [refund_row(item) for item in rows], query.get("page"), PAGE)


async def told(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        await task


def day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def refund_row(refund: Refund) -> dict[str, Any]:
    return {
        "id": refund.id,
        "account_id": 73362,
        "tx_id": refund.tried.id,
        "flw_ref": f"URF_{refund.id}",
        "wallet_id": 74639,
        "amount_refunded": shapes.major(refund.amount, refund.tried.currency),
        "status": refund.status,
        "destination": "payment_source",
        "comments": refund.comments,
        "meta": {"source": "availablebalance"} | ({"disburse_status": "successful"} if refund.done else {}),
        "created_at": iso(refund.created_at),
    }


def refund_event(refund: Refund) -> dict[str, Any]:
    return {
        "id": refund.id,
        "AmountRefunded": shapes.major(refund.amount, refund.tried.currency),
        "status": refund.status,
        "FlwRef": f"URF_{refund.id}",
        "destination": "payment_source",
        "comments": refund.comments,
        "createdAt": iso(refund.created_at),
        "updatedAt": iso(refund.updated_at),
        "AccountId": 73362,
        "TransactionId": refund.tried.id,
    }
