"""The worker's side of a webhook: translate, find the attempt, ask back where the origin proves too little, settle.

A batch of signed events is one database transaction; if it fails, its messages are worked on one by one, so that one bad
message spoils no other. Work is only taken as done (`Verdict.DONE`) after its commit and after its events were published.
Deduplication saves work; what makes a repeat harmless is that `settle` is idempotent.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from payflow.core.clock import Clock
from payflow.core.logging import get_logger, redact_text
from payflow.core.settings import Settings
from payflow.events.repository import EventRepository
from payflow.events.types import Actor, Event, Origin
from payflow.gateway.contract import (
    Operation,
    ProviderEvent,
    ReceivesWebhooks,
    Trust,
    Verdict,
    WebhookMalformed,
    WebhookRequest,
)
from payflow.gateway.registry import Registry
from payflow.gateway.signing import confirmation_id
from payflow.infra.database import Database, DatabaseAway, RawConnection
from payflow.infra.queue.port import Message
from payflow.payments.refunds import RefundService
from payflow.transactions.aggregate import MONEY_SEEN, Attempt, AttemptStatus, Source, Transaction, Unit
from payflow.transactions.checks import Checks, Refusal, Report
from payflow.transactions.lifecycle import ENDED_UNPAID
from payflow.transactions.service import Answer, Transactions
from payflow.webhooks.metrics import WebhookMetrics
from payflow.webhooks.repository import Body, Seen, begin, keep
from payflow.webhooks.unordered import Told, UnorderedPayments

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
    says_nothing: bool = False

    @property
    def unproven(self) -> bool:
        """Whether anybody could have sent it. Where that says nothing of an order of ours, no person has to look at it: it
        would only have made us ask, and the timers ask in any case."""
        return self.attempt_id is None and self.message.headers.get("trust") == Trust.CONFIRM


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
        refunds: RefundService,
        unordered: UnorderedPayments,
        events: EventRepository,
        metrics: WebhookMetrics,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._database = database
        self._registry = registry
        self._transactions = transactions
        self._checks = checks
        self._refunds = refunds
        self._unordered = unordered
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
        unordered: list[Item] = []
        for work in works:
            for item in await self._addressed(work):
                group = unordered if item.event.unordered else asked if _has_to_ask(item) else settled
                group.append(item)
        await self._settle(settled)
        await self._one_by_one(asked, self._ask)
        await self._one_by_one(unordered, self._take_unordered)
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
            work.outcome, work.says_nothing = "malformed", True
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
            work.provider, event.provider_references, event.operation
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
            elif found is None or not _fits(found[1], item):
                outcomes.append("unmatched")
            elif not _proves_itself(found[1], item):
                outcomes.append("ignored")
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
            # What is believed by its URL is no duplicate: brought to another URL first, it would swallow the genuine one.
            dedupe_key=None if event.trust is Trust.CAPABILITY else event.dedupe_key,
            type=event.type,
            message_id=UUID(work.message.id),
            attempt_id=item.attempt_id,
            reference=item.reference,
            news_only=event.result is None,
            received_at=work.received_at,
        )

    async def _one_by_one(self, items: Sequence[Item], action: Callable[[Item], Awaitable[None]]) -> None:
        """What may have to ask a provider, and so is no part of the batch's transaction."""
        if not items:
            return
        async with self._database.raw() as connection:
            await keep(connection, _bodies(items))
        gate = asyncio.Semaphore(ASKED_AT_ONCE)

        async def work(item: Item) -> None:
            async with gate:
                try:
                    await action(item)
                except DatabaseAway:
                    raise
                except Exception as error:
                    self._postpone(item.work, error)

        for ended in await asyncio.gather(*(work(item) for item in items), return_exceptions=True):
            if ended is not None:
                raise ended

    async def _take_unordered(self, item: Item) -> None:
        """Money that a customer sent by hand, if the URL proves that it is the provider who tells of it."""
        work, event = item.work, item.event
        on_its_url = work.attempt_id == confirmation_id(work.provider)
        if event.trust is not Trust.SIGNED and not (event.trust is Trust.CAPABILITY and on_its_url):
            _disbelieved(item, "not on the confirmation URL")
            work.outcome = "ignored"
            return
        attempt = work.message.attempt
        taken = await self._unordered.take(
            Told(
                seen=replace(self._seen(item), dedupe_key=event.dedupe_key),
                event=event,
                origin=work.origin,
                early=attempt < len(self._overtaken),
                last=self._delay(Disposition(Ending.RETRY, overtaken=True), attempt) is None,
            )
        )
        work.outcome = taken.outcome
        if taken.outcome == "retried":
            self._retry(work, taken.reason)
        elif taken.outcome == "dead_lettered":
            work.disposition = Disposition(Ending.DEAD, taken.reason)

    async def _ask(self, item: Item) -> None:
        """A hint that proves nothing: ask the provider. Each one asks, so that a forged hint cannot swallow the real one."""
        work = item.work
        if _names_only_the_payment(item):
            await self._ask_about_refunds(item)
            return
        found = await self._transactions.repository.find_attempt(item.attempt_id, item.reference)
        if found is None or not _fits(found[1], item):
            self._unmatched(item)
            return
        transaction, attempt = found
        if attempt.status in MONEY_SEEN and not _says_more(item.event, attempt):
            work.outcome = "duplicate"
            await self._transactions.publish(await self._last_events(transaction.id, transaction.version))
            return
        report = await self._checks.ask(transaction, attempt, origin=work.origin, hint=item.event.result)
        if report.refusal is Refusal.NEVER_SENT:
            _disbelieved(item, "it was never sent")
            work.outcome = "ignored"
            return
        if report.refusal is not None:
            soon = report.refusal is Refusal.TOO_SOON
            work.disposition = Disposition(Ending.RETRY, f"not asked: {report.refusal.value}", overtaken=soon)
            work.outcome = "retried"
            return
        assert report.result is not None
        assert report.unit is not None
        if report.result.verdict in _NOTHING_YET or _leaves_money_out(item, report):
            self._retry(work, f"the provider does not confirm it yet: {report.result.verdict.value}")
            return
        work.outcome = "settled" if report.unit.events else "unchanged"
        if not report.unit.events:
            unit = report.unit
            await self._transactions.publish(await self._last_events(unit.transaction.id, unit.base_version))

    async def _ask_about_refunds(self, item: Item) -> None:
        """A refund's event that names no refund of ours, only the payment: the provider tells which of them it is, or that
        the refund was made elsewhere (in the provider's own dashboard), which is then taken into the books too."""
        work, event = item.work, item.event
        assert event.result is not None
        found = await self._payment_of(work.provider, event)
        if found is None:
            self._unmatched(item)
            return
        transaction, payment = found
        if await self._needs_no_question(work, transaction, event):
            return
        failed = event.result.verdict in (Verdict.DECLINED, Verdict.REVERSED)
        reports = await self._checks.check_refunds(transaction.id, origin=work.origin, completed_too=failed)
        if any(report.refusal is not None for report in reports):
            self._retry(work, "not asked: too soon")
            return
        if any(report.result is not None and report.result.verdict is event.result.verdict for report in reports):
            work.outcome = "settled" if any(report.unit and report.unit.events for report in reports) else "unchanged"
            return
        told = await self._checks.ask_elsewhere(transaction.id, payment, event.result)
        if told is None:
            self._retry(work, "not asked about a refund made elsewhere")
        elif told.verdict in _UNDER_WAY and told.provider_references:
            adopted = await self._refunds.adopt(transaction.id, payment, told, work.origin)
            if adopted is None:
                self._retry(work, "it may be a refund of ours whose answer is not there yet")
            else:
                work.outcome = "settled" if adopted else "unchanged"
        elif reports:
            self._retry(work, f"the provider does not confirm it yet: {told.verdict.value}")
        else:
            work.outcome = "unchanged"

    async def _needs_no_question(self, work: Work, transaction: Transaction, event: ProviderEvent) -> bool:
        """Of an event that says only that a refund is on its way; then what becomes of it is decided.

        Where the provider has told so itself of every refund it can mean, with their ids, or these have ended since the
        event came, a question would learn nothing, and would keep the one about the end (of this refund or of the next),
        which comes soon after, from being asked in time. Where the event overtook the answer to the order, it waits once
        for that. An event with an id is of a refund that nobody here knows: of such the provider is asked.
        """
        assert event.result is not None
        if (
            event.result.verdict is not Verdict.PROCESSING
            or event.provider_references
            or event.result.requested is None
        ):
            return False
        told = await self._transactions.repository.get(transaction.id, None)
        meant = [
            attempt
            for attempt in (told[1] if told else [])
            if attempt.operation is Operation.REFUND
            and attempt.amount == event.result.requested
            and (attempt.status in _NO_END_YET or (attempt.updated_at or attempt.created_at) >= work.received_at)
        ]
        if meant and all(
            each.provider_references and each.status not in (AttemptStatus.CREATED, AttemptStatus.UNKNOWN)
            for each in meant
        ):
            work.outcome = "unchanged"
            return True
        if work.message.attempt == 0 and any(each.status is AttemptStatus.CREATED for each in meant):
            self._retry(work, "the answer to the order is not there yet")
            return True
        return False

    async def _payment_of(self, provider: str, event: ProviderEvent) -> tuple[Transaction, Attempt] | None:
        """The payment that a refund's event names, by our reference or an id of the provider."""
        repository = self._transactions.repository
        for reference in event.payment_references:
            if OUR_REFERENCE.match(reference):
                found = await repository.find_attempt(None, reference)
                ours = found is not None and found[1].provider == provider
                # A transfer's number may be that of somebody's payment, whose refunds are none of ours.
                return found if found and ours and found[1].operation is Operation.COLLECT else None
        known = await repository.attempts_by_provider_reference(provider, event.payment_references)
        return await repository.find_attempt(known[0][0], None) if known else None

    def _retry(self, work: Work, reason: str) -> None:
        work.disposition = Disposition(Ending.RETRY, reason, overtaken=True)
        work.outcome = "retried"

    def _unmatched(self, item: Item) -> None:
        """No attempt of ours: it may have overtaken our commit; if it names nothing of ours it is somebody else's."""
        work = item.work
        names_ours = item.reference is not None or item.attempt_id is not None
        if names_ours or work.message.attempt < len(self._overtaken):
            self._retry(work, "no such attempt")
            work.says_nothing = True
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
        if work.disposition.ending is Ending.DEAD and work.says_nothing and work.unproven:
            log.info(
                "webhook.ignored", message_id=work.message.id, provider=work.provider, reason=work.disposition.reason
            )
            work.disposition, work.outcome = Disposition(), "ignored"
        if work.disposition.ending is Ending.DEAD and work.outcome != "malformed":
            work.outcome = "dead_lettered"
        self._metrics.count(work.provider, work.outcome)
        if work.disposition.ending is Ending.DONE:
            self._metrics.lag.observe(max(0.0, (self._clock() - work.received_at).total_seconds()))


