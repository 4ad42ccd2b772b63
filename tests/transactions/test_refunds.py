"""What an answer about a refund means: pure, for every verdict and status, and the rules that the database holds itself."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from payflow.core.errors import Conflict
from payflow.core.ids import new_reference, uuid7
from payflow.core.money import Money
from payflow.gateway.contract import Failure, Operation, Result, Verdict
from payflow.infra.database import Database
from payflow.ledger.repository import Accounts
from payflow.transactions import repository as sql
from payflow.transactions.aggregate import Attempt, AttemptStatus, Refund, RefundStatus, Source, Unit
from payflow.transactions.lifecycle import Cause, Status
from payflow.transactions.refunds import (
    MOVES,
    NEVER_RECEIVED_AFTER,
    give_up_refund,
    made_elsewhere,
    open_refund,
    refundable,
    resolve_refund,
)
from payflow.transactions.settle import resolve_review, settle
from tests.transactions.builders import AMOUNT, NOW, ORIGIN, USER, attempt, context, first, posted, told, unit

PART = Money(200_000, "NGN")
BROKEN = Failure("expired_card", "The card has expired.", "54")


def refund_of(
    of: Unit,
    amount: Money = AMOUNT,
    routing: dict[str, Any] | None = None,
    *,
    tried: AttemptStatus = AttemptStatus.CREATED,
) -> Attempt:
    """Open a refund of the unit's payment, and forget the events of that."""
    order = attempt(
        of.transaction,
        tried,
        number=len(of.attempts) + 1,
        operation=Operation.REFUND,
        amount=amount,
        routing=routing or {"refund_of": first(of).reference},
    )
    refund = Refund(
        id=uuid7(),
        transaction_id=of.transaction.id,
        user_id=USER,
        attempt_id=order.id,
        payment_attempt_id=first(of).id,
        reference=new_reference("ref"),
        amount=amount,
        created_at=NOW - timedelta(minutes=1),
        updated_at=NOW,
        next_check_at=NOW + timedelta(seconds=20),
    )
    open_refund(of, refund, order, ORIGIN, Cause.USER)
    of.events.clear()
    return order


def completed_payment(**changes: Any) -> Unit:
    of = unit(Status.COMPLETED, AttemptStatus.SUCCEEDED, paid_minor=AMOUNT.minor, **changes)
    first(of).paid = AMOUNT
    return of


def answer(verdict: Verdict, amount: Money = AMOUNT) -> Result:
    failure = BROKEN if verdict is Verdict.DECLINED else None
    return Result(verdict, verdict.value, provider_references=("re_1",), requested=amount, failure=failure)


def status_of(of: Unit, order: Attempt) -> RefundStatus:
    return of.refunds[order.id].status


def test_a_refund_that_is_opened_counts_at_once_and_is_told() -> None:
    of = completed_payment()
    order = refund_of(of, PART)
    assert refundable(of, first(of)) == AMOUNT.minor - PART.minor
    assert (of.transaction.status, of.transaction.version) == (Status.COMPLETED, 3)
    assert status_of(of, order) is RefundStatus.PENDING


def test_a_part_and_then_the_rest() -> None:
    of = completed_payment()
    part = refund_of(of, PART)
    settle(of, part, answer(Verdict.COMPLETED, PART), context())
    assert (of.transaction.status, of.transaction.refunded_minor) == (Status.PARTIALLY_REFUNDED, PART.minor)

    rest = refund_of(of, Money(refundable(of, first(of)), "NGN"))
    settle(of, rest, answer(Verdict.COMPLETED, of.refunds[rest.id].amount), context())
    assert (of.transaction.status, of.transaction.refunded_minor) == (Status.REFUNDED, AMOUNT.minor)
    assert refundable(of, first(of)) == 0
    assert told(of) == ["refund.completed"]
    assert posted(of) == [
        ("refunded", {"sales": 200_000, "provider_clearing:paystack": -200_000}),
        ("refunded", {"sales": 300_000, "provider_clearing:paystack": -300_000}),
    ]


