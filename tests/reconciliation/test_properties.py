"""What holds for any file: every line ends in one class, the order of lines is nothing, and our own books agree with themselves.

`make prove` tries a thousand files instead of some dozens.
"""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from payflow.core.ids import uuid7
from payflow.core.money import Money, format_minor
from payflow.infra.database import Database
from payflow.reconciliation.service import DifferenceKind, Summary
from tests.reconciliation.books import (
    LINES,
    NOW,
    Books,
    Fields,
    Paid,
    at,
    mpesa_line,
    paystack_line,
    stripe_line,
    written,
)

PROVING = os.environ.get("PAYFLOW_PROVE") == "1"
FILES = 1_000 if PROVING else 40
CURRENCIES = {"paystack": "NGN", "flutterwave": "GHS", "stripe": "USD", "mpesa": "KES"}
pytestmark = pytest.mark.timeout(3_600 if PROVING else 120)
of_files = settings(
    max_examples=FILES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@dataclass(frozen=True)
class Told:
    """Books, and by provider lines to make files of, and the columns in which they may be mixed."""

    books: Books
    lines: Mapping[str, list[Fields]]
    columns: Mapping[str, list[str]]


async def paid(books: Books, provider: str, minor: int, fee: int | None, **changes: Any) -> Paid:
    number = uuid7().hex
    named: dict[str, Any] = {
        "paystack": {"ids": (number,)},
        "flutterwave": {"ids": (number,), "receipt": f"FLW-{number}"},
        "stripe": {"ids": (f"pi_{number}", f"ch_{number}")},
        "mpesa": {"receipt": number.upper()},
    }[provider]
    # M-Pesa's statement tells charges in lines of their own.
    kept = None if provider == "mpesa" else fee
    return await books.payment(provider, Money(minor, CURRENCIES[provider]), fee=kept, **{**named, **changes})


def refund_line(of: Paid, part: Paid, later: int) -> Fields:
    amount = f"-{format_minor(part.amount.minor, 'NGN')}"
    moment = at(NOW + timedelta(seconds=later))
    return paystack_line(of, Amount=amount, **{"Paystack fee": "", "Transaction date": moment})


@pytest.fixture(scope="module")
async def told(database: Database, user_id: UUID) -> Told:
    """Payments of each provider in every state, money of somebody else, refunds, and payouts with a charge."""
    books = Books(database, user_id)
    lines: dict[str, list[Fields]] = {}
    for provider, line in LINES.items():
        of = [await paid(books, provider, minor, 75) for minor in (500_000, 500_000, 70_000)]
        declined = await paid(books, provider, 90_000, None, status="declined")
        stranger = replace(of[0], attempt_id=uuid7(), reference="order-7", ids=("ch_9None",), receipt="TKL9NONE")
        lines[provider] = [line(each) for each in (*of, stranger)]
        await books.reverse(of[2], provider)
        if provider == "paystack":
            parts = [await books.refund(of[0], provider, Money(10_000, "NGN")) for _ in range(2)]
            lines[provider] += [refund_line(of[0], part, later) for later, part in enumerate(parts)]
            lines[provider].append(line(declined, Status="failed"))
        if provider == "stripe":
            part = await books.refund(of[0], provider, Money(20_000, "USD"), ids=(f"re_{uuid7().hex}",))
            lines[provider] += [stripe_line(part, "refund", -1), stripe_line(of[2], "dispute", -1)]
            lines[provider].append(stripe_line(declined, "payout", -1, source_id="po_1", payment_intent_id=""))
        if provider == "mpesa":
            sent = await books.withdrawal(provider, Money(100_000, "KES"), receipt=uuid7().hex.upper(), fee=2_300)
            out = {"Paid In": "", "Withdrawn": "-1,000.00", "Details": "Business Payment to Customer"}
            charge = {**out, "Withdrawn": "-23.00", "Details": "Business Payment to Customer Charge"}
            lines[provider] += [mpesa_line(sent, **out), mpesa_line(sent, **charge)]
    columns = {
        "paystack": ["Reference", "Amount", "Status", "Transaction date", "Paystack fee", "Transaction ID"],
        "flutterwave": ["id", "tx_ref", "flw_ref", "charged_amount", "app_fee", "status", "created_at"],
        "stripe": ["balance_transaction_id", "reporting_category", "gross", "fee", "source_id", "payment_intent_id"],
        "mpesa": ["Receipt No.", "Completion Time", "Details", "Transaction Status", "Paid In", "Withdrawn"],
    }
    return Told(books, lines, columns)


@dataclass(frozen=True)
class Line:
    """One of the lines of a provider, with the cells of another in some of its columns."""

    which: int
    other: int
    changed: frozenset[int]


lines_of_files = st.builds(Line, st.integers(0, 30), st.integers(0, 30), st.frozensets(st.integers(0, 6), max_size=3))
files = st.lists(
    st.one_of(lines_of_files, st.builds(Line, st.integers(0, 30), st.just(0), st.just(frozenset()))),
    min_size=1,
    max_size=14,
)


def told_lines(told: Told, provider: str, drawn: list[Line]) -> list[Fields]:
    known, columns = told.lines[provider], told.columns[provider]

    def one(line: Line) -> Fields:
        own, other = known[line.which % len(known)], known[line.other % len(known)]
        changed = {columns[place] for place in line.changed if place < len(columns)}
        return {name: other[name] if name in changed else value for name, value in own.items()}

    return [one(line) for line in drawn]


def totals(summary: Summary) -> dict[str, Any]:
    return {
        "lines": summary.lines,
        "agreed": summary.agreed,
        "repaired": summary.repaired,
        "outside": summary.outside,
        "not_ours": summary.not_ours,
        "differences": summary.differences,
        "time": (summary.since, summary.until),
    }


@of_files
@given(provider=st.sampled_from(sorted(LINES)), drawn=files)
async def test_every_line_ends_in_one_class(told: Told, tmp_path: Path, provider: str, drawn: list[Line]) -> None:
    path = written(tmp_path / "file.csv", told_lines(told, provider, drawn))
    summary, found = await told.books.differences(provider, path)
    of_lines = [(each.line, each.kind) for each in found if each.line is not None]
    assert len(of_lines) == len(set(of_lines))
    differing = {line for line, _ in of_lines}
    assert summary.lines == len(drawn)
    assert differing <= set(range(2, len(drawn) + 2))
    assert summary.lines == summary.agreed + summary.outside + summary.not_ours.total() + len(differing)
    # A line may tell another amount and another fee; every other difference stands alone.
    several = [{kind for line, kind in of_lines if line == each} for each in differing]
    assert all(len(kinds) == 1 or kinds == {DifferenceKind.AMOUNT, DifferenceKind.FEE} for kinds in several)
    assert summary.differences == Counter(each.kind for each in found)


@of_files
@given(provider=st.sampled_from(sorted(LINES)), drawn=files, data=st.data())
async def test_the_order_of_lines_changes_no_total(
    told: Told, tmp_path: Path, provider: str, drawn: list[Line], data: st.DataObject
) -> None:
    lines = told_lines(told, provider, drawn)
    shuffled = data.draw(st.permutations(lines))
    first, _ = await told.books.differences(provider, written(tmp_path / "file.csv", lines))
    second, _ = await told.books.differences(provider, written(tmp_path / "shuffled.csv", shuffled))
    assert totals(first) == totals(second)


payments = st.lists(
    st.tuples(
        st.integers(1, 10**12), st.none() | st.integers(0, 10**6), st.sampled_from(("paid", "refunded", "failed"))
    ),
    min_size=1,
    max_size=4,
)


@settings(of_files, max_examples=FILES // 2)
@given(provider=st.sampled_from(sorted(LINES)), drawn=payments, data=st.data())
async def test_a_file_of_our_own_books_has_no_difference(
    database: Database, user_id: UUID, tmp_path: Path, provider: str, drawn: list[Any], data: st.DataObject
) -> None:
    books, lines = Books(database, user_id), []
    for minor, fee, what in drawn:
        kept = None if fee is None else min(fee, minor - 1)
        failed = what == "failed" and provider != "stripe"  # which tells what moved money only
        payment = await paid(books, provider, minor, kept, status="declined" if failed else "succeeded")
        word = {"paystack": {"Status": "failed"}, "flutterwave": {"status": "failed"}}.get(
            provider, {"Transaction Status": "Failed"}
        )
        lines.append(LINES[provider](payment, **(word if failed else {})))
        if what == "refunded" and provider in ("paystack", "stripe") and minor > 1:
            part = Money(data.draw(st.integers(1, minor - 1)), payment.amount.currency)
            back = await books.refund(payment, provider, part, ids=(f"re_{uuid7().hex}",))
            lines.append(stripe_line(back, "refund", -1) if provider == "stripe" else refund_line(payment, back, 1))
    summary, found = await books.differences(provider, written(tmp_path / "file.csv", lines))
    assert found == []
    assert (summary.agreed, summary.clean) == (len(lines), True)
