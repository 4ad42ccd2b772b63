"""Paystack's transfers: banks, recipients, transfers with and without the merchant's OTP, and their webhooks."""

import asyncio
import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from payflow.simulator import paystack_objects as shapes
from payflow.simulator.outcomes import Decision, for_amount
from payflow.simulator.paystack_http import Refused, invalid, missing, number, read_amount, read_body
from payflow.simulator.state import Charge, NotPossible, Simulation, iso, reply, token

INTEGRATION = 463433
OTP = "123456"
REFERENCE = re.compile(r"[a-z0-9_-]{16,50}")
TYPES = {"NGN": "nuban", "GHS": "ghipss", "ZAR": "basa", "KES": "kepss"}
FINAL = ("failed", "reversed")
WORDS = {"pay": "success", "decline": "failed", "reverse": "reversed", "otp": "otp"}
# Code, name, currency, type.
BANKS = (
    ("011", "First Bank of Nigeria", "NGN", "nuban"),
    ("044", "Access Bank", "NGN", "nuban"),
    ("057", "Zenith Bank", "NGN", "nuban"),
    ("040100", "Access Bank", "GHS", "ghipss"),
    ("MTN", "MTN", "GHS", "mobile_money"),
    ("ATL", "AirtelTigo", "GHS", "mobile_money"),
    ("VOD", "Telecel", "GHS", "mobile_money"),
    ("01", "KCB", "KES", "kepss"),
    ("MPESA", "M-PESA", "KES", "mobile_money"),
    ("250655", "FNB", "ZAR", "basa"),
)
UNKNOWN_ACCOUNT = "9999999999"
HOLDER = "ADA OBI"

Notify = Callable[[Charge, list[tuple[str, dict[str, Any]]]], "asyncio.Task[None] | None"]


@dataclass
class Recipient:
    id: int
    code: str
    type: str
    name: str
    account_number: str
    bank_code: str
    currency: str
    created_at: float


@dataclass
class Transfer:
    charge: Charge
    id: int
    code: str
    recipient: Recipient
    reason: str
    created_at: float
    status: str = "pending"
    updated_at: float = 0.0


