"""Paystack's refunds: queued, processed later, told by webhooks that carry no refund id."""

import asyncio
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from payflow.simulator import paystack_objects as shapes
from payflow.simulator.outcomes import Decision, for_amount
from payflow.simulator.paystack_http import Refused, invalid, missing, number, paged, read_amount, read_body
from payflow.simulator.paystack_objects import Refund, Transaction
from payflow.simulator.state import Charge, NotPossible, Simulation, iso, reply

INTEGRATION = 463433
WORDS = {"pay": "processed", "decline": "failed", "reverse": "failed", "needs_attention": "needs-attention"}


class Collecting(Protocol):
    """What refunds need of the half that took the money."""

    def find(self, name: str) -> Transaction | None: ...
    def refuse_query(self, transaction: Transaction | None = None) -> None: ...
    def notify(self, charge: Charge, events: list[tuple[str, dict[str, Any]]]) -> asyncio.Task[None] | None: ...


class Refunds:
    def __init__(self, simulation: Simulation, collecting: Collecting) -> None:
        self.simulation = simulation
        self.collecting = collecting
        self.refunds: dict[int, Refund] = {}

    async def create(self, request: Request) -> Response:
        body = await read_body(request)
        transaction, amount = self.read(body)
        charge = transaction.charge
        magic = [for_amount(amount)] if body.get("amount") is not None else []
        decision = self.simulation.overrides.choose("paystack", "refund", magic)
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        self.simulation.journal.submit(
            "paystack", charge.reference, amount, charge.currency, outcome.name, result, operation="refund"
        )
        if not outcome.charges:
            return shapes.failure(outcome.answer)
        refund = self.open(transaction, amount, body)
        response = shapes.success("Refund has been queued for processing", refund_created(refund))
        self.simulation.tasks.spawn(self.live(refund, decision))
        return await self.simulation.deliver_answer(request, decision, response, shapes.failure)

    def read(self, body: dict[str, Any]) -> tuple[Transaction, int]:
        name = str(body.get("transaction") or "")
        transaction = self.collecting.find(name)
        if not name:
            raise missing("Transaction is required")
        if transaction is None:
            raise Refused(
                shapes.refusal(404, "Transaction not found", "transaction_not_found", "Check the transaction")
            )
        if transaction.charge.status != "paid":
            raise invalid("Transaction has not been paid")
        if transaction.remaining <= 0:
            message = "Transaction has been fully reversed"
            raise Refused(shapes.refusal(400, message, "transaction_reversed", "Check the transaction", "api_error"))
        amount = transaction.remaining if body.get("amount") is None else read_amount(body["amount"])
        if amount > transaction.remaining:
            raise invalid("Refund amount cannot be more than the remaining transaction amount")
        return transaction, amount

    def open(self, transaction: Transaction, amount: int, body: dict[str, Any]) -> Refund:
        now = self.simulation.clock()
        note = f"Refund for transaction {transaction.reference}"
        refund = Refund(
            id=self.simulation.next_id(),
            transaction=transaction,
            amount=amount,
            created_at=now,
            updated_at=now,
            customer_note=body.get("customer_note") or note,
            merchant_note=body.get("merchant_note") or f"{note} by merchant@simulator.invalid",
        )
        transaction.refunds.append(refund)
        self.refunds[refund.id] = refund
        return refund

    async def live(self, refund: Refund, decision: Decision) -> None:
        """pending → processing → the end, and perhaps a late failure, each told by webhook."""
        outcome = decision.outcome
        end = [WORDS[action] for action in outcome.customer]
        for status in ("pending", *(["processing", *end] if end else [])):
            if status != "pending":
                await asyncio.sleep(self.simulation.delay(decision))
            if refund.status == "failed" or (refund.status == "processed" and status != "failed"):
                return
            task = self.move(refund, status, outcome.copies, tell=outcome.webhooks)
            if task is not None:
                await task

    def move(self, refund: Refund, status: str, copies: int = 1, *, tell: bool = True) -> asyncio.Task[None] | None:
        transaction, charge = refund.transaction, refund.transaction.charge
        if refund.status == "processed":  # a late failure: the merchant has the money again
            charge.refunded -= refund.amount
            transaction.status = "success"
        refund.status, refund.updated_at = status, self.simulation.clock()
        if status == "processed":
            charge.refunded += refund.amount
            if charge.refunded >= charge.money_taken:
                transaction.status = "reversed"
        event = (f"refund.{status}", refund_event(refund))
        return self.collecting.notify(charge, [event] * copies) if tell else None

    def act(self, transaction: Transaction, action: str) -> asyncio.Task[None] | None:
        status = {"refund_settle": "processed", "refund_fail": "failed"}.get(action, "needs-attention")
        for refund in reversed(transaction.refunds):
            if refund.status not in ("processed", "failed") or (refund.status, status) == ("processed", "failed"):
                return self.move(refund, status)
        raise NotPossible("no refund is open")

    async def fetch(self, request: Request) -> Response:
        self.collecting.refuse_query()
        refund = self.refunds.get(number(request.path_params["id"]))
        if refund is None:
            raise Refused(reply({"status": False, "message": "Refund not found"}, 404))
        self.collecting.refuse_query(refund.transaction)
        return shapes.success("Refund retrieved", refund_row(refund))

    async def list_all(self, request: Request) -> Response:
        self.collecting.refuse_query()
        query = request.query_params
        wanted = query.get("transaction") or query.get("reference")
        rows = [
            item
            for item in reversed(self.refunds.values())
            if wanted in (None, str(item.transaction.id), item.transaction.reference)
            and query.get("currency") in (None, item.transaction.currency)
        ]
        page, meta = paged(rows, query.get("perPage"), query.get("page"))
        failed = sum(item.status == "failed" for item in rows)
        more = {"perPage": str(meta["perPage"]), "failedRefundCount": failed}  # text here, a number elsewhere
        return shapes.success("Refunds retrieved", [refund_row(item) for item in page], meta={**meta, **more})