_NO_END_YET = frozenset(
    {AttemptStatus.CREATED, AttemptStatus.UNKNOWN, AttemptStatus.PROCESSING, AttemptStatus.REQUIRES_ACTION}
)
_NOTHING_YET = frozenset({Verdict.UNKNOWN, Verdict.NOT_FOUND, Verdict.NOT_SENT, Verdict.PROCESSING})
_UNDER_WAY = frozenset({Verdict.COMPLETED, Verdict.PROCESSING, Verdict.REQUIRES_ACTION})
_TAKEN_BACK = frozenset({Verdict.REVERSED, Verdict.DISPUTED, Verdict.DISPUTE_WON})


def _has_to_ask(item: Item) -> bool:
    """Whether only the provider's own answer can be settled: the event proves nothing, or does not name its refund.

    A collection can be asked about, so the token of its URL alone is never enough: else a body of another shape (M-Pesa's C2B
    confirmation at the URL of a prompt) would be believed where the prompt's own callback is not.
    """
    trust, told = item.event.trust, item.event.result is not None
    own_url = item.event.operation is Operation.COLLECT and item.work.attempt_id is not None
    proves_nothing = trust is Trust.CONFIRM or (trust is Trust.CAPABILITY and own_url)
    return (told and proves_nothing) or _names_only_the_payment(item)


