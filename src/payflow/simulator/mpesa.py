"""M-Pesa Daraja under `/mpesa`: token, STK push, STK query, and the unsigned callback to the request's own CallBackURL.

Payouts, reversals and the status of either are in mpesa_initiator.py, payments without an order in mpesa_c2b.py.

Kept as the platform has it: a bad token is 404 here, `500.001.1001` says five different things, `ResultCode` is a
number in the callback and text in the query, and neither tells the account reference.
"""

import asyncio
import base64
import hmac
import re
import secrets
from collections import deque
from datetime import datetime, timedelta, timezone
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payflow.simulator.mpesa_c2b import Alone
from payflow.simulator.mpesa_initiator import Initiator
from payflow.simulator.mpesa_objects import (
    ENDS,
    RESULTS,
    Push,
    Refused,
    accepted,
    callback,
    decoded,
    error,
    failure,
    is_callback_url,
    is_phone,
    is_timestamp,
    metadata,
    read_body,
    receipt,
    refuse_first_invalid,
    result_of,
)
from payflow.simulator.outcomes import MAGIC_PHONES, Decision, for_amount
from payflow.simulator.state import Charge, NotPossible, Simulation, reply, token
from payflow.simulator.webhooks import Message

NAIROBI = timezone(timedelta(hours=3))
TOKEN_SECONDS = 3599
TOKEN_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"  # noqa: S105
MAX_SHILLINGS = 250_000


