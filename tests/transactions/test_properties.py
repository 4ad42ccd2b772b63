"""Whatever providers say, in whatever order: a history without gaps, books that balance, and money that is never lost."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from payflow.core.money import Money
from payflow.gateway.contract import Failure, Result, Verdict
from payflow.transactions.aggregate import AttemptStatus, Source, Unit
from payflow.transactions.lifecycle import OPEN, Cause, Kind, Status, allowed
from payflow.transactions.settle import settle
from tests.transactions.builders import AMOUNT, PAGE, attempt, context, transaction

MONEY = {Status.COMPLETED, Status.PARTIALLY_REFUNDED, Status.REFUNDED, Status.REVERSED, Status.UNDER_REVIEW}

amounts = st.one_of(
    st.none(),
    st.sampled_from(
        [AMOUNT, Money(AMOUNT.minor + 75, "NGN"), Money(1, "NGN"), Money(0, "NGN"), Money(AMOUNT.minor, "USD")]
    ),
)
results = st.builds(
    Result,
    verdict=st.sampled_from(Verdict),
    raw_status=st.sampled_from(["", "success", "failed"]),
    provider_references=st.sampled_from([(), ("1",), ("2", "1")]),
    receipt=st.sampled_from([None, "R1"]),
    requested=amounts,
    paid=amounts,
    fee=st.sampled_from([None, Money(75, "NGN"), Money(10, "NGN")]),
    amount_bound=st.booleans(),
    next_action=st.sampled_from([None, PAGE]),
    failure=st.sampled_from([None, Failure("declined", "No.")]),
    session_open=st.booleans(),
)
steps = st.lists(st.tuples(st.integers(0, 2), results, st.sampled_from(Source)), max_size=12)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(Kind), steps=steps)
def test_any_sequence_of_answers_keeps_the_promises(kind: Kind, steps: list[tuple[int, Result, Source]]) -> None:
    of = transaction(Status.PENDING, kind)
    tried = [attempt(of, number=number) for number in (1, 2, 3)]
    unit = Unit.of(of, tried)
    seen = [of.status]
    for which, result, source in steps:
        before, version = of.status, of.version
        settle(unit, tried[which], result, context(source))
        told = unit.events[len(unit.events) - (of.version - version) :] if of.version > version else []
        # Each event has the next sequence and shows the status after it; each change of status is in the table.
        for event in told:
            after = Status(event.status)
            assert event.sequence is not None
            assert after is before or allowed(kind, before, after, Cause.PROVIDER)
            before = after
        assert before is of.status
        seen.append(of.status)
        # The same again says nothing new.
        assert settle(unit, tried[which], result, context(source)) is False

    assert [event.sequence for event in unit.events] == list(range(2, of.version + 1))
    assert (of.next_check_at is not None) == (of.status in OPEN)
    assert (of.status is not Status.COMPLETED) or of.paid_minor > 0

    # `Journal` refuses to be unbalanced; here, that each is posted once and only money is posted.
    kinds = [(journal.source_id, journal.kind) for journal in unit.journals]
    assert len(kinds) == len(set(kinds))
    assert all(line.amount_minor != 0 for journal in unit.journals for line in journal.lines)
    assert sum(journal.kind == "collected" for journal in unit.journals) <= 1
    assert not unit.journals or kind in (Kind.PAYMENT, Kind.FUNDING)

    # Suspense holds exactly what a person must still look at.
    suspense = sum(line.amount_minor for journal in unit.journals for line in journal.lines if line.code == "suspense")
    waiting = [each.paid.minor for each in tried if each.status is AttemptStatus.UNDER_REVIEW and each.paid]
    assert suspense == (-sum(waiting) if kind in (Kind.PAYMENT, Kind.FUNDING) else 0)

    # Once money was seen, no answer makes it unseen; money out that ended badly is never simply completed.
    first = next((place for place, status in enumerate(seen) if status in MONEY), len(seen))
    assert set(seen[first:]) <= MONEY
    if kind in (Kind.WITHDRAWAL, Kind.AIRTIME):
        assert (Status.FAILED, Status.COMPLETED) not in set(pairwise(seen))
        assert Status.EXPIRED not in seen
