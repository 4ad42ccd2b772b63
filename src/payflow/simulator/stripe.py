"""Stripe under `/stripe/v1`: Checkout Sessions, PaymentIntents, refunds, disputes, events, balance.

Here are the calls that change something; `Lifecycle` has the moves, `Reads` the queries, `Gateway` what calls share.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from payflow.simulator import stripe_forms as forms
from payflow.simulator import stripe_objects as shapes
from payflow.simulator.outcomes import Decision, Operation, for_amount
from payflow.simulator.state import Charge, NoSuchCharge, NotPossible, Simulation, reply
from payflow.simulator.stripe_disputes import Disputes
from payflow.simulator.stripe_forms import Invalid
from payflow.simulator.stripe_http import Call, Executed, Gateway, Handler, failure, reference_of
from payflow.simulator.stripe_lifecycle import DECLINES, Lifecycle
from payflow.simulator.stripe_objects import CardCharge, Intent, Session, new_id
from payflow.simulator.stripe_reads import Reads

HOUR = 3600
DAY = 24 * HOUR
REASONS = ("duplicate", "fraudulent", "requested_by_customer")
CANCEL_REASONS = ("abandoned", *REASONS)
CAPTURES = ("automatic", "automatic_async", "manual")


class Stripe:
    name = "stripe"

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.lifecycle = Lifecycle(simulation)
        self.disputes = Disputes(self.lifecycle)
        self.gateway = Gateway(simulation, self)
        self.reads = Reads(simulation, self.lifecycle)

    def reset(self) -> None:
        self.lifecycle.reset()
        self.gateway.keys.clear()

    def act(self, charge: Charge, action: str) -> asyncio.Task[None] | None:
        return (self.disputes if action.startswith("dispute") else self.lifecycle).act(charge, action)

    def routes(self) -> list[Route]:
        posts: list[tuple[str, Handler, Any]] = [
            ("/v1/checkout/sessions", self.create_session, forms.CREATE_SESSION),
            ("/v1/checkout/sessions/{id}/expire", self.expire_session, forms.EXPIRE_SESSION),
            ("/v1/payment_intents", self.create_intent, forms.CREATE_INTENT),
            ("/v1/payment_intents/{id}/confirm", self.confirm_intent, forms.CONFIRM_INTENT),
            ("/v1/payment_intents/{id}/cancel", self.cancel_intent, forms.CANCEL_INTENT),
            ("/v1/payment_intents/{id}/capture", self.capture_intent, forms.CAPTURE_INTENT),
            ("/v1/refunds", self.create_refund, forms.CREATE_REFUND),
            ("/v1/refunds/{id}/cancel", self.cancel_refund, forms.EXPAND),
            ("/v1/disputes/{id}/close", self.close_dispute, forms.EXPAND),
        ]
        return [
            *(Route(path, self.gateway.call(handler, known), methods=["POST"]) for path, handler, known in posts),
            *(
                Route(path, self.gateway.call(handler, known), methods=["GET"])
                for path, handler, known in self.reads.calls()
            ),
            Route(
                "/{path:path}", self.gateway.call(self.unknown_url, forms.ANY), methods=["GET", "POST", "DELETE", "PUT"]
            ),
        ]

    def unknown_url(self, call: Call) -> Executed:
        raise Invalid(f"Unrecognized request URL ({call.path['method']}: /{call.path['path']}).", status=404)

    # Starting

    def begin(self, call: Call, name: str, amount: int, currency: str) -> tuple[Charge | None, Decision, str]:
        """Count the call and choose its outcome; no charge when the outcome is a refusal."""
        reference = reference_of(call.params) or call.key or name
        decision = self.choose("collect", [amount])
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        self.simulation.journal.submit(self.name, reference, amount, currency.upper(), outcome.name, result)
        if not outcome.charges:
            return None, decision, reference
        charge = Charge(self.name, reference, name, amount, currency.upper(), decision, self.simulation.clock())
        self.simulation.journal.add(charge)
        return charge, decision, reference

    def choose(self, operation: Operation, amounts: Iterable[int]) -> Decision:
        return self.simulation.overrides.choose(self.name, operation, [for_amount(amount) for amount in amounts])

    def create_session(self, call: Call) -> Executed:
        params = call.params
        amount, currency = forms.read_line_items(params)
        now = self.lifecycle.now()
        forms.choice(params, "mode", ("payment",), "payment")
        forms.choice(params, "ui_mode", ("hosted", "hosted_page"))
        success_url, cancel_url = forms.url(params, "success_url"), forms.url(params, "cancel_url")
        if success_url is None:
            forms.required(params, "success_url")
        expires_at = now + DAY
        if params.get("expires_at"):
            expires_at = forms.integer(params["expires_at"], "expires_at")
            if not now + HOUR // 2 - 60 <= expires_at <= now + DAY + 60:
                raise Invalid("The expires_at timestamp must be 30 minutes to 24 hours from now.", None, "expires_at")
        intent_data = dict(params.get("payment_intent_data") or {})
        intent_data["metadata"] = forms.metadata(intent_data)
        metadata = forms.metadata(params)
        session_id = new_id("cs_test", 58)
        charge, decision, _ = self.begin(call, session_id, amount, currency)
        if charge is None:
            return Executed(failure(decision.outcome.answer))
        session = Session(
            id=session_id,
            charge=charge,
            amount=amount,
            currency=currency,
            created=now,
            expires_at=expires_at,
            success_url=success_url,
            cancel_url=cancel_url,
            url=f"{self.simulation.settings.base_url}/checkout/stripe/{session_id}",
            metadata=metadata,
            intent_data=intent_data,
            client_reference_id=params.get("client_reference_id") or None,
            customer=params.get("customer") or None,
            customer_email=params.get("customer_email") or None,
            locale=params.get("locale") or None,
        )
        self.lifecycle.sessions[session_id] = self.lifecycle.by_charge[charge.id] = session
        return Executed(self.reads.show(shapes.show_session(session), params), decision, charge)

    def create_intent(self, call: Call) -> Executed:
        params = call.params
        amount = forms.read_amount(forms.required(params, "amount"))
        currency = forms.currency(forms.required(params, "currency"))
        confirm = forms.boolean(params, "confirm")
        if params.get("return_url") and not confirm:
            raise Invalid("You may only specify `return_url` with `confirm=true`.", None, "return_url")
        forms.check_payment_method(params)
        intent_id = new_id("pi")
        fields = self.intent_fields(params)
        charge, decision, _ = self.begin(call, intent_id, amount, currency)
        if charge is None:
            return Executed(failure(decision.outcome.answer))
        intent = Intent(
            id=intent_id,
            charge=charge,
            amount=amount,
            currency=currency,
            created=self.lifecycle.now(),
            client_secret=f"{intent_id}_secret_{new_id('x')[2:]}",
            **fields,
        )
        intent.status = "requires_confirmation" if intent.payment_method else "requires_payment_method"
        self.lifecycle.intents[intent_id] = self.lifecycle.by_charge[charge.id] = intent
        if not decision.outcome.stale_event_after:
            self.lifecycle.tell(charge, [("payment_intent.created", shapes.show_intent(intent), None)], call.cause)
        if confirm:
            return Executed(self.confirm(intent, call), decision)
        return Executed(self.reads.show(shapes.show_intent(intent), params), decision, charge)

    def intent_fields(self, params: Mapping[str, Any]) -> dict[str, Any]:
        texts = "customer description receipt_email setup_future_usage statement_descriptor statement_descriptor_suffix"
        automatic = params.get("automatic_payment_methods")
        if automatic is None and "payment_method_types" not in params:
            automatic = {"enabled": "true"}
        if automatic is not None:
            allow = forms.choice(automatic, "allow_redirects", ("always", "never"), "always")
            automatic = {"enabled": forms.boolean(automatic, "enabled"), "allow_redirects": allow}
        return {
            "metadata": forms.metadata(params),
            "capture_method": forms.choice(params, "capture_method", CAPTURES, "automatic_async"),
            "confirmation_method": forms.choice(params, "confirmation_method", ("automatic", "manual"), "automatic"),
            "automatic_payment_methods": automatic,
            "payment_method": params.get("payment_method") or None,
            "payment_method_types": params.get("payment_method_types") or ["card"],
            "return_url": forms.url(params, "return_url"),
            **{name: params.get(name) or None for name in texts.split()},
        }

    # Moving

    def confirm(self, intent: Intent, call: Call) -> Response:
        """What the test token says goes before the chosen outcome; the customer's first action happens here and now."""
        lifecycle, charge, actions = self.lifecycle, intent.charge, intent.charge.outcome.customer
        if charge.customer is not None:
            charge.customer.cancel()
        intent.last_payment_error = None
        course = shapes.CARDS.get(intent.payment_method or "")
        if course == "authenticate":
            lifecycle.require_action(intent, call.cause)
        elif isinstance(course, tuple):
            lifecycle.decline(intent, *course, call.cause)
        elif not actions or actions[0] == "process":
            lifecycle.process(intent, call.cause)
        elif actions[0] == "pay":
            lifecycle.pay(intent, call.cause)
        elif actions[0] in DECLINES:
            lifecycle.decline(intent, *DECLINES[actions[0]], call.cause)
        else:
            lifecycle.act(charge, actions[0])
        if not isinstance(course, tuple) and course != "authenticate":
            self.simulation.plan(self, charge, done=1)
        if course in ("dispute", "dispute_inquiry") and intent.status == "succeeded":
            self.simulation.tasks.spawn(self.simulation.live(self, charge, (course,)))
        if intent.last_payment_error is not None:
            return reply({"error": {**intent.last_payment_error, "payment_intent": shapes.show_intent(intent)}}, 402)
        return self.reads.show(shapes.show_intent(intent), call.params)

    def confirm_intent(self, call: Call) -> Executed:
        intent = self.reads.intent(call)
        forms.check_payment_method(call.params)
        if intent.status not in ("requires_payment_method", "requires_confirmation", "requires_action"):
            raise self.unexpected_state(intent, "confirm")
        intent.payment_method = call.params.get("payment_method") or intent.payment_method
        intent.return_url = forms.url(call.params, "return_url") or intent.return_url
        if intent.payment_method is None and "payment_method_data" not in call.params:
            message = "You cannot confirm this PaymentIntent because it's missing a payment method."
            raise Invalid(message, "payment_intent_unexpected_state")
        return Executed(self.confirm(intent, call))

    def cancel_intent(self, call: Call) -> Executed:
        intent = self.reads.intent(call)
        reason = forms.choice(call.params, "cancellation_reason", CANCEL_REASONS)
        if intent.session is not None:
            raise Invalid("You cannot cancel this PaymentIntent: expire its Checkout Session instead.")
        try:
            self.lifecycle.cancel(intent, reason, call.cause)
        except NotPossible:
            raise self.unexpected_state(intent, "cancel") from None
        if intent.charge.customer is not None:
            intent.charge.customer.cancel()
        return Executed(self.reads.show(shapes.show_intent(intent), call.params))

    def capture_intent(self, call: Call) -> Executed:
        intent = self.reads.intent(call)
        amount = intent.amount_capturable
        if call.params.get("amount_to_capture"):
            amount = forms.integer(call.params["amount_to_capture"], "amount_to_capture")
            if amount > intent.amount_capturable:
                raise Invalid("The amount_to_capture is more than the amount capturable.", "amount_too_large")
        try:
            self.lifecycle.capture(intent, amount, call.cause)
        except NotPossible:
            raise self.unexpected_state(intent, "capture") from None
        return Executed(self.reads.show(shapes.show_intent(intent), call.params))

    def unexpected_state(self, intent: Intent, verb: str) -> Invalid:
        message = f"You cannot {verb} this PaymentIntent because it has a status of {intent.status}."
        return Invalid(message, "payment_intent_unexpected_state")

    def expire_session(self, call: Call) -> Executed:
        session = self.reads.session(call)
        try:
            self.lifecycle.expire(session, call.cause)
        except NotPossible:
            message = 'Only Checkout Sessions with a status in ["open"] can be expired. '
            raise Invalid(message + f"This Session has a status of `{session.status}`.") from None
        return Executed(self.reads.show(shapes.show_session(session), call.params))

    # Refunds

    def create_refund(self, call: Call) -> Executed:
        params = call.params
        card = self.charge_to_refund(params)
        remaining = card.amount_captured - card.amount_refunded
        amount = forms.integer(params["amount"], "amount") if params.get("amount") else remaining
        reason = forms.choice(params, "reason", REASONS)
        metadata = forms.metadata(params)
        if remaining <= 0:
            raise Invalid(f"Charge {card.id} has already been refunded.", "charge_already_refunded")
        if amount > remaining:
            raise Invalid(
                f"Refund amount ({amount}) is greater than unrefunded amount on charge ({remaining})", None, "amount"
            )
        if any(item.withheld for item in self.lifecycle.disputes.values() if item.card is card):
            raise Invalid(f"Charge {card.id} has been charged back; cannot issue a refund.", "charge_disputed")
        charge = card.intent.charge
        decision = self.choose("refund", [amount] if params.get("amount") else [])
        outcome = decision.outcome
        result = "charged" if outcome.charges else "refused"
        self.simulation.journal.submit(
            self.name, charge.reference, amount, charge.currency, outcome.name, result, operation="refund"
        )
        if not outcome.charges:
            return Executed(failure(outcome.answer))
        status, later = refund_course(card.intent.payment_method, outcome.customer)
        refund = self.lifecycle.open_refund(card, amount, status, reason, metadata, call.cause, outcome)
        self.simulation.tasks.spawn(self.lifecycle.live_refund(refund, later, decision))
        return Executed(self.reads.show(shapes.show_refund(refund), params), decision)

    def cancel_refund(self, call: Call) -> Executed:
        refund = self.reads.refund(call)
        if refund.status != "requires_action":
            raise Invalid(f"A refund with a status of {refund.status} cannot be canceled.")
        self.lifecycle.settle_refund(refund, "canceled")
        return Executed(self.reads.show(shapes.show_refund(refund), call.params))

    def close_dispute(self, call: Call) -> Executed:
        """The merchant accepts it."""
        dispute = self.reads.dispute(call)
        try:
            self.disputes.close(dispute, "lost")
        except NotPossible:
            raise Invalid("This dispute is already closed.") from None
        return Executed(self.reads.show(shapes.show_dispute(dispute), call.params))

    def charge_to_refund(self, params: Mapping[str, Any]) -> CardCharge:
        name = params.get("charge")
        intent = None
        if params.get("payment_intent"):
            intent = self.lifecycle.intents.get(params["payment_intent"])
            if intent is None:
                raise forms.no_such("payment_intent", params["payment_intent"], "payment_intent", 400)
        elif not name:
            raise Invalid("One of the following params should be provided for this request: payment_intent or charge.")
        card = intent.latest if intent else self.lifecycle.cards.get(str(name))
        if card is None and intent is None:
            raise forms.no_such("charge", str(name), "charge", 400)
        if card is None or card.failure is not None or not card.captured:
            raise Invalid("This charge does not have a successful payment to refund.", "charge_not_refundable")
        return card

    # The hosted page

    def checkout(self, name: str) -> Session | Intent:
        session = self.lifecycle.sessions.get(name)
        if session is not None:
            self.lifecycle.expire_if_due(session)
            return session
        intent = self.lifecycle.intents.get(name)
        if intent is None:
            raise NoSuchCharge(name)
        return intent


def refund_course(payment_method: str | None, customer: tuple[str, ...]) -> tuple[str, list[str]]:
    """The status at once and those that follow. A card refund normally has succeeded when the call answers."""
    if payment_method == "pm_card_pendingRefund":
        return "pending", ["succeeded"]
    if payment_method == "pm_card_refundFail" or "decline" in customer or "reverse" in customer:
        return "succeeded", ["failed"]
    return ("succeeded", []) if customer else ("pending", [])
