"""Flutterwave v3: the hosted checkout, verifying and closing it under `/flutterwave`, and the webhooks of all its halves.

A link opens no transaction. Each try of the customer is one, with a number of its own and the link's tx_ref; a failed
try is told by webhook like a paid one, and leaves the page open.
"""

import asyncio
import base64
import hmac
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payflow.simulator import flutterwave_objects as shapes
from payflow.simulator.flutterwave_charges import Charges
from payflow.simulator.flutterwave_http import Refused, read_body
from payflow.simulator.flutterwave_objects import Link, Try
from payflow.simulator.flutterwave_refunds import Refunds
from payflow.simulator.flutterwave_transfers import Transfers
from payflow.simulator.outcomes import Decision, Outcome, for_amount
from payflow.simulator.state import Charge, NoSuchCharge, NotPossible, Simulation, token
from payflow.simulator.webhooks import Message

REFERENCE = re.compile(r"\S{1,100}")
TEST_KEY = re.compile(r"FLWSECK_TEST-[A-Za-z0-9-]+-X")
REASONS = {"decline": "Do Not Honour", "fail": "Do Not Honour", "insufficient_funds": "Insufficient Funds"}


class Flutterwave:
    name = "flutterwave"

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.links: dict[str, Link] = {}
        self.by_code: dict[str, Link] = {}
        self.by_id: dict[str, Link] = {}
        self.charges = Charges(simulation, self)
        self.refunds = Refunds(simulation, self)
        self.transfers = Transfers(simulation, self)

    def reset(self) -> None:
        stores: tuple[dict[Any, Any], ...] = (self.links, self.by_code, self.by_id, self.charges.by_flw_ref)
        for store in (*stores, self.refunds.refunds, self.transfers.by_reference):
            store.clear()

    def routes(self) -> list[Route]:
        calls = [
            ("POST", "/payments", self.pay_by_link),
            ("POST", "/payments/link/disable", self.disable),
            ("GET", "/transactions/verify_by_reference", self.verify_by_reference),
            ("GET", "/transactions/{id}/verify", self.verify),
            ("GET", "/transactions", self.list_transactions),
            ("POST", "/charges", self.charges.create),
            ("POST", "/validate-charge", self.charges.validate),
            ("POST", "/transactions/{id}/refund", self.refunds.create),
            ("GET", "/refunds/{id}", self.refunds.fetch),
            ("GET", "/refunds", self.refunds.list_all),
            ("POST", "/transfers", self.transfers.create),
            ("GET", "/transfers/{id}", self.transfers.fetch),
            ("GET", "/transfers", self.transfers.list_all),
            ("GET", "/banks/{country}", self.transfers.banks),
            ("POST", "/accounts/resolve", self.transfers.resolve),
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
        decision = self.decide(reference, amount, currency)
        if not decision.outcome.charges:
            return shapes.failure(decision.outcome.answer)
        link = self.open(reference, amount, currency, body, decision)
        return await self.simulation.answer(
            request, self, link.charge, lambda: shapes.success("Hosted Link", {"link": self.url(link)}), shapes.failure
        )

    def decide(self, reference: str, amount: int, currency: str) -> Decision:
        """What becomes of an order, which is written down. Refused for a tx_ref that was used."""
        journal = self.simulation.journal
        if reference in self.links:
            journal.submit(self.name, reference, amount, currency, "duplicate_reference", "duplicate")
            raise Refused(400, "Duplicate transaction reference")
        decision = self.simulation.overrides.choose(self.name, "collect", [for_amount(amount)])
        result = "charged" if decision.outcome.charges else "refused"
        journal.submit(self.name, reference, amount, currency, decision.outcome.name, result)
        return decision

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

    def paid_try(self, identity: str) -> tuple[Link, Try] | None:
        link = self.by_id.get(identity)
        paid = [item for item in link.tries if str(item.id) == identity and item.status == "successful"] if link else []
        return (link, paid[0]) if link and paid else None

    def refuse_query(self, link: Link | None) -> None:
        told = link is None or link.charge.outcome.queries
        if not (told and self.simulation.behaviour.answer_queries):
            raise Refused(503, shapes.GATEWAY_TIMEOUT)

    # What the customer does

    def act(self, charge: Charge, action: str) -> asyncio.Task[None] | None:
        transfer = self.transfers.of(charge)
        if transfer is not None:
            return self.transfers.act(transfer, action)
        link = self.links[charge.reference]
        match action:
            case "refund_settle" | "refund_fail":
                return self.refunds.act(link, action)
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
        """The one that is under way, or a new one; a direct charge has but one."""
        if link.tries and (link.direct or link.tries[-1].status == "pending"):
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
            stale = replace(tried, status="failed", processor_response=REASONS["decline"])
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
        return self.post(link.charge.reference, link.charge.outcome, [(body["event"], body) for body in bodies])

    def post(
        self, reference: str, outcome: Outcome, bodies: list[tuple[str, dict[str, Any]]]
    ) -> asyncio.Task[None] | None:
        if not outcome.webhooks:
            return None
        behaviour = self.simulation.behaviour
        messages = [
            Message(
                provider=self.name,
                event=name,
                reference=reference,
                url=behaviour.flutterwave_webhook_url,
                body=orjson.dumps(body),
                headers=self.proof(outcome),
                retries=behaviour.webhook_retries,
            )
            for name, body in bodies
        ]
        return self.simulation.webhooks.send([item for item in messages for _ in range(outcome.copies)])

    def proof(self, outcome: Outcome) -> Callable[[bytes], dict[str, str]]:
        """v3 repeats the secret; v4 signs the body with it."""
        secret = self.simulation.settings.flutterwave_secret_hash
        if not outcome.valid_signature:
            secret += "_another"

        def headers(body: bytes) -> dict[str, str]:
            if not self.simulation.behaviour.flutterwave_sign_webhooks:
                return {"Content-Type": "application/json", "verif-hash": secret}
            signature = base64.b64encode(hmac.digest(secret.encode(), body, "sha256")).decode()
            return {"Content-Type": "application/json", "flutterwave-signature": signature}

        return headers

    # The hosted page

    def checkout(self, code: str) -> Link:
        link = self.by_code.get(code)
        if link is None:
            raise NoSuchCharge(code)
        return link
