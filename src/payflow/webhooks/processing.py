"""The worker's side of a webhook: translate, find the attempt, ask back where the origin proves too little, settle.

A batch of signed events is one database transaction; if it fails, its messages are worked on one by one, so that one bad
message spoils no other. Work is only taken as done (`Verdict.DONE`) after its commit and after its events were published.
Deduplication saves work; what makes a repeat harmless is that `settle` is idempotent.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from payflow.core.clock import Clock
from payflow.core.logging import get_logger, redact_text
from payflow.core.settings import Settings
from payflow.events.repository import EventRepository
from payflow.events.types import Actor, Event, Origin
from payflow.gateway.contract import ProviderEvent, ReceivesWebhooks, Trust, Verdict, WebhookMalformed, WebhookRequest
from payflow.gateway.registry import Registry
from payflow.infra.database import Database, DatabaseAway, RawConnection
from payflow.infra.queue.port import Message
from payflow.transactions.aggregate import MONEY_SEEN, Attempt, Unit
from payflow.transactions.checks import Checks, Refusal
from payflow.transactions.service import Answer, Transactions
from payflow.transactions.settle import Source
from payflow.webhooks.metrics import WebhookMetrics
from payflow.webhooks.repository import Body, Seen, begin, keep

log = get_logger(__name__)

OUR_REFERENCE = re.compile(r"^att[0-9a-z]{26}$")
ASKED_AT_ONCE = 10


class Ending(StrEnum):
    DONE = "done"
    RETRY = "retry"
    DEAD = "dead"


@dataclass(slots=True)
class Disposition:
    """What becomes of a message. `delay_seconds` is its rung of the ladder; `overtaken` puts the short rungs before it."""

    ending: Ending = Ending.DONE
    reason: str = ""
    delay_seconds: float | None = None
    overtaken: bool = False


@dataclass(slots=True)
class Work:
    """A message and the events it told."""

    message: Message
    provider: str
    received_at: datetime
    origin: Origin
    attempt_id: UUID | None = None
    events: Sequence[ProviderEvent] = ()
    disposition: Disposition = field(default_factory=Disposition)
    outcome: str = "ignored"


@dataclass(frozen=True, slots=True)
class Item:
    """One event of a message on its way to `settle`, with the attempt's address."""

    work: Work
    event: ProviderEvent
    attempt_id: UUID | None
    reference: str | None


