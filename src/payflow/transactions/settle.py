"""What a provider's answer means for a transaction. Pure: it changes the `Unit` in memory; the caller holds the row lock.

`settle` is idempotent: the same answer again changes nothing, whether it comes by webhook, by query or from the initiation.
An answer that says "paid" completes only if what it carries is what we asked for (`disagreement`); otherwise its money goes
to suspense and a person decides.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from payflow.core.clock import rfc3339
from payflow.core.errors import Conflict, FieldError, Invalid
from payflow.core.money import Money, MoneyError
from payflow.events.types import Origin
from payflow.gateway.contract import ActionType, Failure, NextAction, Operation, Result, Verdict
from payflow.ledger import journals
from payflow.transactions.aggregate import (
    ACCOUNT,
    MONEY_SEEN,
    NEVER_SENT,
    Attempt,
    AttemptStatus,
    Context,
    Received,
    RefundStatus,
    Source,
    Unit,
)
from payflow.transactions.holds import credited, debited, follow, frozen
from payflow.transactions.lifecycle import ENDED_UNPAID, OPEN, Cause, Kind, Status, allowed
from payflow.transactions.move import move
from payflow.transactions.refunds import OPEN_REFUND, from_suspense, refundable, settle_refund

DISPUTED = Failure("disputed", "The customer contests the payment.")
PARTLY_REVERSED = Failure("partly_reversed", "A part of the payment was taken back.")
REVERSED_MEANWHILE = Failure("reversed_meanwhile", "A contested payment was taken back while it was being refunded.")
DISPUTE_WON = Failure("dispute_won", "The dispute was decided for the merchant.")
LOOKED_AT = (DISPUTED, PARTLY_REVERSED, REVERSED_MEANWHILE, DISPUTE_WON)
PAID_DIFFERENTLY = "paid_differently"


def settle(unit: Unit, attempt: Attempt, result: Result, context: Context) -> bool:
    """Apply one answer about one attempt. True when it left an event; what it only taught us (ids) is saved all the same."""
    before, status = unit.transaction.version, unit.transaction.status
    _learn(unit, attempt, result, context)
    if attempt.operation is Operation.REFUND:
        settle_refund(unit, attempt, result, context)
    else:
        _BY_VERDICT[result.verdict](unit, attempt, result, context)
        follow(unit, status, attempt, Cause.PROVIDER, context.origin, context.now)
    _learn_ids(unit, attempt, result, context)
    return unit.transaction.version != before


def disagreement(attempt: Attempt, result: Result) -> str | None:
    """Why an answer that says "paid" must not complete: reference, currency or amount differ, or nothing binds the amount.

    Requested (or paid, where there is none) must equal ours; more was paid only if the fee explains it exactly.
    """
    if result.reference is not None and result.reference != attempt.reference:
        return "reference_mismatch"
    for money in (result.requested, result.paid):
        if money is not None and money.currency != attempt.amount.currency:
            return "currency_mismatch"
    if result.requested is not None and result.requested.minor != attempt.amount.minor:
        return "amount_mismatch"
    if result.paid is not None:
        excess = result.paid.minor - attempt.amount.minor
        if excess != 0 and (excess < 0 or result.fee != Money(excess, attempt.amount.currency)):
            return "amount_mismatch"
    if result.requested is None and result.paid is None:
        # Our own reference names one order of one amount, where a provider asks by it (C-Pay).
        same_session = set(result.provider_references) & {attempt.reference, *attempt.provider_references}
        if not (result.amount_bound and same_session):
            return "amount_unproven"
    return None


def told_otherwise(attempt: Attempt, result: Result) -> Money | None:
    """The sum of an answer that says "paid" once more, if it is another than was told before; None for a repeat.

    A fee on top may be told at one time and not at another. What only says how much we asked for tells nothing of what came.
    """
    before = attempt.paid or attempt.amount
    told = result.paid or result.requested
    if result.verdict is not Verdict.COMPLETED or attempt.status not in MONEY_SEEN or told is None or told == before:
        return None
    if result.paid is None and told == attempt.amount:
        return None
    fees = (attempt.fee_minor, result.fee.minor if result.fee else None)
    explained = told.currency == before.currency and abs(told.minor - before.minor) in fees
    return None if explained else told


def suspend_unconfirmed(unit: Unit, attempt: Attempt, result: Result, context: Context) -> bool:
    """Money that the provider told of by an order's account, and would not confirm when it was asked: it came, so it is in
    the books, and a person decides. False when the attempt's own money has been seen, so that this is other money."""
    if attempt.status in MONEY_SEEN or result.paid is None:
        return False
    attempt.receipt, attempt.paid, attempt.failure = result.receipt, result.paid, None
    unit.touch(attempt, context.now)
    _suspend(unit, attempt, result.paid, disagreement(attempt, result) or "unconfirmed_payment", context)
    return True


