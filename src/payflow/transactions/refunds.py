"""Giving money back: what an answer about a refund means. Pure, like `settle`, which calls `settle_refund` for it.

A refund is one order to the provider, an attempt of its own with `operation` refund. It counts against what may still be
given back from the moment it is opened until it has failed. Its events are `refund.*` in the history of its transaction.

    pending ─► processing ─► completed ─► failed (late: the money came back)
        └──────────┴──────► failed · under_review ─► a person, or a later answer, decides
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from payflow.core.errors import Conflict
from payflow.core.ids import uuid7
from payflow.core.money import Money
from payflow.events.types import Origin
from payflow.gateway.contract import Failure, Result, Verdict
from payflow.ledger import journals
from payflow.ledger.journals import Hold, HoldStatus
from payflow.transactions.aggregate import (
    ACCOUNT,
    Attempt,
    AttemptStatus,
    Context,
    Refund,
    RefundStatus,
    Source,
    Unit,
)
from payflow.transactions.holds import capture, credited, debited, frozen, give_back, release, set_aside
from payflow.transactions.lifecycle import Cause, Kind, Status
from payflow.transactions.move import move

_PENDING, _PROCESSING, _REVIEW = RefundStatus.PENDING, RefundStatus.PROCESSING, RefundStatus.UNDER_REVIEW
_COMPLETED, _FAILED = RefundStatus.COMPLETED, RefundStatus.FAILED

MOVES: Mapping[RefundStatus, frozenset[RefundStatus]] = {
    _PENDING: frozenset({_PROCESSING, _COMPLETED, _FAILED, _REVIEW}),
    _PROCESSING: frozenset({_COMPLETED, _FAILED, _REVIEW}),
    _REVIEW: frozenset({_PROCESSING, _COMPLETED, _FAILED}),
    _COMPLETED: frozenset({_FAILED}),
    _FAILED: frozenset({_COMPLETED}),
}
"""The permitted moves of a refund; a trigger in the database holds the same."""

OPEN_REFUND = frozenset({_PENDING, _PROCESSING})

# After so long, a provider that does not know of an order whose answer was lost never got it.
NEVER_RECEIVED_AFTER = timedelta(minutes=10)
MADE_ELSEWHERE = "made at the provider, not here"
"""Why a refund's attempt was routed so that nobody asked for here: the books expect no hold of it."""

NOT_RECEIVED = Failure("not_received", "The provider never received the refund. Ask for it again.")
WENT_AFTER_ALL = Failure("completed_after_failure", "The provider says that the failed refund went after all.")
REFUND_FAILED = Failure("refund_failed", "The provider could not give the money back.")


def refundable(unit: Unit, payment: Attempt) -> int:
    """What may still be given back of a paid attempt, in minor units: what it was paid less every refund that has not
    failed. A second payment lies in suspense and goes back for itself."""
    taken = sum(
        refund.amount.minor
        for refund in unit.refunds.values()
        if refund.payment_attempt_id == payment.id and refund.status is not _FAILED
    )
    return (payment.paid.minor if payment.paid else 0) - taken


def made_elsewhere(unit: Unit, payment: Attempt, amount: Money) -> dict[str, Any] | None:
    """The routing of a refund that was made at the provider; None where it does not fit what is left of the payment. What
    nobody was credited with goes back out of suspense, as a whole."""
    left = refundable(unit, payment)
    suspended = payment.status is AttemptStatus.UNDER_REVIEW
    if payment.paid is None or not (suspended or payment.status is AttemptStatus.SUCCEEDED):
        return None  # nothing is there, or it went back already
    if amount.currency != payment.paid.currency or not 0 < amount.minor <= left or (suspended and amount.minor != left):
        return None
    return routing_of(payment) | {"reason": MADE_ELSEWHERE}


def routing_of(payment: Attempt) -> dict[str, Any]:
    """How a refund of this payment is routed: to whom took it, and out of suspense where it was credited to nobody."""
    routing = {"reason": "gives back what this provider took", "refund_of": payment.reference}
    return routing | ({"from": "suspense"} if payment.status is AttemptStatus.UNDER_REVIEW else {})


def open_refund(unit: Unit, refund: Refund, attempt: Attempt, origin: Origin, cause: Cause) -> None:
    """Write down that a refund is on its way, before the provider is asked."""
    unit.attempts[attempt.id] = attempt
    unit.refunds[attempt.id] = refund
    _tell(unit, refund, "processing", cause, origin)
    if unit.transaction.kind is Kind.FUNDING and unit.available is not None and not from_suspense(attempt):
        _hold(unit, refund, unit.available, cause, origin)


