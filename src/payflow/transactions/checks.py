"""Asking a provider how an attempt stands: one way for the timer, for `verify` and for webhooks that prove nothing alone.

They share a single flight and a minimum interval per attempt (one statement claims both, across all nodes) and a budget per
provider, so that a flood of hints cannot become a flood of queries.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from payflow.core.clock import Clock
from payflow.core.logging import get_logger
from payflow.core.settings import Settings
from payflow.events.types import Actor, Origin
from payflow.gateway.contract import (
    Cancels,
    Collects,
    Credentials,
    Failure,
    Operation,
    PaysOut,
    Provider,
    Query,
    RefundQuery,
    Refunds,
    Result,
    SellsAirtime,
    Verdict,
)
from payflow.gateway.registry import Registry
from payflow.gateway.signing import CallbackUrls
from payflow.infra.redis import AWAY, Redis
from payflow.transactions.aggregate import NEVER_SENT, Attempt, AttemptStatus, Source, Transaction, Unit
from payflow.transactions.lifecycle import Status
from payflow.transactions.service import Answer, Transactions

log = get_logger(__name__)

TIME_OVER = Failure("expired", "The time to pay is over.")


class Refusal(StrEnum):
    """Why a provider was not asked."""

    TOO_SOON = "too_soon"
    BUDGET = "budget"
    NOT_CONFIGURED = "not_configured"
    NEVER_SENT = "never_sent"


@dataclass(frozen=True, slots=True)
class Report:
    """What asking led to. `unit` and `result` when the provider was asked, else `refusal`."""

    unit: Unit | None = None
    result: Result | None = None
    refusal: Refusal | None = None


class Budget:
    """Queries per provider and minute, counted in Redis; without it, in this process."""

    def __init__(self, redis: Redis, prefix: str, per_minute: int) -> None:
        self._redis = redis
        self._prefix = prefix
        self._per_minute = per_minute
        self._local: dict[str, int] = {}

    async def take(self, provider: str) -> bool:
        minute = int(time.time() // 60)
        key = f"{self._prefix}checks:{provider}:{minute}"
        try:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.incr(key)
            pipeline.expire(key, 120)
            used = int((await pipeline.execute())[0])
        except AWAY:
            if len(self._local) > 1_000:
                self._local.clear()
            used = self._local[key] = self._local.get(key, 0) + 1
        return used <= self._per_minute


class Checks:
    def __init__(
        self,
        transactions: Transactions,
        registry: Registry,
        callback_urls: CallbackUrls,
        redis: Redis,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._transactions = transactions
        self._registry = registry
        self._callback_urls = callback_urls
        self._clock = clock
        self._budget = Budget(redis, settings.redis_prefix, settings.provider_checks_per_minute)
        seconds = settings.check_min_interval_seconds
        self._interval = None if seconds is None else timedelta(seconds=seconds)

    async def check(self, transaction_id: UUID, *, origin: Origin | None = None) -> Report | None:
        """Ask about a transaction's attempt that may have been sent last. None when there is no such transaction."""
        found = await self._transactions.repository.get(transaction_id, None)
        if found is None:
            return None
        transaction, attempts = found
        moving = [attempt for attempt in attempts if attempt.operation is not Operation.REFUND]
        asked = [attempt for attempt in moving if attempt.status not in NEVER_SENT]
        if not asked and transaction.status is Status.PENDING:
            return await self._nothing_sent(transaction, moving[-1], origin)
        return await self.ask(transaction, (asked or moving)[-1], origin=origin)

    async def _nothing_sent(self, transaction: Transaction, attempt: Attempt, origin: Origin | None) -> Report:
        """A node died between a provider that did not take the payment and the next: nobody has it, so nobody is asked."""
        result = Result(Verdict.NOT_FOUND, attempt.raw_status or "", expirable=True)
        origin = origin or Origin(correlation_id=transaction.correlation_id)
        return Report(await self._transactions.settle(Answer(attempt.id, result, Source.QUERY, origin)), result)

    async def check_refunds(
        self, transaction_id: UUID, *, origin: Origin | None = None, completed_too: bool = False
    ) -> list[Report]:
        """Ask about every refund of a transaction that has not ended; of those completed too, which may fail late."""
        found = await self._transactions.repository.get(transaction_id, None)
        waiting = {*_WAITING, AttemptStatus.SUCCEEDED} if completed_too else _WAITING
        reports = []
        for attempt in found[1] if found else []:
            if attempt.operation is Operation.REFUND and attempt.status in waiting:
                assert found is not None
                reports.append(await self.ask(found[0], attempt, origin=origin))
        return reports

    async def check_refund_due(self, transaction_id: UUID, attempt_id: UUID) -> Report | None:
        """The timer's check of a refund. A provider that was not asked is not forgotten."""
        found = await self._transactions.repository.find_attempt(attempt_id, None)
        if found is None:
            return None
        report = await self.ask(*found)
        if report.refusal is Refusal.NOT_CONFIGURED:
            # A provider that was taken away answers no more: time goes on, and in the end a person looks.
            answer = Answer(attempt_id, Result(Verdict.UNKNOWN), Source.QUERY, Origin())
            return Report(await self._transactions.settle(answer), answer.result)
        if report.refusal is not None:
            delay = _UNTIL_ASKED_AGAIN[report.refusal]
            await self._transactions.repository.postpone_refund_check(attempt_id, self._clock() + delay)
        return report

    async def ask_elsewhere(self, transaction_id: UUID, payment: Attempt, told: Result) -> Result | None:
        """What the provider says of a refund of `payment` that none of ours is: one made elsewhere. None where it could not
        be asked."""
        found = await self._transactions.repository.get(transaction_id, None)
        attempts = found[1] if found else []
        provider = self._registry.get(payment.provider)
        credentials = await self._registry.credentials(payment.provider)
        if credentials is None or not isinstance(provider, Refunds) or not await self._budget.take(payment.provider):
            return None
        known = tuple(
            told_id
            for attempt in attempts
            if attempt.operation is Operation.REFUND
            for told_id in attempt.provider_references
        )
        new = tuple(told_id for told_id in told.provider_references if told_id not in known)
        amount = told.requested or payment.paid or payment.amount
        query = RefundQuery("", new, amount, self._clock(), payment.query(), known)
        try:
            return await provider.fetch_refund(query, credentials.current)
        except Exception:
            log.exception("check.adapter_failed", provider=payment.provider, reference=payment.reference)
            return None

    async def check_due(self, transaction_id: UUID) -> Report | None:
        """The timer's check. A provider that was not asked is not forgotten: the next time is soon."""
        report = await self.check(transaction_id)
        if report is None or report.refusal is None:
            return report
        if report.refusal is Refusal.NOT_CONFIGURED:
            return await self._without_provider(transaction_id)
        delay = _UNTIL_ASKED_AGAIN[report.refusal]
        await self._transactions.repository.postpone_check(transaction_id, self._clock() + delay)
        return report

    async def _without_provider(self, transaction_id: UUID) -> Report | None:
        """A provider that was taken away answers no more: time goes on, and in the end a person looks."""
        found = await self._transactions.repository.get(transaction_id, None)
        if found is None:
            return None
        result = Result(Verdict.UNKNOWN)
        unit = await self._transactions.settle(Answer(found[1][-1].id, result, Source.QUERY, Origin()))
        return Report(unit, result)

    async def ask(
        self, transaction: Transaction, attempt: Attempt, *, origin: Origin | None = None, hint: Result | None = None
    ) -> Report:
        """Ask about one attempt and settle the answer.

        `hint` is an unproven report of the same success: it decides nothing, but where the answer confirms it, it adds
        what the answer does not carry (Daraja's query has neither receipt nor amount).
        """
        if transaction.never_sent:
            # Whoever tells of it is wrong, and its answer would only set the clock going.
            return Report(refusal=Refusal.NEVER_SENT)
        provider = self._registry.get(attempt.provider)
        credentials = await self._registry.credentials(attempt.provider)
        if credentials is None or provider is None or not isinstance(provider, _ASKED[attempt.operation]):
            return Report(refusal=Refusal.NOT_CONFIGURED)
        if not await self._budget.take(attempt.provider):
            return Report(refusal=Refusal.BUDGET)
        interval = provider.declaration.min_check_interval if self._interval is None else self._interval
        if not await self._transactions.repository.claim_check(attempt.id, self._clock(), interval):
            return Report(refusal=Refusal.TOO_SOON)
        query = replace(attempt.query(), callback_url=self._callback_urls.of(provider.declaration, attempt.id))
        if hint is not None:
            query = await self._with_told_ids(query, attempt, hint)
        result = await self._answer(transaction, attempt, query, provider, credentials.current)
        if hint is not None:
            result = _completed_by(result, hint, query, attempt)
        origin = origin or Origin(Actor.PROVIDER, correlation_id=transaction.correlation_id)
        unit = await self._transactions.settle(Answer(attempt.id, result, Source.QUERY, origin))
        return Report(unit, result)

    async def _with_told_ids(self, query: Query, attempt: Attempt, hint: Result) -> Query:
        """Where the order's answer was lost, the hint alone names the provider's session. Never one of another attempt."""
        if query.provider_references or not hint.provider_references:
            return query
        others = await self._transactions.repository.attempts_by_provider_reference(
            attempt.provider, hint.provider_references, attempt.operation
        )
        return query if others else replace(query, provider_references=hint.provider_references)

    async def _answer(
        self, transaction: Transaction, attempt: Attempt, query: Query, provider: Provider, credentials: Credentials
    ) -> Result:
        try:
            if isinstance(provider, Refunds) and attempt.operation is Operation.REFUND:
                refund = await self._refund_query(transaction, attempt, query)
                return await provider.fetch_refund(refund, credentials)
            if isinstance(provider, PaysOut) and attempt.operation is Operation.PAYOUT:
                return await provider.fetch_payout(query, credentials)
            if isinstance(provider, SellsAirtime) and attempt.operation is Operation.PURCHASE:
                return await provider.fetch_purchase(query, credentials)
            assert isinstance(provider, Collects)
            if self._is_due(transaction, self._clock()) and isinstance(provider, Cancels):
                # Its time is over: end the session at the provider, so that nothing is paid after we call it expired.
                result = await provider.cancel(query, credentials)
                ended = result.verdict is Verdict.CANCELLED
                return replace(result, verdict=Verdict.EXPIRED, failure=TIME_OVER) if ended else result
            return await provider.fetch(query, credentials)
        except Exception:
            log.exception("check.adapter_failed", provider=attempt.provider, reference=query.reference)
            return Result(Verdict.UNKNOWN, raw_status="adapter_error")

    async def _refund_query(self, transaction: Transaction, attempt: Attempt, query: Query) -> RefundQuery:
        found = await self._transactions.repository.get(transaction.id, None)
        assert found is not None
        payment = payment_of(attempt, found[1])
        taken = tuple(
            told
            for other in found[1]
            if other.operation is Operation.REFUND and other.id != attempt.id
            for told in other.provider_references
        )
        return RefundQuery(
            query.reference,
            query.provider_references,
            query.amount,
            query.created_at,
            payment.query(),
            taken,
            query.callback_url,
        )

    def _is_due(self, transaction: Transaction, now: datetime) -> bool:
        return transaction.expires_at is not None and now >= transaction.expires_at


