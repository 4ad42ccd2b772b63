"""Flutterwave's direct charges: `/charges?type=` for wallets, codes, accounts, and `/validate-charge`. Never cards.

Unlike a page, a charge is a transaction from the beginning, and there is one try. A bank account is charged once the
customer's code was given; the codes that its test page refuses are refused here.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from payflow.simulator import flutterwave_objects as shapes
from payflow.simulator.flutterwave_http import Refused, read_amount, read_body, require
from payflow.simulator.flutterwave_objects import Link, Try
from payflow.simulator.outcomes import Decision
from payflow.simulator.state import Charge, NotPossible, Provider, Simulation

WRONG_OTP, OTP_WITHOUT_FUNDS = "5548", "6648"


@dataclass(frozen=True)
class Kind:
    currencies: tuple[str, ...]
    required: tuple[str, ...]
    mode: str  # of `meta.authorization`; without one the wallet's owner is asked on the phone
    payment_type: str
    event: str


ACCOUNT = Kind(("NGN",), ("account_bank", "account_number"), "otp", "account", "ACCOUNT_TRANSACTION")
KINDS = {
    "account": ACCOUNT,
    "debit_ng_account": ACCOUNT,
    "bank_transfer": Kind(("NGN",), (), "banktransfer", "bank_transfer", "BANK_TRANSFER_TRANSACTION"),
    "ussd": Kind(("NGN",), ("account_bank",), "ussd", "ussd", "USSD_TRANSACTION"),
    "mpesa": Kind(("KES",), ("phone_number",), "", "mpesa", "MPESA_TRANSACTION"),
    "mobile_money_ghana": Kind(
        ("GHS",), ("phone_number", "network"), "redirect", "mobilemoneygh", "MOBILEMONEYGH_TRANSACTION"
    ),
    "mobile_money_uganda": Kind(
        ("UGX",), ("phone_number", "network"), "redirect", "mobilemoneyug", "MOBILEMONEYUG_TRANSACTION"
    ),
    "mobile_money_rwanda": Kind(
        ("RWF",), ("phone_number", "order_id"), "redirect", "mobilemoneyrw", "MOBILEMONEYRW_TRANSACTION"
    ),
    "mobile_money_zambia": Kind(
        ("ZMW",), ("phone_number", "network"), "redirect", "mobilemoneyzm", "MOBILEMONEYZM_TRANSACTION"
    ),
    "mobile_money_tanzania": Kind(
        ("TZS",), ("phone_number", "network"), "", "mobilemoneytz", "MOBILEMONEYTZ_TRANSACTION"
    ),
    "mobile_money_franco": Kind(
        ("XAF", "XOF"), ("phone_number", "country"), "callback", "mobilemoneysn", "MOBILEMONEYSN_TRANSACTION"
    ),
}


class Collecting(Provider, Protocol):
    """What direct charges need of the half that opens pages."""

    def decide(self, reference: str, amount: int, currency: str) -> Decision: ...
    def open(self, reference: str, amount: int, currency: str, body: dict[str, Any], decision: Decision) -> Link: ...
    def attempt(self, link: Link) -> Try: ...
    def url(self, link: Link) -> str: ...


class Charges:
    def __init__(self, simulation: Simulation, collecting: Collecting) -> None:
        self.simulation = simulation
        self.collecting = collecting
        self.by_flw_ref: dict[str, Link] = {}

    async def create(self, request: Request) -> Response:
        body = await read_body(request)
        kind = KINDS.get(request.query_params.get("type", ""))
        if kind is None:
            raise Refused(400, "client is required")  # a card's data, encrypted
        require(body, "tx_ref", "amount", "email", *kind.required)
        currency = body.get("currency") or "NGN"
        if currency not in kind.currencies:
            raise Refused(400, "currency is invalid")
        reference, amount = str(body["tx_ref"]), read_amount(body, currency)
        decision = self.collecting.decide(reference, amount, currency)
        if not decision.outcome.charges:
            return shapes.failure(decision.outcome.answer)
        link, tried = self.open(reference, amount, currency, body, kind, decision)

        def answer() -> Response:
            return self.initiated(link, tried, kind)

        if kind.mode == "otp":  # the customer acts through the service, by the code
            return await self.simulation.deliver_answer(request, decision, answer(), shapes.failure)
        return await self.simulation.answer(request, self.collecting, link.charge, answer, shapes.failure)

    def open(
        self, reference: str, amount: int, currency: str, body: dict[str, Any], kind: Kind, decision: Decision
    ) -> tuple[Link, Try]:
        customer = {"email": body["email"], "name": body.get("fullname"), "phonenumber": body.get("phone_number")}
        order = {"redirect_url": body.get("redirect_url") or "", "customer": customer, "meta": body.get("meta")}
        link = self.collecting.open(reference, amount, currency, order, decision)
        link.direct = True
        tried = self.collecting.attempt(link)
        tried.payment_type, tried.event_type = kind.payment_type, kind.event
        tried.processor_response = "Transaction in progress"
        self.by_flw_ref[tried.flw_ref] = link
        return link, tried

    def initiated(self, link: Link, tried: Try, kind: Kind) -> Response:
        data = shapes.charged(tried)
        match kind.mode:
            case "redirect":
                asked = {"redirect": self.collecting.url(link), "mode": "redirect"}
                return shapes.initiated(None, asked)
            case "banktransfer":
                return shapes.initiated(None, shapes.account_to_pay(tried, self.simulation.clock() + 3600))
            case "ussd":
                return shapes.initiated(data | {"payment_code": str(tried.id)}, {"mode": "ussd", "note": tried.ussd})
            case "otp":
                return shapes.initiated(data, {"mode": "otp", "endpoint": "/v3/validate-charge"})
            case "callback":
                return shapes.initiated(data, {"mode": "callback"})
            case _:
                return shapes.initiated(data, None)

    async def validate(self, request: Request) -> Response:
        """The right code: what the customer's outcome is, the bank does at once."""
        body = await read_body(request)
        require(body, "otp", "flw_ref")
        link = self.by_flw_ref.get(str(body["flw_ref"]))
        if link is None or link.tries[-1].payment_type != "account":
            raise Refused(400, "Transaction not found")
        if link.tries[-1].status != "pending":
            raise Refused(400, "Transaction already complete")
        if body["otp"] == WRONG_OTP:
            raise Refused(400, "Invalid OTP")
        actions = ("insufficient_funds",) if body["otp"] == OTP_WITHOUT_FUNDS else link.charge.outcome.customer
        if actions and self.simulation.behaviour.automatic_customer:
            self.first(link.charge, actions[0])
            self.simulation.plan(self.collecting, link.charge, done=1)
        return shapes.success("Charge validated", shapes.charged(link.tries[-1]))

    def first(self, charge: Charge, action: str) -> None:
        try:
            self.collecting.act(charge, action)
        except NotPossible as error:
            raise Refused(400, str(error)) from None
