"""Paystack's disputes, as its webhooks tell them."""

from typing import Any

from payflow.simulator.paystack_objects import Transaction, customer
from payflow.simulator.state import NotPossible, iso

# The event, its resolution, and whether the whole payment goes back.
ACTIONS = {
    "dispute": ("charge.dispute.create", None),
    "dispute_accept": ("charge.dispute.resolve", "merchant-accepted"),
    "dispute_accept_part": ("charge.dispute.resolve", "merchant-accepted"),
    "dispute_decline": ("charge.dispute.resolve", "declined"),
}


def dispute(transaction: Transaction, action: str, number: int, now: float) -> tuple[str, dict[str, Any]]:
    """The event after the customer or the bank has acted."""
    if transaction.charge.status != "paid":
        raise NotPossible("not paid")
    name, resolution = ACTIONS[action]
    if action == "dispute_accept":
        transaction.status = "reversed"
    part = transaction.amount // 2 if action == "dispute_accept_part" else transaction.amount
    return name, {
        "id": number,
        "refund_amount": part if resolution == "merchant-accepted" else None,
        "currency": transaction.currency,
        "status": "resolved" if resolution else "awaiting-merchant-feedback",
        "resolution": resolution,
        "domain": "test",
        "transaction": {
            "id": transaction.id,
            "domain": "test",
            "status": "reversed" if action == "dispute_accept" else "success",
            "reference": transaction.reference,
            "amount": transaction.amount,
            "currency": transaction.currency,
            "channel": transaction.channel,
        },
        "transaction_reference": None,
        "category": "chargeback",
        "customer": customer(transaction),
        "bin": None,
        "last4": None,
        "dueAt": iso(now + 86_400),
        "resolvedAt": iso(now) if resolution else None,
        "evidence": None,
        "attachments": None,
        "note": None,
        "history": [],
        "messages": [],
        "created_at": iso(now),
        "updated_at": iso(now),
    }