def cancel(
    unit: Unit,
    attempts: list[Attempt],
    origin: Origin,
    now: datetime,
    cause: Cause = Cause.USER,
    reason: str | None = None,
) -> None:
    """The owner (or for money out, who has to approve it) gives up before the provider has it. A customer who pays all the
    same makes a late success."""
    for attempt in attempts:
        if attempt.status in (AttemptStatus.CREATED, AttemptStatus.REQUIRES_ACTION, AttemptStatus.DECLINED):
            attempt.status = AttemptStatus.CANCELLED
            unit.touch(attempt, now)
    before = unit.transaction.status
    move(unit, Status.CANCELLED, cause=cause, origin=origin, now=now, data={"reason": reason} if reason else None)
    follow(unit, before, attempts[-1], cause, origin, now)


def expire(unit: Unit, attempt: Attempt, now: datetime, *, proven_unpaid: bool) -> None:
    """The time is over: expired (or failed, after a decline) when an answer proves that nothing was paid, else a person looks."""
    origin = Origin()
    # Money out never expires, whatever an answer says: somebody looks before it is taken for not sent.
    may_expire = allowed(unit.transaction.kind, unit.transaction.status, Status.EXPIRED, Cause.TIMER)
    if not (proven_unpaid and may_expire):
        reason = {"reason": "unresolved", "detail": "The provider gave no final answer in time."}
        move(unit, Status.UNDER_REVIEW, cause=Cause.TIMER, origin=origin, now=now, data=reason)
        return
    declined = attempt.status is AttemptStatus.DECLINED
    if attempt.status not in MONEY_SEEN and not declined:
        attempt.status = AttemptStatus.EXPIRED
        unit.touch(attempt, now)
    if declined and allowed(unit.transaction.kind, unit.transaction.status, Status.FAILED, Cause.PROVIDER):
        _fail(unit, attempt.failure, cause=Cause.PROVIDER, origin=origin, now=now)
        return
    move(unit, Status.EXPIRED, cause=Cause.TIMER, origin=origin, now=now)


def resolve_review(
    unit: Unit,
    attempts: list[Attempt],
    outcome: Status,
    reason: str,
    origin: Origin,
    now: datetime,
    received: Received | None = None,
) -> None:
    """An operator's decision about what is under review; suspended money is given to the owner or stays for a refund.
    `received` corrects what the provider told before that is decided."""
    transaction = unit.transaction
    if (outcome in (Status.REFUNDED, Status.REVERSED) or _out_of_suspense(unit)) and _in_flight(unit):
        raise Conflict("A refund is on its way. Wait for its end, or decide it first.", code="refund_in_flight")
    attempts = [attempt for attempt in attempts if attempt.operation is not Operation.REFUND]
    credited_before = transaction.paid_minor
    by_hand = _say_received(unit, attempts, received, outcome, now) if received is not None else None
    suspended = [
        attempt
        for attempt in attempts
        if attempt.status is AttemptStatus.UNDER_REVIEW and (attempt.paid is None or attempt.paid.minor > 0)
    ]
    if outcome is Status.COMPLETED:
        _complete_by_hand(unit, attempts, suspended, by_hand, now)
        for attempt in attempts:
            if attempt.status is AttemptStatus.SUCCEEDED and attempt.failed_by(*LOOKED_AT):
                attempt.failure = None  # decided: the next of its kind is news again
                unit.touch(attempt, now)
    if outcome in (Status.REFUNDED, Status.REVERSED):
        _give_back(unit, attempts, outcome, now)
    if outcome is Status.REFUNDED:
        transaction.refunded_minor = transaction.paid_minor
    if outcome is Status.FAILED:
        _refuse_failure_of_what_was_credited(unit)
        for attempt in attempts:
            # Of money out: what had been sent has come back, which no later answer changes.
            if attempt.status is AttemptStatus.SUCCEEDED:
                attempt.status = AttemptStatus.REVERSED
                unit.touch(attempt, now)
        transaction.failure_code = "rejected_in_review"
        transaction.failure_message = "The payment was rejected after review."
    before = transaction.status
    move(unit, outcome, cause=Cause.OPERATOR, origin=origin, now=now, data={"reason": reason})
    follow(unit, before, attempts[-1], Cause.OPERATOR, origin, now)
    if transaction.kind is Kind.FUNDING and credited_before < transaction.paid_minor:
        gained = Money(transaction.paid_minor - credited_before, transaction.amount.currency)
        credited(unit, gained, origin, now)


def _refuse_failure_of_what_was_credited(unit: Unit) -> None:
    transaction = unit.transaction
    # Also where all of it was refunded since: a refund may yet come back, and then it is the owner's again.
    if transaction.kind in ACCOUNT and transaction.paid_minor > 0:
        raise Conflict(
            "It was paid and credited, so it has not failed: it is completed, or was refunded or reversed.",
            code="already_credited",
        )