@pytest.mark.parametrize("source", [Source.WEBHOOK, Source.QUERY])
@pytest.mark.parametrize("verdict", Verdict)
def test_the_same_answer_again_changes_nothing(verdict: Verdict, source: Source) -> None:
    for before in (None, Verdict.COMPLETED, Verdict.DECLINED, Verdict.PROCESSING, Verdict.REQUIRES_ACTION):
        of = completed_payment()
        order = refund_of(of)
        if before is not None:
            settle(of, order, answer(before), context())
        settle(of, order, answer(verdict), context(source))
        version, journals = of.transaction.version, len(of.journals)
        stands = (status_of(of, order), order.status, of.transaction.status)
        assert settle(of, order, answer(verdict), context(source)) is False
        assert (of.transaction.version, len(of.journals)) == (version, journals)
        assert (status_of(of, order), order.status, of.transaction.status) == stands


@pytest.mark.parametrize(
    ("verdict", "source", "expected"),
    [
        (Verdict.COMPLETED, Source.INITIATION, RefundStatus.COMPLETED),
        (Verdict.PROCESSING, Source.INITIATION, RefundStatus.PROCESSING),
        (Verdict.REQUIRES_ACTION, Source.INITIATION, RefundStatus.PROCESSING),
        (Verdict.DECLINED, Source.INITIATION, RefundStatus.FAILED),
        (Verdict.REFUSED, Source.INITIATION, RefundStatus.FAILED),
        (Verdict.NOT_SENT, Source.INITIATION, RefundStatus.FAILED),
        (Verdict.UNKNOWN, Source.INITIATION, RefundStatus.PROCESSING),
        (Verdict.REFUSED, Source.QUERY, RefundStatus.PENDING),
        (Verdict.NOT_SENT, Source.QUERY, RefundStatus.PENDING),
        (Verdict.UNKNOWN, Source.QUERY, RefundStatus.PENDING),
        (Verdict.NOT_FOUND, Source.QUERY, RefundStatus.PENDING),
        (Verdict.ASKED, Source.QUERY, RefundStatus.PENDING),
        (Verdict.REVERSED, Source.WEBHOOK, RefundStatus.FAILED),
        (Verdict.CANCELLED, Source.WEBHOOK, RefundStatus.FAILED),
        (Verdict.DISPUTED, Source.WEBHOOK, RefundStatus.PENDING),
    ],
)
def test_what_an_answer_does_to_a_new_refund(verdict: Verdict, source: Source, expected: RefundStatus) -> None:
    of = completed_payment()
    order = refund_of(of)
    settle(of, order, answer(verdict), context(source))
    assert status_of(of, order) is expected
    assert (of.journals != []) is (expected is RefundStatus.COMPLETED)
    assert refundable(of, first(of)) == (AMOUNT.minor if expected is RefundStatus.FAILED else 0)


def test_a_late_failure_gives_the_money_back_to_the_merchant() -> None:
    of = completed_payment()
    part, rest = refund_of(of, PART), refund_of(of, Money(300_000, "NGN"))
    settle(of, part, answer(Verdict.COMPLETED, PART), context())
    settle(of, rest, answer(Verdict.COMPLETED, Money(300_000, "NGN")), context())
    settle(of, rest, answer(Verdict.DECLINED, Money(300_000, "NGN")), context())
    assert (of.transaction.status, of.transaction.refunded_minor) == (Status.PARTIALLY_REFUNDED, PART.minor)
    assert rest.status is AttemptStatus.REVERSED
    assert of.events[-1].type == "refund.failed"
    assert of.events[-1].data["late"] is True
    assert posted(of)[-1] == ("refund_failed", {"sales": -300_000, "provider_clearing:paystack": 300_000})
    settle(of, part, answer(Verdict.REVERSED, PART), context())
    assert (of.transaction.status, of.transaction.refunded_minor) == (Status.COMPLETED, 0)


