"""Monnify, Moniepoint's web gateway, under `/moniepoint`: token, hosted checkout, account to transfer to, cards by number,
queries, refunds, transfers, webhooks.

Of a payment only money is told by webhook, and a transfer of a wrong amount that goes back; every other end must be asked for.
"""

import asyncio
import base64
import binascii
import hmac
import re
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payflow.simulator import moniepoint_objects as shapes
from payflow.simulator.moniepoint_cards import Cards
from payflow.simulator.moniepoint_disbursements import Disbursements
from payflow.simulator.moniepoint_objects import MALFORMED, Refused, Transaction, refusal
from payflow.simulator.moniepoint_refunds import Refunds
from payflow.simulator.outcomes import Decision, Outcome, for_amount
from payflow.simulator.state import Charge, NoSuchCharge, NotPossible, Simulation, token
from payflow.simulator.webhooks import Message

TOKEN_SECONDS = 3_600
METHODS = ("CARD", "ACCOUNT_TRANSFER", "USSD", "PHONE_NUMBER")
ENDS = {
    "decline": ("FAILED", "failed"),
    "fail": ("FAILED", "failed"),
    "insufficient_funds": ("FAILED", "failed"),
    "cancel": ("CANCELLED", "cancelled"),
    "expire": ("EXPIRED", "expired"),
    "abandon": ("ABANDONED", "expired"),
}


