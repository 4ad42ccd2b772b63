"""C-Pay under `/cpay`: USSD push, OTP with its confirmation, card by link, money sent to wallets, status query, and the
unsigned callback.

Kept as the platform has it: a created card link is HTTP 400 with StatusCode 202, the envelope stands in `return` and in
PascalCase (`cpay_camel_case` for the documented other form), a status answer tells no amount, an OTP payment calls
nobody back. What is not documented (the words of most refusals, a repeated id) is the simulator's own choice.

With OTP the money moves at the confirmation, so that there the outcome's late, lost and failing answers come.
"""

import asyncio
import hashlib
import hmac
import re
from dataclasses import dataclass
from html import escape
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from payflow.simulator.outcomes import for_amount
from payflow.simulator.pages import NOT_REAL, not_found, page, read_action
from payflow.simulator.state import Charge, NotPossible, Simulation, html_error, reply, token
from payflow.simulator.webhooks import Message

AMOUNT = re.compile(r"(\d{1,10})\.(\d\d)")
MSISDN = re.compile(r"(?:\+266)?[56]\d{7}")
OPERATORS = ("CPAY", "mpesa", "ecocash", "mywallet", "khetsi")
ENDS = {
    "pay": ("paid", "processed", "paymentComplete"),
    "decline": ("failed", "denied", "paymentDenied"),
    "fail": ("failed", "failed", "paymentFailed"),
    "insufficient_funds": ("failed", "denied", "insufficientFunds"),
    "cancel": ("cancelled", "canceled", "paymentCanceled"),
    "expire": ("expired", "expired", "paymentExpired"),
}


@dataclass
class Order:
    charge: Charge
    method: str
    msisdn: str
    amount: str
    redirect_url: str
    code: str
    status: str
    reason: str
    cpay_id: str | None = None