def test_an_old_success_after_a_late_failure_changes_nothing() -> None:
    of = completed_payment()
    order = refund_of(of)
    settle(of, order, answer(Verdict.COMPLETED), context())
    settle(of, order, answer(Verdict.DECLINED), context())
    before = of.transaction.version
    settle(of, order, answer(Verdict.COMPLETED), context(Source.WEBHOOK))
    assert (status_of(of, order), of.transaction.version) == (RefundStatus.FAILED, before)
    # A fresh answer is put before a person, once: it contradicts what was told before.
    settle(of, order, answer(Verdict.COMPLETED), context(Source.QUERY))
    assert of.events[-1].type == "refund.under_review"
    assert of.transaction.refunded_minor == 0


def test_a_fresh_success_after_a_failure_counts_where_it_still_fits() -> None:
    of = completed_payment()
    order = refund_of(of, PART)
    settle(of, order, answer(Verdict.DECLINED, PART), context())
    settle(of, order, answer(Verdict.COMPLETED, PART), context(Source.QUERY))
    assert (status_of(of, order), of.transaction.refunded_minor) == (RefundStatus.COMPLETED, PART.minor)


def test_a_fresh_success_after_a_failure_is_reviewed_where_others_took_its_place() -> None:
    of = completed_payment()
    order = refund_of(of)
    settle(of, order, answer(Verdict.DECLINED), context())
    again = refund_of(of)
    settle(of, order, answer(Verdict.COMPLETED), context(Source.QUERY))
    assert of.events[-1].data["reason"] == "completed_after_failure"
    assert (status_of(of, order), status_of(of, again)) == (RefundStatus.FAILED, RefundStatus.PENDING)
    assert of.transaction.refunded_minor == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"requested": Money(1, "NGN")},
        {"requested": Money(AMOUNT.minor, "GHS")},
        {"reference": "att00000000000000000000000000"},
    ],
)
def test_another_amount_currency_or_reference_is_reviewed(changes: dict[str, Any]) -> None:
    of = completed_payment()
    order = refund_of(of)
    settle(of, order, replace(answer(Verdict.COMPLETED), **changes), context())
    assert status_of(of, order) is RefundStatus.UNDER_REVIEW
    assert of.journals == []
    assert refundable(of, first(of)) == 0


def test_a_provider_that_never_got_the_order_fails_it_only_after_a_while() -> None:
    of = completed_payment()
    order = refund_of(of)
    settle(of, order, Result(Verdict.UNKNOWN), context(Source.INITIATION))
    gone = Result(Verdict.NOT_FOUND, expirable=True)
    settle(of, order, gone, context(Source.QUERY))
    assert status_of(of, order) is RefundStatus.PROCESSING
    later = replace(context(Source.QUERY), now=NOW + NEVER_RECEIVED_AFTER)
    settle(of, order, replace(gone, expirable=False), later)
    assert status_of(of, order) is RefundStatus.PROCESSING
    settle(of, order, gone, later)
    assert (status_of(of, order), of.refunds[order.id].failure.code) == (RefundStatus.FAILED, "not_received")  # type: ignore[union-attr]


def test_attention_is_told_once() -> None:
    of = completed_payment()
    order = refund_of(of)
    for _ in range(2):
        settle(of, order, answer(Verdict.REQUIRES_ACTION), context(Source.QUERY))
    assert told(of) == ["refund.processing"]
    assert "attention" in of.events[0].data


def test_what_nobody_answers_is_reviewed_and_a_person_decides() -> None:
    for outcome, left in ((RefundStatus.COMPLETED, 0), (RefundStatus.FAILED, AMOUNT.minor)):
        of = completed_payment()
        order = refund_of(of)
        with pytest.raises(Conflict):
            resolve_refund(of, order, outcome, "asked by phone", context(Source.QUERY))
        give_up_refund(of, order, context(Source.QUERY))
        assert status_of(of, order) is RefundStatus.UNDER_REVIEW
        assert refundable(of, first(of)) == 0
        resolve_refund(of, order, outcome, "asked by phone", context(Source.QUERY))
        assert status_of(of, order) is outcome
        assert refundable(of, first(of)) == left
        assert of.events[-1].data["reason"] == "asked by phone"