def _say_received(
    unit: Unit, attempts: list[Attempt], received: Received, outcome: Status, now: datetime
) -> tuple[Attempt, Money]:
    """The attempt that a person speaks of, with what came. What was posted of it is corrected, for all that follows."""
    seen = [attempt for attempt in attempts if attempt.status is AttemptStatus.UNDER_REVIEW] or [
        attempt for attempt in attempts if attempt.status is AttemptStatus.SUCCEEDED
    ]
    meant = [attempt for attempt in attempts if attempt.reference == received.attempt_reference]
    if received.attempt_reference is None:
        meant = seen or attempts[-1:]
    if len(meant) != 1:
        raise Conflict("Say with which attempt it came: `attempt_reference`.", code="attempt_needed")
    [attempt] = meant
    before = attempt.paid if attempt in seen else None
    try:
        came = Money.parse(received.amount, (before or unit.transaction.amount).currency)
    except MoneyError as error:
        raise Invalid(str(error), errors=[FieldError("/body/received", str(error))]) from None
    if attempt not in seen:
        if seen or outcome is not Status.COMPLETED:
            raise Conflict("Nothing came with this attempt that could be decided so.", code="nothing_received")
        return attempt, came
    if attempt.status is AttemptStatus.SUCCEEDED and came.minor < (before or attempt.amount).minor:
        raise Conflict("More than that was credited. Refund the difference, or all of it.", code="already_credited")
    _correct(unit, attempt, came)
    unit.touch(attempt, now)
    return attempt, came


def _complete_by_hand(
    unit: Unit, attempts: list[Attempt], suspended: list[Attempt], by_hand: tuple[Attempt, Money] | None, now: datetime
) -> None:
    transaction = unit.transaction
    account = ACCOUNT.get(transaction.kind)
    if any(attempt.paid and attempt.paid.currency != transaction.amount.currency for attempt in suspended):
        raise Conflict(
            "It was paid in another currency, so it cannot be completed. Resolve it as failed; what came can then be refunded.",
            code="currency_mismatch",
        )
    already = any(attempt.status is AttemptStatus.SUCCEEDED for attempt in attempts)
    for attempt in suspended:
        paid = attempt.paid or attempt.amount
        attempt.status = AttemptStatus.SUCCEEDED
        unit.touch(attempt, now)
        transaction.paid_minor += paid.minor
        if account:
            unit.journals.append(
                journals.released(attempt.id, transaction.id, transaction.user_id, paid, account=account)
            )
    if suspended or already:
        return
    # Nothing was ever reported as paid; the operator knows it from elsewhere, and says so in the reason.
    attempt, paid = by_hand or (attempts[-1], attempts[-1].amount)
    if _refunded_or_going(unit, attempt):
        raise Conflict(
            "What came was refunded, so it cannot be completed. Resolve it as refunded.", code="already_refunded"
        )
    attempt.status = AttemptStatus.SUCCEEDED
    attempt.paid = paid
    unit.touch(attempt, now)
    transaction.paid_minor = paid.minor
    if account:
        unit.journals.append(_collected(unit, attempt, paid, None))


def _give_back(unit: Unit, attempts: list[Attempt], outcome: Status, now: datetime) -> None:
    """The money went back outside of us: what lay in suspense, and what was credited before a dispute."""
    transaction = unit.transaction
    account = ACCOUNT.get(transaction.kind)
    given_back = transaction.refunded_minor
    for attempt in attempts:
        paid = attempt.paid or attempt.amount
        if attempt.status not in (AttemptStatus.UNDER_REVIEW, AttemptStatus.SUCCEEDED):
            continue
        was_credited = attempt.status is AttemptStatus.SUCCEEDED
        unit.touch(attempt, now)
        if was_credited and outcome is Status.REFUNDED and given_back >= paid.minor:
            # Its refunds say it all: if one of them comes back, it is a paid attempt as any other.
            given_back -= paid.minor
            attempt.failure = None
            continue
        attempt.status = AttemptStatus.REVERSED
        if was_credited:
            given_back = max(0, given_back - _take_back(unit, attempt, Origin(), now, given_back))
        elif account and paid.minor > 0:
            unit.journals.append(
                journals.returned(attempt.id, transaction.id, transaction.user_id, attempt.provider, paid)
            )


def _take_back(unit: Unit, attempt: Attempt, origin: Origin, now: datetime, given_back: int) -> int:
    """Take from the owner what was credited and not `given_back` already; how much of that was this attempt's. What a wallet
    lacks, its user owes."""
    transaction = unit.transaction
    paid = attempt.paid or attempt.amount
    left = Money(max(0, paid.minor - given_back), paid.currency)
    if transaction.kind in ACCOUNT and left.minor > 0:
        past = unit.reversals.setdefault(attempt.id, journals.Reversals())
        about = (attempt.id, transaction.id, transaction.user_id, attempt.provider, left)
        account = ACCOUNT[transaction.kind]
        lacking = 0 if unit.available is None else max(0, left.minor - max(0, unit.available))
        journal = journals.reversed_collection(*about, account=account, times=past.taken, lacking=lacking)
        unit.journals.append(journal)
        past.taken, past.lines = past.taken + 1, list(journal.lines)
        if transaction.kind is Kind.FUNDING and lacking < left.minor:
            debited(unit, Money(left.minor - lacking, left.currency), origin, now)
        if lacking:
            frozen(unit, "taken_back", origin, now)
    return paid.minor - left.minor


