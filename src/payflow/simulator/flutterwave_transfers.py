"""Flutterwave's transfers, banks and account lookups. A transfer is queued whatever the balance, and fails later."""

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from payflow.simulator import flutterwave_objects as shapes
from payflow.simulator.flutterwave_http import Refused, read_amount, read_body, require
from payflow.simulator.outcomes import Outcome, for_amount
from payflow.simulator.state import Charge, NotPossible, Provider, Simulation, iso, token

PAGE = 10
BLACKLISTED = "0690000036"
NO_BALANCE = "DISBURSE FAILED: Insufficient funds in customer wallet"
BANKS = {
    "NG": (("044", "Access Bank"), ("058", "GTBank Plc"), ("560", "Page MFBank")),
    "GH": (("GH280100", "Access Bank (Ghana)"),),
    "KE": (("01", "Kenya Commercial Bank"), ("MPS", "M-Pesa")),
    "UG": (("031", "Stanbic Bank Uganda"),),
    "ZA": (("FNB", "First National Bank"),),
    "TZ": (("TZ010000", "Access Bank Tanzania"),),
}
HOLDERS = {"0690000032": "Pastor Bright", "0690000034": "Ade Bond", "0690000040": "Alexis Sanchez"}


@dataclass
class Transfer:
    id: int
    charge: Charge
    body: dict[str, Any]
    requires_approval: int = 0
    is_approved: int = 1
    status: str = "NEW"  # NEW | PENDING | SUCCESSFUL | FAILED
    complete_message: str = ""


class Collecting(Provider, Protocol):
    """What transfers need of the other half."""

    def post(
        self, reference: str, outcome: Outcome, bodies: list[tuple[str, dict[str, Any]]]
    ) -> asyncio.Task[None] | None: ...