def test_a_reversal_takes_only_what_was_not_given_back() -> None:
    of = completed_payment()
    order = refund_of(of, PART)
    settle(of, order, answer(Verdict.COMPLETED, PART), context())
    settle(of, first(of), Result(Verdict.REVERSED), context())
    assert of.transaction.status is Status.REVERSED
    assert posted(of)[-1] == ("reversed", {"sales": 300_000, "provider_clearing:paystack": -300_000})


def test_a_provider_that_calls_a_payment_reversed_means_the_refund_that_is_on_its_way() -> None:
    of = completed_payment()
    order = refund_of(of)
    settle(of, first(of), Result(Verdict.REVERSED), context())
    assert (of.transaction.status, of.journals) == (Status.COMPLETED, [])
    settle(of, order, answer(Verdict.COMPLETED), context())
    assert of.transaction.status is Status.REFUNDED


def test_so_does_it_mean_the_refund_that_a_person_has_yet_to_decide() -> None:
    of = completed_payment()
    order = refund_of(of)
    give_up_refund(of, order, context(Source.QUERY))
    settle(of, first(of), Result(Verdict.REVERSED), context())
    assert (of.transaction.status, of.journals) == (Status.COMPLETED, [])
    settle(of, order, answer(Verdict.COMPLETED), context(Source.QUERY))
    assert of.transaction.status is Status.REFUNDED
    assert [kind for kind, _ in posted(of)] == ["refunded"]


def test_of_a_contested_payment_that_is_being_refunded_a_person_is_told_once() -> None:
    of = completed_payment()
    order = refund_of(of)
    settle(of, first(of), Result(Verdict.DISPUTED), context())
    for _ in range(2):
        settle(of, first(of), Result(Verdict.REVERSED), context())
    told = [event.data.get("reason") for event in of.events if event.type == "payment.under_review"]
    assert (of.transaction.status, told, of.journals) == (Status.UNDER_REVIEW, ["disputed", "reversed_meanwhile"], [])
    settle(of, order, answer(Verdict.COMPLETED), context(Source.QUERY))
    assert [kind for kind, _ in posted(of)] == ["refunded"]


def test_a_chargeback_of_a_payment_of_which_a_part_is_on_its_way_back_is_no_refund() -> None:
    of = completed_payment()
    order = refund_of(of, PART)
    settle(of, first(of), Result(Verdict.REVERSED, requested=AMOUNT), context())
    assert of.transaction.status is Status.REVERSED
    assert posted(of) == [("reversed", {"sales": 500_000, "provider_clearing:paystack": -500_000})]
    settle(of, order, answer(Verdict.DECLINED, PART), context())
    assert len(of.journals) == 1


def test_a_review_cannot_end_as_refunded_while_a_refund_is_on_its_way() -> None:
    of = completed_payment()
    refund_of(of)
    settle(of, first(of), Result(Verdict.DISPUTED), context())
    assert of.transaction.status is Status.UNDER_REVIEW
    with pytest.raises(Conflict) as refused:
        resolve_review(of, list(of.attempts.values()), Status.REFUNDED, "why", ORIGIN, NOW)
    assert refused.value.code == "refund_in_flight"


def test_a_refund_that_ends_while_the_payment_is_disputed_is_posted_and_told() -> None:
    of = completed_payment()
    order = refund_of(of, PART)
    settle(of, first(of), Result(Verdict.DISPUTED), context())
    settle(of, order, answer(Verdict.COMPLETED, PART), context())
    assert (of.transaction.status, of.transaction.refunded_minor) == (Status.UNDER_REVIEW, PART.minor)
    assert posted(of) == [("refunded", {"sales": 200_000, "provider_clearing:paystack": -200_000})]