def _out_of_suspense(unit: Unit) -> bool:
    return any(from_suspense(unit.attempts[attempt_id]) for attempt_id in unit.refunds)


def _in_flight(unit: Unit) -> bool:
    return any(refund.status in (*OPEN_REFUND, RefundStatus.UNDER_REVIEW) for refund in unit.refunds.values())


def _going_back(unit: Unit, attempt: Attempt) -> bool:
    """Whether a refund of this attempt is on its way, or waits for a person."""
    return any(
        refund.payment_attempt_id == attempt.id and refund.status in (*OPEN_REFUND, RefundStatus.UNDER_REVIEW)
        for refund in unit.refunds.values()
    )


def _refunded_or_going(unit: Unit, attempt: Attempt) -> bool:
    return any(
        refund.payment_attempt_id == attempt.id and refund.status is not RefundStatus.FAILED
        for refund in unit.refunds.values()
    )


def _learn(unit: Unit, attempt: Attempt, result: Result, context: Context) -> None:
    """Receipt and raw status are worth keeping whatever the verdict; they never move anything."""
    if result.receipt and not attempt.receipt:
        attempt.receipt = result.receipt
        unit.touch(attempt, context.now)
    if result.raw_status and result.raw_status != attempt.raw_status:
        attempt.raw_status = result.raw_status
        unit.touch(attempt, context.now)
    if result.session_ends_at and not attempt.session_ends_at:
        attempt.session_ends_at = result.session_ends_at
        unit.touch(attempt, context.now)
    if context.source is Source.QUERY:
        attempt.last_checked_at = context.now
        unit.touch(attempt, context.now)
    transaction = unit.transaction
    if transaction.status in OPEN and context.source is Source.INITIATION:
        if result.checkout_url and not transaction.checkout_url:
            transaction.checkout_url = result.checkout_url
            unit.dirty = True
        if result.next_action and not transaction.next_action:
            transaction.next_action = action_json(result.next_action)
            unit.dirty = True


def _learn_ids(unit: Unit, attempt: Attempt, result: Result, context: Context) -> None:
    """After the decision: what binds an amount is an id that we knew before, never the answer's own."""
    fresh = tuple(known for known in result.provider_references if known not in attempt.provider_references)
    if fresh:
        attempt.provider_references = (*attempt.provider_references, *fresh)
        unit.touch(attempt, context.now)


def _completed(unit: Unit, attempt: Attempt, result: Result, context: Context) -> None:
    if attempt.status in MONEY_SEEN:
        _paid_differently(unit, attempt, result, context)
        return
    transaction = unit.transaction
    problem = disagreement(attempt, result)
    paid = result.paid or result.requested or attempt.amount
    attempt.paid = paid
    attempt.fee_minor = result.fee.minor if result.fee else None
    attempt.failure = None
    unit.touch(attempt, context.now)
    may_complete = allowed(transaction.kind, transaction.status, Status.COMPLETED, Cause.PROVIDER)
    if problem is None and may_complete and transaction.status is not Status.REVERSED and not _paid_before(unit):
        _complete(unit, attempt, paid, result.fee, context)
    else:
        _suspend(unit, attempt, paid, problem, context)


def _paid_before(unit: Unit) -> bool:
    return unit.transaction.paid_minor > 0


def _complete(unit: Unit, attempt: Attempt, paid: Money, fee: Money | None, context: Context) -> None:
    transaction = unit.transaction
    late = transaction.status in ENDED_UNPAID
    attempt.status = AttemptStatus.SUCCEEDED
    transaction.paid_minor = paid.minor
    transaction.fee_minor = fee.minor if fee else None
    transaction.provider = attempt.provider
    transaction.failure_code = transaction.failure_message = None
    if transaction.kind in ACCOUNT:
        unit.journals.append(_collected(unit, attempt, paid, fee))
    data: dict[str, Any] = {"paid_minor": paid.minor, "fee_minor": transaction.fee_minor}
    if late:
        data["late"] = True
    move(unit, Status.COMPLETED, cause=Cause.PROVIDER, origin=context.origin, now=context.now, data=data)
    if transaction.kind is Kind.FUNDING:
        credited(unit, paid, context.origin, context.now)


