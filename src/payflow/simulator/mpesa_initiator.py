"""What an initiator orders at Daraja: B2C payouts, reversals and the status of a transaction.

All are acknowledged, and told once to ResultURL. A wrong SecurityCredential shows only there.
"""

import asyncio
import hmac
from collections.abc import Awaitable
from datetime import datetime
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from starlette.requests import Request
from starlette.responses import Response

from payflow.simulator import mpesa_results as shapes
from payflow.simulator.mpesa_objects import (
    Push,
    Refused,
    decoded,
    error,
    failure,
    is_callback_url,
    is_phone,
    read_body,
    receipt,
    refuse_first_invalid,
)
from payflow.simulator.mpesa_results import Order
from payflow.simulator.outcomes import Decision, Operation, for_amount
from payflow.simulator.state import Charge, NotPossible, Simulation
from payflow.simulator.state import Provider as Half

COMMANDS = ("SalaryPayment", "BusinessPayment", "PromotionPayment")
MIN_PAYOUT, MAX_SHILLINGS = 10, 250_000


class Office(Half, Protocol):
    """What this half needs of the one that has the tokens and the prompts."""

    def authenticate(self, request: Request, status: int, code: str) -> None: ...
    def paid_push(self, receipt: str) -> Push | None: ...
    def now(self) -> datetime: ...
    def post(self, reference: str, event: str, url: str, body: Any, copies: int) -> asyncio.Task[None] | None: ...