def test_a_part_that_is_taken_back_is_put_before_a_person_once() -> None:
    of = completed_payment()
    part = Result(Verdict.REVERSED, requested=PART)
    for _ in range(2):
        settle(of, first(of), part, context())
    assert (of.transaction.status, of.journals) == (Status.UNDER_REVIEW, [])
    assert [event.data["reason"] for event in of.events] == ["partly_reversed"]
    settle(of, first(of), Result(Verdict.REVERSED, requested=AMOUNT), context())
    assert of.transaction.status is Status.REVERSED


@pytest.mark.parametrize(
    "result", [Result(Verdict.DISPUTED), Result(Verdict.REVERSED, requested=PART)], ids=["disputed", "a part"]
)
def test_after_a_decision_the_next_of_its_kind_is_put_before_a_person_again(result: Result) -> None:
    of = completed_payment()
    for _ in range(2):
        settle(of, first(of), result, context())
        assert of.transaction.status is Status.UNDER_REVIEW
        resolve_review(of, list(of.attempts.values()), Status.COMPLETED, "it was looked at", ORIGIN, NOW)
    assert (of.transaction.status, of.journals) == (Status.COMPLETED, [])


def test_a_dispute_lost_won_and_lost_again_posts_each_time_once() -> None:
    of = completed_payment()
    settle(of, first(of), Result(Verdict.DISPUTED), context())
    assert (of.transaction.status, of.events[-1].data["reason"]) == (Status.UNDER_REVIEW, "disputed")
    settle(of, first(of), Result(Verdict.REVERSED), context())
    settle(of, first(of), Result(Verdict.DISPUTE_WON), context())
    assert of.transaction.status is Status.COMPLETED
    settle(of, first(of), Result(Verdict.REVERSED), context())
    assert of.transaction.status is Status.REVERSED
    assert [kind for kind, _ in posted(of)] == ["reversed", "reinstated", "reversed_again"]
    assert sum(lines["sales"] for _, lines in posted(of)) == AMOUNT.minor
    for _ in range(2):
        settle(of, first(of), Result(Verdict.DISPUTE_WON), context())
    assert of.transaction.status is Status.COMPLETED
    assert [kind for kind, _ in posted(of)][3:] == ["reinstated_again"]
    assert sum(lines["sales"] for _, lines in posted(of)) == 0


def test_a_dispute_that_is_won_under_review_is_told_once_and_stays_a_persons_decision() -> None:
    of = completed_payment()
    settle(of, first(of), Result(Verdict.DISPUTED), context())
    for _ in range(2):
        settle(of, first(of), Result(Verdict.DISPUTE_WON), context())
    assert [event.data["reason"] for event in of.events] == ["disputed", "dispute_won"]
    assert of.transaction.status is Status.UNDER_REVIEW
    resolve_review(of, list(of.attempts.values()), Status.COMPLETED, "it was won", ORIGIN, NOW)
    assert (of.transaction.status, of.journals) == (Status.COMPLETED, [])


# -- what the database holds itself -------------------------------------------------------------------------------------


async def _stored(connection: Any, of: Unit) -> None:
    """The unit's transaction and attempts as rows, completed."""
    one = of.transaction
    await connection.execute(
        """
        INSERT INTO transactions (id, user_id, kind, reference, status, version, amount_minor, currency, next_check_at)
        VALUES ($1, $2, 'payment', $3, 'pending', 1, $4, 'NGN', now())
        """,
        one.id,
        one.user_id,
        one.reference,
        one.amount.minor,
    )
    await connection.execute(
        "UPDATE transactions SET status = 'completed', version = 2, last_cause = 'provider', paid_minor = $2 WHERE id = $1",
        one.id,
        one.paid_minor,
    )
    for each in of.attempts.values():
        await sql.add_attempt(connection, each)
    await connection.execute(
        "UPDATE attempts SET paid_minor = $2, paid_currency = 'NGN' WHERE transaction_id = $1",
        one.id,
        one.paid_minor,
    )