def _collected(unit: Unit, attempt: Attempt, paid: Money, fee: Money | None) -> journals.Journal:
    transaction = unit.transaction
    account = ACCOUNT[transaction.kind]
    return journals.collected(
        attempt.id, transaction.id, transaction.user_id, attempt.provider, paid, fee, account=account
    )


def _suspend(unit: Unit, attempt: Attempt, paid: Money, problem: str | None, context: Context) -> None:
    """Money that is not what we asked for, or a second time: kept apart, and nobody is credited."""
    transaction = unit.transaction
    attempt.status = AttemptStatus.UNDER_REVIEW
    if transaction.kind in ACCOUNT and paid.minor > 0:  # "paid, nothing" is odd enough to be looked at, but no entry
        unit.journals.append(
            journals.suspended(attempt.id, transaction.id, transaction.user_id, attempt.provider, paid)
        )
    data = {
        "attempt_reference": attempt.reference,
        "received_minor": paid.minor,
        "received_currency": paid.currency,
        "reason": problem or ("paid_while_under_review" if not _paid_before(unit) else "duplicate_payment"),
    }
    _tell_suspended(unit, data, context)


def _tell_suspended(unit: Unit, data: Mapping[str, Any], context: Context) -> None:
    """Of a second payment no more than that, since the first one stands."""
    transaction = unit.transaction
    how = {"cause": Cause.PROVIDER, "origin": context.origin, "now": context.now, "data": data}
    if _paid_before(unit):
        move(unit, None, event="duplicate_detected", **how)  # type: ignore[arg-type]
    elif allowed(transaction.kind, transaction.status, Status.UNDER_REVIEW, Cause.PROVIDER):
        move(unit, Status.UNDER_REVIEW, **how)  # type: ignore[arg-type]
    else:
        move(unit, None, event="under_review", **how)  # type: ignore[arg-type]


def _paid_differently(unit: Unit, attempt: Attempt, result: Result, context: Context) -> None:
    """Told as paid again, and with another sum: the rest of a part, or a contradiction. What is more than lies in suspense
    came as well, so it lies there too; all else is in an event, once, and a person says what came."""
    told = told_otherwise(attempt, result)
    if told is None or attempt.failed_by(*LOOKED_AT):
        return
    before = attempt.paid or attempt.amount
    what = Failure(PAID_DIFFERENTLY, f"The provider told of {told.decimal_text()} {told.currency} as well.")
    if attempt.failure is not None and (attempt.failure.code, attempt.failure.message) == (what.code, what.message):
        return
    suspended = attempt.status is AttemptStatus.UNDER_REVIEW and told.currency == before.currency
    if suspended and told.minor > before.minor and not _refunded_or_going(unit, attempt):
        _correct(unit, attempt, told)
        attempt.fee_minor = result.fee.minor if result.fee else None
    else:
        attempt.failure = what
    unit.touch(attempt, context.now)
    data = {
        "attempt_reference": attempt.reference,
        "received_minor": told.minor,
        "received_currency": told.currency,
        "received_before_minor": before.minor,
        "received_before_currency": before.currency,
        "reason": PAID_DIFFERENTLY,
    }
    if attempt.status is AttemptStatus.UNDER_REVIEW:
        _tell_suspended(unit, data, context)
        return
    # What was sent and came back is posted as both, each of them once: nothing of it is to be decided again.
    came_back = unit.transaction.kind not in ACCOUNT and attempt.status is AttemptStatus.REVERSED
    _to_review(unit, data, context, stay=came_back)


def _correct(unit: Unit, attempt: Attempt, received: Money) -> None:
    """Another sum came than was posted: the difference goes to where the rest is, in suspense or with the owner."""
    transaction, before = unit.transaction, attempt.paid or Money(0, received.currency)
    more, suspended = received.minor - before.minor, attempt.status is AttemptStatus.UNDER_REVIEW
    attempt.paid = received
    if not suspended:
        transaction.paid_minor += more
    if transaction.kind not in ACCOUNT or more == 0:
        return
    about = (attempt.id, transaction.id, transaction.user_id, attempt.provider)
    if suspended and before.minor == 0:
        unit.journals.append(journals.suspended(*about, received))
        return
    past = unit.reversals.setdefault(attempt.id, journals.Reversals())
    account = "suspense" if suspended else ACCOUNT[transaction.kind]
    unit.journals.append(journals.corrected(*about, more, received.currency, account=account, times=past.corrected))
    past.corrected += 1


