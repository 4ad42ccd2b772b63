"""Settling is a pure function: what one answer means, for every verdict, status and source."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from payflow.core.errors import Conflict, Invalid
from payflow.core.money import Money
from payflow.gateway.contract import ActionType, Failure, NextAction, Result, Verdict
from payflow.ledger.journals import Line, Reversals
from payflow.transactions.aggregate import MONEY_SEEN, NEVER_SENT, AttemptStatus, Received, Source, Unit
from payflow.transactions.lifecycle import ENDED_UNPAID, OPEN, Cause, Kind, Status
from payflow.transactions.move import MoveRefused, move
from payflow.transactions.settle import action_json, cancel, disagreement, expire, next_check, resolve_review, settle
from tests.transactions.builders import (
    AMOUNT,
    DECLINED,
    NOW,
    ORIGIN,
    PAGE,
    attempt,
    context,
    first,
    paid,
    posted,
    told,
    transaction,
    unit,
)

# What a status says about the attempt that led to it.
ATTEMPT_OF = {
    Status.PENDING: AttemptStatus.CREATED,
    Status.REQUIRES_ACTION: AttemptStatus.REQUIRES_ACTION,
    Status.PROCESSING: AttemptStatus.PROCESSING,
    Status.UNDER_REVIEW: AttemptStatus.UNDER_REVIEW,
    Status.COMPLETED: AttemptStatus.SUCCEEDED,
    Status.FAILED: AttemptStatus.DECLINED,
    Status.CANCELLED: AttemptStatus.CANCELLED,
    Status.EXPIRED: AttemptStatus.EXPIRED,
    Status.PARTIALLY_REFUNDED: AttemptStatus.SUCCEEDED,
    Status.REFUNDED: AttemptStatus.SUCCEEDED,
    Status.REVERSED: AttemptStatus.REVERSED,
}
PAID = {Status.COMPLETED, Status.PARTIALLY_REFUNDED, Status.REFUNDED, Status.REVERSED}


def standing(status: Status, kind: Kind = Kind.PAYMENT) -> Unit:
    changes: dict[str, Any] = {"paid_minor": AMOUNT.minor} if status in PAID else {}
    return unit(status, ATTEMPT_OF[status], kind, **changes)


def answer(verdict: Verdict, of: Unit) -> Result:
    if verdict is Verdict.COMPLETED:
        return paid(first(of))
    failure = DECLINED if verdict in (Verdict.DECLINED, Verdict.CANCELLED, Verdict.EXPIRED) else None
    return Result(
        verdict, verdict.value, failure=failure, next_action=PAGE if verdict is Verdict.REQUIRES_ACTION else None
    )


def expected(verdict: Verdict, status: Status, source: Source) -> Status:
    """The whole table, for a collection with one attempt."""
    if verdict is Verdict.COMPLETED and status in OPEN | ENDED_UNPAID:
        return Status.COMPLETED
    if verdict is Verdict.REVERSED and status in (Status.COMPLETED, Status.PARTIALLY_REFUNDED):
        return Status.REVERSED
    if verdict is Verdict.REVERSED and status in OPEN | ENDED_UNPAID:
        return Status.UNDER_REVIEW
    if verdict is Verdict.DISPUTED and status is Status.COMPLETED:
        return Status.UNDER_REVIEW
    if verdict is Verdict.DISPUTE_WON and status is Status.REVERSED:
        return Status.COMPLETED
    if status not in OPEN:
        return status
    if verdict is Verdict.REQUIRES_ACTION and (status is not Status.PROCESSING or source is not Source.WEBHOOK):
        return Status.REQUIRES_ACTION
    if verdict is Verdict.UNKNOWN and status is Status.PENDING and source is Source.INITIATION:
        return Status.PROCESSING
    if verdict is Verdict.UNKNOWN and status is Status.REQUIRES_ACTION and source is Source.SUBMISSION:
        return Status.PROCESSING
    if verdict in (Verdict.REFUSED, Verdict.NOT_SENT) and status is Status.PENDING and source is Source.INITIATION:
        return Status.FAILED
    return {
        Verdict.PROCESSING: Status.PROCESSING,
        Verdict.DECLINED: Status.FAILED,
        Verdict.CANCELLED: Status.CANCELLED,
        Verdict.EXPIRED: Status.EXPIRED,
    }.get(verdict, status)


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("verdict", Verdict)
def test_what_an_answer_does_to_every_status(verdict: Verdict, source: Source) -> None:
    for status in Status:
        of = standing(status)
        if status is Status.REVERSED:  # as a chargeback of the whole left it
            lines = [Line("sales", None, "NGN", AMOUNT.minor), Line("provider_clearing:x", None, "NGN", -AMOUNT.minor)]
            of.reversals[first(of).id] = Reversals(1, 0, lines)
        settle(of, first(of), answer(verdict, of), context(source))
        assert of.transaction.status is expected(verdict, status, source), f"{status} + {verdict}"


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("kind", Kind)
def test_the_same_answer_again_changes_nothing(kind: Kind, verdict: Verdict, source: Source) -> None:
    for status in Status:
        of = standing(status, kind)
        result = answer(verdict, of)
        settle(of, first(of), result, context(source))
        version, journals, tried = of.transaction.version, len(of.journals), first(of).status
        assert settle(of, first(of), result, context(source)) is False
        assert (of.transaction.version, len(of.journals), first(of).status) == (version, journals, tried)


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.COMPLETED])
@pytest.mark.parametrize("source", Source)
def test_nothing_but_a_success_posts_money_for_an_unpaid_collection(verdict: Verdict, source: Source) -> None:
    for status in OPEN | ENDED_UNPAID:
        of = standing(status)
        settle(of, first(of), answer(verdict, of), context(source))
        assert of.journals == []
        assert of.transaction.paid_minor == 0


# -- paid ---------------------------------------------------------------------------------------------------------------


def test_a_success_completes_posts_and_tells_once() -> None:
    of = unit(Status.REQUIRES_ACTION, AttemptStatus.REQUIRES_ACTION, next_action={"type": "redirect"})
    result = paid(first(of), fee=Money(7_500, "NGN"), receipt="R1", provider_references=("77",))
    assert settle(of, first(of), result, context()) is True

    done = of.transaction
    assert (done.status, done.paid_minor, done.fee_minor, done.version) == (Status.COMPLETED, 500_000, 7_500, 3)
    assert (done.next_check_at, done.next_action, done.ended_at, done.last_cause) == (None, None, NOW, "provider")
    assert (first(of).status, first(of).receipt, first(of).provider_references) == (
        AttemptStatus.SUCCEEDED,
        "R1",
        ("77",),
    )
    assert posted(of) == [
        ("collected", {"provider_clearing:paystack": 492_500, "provider_fees": 7_500, "sales": -500_000})
    ]
    (event,) = of.events
    assert (event.type, event.sequence, event.status) == ("payment.completed", 3, "completed")
    assert event.data == {
        "reference": done.reference,
        "amount": "5000.00",
        "amount_minor": 500_000,
        "currency": "NGN",
        "provider": "paystack",
        "paid_minor": 500_000,
        "fee_minor": 7_500,
    }


def test_a_funding_credits_the_wallet() -> None:
    of = unit(Status.REQUIRES_ACTION, AttemptStatus.REQUIRES_ACTION, Kind.FUNDING)
    settle(of, first(of), paid(first(of)), context())
    assert posted(of) == [("collected", {"provider_clearing:paystack": 500_000, "wallet": -500_000})]


def test_the_events_of_one_settlement_have_ids_in_their_order() -> None:
    """Lists, and the sockets of users, read the log in the order of its ids: 74 of their bits are chance."""
    for _ in range(50):
        of = unit(Status.REQUIRES_ACTION, AttemptStatus.REQUIRES_ACTION, Kind.FUNDING)
        settle(of, first(of), paid(first(of)), context())
        assert [event.type for event in sorted(of.events, key=lambda event: event.id)] == [
            "payment.completed",
            "wallet.credited",
        ]


@pytest.mark.parametrize("status", sorted(ENDED_UNPAID))
def test_a_late_success_of_a_collection_completes_and_says_so(status: Status) -> None:
    of = standing(status)
    of.transaction.failure_code, of.transaction.failure_message = "card_declined", "The card was declined."
    settle(of, first(of), paid(first(of)), context())
    assert of.transaction.status is Status.COMPLETED
    assert of.transaction.failure_code is None
    assert of.events[0].data["late"] is True
    assert [kind for kind, _ in posted(of)] == ["collected"]


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
@pytest.mark.parametrize("kind", [Kind.WITHDRAWAL, Kind.AIRTIME])
def test_a_late_success_of_money_out_is_for_a_person(status: Status, kind: Kind) -> None:
    of = standing(status, kind)
    settle(of, first(of), paid(first(of)), context())
    assert of.transaction.status is Status.UNDER_REVIEW
    assert (of.transaction.paid_minor, of.journals) == (0, [])
    assert first(of).status is AttemptStatus.UNDER_REVIEW


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"reference": None}, None),
        ({"paid": None}, None),
        ({"requested": None}, None),
        ({"paid": Money(507_500, "NGN"), "fee": Money(7_500, "NGN")}, None),
        ({"requested": None, "paid": Money(507_500, "NGN"), "fee": Money(7_500, "NGN")}, None),
        ({"reference": "att0000000000000000000000000x"}, "reference_mismatch"),
        ({"requested": Money(500_000, "GHS")}, "currency_mismatch"),
        ({"paid": Money(500_000, "USD")}, "currency_mismatch"),
        ({"requested": Money(500_001, "NGN")}, "amount_mismatch"),
        ({"requested": Money(499_999, "NGN"), "paid": Money(500_000, "NGN")}, "amount_mismatch"),
        ({"paid": Money(499_999, "NGN")}, "amount_mismatch"),
        ({"paid": Money(499_999, "NGN"), "fee": Money(1, "NGN")}, "amount_mismatch"),
        ({"paid": Money(507_500, "NGN")}, "amount_mismatch"),
        ({"paid": Money(507_500, "NGN"), "fee": Money(7_499, "NGN")}, "amount_mismatch"),
        ({"paid": Money(507_500, "NGN"), "fee": Money(7_500, "USD")}, "amount_mismatch"),
        ({"paid": Money(0, "NGN")}, "amount_mismatch"),
        ({"requested": None, "paid": None}, "amount_unproven"),
        ({"requested": None, "paid": None, "amount_bound": True}, "amount_unproven"),
        ({"requested": None, "paid": None, "provider_references": ("ws_1",)}, "amount_unproven"),
        ({"requested": None, "paid": None, "amount_bound": True, "provider_references": ("ws_2",)}, "amount_unproven"),
        ({"requested": None, "paid": None, "amount_bound": True, "provider_references": ("ws_1",)}, None),
    ],
)
def test_a_success_must_be_about_what_we_asked_for(changes: dict[str, Any], reason: str | None) -> None:
    tried = attempt(transaction(), provider_references=("ws_1",))
    assert disagreement(tried, paid(tried, **changes)) == reason


def test_our_own_reference_binds_an_amount_only_where_the_adapter_says_so() -> None:
    tried = attempt(transaction())
    answer: dict[str, Any] = {"requested": None, "paid": None, "provider_references": (tried.reference,)}
    assert disagreement(tried, paid(tried, **answer, amount_bound=True)) is None
    assert disagreement(tried, paid(tried, **answer)) == "amount_unproven"


@pytest.mark.parametrize("status", [*sorted(OPEN), *sorted(ENDED_UNPAID)])
def test_money_that_is_not_what_we_asked_for_goes_to_suspense(status: Status) -> None:
    of = standing(status)
    settle(of, first(of), paid(first(of), paid=Money(400_000, "NGN")), context())
    assert of.transaction.status is Status.UNDER_REVIEW
    assert of.transaction.paid_minor == 0
    assert posted(of) == [("suspended", {"provider_clearing:paystack": 400_000, "suspense": -400_000})]
    assert told(of) == ["payment.under_review"]
    assert of.events[0].data["reason"] == "amount_mismatch"
    assert (of.events[0].data["received_minor"], of.events[0].data["received_currency"]) == (400_000, "NGN")


def test_another_currency_is_suspended_in_that_currency() -> None:
    of = standing(Status.REQUIRES_ACTION)
    settle(of, first(of), paid(first(of), requested=None, paid=Money(500_000, "GHS")), context())
    assert {line.currency for line in of.journals[0].lines} == {"GHS"}
    assert first(of).paid == Money(500_000, "GHS")


def test_a_success_of_nothing_is_looked_at_and_posts_nothing() -> None:
    of = standing(Status.REQUIRES_ACTION)
    settle(of, first(of), paid(first(of), requested=None, paid=Money(0, "NGN")), context())
    assert of.transaction.status is Status.UNDER_REVIEW
    assert of.journals == []


def test_an_excess_that_the_fee_explains_completes() -> None:
    of = standing(Status.REQUIRES_ACTION)
    settle(of, first(of), paid(first(of), paid=Money(507_500, "NGN"), fee=Money(7_500, "NGN")), context())
    assert (of.transaction.status, of.transaction.paid_minor) == (Status.COMPLETED, 507_500)
    assert posted(of) == [
        ("collected", {"provider_clearing:paystack": 500_000, "provider_fees": 7_500, "sales": -507_500})
    ]


def test_a_second_attempt_that_was_paid_too_goes_to_suspense() -> None:
    of = unit(Status.PROCESSING, [AttemptStatus.UNKNOWN, AttemptStatus.REQUIRES_ACTION])
    one, two = of.attempts.values()
    settle(of, one, paid(one), context())
    settle(of, two, paid(two), context())
    assert (of.transaction.status, of.transaction.paid_minor) == (Status.COMPLETED, 500_000)
    assert told(of) == ["payment.completed", "payment.duplicate_detected"]
    assert of.events[1].data["reason"] == "duplicate_payment"
    assert of.events[1].data["attempt_reference"] == two.reference
    assert [kind for kind, _ in posted(of)] == ["collected", "suspended"]
    assert (one.status, two.status) == (AttemptStatus.SUCCEEDED, AttemptStatus.UNDER_REVIEW)


def test_the_right_amount_after_a_wrong_one_waits_for_the_same_person() -> None:
    of = unit(Status.PROCESSING, [AttemptStatus.UNKNOWN, AttemptStatus.REQUIRES_ACTION])
    one, two = of.attempts.values()
    settle(of, one, paid(one, paid=Money(1, "NGN")), context())
    settle(of, two, paid(two), context())
    assert of.transaction.status is Status.UNDER_REVIEW
    assert told(of) == ["payment.under_review", "payment.under_review"]
    assert of.events[1].data["reason"] == "paid_while_under_review"
    assert [kind for kind, _ in posted(of)] == ["suspended", "suspended"]


def test_money_after_a_reversal_is_suspended() -> None:
    of = unit(Status.REVERSED, [AttemptStatus.REVERSED, AttemptStatus.PROCESSING], paid_minor=500_000)
    _, two = of.attempts.values()
    settle(of, two, paid(two), context())
    assert of.transaction.status is Status.REVERSED
    assert told(of) == ["payment.duplicate_detected"]


@pytest.mark.parametrize("rest", [500_000, 450_000])
def test_the_rest_that_comes_after_a_part_lies_in_suspense_too_and_is_told(rest: int) -> None:
    of = standing(Status.REQUIRES_ACTION)
    settle(of, first(of), paid(first(of), paid=Money(200_000, "NGN")), context())
    assert settle(of, first(of), paid(first(of), paid=Money(rest, "NGN")), context()) is True
    assert (of.transaction.status, first(of).paid) == (Status.UNDER_REVIEW, Money(rest, "NGN"))
    assert posted(of)[1] == ("corrected", {"provider_clearing:paystack": rest - 200_000, "suspense": 200_000 - rest})
    event = of.events[-1]
    assert (event.type, event.data["reason"]) == ("payment.under_review", "paid_differently")
    assert (event.data["received_before_minor"], event.data["received_minor"]) == (200_000, rest)
    assert settle(of, first(of), paid(first(of), paid=Money(rest, "NGN")), context()) is False
    resolve(of, Status.COMPLETED)
    assert (of.transaction.paid_minor, posted(of)[2]) == (rest, ("released", {"suspense": rest, "sales": -rest}))


def test_ever_more_is_posted_as_often_as_it_is_told() -> None:
    of = standing(Status.REQUIRES_ACTION)
    for minor in (0, 100, 300, 700):
        settle(of, first(of), paid(first(of), requested=None, paid=Money(minor, "NGN")), context())
    assert [(kind, lines["suspense"]) for kind, lines in posted(of)] == [
        ("suspended", -100),
        ("corrected", -200),
        ("corrected_again", -400),
    ]


@pytest.mark.parametrize("other", [Money(100_000, "NGN"), Money(200_000, "GHS")])
def test_less_than_was_told_or_another_currency_is_told_and_posts_nothing(other: Money) -> None:
    of = standing(Status.REQUIRES_ACTION)
    settle(of, first(of), paid(first(of), paid=Money(200_000, "NGN")), context())
    assert settle(of, first(of), paid(first(of), requested=None, paid=other), context()) is True
    assert settle(of, first(of), paid(first(of), requested=None, paid=other), context()) is False
    assert (first(of).paid, len(of.journals)) == (Money(200_000, "NGN"), 1)
    assert (of.events[-1].data["received_minor"], of.events[-1].data["received_currency"]) == (
        other.minor,
        other.currency,
    )


def test_another_sum_of_what_was_credited_is_for_a_person() -> None:
    of = reviewed(paid=Money(200_000, "NGN"))
    resolve(of, Status.COMPLETED)
    assert settle(of, first(of), paid(first(of)), context()) is True
    assert (of.transaction.status, told(of)[-1]) == (Status.UNDER_REVIEW, "payment.under_review")
    assert (first(of).paid, len(of.journals)) == (Money(200_000, "NGN"), 2)
    resolve(of, Status.COMPLETED)
    assert settle(of, first(of), paid(first(of)), context()) is False  # decided
    assert (of.transaction.status, of.transaction.paid_minor) == (Status.COMPLETED, 200_000)


def test_another_sum_of_a_second_payment_leaves_the_first_as_it_is() -> None:
    of = unit(Status.PROCESSING, [AttemptStatus.UNKNOWN, AttemptStatus.REQUIRES_ACTION])
    one, two = of.attempts.values()
    settle(of, one, paid(one), context())
    settle(of, two, paid(two, paid=Money(200_000, "NGN")), context())
    settle(of, two, paid(two), context())
    assert (of.transaction.status, two.paid) == (Status.COMPLETED, AMOUNT)
    assert told(of) == ["payment.completed", "payment.duplicate_detected", "payment.duplicate_detected"]


@pytest.mark.parametrize(
    "again",
    [
        {"paid": Money(507_500, "NGN"), "fee": Money(7_500, "NGN")},  # the fee on top is told in one answer only
        {"requested": None, "paid": None},
        {"paid": None},
        {"requested": Money(499_999, "NGN")},
    ],
)
def test_a_repeat_that_tells_no_other_sum_is_no_news(again: dict[str, Any]) -> None:
    of = standing(Status.REQUIRES_ACTION)
    settle(of, first(of), paid(first(of)), context())
    assert settle(of, first(of), paid(first(of), **again), context()) is False


# -- not paid -----------------------------------------------------------------------------------------------------------


def test_a_decline_that_leaves_the_session_open_leaves_the_payment_open() -> None:
    of = standing(Status.REQUIRES_ACTION)
    settle(of, first(of), Result(Verdict.DECLINED, "failed", failure=DECLINED, session_open=True), context())
    assert of.transaction.status is Status.REQUIRES_ACTION
    assert of.transaction.next_check_at is not None
    assert first(of).status is AttemptStatus.DECLINED
    assert told(of) == ["payment.attempt_failed"]
    assert of.events[0].data["failure"] == {"code": "card_declined", "message": "The card was declined."}
    settle(of, first(of), paid(first(of)), context())
    assert of.transaction.status is Status.COMPLETED
    assert first(of).failure is None
    assert "late" not in of.events[1].data


def test_a_decline_fails_with_its_reason() -> None:
    of = standing(Status.PROCESSING)
    settle(of, first(of), Result(Verdict.DECLINED, "failed", failure=DECLINED), context())
    assert told(of) == ["payment.attempt_failed", "payment.failed"]
    assert [event.sequence for event in of.events] == [3, 4]
    assert (of.transaction.failure_code, of.transaction.failure_message) == ("card_declined", "The card was declined.")
    assert (of.transaction.ended_at, of.transaction.next_check_at) == (NOW, None)


@pytest.mark.parametrize("kind", [Kind.WITHDRAWAL, Kind.AIRTIME])
def test_money_out_that_ran_out_at_the_provider_has_failed(kind: Kind) -> None:
    of = standing(Status.PROCESSING, kind)
    settle(of, first(of), Result(Verdict.EXPIRED, "expired", failure=DECLINED), context())
    assert (of.transaction.status, of.transaction.failure_code) == (Status.FAILED, "card_declined")
    assert first(of).status is AttemptStatus.EXPIRED


@pytest.mark.parametrize("verdict", [Verdict.REFUSED, Verdict.NOT_SENT])
def test_while_another_provider_may_follow_a_refusal_only_ends_the_attempt(verdict: Verdict) -> None:
    of = standing(Status.PENDING)
    settle(of, first(of), Result(verdict, "401"), context(Source.INITIATION, last_attempt=False))
    assert of.transaction.status is Status.PENDING
    assert first(of).status is AttemptStatus(verdict.value)
    assert told(of) == ["payment.attempt_failed"]
    assert of.events[0].data["failure"]["code"] == "provider_unreachable"


def test_a_refusal_keeps_its_own_reason_and_fails_the_last_attempt() -> None:
    of = standing(Status.PENDING)
    settle(
        of,
        first(of),
        Result(Verdict.REFUSED, "400", failure=Failure("invalid_request", "No.")),
        context(Source.INITIATION),
    )
    assert (of.transaction.status, of.transaction.failure_code) == (Status.FAILED, "invalid_request")
    assert told(of) == ["payment.attempt_failed", "payment.failed"]


@pytest.mark.parametrize("kind", [Kind.WITHDRAWAL, Kind.AIRTIME])
def test_money_out_that_fails_after_it_succeeded_has_come_back(kind: Kind) -> None:
    of = standing(Status.COMPLETED, kind)
    settle(of, first(of), Result(Verdict.DECLINED, failure=DECLINED), context())
    assert (of.transaction.status, first(of).status) == (Status.REVERSED, AttemptStatus.REVERSED)
    collected = standing(Status.COMPLETED)
    settle(collected, first(collected), Result(Verdict.DECLINED, failure=DECLINED), context())
    assert collected.transaction.status is Status.COMPLETED


def test_an_attempt_that_was_refused_is_not_declined_later() -> None:
    for never in NEVER_SENT:
        of = unit(Status.PENDING, never)
        settle(of, first(of), Result(Verdict.DECLINED), context())
        assert (first(of).status, of.transaction.status) == (never, Status.PENDING)


def test_an_unknown_initiation_is_processing_and_says_why() -> None:
    of = standing(Status.PENDING)
    settle(of, first(of), Result(Verdict.UNKNOWN, "timeout"), context(Source.INITIATION))
    assert (of.transaction.status, first(of).status) == (Status.PROCESSING, AttemptStatus.UNKNOWN)
    assert of.events[0].data["reason"] == "outcome_unknown"
    assert first(of).raw_status == "timeout"


# -- what the customer must do ------------------------------------------------------------------------------------------


def test_an_initiation_brings_the_next_action() -> None:
    of = standing(Status.PENDING)
    result = Result(Verdict.REQUIRES_ACTION, next_action=PAGE, checkout_url=PAGE.url, provider_references=("cs_1",))
    settle(of, first(of), result, context(Source.INITIATION))
    assert of.transaction.status is Status.REQUIRES_ACTION
    assert of.transaction.next_action == {"type": "redirect", "url": "https://pay.example/1"}
    assert of.events[0].data["checkout_url"] == of.transaction.checkout_url == "https://pay.example/1"


def test_a_submission_that_asks_for_the_next_thing_tells_it_once() -> None:
    of = standing(Status.REQUIRES_ACTION)
    otp = Result(Verdict.REQUIRES_ACTION, next_action=NextAction(ActionType.OTP, display_text="Enter the code."))
    for source in (Source.WEBHOOK, Source.QUERY):
        assert settle(of, first(of), otp, context(source)) is False
    assert settle(of, first(of), otp, context(Source.SUBMISSION)) is True
    assert settle(of, first(of), otp, context(Source.SUBMISSION)) is False
    assert of.transaction.next_action == {"type": "otp", "display_text": "Enter the code."}
    assert [event.type for event in of.events] == ["payment.requires_action"]


def test_an_initiation_overtaken_by_the_customer_adds_only_ids() -> None:
    of = standing(Status.COMPLETED)
    result = Result(Verdict.REQUIRES_ACTION, next_action=PAGE, checkout_url=PAGE.url, provider_references=("cs_1",))
    assert settle(of, first(of), result, context(Source.INITIATION)) is False
    assert first(of).provider_references == ("cs_1",)
    assert (of.transaction.next_action, of.transaction.checkout_url) == (None, None)
    assert of.changed


def test_an_initiation_overtaken_by_a_processing_webhook_still_shows_the_page() -> None:
    of = unit(Status.PROCESSING, AttemptStatus.PROCESSING)
    result = Result(Verdict.UNKNOWN, next_action=PAGE, checkout_url=PAGE.url)
    settle(of, first(of), result, context(Source.INITIATION))
    assert of.transaction.next_action == {"type": "redirect", "url": "https://pay.example/1"}
    assert of.transaction.status is Status.PROCESSING


def test_an_old_webhook_never_asks_the_customer_again() -> None:
    of = standing(Status.PROCESSING)
    result = Result(Verdict.REQUIRES_ACTION, next_action=PAGE)
    assert settle(of, first(of), result, context(Source.WEBHOOK)) is False
    assert settle(of, first(of), result, context(Source.QUERY)) is True
    assert of.transaction.status is Status.REQUIRES_ACTION


def test_waiting_for_the_customer_without_saying_for_what_moves_nothing() -> None:
    of = standing(Status.PROCESSING)
    assert settle(of, first(of), Result(Verdict.REQUIRES_ACTION), context(Source.QUERY)) is False
    assert of.transaction.status is Status.PROCESSING


def test_a_next_action_shows_only_what_it_holds() -> None:
    shown = action_json(replace(PAGE, display_text="Pay here", fields={"bank": "Zenith"}, expires_at=NOW))
    assert shown == {
        "type": "redirect",
        "url": "https://pay.example/1",
        "display_text": "Pay here",
        "fields": {"bank": "Zenith"},
        "expires_at": "2026-11-21T10:00:00.000000Z",
    }


# -- what is learnt -----------------------------------------------------------------------------------------------------


def test_ids_are_kept_in_order_and_once() -> None:
    of = standing(Status.REQUIRES_ACTION)
    for references in (("cs_1",), ("pi_1", "cs_1"), ("pi_1",)):
        settle(of, first(of), Result(Verdict.ASKED, provider_references=references), context(Source.QUERY))
    assert first(of).provider_references == ("cs_1", "pi_1")
    assert first(of).last_checked_at == NOW


def test_the_first_receipt_and_session_end_stay() -> None:
    of = standing(Status.REQUIRES_ACTION)
    for receipt, hours in (("R1", 1), ("R2", 2)):
        ends = NOW + timedelta(hours=hours)
        settle(of, first(of), Result(Verdict.ASKED, receipt=receipt, session_ends_at=ends), context())
    assert (first(of).receipt, first(of).session_ends_at) == ("R1", NOW + timedelta(hours=1))


# -- reversed -----------------------------------------------------------------------------------------------------------


def test_a_reversal_takes_the_credit_back() -> None:
    of = standing(Status.COMPLETED)
    first(of).paid = AMOUNT
    settle(of, first(of), Result(Verdict.REVERSED, "reversed"), context())
    assert (of.transaction.status, first(of).status) == (Status.REVERSED, AttemptStatus.REVERSED)
    assert posted(of) == [("reversed", {"sales": 500_000, "provider_clearing:paystack": -500_000})]
    assert told(of) == ["payment.reversed"]


def test_a_reversal_of_a_returned_transfer_posts_nothing_yet() -> None:
    of = standing(Status.COMPLETED, Kind.WITHDRAWAL)
    settle(of, first(of), Result(Verdict.REVERSED, "reversed"), context())
    assert (of.transaction.status, of.journals) == (Status.REVERSED, [])


def test_a_reversal_before_we_saw_the_money_is_for_a_person() -> None:
    of = standing(Status.PROCESSING)
    settle(of, first(of), Result(Verdict.REVERSED, "reversed"), context())
    assert of.transaction.status is Status.UNDER_REVIEW
    assert of.events[0].data["reason"] == "reversed_before_completion"
    assert of.journals == []


def test_a_reversal_of_suspended_money_empties_the_suspense_and_leaves_the_decision() -> None:
    of = standing(Status.REQUIRES_ACTION)
    settle(of, first(of), paid(first(of), paid=Money(1, "NGN")), context())
    settle(of, first(of), Result(Verdict.REVERSED, "reversed"), context())
    assert (of.transaction.status, first(of).status) == (Status.UNDER_REVIEW, AttemptStatus.REVERSED)
    assert posted(of)[1] == ("returned", {"suspense": 1, "provider_clearing:paystack": -1})
    assert told(of) == ["payment.under_review", "payment.attempt_failed"]


def test_a_reversal_of_the_second_payment_leaves_the_first_alone() -> None:
    of = unit(Status.PROCESSING, [AttemptStatus.UNKNOWN, AttemptStatus.UNKNOWN])
    one, two = of.attempts.values()
    settle(of, one, paid(one), context())
    settle(of, two, paid(two), context())
    settle(of, two, Result(Verdict.REVERSED, "reversed"), context())
    assert (of.transaction.status, of.transaction.paid_minor) == (Status.COMPLETED, 500_000)
    assert [kind for kind, _ in posted(of)] == ["collected", "suspended", "returned"]
    assert of.events[-1].data["failure"]["code"] == "reversed"


@pytest.mark.parametrize("status", [Status.REFUNDED, Status.REVERSED])
def test_a_reversal_of_suspended_money_is_heard_whatever_became_of_the_payment(status: Status) -> None:
    of = unit(status, [AttemptStatus.REVERSED, AttemptStatus.PROCESSING], paid_minor=500_000)
    _, two = of.attempts.values()
    settle(of, two, paid(two), context())
    settle(of, two, Result(Verdict.REVERSED, "reversed"), context())
    assert (of.transaction.status, two.status) == (status, AttemptStatus.REVERSED)
    assert [kind for kind, _ in posted(of)] == ["suspended", "returned"]
    assert told(of) == ["payment.duplicate_detected", "payment.attempt_failed"]


# -- by hand and by the clock -------------------------------------------------------------------------------------------


def test_the_owner_cancels_what_nobody_has_paid() -> None:
    of = unit(Status.REQUIRES_ACTION, [AttemptStatus.NOT_SENT, AttemptStatus.REQUIRES_ACTION])
    cancel(of, list(of.attempts.values()), ORIGIN, NOW)
    assert (of.transaction.status, of.transaction.last_cause) == (Status.CANCELLED, "user")
    assert [each.status for each in of.attempts.values()] == [AttemptStatus.NOT_SENT, AttemptStatus.CANCELLED]
    assert told(of) == ["payment.cancelled"]


def test_news_that_the_session_ended_changes_nothing_about_what_the_owner_cancelled() -> None:
    """Stripe tells a session that we end as expired, perhaps before our answer is read."""
    of = unit(Status.REQUIRES_ACTION, [AttemptStatus.REQUIRES_ACTION])
    (attempt,) = of.attempts.values()
    cancel(of, [attempt], ORIGIN, NOW)
    settle(of, attempt, Result(Verdict.EXPIRED), context())
    assert (of.transaction.status, attempt.status) == (Status.CANCELLED, AttemptStatus.CANCELLED)
    settle(of, attempt, paid(attempt), context())
    assert of.transaction.status is Status.COMPLETED


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.PENDING, Status.REQUIRES_ACTION, Status.CANCELLED}))
def test_the_owner_cancels_nothing_else(status: Status) -> None:
    of = standing(status)
    with pytest.raises(MoveRefused):
        cancel(of, [], ORIGIN, NOW)
    assert (of.transaction.status, of.events) == (status, [])


def test_time_is_over_and_nothing_was_paid() -> None:
    of = standing(Status.REQUIRES_ACTION)
    expire(of, first(of), NOW, proven_unpaid=True)
    assert (of.transaction.status, first(of).status) == (Status.EXPIRED, AttemptStatus.EXPIRED)
    assert (of.transaction.last_cause, of.events[0].origin.actor) == ("timer", "system")


def test_time_is_over_after_a_decline() -> None:
    of = unit(Status.REQUIRES_ACTION, AttemptStatus.DECLINED)
    first(of).failure = DECLINED
    expire(of, first(of), NOW, proven_unpaid=True)
    assert (of.transaction.status, of.transaction.failure_code) == (Status.FAILED, "card_declined")
    assert first(of).status is AttemptStatus.DECLINED


@pytest.mark.parametrize("status", sorted(OPEN))
def test_time_is_over_and_nobody_can_say(status: Status) -> None:
    of = standing(status)
    expire(of, first(of), NOW, proven_unpaid=False)
    assert of.transaction.status is Status.UNDER_REVIEW
    assert of.events[0].data["reason"] == "unresolved"
    assert first(of).status is ATTEMPT_OF[status]


@pytest.mark.parametrize("status", sorted(OPEN))
@pytest.mark.parametrize("kind", [Kind.WITHDRAWAL, Kind.AIRTIME])
def test_money_out_never_expires(kind: Kind, status: Status) -> None:
    of = standing(status, kind)
    expire(of, first(of), NOW, proven_unpaid=True)
    assert of.transaction.status is Status.UNDER_REVIEW


def test_who_asks_ever_more_seldom_never_stops() -> None:
    waits = [(next_check(NOW, NOW, count, (20, 30, 60)) - NOW).total_seconds() for count in range(5)]
    assert waits == [20, 30, 60, 60, 60]


def reviewed(**changes: Any) -> Unit:
    of = standing(Status.REQUIRES_ACTION)
    settle(of, first(of), paid(first(of), **changes), context())
    assert of.transaction.status is Status.UNDER_REVIEW
    return of


def resolve(of: Unit, outcome: Status, received: str | None = None, reference: str | None = None) -> None:
    came = Received(Decimal(received), reference) if received else None
    resolve_review(of, list(of.attempts.values()), outcome, "The bank says so.", ORIGIN, NOW, came)


@pytest.mark.parametrize("came", ["5000.00", "1000.00"])
@pytest.mark.parametrize("outcome", [Status.COMPLETED, Status.FAILED, Status.REFUNDED, Status.REVERSED])
def test_a_person_says_what_came_in_all(outcome: Status, came: str) -> None:
    of, minor = reviewed(paid=Money(200_000, "NGN")), int(Decimal(came) * 100)
    resolve(of, outcome, came)
    assert (of.transaction.status, first(of).paid) == (outcome, Money(minor, "NGN"))
    sums: dict[str, int] = {}
    for _, lines in posted(of):
        for account, amount in lines.items():
            sums[account] = sums.get(account, 0) + amount
    clearing = "provider_clearing:paystack"
    stays = {
        Status.COMPLETED: {clearing: minor, "sales": -minor},
        Status.FAILED: {clearing: minor, "suspense": -minor},
    }
    assert {account: amount for account, amount in sums.items() if amount} == stays.get(outcome, {})
    assert of.transaction.paid_minor == (minor if outcome is Status.COMPLETED else 0)


def test_a_person_adds_what_came_after_the_first_decision() -> None:
    of = unit(Status.REQUIRES_ACTION, AttemptStatus.REQUIRES_ACTION, Kind.FUNDING)
    settle(of, first(of), paid(first(of), paid=Money(200_000, "NGN")), context())
    resolve(of, Status.COMPLETED)
    settle(of, first(of), paid(first(of)), context())
    with pytest.raises(Conflict, match="More than that was credited"):
        resolve(of, Status.COMPLETED, "1999.99")
    resolve(of, Status.COMPLETED, "5000.00")
    assert (of.transaction.status, of.transaction.paid_minor) == (Status.COMPLETED, 500_000)
    assert posted(of)[-1] == ("corrected", {"provider_clearing:paystack": 300_000, "wallet": -300_000})
    assert (told(of)[-1], of.events[-1].data["wallet_amount_minor"]) == ("wallet.credited", 300_000)


def test_a_person_who_knows_of_a_part_collects_that() -> None:
    of = unit(Status.UNDER_REVIEW, AttemptStatus.UNKNOWN)
    with pytest.raises(Conflict, match="Nothing came with this attempt"):
        resolve(of, Status.FAILED, "2000.00")
    resolve(of, Status.COMPLETED, "2000.00")
    assert posted(of) == [("collected", {"provider_clearing:paystack": 200_000, "sales": -200_000})]
    assert (of.transaction.paid_minor, first(of).paid) == (200_000, Money(200_000, "NGN"))


def test_what_was_told_as_nothing_is_suspended_before_it_is_decided() -> None:
    of = reviewed(requested=None, paid=Money(0, "NGN"))
    resolve(of, Status.COMPLETED, "5000.00")
    assert [kind for kind, _ in posted(of)] == ["suspended", "released"]
    assert of.transaction.paid_minor == 500_000


def test_of_two_attempts_a_person_names_the_one_that_is_meant() -> None:
    of = unit(Status.PROCESSING, [AttemptStatus.UNKNOWN, AttemptStatus.REQUIRES_ACTION])
    for each in of.attempts.values():
        settle(of, each, paid(each, paid=Money(200_000, "NGN")), context())
    with pytest.raises(Conflict, match="attempt_reference"):
        resolve(of, Status.COMPLETED, "3000.00")
    resolve(of, Status.COMPLETED, "3000.00", first(of).reference)
    assert of.transaction.paid_minor == 500_000


def test_what_came_has_no_more_decimals_than_its_currency() -> None:
    of = reviewed(paid=Money(200_000, "NGN"))
    with pytest.raises(Invalid):
        resolve(of, Status.COMPLETED, "20.001")


def test_review_completed_gives_the_suspended_money_to_the_owner() -> None:
    of = reviewed(paid=Money(400_000, "NGN"))
    resolve(of, Status.COMPLETED)
    assert (of.transaction.status, of.transaction.paid_minor) == (Status.COMPLETED, 400_000)
    assert first(of).status is AttemptStatus.SUCCEEDED
    assert posted(of)[1] == ("released", {"suspense": 400_000, "sales": -400_000})
    assert of.events[-1].data["reason"] == "The bank says so."
    assert of.transaction.last_cause == "operator"


def test_review_cannot_complete_in_another_currency() -> None:
    of = reviewed(requested=None, paid=Money(500_000, "GHS"))
    with pytest.raises(Conflict) as refused:
        resolve(of, Status.COMPLETED)
    assert refused.value.code == "currency_mismatch"
    assert (of.transaction.status, len(of.journals), first(of).status) == (
        Status.UNDER_REVIEW,
        1,
        AttemptStatus.UNDER_REVIEW,
    )


@pytest.mark.parametrize("tried", [AttemptStatus.PROCESSING, AttemptStatus.UNKNOWN])
def test_review_completed_by_what_the_operator_knows_collects_the_amount(tried: AttemptStatus) -> None:
    of = unit(Status.UNDER_REVIEW, tried)
    resolve(of, Status.COMPLETED)
    assert of.transaction.paid_minor == 500_000
    assert posted(of) == [("collected", {"provider_clearing:paystack": 500_000, "sales": -500_000})]


def test_review_completed_after_a_success_of_nothing_collects_the_amount() -> None:
    of = reviewed(requested=None, paid=Money(0, "NGN"))
    resolve(of, Status.COMPLETED)
    assert (of.transaction.paid_minor, [kind for kind, _ in posted(of)]) == (500_000, ["collected"])


def test_review_of_a_dispute_that_was_won_posts_nothing_again() -> None:
    of = unit(Status.UNDER_REVIEW, AttemptStatus.SUCCEEDED, paid_minor=500_000)
    resolve(of, Status.COMPLETED)
    assert (of.transaction.status, of.transaction.paid_minor, of.journals) == (Status.COMPLETED, 500_000, [])


def test_review_of_money_out_posts_nothing_here() -> None:
    of = unit(Status.UNDER_REVIEW, AttemptStatus.UNKNOWN, Kind.WITHDRAWAL)
    resolve(of, Status.COMPLETED)
    assert (of.transaction.status, of.journals) == (Status.COMPLETED, [])


@pytest.mark.parametrize("outcome", [Status.REFUNDED, Status.REVERSED])
def test_review_that_gives_the_money_back_empties_the_suspense(outcome: Status) -> None:
    of = reviewed(paid=Money(400_000, "NGN"))
    resolve(of, outcome)
    assert (of.transaction.status, first(of).status) == (outcome, AttemptStatus.REVERSED)
    assert posted(of)[1] == ("returned", {"suspense": 400_000, "provider_clearing:paystack": -400_000})
    assert of.transaction.refunded_minor == 0


def test_review_that_refunds_what_was_credited_takes_the_credit_back() -> None:
    of = unit(Status.UNDER_REVIEW, [AttemptStatus.DECLINED, AttemptStatus.SUCCEEDED], paid_minor=500_000)
    resolve(of, Status.REFUNDED)
    assert (of.transaction.status, of.transaction.refunded_minor) == (Status.REFUNDED, 500_000)
    assert posted(of) == [("reversed", {"sales": 500_000, "provider_clearing:paystack": -500_000})]


def test_review_of_nothing_gives_nothing_back() -> None:
    of = reviewed(requested=None, paid=Money(0, "NGN"))
    resolve(of, Status.REFUNDED)
    assert (of.transaction.status, of.journals) == (Status.REFUNDED, [])


def test_review_failed_leaves_the_money_in_suspense_for_a_refund() -> None:
    of = reviewed(paid=Money(400_000, "NGN"))
    resolve(of, Status.FAILED)
    assert (of.transaction.status, of.transaction.failure_code) == (Status.FAILED, "rejected_in_review")
    assert [kind for kind, _ in posted(of)] == ["suspended"]
    assert first(of).status in MONEY_SEEN


def test_a_move_that_the_table_does_not_hold_leaves_nothing_behind() -> None:
    of = standing(Status.COMPLETED)
    with pytest.raises(MoveRefused, match="A payment that is completed cannot become pending") as refused:
        move(of, Status.PENDING, cause=Cause.OPERATOR, origin=ORIGIN, now=NOW)
    assert refused.value.code == "invalid_transition"
    assert (of.transaction.version, of.events, of.dirty) == (2, [], False)


@pytest.mark.parametrize("status", list(AttemptStatus))
def test_a_question_says_whether_the_order_was_ever_answered(status: AttemptStatus) -> None:
    of = transaction()
    unanswered = {AttemptStatus.CREATED, AttemptStatus.UNKNOWN}
    assert attempt(of, status).query().answered is (status not in unanswered)