class Moniepoint:
    name = "moniepoint"

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.transactions: dict[str, Transaction] = {}
        self.by_transaction_reference: dict[str, Transaction] = {}
        self.tokens: dict[str, float] = {}
        self.cards = Cards(simulation, self)
        self.refunds = Refunds(simulation, self)
        self.disbursements = Disbursements(simulation, self)

    def reset(self) -> None:
        for store in (self.transactions, self.by_transaction_reference, self.tokens):
            store.clear()
        self.refunds.refunds.clear()
        self.disbursements.transfers.clear()

    def routes(self) -> list[Route]:
        calls = [
            ("POST", "/api/v1/auth/login", self.login),
            ("POST", "/api/v1/merchant/transactions/init-transaction", self.initiate),
            ("POST", "/api/v1/merchant/bank-transfer/init-payment", self.open_account),
            ("POST", "/api/v1/merchant/cards/charge", self.cards.charge),
            ("POST", "/api/v1/merchant/cards/otp/authorize", self.cards.authorise),
            ("GET", "/api/v2/merchant/transactions/query", self.query),
            ("GET", "/api/v2/transactions/{reference:path}", self.fetch),
            ("POST", "/api/v1/refunds/initiate-refund", self.refunds.create),
            ("GET", "/api/v1/refunds/{reference:path}", self.refunds.fetch),
            ("POST", "/api/v2/disbursements/single", self.disbursements.create),
            ("POST", "/api/v2/disbursements/single/validate-otp", self.disbursements.authorise),
            ("GET", "/api/v2/disbursements/single/summary", self.disbursements.summary),
            ("GET", "/api/v1/banks", self.disbursements.banks),
            ("GET", "/api/v1/disbursements/account/validate", self.disbursements.holder),
        ]
        return [Route(path, self.guarded(endpoint), methods=[method]) for method, path, endpoint in calls]

    def guarded(self, endpoint: Any) -> Any:
        async def call(request: Request) -> Response:
            if b"|" in request.scope.get("raw_path", b"") + request.scope["query_string"]:
                return shapes.raw_pipe()
            try:
                answer: Response = await endpoint(request)
            except Refused as refused:
                return refused.response
            return answer

        return call

    # Token

    async def login(self, request: Request) -> Response:
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return refusal(401, "Unauthorized, supply authorization header", 99)
        settings = self.simulation.settings
        known = f"{settings.moniepoint_api_key}:{settings.moniepoint_secret_key}"
        if not hmac.compare_digest(decoded(encoded), known.encode()):
            return refusal(401, "bad credentials", 99)
        access_token = f"eyJ{token(60)}"
        self.tokens[access_token] = self.simulation.clock() + TOKEN_SECONDS
        return shapes.success({"accessToken": access_token, "expiresIn": TOKEN_SECONDS})

    def authenticate(self, request: Request) -> None:
        scheme, _, access_token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not access_token:
            raise Refused(refusal(401, "Unauthorized, supply authorization header", 99))
        ends_at = self.tokens.get(access_token.strip())
        if ends_at is None:
            raise Refused(refusal(401, "Cannot convert access token to json", 99))
        if ends_at < self.simulation.clock():
            body = {"error": "invalid_token", "error_description": f"Access token expired: {access_token}"}
            raise Refused(Response(orjson.dumps(body), 401, media_type="application/json"))

    # Collecting

    async def initiate(self, request: Request) -> Response:
        self.authenticate(request)
        content = await request.body()
        body, amount = shapes.read_body(content), shapes.read_amount(content)
        reference = self.check(body)
        journal = self.simulation.journal
        if reference in self.transactions:
            journal.submit(self.name, reference, amount, "NGN", "duplicate_reference", "duplicate")
            return refusal(422, "Duplicate payment reference")
        decision = self.simulation.overrides.choose(self.name, "collect", [for_amount(amount)])
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        journal.submit(self.name, reference, amount, "NGN", outcome.name, result)
        if not outcome.charges:
            return shapes.failure(outcome.answer)
        transaction = self.open(reference, amount, body, decision)
        settings = self.simulation.settings
        return await self.simulation.answer(
            request,
            self,
            transaction.charge,
            lambda: shapes.success(shapes.initiated(transaction, settings.base_url, settings.moniepoint_api_key)),
            shapes.failure,
        )

    def check(self, body: dict[str, Any]) -> str:
        """The payment's reference, if all the rest is in order too."""
        reference, email, methods = body.get("paymentReference"), body.get("customerEmail"), body.get("paymentMethods")
        redirect = body.get("redirectUrl")
        fine = (
            isinstance(reference, str)
            and re.fullmatch(r"[^\s/?#]{1,100}", reference)
            and isinstance(email, str)
            and "@" in email
            and (methods is None or (isinstance(methods, list) and methods and set(methods) <= set(METHODS)))
            and (redirect is None or str(redirect).startswith(("http://", "https://")))
        )
        if not fine:
            raise Refused(refusal(400, MALFORMED))
        if body.get("currencyCode") != "NGN":
            raise Refused(refusal(400, "Unknown currency code supplied"))
        if body.get("contractCode") != self.simulation.settings.moniepoint_contract_code:
            raise Refused(shapes.failure("refuse"))
        return str(reference)

    def open(self, reference: str, amount: int, body: dict[str, Any], decision: Decision) -> Transaction:
        transaction_reference = shapes.reference_of(self.simulation.next_id())
        now = self.simulation.clock()
        charge = Charge(self.name, reference, transaction_reference, amount, "NGN", decision, now)
        metadata = body.get("metaData")
        transaction = Transaction(
            charge=charge,
            transaction_reference=transaction_reference,
            email=body["customerEmail"],
            name=body.get("customerName"),
            description=str(body.get("paymentDescription") or ""),
            redirect_url=body.get("redirectUrl"),
            methods=body.get("paymentMethods") or ["ACCOUNT_TRANSFER", "CARD"],
            metadata=metadata if isinstance(metadata, dict) else {},
        )
        self.transactions[reference] = self.by_transaction_reference[transaction_reference] = transaction
        self.simulation.journal.add(charge)
        return transaction

    async def open_account(self, request: Request) -> Response:
        self.authenticate(request)
        body = shapes.read_body(await request.body())
        reference = str(body.get("transactionReference"))
        transaction = self.by_transaction_reference.get(reference)
        if transaction is None:
            raise shapes.not_found(reference)
        if transaction.account_number is None:
            transaction.account_number = token(10, "0123456789")
        return shapes.success(shapes.account(transaction, self.simulation.clock()))

    # Asking

    async def query(self, request: Request) -> Response:
        self.authenticate(request)
        names = request.query_params
        ours, theirs = names.get("paymentReference"), names.get("transactionReference")
        if not (ours or theirs):
            return refusal(400, MALFORMED)
        found = self.transactions.get(ours) if ours else self.by_transaction_reference.get(theirs or "")
        return self.told(found, ours or theirs or "")

    async def fetch(self, request: Request) -> Response:
        self.authenticate(request)
        reference = request.path_params["reference"]
        return self.told(self.by_transaction_reference.get(reference), reference)

    def told(self, transaction: Transaction | None, reference: str) -> Response:
        answers = transaction is None or transaction.charge.outcome.queries
        if not (answers and self.simulation.behaviour.answer_queries):
            return shapes.failure("server_error")
        if transaction is None:
            raise shapes.not_found(reference)
        return shapes.success(shapes.queried(transaction))

    # What the customer does

    def act(self, charge: Charge, action: str) -> asyncio.Task[None] | None:
        """Besides the common actions: `overpay`, `reject`, a transfer of too little that goes back, and the ends of a refund."""
        transfer = self.disbursements.transfers.get(charge.reference)
        if transfer is not None:
            return self.disbursements.act(transfer, action)
        transaction = self.transactions[charge.reference]
        if action in ("refund_settle", "refund_fail"):
            return self.refunds.act(transaction, action)
        if action == "reverse":
            transaction.status = "REVERSED"
            return None
        if charge.status == "paid":
            raise NotPossible("already paid")
        if action in ("pay", "overpay"):
            return self.pay(transaction, extra=5_000 if action == "overpay" else 0)
        if action == "reject":
            event = shapes.rejected_event(transaction, self.simulation.clock())
            return self.notify(charge, [("REJECTED_PAYMENT", event)])
        if action == "process":
            return None  # it stays PENDING: there is no word for "started"
        if action not in ENDS:
            raise NotPossible(f"a Monnify charge knows no {action!r}")
        transaction.status, charge.status = ENDS[action]
        charge.failure = action
        return None

    def pay(self, transaction: Transaction, extra: int = 0) -> asyncio.Task[None] | None:
        charge, outcome, now = transaction.charge, transaction.charge.outcome, self.simulation.clock()
        transaction.paid, transaction.paid_at = charge.amount + extra, now
        transaction.status = "OVERPAID" if extra else "PAID"
        if outcome.wrong_amount:
            transaction.paid, transaction.status = max(charge.amount - charge.amount // 2, 1), "PARTIALLY_PAID"
        if outcome.wrong_currency:
            transaction.currency = "USD"
        charge.status, charge.failure, charge.money_taken = "paid", None, transaction.paid
        events = [("SUCCESSFUL_TRANSACTION", shapes.paid_event(transaction, now))]
        if outcome.stale_event_after:
            events.append(("REJECTED_PAYMENT", shapes.rejected_event(transaction, now)))
        return self.notify(charge, events)

    def notify(self, charge: Charge, events: list[tuple[str, dict[str, Any]]]) -> asyncio.Task[None] | None:
        return self.tell(
            charge.reference, charge.outcome, [item for item in events for _ in range(charge.outcome.copies)]
        )

    def tell(
        self, reference: str, outcome: Outcome, events: list[tuple[str, dict[str, Any]]]
    ) -> asyncio.Task[None] | None:
        behaviour = self.simulation.behaviour
        if not outcome.webhooks:
            return None
        secret: str | None = self.simulation.settings.moniepoint_secret_key
        if not outcome.valid_signature:
            secret = f"{secret}_another"
        elif not behaviour.moniepoint_sign_webhooks:
            secret = None
        messages = [
            Message(
                provider=self.name,
                event=event,
                reference=reference,
                url=behaviour.moniepoint_webhook_url,
                body=orjson.dumps({"eventType": event, "eventData": data}),
                headers=lambda body: shapes.monnify_headers(secret, body),
                retries=behaviour.webhook_retries,
            )
            for event, data in events
        ]
        return self.simulation.webhooks.send(messages)

    # The hosted page

    def checkout(self, transaction_reference: str) -> Transaction:
        transaction = self.by_transaction_reference.get(transaction_reference)
        if transaction is None:
            raise NoSuchCharge(transaction_reference)
        return transaction


def decoded(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return b""