def _requires_action(unit: Unit, attempt: Attempt, result: Result, context: Context) -> None:
    transaction = unit.transaction
    if attempt.status in MONEY_SEEN or transaction.status not in OPEN:
        return
    if attempt.status in (AttemptStatus.CREATED, AttemptStatus.UNKNOWN, AttemptStatus.PROCESSING):
        attempt.status = AttemptStatus.REQUIRES_ACTION
        unit.touch(attempt, context.now)
    if transaction.status is Status.REQUIRES_ACTION:
        _asked_again(unit, result, context)
        return
    if transaction.status is Status.PROCESSING and context.source is Source.WEBHOOK:
        return  # an old webhook may arrive late; only a fresh answer may ask the customer again
    action = action_json(result.next_action) if result.next_action else transaction.next_action
    if action is None:
        # It waits, but nobody here can do what it waits for: nothing a client could show. Money out was sent all the same.
        if transaction.status is Status.PENDING and transaction.kind not in ACCOUNT:
            move(unit, Status.PROCESSING, cause=Cause.PROVIDER, origin=context.origin, now=context.now)
        return
    transaction.next_action = action
    data = {"next_action": _told_action(action), "checkout_url": transaction.checkout_url}
    move(unit, Status.REQUIRES_ACTION, cause=Cause.PROVIDER, origin=context.origin, now=context.now, data=data)


def _told_action(action: Mapping[str, Any]) -> Mapping[str, Any]:
    """In events, which go to many readers and stay for ever, without what an SDK opens the payment with."""
    if action["type"] != ActionType.SDK:
        return action
    return {name: value for name, value in action.items() if name != "fields"}


def _asked_again(unit: Unit, result: Result, context: Context) -> None:
    """After the PIN the OTP, or the OTP once more: the next step is news, though the status stays."""
    action = action_json(result.next_action) if result.next_action else None
    if context.source is not Source.SUBMISSION or action is None or action == unit.transaction.next_action:
        return
    unit.transaction.next_action = action
    data = {"next_action": _told_action(action), "checkout_url": unit.transaction.checkout_url}
    move(unit, None, event="requires_action", cause=Cause.PROVIDER, origin=context.origin, now=context.now, data=data)


def _processing(unit: Unit, attempt: Attempt, result: Result, context: Context) -> None:
    transaction = unit.transaction
    if attempt.status in MONEY_SEEN or transaction.status not in OPEN:
        return
    if attempt.status is not AttemptStatus.PROCESSING:
        attempt.status = AttemptStatus.PROCESSING
        unit.touch(attempt, context.now)
    if transaction.status is not Status.PROCESSING:
        move(unit, Status.PROCESSING, cause=Cause.PROVIDER, origin=context.origin, now=context.now)


def _ended(unit: Unit, attempt: Attempt, result: Result, context: Context) -> None:
    """Declined, cancelled or expired at the provider. A hosted session that lives on keeps the transaction open."""
    transaction = unit.transaction
    word = AttemptStatus(result.verdict.value)
    sent = transaction.kind not in ACCOUNT and attempt.status is AttemptStatus.SUCCEEDED
    if sent and word is AttemptStatus.DECLINED:
        # Money that went out and then failed has come back: some providers tell a returned transfer so.
        _reversed(unit, attempt, result, context)
        return
    if attempt.status in MONEY_SEEN or attempt.status in NEVER_SENT:
        return
    if attempt.status is AttemptStatus.DECLINED:
        # The session outlived the decline. Once it has ended too, no other try is left, and the decline is the reason.
        if transaction.status in OPEN and not result.session_open:
            _fail(unit, attempt.failure, cause=Cause.PROVIDER, origin=context.origin, now=context.now)
        return
    if attempt.status is word:
        return
    given_up = transaction.status is Status.CANCELLED and attempt.status is AttemptStatus.CANCELLED
    if given_up and word is AttemptStatus.EXPIRED:
        return  # its session ended with it: Stripe's word for that is expired
    attempt.status = word
    attempt.failure = result.failure
    unit.touch(attempt, context.now)
    if transaction.status not in OPEN:
        return
    if word is AttemptStatus.DECLINED:
        _attempt_failed(unit, attempt, context)
        if result.session_open:
            return
        _fail(unit, attempt.failure, cause=Cause.PROVIDER, origin=context.origin, now=context.now)
        return
    if word is AttemptStatus.EXPIRED and not allowed(
        transaction.kind, transaction.status, Status.EXPIRED, Cause.PROVIDER
    ):
        # Money out knows no "expired": an order that ran out at the provider has failed.
        _fail(unit, attempt.failure, cause=Cause.PROVIDER, origin=context.origin, now=context.now)
        return
    target = Status.CANCELLED if word is AttemptStatus.CANCELLED else Status.EXPIRED
    move(unit, target, cause=Cause.PROVIDER, origin=context.origin, now=context.now, data=_failure_data(result.failure))


def _not_accepted(unit: Unit, attempt: Attempt, result: Result, context: Context) -> None:
    """Refused or not sent. Of an initiation: nothing happened, so another provider may follow. Of a query: it tells nothing."""
    if context.source is not Source.INITIATION or attempt.status is not AttemptStatus.CREATED:
        return
    attempt.status = AttemptStatus(result.verdict.value)
    attempt.failure = result.failure or Failure("provider_unreachable", "The provider could not be reached.")
    unit.touch(attempt, context.now)
    if unit.transaction.status is not Status.PENDING:
        return
    _attempt_failed(unit, attempt, context)
    if context.last_attempt:
        _fail(unit, attempt.failure, cause=Cause.PROVIDER, origin=context.origin, now=context.now)


