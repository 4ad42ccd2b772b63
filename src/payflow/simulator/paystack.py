"""Paystack: hosted checkout, direct charges, queries, refunds and transfers under `/paystack`, and their webhooks.

Paystack has no idempotency key: the reference is the only guard, and it stays used up even after a failure.
Only a success is told by webhook; a decline must be asked for.
"""

import asyncio
import re
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payflow.simulator import paystack_objects as shapes
from payflow.simulator.outcomes import Decision, for_amount
from payflow.simulator.paystack_charges import Charges
from payflow.simulator.paystack_disputes import ACTIONS as DISPUTES
from payflow.simulator.paystack_disputes import dispute
from payflow.simulator.paystack_http import (
    Refused,
    echoed_metadata,
    invalid,
    missing,
    number,
    paged,
    read_amount,
    read_body,
)
from payflow.simulator.paystack_objects import Transaction
from payflow.simulator.paystack_refunds import Refunds
from payflow.simulator.paystack_transfers import Transfers
from payflow.simulator.state import Charge, NoSuchCharge, NotPossible, Simulation, reply, token
from payflow.simulator.webhooks import Message, paystack_headers

CURRENCIES = ("NGN", "GHS", "ZAR", "KES", "USD", "XOF")
REFERENCE = re.compile(r"[A-Za-z0-9.=-]{1,100}")
CHANNELS = {"NGN": "card", "GHS": "mobile_money", "KES": "mobile_money"}