def refund_created(refund: Refund) -> dict[str, Any]:
    transaction = refund.transaction
    paid_at = iso(transaction.paid_at or transaction.created_at)
    return {
        "transaction": {
            "id": transaction.id,
            "domain": "test",
            "reference": transaction.reference,
            "amount": transaction.amount,
            "paid_at": paid_at,
            "channel": transaction.channel,
            "currency": transaction.currency,
            "authorization": {"exp_month": None, "exp_year": None, "account_name": None},
            "customer": {"international_format_phone": None},
            "plan": {},
            "subaccount": {"currency": None},
            "split": {},
            "order_id": None,
            "paidAt": paid_at,
            "pos_transaction_data": None,
            "source": None,
            "fees_breakdown": None,
        },
        "integration": INTEGRATION,
        "deducted_amount": 0,
        "channel": None,
        "merchant_note": refund.merchant_note,
        "customer_note": refund.customer_note,
        "status": refund.status,
        "refunded_by": "merchant@simulator.invalid",
        "expected_at": iso(refund.created_at + 10 * 86_400),
        "currency": transaction.currency,
        "domain": "test",
        "amount": refund.amount,
        "fully_deducted": False,
        "id": refund.id,
        "createdAt": iso(refund.created_at),
        "updatedAt": iso(refund.updated_at),
    }


def refund_row(refund: Refund) -> dict[str, Any]:
    """As fetched or listed: here `transaction` is the number and `fully_deducted` 0 or 1."""
    transaction = refund.transaction
    done = refund.status == "processed"
    texts = ("first_name", "last_name", "phone", "metadata", "international_format_phone")
    return {
        "integration": INTEGRATION,
        "transaction": transaction.id,
        "dispute": None,
        "settlement": None,
        "id": refund.id,
        "domain": "test",
        "currency": transaction.currency,
        "amount": refund.amount,
        "status": refund.status,
        "refunded_at": iso(refund.updated_at) if done else None,
        "refunded_by": "merchant@simulator.invalid",
        "customer_note": refund.customer_note,
        "merchant_note": refund.merchant_note,
        "deducted_amount": refund.amount if done else 0,
        "fully_deducted": 1 if done else 0,
        "createdAt": iso(refund.created_at),
        "bank_reference": None,
        "transaction_reference": transaction.reference,
        "reason": "CUSTOMER_REQUEST",
        "customer": shapes.customer(transaction) | dict.fromkeys(texts, ""),
        "refund_type": "full" if refund.amount == transaction.charge.money_taken else "partial",
        "transaction_amount": transaction.amount,
        "initiated_by": "merchant@simulator.invalid",
        "refund_channel": "card",
        "session_id": None,
        "collect_account_number": refund.status == "needs-attention",
    }


def refund_event(refund: Refund) -> dict[str, Any]:
    """No refund id in it, and the amount is text until the refund goes wrong: that is how Paystack sends it."""
    wrong = refund.status in ("failed", "needs-attention")
    return {
        "status": refund.status,
        "transaction_reference": refund.transaction.reference,
        "refund_reference": f"TRF_{refund.id}" if refund.status != "pending" else None,
        "amount": refund.amount if wrong else str(refund.amount),
        "currency": refund.transaction.currency,
        "processor": "instant-transfer",
        "customer": {"first_name": None, "last_name": None, "email": refund.transaction.email},
        "integration": INTEGRATION,
        "domain": "test",
    }