def _unknown(unit: Unit, attempt: Attempt, result: Result, context: Context) -> None:
    """Nobody can say. After an initiation, or an OTP on its way, the provider may have it: processing, asked later."""
    before = _SENT_FROM.get(context.source)
    if before is None or attempt.status is not before[0]:
        return
    attempt.status = AttemptStatus.UNKNOWN
    attempt.failure = result.failure
    unit.touch(attempt, context.now)
    if unit.transaction.status is before[1]:
        move(
            unit,
            Status.PROCESSING,
            cause=Cause.PROVIDER,
            origin=context.origin,
            now=context.now,
            data={"reason": "outcome_unknown"},
        )


def _reversed(unit: Unit, attempt: Attempt, result: Result, context: Context) -> None:
    transaction = unit.transaction
    if attempt.status is AttemptStatus.UNDER_REVIEW:
        if not _going_back(unit, attempt):  # a refund of it is called so too, and its end tells
            _suspended_returned(unit, attempt, context)
        return
    if attempt.status is AttemptStatus.REVERSED or transaction.status in (Status.REFUNDED, Status.REVERSED):
        return
    was_paid = attempt.status is AttemptStatus.SUCCEEDED
    if was_paid and not allowed(transaction.kind, transaction.status, Status.REVERSED, Cause.PROVIDER):
        return
    if was_paid and _in_flight(unit) and refundable(unit, attempt) <= 0:
        # Some providers call a payment "reversed" whose whole refund we have asked for: the refund's end tells. Of one that was
        # contested it may be either.
        if attempt.failed_by(DISPUTED):
            _for_a_person(unit, attempt, REVERSED_MEANWHILE, context)
        return
    if was_paid and _only_a_part(attempt, result, transaction.refunded_minor):
        if not attempt.failed_by(PARTLY_REVERSED):
            _for_a_person(unit, attempt, PARTLY_REVERSED, context)
        return
    attempt.status = AttemptStatus.REVERSED
    if attempt.failed_by(DISPUTE_WON):
        attempt.failure = None  # lost after all: it may be won again
    unit.touch(attempt, context.now)
    origin, now = context.origin, context.now
    if was_paid:
        if transaction.kind in ACCOUNT:
            _take_back(unit, attempt, origin, now, transaction.refunded_minor)
        move(unit, Status.REVERSED, cause=Cause.PROVIDER, origin=origin, now=now)
    elif allowed(transaction.kind, transaction.status, Status.UNDER_REVIEW, Cause.PROVIDER):
        reason = {"reason": "reversed_before_completion"}
        move(unit, Status.UNDER_REVIEW, cause=Cause.PROVIDER, origin=origin, now=now, data=reason)


def _disputed(unit: Unit, attempt: Attempt, result: Result, context: Context) -> None:
    """The customer contests a payment: told once, and looked at by a person. Its money stays where it is until the end."""
    if attempt.status is not AttemptStatus.SUCCEEDED or attempt.failed_by(DISPUTED):
        return
    _for_a_person(unit, attempt, DISPUTED, context)


def _dispute_won(unit: Unit, attempt: Attempt, result: Result, context: Context) -> None:
    """What was taken back is given again. Under review it stays a person's decision, who is told."""
    transaction = unit.transaction
    if attempt.failed_by(DISPUTE_WON):
        return
    if attempt.status is AttemptStatus.SUCCEEDED:
        if attempt.failed_by(DISPUTED) and transaction.status is Status.UNDER_REVIEW:
            _for_a_person(unit, attempt, DISPUTE_WON, context)
        return
    may_complete = allowed(transaction.kind, transaction.status, Status.COMPLETED, Cause.PROVIDER)
    if attempt.status is not AttemptStatus.REVERSED or transaction.status is not Status.REVERSED or not may_complete:
        return
    past = unit.reversals.get(attempt.id, journals.Reversals())
    if not past.lines:
        # Nothing of this attempt was taken from the owner, so there is nothing to give again; and a dispute tells of no
        # payment's amount.
        _for_a_person(unit, attempt, DISPUTE_WON, context)
        return
    attempt.status, attempt.failure = AttemptStatus.SUCCEEDED, DISPUTE_WON
    unit.touch(attempt, context.now)
    # What was taken is not computed again: refunds may have ended since.
    unit.journals.append(journals.reinstated(attempt.id, transaction.id, past.lines, past.given_again))
    again = sum(line.amount_minor for line in past.lines if line.code == "wallet")
    if again:
        credited(unit, Money(again, attempt.amount.currency), context.origin, context.now)
    past.given_again, past.lines = past.given_again + 1, []
    data = {"reason": DISPUTE_WON.code}
    move(unit, Status.COMPLETED, cause=Cause.PROVIDER, origin=context.origin, now=context.now, data=data)


