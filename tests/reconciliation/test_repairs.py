"""A repair posts one journal with its reason, once for a line; what was posted before stays as it is."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from payflow.core.errors import Conflict, NotFound
from payflow.core.money import Money
from payflow.reconciliation.service import Repaired, RepairKind
from tests.reconciliation.books import LINES, Books, Paid, mpesa_line, paystack_line, stripe_line, written

REASON = "told by the export of November"
NOT_OURS = {"source_id": "re_9", "charge_id": "ch_9", "payment_intent_id": "pi_9"}


async def repair(
    books: Books, file: Path, line: int, kind: str, provider: str = "paystack", reason: str = REASON
) -> Repaired:
    return await books.service.repair(provider, file, line, RepairKind(kind), reason, books.user_id)


async def change(books: Books, before: dict[Any, int]) -> dict[str, int]:
    now = await books.ledger()
    return {
        code: now.get((code, currency), 0) - before.get((code, currency), 0)
        for code, currency in {*now, *before}
        if now.get((code, currency), 0) != before.get((code, currency), 0)
    }


async def journals_of(books: Books) -> list[dict[str, Any]]:
    return await books.rows("SELECT * FROM ledger_journals ORDER BY id")


@pytest.mark.parametrize(
    ("posted", "told", "missing"), [(None, "75.00", 7_500), (7_500, "80.00", 500), (7_500, "70.00", -500)]
)
async def test_a_missing_fee_is_posted_once(
    books: Books, file: Path, posted: int | None, told: str, missing: int
) -> None:
    paid = await books.payment("paystack", Money(500_000, "NGN"), fee=posted)
    written(file, [paystack_line(paid, **{"Paystack fee": told})])
    before, journals = dict(await books.ledger()), await journals_of(books)
    done = await repair(books, file, 2, "fee")
    assert (done.new, done.amount_minor, done.currency) == (True, missing, "NGN")
    assert await change(books, before) == {"provider_fees": missing, "provider_clearing:paystack": -missing}
    summary, found = await books.reconcile("paystack", file)
    assert found == []
    assert summary.agreed == 1
    again = await repair(books, file, 2, "fee", reason="somebody else, later")
    assert (again.new, again.journal_id) == (False, done.journal_id)
    after = await journals_of(books)
    assert after[:-1] == journals
    assert (after[-1]["id"], after[-1]["source_type"], after[-1]["kind"]) == (done.journal_id, "repair", "fee")
    assert after[-1]["transaction_id"] == paid.transaction_id


async def test_the_reason_and_who_gave_it_stay(books: Books, file: Path) -> None:
    paid = await books.payment("paystack", Money(500_000, "NGN"))
    written(file, [paystack_line(paid, **{"Paystack fee": "75.00"})])
    done = await repair(books, file, 2, "fee", reason=f"  {REASON} ")
    (kept,) = await books.rows("SELECT * FROM ledger_repairs WHERE journal_id = $1", done.journal_id)
    assert (kept["reason"], kept["repaired_by"], kept["attempt_id"]) == (REASON, books.user_id, paid.attempt_id)
    (event,) = await books.rows("SELECT * FROM events WHERE type = 'books.repaired' ORDER BY id DESC LIMIT 1")
    assert (event["actor"], event["user_id"], event["transaction_id"]) == ("user", books.user_id, None)
    assert event["data"]["reason"] == REASON
    assert event["data"]["line"] == f"payment:{paid.reference}"
    assert (event["data"]["amount"], event["data"]["amount_minor"], event["data"]["currency"]) == (
        "75.00",
        7_500,
        "NGN",
    )
    assert event["data"]["transaction_id"] == str(paid.transaction_id)


@pytest.mark.parametrize(("amount", "came"), [("5,000.00", 500_000), ("-5000.00", -500_000)])
async def test_money_that_nobody_here_knows_waits_in_suspense(books: Books, file: Path, amount: str, came: int) -> None:
    ours = await books.payment("paystack", Money(1_000, "NGN"))
    reference = f"till-{came}"
    strange = paystack_line(ours, Reference=reference, Amount=amount, **{"Transaction ID": "", "Paystack fee": "75.00"})
    written(file, [paystack_line(ours, **{"Paystack fee": ""}), strange])
    before = dict(await books.ledger())
    done = await repair(books, file, 3, "suspense")
    assert done.new
    assert await change(books, before) == {
        "provider_clearing:paystack": came - 7_500,
        "provider_fees": 7_500,
        "suspense": -came,
    }
    summary, found = await books.reconcile("paystack", file)
    assert found == []
    assert (summary.agreed, summary.repaired) == (2, 1)
    assert not (await repair(books, file, 3, "suspense")).new


async def test_the_same_line_in_another_file_is_repaired_already(books: Books, file: Path, tmp_path: Path) -> None:
    ours = await books.payment("paystack", Money(1_000, "NGN"))
    strange = paystack_line(ours, Reference="till-again", **{"Transaction ID": ""})
    first = await repair(books, written(file, [strange]), 2, "suspense")
    later = written(tmp_path / "later.csv", [paystack_line(ours), strange])
    again = await repair(books, later, 3, "suspense")
    assert (again.new, again.journal_id) == (False, first.journal_id)


async def test_what_was_repaired_and_is_known_after_all_is_told_to_stand_twice(books: Books, file: Path) -> None:
    """A prompt that a query completed without its receipt: the statement names the receipt alone, and it comes later."""
    paid = await books.payment("mpesa", Money(25_000, "KES"))
    written(file, [mpesa_line(paid, **{"Receipt No.": "NLJ7RT61SV"})])
    await repair(books, file, 2, "suspense", "mpesa")
    await books.rows("UPDATE attempts SET receipt = 'NLJ7RT61SV' WHERE id = $1", paid.attempt_id)
    summary, found = await books.reconcile("mpesa", file)
    assert found == [("duplicate", 2, "posted, and repaired", "once")]
    assert (summary.agreed, summary.repaired) == (0, 0)


async def test_what_became_known_is_taken_back_out_of_suspense_once(books: Books, file: Path) -> None:
    paid = await books.payment("paystack", Money(25_000, "NGN"), fee=400)
    line = paystack_line(paid, Reference="order-late", **{"Transaction ID": "", "Paystack fee": "4.00"})
    written(file, [line])
    before = dict(await books.ledger())
    with pytest.raises(Conflict):
        await repair(books, file, 2, "release")  # nothing was posted for it
    put = await repair(books, file, 2, "suspense")
    with pytest.raises(Conflict):
        await repair(books, file, 2, "release")  # nobody knows it yet
    await books.rows("UPDATE attempts SET provider_references = '{order-late}' WHERE id = $1", paid.attempt_id)
    assert (await books.reconcile("paystack", file))[1] == [("duplicate", 2, "posted, and repaired", "once")]
    done = await asyncio.gather(*(repair(books, file, 2, "release", reason="its webhook came") for _ in range(3)))
    assert sorted(each.new for each in done) == [False, False, True]
    assert len({each.journal_id for each in done}) == 1
    assert await change(books, before) == {}
    summary, found = await books.reconcile("paystack", file)
    assert (found, summary.agreed) == ([], 1)
    last = (await journals_of(books))[-1]
    assert (last["id"], last["source_type"], last["kind"]) == (done[0].journal_id, "repair", "release")
    assert (
        last["source_id"]
        == next(each for each in await journals_of(books) if each["id"] == put.journal_id)["source_id"]
    )
    (event,) = await books.rows("SELECT data FROM events WHERE type = 'books.repaired' ORDER BY id DESC LIMIT 1")
    assert (event["data"]["kind"], event["data"]["amount_minor"]) == ("release", -25_000)


async def test_a_charge_that_was_posted_alone_is_taken_back_too(books: Books, file: Path) -> None:
    paid = await books.payment("mpesa", Money(25_000, "KES"), receipt="TKLWHOSE01")
    line = mpesa_line(paid, **{"Receipt No.": "TKLWHOSE02"})
    charge = {**line, "Details": "Pay Bill Charge", "Paid In": "", "Withdrawn": "-5.00"}
    written(file, [line, charge])
    before = dict(await books.ledger())
    await repair(books, file, 3, "fee", "mpesa")
    assert await change(books, before) == {"provider_fees": 500, "provider_clearing:mpesa": -500}
    await books.rows("UPDATE attempts SET receipt = 'TKLWHOSE02' WHERE id = $1", paid.attempt_id)
    assert (await books.reconcile("mpesa", file))[1] == [
        ("fee", 2, "0.00 KES", "5.00 KES"),
        ("duplicate", 3, "posted, and repaired", "once"),
    ]
    assert (await repair(books, file, 3, "release", "mpesa")).amount_minor == -500
    assert (await repair(books, file, 2, "fee", "mpesa")).new
    assert (await books.reconcile("mpesa", file))[1] == []
    assert await change(books, before) == {"provider_fees": 500, "provider_clearing:mpesa": -500}


@pytest.mark.parametrize(
    ("provider", "changes"),
    [
        ("mpesa", {"Receipt No.": "TKLBACK001", "Details": "Business Payment to Customer Reversal"}),
        ("stripe", {"balance_transaction_id": "txn_9", "reporting_category": "refund_failure", **NOT_OURS}),
    ],
)
async def test_money_out_that_came_back_came(books: Books, file: Path, provider: str, changes: dict[str, str]) -> None:
    """A payout that was reversed, a refund that failed: of neither does anybody here know."""
    ours = await books.payment(provider, Money(25_000, "KES"), receipt=f"TKLBACK{provider}", ids=("pi_3Back",))
    line = LINES[provider](ours)
    written(file, [line, {**line, **changes}])
    before = dict(await books.ledger())
    assert (await repair(books, file, 3, "suspense", provider)).amount_minor == 25_000
    assert await change(books, before) == {f"provider_clearing:{provider}": 25_000, "suspense": -25_000}
    assert (await books.reconcile(provider, file))[1] == []


async def test_a_charge_that_was_taken_back_is_posted_for_its_payment(books: Books, file: Path) -> None:
    """In a file that holds the charge alone, since the payment stands in another."""
    paid = await books.payment("mpesa", Money(25_000, "KES"), receipt="TKLALONE01")
    charge = mpesa_line(paid, **{"Details": "Pay Bill Charge", "Paid In": "", "Withdrawn": "-5.00"})
    written(file, [{**charge, "Receipt No.": "TKLALONE02"}])
    before = dict(await books.ledger())
    await repair(books, file, 2, "fee", "mpesa")
    await books.rows("UPDATE attempts SET receipt = 'TKLALONE02' WHERE id = $1", paid.attempt_id)
    await repair(books, file, 2, "release", "mpesa")
    assert await change(books, before) == {}
    done = await repair(books, file, 2, "fee", "mpesa")
    assert (done.new, (await repair(books, file, 2, "fee", "mpesa")).journal_id) == (True, done.journal_id)
    assert await change(books, before) == {"provider_fees": 500, "provider_clearing:mpesa": -500}
    summary, _ = await books.reconcile("mpesa", file)
    assert summary.agreed == 1
    (kept,) = await books.rows("SELECT attempt_id FROM ledger_repairs WHERE journal_id = $1", done.journal_id)
    assert kept["attempt_id"] == paid.attempt_id


async def test_a_charge_in_another_currency_is_repaired_in_its_own(books: Books, file: Path) -> None:
    paid = await books.payment("stripe", Money(1_000, "EUR"), ids=("pi_3Other", "ch_3Other"), fee=75)
    written(file, [stripe_line(paid), stripe_line(paid, "fee", gross="-2.50", fee="0.00", currency="usd")])
    assert (await books.reconcile("stripe", file))[1] == [("fee", 3, "", "2.50 USD")]
    before = dict(await books.ledger())
    with pytest.raises(Conflict):
        await repair(books, file, 2, "fee", "stripe")
    assert (await repair(books, file, 3, "fee", "stripe")).currency == "USD"
    now = await books.ledger()
    assert now["provider_fees", "USD"] - before.get(("provider_fees", "USD"), 0) == 250
    assert now["provider_fees", "EUR"] == before["provider_fees", "EUR"]
    assert (await books.reconcile("stripe", file))[1] == []


@pytest.mark.parametrize(("changes", "theirs"), [({"Amount": "70.00"}, "70.00 NGN"), ({"Currency": "GHS"}, "7.00 GHS")])
async def test_a_line_that_tells_another_amount_than_was_repaired_differs(
    books: Books, file: Path, changes: dict[str, str], theirs: str
) -> None:
    ours = await books.payment("paystack", Money(1_000, "NGN"))
    reference = f"till-{theirs}"
    strange = paystack_line(ours, Reference=reference, Amount="7.00", **{"Transaction ID": "", "Paystack fee": ""})
    await repair(books, written(file, [strange]), 2, "suspense")
    assert (await books.reconcile("paystack", file))[0].repaired == 1
    _, found = await books.reconcile("paystack", written(file, [{**strange, **changes}, paystack_line(ours)]))
    assert found == [("amount", 2, "7.00 NGN", theirs)]


async def test_a_line_of_nothing_is_about_its_fee_or_about_nothing(books: Books, file: Path) -> None:
    ours = await books.payment("paystack", Money(1_000, "NGN"))
    empty = paystack_line(ours, Reference="till-nothing", Amount="0.00", **{"Transaction ID": "", "Paystack fee": ""})
    kept = {**empty, "Reference": "till-fee", "Paystack fee": "5.00"}
    written(file, [empty, kept, paystack_line(ours)])
    with pytest.raises(Conflict):
        await repair(books, file, 2, "suspense")
    assert (await books.reconcile("paystack", file))[1] == [("missing_here", 3, "", "0.00 NGN")]
    before = dict(await books.ledger())
    assert (await repair(books, file, 3, "suspense")).new
    assert await change(books, before) == {"provider_fees": 500, "provider_clearing:paystack": -500}
    assert (await books.reconcile("paystack", file))[1] == []


async def test_two_administrators_at_once_post_once(books: Books, file: Path) -> None:
    paid = await books.payment("paystack", Money(500_000, "NGN"))
    strange = paystack_line(paid, Reference="till-race", **{"Transaction ID": ""})
    written(file, [paystack_line(paid, **{"Paystack fee": "75.00"}), strange])
    before = len(await journals_of(books))
    for line, kind in ((2, "fee"), (3, "suspense")):
        done = await asyncio.gather(*(repair(books, file, line, kind) for _ in range(3)))
        assert sorted(each.new for each in done) == [False, False, True]
        assert len({each.journal_id for each in done}) == 1
    assert len(await journals_of(books)) == before + 2


async def test_a_fee_in_a_line_of_its_own(books: Books, file: Path) -> None:
    ours = await books.payment("stripe", Money(1_000, "USD"), ids=("pi_3Own", "ch_3Own"))
    names = {"source_id": "fee_9", "charge_id": "", "payment_intent_id": ""}
    written(file, [stripe_line(ours), stripe_line(ours, "fee", gross="-2.50", fee="0.00", **names)])
    before = dict(await books.ledger())
    assert (await repair(books, file, 3, "fee", "stripe")).amount_minor == 250
    assert await change(books, before) == {"provider_fees": 250, "provider_clearing:stripe": -250}
    assert (await books.reconcile("stripe", file))[1] == []


async def test_what_does_not_differ_is_not_repaired(books: Books, file: Path) -> None:
    paid = await books.payment("paystack", Money(500_000, "NGN"), fee=7_500)
    unposted = await books.payment("paystack", Money(500_000, "NGN"), post=False)
    good = paystack_line(paid)
    strange = {**good, "Reference": "till-twice", "Transaction ID": ""}
    written(file, [good, strange, strange, paystack_line(unposted)])
    before = await journals_of(books)
    for line, kind, error in (
        (2, "fee", Conflict),
        (2, "suspense", Conflict),
        (3, "fee", Conflict),
        (4, "suspense", Conflict),
        (5, "suspense", Conflict),
        (6, "fee", NotFound),
    ):
        with pytest.raises(error):
            await repair(books, file, line, kind)
    with pytest.raises(Conflict, match="reason"):
        await repair(books, file, 3, "suspense", reason="  ")
    assert await journals_of(books) == before


async def test_a_repair_is_never_edited(books: Books, file: Path) -> None:
    paid: Paid = await books.payment("paystack", Money(500_000, "NGN"))
    done = await repair(books, written(file, [paystack_line(paid, **{"Paystack fee": "75.00"})]), 2, "fee")
    for statement in (
        "UPDATE ledger_repairs SET reason = 'another'",
        "DELETE FROM ledger_repairs",
        "TRUNCATE ledger_repairs",
    ):
        with pytest.raises(asyncpg.RestrictViolationError, match="is append-only"):
            await books.rows(statement)
    (kept,) = await books.rows("SELECT reason FROM ledger_repairs WHERE journal_id = $1", done.journal_id)
    assert kept["reason"] == REASON
