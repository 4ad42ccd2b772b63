"""VTPass under `/vtpass`: services, variations, buying airtime and data, requery, and the unsigned `transaction-update`.

Kept as the platform has it: failures are HTTP 200 with a code, an id is good once and only on its day in Lagos, GET wants
another key than POST, names are misspelt, the price of a bundle goes before the amount sent, and what is delivered at once
is told by no webhook. What comes later is sent again until `{"response":"success"}` is answered. Undocumented, and so the
simulator's own choice: most descriptions, the HTTP status of a system error.

The sandbox's magic numbers work too, but no other number fails. The wallet is never empty, unless the outcome refuses.
"""

import asyncio
import hmac
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payflow.simulator.outcomes import OUTCOMES, Outcome, for_amount
from payflow.simulator.state import Charge, NotPossible, Simulation, html_error, reply
from payflow.simulator.webhooks import Message

LAGOS = timezone(timedelta(hours=1))
REQUEST_ID = re.compile(r"[0-9]{12}[A-Za-z0-9]*")
PHONE = re.compile(r"0[0-9]{10}")
MAGIC_PHONES = {
    "201000000000": "silent",
    "500000000000": "html_error",
    "400000000000": "dropped_after_charging",
    "300000000000": "timeout_after_charging",
}
WANTED_ANSWER = {"response": "success"}

CATEGORIES = {"airtime": "Airtime Recharge", "data": "Data Services"}
SERVICES = {  # by serviceID: category, name, smallest and largest amount in naira
    "mtn": ("airtime", "MTN Airtime VTU", 5, 500_000),
    "glo": ("airtime", "GLO Airtime VTU", 5, 100_000),
    "airtel": ("airtime", "Airtel Airtime VTU", 5, 100_000),
    "etisalat": ("airtime", "9mobile Airtime VTU", 5, 100_000),
    "foreign-airtime": ("airtime", "International Airtime", 5, 100_000),
    "mtn-data": ("data", "MTN Data", 1, 1_000_000),
    "glo-data": ("data", "GLO Data", 1, 200_000),
    "airtel-data": ("data", "Airtel Data", 1, 1_000_000),
    "etisalat-data": ("data", "9mobile Data", 1, 1_000_000),
}
VARIATIONS = {  # by serviceID: code, name, price in naira
    "mtn-data": (
        ("mtn-10mb-100", "N100 100MB - 24 hrs", "100.00"),
        ("mtn-50mb-200", "N200 200MB - 2 days", "200.00"),
        ("mtn-100mb-1000", "N1000 1.5GB - 30 days", "1000.00"),
    ),
    "glo-data": (("glo100", "Glo Data N100 - 105MB - 2 days", "100.00"),),
    "airtel-data": (("airt-100", "Airtel Data N100 - 75MB - 1 day", "99.00"),),
    "etisalat-data": (("eti-100", "9mobile Data N100 - 100MB - 1 day", "100.00"),),
}
COMMISSION_PERCENT = {"airtime": Decimal("3.5"), "data": Decimal(4)}

# By action of the network: the charge's status, the transaction's, code and description.
ENDS = {
    "pay": ("paid", "delivered", "000", "TRANSACTION SUCCESSFUL"),
    "decline": ("failed", "failed", "016", "TRANSACTION FAILED"),
    "fail": ("failed", "failed", "016", "TRANSACTION FAILED"),
    "reverse": ("paid", "reversed", "040", "TRANSACTION REVERSAL TO WALLET"),
}
PENDING = ("pending", "000", "TRANSACTION PROCESSING - PENDING")


class Refused(Exception):
    """Carries the answer of a call that is not accepted."""

    def __init__(self, code: str, description: str) -> None:
        self.response = coded(code, description)


@dataclass
class Purchase:
    charge: Charge
    service_id: str
    phone: str
    face: int  # in kobo, as told
    status: str = PENDING[0]
    code: str = PENDING[1]
    description: str = PENDING[2]

    @property
    def category(self) -> str:
        return SERVICES[self.service_id][0]


