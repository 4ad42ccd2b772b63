"""Whether a payment that nobody ordered may be taken: the provider waits for the answer, a few seconds at most.

What cannot be decided in time is accepted: refusing loses a sale, and what is accepted ends under review at worst.
"""

import asyncio
from dataclasses import dataclass

from payflow.core.logging import get_logger
from payflow.core.settings import Settings
from payflow.gateway.contract import ValidationRequest
from payflow.infra.database import DatabaseAway
from payflow.transactions.aggregate import MONEY_SEEN
from payflow.transactions.lifecycle import OPEN
from payflow.transactions.repository import TransactionRepository

log = get_logger(__name__)

DEADLINE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Decision:
    """`outcome` is what is counted."""

    accept: bool
    reason: str

    @property
    def outcome(self) -> str:
        if self.reason == "undecided":
            return "validation_undecided"
        return "validation_accepted" if self.accept else "validation_refused"


UNDECIDED = Decision(True, "undecided")


class Validations:
    def __init__(
        self, repository: TransactionRepository, settings: Settings, *, deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        self._repository = repository
        self._accept_unordered = settings.unordered_payments_accepted
        self._deadline_seconds = deadline_seconds
        self._late: set[asyncio.Task[Decision]] = set()

    async def decide(self, provider: str, asked: ValidationRequest) -> Decision:
        """In time, whatever the database does: a question that hangs is left behind, since ending it may hang too."""
        asking = asyncio.create_task(self._decide(provider, asked), name="validation")
        self._late.add(asking)
        asking.add_done_callback(self._late.discard)
        done, _ = await asyncio.wait({asking}, timeout=self._deadline_seconds)
        if not done:
            asking.cancel()
            log.warning("validation.undecided", provider=provider, error="timeout")
            return UNDECIDED
        return asking.result()

    async def _decide(self, provider: str, asked: ValidationRequest) -> Decision:
        try:
            found = await self._repository.attempt_by_account(provider, asked.reference)
        except DatabaseAway as error:
            log.warning("validation.undecided", provider=provider, error=str(error))
            return UNDECIDED
        except Exception:
            log.exception("validation.undecided", provider=provider)
            return UNDECIDED
        if found is None:
            return Decision(self._accept_unordered, "no_order")
        transaction, attempt = found
        if attempt.amount != asked.amount:
            return Decision(False, "amount")
        if transaction.paid_minor > 0 or attempt.status in MONEY_SEEN:
            return Decision(False, "paid")
        if transaction.status not in OPEN:
            return Decision(False, "ended")
        return Decision(True, "fits")
