"""Stripe's objects as API version 2025-09-30.clover shows them. Ids instead of objects, unless `expand` asks."""

import string
from dataclasses import dataclass, field
from typing import Any

from payflow.simulator.outcomes import OUTCOMES, Outcome
from payflow.simulator.state import Charge, token

ID_ALPHABET = string.ascii_letters + string.digits

# Test tokens and what comes of them: nothing = paid, a pair = (error code, decline code), text = a special course.
CARDS: dict[str, tuple[str, str] | str | None] = {
    **dict.fromkeys(("pm_card_visa", "pm_card_visa_debit", "pm_card_mastercard", "pm_card_amex", "pm_card_us")),
    "pm_card_bypassPending": None,
    **dict.fromkeys(("pm_card_visa_chargeDeclined", "pm_card_chargeDeclined"), ("card_declined", "generic_decline")),
    "pm_card_chargeCustomerFail": ("card_declined", "generic_decline"),
    **dict.fromkeys(
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "pm_card_chargeDeclinedInsufficientFunds"),
        ("card_declined", "insufficient_funds"),
    ),
    "pm_card_visa_chargeDeclinedLostCard": ("card_declined", "lost_card"),
    "pm_card_visa_chargeDeclinedStolenCard": ("card_declined", "stolen_card"),
    "pm_card_visa_chargeDeclinedVelocityLimitExceeded": ("card_declined", "card_velocity_exceeded"),
    "pm_card_radarBlock": ("card_declined", "fraudulent"),
    "pm_card_chargeDeclinedExpiredCard": ("expired_card", "expired_card"),
    "pm_card_chargeDeclinedIncorrectCvc": ("incorrect_cvc", "incorrect_cvc"),
    "pm_card_chargeDeclinedProcessingError": ("processing_error", "processing_error"),
    **dict.fromkeys(("pm_card_authenticationRequired", "pm_card_threeDSecure2Required"), "authenticate"),
    **dict.fromkeys(("pm_card_pendingRefund", "pm_card_refundFail"), "refund"),
    **dict.fromkeys(("pm_card_createDispute", "pm_card_createDisputeProductNotReceived"), "dispute"),
    "pm_card_createDisputeInquiry": "dispute_inquiry",
}
MESSAGES = {
    "insufficient_funds": "Your card has insufficient funds.",
    "expired_card": "Your card has expired.",
    "incorrect_cvc": "Your card's security code is incorrect.",
    "processing_error": "An error occurred while processing your card. Try again in a little bit.",
}


def new_id(prefix: str, length: int = 24) -> str:
    return f"{prefix}_{token(length, ID_ALPHABET)}"


@dataclass
class CardCharge:
    id: str
    intent: "Intent"
    amount: int
    created: int
    failure: dict[str, Any] | None = None
    captured: bool = True
    amount_captured: int = 0
    amount_refunded: int = 0
    disputed: bool = False


@dataclass
class Intent:
    id: str
    charge: Charge
    amount: int
    currency: str
    created: int
    metadata: dict[str, str]
    client_secret: str
    capture_method: str = "automatic_async"
    confirmation_method: str = "automatic"
    automatic_payment_methods: dict[str, Any] | None = None
    payment_method: str | None = None
    payment_method_types: list[str] = field(default_factory=lambda: ["card"])
    customer: str | None = None
    description: str | None = None
    receipt_email: str | None = None
    setup_future_usage: str | None = None
    statement_descriptor: str | None = None
    statement_descriptor_suffix: str | None = None
    return_url: str | None = None
    status: str = "requires_payment_method"
    last_payment_error: dict[str, Any] | None = None
    next_action: dict[str, Any] | None = None
    canceled_at: int | None = None
    cancellation_reason: str | None = None
    amount_received: int = 0
    amount_capturable: int = 0
    latest: CardCharge | None = None
    session: "Session | None" = None


@dataclass
class Session:
    id: str
    charge: Charge
    amount: int
    currency: str
    created: int
    expires_at: int
    success_url: str | None
    cancel_url: str | None
    url: str
    metadata: dict[str, str]
    intent_data: dict[str, Any]
    client_reference_id: str | None = None
    customer: str | None = None
    customer_email: str | None = None
    locale: str | None = None
    status: str = "open"
    payment_status: str = "unpaid"
    intent: Intent | None = None


