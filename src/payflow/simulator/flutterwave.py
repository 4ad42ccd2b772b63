"""Flutterwave v3: the hosted checkout, verifying and closing it under `/flutterwave`, `charge.completed` webhooks.

A link opens no transaction. Each try of the customer is one, with a number of its own and the link's tx_ref; a failed
try is told by webhook like a paid one, and leaves the page open.
"""

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payflow.simulator import flutterwave_objects as shapes
from payflow.simulator.flutterwave_objects import Try
from payflow.simulator.outcomes import Decision, for_amount
from payflow.simulator.state import Charge, NoSuchCharge, NotPossible, Simulation, token
from payflow.simulator.webhooks import Message

REFERENCE = re.compile(r"\S{1,100}")
TEST_KEY = re.compile(r"FLWSECK_TEST-[A-Za-z0-9-]+-X")
REASONS = {"decline": "Do Not Honour", "fail": "Do Not Honour", "insufficient_funds": "Insufficient Funds"}


class Refused(Exception):
    """Carries the answer of a call that is not accepted."""

    def __init__(self, status: int, message: str) -> None:
        self.response = shapes.error(status, message)


@dataclass
class Link:
    charge: Charge
    code: str
    redirect_url: str
    customer: dict[str, Any]
    meta: Any
    active: bool = True
    tries: list[Try] = field(default_factory=list)