class WebhookProcessor:
    def __init__(
        self,
        database: Database,
        registry: Registry,
        transactions: Transactions,
        checks: Checks,
        events: EventRepository,
        metrics: WebhookMetrics,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._database = database
        self._registry = registry
        self._transactions = transactions
        self._checks = checks
        self._events = events
        self._metrics = metrics
        self._clock = clock
        self._overtaken = settings.overtaken_delays_seconds
        self._ladder = settings.ladder_seconds

    async def process(self, messages: Sequence[Message]) -> list[Disposition]:
        """Work on a batch. One disposition per message, in their order.

        DatabaseAway: nobody's fault, the same batch can be given again once the database is back.
        """
        works = [self._translate(message) for message in messages]
        self._metrics.batch.observe(len(works))
        settled: list[Item] = []
        asked: list[Item] = []
        for work in works:
            items = await self._addressed(work)
            settled += [item for item in items if not _proves_nothing(item.event)]
            asked += [item for item in items if _proves_nothing(item.event)]
        await self._settle(settled)
        await self._confirm(asked)
        for work in works:
            self._finish(work)
        return [work.disposition for work in works]

    def postponed(self, message: Message, error: Exception) -> Disposition:
        """What becomes of a message when its whole batch failed: the next rung, or the end of the ladder."""
        return self._in_time(Disposition(Ending.RETRY, reason_of(error)), message.attempt)

    def _in_time(self, disposition: Disposition, attempt: int) -> Disposition:
        """The disposition with its delay; beyond the last rung the message is dead."""
        delay = self._delay(disposition, attempt)
        if delay is None:
            return Disposition(Ending.DEAD, f"given up after the last rung: {disposition.reason}")
        disposition.delay_seconds = delay
        return disposition

    def _delay(self, disposition: Disposition, attempt: int) -> float | None:
        if disposition.overtaken and attempt < len(self._overtaken):
            return self._overtaken[attempt]
        rung = attempt - len(self._overtaken) if disposition.overtaken else attempt
        return self._ladder[rung] if rung < len(self._ladder) else None

    def _translate(self, message: Message) -> Work:
        headers = message.headers
        origin = Origin(Actor.PROVIDER, correlation_id=headers.get("correlation_id"))
        work = Work(message, headers.get("provider", "unknown"), self._clock(), origin)
        try:
            work.received_at = datetime.fromisoformat(headers["received_at"])
            work.attempt_id = UUID(headers["attempt_id"]) if "attempt_id" in headers else None
            UUID(message.id)
        except (KeyError, ValueError) as error:
            # Nobody but us writes these; somebody put the message into the queue by hand.
            work.disposition = Disposition(Ending.DEAD, f"malformed: no message of intake ({type(error).__name__})")
            work.outcome = "malformed"
            return work
        provider = self._registry.get(work.provider)
        if not isinstance(provider, ReceivesWebhooks):
            work.disposition = Disposition(Ending.DEAD, f"provider {work.provider} is not installed")
            return work
        try:
            work.events = provider.translate(WebhookRequest({}, message.body, work.received_at))
            if headers.get("trust") == Trust.CONFIRM:
                # Let in without proof: a hint, and never what makes the genuine one a duplicate.
                work.events = [replace(event, trust=Trust.CONFIRM, dedupe_key=None) for event in work.events]
        except WebhookMalformed as error:
            work.disposition = Disposition(Ending.DEAD, f"malformed: {error}")
            work.outcome = "malformed"
        except Exception as error:
            self._postpone(work, error)
        return work

    async def _addressed(self, work: Work) -> list[Item]:
        """Every event of a message with its address; none when that cannot be found out now."""
        try:
            return [await self._address(work, event) for event in work.events]
        except DatabaseAway:
            raise
        except Exception as error:
            self._postpone(work, error)
            return []

    async def _address(self, work: Work, event: ProviderEvent) -> Item:
        """By the path's token, then by our reference, then by an id of the provider."""
        if work.attempt_id is not None:
            return Item(work, event, work.attempt_id, None)
        ours = [reference for reference in event.references if OUR_REFERENCE.match(reference)]
        if ours or not event.provider_references or event.result is None:
            return Item(work, event, None, ours[0] if ours else None)
        known = await self._transactions.repository.attempts_by_provider_reference(
            work.provider, event.provider_references
        )
        return Item(work, event, known[0][0] if known else None, None)

    async def _settle(self, items: Sequence[Item]) -> None:
        if not items:
            return
        by_work: dict[int, list[Item]] = {}
        for item in items:
            by_work.setdefault(id(item.work), []).append(item)
        try:
            await self._settle_together(items)
        except DatabaseAway:
            raise
        except Exception as error:
            if len(by_work) == 1:
                self._postpone(items[0].work, error)
                return
            for own in by_work.values():
                await self._settle(own)

    async def _settle_together(self, items: Sequence[Item]) -> None:
        """One transaction: remember, lock, settle, save; then publish."""
        outcomes, events = await self._database.in_transaction(lambda connection: self._work(connection, items))
        await self._transactions.publish(events)
        for item, outcome in zip(items, outcomes, strict=True):
            if outcome == "unmatched":
                self._unmatched(item)
            else:
                item.work.outcome = outcome

    async def _work(self, connection: RawConnection, items: Sequence[Item]) -> tuple[list[str], list[Event]]:
        seen = [self._seen(item) for item in items]
        units, fresh = await begin(connection, seen, _bodies(items), self._clock())
        by_attempt = {
            identity: (unit, attempt) for unit in units.values() for identity, attempt in unit.attempts.items()
        }
        by_reference = {attempt.reference: attempt.id for _, attempt in by_attempt.values()}
        outcomes: list[str] = []
        answers: list[Answer] = []
        repeated: list[Unit] = []
        for item, event in zip(items, seen, strict=True):
            attempt_id = item.attempt_id or by_reference.get(item.reference or "")
            found = by_attempt.get(attempt_id) if attempt_id else None
            key = (event.provider, event.dedupe_key or "")
            new = event.dedupe_key is None or key in fresh
            fresh.discard(key)  # the same event twice in one batch: only the first is new
            if item.event.result is None:
                outcomes.append("ignored" if new else "duplicate")
            elif found is None or found[1].provider != item.work.provider:
                outcomes.append("unmatched")
            elif not new:
                outcomes.append("duplicate")
                repeated.append(found[0])
            else:
                outcomes.append("settled")
                answers.append(Answer(found[1].id, item.event.result, Source.WEBHOOK, item.work.origin))
        moved = iter(await self._transactions.apply(connection, units, answers))
        outcomes = [("settled" if next(moved) else "unchanged") if word == "settled" else word for word in outcomes]
        events = [event for unit in units.values() for event in unit.events]
        for unit in repeated:
            events.extend(await self._last_events(unit.transaction.id, unit.base_version, connection))
        return outcomes, events

    async def _last_events(
        self, transaction_id: UUID, version: int, connection: RawConnection | None = None
    ) -> list[Event]:
        """What is told again of a repeat: the worker may have died between commit and publish the first time."""
        return await self._events.of_transaction(transaction_id, after=version - 2, limit=2, connection=connection)

    def _seen(self, item: Item) -> Seen:
        work, event = item.work, item.event
        return Seen(
            provider=work.provider,
            dedupe_key=event.dedupe_key,
            type=event.type,
            message_id=UUID(work.message.id),
            attempt_id=item.attempt_id,
            reference=item.reference,
            news_only=event.result is None,
            received_at=work.received_at,
        )

    async def _confirm(self, items: Sequence[Item]) -> None:
        """Hints that prove nothing: ask the provider. Each one asks, so that a forged hint cannot swallow the real one."""
        if not items:
            return
        async with self._database.raw() as connection:
            await keep(connection, _bodies(items))
        gate = asyncio.Semaphore(ASKED_AT_ONCE)

        async def ask(item: Item) -> None:
            async with gate:
                await self._ask(item)

        for ended in await asyncio.gather(*(ask(item) for item in items), return_exceptions=True):
            if ended is not None:
                raise ended

    async def _ask(self, item: Item) -> None:
        work = item.work
        try:
            found = await self._transactions.repository.find_attempt(item.attempt_id, item.reference)
            if found is None or found[1].provider != work.provider:
                self._unmatched(item)
                return
            transaction, attempt = found
            if attempt.status in MONEY_SEEN and not _adds_receipt(item.event, attempt):
                work.outcome = "duplicate"
                await self._transactions.publish(await self._last_events(transaction.id, transaction.version))
                return
            report = await self._checks.ask(transaction, attempt, origin=work.origin, hint=item.event.result)
        except DatabaseAway:
            raise
        except Exception as error:
            self._postpone(work, error)
            return
        if report.refusal is not None:
            soon = report.refusal is Refusal.TOO_SOON
            work.disposition = Disposition(Ending.RETRY, f"not asked: {report.refusal.value}", overtaken=soon)
            work.outcome = "retried"
            return
        assert report.result is not None
        assert report.unit is not None
        if report.result.verdict in (Verdict.UNKNOWN, Verdict.NOT_FOUND, Verdict.NOT_SENT, Verdict.PROCESSING):
            reason = f"the provider does not confirm it yet: {report.result.verdict.value}"
            work.disposition = Disposition(Ending.RETRY, reason, overtaken=True)
            work.outcome = "retried"
            return
        work.outcome = "settled" if report.unit.events else "unchanged"
        if not report.unit.events:
            unit = report.unit
            await self._transactions.publish(await self._last_events(unit.transaction.id, unit.base_version))

    def _unmatched(self, item: Item) -> None:
        """No attempt of ours: it may have overtaken our commit; if it names nothing of ours it is somebody else's."""
        work = item.work
        names_ours = item.reference is not None or item.attempt_id is not None
        if names_ours or work.message.attempt < len(self._overtaken):
            work.disposition = Disposition(Ending.RETRY, "no such attempt", overtaken=True)
            work.outcome = "retried"
        else:
            work.outcome = "ignored"

    def _postpone(self, work: Work, error: Exception) -> None:
        log.warning(
            "webhook.postponed",
            message_id=work.message.id,
            provider=work.provider,
            error=type(error).__name__,
            exc_info=not isinstance(error, OSError),
        )
        work.disposition = Disposition(Ending.RETRY, reason_of(error))
        work.outcome = "retried"

    def _finish(self, work: Work) -> None:
        if work.disposition.ending is Ending.RETRY:
            work.disposition = self._in_time(work.disposition, work.message.attempt)
        if work.disposition.ending is Ending.DEAD and work.outcome != "malformed":
            work.outcome = "dead_lettered"
        self._metrics.count(work.provider, work.outcome)
        if work.disposition.ending is Ending.DONE:
            self._metrics.lag.observe(max(0.0, (self._clock() - work.received_at).total_seconds()))


def _proves_nothing(event: ProviderEvent) -> bool:
    return event.trust is Trust.CONFIRM and event.result is not None


def _adds_receipt(event: ProviderEvent, attempt: Attempt) -> bool:
    """A query may have won the race and completed the payment without the receipt, which refunds will need."""
    return event.result is not None and event.result.receipt is not None and attempt.receipt is None


def _bodies(items: Sequence[Item]) -> list[Body]:
    """The raw bodies of the messages that these events came in, each once."""
    works = {item.work.message.id: item.work for item in items}
    return [Body(UUID(id_), work.provider, work.message.body, work.received_at) for id_, work in works.items()]


def reason_of(error: Exception) -> str:
    """For the dead letters, which people read: the first line only, since PostgreSQL quotes the whole row after it."""
    first = next(iter(str(error).splitlines()), "")
    return redact_text(f"{type(error).__name__}: {first}"[:300])