async def _opened(connection: Any, amount: Money = AMOUNT, of: Unit | None = None) -> tuple[Unit, Attempt]:
    if of is None:
        of = completed_payment()
        await _stored(connection, of)
    order = refund_of(of, amount)
    await sql.add_refund(connection, of.refunds[order.id], order, None)
    return of, order


async def test_a_refund_reads_back_as_it_was_written(connection: Any) -> None:
    of, order = await _opened(connection, PART)
    await sql.save(connection, [of], Accounts())
    loaded = await sql.lock_whole(connection, of.transaction.id)
    assert loaded is not None
    await sql.lock_refunds(connection, [loaded])
    written = of.refunds[order.id]
    assert loaded.refunds == {order.id: replace(written, updated_at=written.created_at)}
    settle(loaded, loaded.attempts[order.id], answer(Verdict.DECLINED, PART), context())
    await sql.save(connection, [loaded], Accounts())
    again = await sql.lock_whole(connection, of.transaction.id)
    assert again is not None
    await sql.lock_refunds(connection, [again])
    assert again.refunds[order.id].status is RefundStatus.FAILED
    assert again.refunds[order.id].failure == Failure("expired_card", "The card has expired.")


async def test_the_database_refuses_more_than_was_paid(connection: Any) -> None:
    of, _ = await _opened(connection, PART)
    with pytest.raises(asyncpg.CheckViolationError, match="exceed what was paid"):
        await _opened(connection, Money(300_001, "NGN"), of)


@pytest.mark.parametrize("before", RefundStatus)
@pytest.mark.parametrize("after", RefundStatus)
async def test_the_database_knows_the_moves_of_refunds(
    connection: Any, before: RefundStatus, after: RefundStatus
) -> None:
    of, order = await _opened(connection)
    await connection.execute("SET LOCAL session_replication_role = replica")
    await connection.execute("UPDATE refunds SET status = $1 WHERE attempt_id = $2", before.value, order.id)
    await connection.execute("SET LOCAL session_replication_role = origin")
    change = "UPDATE refunds SET status = $1 WHERE attempt_id = $2"
    if after is before or after in MOVES[before]:
        await connection.execute(change, after.value, order.id)
    else:
        with pytest.raises(asyncpg.CheckViolationError, match="may not move"):
            await connection.execute(change, after.value, order.id)
    assert of.refunds


async def test_what_a_refund_is_about_never_changes_and_it_is_never_deleted(connection: Any) -> None:
    _, order = await _opened(connection, PART)
    for change in (
        "UPDATE refunds SET amount_minor = 1 WHERE attempt_id = $1",
        "UPDATE refunds SET currency = 'GHS' WHERE attempt_id = $1",
        "DELETE FROM refunds WHERE attempt_id = $1",
    ):
        inner = connection.transaction()
        await inner.start()
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute(change, order.id)
        await inner.rollback()


async def test_one_request_opens_one_refund(database: Database) -> None:
    async with database.raw() as raw:
        outer = raw.transaction()
        await outer.start()
        of = completed_payment()
        await _stored(raw, of)
        for number in range(2):
            order = refund_of(of, PART)
            if number == 0:
                await sql.add_refund(raw, of.refunds[order.id], order, b"the same request")
                continue
            with pytest.raises(asyncpg.UniqueViolationError):
                await sql.add_refund(raw, of.refunds[order.id], order, b"the same request")
        await outer.rollback()


@pytest.mark.parametrize("others_paid", [0, AMOUNT.minor])
def test_a_dispute_that_is_won_about_a_payment_nobody_saw_completes_nothing(others_paid: int) -> None:
    of = unit(Status.REVERSED, AttemptStatus.REVERSED, paid_minor=others_paid)
    for _ in range(2):
        settle(of, first(of), Result(Verdict.DISPUTE_WON), context())
    assert [event.data["reason"] for event in of.events] == ["dispute_won"]
    assert (of.transaction.status, first(of).status, of.journals) == (Status.REVERSED, AttemptStatus.REVERSED, [])