class Transfers:
    def __init__(self, simulation: Simulation, notify: Notify) -> None:
        self.simulation = simulation
        self.notify = notify
        self.recipients: dict[tuple[str, ...], Recipient] = {}
        self.transfers: dict[str, Transfer] = {}

    def reset(self) -> None:
        self.recipients.clear()
        self.transfers.clear()

    # Banks

    async def banks(self, request: Request) -> Response:
        query = request.query_params
        size = number(query.get("perPage", "")) or 50
        rows = [
            bank_row(place, bank)
            for place, bank in enumerate(BANKS, 1)
            if query.get("currency") in (None, bank[2]) and query.get("type") in (None, bank[3])
        ]
        rows = [row for row in rows if row["id"] > after(query.get("next"))]
        page, rest = rows[:size], rows[size:]
        following = base64.b64encode(f"Bank:{page[-1]['id']}".encode()).decode() if rest else None
        return shapes.success("Banks retrieved", page, meta={"next": following, "previous": None, "perPage": size})

    async def resolve(self, request: Request) -> Response:
        account, code = request.query_params.get("account_number", ""), request.query_params.get("bank_code", "")
        place = next((place for place, bank in enumerate(BANKS, 1) if bank[0] == code), None)
        if place is None:
            raise Refused(shapes.refusal(422, f"Unknown bank code: {code}", "invalid_params", "Check the bank code"))
        if not re.fullmatch(r"\d{10}", account) or account == UNKNOWN_ACCOUNT:
            message = "Could not resolve account name. Check parameters or try again."
            raise Refused(shapes.refusal(422, message, "invalid_bank_code", "Check the account number"))
        data = {"account_number": account, "account_name": HOLDER, "bank_id": place}
        return shapes.success("Account number resolved", data)

    # Recipients

    async def create_recipient(self, request: Request) -> Response:
        body = await read_body(request)
        for name in ("type", "name", "account_number", "bank_code"):
            if not isinstance(body.get(name), str) or not body[name]:
                raise missing(f"{name} is required")
        kind, code, currency = body["type"], body["bank_code"], body.get("currency") or "NGN"
        if (code, currency, kind) not in {(bank[0], bank[2], bank[3]) for bank in BANKS}:
            raise invalid("Bank is invalid")
        if not re.fullmatch(r"\d{10}", body["account_number"]) or body["account_number"] == UNKNOWN_ACCOUNT:
            raise invalid("Account number is invalid")
        key = (kind, code, body["account_number"], currency)
        if key not in self.recipients:
            number, now = self.simulation.next_id(), self.simulation.clock()
            recipient = Recipient(
                number, f"RCP_{token(15)}", kind, body["name"], body["account_number"], code, currency, now
            )
            self.recipients[key] = recipient
        message = "Transfer recipient created successfully"
        data = recipient_row(self.recipients[key]) | {"isDeleted": False}
        return reply({"status": True, "message": message, "data": data}, 201)

    # Transfers

    async def create(self, request: Request) -> Response:
        body = await read_body(request)
        recipient, amount, reference = self.read(body)
        journal = self.simulation.journal
        if reference in self.transfers:
            journal.submit("paystack", reference, amount, recipient.currency, "duplicate", "duplicate", "payout")
            raise Refused(reply({"status": False, "message": "Duplicate Transfer Reference"}, 400))
        decision = self.simulation.overrides.choose("paystack", "payout", [for_amount(amount)])
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        journal.submit("paystack", reference, amount, recipient.currency, outcome.name, result, "payout")
        if not outcome.charges:
            return failure(outcome.answer)
        transfer = self.open(recipient, amount, reference, body, decision)
        if outcome.customer[:1] == ("otp",):
            transfer.status, message = "otp", "Transfer requires OTP to continue"
        else:
            message = "Transfer has been queued"
            self.plan(transfer, outcome.customer)
        answer = shapes.success(message, created_row(transfer))
        return await self.simulation.deliver_answer(request, decision, answer, failure)

    def read(self, body: dict[str, Any]) -> tuple[Recipient, int, str]:
        if body.get("source") != "balance":
            raise invalid("Source is invalid")
        amount = read_amount(body.get("amount"))
        reference = str(body.get("reference") or token(20))
        if not REFERENCE.fullmatch(reference):
            raise invalid("Transfer reference is invalid")
        found = [item for item in self.recipients.values() if item.code == body.get("recipient")]
        if not found or body.get("currency", "NGN") != found[0].currency:
            message = "Recipient specified is invalid"
            raise Refused(shapes.refusal(400, message, "invalid_transfer_recipient", "Check the recipient"))
        return found[0], amount, reference

    def open(
        self, recipient: Recipient, amount: int, reference: str, body: dict[str, Any], decision: Decision
    ) -> Transfer:
        number, now = self.simulation.next_id(), self.simulation.clock()
        code = f"TRF_{token(15)}"
        charge = Charge("paystack", reference, str(number), amount, recipient.currency, decision, now)
        transfer = Transfer(charge, number, code, recipient, str(body.get("reason") or ""), now, updated_at=now)
        self.transfers[reference] = transfer
        self.simulation.journal.add(charge, code)
        return transfer

    def plan(self, transfer: Transfer, actions: tuple[str, ...]) -> None:
        if self.simulation.behaviour.automatic_customer and actions:
            transfer.charge.customer = self.simulation.tasks.spawn(self.live(transfer, actions))

    async def live(self, transfer: Transfer, actions: tuple[str, ...]) -> None:
        for action in actions:
            await asyncio.sleep(self.simulation.delay(transfer.charge.decision))
            task = self.move(transfer, WORDS[action])
            if task is not None:
                await task

    def move(self, transfer: Transfer, status: str) -> asyncio.Task[None] | None:
        transfer.status, transfer.updated_at = status, self.simulation.clock()
        transfer.charge.status = "paid" if status == "success" else "failed"
        return self.notify(transfer.charge, [(f"transfer.{status}", transfer_event(transfer))])

    def act(self, transfer: Transfer, action: str) -> asyncio.Task[None] | None:
        status = WORDS.get(action)
        if status in (None, "otp"):
            raise NotPossible(f"a Paystack transfer knows no {action!r}")
        if transfer.status in FINAL or (transfer.status == "success" and status != "reversed"):
            raise NotPossible(f"the transfer is {transfer.status}")
        return self.move(transfer, str(status))

    async def finalize(self, request: Request) -> Response:
        body = await read_body(request)
        found = [item for item in self.transfers.values() if item.code == body.get("transfer_code")]
        if not found:
            raise Refused(reply({"status": False, "message": "Transfer code is invalid"}, 400))
        transfer = found[0]
        if transfer.status != "otp":
            raise Refused(reply({"status": False, "message": "Transfer is not awaiting OTP"}, 400))
        if body.get("otp") != OTP:
            raise Refused(reply({"status": False, "message": "OTP is invalid"}, 400))
        transfer.status = "pending"
        self.plan(transfer, transfer.charge.outcome.customer[1:])
        return shapes.success("Transfer has been queued", created_row(transfer))

    async def verify(self, request: Request) -> Response:
        transfer = self.transfers.get(request.path_params["reference"])
        told = transfer is None or transfer.charge.outcome.queries
        if not (told and self.simulation.behaviour.answer_queries):
            raise Refused(shapes.failure("server_error"))
        if transfer is None:
            raise Refused(reply({"status": False, "message": "Transfer not found"}, 404))
        return shapes.success("Transfer retrieved", transfer_row(transfer))


