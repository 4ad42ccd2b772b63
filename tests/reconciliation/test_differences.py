"""Each kind of difference is found, and what agrees is not told."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from payflow.core.money import Money
from payflow.reconciliation.service import Window
from tests.reconciliation.books import (
    LINES,
    NOW,
    Books,
    Paid,
    at,
    flutterwave_line,
    mpesa_line,
    paystack_line,
    stripe_line,
    written,
)

NGN = Money(500_000, "NGN")
CURRENCIES = {"paystack": "NGN", "flutterwave": "GHS", "stripe": "USD", "mpesa": "KES"}


async def payment(books: Books, provider: str, minor: int = 500_000, **changes: Any) -> Paid:
    """As each adapter records it: M-Pesa by its receipt, the others by our reference and their ids."""
    number = len(await books.rows("SELECT id FROM attempts"))
    names: dict[str, Any] = {
        "paystack": {"ids": (f"40999{number}",), "fee": 7_500},
        "flutterwave": {"ids": (f"98441{number}",), "receipt": f"FLW-MOCK-{number}", "fee": 7_000},
        "stripe": {"ids": (f"pi_3Test{number}", f"ch_3Test{number}"), "fee": 88},
        "mpesa": {"ids": (f"ws_CO_{number}",), "receipt": f"TKL0TEST{number:02}"},
    }[provider]
    return await books.payment(provider, Money(minor, CURRENCIES[provider]), **{**names, **changes})


@pytest.mark.parametrize("provider", LINES)
async def test_what_agrees_is_clean(books: Books, file: Path, provider: str) -> None:
    paid = [await payment(books, provider, minor) for minor in (500_000, 123_456_700)]
    summary, found = await books.reconcile(provider, written(file, [LINES[provider](each) for each in paid]))
    assert found == []
    assert (summary.lines, summary.agreed, summary.clean) == (2, 2, True)


@pytest.mark.parametrize("provider", LINES)
async def test_money_there_and_not_here(books: Books, file: Path, provider: str) -> None:
    ours = await payment(books, provider)
    stranger = Paid(
        ours.transaction_id, ours.attempt_id, "order-7", ("pi_9None", "ch_9None"), "TKL9NONE", ours.amount, 1
    )
    strange = dict(LINES[provider](stranger))
    if provider == "stripe":
        strange["balance_transaction_id"] = "txn_none"
    summary, found = await books.reconcile(provider, written(file, [LINES[provider](ours), strange]))
    assert found == [("missing_here", 3, "", f"5000.00 {CURRENCIES[provider]}")]
    assert (summary.agreed, summary.clean) == (1, False)


@pytest.mark.parametrize("provider", LINES)
async def test_money_here_and_not_there(books: Books, file: Path, provider: str) -> None:
    told, untold = await payment(books, provider), await payment(books, provider, 70_000)
    await payment(
        books, "paystack" if provider != "paystack" else "mpesa"
    )  # another provider's is no matter of this file
    await payment(books, provider, status="declined")
    _, found = await books.differences(provider, written(file, [LINES[provider](told)]))
    assert [(each.kind.value, each.reference, each.ours) for each in found] == [
        ("missing_there", untold.reference, f"700.00 {CURRENCIES[provider]}")
    ]


@pytest.mark.parametrize("provider", LINES)
async def test_another_amount(books: Books, file: Path, provider: str) -> None:
    paid = await payment(books, provider)
    column = {"paystack": "Amount", "flutterwave": "charged_amount", "stripe": "gross", "mpesa": "Paid In"}[provider]
    line = LINES[provider](paid, **{column: "4,999.99"})
    currency = CURRENCIES[provider]
    _, found = await books.reconcile(provider, written(file, [line]))
    assert found == [("amount", 2, f"5000.00 {currency}", f"4999.99 {currency}")]


@pytest.mark.parametrize(
    ("provider", "column", "ours"),
    [("paystack", "Paystack fee", "75.00"), ("flutterwave", "app_fee", "70.00"), ("stripe", "fee", "0.88")],
)
async def test_another_fee(books: Books, file: Path, provider: str, column: str, ours: str) -> None:
    line = LINES[provider](await payment(books, provider), **{column: "80.00"})
    _, found = await books.reconcile(provider, written(file, [line]))
    assert found == [("fee", 2, f"{ours} {CURRENCIES[provider]}", f"80.00 {CURRENCIES[provider]}")]


@pytest.mark.parametrize(("told", "differs"), [("26.875", False), ("26.855", True), ("26.87", True)])
async def test_a_fee_of_fractions_may_be_rounded_either_way(books: Books, file: Path, told: str, differs: bool) -> None:
    """Rounded down where the customer bore it; a fee in whole kobo is what it is."""
    lines = [flutterwave_line(await payment(books, "flutterwave", fee=fee), app_fee=told) for fee in (2_688,)]
    summary, _ = await books.reconcile("flutterwave", written(file, lines))
    assert summary.clean is not differs


async def test_a_file_that_tells_no_fee_is_not_compared_by_it(books: Books, file: Path) -> None:
    line = paystack_line(await payment(books, "paystack"))
    summary, _ = await books.reconcile("paystack", written(file, [{**line, "Paystack fee": ""}]))
    assert summary.clean


async def test_another_currency(books: Books, file: Path) -> None:
    line = paystack_line(await payment(books, "paystack"), Currency="GHS")
    _, found = await books.reconcile("paystack", written(file, [line]))
    assert found == [("currency", 2, "5000.00 NGN", "5000.00 GHS")]


@pytest.mark.parametrize(
    ("ours", "theirs", "differs"),
    [
        ("succeeded", "success", False),
        ("succeeded", "failed", True),
        ("succeeded", "pending", True),
        ("succeeded", "reversed", True),
        ("succeeded", "on the moon", True),
        ("declined", "failed", False),
        ("declined", "success", True),
        ("processing", "ongoing", False),
        ("processing", "success", True),
        ("expired", "abandoned", False),
        ("expired", "on the moon", True),
    ],
)
async def test_status(books: Books, file: Path, ours: str, theirs: str, differs: bool) -> None:
    line = paystack_line(await payment(books, "paystack", status=ours), Status=theirs)
    _, found = await books.reconcile("paystack", written(file, [line]))
    assert found == ([("status", 2, ours, theirs)] if differs else [])


async def test_a_failed_payment_that_is_not_ours_is_no_difference(books: Books, file: Path) -> None:
    ours = await payment(books, "paystack")
    other = paystack_line(ours, Reference="order-8", Status="abandoned", **{"Transaction ID": "9"})
    summary, found = await books.reconcile("paystack", written(file, [paystack_line(ours), other]))
    assert found == []
    assert summary.agreed == 2


@pytest.mark.parametrize("provider", LINES)
async def test_the_same_line_again(books: Books, file: Path, provider: str) -> None:
    line = LINES[provider](await payment(books, provider))
    _, found = await books.reconcile(provider, written(file, [line, line, line]))
    assert [(kind, number) for kind, number, *_ in found] == [("duplicate", 3), ("duplicate", 4)]


async def test_a_payment_settled_twice_under_other_ids(books: Books, file: Path) -> None:
    paid = await payment(books, "stripe")
    again = stripe_line(paid, balance_transaction_id="txn_another")
    _, found = await books.reconcile("stripe", written(file, [stripe_line(paid), again]))
    assert [(kind, number) for kind, number, *_ in found] == [("duplicate", 3)]


async def test_of_lines_about_the_same_the_oldest_that_moved_money_is_compared(books: Books, file: Path) -> None:
    line = paystack_line(await payment(books, "paystack"))
    later = {**line, "Amount": "4999.00", "Transaction date": at(NOW + timedelta(seconds=5))}
    failed = {**line, "Status": "failed", "Transaction date": at(NOW - timedelta(seconds=5))}
    for lines in ([failed, later, line], [line, later, failed]):
        summary, found = await books.reconcile("paystack", written(file, lines))
        assert [kind for kind, *_ in found] == ["duplicate", "duplicate"]
        assert summary.agreed == 1


async def test_a_payment_that_is_not_in_the_ledger(books: Books, file: Path) -> None:
    line = paystack_line(await payment(books, "paystack", post=False))
    _, found = await books.reconcile("paystack", written(file, [line]))
    assert found == [("missing_here", 2, "not in the ledger", "5000.00 NGN")]


async def test_found_by_the_providers_id_where_our_reference_is_not_told(books: Books, file: Path) -> None:
    line = flutterwave_line(await payment(books, "flutterwave"), tx_ref="changed-by-hand")
    assert (await books.reconcile("flutterwave", written(file, [line])))[1] == []
    line = flutterwave_line(await payment(books, "flutterwave"), tx_ref="changed-by-hand", id="0")
    summary, _ = await books.reconcile("flutterwave", written(file, [line]))  # by flw_ref, the receipt
    assert summary.agreed == 1


async def test_our_reference_of_another_provider_is_not_ours(books: Books, file: Path) -> None:
    paid = await payment(books, "flutterwave")
    _, found = await books.reconcile("paystack", written(file, [paystack_line(paid)]))
    assert [kind for kind, *_ in found] == ["missing_here"]


# Refunds, disputes, payouts, fees of their own


async def test_refunds_of_stripe_by_their_ids(books: Books, file: Path) -> None:
    paid = await payment(books, "stripe")
    parts = [
        await books.refund(paid, "stripe", Money(minor, "USD"), ids=(f"re_3Test{minor}",)) for minor in (10_000, 20_000)
    ]
    lines = [stripe_line(paid), *(stripe_line(part, "refund", -1) for part in parts)]
    assert (await books.reconcile("stripe", written(file, lines)))[1] == []
    _, found = await books.reconcile("stripe", written(file, [lines[0], lines[2]]))
    assert found == [("missing_there", None, "100.00 USD", "")]
    wrong = {**lines[1], "gross": "-99.00"}
    _, found = await books.reconcile("stripe", written(file, [lines[0], wrong, lines[2]]))
    assert found == [("amount", 3, "100.00 USD", "99.00 USD")]


async def test_negative_lines_are_refunds_of_the_payment_they_name(books: Books, file: Path) -> None:
    paid = await payment(books, "paystack")
    for _ in range(2):
        await books.refund(paid, "paystack", Money(100_000, "NGN"))
    back = paystack_line(paid, Amount="-1000.00", **{"Paystack fee": ""})
    later = {**back, "Transaction date": at(NOW + timedelta(seconds=5))}
    third = {**back, "Transaction date": at(NOW + timedelta(seconds=9))}
    assert (await books.reconcile("paystack", written(file, [paystack_line(paid), back, later])))[1] == []
    _, found = await books.reconcile("paystack", written(file, [paystack_line(paid), back, later, third]))
    assert found == [("missing_here", 5, "", "1000.00 NGN")]


async def test_a_refund_that_is_told_again_takes_no_others(books: Books, file: Path) -> None:
    paid = await payment(books, "paystack")
    for _ in range(2):
        await books.refund(paid, "paystack", Money(100_000, "NGN"))
    back = paystack_line(paid, Amount="-1000.00", **{"Paystack fee": ""})
    later = {**back, "Transaction date": at(NOW + timedelta(seconds=5))}
    _, found = await books.reconcile("paystack", written(file, [paystack_line(paid), back, back, later]))
    assert [(kind, number) for kind, number, *_ in found] == [("duplicate", 4)]


async def test_refunds_are_not_missed_in_a_file_that_tells_none(books: Books, file: Path) -> None:
    paid = await payment(books, "paystack")
    await books.refund(paid, "paystack", Money(100_000, "NGN"))
    assert (await books.reconcile("paystack", written(file, [paystack_line(paid)])))[1] == []


async def test_disputes(books: Books, file: Path) -> None:
    lost, kept = await payment(books, "stripe"), await payment(books, "stripe")
    await books.reverse(lost, "stripe")
    lines = [
        stripe_line(lost),
        stripe_line(kept),
        stripe_line(lost, "dispute", -1, fee="15.00"),
        stripe_line(kept, "dispute", -1),
        stripe_line(lost, "dispute_reversal"),
    ]
    _, found = await books.reconcile("stripe", written(file, lines))
    assert found == [("status", 5, "completed", "dispute"), ("status", 6, "reversed", "dispute_reversal")]


async def test_what_moves_no_money_of_a_transaction_is_counted_apart(books: Books, file: Path) -> None:
    paid = await payment(books, "stripe")
    payout = stripe_line(paid, "payout", -1, source_id="po_1", charge_id="", payment_intent_id="")
    summary, found = await books.reconcile("stripe", written(file, [stripe_line(paid), payout]))
    assert found == []
    assert (summary.lines, summary.agreed, dict(summary.not_ours)) == (2, 1, {"payout": 1})


async def test_a_fee_of_nothing_in_particular(books: Books, file: Path) -> None:
    paid = await payment(books, "stripe")
    fee = stripe_line(paid, "fee", gross="-2.50", fee="0.00", source_id="fee_1", charge_id="", payment_intent_id="")
    _, found = await books.reconcile("stripe", written(file, [stripe_line(paid), fee]))
    assert found == [("fee", 3, "", "2.50 USD")]


async def test_a_customer_who_paid_in_another_currency_than_is_settled(books: Books, file: Path) -> None:
    paid = await payment(books, "stripe")
    line = stripe_line(
        paid,
        gross="4600.00",
        fee="66.00",
        currency="eur",
        customer_facing_amount="5000.00",
        customer_facing_currency="usd",
    )
    assert (await books.reconcile("stripe", written(file, [line])))[1] == []


async def test_a_reversed_payment_of_mpesa_is_found_by_its_receipt(books: Books, file: Path) -> None:
    paid = await payment(books, "mpesa")
    await books.reverse(paid, "mpesa")
    assert (await books.reconcile("mpesa", written(file, [mpesa_line(paid)])))[1] == []


async def test_a_payment_of_mpesa_without_a_receipt_is_found_by_its_account(books: Books, file: Path) -> None:
    """A query that completed it tells no receipt."""
    paid = await payment(books, "mpesa", receipt=None)
    account = paid.reference[-12:]
    line = mpesa_line(paid, **{"Receipt No.": "TKL0QUERY1", "A/C No.": account.upper()})
    charge = {**line, "Details": "Pay Bill Charge", "Paid In": "", "Withdrawn": "-5.00", "A/C No.": ""}
    summary, found = await books.reconcile("mpesa", written(file, [line]))
    assert (found, summary.agreed) == ([], 1)
    assert (await books.reconcile("mpesa", written(file, [line, charge])))[1] == [("fee", 2, "0.00 KES", "5.00 KES")]
    assert (await books.reconcile("mpesa", written(file, [{**line, "Paid In": "1.00"}])))[1] == [
        ("amount", 2, "5000.00 KES", "1.00 KES")
    ]
    # Money beside it, whose account is the same, and one whose account only looks alike, are not this payment.
    later = (NOW + timedelta(hours=9)).strftime("%d-%m-%Y %H:%M:%S")
    again = {**line, "Receipt No.": "TKL0QUERY2", "Completion Time": later}
    other = {**line, "Receipt No.": "TKL0QUERY3", "A/C No.": account[1:]}
    for beside in (again, other):
        _, found = await books.reconcile("mpesa", written(file, [line, beside]))
        assert found == [("missing_here", 3, "", "5000.00 KES")]


async def test_another_receipt_to_the_account_of_a_payment_is_other_money(books: Books, file: Path) -> None:
    paid = await payment(books, "mpesa")
    line = mpesa_line(paid, **{"A/C No.": paid.reference[-12:]})
    _, found = await books.reconcile("mpesa", written(file, [line, {**line, "Receipt No.": "TKL0TWICE1"}]))
    assert found == [("missing_here", 3, "", "5000.00 KES")]


async def test_what_comes_to_the_account_of_a_payment_days_later_is_other_money(books: Books, file: Path) -> None:
    """In a later file, where the payment's own line does not stand."""
    paid = await payment(books, "mpesa", receipt=None)
    line = mpesa_line(paid, **{"Receipt No.": "TKL0ACC001", "A/C No.": paid.reference[-12:]})
    later = (NOW + timedelta(days=5)).strftime("%d-%m-%Y %H:%M:%S")
    written(file, [{**line, "Receipt No.": "TKL0ACC002", "Completion Time": later}])
    _, found = await books.reconcile("mpesa", file, Window(NOW + timedelta(days=4), NOW + timedelta(days=6)))
    assert found == [("missing_here", 2, "", "5000.00 KES")]
    assert (await books.reconcile("mpesa", written(file, [line])))[1] == []