class Flutterwave:
    name = "flutterwave"

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.links: dict[str, Link] = {}
        self.by_code: dict[str, Link] = {}
        self.by_id: dict[str, Link] = {}

    def reset(self) -> None:
        for store in (self.links, self.by_code, self.by_id):
            store.clear()

    def routes(self) -> list[Route]:
        calls = [
            ("POST", "/payments", self.pay_by_link),
            ("POST", "/payments/link/disable", self.disable),
            ("GET", "/transactions/verify_by_reference", self.verify_by_reference),
            ("GET", "/transactions/{id}/verify", self.verify),
            ("GET", "/transactions", self.list_transactions),
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
        header = request.headers.get("authorization")
        if not header:
            raise Refused(401, "Authorization required")
        key = header.removeprefix("Bearer ").strip()
        if key == self.simulation.settings.flutterwave_secret_key:
            return
        if not (self.simulation.behaviour.accept_any_test_key and TEST_KEY.fullmatch(key)):
            raise Refused(401, "Invalid authorization key")

    # Collecting

    async def pay_by_link(self, request: Request) -> Response:
        body = await read_body(request)
        reference, amount, currency = self.read_order(body)
        journal = self.simulation.journal
        if reference in self.links:
            journal.submit(self.name, reference, amount, currency, "duplicate_reference", "duplicate")
            raise Refused(400, "Duplicate transaction reference")
        decision = self.simulation.overrides.choose(self.name, "collect", [for_amount(amount)])
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        journal.submit(self.name, reference, amount, currency, outcome.name, result)
        if not outcome.charges:
            return shapes.failure(outcome.answer)
        link = self.open(reference, amount, currency, body, decision)
        return await self.simulation.answer(
            request, self, link.charge, lambda: shapes.success("Hosted Link", {"link": self.url(link)}), shapes.failure
        )

    def read_order(self, body: dict[str, Any]) -> tuple[str, int, str]:
        customer = body.get("customer")
        given = {**body, "customer email": customer.get("email") if isinstance(customer, dict) else None}
        for name in ("tx_ref", "amount", "redirect_url", "customer email"):
            if given.get(name) in (None, ""):
                raise Refused(400, f"{name} is required")
        currency = body.get("currency") or "NGN"
        if currency not in shapes.CURRENCIES:
            raise Refused(400, "Merchant cannot perform transactions without approval.")
        reference, redirect_url = body["tx_ref"], body["redirect_url"]
        if not isinstance(reference, str) or not REFERENCE.fullmatch(reference):
            raise Refused(400, "tx_ref is invalid")
        if not isinstance(redirect_url, str) or not redirect_url.startswith(("http://", "https://")):
            raise Refused(400, "redirect_url must be a valid URL")
        amount = shapes.minor_units(body["amount"], currency)
        if amount is None:
            raise Refused(400, "amount is invalid")
        return reference, amount, currency

    def open(self, reference: str, amount: int, currency: str, body: dict[str, Any], decision: Decision) -> Link:
        code = f"flwlnk-01{token(24)}"
        charge = Charge(self.name, reference, code, amount, currency, decision, self.simulation.clock())
        link = Link(charge, code, body["redirect_url"], body["customer"], body.get("meta"))
        self.links[reference] = self.by_code[code] = link
        self.simulation.journal.add(charge)
        return link

    def url(self, link: Link) -> str:
        return f"{self.simulation.settings.base_url}/checkout/flutterwave/{link.code}"

    async def disable(self, request: Request) -> Response:
        given = (await read_body(request)).get("link")
        link = self.by_code.get(given.rpartition("/")[2]) if isinstance(given, str) else None
        if link is None or given != self.url(link):
            raise Refused(404, "Payment link not found")
        if not link.active:
            raise Refused(400, "This payment link is currently inactive")
        self.close(link)
        if link.charge.status != "paid":
            link.charge.status = "cancelled"
        return shapes.success("Payment link has been disabled successfully", None)

    def close(self, link: Link) -> None:
        link.active = False
        if link.charge.customer is not None:
            link.charge.customer.cancel()

    # Asking

    async def verify(self, request: Request) -> Response:
        identity = request.path_params["id"]
        link = self.by_id.get(identity)
        self.refuse_query(link)
        if link is None:
            raise Refused(400, "No transaction was found for this id")
        found = next(item for item in link.tries if str(item.id) == identity)
        return shapes.success("Transaction fetched successfully", shapes.verified(found))

    async def verify_by_reference(self, request: Request) -> Response:
        link = self.links.get(request.query_params.get("tx_ref", ""))
        self.refuse_query(link)
        if link is None or not link.tries:
            raise Refused(400, "No transaction was found for this id")
        newest = self.simulation.behaviour.flutterwave_reference_answers == "newest"
        found = link.tries[-1 if newest else 0]
        return shapes.success("Transaction fetched successfully", shapes.verified(found))

    async def list_transactions(self, request: Request) -> Response:
        query = request.query_params
        self.refuse_query(self.links.get(query.get("tx_ref", "")))
        rows = [
            item
            for link in self.links.values()
            for item in link.tries
            if query.get("tx_ref") in (None, item.tx_ref)
            and query.get("status") in (None, item.status)
            and query.get("currency") in (None, item.currency)
        ]
        page_info = {"total": len(rows), "current_page": 1, "total_pages": 1}
        rows.sort(key=lambda item: item.id, reverse=True)
        return shapes.success("Transactions fetched", [shapes.listed(item) for item in rows], {"page_info": page_info})

    def refuse_query(self, link: Link | None) -> None:
        told = link is None or link.charge.outcome.queries
        if not (told and self.simulation.behaviour.answer_queries):
            raise Refused(503, shapes.GATEWAY_TIMEOUT)

    # What the customer does

    def act(self, charge: Charge, action: str) -> asyncio.Task[None] | None:
        link = self.links[charge.reference]
        match action:
            case "pay" | "process" | "decline" | "fail" | "insufficient_funds" if charge.status == "paid":
                raise NotPossible("already paid")
            case "pay" | "process" | "decline" | "fail" | "insufficient_funds" if not link.active:
                raise NotPossible("the link is inactive")
            case "pay":
                return self.pay(link)
            case "process":
                self.attempt(link).processor_response = "Transaction in progress"
                return None
            case "decline" | "fail" | "insufficient_funds":
                charge.status, charge.failure = "failed", "decline" if action == "fail" else action
                tried = self.attempt(link)
                tried.status, tried.processor_response = "failed", REASONS[action]
                return self.notify(link, [shapes.event(tried)])
            case "cancel" | "expire":
                self.leave(link, action)
                return None
            case _:
                raise NotPossible(f"a Flutterwave charge knows no {action!r}")

    def attempt(self, link: Link) -> Try:
        """The one that is under way, or a new one."""
        if link.tries and link.tries[-1].status == "pending":
            return link.tries[-1]
        charge, now = link.charge, self.simulation.clock()
        tried = Try(self.simulation.next_id(), charge.reference, charge.amount, charge.currency, link.customer, now)
        tried.meta = link.meta
        link.tries.append(tried)
        self.by_id[str(tried.id)] = link
        return tried

    def pay(self, link: Link) -> asyncio.Task[None] | None:
        charge, outcome, tried = link.charge, link.charge.outcome, self.attempt(link)
        tried.status, tried.processor_response = "successful", "Approved by Financial Institution"
        if outcome.wrong_amount:
            tried.amount = max(charge.amount - charge.amount // 2, 1)
        if outcome.wrong_currency:
            tried.currency = "USD" if charge.currency != "USD" else "NGN"
        tried.fee_on_top = outcome.fee_on_top
        charge.status, charge.failure, charge.money_taken = "paid", None, tried.charged
        link.active = False
        events = [shapes.event(tried)]
        if outcome.stale_event_after:
            stale = Try(tried.id, tried.tx_ref, tried.amount, tried.currency, tried.customer, tried.created_at)
            stale.status, stale.processor_response = "failed", REASONS["decline"]
            events.append(shapes.event(stale))
        return self.notify(link, events)

    def leave(self, link: Link, action: str) -> None:
        """A customer who leaves may come back; a session that ran out marks what was under way as failed."""
        if link.charge.status == "paid":
            raise NotPossible("already paid")
        link.charge.failure = action
        link.charge.status = "cancelled" if action == "cancel" else "expired"
        if action == "expire":
            link.active = False
            if link.tries and link.tries[-1].status == "pending":
                link.tries[-1].status, link.tries[-1].processor_response = "failed", "Session expired"

    def notify(self, link: Link, bodies: list[dict[str, Any]]) -> asyncio.Task[None] | None:
        outcome, behaviour = link.charge.outcome, self.simulation.behaviour
        if not outcome.webhooks:
            return None
        secret = self.simulation.settings.flutterwave_secret_hash
        if not outcome.valid_signature:
            secret += "_another"
        messages = [
            Message(
                provider=self.name,
                event=body["event"],
                reference=link.charge.reference,
                url=behaviour.flutterwave_webhook_url,
                body=orjson.dumps(body),
                headers=lambda body: {"Content-Type": "application/json", "verif-hash": secret},
                retries=behaviour.webhook_retries,
            )
            for body in bodies
        ]
        return self.simulation.webhooks.send([item for item in messages for _ in range(outcome.copies)])

    # The hosted page

    def checkout(self, code: str) -> Link:
        link = self.by_code.get(code)
        if link is None:
            raise NoSuchCharge(code)
        return link


async def read_body(request: Request) -> dict[str, Any]:
    try:
        body = shapes.parsed(await request.body())
    except ValueError:
        raise Refused(400, "Invalid JSON in the request body") from None
    if not isinstance(body, dict):
        raise Refused(400, "Invalid JSON in the request body")
    return body
