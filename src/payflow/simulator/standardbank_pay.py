"""Standard Bank Pay under `/standardbank_pay`: initiate, status, an approval page, webhooks to each order's own URL.

No bank publishes this interface; this file is all there is of it. Requests and webhooks are signed with one secret,
and requests are good for 300 seconds. The same request id with the same body gives the same payment again; a reference
is taken once.
"""

import asyncio
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payflow.simulator.outcomes import Decision, for_amount
from payflow.simulator.state import Charge, NoSuchCharge, NotPossible, Simulation, html_error, reply, token
from payflow.simulator.webhooks import Headers, Message

LONGEST_SESSION_SECONDS = 3_600
DAILY_LIMIT_CENTS = 100_000  # a fixed figure for each payment; nothing is summed over a day
CURRENCIES = ("ZAR", "LSL")
ENDS = {
    "decline": ("DECLINED", "failed"),
    "fail": ("DECLINED", "failed"),
    "insufficient_funds": ("DECLINED", "failed"),
    "cancel": ("CANCELLED", "cancelled"),
    "expire": ("EXPIRED", "expired"),
}


class Refused(Exception):
    """Carries the answer of a call that is not accepted."""

    def __init__(self, status: int, error: str) -> None:
        self.response = reply({"error": error}, status)


@dataclass
class Payment:
    charge: Charge
    request: tuple[str, bytes]  # request id and body, to know a repeat
    callback_url: str
    expires_in_seconds: int
    amount: int
    currency: str
    state: str = "AWAITING_CUSTOMER"
    ledger_entry_id: str | None = None

    @property
    def told(self) -> dict[str, Any]:
        """What every status and every event says."""
        return {
            "sbp_txn_ref": self.charge.id,
            "reference": self.charge.reference,
            "amount_cents": self.amount,
            "currency": self.currency,
        }


