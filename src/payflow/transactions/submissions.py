"""What a customer gives when a payment asks for it (OTP, PIN, phone, birthday, address), passed on to the provider; and the
merchant's own code for a transfer.

The value lives in the request and in the call to the provider, and nowhere else: it is not part of the fingerprint of the
Idempotency-Key, of any row, event or log. One submission at a time for an attempt, across all nodes, because providers count
wrong ones and a second one that overtakes the first could spend a try or pay twice.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

import orjson

from payflow.core.clock import Clock
from payflow.core.errors import Conflict, InFlight, NotFound, ProviderUnavailable
from payflow.core.logging import get_logger
from payflow.core.settings import Settings
from payflow.events.types import Actor, Origin
from payflow.gateway.contract import ActionType, Credentials, Query, Result, Submission, TakesOtp, Verdict
from payflow.gateway.registry import Registry
from payflow.idempotency.repository import Finished, KeyScope, forget, reserve
from payflow.idempotency.service import IdempotencyService
from payflow.infra.database import Database, RawConnection
from payflow.transactions import repository as sql
from payflow.transactions.aggregate import Attempt, AttemptStatus, Transaction, Unit
from payflow.transactions.lifecycle import Kind, Status
from payflow.transactions.replies import PROVIDER_MARGIN_SECONDS, Reply
from payflow.transactions.service import Transactions
from payflow.transactions.views import transaction_json

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Expected:
    """The attempt that waits for the customer, and who takes what the customer gives."""

    attempt: Attempt
    query: Query
    provider: TakesOtp
    credentials: Credentials
    check_after: timedelta


class Submissions:
    def __init__(
        self,
        database: Database,
        transactions: Transactions,
        registry: Registry,
        idempotency: IdempotencyService,
        clock: Clock,
        settings: Settings,
        kinds: Collection[Kind] = (Kind.PAYMENT, Kind.FUNDING),
    ) -> None:
        """`kinds` are those it serves; every other transaction is not there."""
        self._database = database
        self._transactions = transactions
        self._registry = registry
        self._idempotency = idempotency
        self._clock = clock
        self._kinds = kinds
        self._word = "payment" if Kind.PAYMENT in kinds else next(iter(kinds)).value
        self._seconds = settings.provider_timeout_seconds + PROVIDER_MARGIN_SECONDS

    async def submit(
        self, payment_id: UUID, user_id: UUID | None, submission: Submission, scope: KeyScope, origin: Origin
    ) -> Reply:
        """The payment after the provider's answer: with the next `next_action`, ended, or processing where nobody can say.

        NotFound; Conflict `nothing_to_submit` when the payment does not wait for this, `not_accepted` when the provider
        refused to look at it; ProviderUnavailable when nothing was sent. After the last two the same key may be used again.
        """
        fingerprint = self._idempotency.fingerprint({"type": submission.type.value})
        transaction, attempts = await self._own(payment_id, user_id)
        try:
            expected = await self._expected(transaction, attempts, submission.type)
        except Conflict:
            # A key that was used stands for its first answer, though the payment waits for nothing any more.
            replay = await self._replayed(payment_id, scope, fingerprint)
            if replay is None:
                raise
            return replay
        if not await self._take(transaction, expected.attempt, submission.type, scope, fingerprint):
            replay = await self._replayed(payment_id, scope, fingerprint)
            if replay is None:
                return await self.submit(payment_id, user_id, submission, scope, origin)
            return replay
        result = await self._pass_on(expected, submission)
        if result.verdict in (Verdict.NOT_SENT, Verdict.REFUSED):
            await self._give_up(expected.attempt, scope)
            if result.verdict is Verdict.NOT_SENT:
                raise ProviderUnavailable(extra={"transaction_id": transaction.id})
            message = result.failure.message if result.failure else "The provider did not accept this."
            raise Conflict(message, code="not_accepted")
        return await self._record(expected, result, scope, fingerprint, origin)

    async def _own(self, payment_id: UUID, user_id: UUID | None) -> tuple[Transaction, list[Attempt]]:
        found = await self._transactions.repository.get(payment_id, user_id)
        if found is None or found[0].kind not in self._kinds:
            raise NotFound(f"There is no such {self._word}, or it is not yours.")
        return found

    async def _expected(self, transaction: Transaction, attempts: list[Attempt], given: ActionType) -> _Expected:
        attempt = attempts[-1]
        wanted = (transaction.next_action or {}).get("type")
        waits = transaction.status is Status.REQUIRES_ACTION and attempt.status is AttemptStatus.REQUIRES_ACTION
        if not waits or wanted != given.value:
            state = f"waits for {wanted}" if waits else f"is {transaction.status.value}"
            raise Conflict(f"The {self._word} {state}; it does not wait for {given.value}.", code="nothing_to_submit")
        provider = self._registry.get(attempt.provider)
        credentials = await self._registry.credentials(attempt.provider)
        if credentials is None or not isinstance(provider, TakesOtp):
            raise Conflict(f"The {self._word}'s provider takes nothing of the kind here.", code="nothing_to_submit")
        declaration = self._registry.declaration(attempt.provider)
        query = replace(attempt.query(), customer=transaction.customer)
        return _Expected(attempt, query, provider, credentials.current, declaration.first_check_after)

    async def _take(
        self, transaction: Transaction, attempt: Attempt, given: ActionType, scope: KeyScope, fingerprint: bytes
    ) -> bool:
        """The key and the attempt, or neither. False when the key is taken; InFlight when somebody else is submitting, and
        Conflict when it no longer waits for this, since somebody else was faster."""
        now = self._clock()
        until = now + self._idempotency.lease

        async def work(connection: RawConnection) -> bool:
            keep = now + self._idempotency.keep
            if not await reserve(connection, scope, fingerprint, transaction.id, until, keep):
                return False
            if not await sql.claim_submission(connection, attempt.id, now, until):
                raise InFlight(f"Something is being submitted for this {self._word} already.", retry_after=2)
            if not await sql.awaits(connection, attempt, given.value):
                raise Conflict(f"The {self._word} does not wait for {given.value} any more.", code="nothing_to_submit")
            return True

        return await self._database.in_transaction(work)

    async def _give_up(self, attempt: Attempt, scope: KeyScope) -> None:
        """Nothing happened, so nothing is kept."""

        async def work(connection: RawConnection) -> None:
            await forget(connection, scope)
            await sql.release_submission(connection, attempt.id)

        await self._database.in_transaction(work)

    async def _pass_on(self, expected: _Expected, submission: Submission) -> Result:
        """The provider's verdict. Whatever goes wrong after something may have been sent is `unknown`."""
        try:
            async with asyncio.timeout(self._seconds):
                return await expected.provider.submit(expected.query, submission, expected.credentials)
        except TimeoutError:
            return Result(Verdict.UNKNOWN, raw_status="timeout")
        except Exception as error:
            # Not the traceback: its locals and messages may hold what the customer gave.
            attempt = expected.attempt
            log.error(
                "submission.adapter_failed",
                provider=attempt.provider,
                reference=attempt.reference,
                error=type(error).__name__,
            )
            return Result(Verdict.UNKNOWN, raw_status="adapter_error")

    async def _record(
        self, expected: _Expected, result: Result, scope: KeyScope, fingerprint: bytes, origin: Origin
    ) -> Reply:
        def keep(unit: Unit) -> tuple[Finished, tuple[str, bytes, int]]:
            finished = Finished(scope, 200, orjson.dumps(transaction_json(unit.transaction)))
            return finished, self._idempotency.cache_entry(finished, fingerprint, unit.transaction.id)

        unit = await self._transactions.record_submission(
            expected.attempt.id,
            result,
            Origin(Actor.PROVIDER, correlation_id=origin.correlation_id),
            finish_with=keep,
            check_after=expected.check_after,
        )
        return Reply(200, orjson.dumps(transaction_json(unit.transaction)), transaction_id=unit.transaction.id)

    async def _replayed(self, payment_id: UUID, scope: KeyScope, fingerprint: bytes) -> Reply | None:
        replay = await self._idempotency.replay(scope, fingerprint)
        if replay is None:
            return None
        if replay.body is not None:
            return Reply(replay.status_code or 200, replay.body, replayed=True, transaction_id=payment_id)
        # The first request died and its lease is over: how the payment stands now, and nothing is sent again.
        transaction, _ = await self._own(payment_id, None)
        return Reply(200, orjson.dumps(transaction_json(transaction)), replayed=True, transaction_id=payment_id)
