"""Payments that a customer starts alone: the URLs registered for them, validation, and the confirmation of each."""

import asyncio
import re
from datetime import datetime
from typing import Any, Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response

from payflow.simulator.mpesa_objects import (
    Push,
    Refused,
    error,
    is_callback_url,
    is_phone,
    read_body,
    receipt,
    refuse_first_invalid,
)
from payflow.simulator.mpesa_results import originator_id
from payflow.simulator.outcomes import OUTCOMES, Decision
from payflow.simulator.state import Charge, Simulation, reply
from payflow.simulator.webhooks import Message

COMMANDS = {"CustomerPayBillOnline": "Pay Bill", "CustomerBuyGoodsOnline": "Buy Goods"}


class Office(Protocol):
    def authenticate(self, request: Request, status: int, code: str) -> None: ...
    def now(self) -> datetime: ...
    def message(self, reference: str, event: str, url: str, body: Any) -> Message: ...


class Alone:
    def __init__(self, simulation: Simulation, office: Office) -> None:
        self.simulation = simulation
        self.office = office
        self.registered: dict[str, str] = {}

    async def register(self, request: Request) -> Response:
        self.office.authenticate(request, 400, "400.003.01")
        body = await read_body(request)
        refuse_first_invalid({
            "ShortCode": str(body.get("ShortCode")) == self.simulation.settings.mpesa_shortcode,
            "ResponseType": body.get("ResponseType") in ("Completed", "Cancelled"),
            "ConfirmationURL": is_callback_url(body.get("ConfirmationURL")),
            "ValidationURL": is_callback_url(body.get("ValidationURL")),
        })  # fmt: skip
        if self.registered and self.simulation.behaviour.mpesa_register_urls_once:
            raise Refused(error(500, "500.003.1001", "Urls are already registered."))
        self.registered = {name: str(body[name]) for name in ("ResponseType", "ConfirmationURL", "ValidationURL")}
        return accepted("Success")

    async def simulate(self, request: Request) -> Response:
        """Sandbox only: plays a customer who pays from the phone's own menu."""
        self.office.authenticate(request, 400, "400.003.01")
        body = await read_body(request)
        amount, account = str(body.get("Amount")), body.get("BillRefNumber")
        refuse_first_invalid({
            "ShortCode": str(body.get("ShortCode")) == self.simulation.settings.mpesa_shortcode,
            "CommandID": body.get("CommandID") in COMMANDS,
            "Amount": amount.isdecimal() and int(amount) >= 1,
            "Msisdn": is_phone(body.get("Msisdn")),
            "BillRefNumber": account is None or len(str(account)) <= 20,
        })  # fmt: skip
        told = self.told(COMMANDS[body["CommandID"]], amount, str(body["Msisdn"]), str(account or ""))
        self.simulation.tasks.spawn(self.pay(told))
        return accepted("Accept the service request successfully.")

    def paid_by_prompt(self, push: Push) -> None:
        """A payment by prompt is confirmed here too, with the same receipt."""
        if self.registered:
            told = self.told("Pay Bill", str(push.paid_shillings), push.phone, push.charge.reference)
            self.simulation.tasks.spawn(self.confirm(told | {"TransID": push.receipt}))

    def told(self, kind: str, shillings: str, phone: str, account: str) -> dict[str, Any]:
        return {
            "TransactionType": kind,
            "TransID": receipt(self.office.now()),
            "TransTime": f"{self.office.now():%Y%m%d%H%M%S}",
            "TransAmount": f"{shillings}.00",
            "BusinessShortCode": self.simulation.settings.mpesa_shortcode,
            "BillRefNumber": account,
            "InvoiceNumber": "",
            "OrgAccountBalance": "",
            "ThirdPartyTransID": "",
            "MSISDN": re.sub(r"^(\d{4}).*(\d{3})$", r"\1 ***** \2", phone),
            "FirstName": "NICHOLAS",
            "MiddleName": "",
            "LastName": "",
        }

    async def pay(self, told: dict[str, Any]) -> None:
        await asyncio.sleep(self.simulation.behaviour.customer_delay_seconds)
        if not self.registered or not await self.validated(told):
            return
        minor = int(told["TransAmount"].removesuffix(".00")) * 100
        charge = Charge(
            "mpesa",
            told["TransID"],
            told["TransID"],
            minor,
            "KES",
            Decision(OUTCOMES["success"]),
            self.simulation.clock(),
        )
        charge.status, charge.money_taken = "paid", minor
        self.simulation.journal.add(charge)
        await self.confirm(told)

    async def validated(self, told: dict[str, Any]) -> bool:
        """Asked only where external validation is on; on silence the registered ResponseType holds."""
        if not self.simulation.behaviour.mpesa_external_validation:
            return True
        message = self.office.message(told["TransID"], "c2b validation", self.registered["ValidationURL"], told)
        delivery = self.simulation.webhooks.record(message)
        await self.simulation.webhooks.try_once(delivery)
        try:
            answer = orjson.loads(delivery.answer)
            return str(answer["ResultCode"]) == "0"
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return self.registered["ResponseType"] == "Completed"

    async def confirm(self, told: dict[str, Any]) -> None:
        url = self.registered["ConfirmationURL"]
        message = self.office.message(told["TransID"], "c2b confirmation", url, told | {"OrgAccountBalance": "25.00"})
        task = self.simulation.webhooks.send([message])
        if task is not None:
            await task


def accepted(words: str) -> Response:
    return reply({"OriginatorCoversationID": originator_id(), "ResponseCode": "0", "ResponseDescription": words})