def payment_of(refund: Attempt, attempts: Sequence[Attempt]) -> Attempt:
    """The paid attempt whose money a refund's attempt gives back."""
    named = refund.routing.get("refund_of")
    return next(attempt for attempt in attempts if attempt.reference == named)


_UNTIL_ASKED_AGAIN = {
    Refusal.TOO_SOON: timedelta(seconds=5),
    Refusal.BUDGET: timedelta(seconds=60),
    Refusal.NEVER_SENT: timedelta(days=1),
}
_WAITING = frozenset(
    {AttemptStatus.CREATED, AttemptStatus.UNKNOWN, AttemptStatus.PROCESSING, AttemptStatus.REQUIRES_ACTION}
)
_ASKED: Mapping[Operation, type] = {
    Operation.COLLECT: Collects,
    Operation.REFUND: Refunds,
    Operation.PAYOUT: PaysOut,
    Operation.PURCHASE: SellsAirtime,
}


def _completed_by(result: Result, hint: Result, query: Query, attempt: Attempt) -> Result:
    """The answer, with what a hint about the same session adds to it: receipt and amount.

    An id that only the hint has told is not kept unless the hint's amount comes with it: the id alone binds no amount.
    """
    same_session = set(hint.provider_references) & set(query.provider_references)
    if same_session and result.verdict is hint.verdict is Verdict.COMPLETED:
        return replace(result, receipt=result.receipt or hint.receipt, paid=result.paid or hint.paid)
    if query.provider_references != attempt.provider_references:
        return replace(result, provider_references=())
    return result
