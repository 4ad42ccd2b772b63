"""A repair posts one journal with its reason, once for a line; what was posted before stays as it is."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from payflow.core.errors import Conflict, NotFound
from payflow.core.money import Money
from payflow.reconciliation.service import Repaired, RepairKind
from tests.reconciliation.books import Books, Paid, mpesa_line, paystack_line, stripe_line, written

REASON = "told by the export of November"


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