def _hold(unit: Unit, refund: Refund, available: int, cause: Cause, origin: Origin) -> None:
    """A funding's refund takes the money out of the wallet first: what was spent cannot be given back."""
    if cause is not Cause.PROVIDER and unit.wallet_status != "active":
        raise Conflict(f"The wallet is {unit.wallet_status}: nothing leaves it.", code=f"wallet_{unit.wallet_status}")
    if available < refund.amount.minor:
        if cause is Cause.PROVIDER:
            return  # made elsewhere, so it went whatever the wallet holds: see `_post`
        raise Conflict("The wallet no longer holds this much.", code="insufficient_funds")
    hold = Hold(uuid7(), refund.user_id, refund.transaction_id, "refund", refund.id, refund.amount)
    set_aside(unit, hold, cause, origin, refund.updated_at)


def settle_refund(unit: Unit, attempt: Attempt, result: Result, context: Context) -> None:
    """Apply one answer about a refund's attempt; the same answer again changes nothing."""
    handler = _BY_VERDICT.get(result.verdict)
    if handler is not None:
        handler(unit, attempt, unit.refunds[attempt.id], result, context)


def give_up_refund(unit: Unit, attempt: Attempt, context: Context) -> None:
    """No final answer came in time: a person looks. The money stays counted as on its way."""
    refund = unit.refunds[attempt.id]
    if refund.status in OPEN_REFUND:
        data = {"reason": "unresolved", "detail": "The provider gave no final answer in time."}
        _move(unit, refund, _REVIEW, Cause.TIMER, context, data)


def resolve_refund(unit: Unit, attempt: Attempt, outcome: RefundStatus, reason: str, context: Context) -> None:
    """An operator's decision about a refund under review, or about one that failed and went after all."""
    refund = unit.refunds[attempt.id]
    contradicted = refund.status is _FAILED and attempt.status is AttemptStatus.UNDER_REVIEW
    if refund.status is not _REVIEW and not contradicted:
        raise Conflict("Only a refund that is under_review can be resolved.", code="not_under_review")
    if outcome is _COMPLETED:
        if contradicted and not _fits(unit, refund, attempt):
            raise Conflict("Another refund took its place: nothing is left of the payment.", code="already_refunded")
        _complete(unit, attempt, refund, Cause.OPERATOR, context, {"reason": reason})
        return
    attempt.status = AttemptStatus.DECLINED
    unit.touch(attempt, context.now)
    refund.failure = Failure("rejected_in_review", "The refund was rejected after review.")
    _move(unit, refund, _FAILED, Cause.OPERATOR, context, {"reason": reason})


def _completed(unit: Unit, attempt: Attempt, refund: Refund, result: Result, context: Context) -> None:
    told_before = attempt.status is AttemptStatus.UNDER_REVIEW or attempt.failed_by(WENT_AFTER_ALL)
    if refund.status is _COMPLETED or told_before:
        return
    problem = _disagreement(attempt, refund, result)
    if refund.status is _FAILED:
        # An old webhook may arrive late. Only a fresh answer brings a refund back to life, once, and if it still fits.
        if context.source is not Source.QUERY:
            return
        released = refund.id in unit.holds  # the owner may have spent it since
        if attempt.status is AttemptStatus.REVERSED or not _fits(unit, refund, attempt) or released:
            problem = problem or WENT_AFTER_ALL.code
    if problem is None:
        _complete(unit, attempt, refund, Cause.PROVIDER, context, {})
        return
    if attempt.status is AttemptStatus.REVERSED:
        attempt.failure = WENT_AFTER_ALL  # posted as gone and as come back, each of them once: not to be decided here
    else:
        attempt.status = AttemptStatus.UNDER_REVIEW
    unit.touch(attempt, context.now)
    if refund.status is _FAILED:
        _tell(unit, refund, "under_review", Cause.PROVIDER, context.origin, {"reason": problem})
    elif refund.status is not _REVIEW:
        _move(unit, refund, _REVIEW, Cause.PROVIDER, context, {"reason": problem})


def _fits(unit: Unit, refund: Refund, attempt: Attempt) -> bool:
    """Whether a refund that had failed still fits what is left: beside other refunds, and what went back otherwise."""
    transaction, payment = unit.transaction, unit.attempts[refund.payment_attempt_id]
    if from_suspense(attempt):
        there = payment.status is AttemptStatus.UNDER_REVIEW
    else:
        there = transaction.paid_minor - transaction.refunded_minor >= refund.amount.minor
    return there and refundable(unit, payment) >= refund.amount.minor