@pytest.mark.parametrize(
    ("status", "amount", "fits"),
    [
        (AttemptStatus.SUCCEEDED, PART, True),
        (AttemptStatus.SUCCEEDED, Money(AMOUNT.minor + 1, "NGN"), False),
        (AttemptStatus.SUCCEEDED, Money(AMOUNT.minor, "USD"), False),
        (AttemptStatus.UNDER_REVIEW, AMOUNT, True),
        (AttemptStatus.UNDER_REVIEW, PART, False),  # a part of what lies in suspense: a person sorts that out
        (AttemptStatus.REVERSED, AMOUNT, False),  # it went back already
    ],
)
def test_what_was_refunded_elsewhere_fits_what_is_left(status: AttemptStatus, amount: Money, fits: bool) -> None:
    of = completed_payment()
    first(of).status = status
    assert (made_elsewhere(of, first(of), amount) is not None) is fits


def test_what_nobody_was_credited_with_is_refunded_elsewhere_out_of_suspense() -> None:
    of = unit(Status.UNDER_REVIEW, AttemptStatus.UNDER_REVIEW)
    first(of).paid = AMOUNT
    order = refund_of(of, AMOUNT, made_elsewhere(of, first(of), AMOUNT))
    settle(of, order, answer(Verdict.COMPLETED), context(Source.QUERY))
    assert posted(of) == [("refunded", {"suspense": AMOUNT.minor, "provider_clearing:paystack": -AMOUNT.minor})]
    assert (first(of).status, of.transaction.refunded_minor) == (AttemptStatus.REVERSED, 0)
    assert of.transaction.status is Status.UNDER_REVIEW


# -- refunds beside what providers and people say of the payment itself -------------------------------------------------


def rejected(minor: int = 400_000) -> tuple[Unit, Attempt]:
    """Money that was not what we asked for, rejected in review, and on its way back out of suspense."""
    of = unit(Status.REQUIRES_ACTION, AttemptStatus.REQUIRES_ACTION)
    settle(of, first(of), Result(Verdict.COMPLETED, paid=Money(minor, "NGN")), context())
    resolve_review(of, [first(of)], Status.FAILED, "too little", ORIGIN, NOW)
    return of, refund_of(of, Money(minor, "NGN"), routing={"refund_of": first(of).reference, "from": "suspense"})


def in_suspense(of: Unit) -> int:
    return -sum(line.amount_minor for each in of.journals for line in each.lines if line.code == "suspense")


def test_suspended_money_that_is_called_reversed_while_it_is_refunded_leaves_suspense_once() -> None:
    of, order = rejected()
    assert settle(of, first(of), Result(Verdict.REVERSED, "reversed"), context()) is False
    settle(of, order, answer(Verdict.COMPLETED, order.amount), context())
    assert (in_suspense(of), first(of).status) == (0, AttemptStatus.REVERSED)
    assert [kind for kind, _ in posted(of)] == ["suspended", "refunded"]


@pytest.mark.parametrize("verdict", [Verdict.COMPLETED, Verdict.DECLINED])
def test_what_was_never_credited_is_not_completed_by_the_end_of_its_refund(verdict: Verdict) -> None:
    of = unit(Status.REFUNDED, [AttemptStatus.PROCESSING])  # a person closed it, and then money came all the same
    settle(of, first(of), Result(Verdict.COMPLETED, paid=Money(400_000, "NGN")), context())
    order = refund_of(of, Money(400_000, "NGN"), routing={"refund_of": first(of).reference, "from": "suspense"})
    settle(of, order, answer(Verdict.COMPLETED, order.amount), context())
    if verdict is Verdict.DECLINED:
        settle(of, order, answer(verdict, order.amount), context())
    assert (of.transaction.status, of.transaction.paid_minor) == (Status.REFUNDED, 0)
    assert in_suspense(of) == (400_000 if verdict is Verdict.DECLINED else 0)