class StandardBankPay:
    name = "standardbank_pay"

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.payments: dict[str, Payment] = {}
        self.by_reference: dict[str, Payment] = {}

    def reset(self) -> None:
        self.payments.clear()
        self.by_reference.clear()

    def routes(self) -> list[Route]:
        calls = [
            ("POST", "/api/v1/payments/initiate", self.initiate),
            ("GET", "/api/v1/payments/{sbp_txn_ref}/status", self.status),
        ]
        return [Route(path, self.guarded(endpoint), methods=[method]) for method, path, endpoint in calls]

    def guarded(self, endpoint: Any) -> Any:
        async def call(request: Request) -> Response:
            try:
                self.authenticate(request, await request.body())
                answer: Response = await endpoint(request)
            except Refused as refused:
                return refused.response
            return answer

        return call

    def authenticate(self, request: Request, body: bytes) -> None:
        settings, headers = self.simulation.settings, request.headers
        known = f"Bearer {settings.standardbank_pay_api_key}"
        if not equal(headers.get("authorization", ""), known) or not equal(
            headers.get("x-sbp-client-id", ""), settings.standardbank_pay_client_id
        ):
            raise Refused(401, "Invalid API key")
        timestamp = headers.get("x-sbp-timestamp", "")
        path = request.url.path.removeprefix(request.scope.get("root_path", ""))
        text = f"{timestamp}.{request.method}.{path}.{hashlib.sha256(body).hexdigest()}"
        signature = sign(settings.standardbank_pay_signing_secret, text.encode())
        if not equal(headers.get("x-sbp-signature", ""), signature):
            raise Refused(401, "Invalid signature")
        window = self.simulation.behaviour.standardbank_pay_window_seconds
        if not timestamp.isdecimal() or abs(self.simulation.clock() - int(timestamp)) > window:
            raise Refused(401, "Stale timestamp")
        if not headers.get("x-sbp-request-id"):
            raise Refused(400, "Invalid request")

    # Collecting

    async def initiate(self, request: Request) -> Response:
        raw, request_id = await request.body(), request.headers["x-sbp-request-id"]
        body = read_order(raw)
        reference, amount, currency = body["reference"], body["amount_cents"], body["currency"]
        journal = self.simulation.journal
        taken = self.by_reference.get(reference)
        if taken is not None:
            repeated = taken.request == (request_id, raw)
            result = "replayed" if repeated else "duplicate"
            journal.submit(self.name, reference, amount, currency, taken.charge.outcome.name, result)
            if repeated:
                return self.initiated(taken)
            raise Refused(409, "Duplicate reference")
        decision = self.simulation.overrides.choose(self.name, "collect", [for_amount(amount)])
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        journal.submit(self.name, reference, amount, currency, outcome.name, result)
        if not outcome.charges:
            return failure(outcome.answer)
        payment = self.open(body, (request_id, raw), decision)
        return await self.simulation.answer(request, self, payment.charge, lambda: self.initiated(payment), failure)

    def open(self, body: dict[str, Any], request: tuple[str, bytes], decision: Decision) -> Payment:
        reference, amount, currency = body["reference"], body["amount_cents"], body["currency"]
        now = self.simulation.clock()
        charge = Charge(self.name, reference, f"sbp_{token(24)}", amount, currency, decision, now)
        payment = Payment(charge, request, body["callback_url"], body["expires_in_seconds"], amount, currency)
        self.payments[charge.id] = self.by_reference[reference] = payment
        self.simulation.journal.add(charge)
        return payment

    def initiated(self, payment: Payment) -> Response:
        answer = {
            "sbp_txn_ref": payment.charge.id,
            "processing_state": payment.state,
            "approval_url": f"{self.simulation.settings.base_url}/checkout/{self.name}/{payment.charge.id}",
            "expires_in_seconds": payment.expires_in_seconds,
            "meta": {"risk_score": "LOW"},
        }
        return reply(answer, 201)

    # Asking

    async def status(self, request: Request) -> Response:
        payment = self.payments.get(request.path_params["sbp_txn_ref"])
        answering = payment is None or payment.charge.outcome.queries
        if not (answering and self.simulation.behaviour.answer_queries):
            return failure("server_error")
        if payment is None:
            raise Refused(404, "Payment not found")
        self.expire_if_due(payment)
        state = {"processing_state": payment.state, "ledger_entry_id": payment.ledger_entry_id}
        return reply(payment.told | state)

    def expire_if_due(self, payment: Payment) -> None:
        ends_at = payment.charge.created_at + payment.expires_in_seconds
        if payment.state == "AWAITING_CUSTOMER" and ends_at <= self.simulation.clock():
            self.act(payment.charge, "expire")

    # What the customer does

    def act(self, charge: Charge, action: str) -> asyncio.Task[None] | None:
        payment = self.payments[charge.id]
        if action == "reverse":
            return self.reverse(payment)
        if charge.status == "paid":
            raise NotPossible("already paid")
        if action == "pay":
            return self.pay(payment)
        if action == "process":
            return None  # the bank has no word for it: it awaits the customer until it knows
        if action not in ENDS:
            raise NotPossible(f"a Standard Bank Pay payment knows no {action!r}")
        payment.state, charge.status = ENDS[action]
        charge.failure = action
        return self.notify(payment, [self.event(payment, payment.state)])

    def pay(self, payment: Payment) -> asyncio.Task[None] | None:
        charge = payment.charge
        outcome = charge.outcome
        if outcome.wrong_amount:
            payment.amount = max(charge.amount - charge.amount // 2, 1)
        if outcome.wrong_currency:
            payment.currency = "LSL" if charge.currency == "ZAR" else "ZAR"
        payment.state, payment.ledger_entry_id = "SETTLED", f"le_{token(16)}"
        charge.status, charge.failure, charge.money_taken = "paid", None, payment.amount
        events = [self.event(payment, "SETTLED")]
        if outcome.stale_event_after:
            events.append(self.event(payment, "DECLINED"))
        return self.notify(payment, events)

    def reverse(self, payment: Payment) -> asyncio.Task[None] | None:
        if payment.state != "SETTLED":
            raise NotPossible(f"the payment is {payment.state}")
        payment.state = "REVERSED"
        return self.notify(payment, [self.event(payment, "REVERSED")])

    def event(self, payment: Payment, state: str) -> dict[str, Any]:
        return {
            "event_id": f"sbpevt_{token(20)}",
            "event_type": f"PAYMENT_{state}",
            **payment.told,
            "details": {"ledger_entry_id": payment.ledger_entry_id},
        }

    def notify(self, payment: Payment, events: list[dict[str, Any]]) -> asyncio.Task[None] | None:
        """Copies carry the same event id."""
        outcome = payment.charge.outcome
        if not outcome.webhooks:
            return None
        secret = self.simulation.settings.standardbank_pay_signing_secret
        if not outcome.valid_signature:
            secret += "_another"
        messages = [
            Message(
                provider=self.name,
                event=event["event_type"],
                reference=payment.charge.reference,
                url=payment.callback_url,
                body=orjson.dumps(event),
                headers=lambda body: webhook_headers(secret, body, int(self.simulation.clock())),
                retries=self.simulation.behaviour.webhook_retries,
                identity=event["event_id"],
            )
            for event in events
        ]
        return self.simulation.webhooks.send([item for item in messages for _ in range(outcome.copies)])

    # The approval page

    def checkout(self, sbp_txn_ref: str) -> Payment:
        payment = self.payments.get(sbp_txn_ref)
        if payment is None:
            raise NoSuchCharge(sbp_txn_ref)
        self.expire_if_due(payment)
        return payment


def read_order(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise Refused(400, "Invalid request")
    amount, seconds, customer = body.get("amount_cents"), body.get("expires_in_seconds"), body.get("customer")
    if type(amount) is not int or amount <= 0:
        raise Refused(400, "Invalid amount")
    if body.get("currency") not in CURRENCIES:
        raise Refused(400, "Invalid currency")
    if not isinstance(customer, dict) or not is_customer(customer):
        raise Refused(400, "Invalid customer")
    if (
        not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", str(body.get("reference")))
        or not re.fullmatch(r"https?://\S+", str(body.get("callback_url")))
        or type(seconds) is not int
        or not 1 <= seconds <= LONGEST_SESSION_SECONDS
    ):
        raise Refused(400, "Invalid request")
    if amount > DAILY_LIMIT_CENTS:
        raise Refused(422, "Amount exceeds daily limit")
    return body


def is_customer(customer: dict[str, Any]) -> bool:
    phone, email = customer.get("msisdn"), customer.get("email")
    right = re.fullmatch(r"[1-9]\d{7,14}", str(phone or "")) is not None, "@" in str(email or "")
    return any(right) and (phone is None or right[0]) and (email is None or right[1])


def failure(kind: str) -> Response:
    match kind:
        case "html_error":
            return html_error()
        case "rate_limited":
            return reply({"error": "Too many requests"}, 429, {"Retry-After": "1"})
        case "refuse":
            return reply({"error": "Amount exceeds daily limit"}, 422)
        case _:
            return reply({"error": "Internal error"}, 500)


def sign(secret: str, signed: bytes) -> str:
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def webhook_headers(secret: str, body: bytes, timestamp: int) -> Headers:
    signature = sign(secret, b"%d.%b" % (timestamp, body))
    return {"Content-Type": "application/json", "X-SBP-Timestamp": str(timestamp), "X-SBP-Signature": signature}


def equal(given: str, known: str) -> bool:
    return hmac.compare_digest(given.encode(), known.encode())