def _disagreement(attempt: Attempt, refund: Refund, result: Result) -> str | None:
    if result.reference is not None and result.reference != attempt.reference:
        return "reference_mismatch"
    if result.requested is not None and result.requested.currency != refund.amount.currency:
        return "currency_mismatch"
    if result.requested is not None and result.requested.minor != refund.amount.minor:
        return "amount_mismatch"
    return None


def _complete(
    unit: Unit, attempt: Attempt, refund: Refund, cause: Cause, context: Context, data: Mapping[str, Any]
) -> None:
    transaction = unit.transaction
    attempt.status = AttemptStatus.SUCCEEDED
    attempt.failure = refund.failure = None
    unit.touch(attempt, context.now)
    if from_suspense(attempt):
        _leave_suspense(unit, refund, AttemptStatus.REVERSED, context)
    else:
        transaction.refunded_minor += refund.amount.minor
    _post(unit, refund, attempt, "refunded")
    _move(unit, refund, _COMPLETED, cause, context, data)


def _processing(unit: Unit, attempt: Attempt, refund: Refund, result: Result, context: Context) -> None:
    if refund.status not in OPEN_REFUND:
        return
    attention = result.verdict is Verdict.REQUIRES_ACTION
    word = AttemptStatus.REQUIRES_ACTION if attention else AttemptStatus.PROCESSING
    _set(unit, refund, _PROCESSING, context)
    if attempt.status is word:
        return
    attempt.status = word
    unit.touch(attempt, context.now)
    if attention:
        # Told once: the provider waits for somebody, such as for the account to send the money to.
        failure = result.failure or Failure("attention_needed", "The refund waits for an action at the provider.")
        _tell(unit, refund, "processing", Cause.PROVIDER, context.origin, {"attention": failure.message})


def _failed(unit: Unit, attempt: Attempt, refund: Refund, result: Result, context: Context) -> None:
    if refund.status is _FAILED:
        return
    refund.failure = attempt.failure = result.failure or REFUND_FAILED
    data: dict[str, Any] = {}
    if refund.status is _COMPLETED:
        if from_suspense(attempt):
            _leave_suspense(unit, refund, AttemptStatus.UNDER_REVIEW, context)
        else:
            unit.transaction.refunded_minor -= refund.amount.minor
        _post(unit, refund, attempt, "refund_failed")
        attempt.status = AttemptStatus.REVERSED
        data["late"] = True
    else:
        attempt.status = AttemptStatus.DECLINED
    unit.touch(attempt, context.now)
    _move(unit, refund, _FAILED, Cause.PROVIDER, context, data)


def _not_accepted(unit: Unit, attempt: Attempt, refund: Refund, result: Result, context: Context) -> None:
    """Refused or not sent. Of the order: nothing happened. Of a question: it tells nothing."""
    if context.source is not Source.INITIATION or attempt.status is not AttemptStatus.CREATED:
        return
    attempt.status = AttemptStatus(result.verdict.value)
    unreachable = Failure("provider_unreachable", "The provider could not be reached.")
    refund.failure = attempt.failure = result.failure or unreachable
    unit.touch(attempt, context.now)
    if refund.status in OPEN_REFUND:
        _move(unit, refund, _FAILED, Cause.PROVIDER, context, {})


def _unknown(unit: Unit, attempt: Attempt, refund: Refund, result: Result, context: Context) -> None:
    if context.source is not Source.INITIATION or attempt.status is not AttemptStatus.CREATED:
        return
    attempt.status = AttemptStatus.UNKNOWN
    unit.touch(attempt, context.now)
    _set(unit, refund, _PROCESSING, context)


def _not_found(unit: Unit, attempt: Attempt, refund: Refund, result: Result, context: Context) -> None:
    lost = attempt.status in (AttemptStatus.CREATED, AttemptStatus.UNKNOWN) and not attempt.provider_references
    old = context.now >= refund.created_at + NEVER_RECEIVED_AFTER
    if context.source is Source.QUERY and result.expirable and lost and old and refund.status in OPEN_REFUND:
        attempt.status = AttemptStatus.NOT_SENT
        refund.failure = attempt.failure = NOT_RECEIVED
        unit.touch(attempt, context.now)
        _move(unit, refund, _FAILED, Cause.PROVIDER, context, {})


def from_suspense(attempt: Attempt) -> bool:
    """Whether a refund's attempt gives back money that was never credited to anybody."""
    return attempt.routing.get("from") == "suspense"


def _leave_suspense(unit: Unit, refund: Refund, status: AttemptStatus, context: Context) -> None:
    """The second payment went back (or came again, late): nothing of it is left to decide, or all of it."""
    payment = unit.attempts[refund.payment_attempt_id]
    payment.status = status
    unit.touch(payment, context.now)