class Initiator:
    def __init__(self, simulation: Simulation, office: Office) -> None:
        self.simulation = simulation
        self.office = office
        self.orders: dict[str, Order] = {}

    async def pay_out(self, request: Request) -> Response:
        self.office.authenticate(request, 401, "401.002.01")
        body = await read_body(request)
        originator = body.get("OriginatorConversationID")
        refuse_first_invalid({
            "OriginatorConversationID": isinstance(originator, str) and 1 <= len(originator) <= 100,
            **self.common_checks(body, "InitiatorName"),
            "CommandID": body.get("CommandID") in COMMANDS,
            "Amount": is_amount(body.get("Amount"), MIN_PAYOUT),
            "PartyA": str(body.get("PartyA")) == self.simulation.settings.mpesa_shortcode,
            "PartyB": is_phone(body.get("PartyB")),
            "Occassion": len(str(body.get("Occassion") or "")) <= 100,
        })  # fmt: skip
        reference = str(originator)
        if reference in self.orders:
            self.submit("payout", reference, body, "duplicate", "duplicate")
            raise Refused(error(500, "500.002.1001", "Duplicate OriginatorConversationID."))
        decision = self.simulation.overrides.choose("mpesa", "payout", [for_amount(int(body["Amount"]))])
        if not self.submit("payout", reference, body, decision.outcome.name, by=decision):
            return failure(decision.outcome.answer)
        order = self.open("payout", reference, reference, body, decision)
        order.phone = str(body["PartyB"])
        return await self.answer(request, order)

    async def reverse(self, request: Request) -> Response:
        self.office.authenticate(request, 404, "404.001.03")
        body = await read_body(request)
        original = str(body.get("TransactionID") or "")
        refuse_first_invalid({
            **self.common_checks(body, "Initiator"),
            "CommandID": body.get("CommandID") == "TransactionReversal",
            "TransactionID": 1 <= len(original) <= 20,
            "Amount": is_amount(body.get("Amount"), 1),
            "ReceiverParty": str(body.get("ReceiverParty")) == self.simulation.settings.mpesa_shortcode,
            "RecieverIdentifierType": str(body.get("RecieverIdentifierType")) == "11",
        })  # fmt: skip
        decision = self.simulation.overrides.choose("mpesa", "refund", [for_amount(int(body["Amount"]))])
        push = self.office.paid_push(original)
        reference = push.charge.reference if push else original
        if not self.submit("refund", reference, body, decision.outcome.name, by=decision):
            return failure(decision.outcome.answer)
        originator = shapes.originator_id()
        order = self.open("refund", originator, originator, body, decision)
        order.original = original
        return await self.answer(request, order)

    async def status(self, request: Request) -> Response:
        self.office.authenticate(request, 400, "400.003.01")
        body = await read_body(request)
        wanted = str(body.get("OriginalConversationID") or body.get("TransactionID") or "")
        refuse_first_invalid({
            **self.common_checks(body, "Initiator"),
            "CommandID": body.get("CommandID") == "TransactionStatusQuery",
            "TransactionID": bool(wanted),
            "PartyA": str(body.get("PartyA")) == self.simulation.settings.mpesa_shortcode,
            "IdentifierType": str(body.get("IdentifierType")) in ("1", "2", "4"),
        })  # fmt: skip
        order = self.find(wanted)
        if not self.simulation.behaviour.answer_queries or (order and not order.charge.outcome.queries):
            return failure("server_error")
        ids = (shapes.originator_id(), shapes.conversation_id(self.office.now()))
        told = shapes.status_result(order, ids, self.office.now())
        work = self.later(
            "transaction status", order.charge.reference if order else wanted, str(body["ResultURL"]), told
        )
        self.simulation.tasks.spawn(work)
        return shapes.acknowledged(*ids)

    async def later(self, event: str, reference: str, url: str, body: dict[str, Any]) -> None:
        await asyncio.sleep(self.simulation.behaviour.customer_delay_seconds)
        self.office.post(reference, event, url, body, 1)

    def find(self, name: str) -> Order | None:
        known = (order for order in self.orders.values() if name in (order.conversation_id, order.receipt))
        return self.orders.get(name) or next(known, None)

    def common_checks(self, body: dict[str, Any], initiator: str) -> dict[str, bool]:
        return {
            initiator: body.get(initiator) == self.simulation.settings.mpesa_initiator_name,
            "SecurityCredential": shapes.is_security_credential(body.get("SecurityCredential")),
            "Remarks": 2 <= len(str(body.get("Remarks") or "")) <= 100,
            "QueueTimeOutURL": is_callback_url(body.get("QueueTimeOutURL")),
            "ResultURL": is_callback_url(body.get("ResultURL")),
        }

    def submit(
        self,
        operation: Operation,
        reference: str,
        body: dict[str, Any],
        outcome: str,
        result: str = "",
        by: Decision | None = None,
    ) -> bool:
        """Whether the order is taken."""
        taken = by is not None and by.outcome.charges
        minor = int(body["Amount"]) * 100
        word = result or ("charged" if taken else "refused")
        self.simulation.journal.submit("mpesa", reference, minor, "KES", outcome, word, operation=operation)
        return taken

    def open(self, kind: str, reference: str, originator: str, body: dict[str, Any], decision: Decision) -> Order:
        shillings, conversation = int(body["Amount"]), shapes.conversation_id(self.office.now())
        charge = Charge("mpesa", reference, conversation, shillings * 100, "KES", decision, self.simulation.clock())
        order = Order(
            charge,
            kind,
            originator,
            shillings,
            result_url=str(body["ResultURL"]),
            timeout_url=str(body["QueueTimeOutURL"]),
            credential_fits=self.credential_fits(str(body["SecurityCredential"])),
        )
        self.orders[originator] = order
        if kind == "payout":
            self.simulation.journal.add(charge)
        else:  # no charge of its own: it is counted at the payment
            self.simulation.journal.aliases.update({("mpesa", name): charge for name in (originator, charge.id)})
        return order

    def credential_fits(self, credential: str) -> bool:
        """Only with the private key of the certificate in use can it be looked into."""
        settings = self.simulation.settings
        if not settings.mpesa_private_key:
            return True
        key = load_pem_private_key(settings.mpesa_private_key.encode(), None)
        assert isinstance(key, RSAPrivateKey)
        try:
            password = key.decrypt(decoded(credential), PKCS1v15())
        except ValueError:
            return False
        return hmac.compare_digest(password, settings.mpesa_initiator_password.encode())

    def answer(self, request: Request, order: Order) -> Awaitable[Response]:
        ack = shapes.acknowledged(order.originator_id, order.conversation_id)
        return self.simulation.answer(request, self.office, order.charge, lambda: ack, failure)

    # What becomes of it

    def act(self, order: Order, action: str) -> asyncio.Task[None] | None:
        """Besides the common actions: `timeout` is the queue's (`timeout_told_as_failure` with the body of a result),
        `code_2006` ends the order with that result code."""
        if order.ended is not None:
            raise NotPossible("it has ended")
        if action == "timeout":
            return self.tell(order, "queue timeout", order.timeout_url, shapes.timeout_notice(order))
        if action == "timeout_told_as_failure":
            notice = shapes.timeout_as_result(order, self.office.now())
            return self.tell(order, "queue timeout", order.timeout_url, notice)
        order.ended = self.end(order, "decline" if action == "fail" else action)
        order.charge.status = "paid" if order.ended[0] == 0 else "failed"
        payer = ""
        if order.ended[0] == 0:
            order.receipt = receipt(self.office.now())
            payer = self.move_money(order)
        else:
            order.charge.failure = str(order.ended[0])
        event = f"{order.kind} result {order.ended[0]}"
        return self.tell(order, event, order.result_url, shapes.result(order, self.office.now(), payer))

    def end(self, order: Order, action: str) -> shapes.Ending:
        ended = shapes.ending(order, action)
        if not order.credential_fits:
            return shapes.WRONG_CREDENTIAL
        if order.kind == "payout" or ended[0] != 0:
            return ended
        push = self.office.paid_push(order.original)
        if push is None:
            return shapes.NO_ORIGINAL
        return shapes.ALREADY_REVERSED if push.charge.refunded else ended

    def move_money(self, order: Order) -> str:
        """The phone that a reversal pays back to."""
        push = self.office.paid_push(order.original)
        if order.kind == "payout" or push is None:
            order.charge.money_taken = order.charge.amount
            return ""
        push.charge.refunded += order.charge.amount
        return push.phone

    def tell(self, order: Order, event: str, url: str, body: dict[str, Any]) -> asyncio.Task[None] | None:
        outcome = order.charge.outcome
        return self.office.post(order.charge.reference, event, url, body, outcome.copies) if outcome.webhooks else None


def is_amount(value: Any, smallest: int) -> bool:
    text = str(value)
    return text.isdecimal() and smallest <= int(text) <= MAX_SHILLINGS
