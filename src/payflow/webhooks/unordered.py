"""Money that a customer sent by hand, as the provider tells it on its confirmation URL: in the books once, whoever's it is.

A paid prompt is told there too, under the receipt of its own callback. So it waits a moment for that; then an order that it
names is asked about; and what belongs to none is a payment under review, its money in suspense.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from uuid import UUID

from payflow.core.clock import Clock
from payflow.events.repository import EventRepository
from payflow.events.types import Origin
from payflow.gateway.contract import ProviderEvent, Result, Verdict
from payflow.infra.database import Database, RawConnection
from payflow.transactions.aggregate import MONEY_SEEN, Attempt, Transaction, Unit
from payflow.transactions.checks import Checks
from payflow.transactions.service import Transactions
from payflow.webhooks.repository import Seen, remember, remember_transaction

FindOwner = Callable[[], Awaitable[UUID | None]]
"""Whom money is recorded for that names no order; None when nobody can be."""


@dataclass(frozen=True, slots=True)
class Taken:
    """`outcome` as it is counted; `retried` and `dead_lettered` with the reason."""

    outcome: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """A confirmation that is believed. `early`: the prompt's own callback may still bring it; `last`: there is no later rung."""

    seen: Seen
    event: ProviderEvent
    origin: Origin
    early: bool
    last: bool


DUPLICATE = Taken("duplicate")


class UnorderedPayments:
    def __init__(
        self,
        database: Database,
        transactions: Transactions,
        checks: Checks,
        events: EventRepository,
        find_owner: FindOwner,
        clock: Clock,
    ) -> None:
        self._database = database
        self._transactions = transactions
        self._checks = checks
        self._events = events
        self._find_owner = find_owner
        self._clock = clock

    async def take(self, told: Told) -> Taken:
        """What becomes of it. Once it is in the books, a repeat changes nothing."""
        result, provider = told.event.result, told.seen.provider
        if result is None or result.verdict is not Verdict.COMPLETED or not result.receipt:
            return Taken("ignored")
        if result.paid is None or result.paid.minor <= 0:
            return Taken("dead_lettered", "a payment without an amount")
        known = await self._transactions.repository.attempt_by_receipt(provider, result.receipt)
        if known is not None:
            await self._tell_again(known)
            return DUPLICATE
        if told.early:
            return Taken("retried", "its own callback may come first")
        account = next(iter(told.event.references), None)
        named = await self._transactions.repository.attempt_by_account(provider, account or "")
        if named is not None:
            taken = await self._take_named(told, result, *named)
            if taken is not None:
                return taken
        return await self._record(told, result, account, named[0].user_id if named else None)

    async def _take_named(self, told: Told, result: Result, transaction: Transaction, attempt: Attempt) -> Taken | None:
        """Money for an order of ours. None when it is other money than the order's."""
        if attempt.receipt == result.receipt:
            return DUPLICATE
        if attempt.receipt is not None or (attempt.status in MONEY_SEEN and attempt.paid != result.paid):
            return None
        # The answer binds what this adds to it, by the order's own session.
        hint = replace(result, provider_references=attempt.provider_references)
        report = await self._checks.ask(transaction, attempt, origin=told.origin, hint=hint)
        if report.unit is not None and report.unit.attempts[attempt.id].receipt == result.receipt:
            return Taken("settled" if report.unit.events else "unchanged")
        if not told.last:
            why = report.result.verdict.value if report.result else f"not asked: {report.refusal}"
            return Taken("retried", f"the provider does not confirm the order yet: {why}")
        if attempt.status in MONEY_SEEN:
            return None
        return await self._suspend(told, result, attempt)

    async def _suspend(self, told: Told, result: Result, attempt: Attempt) -> Taken | None:
        """At the order itself, so that a late answer about its session finds its money seen, and does not post it again."""

        async def work(connection: RawConnection) -> Unit | None:
            return await self._transactions.suspend_unconfirmed(connection, attempt.id, result, told.origin)

        unit = await self._database.in_transaction(work)
        if unit is not None:
            await self._transactions.publish(unit.events)
            return Taken("settled")
        assert result.receipt is not None
        repeated = await self._transactions.repository.attempt_by_receipt(told.seen.provider, result.receipt)
        return DUPLICATE if repeated else None

    async def _record(self, told: Told, result: Result, account: str | None, named_owner: UUID | None) -> Taken:
        owner = named_owner or await self._find_owner()
        if owner is None:
            return Taken(
                "dead_lettered", "nobody to record an unordered payment for: no such user, or no administrator"
            )

        async def work(connection: RawConnection) -> Unit | None:
            # Who tells the same at the same time waits here, and then finds it remembered.
            if not await remember(connection, told.seen, self._clock()):
                return None
            unit = await self._transactions.record_unordered(
                connection, owner, told.seen.provider, account, result, told.origin
            )
            await remember_transaction(connection, told.seen, unit.transaction.id)
            return unit

        unit = await self._database.in_transaction(work)
        if unit is None:
            return DUPLICATE
        await self._transactions.publish(unit.events)
        return Taken("settled")

    async def _tell_again(self, attempt_id: UUID) -> None:
        """The worker may have died between commit and publish the first time."""
        found = await self._transactions.repository.find_attempt(attempt_id, None)
        if found is not None:
            transaction = found[0]
            last = await self._events.of_transaction(transaction.id, after=transaction.version - 2, limit=2)
            await self._transactions.publish(last)