class Transfers:
    def __init__(self, simulation: Simulation, collecting: Collecting) -> None:
        self.simulation = simulation
        self.collecting = collecting
        self.by_reference: dict[str, Transfer] = {}

    async def create(self, request: Request) -> Response:
        body = await read_body(request)
        require(body, "account_bank", "account_number", "amount", "currency")
        currency = body["currency"]
        if currency not in shapes.CURRENCIES:
            raise Refused(400, "currency is invalid")
        amount, reference = read_amount(body, currency), str(body.get("reference") or f"TRF{token(20)}")
        journal = self.simulation.journal
        if reference in self.by_reference:
            journal.submit("flutterwave", reference, amount, currency, "duplicate", "duplicate", operation="payout")
            raise Refused(400, "Transfer with reference already exists")
        if body["account_number"] == BLACKLISTED:
            raise Refused(400, "Payout was made to a blacklisted account number")
        decision = self.simulation.overrides.choose("flutterwave", "payout", [for_amount(amount)])
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        journal.submit("flutterwave", reference, amount, currency, outcome.name, result, operation="payout")
        if not outcome.charges:
            return shapes.failure(outcome.answer)
        number = self.simulation.next_id()
        charge = Charge("flutterwave", reference, str(number), amount, currency, decision, self.simulation.clock())
        transfer = Transfer(number, charge, body)
        if "otp" in outcome.customer:  # not a code here: somebody approves it in the dashboard
            transfer.requires_approval, transfer.is_approved = 1, 0
        self.by_reference[reference] = transfer
        journal.add(charge)
        queued = shapes.success("Transfer Queued Successfully", transfer_row(transfer))
        return await self.simulation.answer(request, self.collecting, charge, lambda: queued, shapes.failure)

    def of(self, charge: Charge) -> Transfer | None:
        transfer = self.by_reference.get(charge.reference)
        return transfer if transfer is not None and transfer.charge is charge else None

    def act(self, transfer: Transfer, action: str) -> asyncio.Task[None] | None:
        match action:
            case "otp":
                transfer.is_approved = 1
                return None
            case "process":
                transfer.status = "PENDING"
                return None
            case "reverse" if transfer.status == "SUCCESSFUL":
                return self.end(transfer, "FAILED", "DISBURSE FAILED: Transfer was returned by the bank")
            case "pay" | "decline" | "fail" if transfer.status in ("SUCCESSFUL", "FAILED"):
                raise NotPossible(f"the transfer is {transfer.status}")
            case "pay" if not transfer.is_approved:
                raise NotPossible("the transfer waits for approval")
            case "pay" if transfer.charge.currency != "NGN" and not transfer.body.get("beneficiary_name"):
                return self.end(transfer, "FAILED", "beneficiary_name is required")
            case "pay":
                return self.end(transfer, "SUCCESSFUL", "Transaction was successful")
            case "decline" | "fail":
                return self.end(transfer, "FAILED", NO_BALANCE)
            case _:
                raise NotPossible(f"a Flutterwave transfer knows no {action!r}")

    def end(self, transfer: Transfer, status: str, message: str) -> asyncio.Task[None] | None:
        transfer.status, transfer.complete_message = status, message
        transfer.charge.status = "paid" if status == "SUCCESSFUL" else "failed"
        event = {"event": "transfer.completed", "event.type": "Transfer", "data": transfer_event(transfer)}
        return self.collecting.post(transfer.charge.reference, transfer.charge.outcome, [("transfer.completed", event)])

    async def fetch(self, request: Request) -> Response:
        found = [item for item in self.by_reference.values() if str(item.id) == request.path_params["id"]]
        self.refuse_query(found)
        if not found:
            raise Refused(404, "Transfer not found")
        return shapes.success("Transfer fetched", transfer_row(found[0]))

    async def list_all(self, request: Request) -> Response:
        query = request.query_params
        rows = [
            item
            for item in reversed(self.by_reference.values())
            if query.get("reference") in (None, item.charge.reference) and query.get("status") in (None, item.status)
        ]
        self.refuse_query(rows if query.get("reference") else [])
        return shapes.paged("Transfers fetched", [transfer_row(item) for item in rows], query.get("page"), PAGE)

    def refuse_query(self, found: list[Transfer]) -> None:
        told = all(item.charge.outcome.queries for item in found)
        if not (told and self.simulation.behaviour.answer_queries):
            raise Refused(503, shapes.GATEWAY_TIMEOUT)

    async def banks(self, request: Request) -> Response:
        listed = BANKS.get(request.path_params["country"])
        if listed is None:
            raise Refused(400, "Invalid country passed")
        rows = [{"id": number, "code": code, "name": name} for number, (code, name) in enumerate(listed, 1)]
        return shapes.success("Banks fetched successfully", rows)

    async def resolve(self, request: Request) -> Response:
        body = await read_body(request)
        require(body, "account_number", "account_bank")
        number, name = body["account_number"], HOLDERS.get(str(body["account_number"]))
        if name is None or body["account_bank"] not in dict(BANKS["NG"]):
            raise Refused(400, "Sorry, recipient account could not be validated. Please try again")
        return shapes.success("Account details fetched", {"account_number": number, "account_name": name})


def transfer_row(transfer: Transfer) -> dict[str, Any]:
    charge, body = transfer.charge, transfer.body
    return {
        "id": transfer.id,
        "account_number": body["account_number"],
        "bank_code": body["account_bank"],
        "full_name": body.get("beneficiary_name") or HOLDERS.get(str(body["account_number"]), "N/A"),
        "created_at": iso(charge.created_at),
        "currency": charge.currency,
        "debit_currency": body.get("debit_currency") or charge.currency,
        "amount": shapes.major(charge.amount, charge.currency),
        "fee": shapes.major(1_075, charge.currency) if charge.currency == "NGN" else 0,
        "status": transfer.status,
        "reference": charge.reference,
        "meta": body.get("meta"),
        "narration": body.get("narration"),
        "complete_message": transfer.complete_message,
        "requires_approval": transfer.requires_approval,
        "is_approved": transfer.is_approved,
        "bank_name": "ACCESS BANK NIGERIA",
    }


def transfer_event(transfer: Transfer) -> dict[str, Any]:
    """Here the name is `fullname`."""
    row = transfer_row(transfer)
    return {"fullname": row.pop("full_name"), "approver": None} | row
