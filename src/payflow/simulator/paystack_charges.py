"""Paystack's direct charges: a method instead of a page, and steps until the customer is known to be the one who pays."""

import re
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from payflow.simulator import paystack_objects as shapes
from payflow.simulator.outcomes import Decision, for_amount
from payflow.simulator.paystack_http import Refused, invalid, read_body
from payflow.simulator.paystack_objects import Transaction
from payflow.simulator.state import Charge, NotPossible, Provider, Simulation, reply, token

OTP = "123456"
USSD = ("737", "919", "822", "966")
METHODS = ("bank", "mobile_money", "ussd", "bank_transfer", "eft", "qr")
STEPS = {
    "pin": ("pin",),
    "otp": ("otp",),
    "phone": ("phone",),
    "birthday": ("birthday",),
    "address": ("address", "city", "state", "zip_code"),
}


class Collecting(Provider, Protocol):
    """What direct charges need of the half that keeps the transactions."""

    transactions: dict[str, Transaction]

    def read_initialize(self, body: dict[str, Any]) -> tuple[str, int, str, str]: ...
    def open(
        self, reference: str, amount: int, currency: str, email: str, body: dict[str, Any], decision: Decision
    ) -> Transaction: ...


class Charges:
    def __init__(self, simulation: Simulation, collecting: Collecting) -> None:
        self.simulation = simulation
        self.collecting = collecting

    async def create(self, request: Request) -> Response:
        body = await read_body(request)
        email, amount, currency, reference = self.collecting.read_initialize(body)
        method, told, steps = self.read_method(body, currency)
        journal = self.simulation.journal
        if reference in self.collecting.transactions:
            journal.submit("paystack", reference, amount, currency, "duplicate_reference", "duplicate")
            raise Refused(shapes.duplicate_reference())
        decision = self.simulation.overrides.choose("paystack", "collect", [for_amount(amount)])
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        journal.submit("paystack", reference, amount, currency, outcome.name, result)
        if not outcome.charges:
            return shapes.failure(outcome.answer)
        transaction = self.collecting.open(reference, amount, currency, email, body, decision)
        transaction.channel, transaction.steps = method, steps
        transaction.waiting = steps[0] if steps else str(told["status"])
        transaction.status = "ongoing" if steps else "pending"
        if steps:  # whoever pays by steps does nothing by himself
            answer = attempted(transaction)
            return await self.simulation.deliver_answer(request, decision, answer, shapes.failure)
        if method == "eft":
            told["url"] = f"{self.simulation.settings.base_url}/checkout/paystack/{transaction.access_code}"
        return await self.simulation.answer(
            request, self.collecting, transaction.charge, lambda: attempted(transaction, told), shapes.failure
        )

    def read_method(self, body: dict[str, Any], currency: str) -> tuple[str, dict[str, Any], list[str]]:
        """The method, what the first answer tells, and the steps before the money moves."""
        given = [name for name in METHODS if isinstance(body.get(name), dict)]
        if len(given) != 1:
            raise invalid("Exactly one payment method is required")
        fields = body[given[0]]
        match given[0]:
            case "bank":
                if not (fields.get("code") and re.fullmatch(r"\d{10}", str(fields.get("account_number")))):
                    raise invalid("Invalid bank account")
                return "bank", {}, ["send_otp"] if body.get("birthday") else ["send_birthday", "send_otp"]
            case "mobile_money":
                return "mobile_money", *read_operator(fields, currency)
            case "ussd":
                if fields.get("type") not in USSD:
                    raise invalid("Invalid USSD type")
                code = f"*{fields['type']}*33*4*{token(6, '0123456789')}#"
                text = f"Please dial {code} on your mobile phone to complete the transaction"
                return "ussd", {"status": "pay_offline", "display_text": text, "ussd_code": code}, []
            case "bank_transfer":
                return "bank_transfer", account(fields), []
            case "eft":
                return "eft", {"status": "open_url"}, []
            case _:
                url = f"https://standard.paystack.co/qr/{token(10)}"
                return "qr", {"status": "pay_offline", "qr_code": token(20), "url": url}, []

    async def submit(self, request: Request) -> Response:
        step = request.path_params["step"]
        body = await read_body(request)
        transaction = self.collecting.transactions.get(str(body.get("reference")))
        if step not in STEPS or transaction is None or not transaction.waiting:
            raise Refused(reply({"status": False, "message": "Transaction reference is invalid"}, 400))
        if not all(isinstance(body.get(name), str) and body[name] for name in STEPS[step]):
            raise invalid(f"{step} is required")
        if transaction.waiting != f"send_{step}":
            return attempted(transaction)
        if step == "otp" and body["otp"] != OTP:
            self.collecting.act(transaction.charge, "decline")
            return attempted(transaction, {"status": "failed", "message": "Incorrect OTP"})
        transaction.steps.pop(0)
        if transaction.steps:
            transaction.waiting = transaction.steps[0]
            return attempted(transaction)
        return await self.finish(transaction)

    async def finish(self, transaction: Transaction) -> Response:
        """The last step was right: the bank decides."""
        charge = transaction.charge
        if charge.outcome.customer:
            await self.simulation.perform(self.collecting, charge, charge.outcome.customer[0])
            self.simulation.plan(self.collecting, charge, done=1)
        transaction.waiting = ""
        if transaction.status == "success":
            return shapes.success("Charge attempted", shapes.verified(transaction))
        if charge.status == "failed":
            return attempted(transaction, {"status": "failed", "message": transaction.gateway_response})
        transaction.status = "pending"
        return attempted(transaction, {"status": "pending"})

    def ask(self, charge: Charge, step: str) -> None:
        """One more step before the others."""
        transaction = self.collecting.transactions[charge.reference]
        if not transaction.steps or step.removeprefix("send_") not in STEPS:
            raise NotPossible("no direct charge with steps is under way")
        transaction.steps.insert(0, step)
        transaction.waiting = step


def read_operator(fields: dict[str, Any], currency: str) -> tuple[dict[str, Any], list[str]]:
    operator, phone = fields.get("provider"), str(fields.get("phone"))
    if currency == "GHS" and operator in ("mtn", "atl", "vod") and re.fullmatch(r"0\d{9}", phone):
        return offline(), ["send_otp"] if operator == "vod" else []
    if currency == "KES" and operator in ("mpesa", "mpesa_offline") and re.fullmatch(r"\+254\d{9}", phone):
        bill = {"account_number": "4084333", "account_reference": 1234567} if operator == "mpesa_offline" else {}
        return offline() | bill, []
    raise invalid("Invalid mobile money details")


def offline() -> dict[str, Any]:
    text = "Please complete authorization process on your mobile phone"
    return {"status": "pay_offline", "display_text": text}


def account(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "status": "pending_bank_transfer",
        "display_text": "Please make a transfer to the account specified",
        "account_name": "TEST-MANAGED-ACCOUNT",
        "account_number": "1260257501",
        "bank": {"slug": "test-bank", "name": "Test Bank", "id": 24},
        "account_expires_at": fields.get("account_expires_at"),
    }


TEXTS = {"send_otp": "Please send OTP", "send_birthday": "Please enter your birthday"}


def attempted(transaction: Transaction, told: dict[str, Any] | None = None) -> Response:
    step = {"status": transaction.waiting}
    if text := TEXTS.get(transaction.waiting):
        step["display_text"] = text
    return shapes.success("Charge attempted", {"reference": transaction.reference, **(told or step)})
