"""The story of one payment, from the merchant's request to the entry in the books, for each provider."""

import pytest

from tests.house import House


@pytest.mark.parametrize(
    "provider", ["paystack", "mpesa", "stripe", "standardbank_pay", "moniepoint", "cpay", "flutterwave"]
)
async def test_a_payment_is_taken_paid_and_explained(house: House, provider: str) -> None:
    ada = await house.merchant()

    # The merchant starts a payment and learns what the customer must do.
    payment = await ada.pay(provider)
    assert payment["status"] == "requires_action"
    assert payment["next_action"]["type"] in ("redirect", "handset_prompt")
    assert payment["client_token"].startswith("pf_client_")

    # The customer pays; the provider's webhook arrives, the worker settles it.
    paid = await house.until(ada, payment["id"], "completed")
    assert paid["paid_minor"] == paid["amount_minor"] == payment["amount_minor"]
    assert paid["attempts"][0]["status"] == "succeeded"

    # Everything that happened is told once, in order.
    assert [(event["sequence"], event["type"]) for event in paid["timeline"]] == [
        (1, "payment.initiated"),
        (2, "payment.requires_action"),
        (3, "payment.completed"),
    ]

    # The provider was asked for money once, and took it once.
    charges = await house.charges(provider)
    assert charges["totals"]["submissions"] == charges["totals"]["charges"] == 1

    # The books: what the provider owes us equals what we owe the merchant.
    entries = await house.rows(
        """
        SELECT a.code, sum(e.amount_minor)::bigint AS amount FROM ledger_entries e
        JOIN ledger_accounts a ON a.id = e.account_id GROUP BY a.code ORDER BY a.code
        """
    )
    books = {row["code"]: row["amount"] for row in entries}
    assert books["sales"] == -payment["amount_minor"]
    assert sum(books.values()) == 0
