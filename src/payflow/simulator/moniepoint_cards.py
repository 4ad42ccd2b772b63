"""Monnify's charge of a card by its number, for the cards of its test page, and the OTP that one of them asks for.

Each of the calls has an outcome of its own: opening the payment, and charging the card. What the customer's outcome is, the
bank does at once.
"""

import asyncio
import re
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from payflow.simulator import moniepoint_objects as shapes
from payflow.simulator.moniepoint_objects import MALFORMED, Refused, Transaction, refusal
from payflow.simulator.outcomes import for_amount
from payflow.simulator.state import Charge, NotPossible, Simulation, token

CARD, CARD_WITH_OTP, CARD_WITH_3DS = "4111111111111111", "5060995994247093", "4000000000000002"
GIVEN = {"number": r"[0-9]{12,19}", "expiryMonth": r"0[1-9]|1[0-2]", "expiryYear": r"[0-9]{4}", "cvv": r"[0-9]{3,4}"}
DEVICE = {
    "httpBrowserLanguage": str,
    "httpBrowserJavaEnabled": bool,
    "httpBrowserJavaScriptEnabled": bool,
    "httpBrowserColorDepth": int,
    "httpBrowserScreenHeight": int,
    "httpBrowserScreenWidth": int,
    "httpBrowserTimeDifference": str,
    "userAgentBrowserValue": str,
}


class Collecting(Protocol):
    """What cards need of the half that opens payments."""

    by_transaction_reference: dict[str, Transaction]

    def authenticate(self, request: Request) -> None: ...
    def act(self, charge: Charge, action: str) -> asyncio.Task[None] | None: ...


class Cards:
    def __init__(self, simulation: Simulation, collecting: Collecting) -> None:
        self.simulation = simulation
        self.collecting = collecting

    async def charge(self, request: Request) -> Response:
        self.collecting.authenticate(request)
        body = shapes.read_body(await request.body())
        number, transaction = read_number(body), self.find(body)
        if number not in (CARD, CARD_WITH_OTP, CARD_WITH_3DS):
            if not has_check_digit(number):
                return refusal(400, "Invalid card number")
            return refusal(400, "Merchant has not been configured for bin")
        if transaction.charge.status == "paid":
            return refusal(400, "Payment already exists", "100")
        charge = transaction.charge
        charge.decision = self.simulation.overrides.choose("moniepoint", "collect", [for_amount(charge.amount)])
        if not charge.outcome.charges:
            return shapes.failure(charge.outcome.answer, refusal(400, "Merchant has not been configured for bin"))
        if charge.customer is not None:
            charge.customer.cancel()  # nobody acts on the page any more
        answer = self.challenge(transaction, number)
        if number == CARD_WITH_3DS:
            self.simulation.plan(self.collecting, charge)
        elif number == CARD:
            self.act(charge)
            answer = shapes.card_charged(transaction, self.status(charge))
        return await self.simulation.deliver_answer(request, charge.decision, shapes.success(answer), shapes.failure)

    def challenge(self, transaction: Transaction, number: str) -> dict[str, Any]:
        """What has to be done before the charge, if anything. The number stands in it, as in the published example."""
        identity = f"{shapes.text(transaction.charge.amount)}-{token(32, '0123456789abcdef')}"
        if number == CARD_WITH_OTP:
            transaction.otp_id = identity
            otp = self.simulation.behaviour.moniepoint_otp
            message = f"Enter OTP sent to your device. Use {otp}"
            asked = {"otpData": {"id": identity, "message": message, "authData": number}}
            return shapes.card_charged(transaction, "OTP_AUTHORIZATION_REQUIRED") | asked
        url = shapes.page_url(transaction, self.simulation.settings.base_url)
        asked = {"secure3dData": {"id": identity, "redirectUrl": url}}
        return shapes.card_charged(transaction, "MPGS_3DS_AUTHORIZATION_REQUIRED") | asked

    async def authorise(self, request: Request) -> Response:
        self.collecting.authenticate(request)
        body = shapes.read_body(await request.body())
        transaction = self.find(body)
        charge = transaction.charge
        if transaction.otp_id is None or body.get("tokenId") != transaction.otp_id or charge.status != "pending":
            return refusal(400, "No Card Payment found for this transaction.")
        if body.get("token") != self.simulation.behaviour.moniepoint_otp:
            return refusal(400, "Invalid OTP")
        self.act(charge)
        paid = charge.status == "paid"
        return shapes.success(
            {
                "paymentStatus": "SUCCESSFUL" if paid else "FAILED" if charge.status != "pending" else "PENDING",
                "paymentDescription": "Payment Successful" if paid else "Payment not successful",
                "transactionReference": transaction.transaction_reference,
                "paymentReference": transaction.reference,
                "amountPaid": shapes.figure(transaction.paid),
                "currencyPaid": transaction.currency,
            }
        )

    def find(self, body: dict[str, Any]) -> Transaction:
        reference = str(body.get("transactionReference"))
        transaction = self.collecting.by_transaction_reference.get(reference)
        if transaction is None:
            raise shapes.not_found(reference)
        return transaction

    def act(self, charge: Charge) -> None:
        """The first of the customer's actions now, whoever else acts on the page; the others later."""
        for action in charge.outcome.customer[:1]:
            try:
                self.collecting.act(charge, action)
            except NotPossible as error:
                raise Refused(refusal(400, str(error))) from None
        self.simulation.plan(self.collecting, charge, done=1)

    def status(self, charge: Charge) -> str:
        if charge.status == "pending":
            return "BANK_AUTHORIZATION_REQUIRED"
        return "SUCCESS" if charge.status == "paid" else "FAILED"


def read_number(body: dict[str, Any]) -> str:
    """The card's, if all the rest is in order too. The PIN, which the page calls required, may be missing."""
    card, device = body.get("card"), body.get("deviceInformation")
    if not (isinstance(card, dict) and isinstance(device, dict)):
        raise Refused(refusal(400, MALFORMED))
    told = all(type(device.get(name)) is kind for name, kind in DEVICE.items())
    if not (told and all(re.fullmatch(shape, str(card.get(name))) for name, shape in GIVEN.items())):
        raise Refused(refusal(400, MALFORMED))
    return str(card["number"])


def has_check_digit(number: str) -> bool:
    """Luhn's (ISO/IEC 7812-1): each second digit from the right counts twice, by the digits of its double."""
    counted = [int(digit) for digit in reversed(number)]
    return (sum(counted[::2]) + sum(2 * digit - 9 * (digit > 4) for digit in counted[1::2])) % 10 == 0
