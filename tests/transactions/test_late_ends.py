"""Money out whose hold had ended before a person decided, or before the provider took its word back. Pure."""

import pytest

from payflow.core.ids import uuid7
from payflow.gateway.contract import Result, Verdict
from payflow.ledger.journals import Hold, HoldStatus
from payflow.transactions.aggregate import AttemptStatus, Unit
from payflow.transactions.lifecycle import Kind, Status
from payflow.transactions.settle import resolve_review, settle
from tests.transactions.builders import AMOUNT, NOW, ORIGIN, context, first, unit


def sent(status: Status, tried: AttemptStatus, hold: HoldStatus, *, paid_minor: int = 0, available: int = 0) -> Unit:
    of = unit(status, tried, Kind.WITHDRAWAL, paid_minor=paid_minor)
    transaction = of.transaction
    kept = Hold(uuid7(), transaction.user_id, transaction.id, "transaction", transaction.id, AMOUNT, hold, NOW)
    kept.gone = paid_minor > 0
    of.holds[transaction.id] = kept
    of.wallet_minor = available
    return of


def decide(of: Unit, outcome: Status) -> None:
    resolve_review(of, list(of.attempts.values()), outcome, "The bank says so.", ORIGIN, NOW)


def posted(of: Unit) -> list[tuple[str, dict[str, int]]]:
    return [(journal.kind, {line.code: line.amount_minor for line in journal.lines}) for journal in of.journals]


BACK = ("returned", {"provider_clearing:paystack": 500_000, "wallet": -500_000})


def test_what_went_out_after_its_release_is_taken_from_the_wallet() -> None:
    of = sent(Status.UNDER_REVIEW, AttemptStatus.UNDER_REVIEW, HoldStatus.RELEASED, available=500_000)
    decide(of, Status.COMPLETED)
    assert posted(of) == [("captured", {"wallet": 500_000, "provider_clearing:paystack": -500_000})]
    assert of.freeze is None


def test_what_the_wallet_lacks_then_is_owed_and_the_wallet_frozen() -> None:
    of = sent(Status.UNDER_REVIEW, AttemptStatus.UNDER_REVIEW, HoldStatus.RELEASED, available=200_000)
    decide(of, Status.COMPLETED)
    lines = {"wallet": 200_000, "receivable": 300_000, "provider_clearing:paystack": -500_000}
    assert posted(of) == [("captured", lines)]
    assert of.freeze == "sent_after_release"


@pytest.mark.parametrize("outcome", [Status.FAILED, Status.REVERSED])
def test_what_had_been_released_and_did_not_go_posts_nothing(outcome: Status) -> None:
    of = sent(Status.UNDER_REVIEW, AttemptStatus.UNDER_REVIEW, HoldStatus.RELEASED)
    decide(of, outcome)
    assert (of.transaction.status, of.journals) == (outcome, [])


@pytest.mark.parametrize("hold", [HoldStatus.CAPTURED, HoldStatus.RELEASED])
@pytest.mark.parametrize("outcome", [Status.FAILED, Status.REVERSED])
def test_what_was_taken_and_did_not_arrive_is_the_owners_again(hold: HoldStatus, outcome: Status) -> None:
    """RELEASED: it was taken after all, by a decision before."""
    of = sent(Status.UNDER_REVIEW, AttemptStatus.SUCCEEDED, hold, paid_minor=500_000)
    decide(of, outcome)
    assert posted(of) == [BACK]


@pytest.mark.parametrize("hold", [HoldStatus.CAPTURED, HoldStatus.RELEASED])
def test_what_was_taken_is_not_taken_twice(hold: HoldStatus) -> None:
    of = sent(Status.UNDER_REVIEW, AttemptStatus.SUCCEEDED, hold, paid_minor=500_000)
    decide(of, Status.COMPLETED)
    assert (of.transaction.status, of.journals) == (Status.COMPLETED, [])


@pytest.mark.parametrize("hold", [HoldStatus.CAPTURED, HoldStatus.RELEASED])
def test_what_comes_back_from_the_provider_is_given_back_once(hold: HoldStatus) -> None:
    of = sent(Status.COMPLETED, AttemptStatus.SUCCEEDED, hold, paid_minor=500_000)
    for _ in range(2):
        settle(of, first(of), Result(Verdict.REVERSED, reference=first(of).reference), context())
    assert (of.transaction.status, posted(of)) == (Status.REVERSED, [BACK])