async def test_payouts_and_charges_of_mpesa(books: Books, file: Path) -> None:
    paid = await payment(books, "mpesa")
    sent = await books.withdrawal("mpesa", Money(100_000, "KES"), receipt="TKL0SENT01", fee=2_300)
    out = mpesa_line(
        sent, **{"Paid In": "", "Withdrawn": "-1,000.00", "Details": "Business Payment to Customer to 2547****149"}
    )
    charge = {**out, "Withdrawn": "-23.00", "Details": "Business Payment to Customer Charge"}
    settled = {**out, "Receipt No.": "TKL0BANK01", "Details": "Organization Settlement to bank"}
    lines = [mpesa_line(paid), out, charge, settled]
    summary, found = await books.reconcile("mpesa", written(file, lines))
    assert found == []
    assert (summary.agreed, summary.not_ours.total()) == (3, 1)
    _, found = await books.reconcile("mpesa", written(file, [mpesa_line(paid), out, {**charge, "Withdrawn": "-25.00"}]))
    assert found == [("fee", 3, "23.00 KES", "25.00 KES")]
    _, found = await books.reconcile("mpesa", written(file, [mpesa_line(paid), charge]))
    assert found == [("missing_there", None, "1000.00 KES", "")]
    refused = {**charge, "Transaction Status": "Failed", "Withdrawn": "-99.00"}
    _, found = await books.reconcile("mpesa", written(file, [mpesa_line(paid), out, refused]))
    assert found == []
    unknown = {**out, "Receipt No.": "TKL0ELSE01", "Details": "Merchant Something New"}
    _, found = await books.reconcile("mpesa", written(file, [mpesa_line(paid), out, charge, unknown]))
    assert found == [("missing_here", 5, "", "1000.00 KES")]