def _post(unit: Unit, refund: Refund, attempt: Attempt, kind: str) -> None:
    transaction, hold = unit.transaction, unit.holds.get(refund.id)
    origin, now = Origin(), refund.updated_at
    if hold is not None:
        if kind == "refunded":
            capture(unit, hold, attempt.provider, None, Cause.PROVIDER, origin, now)
        else:
            give_back(unit, hold, attempt.provider, Cause.PROVIDER, origin, now)
        return
    account = "suspense" if from_suspense(attempt) else ACCOUNT.get(transaction.kind)
    if account is None:
        return
    lacking = unit.debts.pop(refund.id, 0)
    if account == "wallet" and kind == "refunded":
        lacking = unit.debts[refund.id] = max(0, refund.amount.minor - max(0, unit.available or 0))
    about = (kind, refund.id, transaction.id, transaction.user_id, attempt.provider, refund.amount)
    unit.journals.append(journals.refund(*about, account=account, lacking=lacking))
    moved = Money(refund.amount.minor - lacking, refund.amount.currency)
    if account == "wallet" and moved.minor:
        (debited if kind == "refunded" else credited)(unit, moved, origin, now)
    if lacking and kind == "refunded":
        frozen(unit, "refunded_elsewhere", origin, now)


def _set(unit: Unit, refund: Refund, to: RefundStatus, context: Context) -> None:
    """Change a refund's status without an event of its own."""
    if refund.status is to:
        return
    if to not in MOVES[refund.status]:
        raise Conflict(f"A refund that is {refund.status} cannot become {to}.", code="invalid_transition")
    refund.status = to
    refund.updated_at = context.now
    if to in (_COMPLETED, _FAILED):
        refund.next_check_at = None
    unit.touched_refunds.add(refund.attempt_id)


def _move(
    unit: Unit, refund: Refund, to: RefundStatus, cause: Cause, context: Context, data: Mapping[str, Any]
) -> None:
    _set(unit, refund, to, context)
    hold = unit.holds.get(refund.id)
    if hold is not None and to is _FAILED and hold.status is HoldStatus.HELD:
        release(unit, hold, cause, context.origin, context.now)
    if refund.failure is not None and to is _FAILED:
        data = {**data, "failure": {"code": refund.failure.code, "message": refund.failure.message}}
    _tell(unit, refund, to.value, cause, context.origin, data)


_GIVEN_BACK = frozenset({Status.COMPLETED, Status.PARTIALLY_REFUNDED, Status.REFUNDED})


def _tell(
    unit: Unit,
    refund: Refund,
    word: str,
    cause: Cause,
    origin: Origin,
    data: Mapping[str, Any] | None = None,
) -> None:
    """One `refund.*` event; with it the transaction takes the status that follows from what has been given back."""
    transaction = unit.transaction
    target = None
    # Where a person closed as refunded what nobody was credited with, a refund out of suspense says nothing of it.
    if transaction.status in _GIVEN_BACK and cause is not Cause.USER and transaction.paid_minor > 0:
        target = Status.COMPLETED
        if transaction.refunded_minor > 0:
            whole = transaction.refunded_minor >= transaction.paid_minor
            target = Status.REFUNDED if whole else Status.PARTIALLY_REFUNDED
    told = {
        "refund_id": str(refund.id),
        "refund_reference": refund.reference,
        "refund_amount": refund.amount.decimal_text(),
        "refund_amount_minor": refund.amount.minor,
        "refunded_minor": transaction.refunded_minor,
        **(data or {}),
    }
    # A refund's outcome moves the transaction because the provider paid, whoever reported it.
    by = cause if target is None or target is transaction.status else Cause.PROVIDER
    move(unit, target, event=f"refund.{word}", cause=by, origin=origin, now=refund.updated_at, data=told)


_Handler = Callable[[Unit, Attempt, Refund, Result, Context], None]

_BY_VERDICT: Mapping[Verdict, _Handler] = {
    Verdict.COMPLETED: _completed,
    Verdict.PROCESSING: _processing,
    Verdict.REQUIRES_ACTION: _processing,
    Verdict.DECLINED: _failed,
    Verdict.CANCELLED: _failed,
    Verdict.EXPIRED: _failed,
    Verdict.REVERSED: _failed,
    Verdict.REFUSED: _not_accepted,
    Verdict.NOT_SENT: _not_accepted,
    Verdict.NOT_FOUND: _not_found,
    Verdict.UNKNOWN: _unknown,
}
