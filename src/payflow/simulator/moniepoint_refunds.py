"""Monnify's refunds: named by the merchant's reference, taken from its wallet, told by webhook when they end."""

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from payflow.simulator import moniepoint_objects as shapes
from payflow.simulator.moniepoint_objects import Refused, Transaction, refusal
from payflow.simulator.outcomes import Decision, Outcome, for_amount
from payflow.simulator.state import NotPossible, Simulation

SMALLEST = 10_000  # a hundred naira
LONGEST_REASON, LONGEST_NOTE = 64, 16
WORDS = {"pay": "COMPLETED", "decline": "FAILED", "reverse": "FAILED"}
EVENTS = {"COMPLETED": "SUCCESSFUL_REFUND", "FAILED": "FAILED_REFUND"}


class Collecting(Protocol):
    """What refunds need of the half that took the money."""

    by_transaction_reference: dict[str, Transaction]

    def authenticate(self, request: Request) -> None: ...
    def tell(
        self, reference: str, outcome: Outcome, events: list[tuple[str, dict[str, Any]]]
    ) -> asyncio.Task[None] | None: ...


@dataclass
class Refund:
    reference: str
    transaction: Transaction
    amount: int
    reason: str
    note: str
    decision: Decision
    created_at: float
    status: str = "PENDING"
    completed_at: float | None = None


class Refunds:
    def __init__(self, simulation: Simulation, collecting: Collecting) -> None:
        self.simulation = simulation
        self.collecting = collecting
        self.refunds: dict[str, Refund] = {}

    async def create(self, request: Request) -> Response:
        self.collecting.authenticate(request)
        content = await request.body()
        body, amount = shapes.read_body(content), shapes.read_amount(content, "refundAmount")
        reference = named(body)
        transaction = self.collecting.by_transaction_reference.get(str(body.get("transactionReference")))
        if transaction is None:
            raise no("R1", "Transaction not found")
        charge, journal = transaction.charge, self.simulation.journal
        if reference in self.refunds:
            journal.submit("moniepoint", charge.reference, amount, "NGN", "duplicate_reference", "duplicate", "refund")
            raise no("R9", "Duplicate refund reference")
        self.check(transaction, amount)
        decision = self.simulation.overrides.choose("moniepoint", "refund", [for_amount(amount)])
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        journal.submit("moniepoint", charge.reference, amount, "NGN", outcome.name, result, "refund")
        if not outcome.charges:
            return shapes.failure(outcome.answer, refusal(400, "Insufficient balance in wallet", "R5"))
        now = self.simulation.clock()
        refund = Refund(reference, transaction, amount, body["refundReason"], body["customerNote"], decision, now)
        self.refunds[reference] = refund
        answer = shapes.success(shapes.refunded(refund, self.kind(refund)))
        self.simulation.tasks.spawn(self.live(refund))
        return await self.simulation.deliver_answer(request, decision, answer, shapes.failure)

    def check(self, transaction: Transaction, amount: int) -> None:
        left = self.left(transaction)
        if transaction.charge.status != "paid":
            raise no("R1", "Transaction not found")
        if transaction.methods == ["CARD"]:
            raise no("R2", "Only account transfer transactions can be refunded")
        if left <= 0:
            raise no("R12", "Transaction has already been fully refunded")
        if amount > left:
            raise no("R3", "Refund amount is above the transaction amount")
        if amount < SMALLEST:
            raise no("R4", "Refund amount is below the minimum")

    def left(self, transaction: Transaction) -> int:
        """What is under way counts as gone."""
        refunds = (item for item in self.refunds.values() if item.transaction is transaction)
        return transaction.paid - sum(item.amount for item in refunds if item.status != "FAILED")

    def kind(self, refund: Refund) -> str:
        return "FULL_REFUND" if refund.amount == refund.transaction.paid else "PARTIAL_REFUND"

    async def live(self, refund: Refund) -> None:
        for action in refund.decision.outcome.customer:
            await asyncio.sleep(self.simulation.delay(refund.decision))
            try:
                task = self.end(refund, action)
            except NotPossible:
                return  # somebody ended it by hand
            if task is not None:
                await task

    def end(self, refund: Refund, action: str) -> asyncio.Task[None] | None:
        status, outcome, charge = WORDS[action], refund.decision.outcome, refund.transaction.charge
        if refund.status != ("COMPLETED" if action == "reverse" else "PENDING"):
            raise NotPossible("the refund has ended")
        charge.refunded += {"pay": refund.amount, "decline": 0, "reverse": -refund.amount}[action]
        refund.status, refund.completed_at = status, self.simulation.clock()
        return self.collecting.tell(
            charge.reference, outcome, [(EVENTS[status], shapes.refund_event(refund))] * outcome.copies
        )

    def act(self, transaction: Transaction, action: str) -> asyncio.Task[None] | None:
        """`refund_settle` or `refund_fail` the newest one that is open."""
        for refund in reversed(self.refunds.values()):
            if refund.transaction is transaction and refund.status == "PENDING":
                return self.end(refund, "pay" if action == "refund_settle" else "decline")
        raise NotPossible("no refund is open")

    async def fetch(self, request: Request) -> Response:
        self.collecting.authenticate(request)
        if not self.simulation.behaviour.answer_queries:
            return shapes.failure("server_error")
        refund = self.refunds.get(request.path_params["reference"])
        if refund is None:
            raise no("R7", "Refund reference not found")
        return shapes.success(shapes.refunded(refund, self.kind(refund)))


def named(body: dict[str, Any]) -> str:
    """The refund's reference, if its words have the length they may have."""
    reference, reason, note = body.get("refundReference"), body.get("refundReason"), body.get("customerNote")
    if not (isinstance(reference, str) and isinstance(reason, str) and isinstance(note, str) and reference):
        raise Refused(refusal(400, shapes.MALFORMED))
    if not (0 < len(reason) <= LONGEST_REASON and 0 < len(note) <= LONGEST_NOTE):
        raise no("R8", "A field exceeds its length limit")
    return reference


def no(code: str, message: str) -> Refused:
    return Refused(refusal(404 if code in ("R1", "R7") else 400, message, code))
