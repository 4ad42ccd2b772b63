"""Monnify's single transfers from the merchant's wallet, with the code that may have to authorise them; banks, name enquiry.

As its sandbox, a transfer that succeeds says SUCCESS in its first answer, and the webhook comes later.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from payflow.simulator import moniepoint_objects as shapes
from payflow.simulator.moniepoint_objects import Refused, refusal
from payflow.simulator.outcomes import Outcome, for_amount
from payflow.simulator.state import Charge, NotPossible, Simulation

BANKS = {"058": "GTBank", "232": "Sterling bank", "035": "Wema bank", "044": "Access bank", "50515": "Moniepoint MFB"}
UNKNOWN_ACCOUNT = "0000000000"
SAME_SECONDS = 120  # the same amount to the same account is refused for two minutes
ENDS = {
    "pay": ("paid", "SUCCESS", "SUCCESSFUL_DISBURSEMENT"),
    "decline": ("failed", "FAILED", "FAILED_DISBURSEMENT"),
    "reverse": ("failed", "REVERSED", "REVERSED_DISBURSEMENT"),
}
TEXTS = {"SUCCESS": "Transaction successful", "FAILED": "Dormant account", "REVERSED": "Transaction reversed"}


class Collecting(Protocol):
    """What transfers need of the half that holds the tokens and sends the webhooks."""

    def authenticate(self, request: Request) -> None: ...
    def act(self, charge: Charge, action: str) -> asyncio.Task[None] | None: ...
    def tell(
        self, reference: str, outcome: Outcome, events: list[tuple[str, dict[str, Any]]]
    ) -> asyncio.Task[None] | None: ...


@dataclass
class Transfer:
    charge: Charge
    bank_code: str
    account_number: str
    account_name: str
    narration: str
    source: str
    needs_code: bool
    status: str = "PENDING"
    ended_at: float | None = None

    @property
    def bank_name(self) -> str:
        return BANKS[self.bank_code]

    @property
    def text(self) -> str:
        return TEXTS.get(self.status, "Transaction is pending")


class Disbursements:
    def __init__(self, simulation: Simulation, collecting: Collecting) -> None:
        self.simulation = simulation
        self.collecting = collecting
        self.transfers: dict[str, Transfer] = {}

    async def create(self, request: Request) -> Response:
        self.collecting.authenticate(request)
        content = await request.body()
        body, amount = shapes.read_body(content), shapes.read_amount(content)
        reference = self.check(body)
        journal = self.simulation.journal
        if reference in self.transfers:
            journal.submit("moniepoint", reference, amount, "NGN", "duplicate_reference", "duplicate", "payout")
            return refusal(400, "Supplied reference already exists!", "D05")
        if any(self.alike(body, amount)):
            journal.submit("moniepoint", reference, amount, "NGN", "repeated", "refused", "payout")
            return refusal(400, "Same transfer within two minutes", "D07")
        decision = self.simulation.overrides.choose("moniepoint", "payout", [for_amount(amount)])
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        journal.submit("moniepoint", reference, amount, "NGN", outcome.name, result, "payout")
        if not outcome.charges:
            return shapes.failure(outcome.answer, refusal(400, "Insufficient balance in wallet", "D04"))
        identity = f"MFDS{self.simulation.next_id()}"
        charge = Charge("moniepoint", reference, identity, amount, "NGN", decision, self.simulation.clock())
        transfer = self.open(charge, body)

        def answer() -> Response:
            return shapes.success(shapes.disbursed(transfer))

        if transfer.needs_code:
            return await self.simulation.deliver_answer(request, decision, answer(), shapes.failure)
        self.settle_at_once(transfer)
        return await self.simulation.answer(request, self.collecting, charge, answer, shapes.failure)

    def check(self, body: dict[str, Any]) -> str:
        """The transfer's reference, if all the rest is in order too."""
        reference, narration = body.get("reference"), body.get("narration")
        fine = isinstance(reference, str) and re.fullmatch(r"[^\s/?#]{1,100}", reference) and isinstance(narration, str)
        if not fine or not narration or body.get("currency") != "NGN":
            raise Refused(refusal(400, shapes.MALFORMED))
        if body.get("sourceAccountNumber") != self.simulation.settings.moniepoint_source_account_number:
            raise Refused(refusal(404, "Wallet not found"))
        if not known(body.get("destinationBankCode"), body.get("destinationAccountNumber")):
            raise Refused(refusal(400, "Invalid account details", "D03"))
        if not body.get("destinationAccountName"):
            raise Refused(refusal(400, "Destination account name is required", "D01"))
        return str(reference)

    def alike(self, body: dict[str, Any], amount: int) -> Iterator[bool]:
        wanted = (body["destinationBankCode"], body["destinationAccountNumber"], amount)
        since = self.simulation.clock() - SAME_SECONDS
        for item in self.transfers.values():
            same = (item.bank_code, item.account_number, item.charge.amount) == wanted
            yield same and item.status != "FAILED" and item.charge.created_at > since

    def open(self, charge: Charge, body: dict[str, Any]) -> Transfer:
        needs_code = charge.outcome.customer[:1] == ("otp",)
        transfer = Transfer(
            charge=charge,
            bank_code=body["destinationBankCode"],
            account_number=body["destinationAccountNumber"],
            account_name=str(body["destinationAccountName"]),
            narration=body["narration"],
            source=body["sourceAccountNumber"],
            needs_code=needs_code,
            status="PENDING_AUTHORIZATION" if needs_code else "PENDING",
        )
        self.transfers[charge.reference] = transfer
        self.simulation.journal.add(charge)
        return transfer

    def settle_at_once(self, transfer: Transfer, done: int = 0) -> None:
        """The status is there before the webhook, which follows when the automatic customer's time has come."""
        succeeds = transfer.charge.outcome.customer[done : done + 1] == ("pay",)
        transfer.status = "SUCCESS" if succeeds and self.simulation.behaviour.automatic_customer else "PENDING"

    async def authorise(self, request: Request) -> Response:
        self.collecting.authenticate(request)
        body = shapes.read_body(await request.body())
        transfer = self.transfers.get(str(body.get("reference")))
        if transfer is None:
            return refusal(404, "Transaction not found", "D02")
        if transfer.status != "PENDING_AUTHORIZATION":
            return refusal(400, "Transaction is not pending authorization")
        if body.get("authorizationCode") != self.simulation.behaviour.moniepoint_otp:
            return refusal(400, "Invalid authorization code")
        self.settle_at_once(transfer, done=1)
        self.simulation.plan(self.collecting, transfer.charge, done=1)
        told = shapes.disbursed(transfer)
        del told["comment"]
        return shapes.success(told | {"senderInfo": None})

    async def summary(self, request: Request) -> Response:
        self.collecting.authenticate(request)
        transfer = self.transfers.get(request.query_params.get("reference", ""))
        answers = transfer is None or transfer.charge.outcome.queries
        if not (answers and self.simulation.behaviour.answer_queries):
            return shapes.failure("server_error")
        if transfer is None:
            return refusal(404, "Transaction not found", "D02")
        return shapes.success(shapes.disbursement(transfer))

    def act(self, transfer: Transfer, action: str) -> asyncio.Task[None] | None:
        charge, outcome = transfer.charge, transfer.charge.outcome
        if action not in ENDS:
            raise NotPossible(f"a transfer knows no {action!r}")
        if transfer.status == "PENDING_AUTHORIZATION":
            raise NotPossible("it waits for its code")
        if (charge.status == "paid") is not (action == "reverse") or charge.status == "failed":
            raise NotPossible(f"the transfer is {charge.status}")
        charge.status, transfer.status, event = ENDS[action]
        charge.failure = None if action == "pay" else action
        transfer.ended_at = self.simulation.clock()
        return self.collecting.tell(
            charge.reference, outcome, [(event, shapes.disbursement_event(transfer))] * outcome.copies
        )

    # Banks

    async def banks(self, request: Request) -> Response:
        self.collecting.authenticate(request)
        names = ("ussdTemplate", "baseUssdCode", "transferUssdTemplate")
        rows = [{"name": name, "code": code} | dict.fromkeys(names) for code, name in BANKS.items()]
        return shapes.success(rows)

    async def holder(self, request: Request) -> Response:
        self.collecting.authenticate(request)
        number, bank = request.query_params.get("accountNumber"), request.query_params.get("bankCode")
        if not known(bank, number):
            return refusal(404, "Invalid account details")
        return shapes.success({"accountNumber": number, "accountName": "SIMULATED HOLDER", "bankCode": bank})


def known(bank: Any, number: Any) -> bool:
    """Any ten digits but zeros are an account of each bank here."""
    ten = isinstance(number, str) and re.fullmatch(r"[0-9]{10}", number) is not None
    return bank in BANKS and ten and number != UNKNOWN_ACCOUNT