@dataclass
class Refund:
    id: str
    card: CardCharge
    amount: int
    created: int
    reason: str | None
    metadata: dict[str, str]
    status: str = "pending"
    failure_reason: str | None = None
    outcome: Outcome = OUTCOMES["success"]


@dataclass
class Dispute:
    id: str
    card: CardCharge
    amount: int
    created: int
    status: str

    @property
    def withheld(self) -> int:
        """What the bank has taken from the balance: nothing while it only asks."""
        return self.amount if self.status in ("needs_response", "under_review", "lost") else 0


def show_intent(intent: Intent) -> dict[str, Any]:
    return {
        "id": intent.id,
        "object": "payment_intent",
        "amount": intent.amount,
        "amount_capturable": intent.amount_capturable,
        "amount_details": {"tip": {}},
        "amount_received": intent.amount_received,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": intent.automatic_payment_methods,
        "canceled_at": intent.canceled_at,
        "cancellation_reason": intent.cancellation_reason,
        "capture_method": intent.capture_method,
        "client_secret": intent.client_secret,
        "confirmation_method": intent.confirmation_method,
        "created": intent.created,
        "currency": intent.currency,
        "customer": intent.customer,
        "description": intent.description,
        "excluded_payment_method_types": None,
        "last_payment_error": intent.last_payment_error,
        "latest_charge": intent.latest.id if intent.latest else None,
        "livemode": False,
        "metadata": intent.metadata,
        "next_action": intent.next_action,
        "on_behalf_of": None,
        "payment_method": intent.payment_method,
        "payment_method_configuration_details": None,
        "payment_method_options": {},
        "payment_method_types": intent.payment_method_types,
        "processing": None,
        "receipt_email": intent.receipt_email,
        "review": None,
        "setup_future_usage": intent.setup_future_usage,
        "shipping": None,
        "source": None,
        "statement_descriptor": intent.statement_descriptor,
        "statement_descriptor_suffix": intent.statement_descriptor_suffix,
        "status": intent.status,
        "transfer_data": None,
        "transfer_group": None,
    }