def _only_a_part(attempt: Attempt, result: Result, refunded_minor: int) -> bool:
    """A dispute may be about less than the payment; which part of the books it takes, a person says."""
    told = result.requested or result.paid
    paid = attempt.paid or attempt.amount
    return told is not None and told.minor < min(paid.minor - refunded_minor, attempt.amount.minor)


def _for_a_person(unit: Unit, attempt: Attempt, what: Failure, context: Context) -> None:
    attempt.failure = what
    unit.touch(attempt, context.now)
    _to_review(unit, {"reason": what.code, "attempt_reference": attempt.reference}, context)


def _to_review(unit: Unit, data: Mapping[str, Any], context: Context, *, stay: bool = False) -> None:
    """Told in any case; a payment that has ended in a way that nobody decides about stays as it is."""
    transaction = unit.transaction
    reviewable = not stay and allowed(transaction.kind, transaction.status, Status.UNDER_REVIEW, Cause.PROVIDER)
    move(
        unit,
        Status.UNDER_REVIEW if reviewable else None,
        event="under_review",
        cause=Cause.PROVIDER,
        origin=context.origin,
        now=context.now,
        data=data,
    )


def _suspended_returned(unit: Unit, attempt: Attempt, context: Context) -> None:
    """Money that lay in suspense went back. Nobody was credited, so the transaction stays as it is: another attempt may have
    paid it, and what is under review is still a person's to decide."""
    transaction, paid = unit.transaction, attempt.paid or attempt.amount
    attempt.status = AttemptStatus.REVERSED
    unit.touch(attempt, context.now)
    if transaction.kind in ACCOUNT and paid.minor > 0:
        unit.journals.append(journals.returned(attempt.id, transaction.id, transaction.user_id, attempt.provider, paid))
    attempt.failure = Failure("reversed", "The payment was sent back.")
    _attempt_failed(unit, attempt, context)


def _nothing(unit: Unit, attempt: Attempt, result: Result, context: Context) -> None:
    """`not_found` and `asked` decide nothing by themselves."""


def _attempt_failed(unit: Unit, attempt: Attempt, context: Context) -> None:
    data = {"attempt_reference": attempt.reference, **_failure_data(attempt.failure)}
    move(
        unit,
        None,
        event="attempt_failed",
        cause=Cause.PROVIDER,
        origin=context.origin,
        now=context.now,
        data=data,
    )


def _fail(unit: Unit, failure: Failure | None, *, cause: Cause, origin: Origin, now: datetime) -> None:
    transaction = unit.transaction
    if failure is not None:
        transaction.failure_code, transaction.failure_message = failure.code, failure.message
    move(unit, Status.FAILED, cause=cause, origin=origin, now=now, data=_failure_data(failure))


def _failure_data(failure: Failure | None) -> dict[str, Any]:
    return {} if failure is None else {"failure": {"code": failure.code, "message": failure.message}}


def action_json(action: NextAction) -> dict[str, Any]:
    """A next action as clients see it: only the fields that are set."""
    value: dict[str, Any] = {"type": action.type.value}
    if action.url:
        value["url"] = action.url
    if action.display_text:
        value["display_text"] = action.display_text
    if action.fields:
        value["fields"] = dict(action.fields)
    if action.expires_at:
        value["expires_at"] = rfc3339(action.expires_at)
    return value


def next_check(now: datetime, created_at: datetime, count: int, schedule: tuple[float, ...]) -> datetime:
    """When to ask again: ever more seldom, the last step for ever."""
    return now + timedelta(seconds=schedule[min(count, len(schedule) - 1)])


# What an attempt and its transaction were while something was on its way to the provider.
_SENT_FROM = {
    Source.INITIATION: (AttemptStatus.CREATED, Status.PENDING),
    Source.SUBMISSION: (AttemptStatus.REQUIRES_ACTION, Status.REQUIRES_ACTION),
}

_Handler = Callable[[Unit, Attempt, Result, Context], None]

_BY_VERDICT: Mapping[Verdict, _Handler] = {
    Verdict.COMPLETED: _completed,
    Verdict.PROCESSING: _processing,
    Verdict.REQUIRES_ACTION: _requires_action,
    Verdict.DECLINED: _ended,
    Verdict.CANCELLED: _ended,
    Verdict.EXPIRED: _ended,
    Verdict.REVERSED: _reversed,
    Verdict.DISPUTED: _disputed,
    Verdict.DISPUTE_WON: _dispute_won,
    Verdict.REFUSED: _not_accepted,
    Verdict.NOT_SENT: _not_accepted,
    Verdict.NOT_FOUND: _nothing,
    Verdict.ASKED: _nothing,
    Verdict.UNKNOWN: _unknown,
}