class Cpay:
    name = "cpay"

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.orders: dict[str, Order] = {}

    def reset(self) -> None:
        self.orders.clear()

    def routes(self) -> list[Route]:
        return [
            Route("/api/cpaypayments/paymentrequest/async/transactions", self.push, methods=["POST"]),
            Route("/api/cpaypayments/payment", self.pay_now, methods=["POST"]),
            Route("/api/cpaypayments/confirm", self.confirm, methods=["POST"]),
            Route("/api/cpaypayments/transaction-status", self.status, methods=["GET"]),
            Route("/api/disbursements/wallet-topup-advance", self.top_up, methods=["POST"]),
            Route("/card/{code}", self.card_page, methods=["GET"]),
            Route("/card/{code}", self.card_answer, methods=["POST"]),
        ]

    # Answers

    def envelope(self, status: int, code: str, headers: dict[str, str] | None = None, **told: Any) -> Response:
        fields = {"StatusCode": code, **told}
        if self.simulation.behaviour.cpay_camel_case:
            return reply({name[0].lower() + name[1:]: value for name, value in fields.items()}, status, headers)
        return reply({"return": fields}, status, headers)

    def refusal(self, status: int, reason: str, description: str) -> Response:
        return self.envelope(status, str(status), ReasonCode=reason, Description=description)

    def failure(self, kind: str) -> Response:
        match kind:
            case "html_error":
                return html_error()
            case "refuse":
                return self.refusal(400, "walletNotFound", "Wallet account does not exist")
            case "rate_limited":
                return Response(status_code=429)
            case _:
                return self.refusal(500, "internalError", "An error occurred")

    def told(self, order: Order) -> dict[str, Any]:
        return {
            "ReasonCode": order.reason,
            "ExtTransactionId": order.charge.reference,
            "CPayTransactionId": order.cpay_id,
            "PaymentRequestStatus": order.status,
        }

    # Orders

    async def push(self, request: Request) -> Response:
        return await self.order(request, "ussd", "open", "")

    async def pay_now(self, request: Request) -> Response:
        if request.query_params.get("cardPayment") == "true":
            return await self.order(request, "card", "open", "paymentIncomplete")
        return await self.order(request, "otp", "OTPSEND", "paymentIncomplete")

    async def order(self, request: Request, method: str, status: str, reason: str) -> Response:
        body = await self.read(request)
        if isinstance(body, Response):
            return body
        if refused := self.refuse(body, otp=""):
            return refused
        reference, minor = body["extTransactionId"], int(body["amount"].replace(".", ""))
        if reference in self.orders:
            self.simulation.journal.submit(self.name, reference, minor, "LSL", "-", "duplicate")
            return self.refusal(400, "duplicateTransaction", "extTransactionId must be unique per request")
        decision = self.simulation.overrides.choose(self.name, "collect", [for_amount(minor)])
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        self.simulation.journal.submit(self.name, reference, minor, "LSL", outcome.name, result)
        if not outcome.charges:
            return self.failure(outcome.answer)
        identity = str(self.simulation.next_id())
        charge = Charge(self.name, reference, f"cp{identity}", minor, "LSL", decision, self.simulation.clock())
        order = Order(
            charge, method, body["msisdn"], body["amount"], body["redirectUrl"], token(24), status, reason
        )  # fmt: skip
        if method == "ussd":
            order.cpay_id = charge.id
        self.orders[reference] = order
        self.simulation.journal.add(charge)
        if method == "otp":  # the customer acts through the service, by its OTP
            told = self.told(order) | {"ReasonCode": "otpSent", "PaymentRequestStatus": None}
            return self.envelope(200, "200", Description="OTP sent", **told)
        return await self.simulation.answer(request, self, charge, lambda: self.accepted(order), self.failure)

    def accepted(self, order: Order) -> Response:
        if order.method == "ussd":
            return self.envelope(200, "200", Description="Payment request created", **self.told(order))
        url = f"{self.simulation.settings.base_url}/cpay/card/{order.code}"
        if self.simulation.behaviour.cpay_card_as_page:
            return HTMLResponse(f'<html><body><iframe width="100%" src="{escape(url)}"></iframe></body></html>', 202)
        return self.envelope(400, "202", {"RedirectUrl": url}, Description="Payment Link Created.")

    async def top_up(self, request: Request) -> Response:
        """Sends money to a wallet. Nobody has to confirm; it is accepted first, and ends later."""
        body = await self.read(request, wrappers=2)
        if isinstance(body, Response):
            return body
        query = request.query_params
        if query.get("destinationOperator", "CPAY") not in OPERATORS:
            return self.refusal(400, "validationError", "The field destinationOperator is invalid.")
        if not re.fullmatch(r"[56]\d{7}", query.get("destinationWalletNumber", "")):
            return self.refusal(400, "validationError", "The field destinationWalletNumber is invalid.")
        data = body.get("additionalData")
        if not isinstance(data, dict) or not isinstance(data.get("recipientKyc"), dict):
            return self.refusal(400, "validationError", "The field recipientKyc is invalid.")
        if refused := self.refuse(body | {"otpMedium": "sms"}, otp=""):
            return refused
        reference, minor = body["extTransactionId"], int(body["amount"].replace(".", ""))
        if reference in self.orders:
            self.simulation.journal.submit(self.name, reference, minor, "LSL", "-", "duplicate", "payout")
            return self.refusal(400, "duplicateTransaction", "extTransactionId must be unique per request")
        decision = self.simulation.overrides.choose(self.name, "payout", [for_amount(minor)])
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        self.simulation.journal.submit(self.name, reference, minor, "LSL", outcome.name, result, "payout")
        if not outcome.charges:
            return self.failure(outcome.answer)
        identity = f"cp{self.simulation.next_id()}"
        charge = Charge(self.name, reference, identity, minor, "LSL", decision, self.simulation.clock())
        order = Order(
            charge, "top_up", body["msisdn"], body["amount"], body["redirectUrl"], "", "open", "", charge.id
        )  # fmt: skip
        self.orders[reference] = order
        self.simulation.journal.add(charge)
        told = self.told(order) | {"ReasonCode": None, "PaymentRequestStatus": "ACCEPTED", "additionalData": {}}

        def accepted() -> Response:
            return self.envelope(200, "0000", Description="Success", **told)

        return await self.simulation.answer(request, self, charge, accepted, self.failure)

    async def read(self, request: Request, wrappers: int = 1) -> dict[str, Any] | Response:
        """The key comes before the body, and the body is always wrapped, that of money sent twice."""
        if refused := self.unauthorized(request):
            return refused
        try:
            body = orjson.loads(await request.body())
        except orjson.JSONDecodeError:
            body = None
        for _ in range(wrappers):
            body = body.get("transactionRequest") if isinstance(body, dict) and len(body) == 1 else None
        if not isinstance(body, dict):
            return self.refusal(400, "validationError", "The transactionRequest field is required.")
        return body

    def unauthorized(self, request: Request) -> Response | None:
        known = self.simulation.settings.cpay_api_key
        given = request.headers.get("authorization", "")
        return None if hmac.compare_digest(given.encode(), known.encode()) else Response(status_code=401)

    def refuse(self, body: dict[str, Any], otp: str) -> Response | None:
        """What is wrong with a body, if anything; the checksum comes last, over the words as they were sent."""
        confirms = bool(otp)
        checks = {
            "extTransactionId": bool(text(body, "extTransactionId")),
            "msisdn": MSISDN.fullmatch(text(body, "msisdn")) is not None,
            "amount": is_amount(text(body, "amount")),
            "currency": body.get("currency") == "LSL",
            "shortDescription": confirms or 1 <= len(text(body, "shortDescription")) <= 20,
            "otpMedium": confirms or body.get("otpMedium") in ("sms", "email"),
            "redirectUrl": confirms or text(body, "redirectUrl").startswith(("http://", "https://")),
            "subscriptions": "subscriptions" not in body,
        }
        if invalid := [name for name, valid in checks.items() if not valid]:
            return self.refusal(400, "validationError", f"The field {invalid[0]} is invalid.")
        settings = self.simulation.settings
        if body.get("clientCode") != settings.cpay_client_code:
            return self.refusal(404, "clientNotFound", "Client code not found")
        salt = "".join(text(body, name) for name in ("extTransactionId", "clientCode", "amount", "msisdn")) + otp
        known = hmac.new(settings.cpay_secret.encode(), salt.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(text(body, "checksum").encode(), known.encode()):
            return self.refusal(400, "invalidChecksum", "Transaction Checksum is invalid")
        return None

    async def confirm(self, request: Request) -> Response:
        body = await self.read(request)
        if isinstance(body, Response):
            return body
        otp = text(body, "otp")
        if not otp:
            return self.refusal(400, "validationError", "The field otp is invalid.")
        if refused := self.refuse(body, otp):
            return refused
        order = self.orders.get(body["extTransactionId"])
        if order is None or order.method != "otp" or (order.msisdn, order.amount) != (body["msisdn"], body["amount"]):
            return self.refusal(404, "transactionNotFound", "Transaction not found")
        told: dict[str, Any] = {"ExtTransactionId": order.charge.reference, "PaymentRequestStatus": None}
        if order.charge.status != "pending":
            return self.envelope(422, "422", ReasonCode="alreadyConfirmed", Description="Not open any more", **told)
        if otp != self.simulation.behaviour.cpay_otp:
            return self.envelope(422, "422", ReasonCode="invalidPassword", Description="Invalid OTP", **told)
        return await self.settle(request, order)

    async def settle(self, request: Request, order: Order) -> Response:
        """The right OTP: what the customer's outcome is, the wallet does at once."""
        outcome = order.charge.outcome
        if not outcome.customer:
            return self.refusal(424, "dependencyFailed", "Failed dependency")
        self.act(order.charge, outcome.customer[-1])
        told = self.told(order)
        if order.charge.status == "paid":
            told["ReasonCode"] = "paymentSuccessful"
            answer = self.envelope(200, "200", Description="Payment successful", **told)
        else:
            answer = self.envelope(422, "422", Description="Payment declined", **told)
        return await self.simulation.deliver_answer(request, order.charge.decision, answer, self.failure)

    async def status(self, request: Request) -> Response:
        if refused := self.unauthorized(request):
            return refused
        order = self.orders.get(request.query_params.get("requestReference", ""))
        if not self.simulation.behaviour.answer_queries or (order and not order.charge.outcome.queries):
            return self.failure("server_error")
        if order is None:
            return self.refusal(404, "transactionNotFound", "Transaction not found")
        return self.envelope(200, "200", additionalData={}, **self.told(order))

    # What the customer does

    def act(self, charge: Charge, action: str) -> asyncio.Task[None] | None:
        """Besides the common actions: `reverse` a paid one, as C-Pay's support does."""
        order = self.orders[charge.reference]
        if action == "reverse" and charge.status == "paid":
            order.status, order.reason, charge.money_taken = "reversed", "paymentReversed", 0
            charge.status = "failed" if order.method == "top_up" else charge.status
            return self.notify(order)
        if charge.status == "paid":
            raise NotPossible("already paid")
        if action not in ENDS:
            raise NotPossible(f"a C-Pay order knows no {action!r}")
        charge.status, order.status, order.reason = ENDS[action]
        charge.failure = None if action == "pay" else order.reason
        if action == "pay":
            charge.money_taken, order.cpay_id = 0 if order.method == "top_up" else charge.amount, charge.id
        return self.notify(order)

    def notify(self, order: Order) -> asyncio.Task[None] | None:
        outcome = order.charge.outcome
        if not outcome.webhooks or order.method == "otp":
            return None
        bodies = [self.callback(order, order.status, order.reason)]
        if outcome.stale_event_after:
            bodies.append(self.callback(order, "open", "paymentIncomplete"))
        messages = [
            Message(
                provider=self.name,
                event=body["paymentRequestStatus"],
                reference=order.charge.reference,
                url=order.redirect_url,
                body=orjson.dumps(body),
                headers=lambda _: {"Content-Type": "application/json"},
                retries=self.simulation.behaviour.webhook_retries,
            )
            for body in bodies
        ]
        return self.simulation.webhooks.send([item for item in messages for _ in range(outcome.copies)])

    def callback(self, order: Order, status: str, reason: str) -> dict[str, Any]:
        return {
            "extTransactionId": order.charge.reference,
            "cPayTransactionId": order.cpay_id,
            "paymentRequestStatus": status,
            "statusCode": "200",
            "reasonCode": reason,
            "description": "",
            "additionalData": {},
        }

    # The page behind a card link

    def by_code(self, code: str) -> Order | None:
        return next((order for order in self.orders.values() if order.method == "card" and order.code == code), None)

    async def card_page(self, request: Request) -> Response:
        order = self.by_code(request.path_params["code"])
        return page("C-Pay card payment", order.charge, NOT_REAL) if order else not_found()

    async def card_answer(self, request: Request) -> Response:
        order, action = self.by_code(request.path_params["code"]), await read_action(request)
        if order is None:
            return not_found()
        if order.charge.customer is not None:
            order.charge.customer.cancel()
        try:
            if action is not None:
                self.act(order.charge, action)
        except NotPossible as error:
            return page("C-Pay card payment", order.charge, f"Nothing was changed: {error}.")
        return page("C-Pay card payment", order.charge, f"Now {order.charge.status}.")


def is_amount(value: str) -> bool:
    """Always two decimals, and more than nothing."""
    return AMOUNT.fullmatch(value) is not None and value.strip("0") != "."


def text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    return value if isinstance(value, str) else ""