class Vtpass:
    name = "vtpass"

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.purchases: dict[str, Purchase] = {}

    def reset(self) -> None:
        self.purchases.clear()

    def routes(self) -> list[Route]:
        calls = [
            ("GET", "/service-categories", self.categories),
            ("GET", "/services", self.services),
            ("GET", "/service-variations", self.variations),
            ("POST", "/pay", self.pay),
            ("POST", "/requery", self.requery),
        ]
        return [Route(path, self.guarded(endpoint), methods=[method]) for method, path, endpoint in calls]

    def guarded(self, endpoint: Any) -> Any:
        async def call(request: Request) -> Response:
            try:
                self.authenticate(request)
                answer: Response = await endpoint(request)
            except Refused as refused:
                return refused.response
            return answer

        return call

    def authenticate(self, request: Request) -> None:
        settings = self.simulation.settings
        name, known = ("public-key", settings.vtpass_public_key)
        if request.method == "POST":
            name, known = ("secret-key", settings.vtpass_secret_key)
        for header, value in (("api-key", settings.vtpass_api_key), (name, known)):
            if not hmac.compare_digest(request.headers.get(header, "").encode(), value.encode()):
                raise Refused("087", "INVALID CREDENTIALS")

    # What can be bought

    async def categories(self, request: Request) -> Response:
        return listed([{"identifier": identifier, "name": name} for identifier, name in CATEGORIES.items()])

    async def services(self, request: Request) -> Response:
        identifier = request.query_params.get("identifier")
        if identifier not in CATEGORIES:
            raise Refused("011", "INVALID ARGUMENTS")
        return listed(
            [
                {
                    "serviceID": service_id,
                    "name": name,
                    "minimium_amount": str(smallest),
                    "maximum_amount": largest,
                    "convinience_fee": "0 %" if category == "airtime" else "N0",
                    "product_type": "flexible" if category == "airtime" else "fix",
                    "image": f"{self.simulation.settings.base_url}/vtpass/images/{service_id}.jpg",
                }
                for service_id, (category, name, smallest, largest) in SERVICES.items()
                if category == identifier
            ]
        )

    async def variations(self, request: Request) -> Response:
        service_id = request.query_params.get("serviceID", "")
        if service_id not in VARIATIONS:
            raise Refused("012", "PRODUCT DOES NOT EXIST")
        rows = [
            {"variation_code": code, "name": name, "variation_amount": price, "fixedPrice": "Yes"}
            for code, name, price in VARIATIONS[service_id]
        ]
        spelling = "varations" if self.simulation.behaviour.vtpass_old_answers else "variations"
        content = {"ServiceName": SERVICES[service_id][1], "serviceID": service_id, "convinience_fee": "0 %"}
        return listed({**content, spelling: rows})

    # Buying

    async def pay(self, request: Request) -> Response:
        body = await read_body(request)
        request_id = self.read_request_id(body)
        journal = self.simulation.journal
        if request_id in self.purchases:
            amount = self.purchases[request_id].charge.amount
            journal.submit(self.name, request_id, amount, "NGN", "-", "duplicate", "purchase")
            raise Refused("014", "REQUEST ID ALREADY EXIST")
        service_id, phone, amount = self.read_order(body)
        self.refuse_repeat(service_id, phone)
        magic = [OUTCOMES.get(MAGIC_PHONES.get(phone, "")), for_amount(amount // 100)]
        decision = self.simulation.overrides.choose(self.name, "purchase", magic)
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        journal.submit(self.name, request_id, amount, "NGN", outcome.name, result, "purchase")
        if not outcome.charges:
            return failure(outcome.answer)
        identity = f"{self.simulation.next_id()}1234567890"
        charge = Charge(self.name, request_id, identity, amount, "NGN", decision, self.simulation.clock())
        face = max(amount - amount // 2, 1) if outcome.wrong_amount else amount
        purchase = self.purchases[request_id] = Purchase(charge, service_id, phone, face)
        journal.add(charge, request_id[12:] or request_id)
        return await self.deliver(request, purchase)

    async def deliver(self, request: Request, purchase: Purchase) -> Response:
        """The network mostly acts before the answer, and then nothing more is told."""
        charge, outcome = purchase.charge, purchase.charge.outcome
        at_once = self.simulation.behaviour.automatic_customer and ends_at_once(outcome)
        if at_once:
            self.end(purchase, outcome.customer[0])
        response = self.first_answer(purchase)
        self.simulation.plan(self, charge, done=int(at_once))
        return await self.simulation.deliver_answer(request, charge.decision, response, failure)

    def first_answer(self, purchase: Purchase) -> Response:
        envelope = self.envelope(purchase)
        if purchase.status == "pending":
            return coded("099", "TRANSACTION IS PROCESSING", requestId=purchase.charge.reference)
        if self.simulation.behaviour.vtpass_old_answers and purchase.category == "airtime":
            flat = {name: value for name, value in envelope.items() if name != "content"}
            return reply({**flat, "transactionId": purchase.charge.id})
        return reply(envelope)

    def read_request_id(self, body: dict[str, Any]) -> str:
        request_id = body.get("request_id")
        today = f"{datetime.fromtimestamp(self.simulation.clock(), LAGOS):%Y%m%d}"
        if not isinstance(request_id, str) or not REQUEST_ID.fullmatch(request_id):
            raise Refused("085", "IMPROPER REQUEST ID: DOES NOT CONTAIN DATE")
        try:
            datetime.strptime(request_id[:12], "%Y%m%d%H%M").replace(tzinfo=LAGOS)
        except ValueError:
            raise Refused("085", "IMPROPER REQUEST ID: NOT PROPER DATE FORMAT") from None
        if not request_id.startswith(today):
            raise Refused("085", "IMPROPER REQUEST ID: DATE NOT TODAY'S DATE")
        return request_id

    def read_order(self, body: dict[str, Any]) -> tuple[str, str, int]:
        """Service, number and amount in kobo."""
        service_id, phone = body.get("serviceID"), body.get("phone")
        if not isinstance(service_id, str) or service_id not in SERVICES:
            raise Refused("012", "PRODUCT DOES NOT EXIST")
        if service_id == "foreign-airtime":
            raise Refused("011", "INVALID ARGUMENTS")  # without operator, country and product type
        category, _, smallest, largest = SERVICES[service_id]
        if category == "data":
            phone = body.get("billersCode") if is_number(phone) else None
        if not is_number(phone):
            raise Refused("011", "INVALID ARGUMENTS")
        amount = self.price(service_id, body) if category == "data" else kobo(body.get("amount"))
        if amount is None or (amount % 100 and category == "airtime"):
            raise Refused("011", "INVALID ARGUMENTS")
        if amount < smallest * 100:
            raise Refused("013", "BELOW MINIMUM AMOUNT ALLOWED")
        if amount > largest * 100:
            raise Refused("017", "ABOVE MAXIMUM AMOUNT ALLOWED")
        return service_id, str(phone), amount

    def price(self, service_id: str, body: dict[str, Any]) -> int | None:
        """The bundle's own, whatever amount was sent."""
        variation_code = body.get("variation_code")
        if not isinstance(variation_code, str) or not variation_code:
            raise Refused("011", "INVALID ARGUMENTS")
        prices = {code: price for code, _, price in VARIATIONS[service_id]}
        if variation_code not in prices:
            raise Refused("010", "VARIATION CODE DOES NOT EXIST")
        return kobo(prices[variation_code])

    def refuse_repeat(self, service_id: str, phone: str) -> None:
        since = self.simulation.clock() - self.simulation.behaviour.vtpass_repeat_seconds
        for purchase in self.purchases.values():
            if (purchase.service_id, purchase.phone) == (service_id, phone) and purchase.charge.created_at > since:
                raise Refused("019", "LIKELY DUPLICATE TRANSACTION")

    # Asking

    async def requery(self, request: Request) -> Response:
        request_id = (await read_body(request)).get("request_id")
        purchase = self.purchases.get(request_id) if isinstance(request_id, str) else None
        if not self.simulation.behaviour.answer_queries or (purchase and not purchase.charge.outcome.queries):
            return failure("server_error")
        if purchase is None:
            raise Refused("015", "INVALID REQUEST ID")
        return reply(self.envelope(purchase))

    def envelope(self, purchase: Purchase, description: str = "") -> dict[str, Any]:
        """A reversal tells outside what went back, which is the face value less the commission."""
        face = Decimal(purchase.face) / 100
        commission = face * COMMISSION_PERCENT[purchase.category] / 100
        total = self.amount(face - commission)
        transaction = {
            "status": purchase.status,
            "product_name": SERVICES[purchase.service_id][1],
            "unique_element": purchase.phone,
            "unit_price": self.amount(face),
            "quantity": 1,
            "service_verification": None,
            "channel": "api",
            "commission": self.amount(commission),
            "total_amount": total,
            "discount": None,
            "type": CATEGORIES[purchase.category],
            "email": "merchant@example.com",
            "phone": purchase.phone,
            "name": None,
            "convinience_fee": 0,
            "amount": self.amount(face),
            "platform": "api",
            "method": "wallet",
            "transactionId": purchase.charge.id,
        }
        created_at = datetime.fromtimestamp(purchase.charge.created_at, UTC)
        return {
            "code": purchase.code,
            "content": {"transactions": transaction},
            "response_description": description or purchase.description,
            "requestId": purchase.charge.reference,
            "amount": total if purchase.code == "040" else self.amount(face),
            "transaction_date": f"{created_at:%Y-%m-%dT%H:%M:%S.%fZ}",
            "purchased_code": "",
        }

    def amount(self, naira: Decimal) -> Any:
        if self.simulation.behaviour.vtpass_old_answers:
            return f"{naira:.2f}"
        return int(naira) if naira == naira.to_integral_value() else float(round(naira, 2))

    # What the network does

    def act(self, charge: Charge, action: str) -> asyncio.Task[None] | None:
        """`pay` delivers, `decline` does not, `process` leaves it pending, `reverse` takes a delivery back."""
        purchase = self.purchases[charge.reference]
        if action == "process" and charge.status == "pending":
            return None
        self.end(purchase, action)
        return self.notify(purchase)

    def end(self, purchase: Purchase, action: str) -> None:
        charge = purchase.charge
        if action not in ENDS:
            raise NotPossible(f"a VTPass purchase knows no {action!r}")
        if purchase.status != ("delivered" if action == "reverse" else "pending"):
            raise NotPossible(f"it is {purchase.status}")
        charge.status, purchase.status, purchase.code, purchase.description = ENDS[action]
        charge.failure = None if action == "pay" else purchase.description
        charge.money_taken = charge.amount if action == "pay" else 0

    def notify(self, purchase: Purchase) -> asyncio.Task[None] | None:
        outcome, behaviour = purchase.charge.outcome, self.simulation.behaviour
        if not outcome.webhooks:
            return None
        description = "TRANSACTION DELIVERED" if purchase.status == "delivered" else ""
        body = {"type": "transaction-update", "data": self.envelope(purchase, description)}
        message = Message(
            provider=self.name,
            event="transaction-update",
            reference=purchase.charge.reference,
            url=behaviour.vtpass_webhook_url,
            body=orjson.dumps(body),
            headers=lambda _: {"Content-Type": "application/json"},
            retries=behaviour.webhook_retries,
            wanted_answer=WANTED_ANSWER,
        )
        return self.simulation.webhooks.send([message] * outcome.copies)


def ends_at_once(outcome: Outcome) -> bool:
    """Not where the outcome is about how a later end is told."""
    told_as_usual = outcome.copies == 1 and outcome.webhooks and outcome.queries
    return told_as_usual and outcome.customer[:1] in (("pay",), ("decline",))


def coded(code: str, description: str, **more: Any) -> Response:
    return reply({"code": code, "content": {"errors": description}, "response_description": description, **more})


def listed(content: Any) -> Response:
    """Lookups have no code: it stands in the description."""
    return reply({"response_description": "000", "content": content})


def failure(kind: str) -> Response:
    match kind:
        case "html_error":
            return html_error()
        case "refuse":
            return coded("018", "LOW WALLET BALANCE")
        case "rate_limited":
            return Response(status_code=429)
        case _:
            return reply({"code": "083", "content": {}, "response_description": "SYSTEM ERROR"}, 500)


def is_number(value: Any) -> bool:
    return isinstance(value, str) and (PHONE.fullmatch(value) is not None or value in MAGIC_PHONES)


def kobo(value: Any) -> int | None:
    """From naira as a number or as text."""
    try:
        naira = Decimal(value if type(value) in (int, str, Decimal) else "")
    except InvalidOperation:
        return None
    scaled = naira * 100 if naira.is_finite() and 0 < naira < 10**9 else Decimal(0)
    return int(scaled) if scaled > 0 and scaled == scaled.to_integral_value() else None


async def read_body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body(), parse_float=Decimal)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refused("011", "INVALID ARGUMENTS")
    return body
