"""Stripe's queries: single objects, lists with their cursors, and `expand`."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from payflow.simulator import stripe_forms as forms
from payflow.simulator import stripe_objects as shapes
from payflow.simulator.state import Charge, Simulation, reply
from payflow.simulator.stripe_forms import Invalid
from payflow.simulator.stripe_http import Call, Executed, Handler
from payflow.simulator.stripe_lifecycle import Lifecycle
from payflow.simulator.stripe_objects import CardCharge, Dispute, Intent, Refund, Session

EXPANDABLE = {
    "checkout.session": ("payment_intent",),
    "payment_intent": ("latest_charge",),
    "refund": ("charge", "payment_intent"),
    "charge": ("payment_intent",),
    "dispute": ("charge", "payment_intent"),
}
COMPARISONS = {
    "gt": lambda left, right: left > right,
    "gte": lambda left, right: left >= right,
    "lt": lambda left, right: left < right,
    "lte": lambda left, right: left <= right,
}


class Reads:
    def __init__(self, simulation: Simulation, lifecycle: Lifecycle) -> None:
        self.simulation = simulation
        self.lifecycle = lifecycle

    def calls(self) -> list[tuple[str, Handler, Any]]:
        of_intent = {**forms.PAGING, "payment_intent": forms.ANY}
        events = {**forms.PAGING, **dict.fromkeys(("type", "types", "delivery_success"), forms.ANY)}
        return [
            ("/v1/checkout/sessions", self.list_sessions, of_intent),
            ("/v1/checkout/sessions/{id}", self.get_session, forms.EXPAND),
            ("/v1/payment_intents", self.list_intents, {**forms.PAGING, "customer": forms.ANY}),
            ("/v1/payment_intents/{id}", self.get_intent, {**forms.EXPAND, "client_secret": forms.ANY}),
            ("/v1/charges/{id}", self.get_charge, forms.EXPAND),
            ("/v1/refunds", self.list_refunds, {**of_intent, "charge": forms.ANY}),
            ("/v1/refunds/{id}", self.get_refund, forms.EXPAND),
            ("/v1/disputes", self.list_disputes, {**of_intent, "charge": forms.ANY}),
            ("/v1/disputes/{id}", self.get_dispute, forms.EXPAND),
            ("/v1/events", self.list_events, events),
            ("/v1/events/{id}", self.get_event, forms.EXPAND),
            ("/v1/balance", self.get_balance, forms.EXPAND),
        ]

    # Single objects

    def session(self, call: Call) -> Session:
        session = self.lifecycle.sessions.get(call.path["id"])
        self.refuse_if_mute(session.charge if session else None, call)
        if session is None:
            raise missing("checkout.session", call.path["id"], "session")
        self.lifecycle.expire_if_due(session)
        return session

    def intent(self, call: Call) -> Intent:
        intent = self.lifecycle.intents.get(call.path["id"])
        self.refuse_if_mute(intent.charge if intent else None, call)
        if intent is None:
            raise missing("payment_intent", call.path["id"], "intent")
        return intent

    def refuse_if_mute(self, charge: Charge | None, call: Call) -> None:
        if charge is not None and call.path["method"] == "GET" and not charge.outcome.queries:
            raise Invalid("An unknown error occurred", status=500)

    def get_session(self, call: Call) -> Executed:
        return Executed(self.show(shapes.show_session(self.session(call)), call.params))

    def get_intent(self, call: Call) -> Executed:
        return Executed(self.show(shapes.show_intent(self.intent(call)), call.params))

    def get_charge(self, call: Call) -> Executed:
        card = self.lifecycle.cards.get(call.path["id"])
        if card is None:
            raise missing("charge", call.path["id"], "id")
        return Executed(self.show(shapes.show_charge(card), call.params))

    def refund(self, call: Call) -> Refund:
        refund = self.lifecycle.refunds.get(call.path["id"])
        if refund is None:
            raise missing("refund", call.path["id"], "id")
        self.refuse_if_mute(refund.card.intent.charge, call)
        return refund

    def dispute(self, call: Call) -> Dispute:
        dispute = self.lifecycle.disputes.get(call.path["id"])
        if dispute is None:
            raise missing("dispute", call.path["id"], "dispute")
        return dispute

    def get_refund(self, call: Call) -> Executed:
        return Executed(self.show(shapes.show_refund(self.refund(call)), call.params))

    def get_dispute(self, call: Call) -> Executed:
        return Executed(self.show(shapes.show_dispute(self.dispute(call)), call.params))

    def get_event(self, call: Call) -> Executed:
        event = self.lifecycle.events.get(call.path["id"])
        if event is None:
            raise missing("event", call.path["id"], "id")
        return Executed(reply(self.with_delivery(event, self.delivered())))

    def get_balance(self, call: Call) -> Executed:
        totals: dict[str, int] = defaultdict(int)
        for card in self.lifecycle.cards.values():
            totals[card.intent.currency] += card.amount_captured - card.amount_refunded
        for dispute in self.lifecycle.disputes.values():
            totals[dispute.card.intent.currency] -= dispute.withheld
        rows = [
            {"amount": amount, "currency": currency, "source_types": {"card": amount}}
            for currency, amount in (totals or {"usd": 0}).items()
        ]
        nothing = [row | {"amount": 0, "source_types": {"card": 0}} for row in rows]
        return Executed(reply({"object": "balance", "available": rows, "livemode": False, "pending": nothing}))

    # Lists

    def list_sessions(self, call: Call) -> Executed:
        wanted = call.params.get("payment_intent")
        rows = [
            shapes.show_session(item)
            for item in self.lifecycle.sessions.values()
            if wanted in (None, item.intent.id if item.intent else "")
        ]
        return self.page(rows, call, "/v1/checkout/sessions")

    def list_intents(self, call: Call) -> Executed:
        wanted = call.params.get("customer")
        rows = [shapes.show_intent(item) for item in self.lifecycle.intents.values() if wanted in (None, item.customer)]
        return self.page(rows, call, "/v1/payment_intents")

    def list_refunds(self, call: Call) -> Executed:
        intent, charge = call.params.get("payment_intent"), call.params.get("charge")
        rows = [
            shapes.show_refund(item)
            for item in self.lifecycle.refunds.values()
            if intent in (None, item.card.intent.id) and charge in (None, item.card.id)
        ]
        return self.page(rows, call, "/v1/refunds")

    def list_disputes(self, call: Call) -> Executed:
        intent, charge = call.params.get("payment_intent"), call.params.get("charge")
        rows = [
            shapes.show_dispute(item)
            for item in self.lifecycle.disputes.values()
            if intent in (None, item.card.intent.id) and charge in (None, item.card.id)
        ]
        return self.page(rows, call, "/v1/disputes")

    def list_events(self, call: Call) -> Executed:
        params, delivered = call.params, self.delivered()
        kinds = params.get("types") or ([params["type"]] if params.get("type") else None)
        success = params.get("delivery_success")
        rows = [
            self.with_delivery(event, delivered)
            for event in self.lifecycle.events.values()
            if (kinds is None or event["type"] in kinds)
            and (success is None or (event["id"] in delivered) == (success == "true"))
        ]
        return self.page(rows, call, "/v1/events")

    def delivered(self) -> set[str]:
        return {item.message.identity for item in self.simulation.webhooks.deliveries.values() if item.delivered}

    def with_delivery(self, event: dict[str, Any], delivered: set[str]) -> dict[str, Any]:
        return event | {"pending_webhooks": 0 if event["id"] in delivered else 1}

    def page(self, rows: list[dict[str, Any]], call: Call, url: str) -> Executed:
        """Newest first; `starting_after` and `ending_before` name an object of the list."""
        limit = forms.integer(call.params.get("limit", "10"), "limit")
        if limit > 100:
            raise Invalid("This value must be less than or equal to 100.", "parameter_invalid_integer", "limit")
        rows = [row for row in reversed(rows) if created_within(row["created"], call.params.get("created"))]
        ids = [row["id"] for row in rows]
        if after := call.params.get("starting_after"):
            rows = rows[position(ids, after, "starting_after") + 1 :]
        if before := call.params.get("ending_before"):
            rows = rows[: position(ids, before, "ending_before")][-limit:]
        shown = [self.expand(row, paths(call.params, "data.")) for row in rows[:limit]]
        return Executed(reply({"object": "list", "data": shown, "has_more": len(rows) > limit, "url": url}))

    # Expanding

    def show(self, shown: dict[str, Any], params: Mapping[str, Any]) -> Response:
        return reply(self.expand(shown, paths(params)))

    def expand(self, shown: dict[str, Any], names: list[str]) -> dict[str, Any]:
        grown = dict(shown)
        for path in names:
            name, _, rest = path.partition(".")
            if name not in EXPANDABLE.get(shown["object"], ()):
                raise Invalid(f"This property cannot be expanded ({name}).")
            value = grown[name]
            inner = value if isinstance(value, dict) else self.object(value)
            grown[name] = self.expand(inner, [rest]) if inner and rest else inner
        return grown

    def object(self, name: str | None) -> dict[str, Any] | None:
        if name is None:
            return None
        found: Intent | CardCharge | Refund | None = self.lifecycle.intents.get(name) or self.lifecycle.cards.get(name)
        if isinstance(found, Intent):
            return shapes.show_intent(found)
        return shapes.show_charge(found) if isinstance(found, CardCharge) else None


def missing(kind: str, name: str, param: str) -> Invalid:
    return Invalid(f"No such {kind}: '{name}'", "resource_missing", param, 404)


def paths(params: Mapping[str, Any], prefix: str = "") -> list[str]:
    given = params.get("expand") or []
    return [str(item).removeprefix(prefix) for item in (given if isinstance(given, list) else [given])]


def position(ids: list[str], name: str, param: str) -> int:
    if name not in ids:
        raise Invalid(f"No such object: '{name}'", "resource_missing", param)
    return ids.index(name)


def created_within(created: int, bounds: Any) -> bool:
    if bounds is None:
        return True
    if not isinstance(bounds, dict):
        return created == forms.integer(bounds, "created")
    for name, value in bounds.items():
        if name not in COMPARISONS:
            raise Invalid(f"Received unknown parameter: created[{name}]", "parameter_unknown", f"created[{name}]")
        if not COMPARISONS[name](created, forms.integer(value, f"created[{name}]", 0)):
            return False
    return True