def test_a_failed_refund_that_went_after_all_is_not_counted_beside_what_a_person_called_refunded() -> None:
    of = completed_payment()
    order = refund_of(of)
    settle(of, first(of), Result(Verdict.DISPUTED), context())
    settle(of, order, answer(Verdict.DECLINED), context())
    resolve_review(of, [first(of)], Status.REFUNDED, "It did go, says the bank.", ORIGIN, NOW)
    settle(of, order, answer(Verdict.COMPLETED), context(Source.QUERY))
    assert (of.transaction.refunded_minor, told(of)[-1]) == (AMOUNT.minor, "refund.under_review")
    with pytest.raises(Conflict) as refused:
        resolve_refund(of, order, RefundStatus.COMPLETED, "it went", context())
    assert refused.value.code == "already_refunded"
    resolve_refund(of, order, RefundStatus.FAILED, "it is the one that a person counted", context())
    assert [kind for kind, _ in posted(of)] == ["reversed"]


def test_what_was_credited_and_refunded_has_not_failed_either() -> None:
    """Its refund may come back late, and the owner has the money again: not of a payment that failed."""
    of = completed_payment()
    order = refund_of(of)
    settle(of, first(of), Result(Verdict.DISPUTED), context())
    settle(of, order, answer(Verdict.COMPLETED), context())
    with pytest.raises(Conflict) as refused:
        resolve_review(of, [first(of)], Status.FAILED, "no", ORIGIN, NOW)
    assert refused.value.code == "already_credited"
    resolve_review(of, [first(of)], Status.REFUNDED, "its refund went", ORIGIN, NOW)
    assert [kind for kind, _ in posted(of)] == ["refunded"]


def test_what_was_refunded_out_of_suspense_is_not_completed_by_hand() -> None:
    """The refund may come back late: then that money lies in suspense again, and no other."""
    of = unit(Status.REQUIRES_ACTION, AttemptStatus.REQUIRES_ACTION)
    settle(of, first(of), Result(Verdict.COMPLETED, paid=Money(400_000, "NGN")), context())
    order = refund_of(of, Money(400_000, "NGN"), routing={"refund_of": first(of).reference, "from": "suspense"})
    settle(of, order, answer(Verdict.COMPLETED, order.amount), context())
    with pytest.raises(Conflict) as refused:
        resolve_review(of, [first(of)], Status.COMPLETED, "paid at the desk", ORIGIN, NOW)
    assert refused.value.code == "already_refunded"
    resolve_review(of, [first(of)], Status.REFUNDED, "as it went", ORIGIN, NOW)
    settle(of, order, answer(Verdict.DECLINED, order.amount), context())
    assert (of.transaction.status, first(of).status) == (Status.REFUNDED, AttemptStatus.UNDER_REVIEW)
    assert in_suspense(of) == 400_000


def test_a_failed_refund_that_went_after_all_does_not_take_out_of_suspense_what_went_back_otherwise() -> None:
    of, order = rejected()
    settle(of, order, answer(Verdict.DECLINED, order.amount), context())
    settle(of, first(of), Result(Verdict.REVERSED, "reversed"), context())
    settle(of, order, answer(Verdict.COMPLETED, order.amount), context(Source.QUERY))
    assert (in_suspense(of), told(of)[-1]) == (0, "refund.under_review")


def test_a_refund_that_comes_back_after_a_person_agreed_with_it_leaves_a_paid_payment() -> None:
    of = completed_payment()
    settle(of, first(of), Result(Verdict.DISPUTED), context())
    order = refund_of(of)
    settle(of, order, answer(Verdict.COMPLETED), context())
    resolve_review(of, [first(of)], Status.REFUNDED, "its refund went", ORIGIN, NOW)
    settle(of, order, answer(Verdict.DECLINED), context())
    assert (of.transaction.status, first(of).status) == (Status.COMPLETED, AttemptStatus.SUCCEEDED)
    assert refundable(of, first(of)) == AMOUNT.minor
