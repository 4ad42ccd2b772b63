"""An administrator's decision about what is under review, once per Idempotency-Key, for whatever kind of transaction."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson

from payflow.core.clock import Clock
from payflow.core.errors import Forbidden, NotFound
from payflow.core.settings import Settings
from payflow.events.types import Origin
from payflow.idempotency.repository import Finished, KeyScope, finish, reserve
from payflow.idempotency.service import IdempotencyService
from payflow.infra.database import Database, RawConnection
from payflow.transactions.aggregate import Received, Unit
from payflow.transactions.lifecycle import Kind, Status
from payflow.transactions.replies import Reply
from payflow.transactions.service import Transactions
from payflow.transactions.views import transaction_json


class OwnWallet(Forbidden):
    """It takes a second person to decide about this."""

    code = "own_wallet"

    def __init__(self) -> None:
        super().__init__("Somebody else decides about money of this amount in your own wallet.")


def not_ones_own(unit: Unit, decider: UUID, from_minor: Mapping[str, int]) -> None:
    """Forbidden `own_wallet` for the owner of the wallet, from the amount on (`from_minor`, by currency) that takes a second
    person to leave a wallet: or one person could say that money came, and send it away in small parts."""
    transaction = unit.transaction
    if transaction.kind is Kind.PAYMENT or transaction.user_id != decider:
        return
    said = (transaction.amount, *(attempt.paid for attempt in unit.attempts.values() if attempt.paid))
    if any(each.minor >= from_minor[each.currency] for each in said if each.currency in from_minor):
        raise OwnWallet()


class Resolutions:
    def __init__(
        self,
        database: Database,
        transactions: Transactions,
        idempotency: IdempotencyService,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._approval_minor = settings.withdrawal_approval_minor
        self._database = database
        self._transactions = transactions
        self._idempotency = idempotency
        self._clock = clock

    async def resolve(
        self,
        transaction_id: UUID,
        decider: UUID,
        outcome: Status,
        reason: str,
        scope: KeyScope,
        fingerprint_of: dict[str, Any],
        origin: Origin,
        received: Received | None = None,
    ) -> Reply:
        """Conflict when it is not under review, Forbidden `own_wallet`. Whether the transaction is of the right kind,
        the caller has seen."""
        fingerprint = self._idempotency.fingerprint(fingerprint_of)
        now = self._clock()

        async def work(connection: RawConnection) -> tuple[Unit, Finished] | None:
            until, keep = now + self._idempotency.lease, now + self._idempotency.keep
            if not await reserve(connection, scope, fingerprint, transaction_id, until, keep):
                return None
            unit = await self._transactions.resolve(transaction_id, outcome, reason, origin, connection, received)
            not_ones_own(unit, decider, self._approval_minor)
            finished = Finished(scope, 200, orjson.dumps(transaction_json(unit.transaction)))
            await finish(connection, finished)
            return unit, finished

        done = await self._database.in_transaction(work)
        if done is None:
            replay = await self._idempotency.replay(scope, fingerprint)
            if replay is None or replay.body is None:
                raise NotFound("The Idempotency-Key is no longer known.")
            return Reply(replay.status_code or 200, replay.body, replayed=True, transaction_id=transaction_id)
        unit, finished = done
        cached = self._idempotency.cache_entry(finished, fingerprint, transaction_id)
        await self._transactions.publish(unit.events, [cached])
        return Reply(200, finished.body, transaction_id=transaction_id)