async def test_a_charge_of_what_was_taken_back_is_still_its_charge(books: Books, file: Path) -> None:
    """Else the fee that is posted would be told as unknown, and a repair would post it again."""
    sent = await books.withdrawal("mpesa", Money(100_000, "KES"), receipt="TKL0GONE01", fee=2_300)
    out = mpesa_line(sent, **{"Paid In": "", "Withdrawn": "-1,000.00", "Details": "Business Payment to Customer"})
    charge = {**out, "Withdrawn": "-23.00", "Details": "Business Payment to Customer Charge"}
    back = {**out, "Paid In": "1,000.00", "Withdrawn": "", "Details": "Business Payment to Customer Reversal"}
    await books.rows("UPDATE attempts SET status = 'reversed' WHERE id = $1", sent.attempt_id)
    summary, found = await books.reconcile("mpesa", written(file, [out, charge, back]))
    assert (found, summary.agreed) == ([], 3)


# The window


async def test_the_time_is_that_of_the_files_days(books: Books, file: Path) -> None:
    """What was posted today is not missed in a file of last month."""
    told = await payment(books, "paystack")
    await payment(books, "paystack")
    old = NOW - timedelta(days=40)
    line = paystack_line(told, **{"Transaction date": at(old)})
    summary, found = await books.reconcile("paystack", written(file, [line]), Window())
    assert found == []
    day = old.replace(hour=0, minute=0, second=0, microsecond=0)
    assert (summary.since, summary.until) == (day, day + timedelta(days=1))