def _names_only_the_payment(item: Item) -> bool:
    event = item.event
    unnamed = item.attempt_id is None and item.reference is None
    return (
        event.operation is Operation.REFUND and unnamed and event.result is not None and bool(event.payment_references)
    )


def _fits(attempt: Attempt, item: Item) -> bool:
    """What is told of a refund never settles a payment, whatever reference it names.

    A hint that came to an attempt's own URL may be mistaken there (C-Pay tells a payout as it tells a payment): it only
    makes us ask, and about what the attempt is.
    """
    own_hint = item.event.trust is Trust.CONFIRM and item.work.attempt_id is not None
    agrees = own_hint or attempt.operation is item.event.operation
    return attempt.provider == item.work.provider and agrees


def _proves_itself(attempt: Attempt, item: Item) -> bool:
    """What is believed by its URL must have come on one of ours, and speak of that attempt wherever it can be told.

    A result of another order, brought to this one's URL, would otherwise decide it."""
    event = item.event
    if event.trust is not Trust.CAPABILITY:
        return True
    known = set(attempt.provider_references)
    if item.work.attempt_id is None:
        _disbelieved(item, "no token")
    elif known & set(event.provider_references) or attempt.reference in event.references:
        return True
    elif known or event.references:
        _disbelieved(item, "it speaks of another order")
    else:
        return True  # the order's answer was lost: the token alone knows
    return False


def _disbelieved(item: Item, reason: str) -> None:
    work = item.work
    log.warning(
        "webhook.not_believed", message_id=work.message.id, provider=work.provider, type=item.event.type, reason=reason
    )


def _leaves_money_out(item: Item, report: Report) -> bool:
    """Whether a payment is told as paid, on its own URL, and the answer says otherwise of one that has ended: nobody else
    would ask about it again, since the timer looks after the open ones only. In the end the dead letter is looked at."""
    told, unit, attempt_id = item.event.result, report.unit, item.work.attempt_id
    if told is None or told.verdict is not Verdict.COMPLETED or unit is None or attempt_id is None:
        return False
    return unit.transaction.status in ENDED_UNPAID and unit.attempts[attempt_id].status not in MONEY_SEEN


def _says_more(event: ProviderEvent, attempt: Attempt) -> bool:
    """Whether a hint tells something of money that has been seen: that it went back, or its receipt. Money out (a refund,
    a transfer, a purchase) goes back when it fails late."""
    if event.result is not None and event.result.verdict in _TAKEN_BACK:
        return True
    out = attempt.operation is not Operation.COLLECT
    late = out and event.result is not None and event.result.verdict is Verdict.DECLINED
    return late or _adds_receipt(event, attempt)


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
