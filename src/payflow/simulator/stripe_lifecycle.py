"""How Stripe's PaymentIntents, Checkout Sessions and refunds move, and the events each move tells."""

import asyncio
from typing import Any

import orjson

from payflow.simulator import stripe_objects as shapes
from payflow.simulator.outcomes import Decision, Outcome
from payflow.simulator.state import Charge, NotPossible, Simulation
from payflow.simulator.stripe_objects import CardCharge, Dispute, Intent, Refund, Session, new_id
from payflow.simulator.webhooks import Message, stripe_headers

Told = tuple[str, dict[str, Any], dict[str, Any] | None]  # event type, object, previous attributes
DECLINES = {
    "decline": ("card_declined", "generic_decline"),
    "insufficient_funds": ("card_declined", "insufficient_funds"),
}
OPEN_INTENTS = ("requires_payment_method", "requires_confirmation", "requires_action", "processing")


class Lifecycle:
    name = "stripe"

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.intents: dict[str, Intent] = {}
        self.sessions: dict[str, Session] = {}
        self.cards: dict[str, CardCharge] = {}
        self.refunds: dict[str, Refund] = {}
        self.disputes: dict[str, Dispute] = {}
        self.events: dict[str, dict[str, Any]] = {}
        self.by_charge: dict[str, Intent | Session] = {}

    def reset(self) -> None:
        stores = (self.intents, self.sessions, self.cards, self.refunds, self.disputes, self.events, self.by_charge)
        for store in stores:
            store.clear()

    def now(self) -> int:
        return int(self.simulation.clock())

    # Events

    def tell(
        self, charge: Charge, told: list[Told], cause: dict[str, Any] | None = None, outcome: Outcome | None = None
    ) -> asyncio.Task[None] | None:
        """Copies carry the same event id. `cause` is the API request, absent when Stripe itself acted. A refund has an
        outcome of its own."""
        outcome = outcome or charge.outcome
        behaviour, settings = self.simulation.behaviour, self.simulation.settings
        events = [self.event(*item, cause) for item in told]
        if not outcome.webhooks:
            return None
        secret = settings.stripe_webhook_secret + ("" if outcome.valid_signature else "_another")
        messages = [
            Message(
                provider=self.name,
                event=event["type"],
                reference=charge.reference,
                url=behaviour.stripe_webhook_url,
                body=orjson.dumps(event),
                headers=lambda body: stripe_headers(secret, body, self.now()),
                retries=behaviour.webhook_retries,
                identity=event["id"],
            )
            for event in events
        ]
        return self.simulation.webhooks.send([item for item in messages for _ in range(outcome.copies)])

    def event(
        self, kind: str, shown: dict[str, Any], previous: dict[str, Any] | None, cause: dict[str, Any] | None
    ) -> dict[str, Any]:
        event: dict[str, Any] = {
            "id": new_id("evt"),
            "object": "event",
            "api_version": self.simulation.settings.stripe_api_version,
            "created": self.now(),
            "data": {"object": shown} if previous is None else {"object": shown, "previous_attributes": previous},
            "livemode": False,
            "pending_webhooks": 1,
            "request": cause or {"id": None, "idempotency_key": None},
            "type": kind,
        }
        self.events[event["id"]] = event
        return event

    def in_order(self, charge: Charge, told: list[Told], intent: Intent) -> list[Told]:
        """For `out_of_order`: the final event first, then what should have come before it."""
        if not charge.outcome.stale_event_after:
            return told
        stale = shapes.show_intent(intent) | {"amount_received": 0, "status": "processing", "latest_charge": None}
        fresh = stale | {"status": "requires_payment_method"}
        late: list[Told] = [
            ("payment_intent.processing", stale, None),
            ("payment_intent.payment_failed", fresh, None),
            ("payment_intent.created", fresh, None),
        ]
        return [*reversed(told), *late]

    # What the customer does

    def act(self, charge: Charge, action: str) -> asyncio.Task[None] | None:
        if action.startswith("refund_"):
            return self.act_on_refund(charge, action)
        target = self.by_charge[charge.id]
        if charge.status in ("paid", "cancelled", "expired"):
            raise NotPossible(f"already {charge.status}")
        if isinstance(target, Session):
            return self.act_on_session(target, action)
        return self.act_on_intent(target, action)

    def act_on_intent(self, intent: Intent, action: str) -> asyncio.Task[None] | None:
        match action:
            case "pay":
                return self.pay(intent)
            case "decline" | "fail" | "insufficient_funds":
                return self.decline(intent, *DECLINES.get(action, DECLINES["decline"]))
            case "process":
                return self.process(intent)
            case "cancel":
                return self.cancel(intent, "abandoned")
            case "expire":
                return self.cancel(intent, "automatic")
            case _:
                raise NotPossible(f"a PaymentIntent knows no {action!r}")

    def act_on_session(self, session: Session, action: str) -> asyncio.Task[None] | None:
        if action == "expire":
            return self.expire(session)
        if action == "cancel":
            session.charge.failure = "cancel"  # the customer went to cancel_url; the session stays open
            return None
        if session.intent is None:
            session.intent = self.intent_of(session)
        return self.act_on_intent(session.intent, action)

    def intent_of(self, session: Session) -> Intent:
        """The PaymentIntent of a session exists from the moment when the customer confirms."""
        data = session.intent_data
        intent = Intent(
            id=new_id("pi"),
            charge=session.charge,
            amount=session.amount,
            currency=session.currency,
            created=self.now(),
            metadata=data.get("metadata") or {},
            client_secret="",
            capture_method=data.get("capture_method") or "automatic_async",
            customer=session.customer,
            description=data.get("description"),
            receipt_email=data.get("receipt_email"),
            session=session,
        )
        intent.client_secret = f"{intent.id}_secret_{new_id('x')[2:]}"
        self.intents[intent.id] = intent
        self.simulation.journal.aliases[self.name, intent.id] = session.charge
        return intent

    def attempt(self, intent: Intent) -> CardCharge:
        card = CardCharge(new_id("ch"), intent, intent.amount, self.now())
        intent.latest = self.cards[card.id] = card
        intent.next_action = None
        return card

    def pay(self, intent: Intent, cause: dict[str, Any] | None = None) -> asyncio.Task[None] | None:
        charge, session, outcome = intent.charge, intent.session, intent.charge.outcome
        was_processing = intent.status == "processing"
        if outcome.wrong_amount:
            intent.amount = max(charge.amount - charge.amount // 2, 1)
        if outcome.wrong_currency:
            intent.currency = "eur" if charge.currency != "EUR" else "usd"
        card = self.attempt(intent)
        intent.payment_method = intent.payment_method or new_id("pm")
        intent.last_payment_error = None
        if session is not None:
            session.amount, session.currency = intent.amount, intent.currency
        if intent.capture_method == "manual":
            return self.authorise(intent, card, cause)
        card.amount_captured = intent.amount_received = intent.amount
        intent.status = "succeeded"
        charge.status, charge.failure, charge.money_taken = "paid", None, intent.amount
        told: list[Told] = [
            ("charge.succeeded", shapes.show_charge(card), None),
            ("payment_intent.succeeded", shapes.show_intent(intent), None),
        ]
        if session is not None:
            session.status, session.payment_status = "complete", "paid"
            kind = "async_payment_succeeded" if was_processing else "completed"
            told.append((f"checkout.session.{kind}", shapes.show_session(session), None))
        return self.tell(charge, self.in_order(charge, told, intent), cause)

    def authorise(self, intent: Intent, card: CardCharge, cause: dict[str, Any] | None) -> asyncio.Task[None] | None:
        card.captured = False
        intent.status, intent.amount_capturable = "requires_capture", intent.amount
        told: list[Told] = [("payment_intent.amount_capturable_updated", shapes.show_intent(intent), None)]
        if intent.session is not None:
            intent.session.status = "complete"
            told.append(("checkout.session.completed", shapes.show_session(intent.session), None))
        return self.tell(intent.charge, told, cause)

    def capture(self, intent: Intent, amount: int, cause: dict[str, Any] | None) -> None:
        card, charge = intent.latest, intent.charge
        if card is None or intent.status != "requires_capture":
            raise NotPossible("nothing to capture")
        card.captured, card.amount_captured = True, amount
        intent.status, intent.amount_capturable, intent.amount_received = "succeeded", 0, amount
        charge.status, charge.money_taken = "paid", amount
        if intent.session is not None:
            intent.session.payment_status = "paid"
        told: list[Told] = [
            ("charge.captured", shapes.show_charge(card), None),
            ("payment_intent.succeeded", shapes.show_intent(intent), None),
        ]
        self.tell(charge, told, cause)

    def process(self, intent: Intent, cause: dict[str, Any] | None = None) -> asyncio.Task[None] | None:
        """A bank debit: the session is complete while nothing is paid yet."""
        intent.status, intent.payment_method = "processing", intent.payment_method or new_id("pm")
        told: list[Told] = [("payment_intent.processing", shapes.show_intent(intent), None)]
        if intent.session is not None:
            intent.session.status = "complete"
            told.append(("checkout.session.completed", shapes.show_session(intent.session), None))
        return self.tell(intent.charge, told, cause)

    def decline(
        self, intent: Intent, code: str, decline_code: str, cause: dict[str, Any] | None = None
    ) -> asyncio.Task[None] | None:
        session, was_processing = intent.session, intent.status == "processing"
        card = self.attempt(intent)
        card.captured = False
        error = shapes.card_error(intent, card, code, decline_code)
        card.failure, intent.last_payment_error = error, error
        intent.status, intent.payment_method = "requires_payment_method", None
        intent.charge.status, intent.charge.failure = "failed", decline_code
        told: list[Told] = [
            ("charge.failed", shapes.show_charge(card), None),
            ("payment_intent.payment_failed", shapes.show_intent(intent), None),
        ]
        if session is not None and was_processing:
            told.append(("checkout.session.async_payment_failed", shapes.show_session(session), None))
        return self.tell(intent.charge, told, cause)

    def require_action(self, intent: Intent, cause: dict[str, Any] | None) -> asyncio.Task[None] | None:
        url = f"{self.simulation.settings.base_url}/checkout/stripe/{intent.id}"
        intent.status = "requires_action"
        if intent.return_url is None:
            intent.next_action = {"type": "use_stripe_sdk", "use_stripe_sdk": {}}
        else:
            redirect = {"return_url": intent.return_url, "url": url}
            intent.next_action = {"type": "redirect_to_url", "redirect_to_url": redirect}
        return self.tell(intent.charge, [("payment_intent.requires_action", shapes.show_intent(intent), None)], cause)

    def cancel(
        self, intent: Intent, reason: str | None, cause: dict[str, Any] | None = None
    ) -> asyncio.Task[None] | None:
        if intent.status not in (*OPEN_INTENTS, "requires_capture"):
            raise NotPossible(f"already {intent.status}")
        intent.status, intent.canceled_at, intent.cancellation_reason = "canceled", self.now(), reason
        intent.next_action, intent.amount_capturable = None, 0
        intent.charge.status = "expired" if reason == "automatic" else "cancelled"
        return self.tell(intent.charge, [("payment_intent.canceled", shapes.show_intent(intent), None)], cause)

    def expire(self, session: Session, cause: dict[str, Any] | None = None) -> asyncio.Task[None] | None:
        if session.status != "open":
            raise NotPossible(f"the session is {session.status}")
        session.status, session.charge.status = "expired", "expired"
        told: list[Told] = [("checkout.session.expired", shapes.show_session(session), None)]
        if session.intent is not None and session.intent.status in OPEN_INTENTS:
            session.intent.status, session.intent.canceled_at = "canceled", self.now()
            session.intent.cancellation_reason = "automatic"
            told.append(("payment_intent.canceled", shapes.show_intent(session.intent), None))
        return self.tell(session.charge, told, cause)

    def expire_if_due(self, session: Session) -> None:
        if session.status == "open" and session.expires_at <= self.now():
            self.expire(session)

    # Refunds

    def open_refund(
        self,
        card: CardCharge,
        amount: int,
        status: str,
        reason: str | None,
        metadata: dict[str, str],
        cause: dict[str, Any],
        outcome: Outcome,
    ) -> Refund:
        refund = Refund(new_id("re"), card, amount, self.now(), reason, metadata, status, outcome=outcome)
        self.refunds[refund.id] = refund
        card.amount_refunded += amount
        card.intent.charge.refunded += amount
        before = {"amount_refunded": card.amount_refunded - amount}
        told: list[Told] = [
            ("refund.created", shapes.show_refund(refund), None),
            ("charge.refunded", shapes.show_charge(card), before),
        ]
        self.tell(card.intent.charge, told, cause, outcome)
        return refund

    def settle_refund(self, refund: Refund, status: str) -> asyncio.Task[None] | None:
        """A refund that had succeeded may still fail: the money then comes back."""
        waiting = refund.status in ("pending", "requires_action")
        if refund.status == status or not (waiting or (refund.status == "succeeded" and status == "failed")):
            raise NotPossible(f"the refund is {refund.status}")
        before, card = {"status": refund.status}, refund.card
        refund.status = status
        kinds = ["refund.updated", "charge.refund.updated"]
        if status in ("failed", "canceled"):
            card.amount_refunded -= refund.amount
            card.intent.charge.refunded -= refund.amount
        if status == "failed":
            refund.failure_reason = "expired_or_canceled_card"
            kinds = ["refund.failed", "charge.refund.updated"]
        shown = shapes.show_refund(refund)
        told: list[Told] = [(kind, shown, before if kind.endswith(".updated") else None) for kind in kinds]
        return self.tell(card.intent.charge, told, outcome=refund.outcome)

    async def live_refund(self, refund: Refund, steps: list[str], decision: Decision) -> None:
        for status in steps:
            await asyncio.sleep(self.simulation.delay(decision))
            try:
                task = self.settle_refund(refund, status)
            except NotPossible:
                return
            if task is not None:
                await task

    def act_on_refund(self, charge: Charge, action: str) -> asyncio.Task[None] | None:
        statuses = {
            "refund_settle": "succeeded",
            "refund_fail": "failed",
            "refund_cancel": "canceled",
            "refund_needs_attention": "requires_action",
        }
        for refund in reversed(self.refunds.values()):
            if refund.card.intent.charge is charge and action in statuses:
                return self.settle_refund(refund, statuses[action])
        raise NotPossible(f"no refund for {action!r}")