def after(cursor: str | None) -> int:
    """The id that a page begins after."""
    try:
        return number(base64.b64decode(cursor or "").decode().removeprefix("Bank:"))
    except (binascii.Error, UnicodeDecodeError):
        raise invalid("Invalid cursor") from None


def failure(kind: str) -> Response:
    if kind == "refuse":
        message = "Your balance is not enough to fulfil this request"
        return shapes.refusal(400, message, "insufficient_balance", "Top up your balance", "api_error")
    return shapes.failure(kind)


def bank_row(place: int, bank: tuple[str, str, str, str]) -> dict[str, Any]:
    code, name, currency, kind = bank
    countries = {"NGN": "Nigeria", "GHS": "Ghana", "KES": "Kenya", "ZAR": "South Africa"}
    return {
        "name": name,
        "slug": name.lower().replace(" ", "-"),
        "code": code,
        "longcode": "",
        "gateway": None,
        "pay_with_bank": False,
        "supports_transfer": True,
        "available_for_direct_debit": False,
        "active": True,
        "is_deleted": None,
        "country": countries[currency],
        "currency": currency,
        "type": kind,
        "id": place,
        "createdAt": "2020-01-01T00:00:00.000Z",
        "updatedAt": "2020-01-01T00:00:00.000Z",
    }


def recipient_row(recipient: Recipient) -> dict[str, Any]:
    bank = next(bank for bank in BANKS if (bank[0], bank[2]) == (recipient.bank_code, recipient.currency))
    created_at = iso(recipient.created_at)
    return {
        "active": True,
        "createdAt": created_at,
        "currency": recipient.currency,
        "description": "",
        "domain": "test",
        "email": "",
        "id": recipient.id,
        "integration": INTEGRATION,
        "metadata": None,
        "name": recipient.name,
        "recipient_code": recipient.code,
        "type": recipient.type,
        "updatedAt": created_at,
        "is_deleted": False,
        "details": {
            "authorization_code": None,
            "account_number": recipient.account_number,
            "account_name": recipient.name,
            "bank_code": recipient.bank_code,
            "bank_name": bank[1],
        },
    }


def common(transfer: Transfer) -> dict[str, Any]:
    return {
        "domain": "test",
        "amount": transfer.charge.amount,
        "currency": transfer.charge.currency,
        "reference": transfer.charge.reference,
        "source": "balance",
        "source_details": None,
        "reason": transfer.reason,
        "status": transfer.status,
        "failures": None,
        "transfer_code": transfer.code,
        "titan_code": None,
        "transferred_at": None,
        "id": transfer.id,
    }


def created_row(transfer: Transfer) -> dict[str, Any]:
    """As answered to the order: here the recipient is a number."""
    return common(transfer) | {
        "transfersessionid": [],
        "transfertrials": [],
        "integration": INTEGRATION,
        "request": transfer.id + 1,
        "recipient": transfer.recipient.id,
        "createdAt": iso(transfer.created_at),
        "updatedAt": iso(transfer.updated_at),
    }


def transfer_row(transfer: Transfer) -> dict[str, Any]:
    """As asked for."""
    return common(transfer) | {
        "createdAt": iso(transfer.created_at),
        "updatedAt": iso(transfer.updated_at),
        "integration": INTEGRATION,
        "recipient": recipient_row(transfer.recipient),
        "session": {"provider": None, "id": None},
        "gateway_response": None,
    }


def transfer_event(transfer: Transfer) -> dict[str, Any]:
    """The integration is an object here, and after a failure the times have other names."""
    row = transfer_row(transfer)
    if transfer.status in FINAL:
        row["created_at"], row["updated_at"] = row.pop("createdAt"), row.pop("updatedAt")
    merchant = {"id": INTEGRATION, "is_live": False, "business_name": "Simulator"}
    return row | {"integration": merchant, "fee_charged": 0}