async def test_the_days_of_mpesa_are_those_of_nairobi(books: Books, file: Path) -> None:
    paid = await payment(books, "mpesa")
    line = mpesa_line(paid, **{"Completion Time": "21-11-2025 00:30:00"})
    summary, _ = await books.reconcile("mpesa", written(file, [line]), Window())
    assert (summary.since, summary.until) == (
        datetime(2025, 11, 20, 21, tzinfo=UTC),
        datetime(2025, 11, 21, 21, tzinfo=UTC),
    )


async def test_lines_outside_of_the_time_asked_for_are_not_compared(books: Books, file: Path) -> None:
    paid = await payment(books, "paystack")
    lines = [
        paystack_line(paid),
        paystack_line(paid, Reference="other", **{"Transaction ID": "", "Transaction date": "2019-05-05T10:00:00Z"}),
    ]
    summary, found = await books.reconcile("paystack", written(file, lines))
    assert found == []
    assert (summary.lines, summary.agreed, summary.outside) == (2, 1, 1)


async def test_what_came_about_at_the_edge_is_not_missed(books: Books, file: Path) -> None:
    told, untold = await payment(books, "paystack"), await payment(books, "paystack")
    path = written(file, [paystack_line(told)])
    careful = Books(books.database, books.user_id, margin_seconds=3_600)
    near = Window(books.window.since, books.window.until)
    assert [kind for kind, *_ in (await careful.reconcile("paystack", path, near))[1]] == []
    far = Window(books.window.since and books.window.since - timedelta(seconds=3_600), books.window.until)
    _, found = await careful.differences("paystack", path, far)
    assert [(each.kind, each.reference) for each in found] == [("missing_there", untold.reference)]