NO_ADDRESS = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
NO_CHECKS = {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"}
VISA = {
    "brand": "visa",
    "checks": NO_CHECKS,
    "country": "US",
    "exp_month": 8,
    "exp_year": 2034,
    "fingerprint": "simulatedfinger1",
    "funding": "credit",
    "installments": None,
    "last4": "4242",
    "mandate": None,
    "network": "visa",
    "three_d_secure": None,
    "wallet": None,
}


def show_charge(card: CardCharge) -> dict[str, Any]:
    failure, intent = card.failure, card.intent
    paid = failure is None
    outcome = {
        "network_status": "approved_by_network" if paid else "declined_by_network",
        "reason": None if failure is None else failure["decline_code"],
        "risk_level": "normal",
        "seller_message": "Payment complete." if paid else "The bank did not return any further details.",
        "type": "authorized" if paid else "issuer_declined",
    }
    return {
        "id": card.id,
        "object": "charge",
        "amount": card.amount,
        "amount_captured": card.amount_captured,
        "amount_refunded": card.amount_refunded,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": f"txn_{card.id[3:]}" if paid and card.captured else None,
        "billing_details": {"address": NO_ADDRESS, "email": intent.receipt_email, "name": None, "phone": None},
        "calculated_statement_descriptor": "SIMULATOR",
        "captured": card.captured and paid,
        "created": card.created,
        "currency": intent.currency,
        "customer": intent.customer,
        "description": intent.description,
        "disputed": card.disputed,
        "failure_balance_transaction": None,
        "failure_code": None if failure is None else failure["code"],
        "failure_message": None if failure is None else failure["message"],
        "fraud_details": {},
        "livemode": False,
        "metadata": intent.metadata,
        "on_behalf_of": None,
        "outcome": outcome,
        "paid": paid,
        "payment_intent": intent.id,
        "payment_method": intent.payment_method,
        "payment_method_details": {"card": VISA, "type": "card"},
        "receipt_email": intent.receipt_email,
        "receipt_number": None,
        "receipt_url": None,
        "refunded": 0 < card.amount_captured <= card.amount_refunded,
        "review": None,
        "shipping": None,
        "source": None,
        "source_transfer": None,
        "statement_descriptor": intent.statement_descriptor,
        "statement_descriptor_suffix": intent.statement_descriptor_suffix,
        "status": "succeeded" if paid else "failed",
        "transfer_data": None,
        "transfer_group": None,
    }


def show_session(session: Session) -> dict[str, Any]:
    details = {"address": NO_ADDRESS, "email": session.customer_email, "name": None, "phone": None}
    absent = (
        "after_expiration allow_promotion_codes billing_address_collection client_secret collected_information consent "
        "consent_collection currency_conversion customer_creation discounts invoice invoice_creation origin_context "
        "payment_link payment_method_configuration_details permissions recovered_from saved_payment_method_options "
        "setup_intent shipping_address_collection shipping_cost submit_type subscription wallet_options"
    )
    return dict.fromkeys(absent.split()) | {
        "id": session.id,
        "object": "checkout.session",
        "adaptive_pricing": {"enabled": False},
        "amount_subtotal": session.amount,
        "amount_total": session.amount,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "cancel_url": session.cancel_url,
        "client_reference_id": session.client_reference_id,
        "created": session.created,
        "currency": session.currency,
        "custom_fields": [],
        "custom_text": dict.fromkeys(("after_submit", "shipping_address", "submit", "terms_of_service_acceptance")),
        "customer": session.customer,
        "customer_details": details | {"tax_exempt": "none", "tax_ids": None} if session.intent else None,
        "customer_email": session.customer_email,
        "expires_at": session.expires_at,
        "livemode": False,
        "locale": session.locale,
        "metadata": session.metadata,
        "mode": "payment",
        "payment_intent": session.intent.id if session.intent else None,
        "payment_method_collection": "if_required",
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "payment_status": session.payment_status,
        "phone_number_collection": {"enabled": False},
        "shipping_options": [],
        "status": session.status,
        "success_url": session.success_url,
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted",
        "url": session.url if session.status == "open" else None,
    }


def show_refund(refund: Refund) -> dict[str, Any]:
    intent = refund.card.intent
    shown = {
        "id": refund.id,
        "object": "refund",
        "amount": refund.amount,
        "balance_transaction": f"txn_{refund.id[3:]}",
        "charge": refund.card.id,
        "created": refund.created,
        "currency": intent.currency,
        "destination_details": {"card": {"type": "refund"}, "type": "card"},
        "metadata": refund.metadata,
        "payment_intent": intent.id,
        "reason": refund.reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": refund.status,
        "transfer_reversal": None,
    }
    if refund.failure_reason is not None:
        shown["failure_reason"] = refund.failure_reason
        shown["failure_balance_transaction"] = f"txn_failed{refund.id[3:]}"
    return shown


EVIDENCE = (
    "access_activity_log billing_address cancellation_policy cancellation_policy_disclosure cancellation_rebuttal "
    "customer_communication customer_email_address customer_name customer_purchase_ip customer_signature "
    "duplicate_charge_documentation duplicate_charge_explanation duplicate_charge_id product_description receipt "
    "refund_policy refund_policy_disclosure refund_refusal_explanation service_date service_documentation "
    "shipping_address shipping_carrier shipping_date shipping_documentation shipping_tracking_number "
    "uncategorized_file uncategorized_text"
)


def show_dispute(dispute: Dispute) -> dict[str, Any]:
    intent, inquiry = dispute.card.intent, dispute.status.startswith("warning_")
    return {
        "id": dispute.id,
        "object": "dispute",
        "amount": dispute.amount,
        "balance_transactions": [],
        "charge": dispute.card.id,
        "created": dispute.created,
        "currency": intent.currency,
        "enhanced_eligibility_types": [],
        "evidence": dict.fromkeys(EVIDENCE.split()),
        "evidence_details": {
            "due_by": dispute.created + 7 * 24 * 3600,
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": inquiry,
        "livemode": False,
        "metadata": {},
        "payment_intent": intent.id,
        "payment_method_details": {"card": {"brand": "visa", "network_reason_code": "10.4"}, "type": "card"},
        "reason": "fraudulent",
        "status": dispute.status,
    }


def card_error(intent: Intent, card: CardCharge, code: str, decline_code: str) -> dict[str, Any]:
    """The error object of a declined attempt, without the PaymentIntent that the HTTP answer adds."""
    slug = code.replace("_", "-")
    return {
        "charge": card.id,
        "code": code,
        "decline_code": decline_code,
        "doc_url": f"https://stripe.com/docs/error-codes/{slug}",
        "message": MESSAGES.get(decline_code, "Your card was declined."),
        "type": "card_error",
    }