class Paystack:
    name = "paystack"

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.transactions: dict[str, Transaction] = {}
        self.by_id: dict[int, Transaction] = {}
        self.by_access_code: dict[str, Transaction] = {}
        self.refunds = Refunds(simulation, self)
        self.charges = Charges(simulation, self)
        self.transfers = Transfers(simulation, self.notify)

    def reset(self) -> None:
        for store in (self.transactions, self.by_id, self.by_access_code, self.refunds.refunds):
            store.clear()
        self.transfers.reset()

    def routes(self) -> list[Route]:
        calls = [
            ("POST", "/transaction/initialize", self.initialize),
            ("GET", "/transaction/verify/{reference:path}", self.verify),
            ("GET", "/transaction", self.list_transactions),
            ("GET", "/transaction/{id}", self.fetch),
            ("POST", "/charge", self.charges.create),
            ("POST", "/charge/submit_{step}", self.charges.submit),
            ("GET", "/charge/{reference:path}", self.check),
            ("POST", "/refund", self.refunds.create),
            ("GET", "/refund", self.refunds.list_all),
            ("GET", "/refund/{id}", self.refunds.fetch),
            ("GET", "/bank", self.transfers.banks),
            ("GET", "/bank/resolve", self.transfers.resolve),
            ("POST", "/transferrecipient", self.transfers.create_recipient),
            ("POST", "/transfer", self.transfers.create),
            ("POST", "/transfer/finalize_transfer", self.transfers.finalize),
            ("GET", "/transfer/verify/{reference}", self.transfers.verify),
        ]
        return [Route(path, self.guarded(endpoint), methods=[method]) for method, path, endpoint in calls]

    def guarded(self, endpoint: Any) -> Any:
        async def call(request: Request) -> Response:
            try:
                self.authenticate(request)
                answer: Response = await endpoint(request)
            except Refused as refused:
                return refused.response
            return answer

        return call

    def authenticate(self, request: Request) -> None:
        header = request.headers.get("authorization")
        if not header:
            raise Refused(reply({"status": False, "message": "No Authorization Header was found"}, 401))
        key = header.removeprefix("Bearer ").strip()
        if key == self.simulation.settings.paystack_secret_key:
            return
        if not (self.simulation.behaviour.accept_any_test_key and re.fullmatch(r"sk_test_\w+", key)):
            raise Refused(shapes.invalid_key())

    # Collecting

    async def initialize(self, request: Request) -> Response:
        body = await read_body(request)
        email, amount, currency, reference = self.read_initialize(body)
        journal = self.simulation.journal
        if reference in self.transactions:
            journal.submit(self.name, reference, amount, currency, "duplicate_reference", "duplicate")
            raise Refused(shapes.duplicate_reference())
        decision = self.simulation.overrides.choose(self.name, "collect", [for_amount(amount)])
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        journal.submit(self.name, reference, amount, currency, outcome.name, result)
        if not outcome.charges:
            return shapes.failure(outcome.answer)
        transaction = self.open(reference, amount, currency, email, body, decision)
        return await self.simulation.answer(
            request, self, transaction.charge, lambda: self.initialized(transaction), shapes.failure
        )

    def read_initialize(self, body: dict[str, Any]) -> tuple[str, int, str, str]:
        email = body.get("email")
        if not isinstance(email, str) or "@" not in email:
            raise missing("Email address is required" if not email else "Invalid Email Address Passed")
        amount = read_amount(body.get("amount"))
        currency = body.get("currency") or "NGN"
        if currency not in CURRENCIES:
            raise Refused(shapes.failure("refuse"))
        reference = body.get("reference") or token(15)
        if not isinstance(reference, str) or not REFERENCE.fullmatch(reference):
            raise invalid("Transaction reference contains invalid characters")
        callback_url = body.get("callback_url")
        if callback_url is not None and not str(callback_url).startswith(("http://", "https://")):
            raise invalid('"callback_url" must be a valid uri')
        return email, amount, currency, reference

    def open(
        self, reference: str, amount: int, currency: str, email: str, body: dict[str, Any], decision: Decision
    ) -> Transaction:
        number, now = self.simulation.next_id(), self.simulation.clock()
        charge = Charge(self.name, reference, str(number), amount, currency, decision, now)
        transaction = Transaction(
            charge=charge,
            id=number,
            access_code=token(15),
            email=email,
            callback_url=body.get("callback_url"),
            metadata=echoed_metadata(body.get("metadata")),
            channel=CHANNELS.get(currency, "card"),
            authorization_code=token(10),
            created_at=now,
            amount=amount,
            currency=currency,
        )
        self.transactions[reference] = self.by_id[number] = self.by_access_code[transaction.access_code] = transaction
        self.simulation.journal.add(charge, transaction.access_code)
        return transaction

    def initialized(self, transaction: Transaction) -> Response:
        url = f"{self.simulation.settings.base_url}/checkout/paystack/{transaction.access_code}"
        data = {
            "authorization_url": url,
            "access_code": transaction.access_code,
            "reference": transaction.reference,
        }
        return shapes.success("Authorization URL created", data)

    def find(self, name: str) -> Transaction | None:
        return self.transactions.get(name) or self.by_id.get(number(name))

    # Asking

    async def verify(self, request: Request) -> Response:
        return shapes.success("Verification successful", shapes.verified(self.asked(request)))

    async def check(self, request: Request) -> Response:
        return shapes.success("Reference check successful", shapes.checked(self.asked(request)))

    def asked(self, request: Request) -> Transaction:
        transaction = self.transactions.get(request.path_params["reference"])
        self.refuse_query(transaction)
        if transaction is None:
            raise self.unknown()
        return transaction

    def unknown(self) -> Refused:
        if self.simulation.behaviour.paystack_unknown_reference_status == 404:
            return Refused(reply({"status": False, "message": "Entity not found"}, 404))
        step = "Ensure that you are passing the correct reference for this integration"
        return Refused(shapes.refusal(400, "Transaction reference not found.", "transaction_not_found", step))

    def refuse_query(self, transaction: Transaction | None = None) -> None:
        told = transaction is None or transaction.charge.outcome.queries
        if not (told and self.simulation.behaviour.answer_queries):
            raise Refused(shapes.failure("server_error"))

    async def fetch(self, request: Request) -> Response:
        transaction = self.by_id.get(number(request.path_params["id"]))
        self.refuse_query(transaction)
        if transaction is None:
            raise Refused(reply({"status": False, "message": "Transaction not found"}, 404))
        return shapes.success("Transaction retrieved", shapes.fetched(transaction))

    async def list_transactions(self, request: Request) -> Response:
        self.refuse_query()
        query = request.query_params
        rows = [
            item
            for item in reversed(self.transactions.values())
            if query.get("status") in (None, item.status)
            and query.get("amount") in (None, str(item.amount))
            and query.get("customer") in (None, str(item.customer_number))
        ]
        page, meta = paged(rows, query.get("perPage") or query.get("per_page"), query.get("page"))
        meta["total_volume"] = sum(item.charge.money_taken for item in rows)
        return shapes.success("Transactions retrieved", [shapes.listed(item) for item in page], meta=meta)

    # What the customer does

    def act(self, charge: Charge, action: str) -> asyncio.Task[None] | None:
        if charge.reference not in self.transactions:
            return self.transfers.act(self.transfers.transfers[charge.reference], action)
        transaction = self.transactions[charge.reference]
        if action.startswith("send_"):
            self.charges.ask(charge, action)
            return None
        if action in DISPUTES:
            event = dispute(transaction, action, self.simulation.next_id(), self.simulation.clock())
            return self.notify(charge, [event])
        match action:
            case "pay":
                return self.pay(transaction)
            case "decline" | "fail" | "insufficient_funds" | "cancel" | "expire":
                self.end(transaction, "decline" if action == "fail" else action)
                return None
            case "process":
                if charge.status == "paid":
                    raise NotPossible("already paid")
                transaction.status = "pending"
                return None
            case "reverse":
                transaction.status = "reversed"
                return None
            case "refund_settle" | "refund_fail" | "refund_needs_attention":
                return self.refunds.act(transaction, action)
            case _:
                raise NotPossible(f"a Paystack charge knows no {action!r}")

    def pay(self, transaction: Transaction) -> asyncio.Task[None] | None:
        charge = transaction.charge
        if charge.status == "paid":
            raise NotPossible("already paid")
        outcome = charge.outcome
        transaction.status, transaction.paid_at = "success", self.simulation.clock()
        transaction.gateway_response = shapes.GATEWAY_RESPONSES["success"]
        if outcome.wrong_amount:
            transaction.amount = max(charge.amount - charge.amount // 2, 1)
        if outcome.wrong_currency:
            transaction.currency = "USD" if charge.currency != "USD" else "NGN"
        if outcome.fee_on_top:
            transaction.amount = charge.amount + shapes.fee(charge.amount, charge.currency)
        charge.status, charge.failure, charge.money_taken = "paid", None, transaction.amount
        events = [("charge.success", shapes.charge_event(transaction))]
        if outcome.stale_event_after:
            stale = shapes.charge_event(transaction) | {"status": "failed", "gateway_response": "Declined"}
            events.append(("charge.failed", stale))
        return self.notify(charge, events)

    def end(self, transaction: Transaction, action: str) -> None:
        """Paystack has no words for cancelled and expired: such a transaction stays `abandoned`."""
        if transaction.charge.status == "paid":
            raise NotPossible("already paid")
        declined = action in ("decline", "insufficient_funds")
        transaction.status = "failed" if declined else "abandoned"
        transaction.gateway_response = shapes.GATEWAY_RESPONSES[action]
        transaction.charge.status = {"cancel": "cancelled", "expire": "expired"}.get(action, "failed")
        transaction.charge.failure = action

    def notify(self, charge: Charge, events: list[tuple[str, dict[str, Any]]]) -> asyncio.Task[None] | None:
        outcome = charge.outcome
        if not outcome.webhooks:
            return None
        behaviour = self.simulation.behaviour
        secret = self.simulation.settings.paystack_secret_key
        if not outcome.valid_signature:
            secret += "_another"
        messages = [
            Message(
                provider=self.name,
                event=event,
                reference=charge.reference,
                url=behaviour.paystack_webhook_url,
                body=orjson.dumps({"event": event, "data": data}),
                headers=lambda body: paystack_headers(secret, body),
                retries=behaviour.webhook_retries,
            )
            for event, data in events
        ]
        return self.simulation.webhooks.send([item for item in messages for _ in range(outcome.copies)])

    # The hosted page

    def checkout(self, access_code: str) -> Transaction:
        transaction = self.by_access_code.get(access_code)
        if transaction is None:
            raise NoSuchCharge(access_code)
        return transaction
