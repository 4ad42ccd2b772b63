"""Every sequence of what providers, people and clocks may say of one transaction, up to a few steps, breadth first. What is
the same afterwards is followed once. After each step: suspense holds what waits for a person, the owner has what was paid less
what was given back, nothing is posted twice, status and attempts agree, no sum that was told is dropped, and what is under
review has a way out.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from payflow.core.errors import Conflict
from payflow.core.ids import new_reference, uuid7
from payflow.core.money import Money
from payflow.gateway.contract import Operation, Result, Verdict
from payflow.ledger.journals import Hold, HoldStatus
from payflow.transactions.aggregate import (
    ACCOUNT,
    MONEY_SEEN,
    Attempt,
    AttemptStatus,
    Received,
    Refund,
    RefundStatus,
    Source,
    Unit,
)
from payflow.transactions.holds import set_aside
from payflow.transactions.lifecycle import ENDED_UNPAID, OPEN, Cause, Kind, Status
from payflow.transactions.refunds import (
    OPEN_REFUND,
    made_elsewhere,
    open_refund,
    refundable,
    resolve_refund,
    routing_of,
)
from payflow.transactions.settle import cancel, expire, resolve_review, settle, told_otherwise
from tests.transactions.builders import AMOUNT, DECLINED, NOW, ORIGIN, context, unit

LESS, MORE, OTHER = Money(200_000, "NGN"), Money(700_000, "NGN"), Money(AMOUNT.minor, "USD")
OWNERS = ("sales", "wallet", "wallet_held", "receivable")
PAID: dict[str, dict[str, Any]] = {
    "all": {"requested": AMOUNT, "paid": AMOUNT},
    "less": {"paid": LESS},
    "more": {"paid": MORE},
    "other": {"paid": OTHER},
}
SAID = {
    **{f"paid {word}": Result(Verdict.COMPLETED, **carried) for word, carried in PAID.items()},
    **{verdict.value: Result(verdict, failure=DECLINED) for verdict in (Verdict.DECLINED, Verdict.CANCELLED)},
    **{verdict.value: Result(verdict) for verdict in (Verdict.REVERSED, Verdict.DISPUTED, Verdict.DISPUTE_WON)},
    "partly reversed": Result(Verdict.REVERSED, requested=LESS),
}
WALLET = 600_000  # so that a second one of what is taken back is lacking

Step = Callable[[Unit], None]


@dataclass
class Story:
    unit: Unit
    path: tuple[str, ...] = ()
    wrong: list[str] = field(default_factory=list)

    def after(self, name: str, step: Step) -> "Story | None":
        """How it goes on; None where the step is refused."""
        of = copy.deepcopy(self.unit)
        of.events = []
        on = Story(of, (*self.path, name))
        try:
            step(of)
        except Conflict:
            return None
        except AssertionError as error:
            on.wrong.append(str(error))
        on.wrong += problems(of)
        return on

    @property
    def stands(self) -> tuple[Any, ...]:
        """All that decides about what follows."""
        of = self.unit
        numbers = {identity: number for number, identity in enumerate(of.attempts)}
        return (
            (of.transaction.status, of.transaction.paid_minor, of.transaction.refunded_minor),
            tuple((each.status, each.paid, each.failure, each.routing.get("from")) for each in of.attempts.values()),
            tuple((numbers[each.payment_attempt_id], each.status, each.amount) for each in of.refunds.values()),
            tuple((each.status, each.gone) for each in of.holds.values()),
            tuple(sorted((numbers[key], each.taken, each.given_again) for key, each in of.reversals.items())),
            tuple(sorted(sums(of).items())),
        )


def sums(of: Unit) -> dict[tuple[str, str], int]:
    added: Counter[tuple[str, str]] = Counter()
    for journal in of.journals:
        for line in journal.lines:
            added[line.code, line.currency] += line.amount_minor
    return {account: minor for account, minor in added.items() if minor}


def problems(of: Unit) -> Iterator[str]:
    transaction, posted = of.transaction, sums(of)
    moved = [each for each in of.attempts.values() if each.operation is not Operation.REFUND]
    paid = any(each.status is AttemptStatus.SUCCEEDED for each in moved)
    kinds = Counter((journal.source_id, journal.kind) for journal in of.journals)
    if any(number > 1 for number in kinds.values()):
        yield "posted twice"
    if transaction.status in (Status.COMPLETED, Status.PARTIALLY_REFUNDED) and transaction.paid_minor <= 0:
        yield "completed with nothing paid"
    if transaction.status in OPEN | ENDED_UNPAID and paid:
        yield "a paid attempt of what is not paid"
    if transaction.status in OPEN and any(each.status in MONEY_SEEN for each in moved):
        yield "open, and money was seen"
    if not 0 <= transaction.refunded_minor <= max(transaction.paid_minor, transaction.amount.minor):
        yield "more refunded than paid"
    if of.available is not None and of.available < 0:
        yield "a wallet below zero"
    owner = -sum(minor for (code, _), minor in posted.items() if code in OWNERS)
    if transaction.kind not in ACCOUNT:
        if owner != {Status.COMPLETED: -AMOUNT.minor, Status.UNDER_REVIEW: owner}.get(transaction.status, 0):
            yield f"the owner has {owner}"
        if transaction.status in OPEN and of.holds[transaction.id].status is not HoldStatus.HELD:
            yield "on its way without a hold"
        return
    waits: Counter[str] = Counter()
    for each in moved:
        if each.status is AttemptStatus.UNDER_REVIEW and each.paid:
            waits[each.paid.currency] += each.paid.minor
    if {currency: -minor for (code, currency), minor in posted.items() if code == "suspense"} != waits:
        yield "suspense is not what waits for a person"
    has = 0 if transaction.status in OPEN | ENDED_UNPAID else transaction.paid_minor - transaction.refunded_minor
    if owner != has and transaction.status is not Status.REVERSED:
        yield f"the owner has {owner} and not {has}"


def steps(of: Unit) -> Iterator[tuple[str, Step]]:
    moved = [each for each in of.attempts.values() if each.operation is not Operation.REFUND]
    for each in moved:
        for name, result in SAID.items():
            yield f"{each.number} {name}", _tell(each.id, result)
        if of.transaction.kind in ACCOUNT and len(of.refunds) < 2:
            for word, share, elsewhere in (("all", 1, False), ("a third", 3, False), ("all elsewhere", 1, True)):
                yield f"{each.number} refund {word}", _refund(each.id, share, elsewhere)
    for identity in of.refunds:
        for verdict, source in (
            (Verdict.COMPLETED, Source.WEBHOOK),
            (Verdict.COMPLETED, Source.QUERY),
            (Verdict.DECLINED, Source.WEBHOOK),
        ):
            result = Result(verdict, requested=of.refunds[identity].amount, failure=DECLINED)
            yield f"refund {verdict} by {source}", _tell(identity, result, source)
        for outcome in (RefundStatus.COMPLETED, RefundStatus.FAILED):
            yield f"refund resolved as {outcome}", _resolve_refund(identity, outcome)
    if of.transaction.status is Status.UNDER_REVIEW:
        for decided in (Status.COMPLETED, Status.FAILED, Status.REFUNDED, Status.REVERSED):
            yield f"resolved as {decided}", _resolve(decided)
        if of.transaction.kind in ACCOUNT:
            yield (
                "resolved as completed with more",
                _resolve(Status.COMPLETED, Received(Decimal(6_000), moved[0].reference)),
            )
    if of.transaction.status in OPEN:
        yield "cancelled", lambda of: cancel(of, list(of.attempts.values()), ORIGIN, NOW)
        yield "unresolved", lambda of: expire(of, list(of.attempts.values())[-1], NOW, proven_unpaid=False)


def _tell(identity: UUID, result: Result, source: Source = Source.WEBHOOK) -> Step:
    def step(of: Unit) -> None:
        attempt = of.attempts[identity]
        # A contested payment keeps its own reason until somebody has decided.
        news = told_otherwise(attempt, result) is not None and attempt.failure is None
        moved = settle(of, attempt, result, context(source))
        assert moved or not news, "a sum that was told is dropped"
        assert not settle(of, attempt, result, context(source)), "the same again is news"

    return step


def _refund(identity: UUID, share: int, elsewhere: bool) -> Step:
    """As `RefundService` allows it."""

    def step(of: Unit) -> None:
        payment, transaction = of.attempts[identity], of.transaction
        left = refundable(of, payment)
        suspended = payment.status is AttemptStatus.UNDER_REVIEW
        refused = (
            payment.paid is None
            or left <= 0
            or (suspended and (share > 1 or transaction.status is Status.UNDER_REVIEW))
        )
        if not suspended and transaction.status not in (Status.COMPLETED, Status.PARTIALLY_REFUNDED):
            refused = refused or not elsewhere
        if payment.paid is None or refused or not (suspended or payment.status is AttemptStatus.SUCCEEDED):
            raise Conflict("not refundable")
        amount = Money(max(1, left // share), payment.paid.currency)
        routing = made_elsewhere(of, payment, amount) if elsewhere else routing_of(payment)
        if routing is None:
            raise Conflict("does not fit")
        number, about = len(of.attempts) + 1, (transaction.id, transaction.user_id)
        order = Attempt(
            uuid7(), *about, number, Operation.REFUND, "paystack", new_reference("att"), amount, NOW, routing=routing
        )
        refund = Refund(
            uuid7(), *about, order.id, payment.id, new_reference("ref"), amount, NOW, NOW, next_check_at=NOW
        )
        open_refund(of, refund, order, ORIGIN, Cause.PROVIDER if elsewhere else Cause.USER)
        if elsewhere:
            settle(of, order, Result(Verdict.COMPLETED, requested=amount), context(Source.QUERY))

    return step


def _resolve_refund(identity: UUID, outcome: RefundStatus) -> Step:
    return lambda of: resolve_refund(of, of.attempts[identity], outcome, "looked", context(Source.QUERY))


def _resolve(outcome: Status, received: Received | None = None) -> Step:
    return lambda of: resolve_review(of, list(of.attempts.values()), outcome, "looked", ORIGIN, NOW, received)


def _waits_for_a_refund(of: Unit) -> bool:
    return any(each.status in (*OPEN_REFUND, RefundStatus.UNDER_REVIEW) for each in of.refunds.values())


def beginning(kind: Kind, attempts: int) -> Story:
    of = unit(tried=[AttemptStatus.CREATED] * attempts, kind=kind)
    transaction = of.transaction
    if kind is not Kind.PAYMENT:
        of.wallet_minor = WALLET
    if kind not in ACCOUNT:
        set_aside(
            of,
            Hold(uuid7(), transaction.user_id, transaction.id, "transaction", transaction.id, AMOUNT),
            Cause.USER,
            ORIGIN,
            NOW,
        )
    return Story(of)


@pytest.mark.parametrize(
    ("kind", "attempts", "length"),
    [(Kind.PAYMENT, 1, 4), (Kind.PAYMENT, 2, 3), (Kind.FUNDING, 1, 4), (Kind.WITHDRAWAL, 1, 5), (Kind.AIRTIME, 1, 5)],
)
def test_every_sequence_keeps_the_promises(kind: Kind, attempts: int, length: int) -> None:
    begun = beginning(kind, attempts)
    seen, stories = {begun.stands}, [begun]
    for _ in range(length):
        further = []
        for story in stories:
            followed = [on for name, step in steps(story.unit) if (on := story.after(name, step)) is not None]
            assert [(on.path, on.wrong) for on in followed if on.wrong] == []
            review = story.unit.transaction.status is Status.UNDER_REVIEW and not _waits_for_a_refund(story.unit)
            assert not review or any("resolved as" in on.path[-1] for on in followed), f"no way out after {story.path}"
            further += [on for on in followed if on.stands not in seen and not seen.add(on.stands)]  # type: ignore[func-returns-value]
        stories = further