class Mpesa:
    name = "mpesa"

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.pushes: dict[str, Push] = {}
        self.tokens: dict[str, float] = {}
        self.calls: deque[float] = deque()
        self.initiator = Initiator(simulation, self)
        self.alone = Alone(simulation, self)

    def reset(self) -> None:
        for store in (self.pushes, self.tokens, self.calls, self.initiator.orders, self.alone.registered):
            store.clear()

    def routes(self) -> list[Route]:
        calls = [
            ("GET", "/oauth/v1/generate", self.generate_token),
            ("POST", "/mpesa/stkpush/v1/processrequest", self.push),
            ("POST", "/mpesa/stkpushquery/v1/query", self.query),
            ("POST", "/mpesa/b2c/v3/paymentrequest", self.initiator.pay_out),
            ("POST", "/mpesa/reversal/v1/request", self.initiator.reverse),
            ("POST", "/mpesa/transactionstatus/v1/query", self.initiator.status),
            ("POST", "/mpesa/c2b/v2/registerurl", self.alone.register),
            ("POST", "/mpesa/c2b/v2/simulate", self.alone.simulate),
        ]
        return [Route(path, self.guarded(endpoint), methods=[method]) for method, path, endpoint in calls]

    def guarded(self, endpoint: Any) -> Any:
        async def call(request: Request) -> Response:
            if self.too_fast():
                return failure("rate_limited")
            try:
                answer: Response = await endpoint(request)
            except Refused as refused:
                return refused.response
            return answer

        return call

    def too_fast(self) -> bool:
        limit = self.simulation.behaviour.mpesa_requests_per_minute
        if limit is None:
            return False
        now = self.simulation.clock()
        while self.calls and self.calls[0] <= now - 60:
            self.calls.popleft()
        if len(self.calls) >= limit:
            return True
        self.calls.append(now)
        return False

    # Token

    async def generate_token(self, request: Request) -> Response:
        if request.query_params.get("grant_type") != "client_credentials":
            return error(400, "400.008.02", "Invalid grant type passed")
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return error(400, "400.008.01", "Invalid Authentication passed")
        settings = self.simulation.settings
        known = f"{settings.mpesa_consumer_key}:{settings.mpesa_consumer_secret}"
        if not hmac.compare_digest(decoded(encoded), known.encode()):
            return Response(status_code=400)  # wrong credentials come without a body
        if self.simulation.behaviour.mpesa_one_token_at_a_time:
            self.tokens.clear()
        access_token = token(28, TOKEN_ALPHABET)
        self.tokens[access_token] = self.simulation.clock() + TOKEN_SECONDS
        as_text = self.simulation.behaviour.mpesa_expires_in_as_text
        return reply({"access_token": access_token, "expires_in": str(TOKEN_SECONDS) if as_text else TOKEN_SECONDS})

    def authenticate(self, request: Request, status: int = 404, code: str = "404.001.03") -> None:
        """An invalid token has another status and code at each product."""
        scheme, _, access_token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not access_token:
            raise Refused(error(404, "404.001.04", "Invalid Authentication Header"))
        if self.tokens.get(access_token.strip(), 0) < self.simulation.clock():
            raise Refused(error(status, code, "Invalid Access Token"))

    # STK push

    async def push(self, request: Request) -> Response:
        self.authenticate(request)
        body = await read_body(request)
        self.check_push(body)
        phone, shillings, reference = str(body["PhoneNumber"]), int(body["Amount"]), str(body["AccountReference"])
        magic = [MAGIC_PHONES.get(phone), for_amount(shillings)]
        decision = self.simulation.overrides.choose(self.name, "collect", magic)
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        self.simulation.journal.submit(self.name, reference, shillings * 100, "KES", outcome.name, result)
        if not outcome.charges:
            return failure(outcome.answer)
        push = self.open(reference, phone, shillings, str(body["CallBackURL"]), decision)
        return await self.simulation.answer(request, self, push.charge, lambda: accepted(push), failure)

    def check_push(self, body: dict[str, Any]) -> None:
        self.check_merchant_fields(body)
        kinds = ("CustomerPayBillOnline", "CustomerBuyGoodsOnline")
        amount = str(body.get("Amount"))
        checks = {
            "TransactionType": body.get("TransactionType") in kinds,
            "Amount": amount.isdecimal() and 1 <= int(amount) <= MAX_SHILLINGS,
            "PartyA": is_phone(body.get("PartyA")),
            "PartyB": re.fullmatch(r"\d{5,7}", str(body.get("PartyB"))) is not None,
            "PhoneNumber": is_phone(body.get("PhoneNumber")),
            "CallBackURL": is_callback_url(body.get("CallBackURL")),
            "AccountReference": 1 <= len(str(body.get("AccountReference") or "")) <= 12,
            "TransactionDesc": len(str(body.get("TransactionDesc") or "")) <= 13,
        }
        refuse_first_invalid(checks)
        self.check_credentials(body)
        if self.simulation.behaviour.mpesa_lock_subscriber and self.is_busy(str(body["PhoneNumber"])):
            message = "Unable to lock subscriber, a transaction is already in process for the current subscriber"
            raise Refused(error(500, "500.001.1001", message))

    def check_merchant_fields(self, body: dict[str, Any]) -> None:
        refuse_first_invalid({
            "BusinessShortCode": re.fullmatch(r"\d{5,7}", str(body.get("BusinessShortCode"))) is not None,
            "Password": bool(body.get("Password")),
            "Timestamp": is_timestamp(body.get("Timestamp")),
        })  # fmt: skip

    def check_credentials(self, body: dict[str, Any]) -> None:
        settings = self.simulation.settings
        if str(body["BusinessShortCode"]) != settings.mpesa_shortcode:
            raise Refused(error(500, "500.001.1001", "Merchant does not exist"))
        plain = f"{settings.mpesa_shortcode}{settings.mpesa_passkey}{body['Timestamp']}".encode()
        if not hmac.compare_digest(str(body["Password"]).encode(), base64.b64encode(plain)):
            raise Refused(error(500, "500.001.1001", "[MerchantValidate] - Wrong credentials"))

    def is_busy(self, phone: str) -> bool:
        return any(push.phone == phone and push.result is None for push in self.pushes.values())

    def open(self, reference: str, phone: str, shillings: int, callback_url: str, decision: Decision) -> Push:
        milliseconds = self.simulation.next_id()  # strictly rising, so two pushes of one moment differ
        moment = datetime.fromtimestamp(milliseconds // 1000, NAIROBI)
        checkout_id = f"ws_CO_{moment:%d%m%Y%H%M%S}{milliseconds % 1000:03d}{phone[3:]}"
        part = secrets.token_hex
        merchant_id = f"{part(2)}-{part(2)}-{part(2)}-{part(6)}{milliseconds % 10000:04d}"
        now = self.simulation.clock()
        charge = Charge(self.name, reference, checkout_id, shillings * 100, "KES", decision, now)
        push = Push(charge, checkout_id, merchant_id, phone, shillings, callback_url)
        self.pushes[checkout_id] = push
        self.simulation.journal.add(charge, merchant_id)
        return push

    # STK query

    async def query(self, request: Request) -> Response:
        self.authenticate(request)
        body = await read_body(request)
        self.check_merchant_fields(body)
        self.check_credentials(body)
        checkout_id = str(body.get("CheckoutRequestID") or "")
        refuse_first_invalid({"CheckoutRequestID": checkout_id.startswith("ws_CO_")})
        push = self.pushes.get(checkout_id)
        if not self.simulation.behaviour.answer_queries or (push and not push.charge.outcome.queries):
            return failure("server_error")
        if push is None:
            return error(500, "500.001.1001", "The transaction does not Exist")
        return self.status(push)

    def status(self, push: Push) -> Response:
        if push.result is not None:
            code, description = str(push.result[0]), push.result[2]
        elif self.simulation.behaviour.mpesa_in_flight_answer == "4999":
            code, description = "4999", "The transaction is still under processing"
        else:
            return error(500, "500.001.1001", "The transaction is being processed")
        return reply(
            {
                "ResponseCode": "0",
                "ResponseDescription": "The service request has been accepted successfully",
                "MerchantRequestID": push.merchant_id,
                "CheckoutRequestID": push.checkout_id,
                "ResultCode": code,
                "ResultDesc": description,
            }
        )

    # What the customer does

    def act(self, charge: Charge, action: str) -> asyncio.Task[None] | None:
        """Besides the common actions: `code_1019` ends the push with that result code."""
        order = self.initiator.orders.get(charge.reference)
        if order is not None and order.charge is charge:
            return self.initiator.act(order, action)
        push = self.pushes.get(charge.id)
        if push is None:
            raise NotPossible("it was made by the customer alone")
        if charge.status == "paid":
            raise NotPossible("already paid")
        if action == "pay":
            return self.pay(push)
        result = result_of("decline" if action == "fail" else action)
        push.result = result
        charge.status, charge.failure = ENDS.get(action, "failed"), str(result[0])
        return self.notify(push, [callback(push, result)])

    def pay(self, push: Push) -> asyncio.Task[None] | None:
        outcome, charge = push.charge.outcome, push.charge
        push.result = RESULTS["pay"]
        push.receipt = receipt(self.now())
        push.paid_shillings = push.shillings - push.shillings // 2 if outcome.wrong_amount else push.shillings
        if outcome.wrong_amount and push.paid_shillings == push.shillings:
            push.paid_shillings += 1  # one shilling cannot be halved
        charge.status, charge.failure, charge.money_taken = "paid", None, push.paid_shillings * 100
        self.simulation.journal.aliases[self.name, push.receipt] = charge
        bodies = [callback(push, push.result, metadata(push, self.now()))]
        if outcome.stale_event_after:
            bodies.append(callback(push, RESULTS["expire"]))
        self.alone.paid_by_prompt(push)
        return self.notify(push, bodies)

    def notify(self, push: Push, bodies: list[dict[str, Any]]) -> asyncio.Task[None] | None:
        outcome = push.charge.outcome
        if not outcome.webhooks:
            return None
        messages = [
            self.message(
                push.charge.reference,
                f"stkCallback {body['Body']['stkCallback']['ResultCode']}",
                push.callback_url,
                body,
            )
            for body in bodies
        ]
        return self.simulation.webhooks.send([item for item in messages for _ in range(outcome.copies)])

    # What the other two parts need

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.simulation.clock(), NAIROBI)

    def paid_push(self, receipt: str) -> Push | None:
        return next((push for push in self.pushes.values() if receipt and push.receipt == receipt), None)

    def message(self, reference: str, event: str, url: str, body: Any) -> Message:
        shortcode = self.simulation.settings.mpesa_shortcode
        headers = {"Content-Type": "application/json;charset=UTF-8", "Businessshortcode": shortcode}
        return Message(
            provider=self.name,
            event=event,
            reference=reference,
            url=url,
            body=orjson.dumps(body),
            headers=lambda _: headers,
            retries=self.simulation.behaviour.mpesa_callback_retries,
        )

    def post(self, reference: str, event: str, url: str, body: Any, copies: int) -> asyncio.Task[None] | None:
        return self.simulation.webhooks.send([self.message(reference, event, url, body)] * copies)
