"""Reconciliation: a provider's settlement file against our transactions and ledger, and repairs of what differs.

A line is about one of our attempts by our reference, else by the provider's id or receipt. What differs is told, and nothing
is ever changed: a repair posts one more journal, with the reason that a person gives.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from uuid import UUID, uuid5

from payflow.core.clock import Clock
from payflow.core.errors import Conflict, NotFound
from payflow.core.ids import uuid7
from payflow.core.money import format_minor
from payflow.core.settings import Settings
from payflow.events.types import Actor, Event, Origin
from payflow.ledger import journals
from payflow.reconciliation.formats import (
    BadFile,
    Format,
    LineKind,
    LineStatus,
    SettlementLine,
    format_of,
    read_file,
)
from payflow.reconciliation.repository import ComparedLine, Lines, ReconciliationRepository, Repair, Unlisted

_NAMESPACE = UUID("5b1f0a36-6d0b-5a5e-8a53-0f3d3b6d7f21")
PAID = ("succeeded", "under_review", "reversed")
TAKEN_BACK = ("reversed", "refunded", "partially_refunded", "under_review")
OUTWARD = (LineKind.REFUND, LineKind.PAYOUT, LineKind.REVERSAL)


class DifferenceKind(StrEnum):
    MISSING_HERE = "missing_here"
    MISSING_THERE = "missing_there"
    AMOUNT = "amount"
    FEE = "fee"
    CURRENCY = "currency"
    STATUS = "status"
    DUPLICATE = "duplicate"


class RepairKind(StrEnum):
    FEE = "fee"
    SUSPENSE = "suspense"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Difference:
    """`ours` and `theirs` are what differs, as text. `line` is None for what the file does not tell, `reference` our attempt's
    where we know of it, `provider_reference` the line's first name."""

    kind: DifferenceKind
    about: str
    line: int | None
    reference: str | None
    provider_reference: str | None
    transaction_id: UUID | None
    ours: str
    theirs: str
    occurred_at: datetime


@dataclass(slots=True)
class Summary:
    """What was compared. Grows while the differences are read, and is whole after the last one."""

    provider: str
    file: str
    since: datetime
    until: datetime
    lines: int = 0
    agreed: int = 0
    repaired: int = 0
    outside: int = 0
    not_ours: Counter[str] = field(default_factory=Counter)
    differences: Counter[DifferenceKind] = field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        return not self.differences.total()


@dataclass(frozen=True, slots=True)
class Window:
    """Times as an operator gives them: `until` is not in it. None: as the file has it."""

    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Repaired:
    journal_id: UUID
    new: bool
    amount_minor: int
    currency: str


class ReconciliationService:
    def __init__(self, repository: ReconciliationRepository, clock: Clock, settings: Settings) -> None:
        self._repository, self._clock = repository, clock
        self._margin = timedelta(seconds=settings.reconciliation_margin_seconds)

    @asynccontextmanager
    async def reconcile(
        self, provider: str, path: Path, window: Window, progress: Callable[[int], None] = lambda lines: None
    ) -> AsyncIterator[tuple[Summary, AsyncIterator[Difference]]]:
        """Read the whole file, then give the differences one by one. BadFile before the first of them."""
        kind = format_of(provider)
        async with self._repository.lines(provider) as lines:
            summary = await self._load(lines, kind, path, window, progress)
            yield summary, self._differences(lines, kind, summary)

    async def repair(
        self, provider: str, path: Path, line: int, repair: RepairKind, reason: str, admin_id: UUID
    ) -> Repaired:
        """Post what a line of the file shows to be missing: `fee` what the provider kept beyond what was posted, `suspense`
        money that nobody here knows of, `release` takes back what was posted for the line before it became known. The same
        line again finds its journal. NotFound, Conflict, BadFile."""
        if not reason.strip():
            raise Conflict("A repair needs its reason.", code="reason_missing")
        async with self._repository.lines(provider) as lines:
            await self._load(lines, format_of(provider), path, Window(), lambda read: None, quiet=True)
            found = [compared async for compared in lines.compared(line)]
        if not found:
            raise NotFound(f"Line {line} of {path} is about no money that is compared.")
        return await self._post(provider, found[0], repair, reason.strip(), admin_id)

    async def _post(
        self, provider: str, line: ComparedLine, repair: RepairKind, reason: str, admin_id: UUID
    ) -> Repaired:
        known_charge = repair is RepairKind.FEE and line.kind == LineKind.FEE and line.attempt_id is not None
        if known_charge and await self._repository.repair_of(provider, line.key, RepairKind.RELEASE) is not None:
            # What was posted for the charge alone, and taken back, is no repair of what it is about.
            line = replace(line, key=f"{line.key}:known")
        known = await self._repository.repair_of(provider, line.key, repair)
        amount = _amount_of(line, repair)
        if known is not None:
            return Repaired(known, False, amount, line.currency)
        if line.repeated:
            raise Conflict(f"Line {line.number} stands in the file twice. Repair the other.", code="duplicate_line")
        wrong = {difference.kind for difference in differences(line)}
        if repair is RepairKind.FEE and DifferenceKind.FEE not in wrong:
            raise Conflict(f"Line {line.number} has no difference of fees.", code="nothing_to_repair")
        if repair is RepairKind.SUSPENSE and (DifferenceKind.MISSING_HERE not in wrong or line.attempt_id is not None):
            raise Conflict(f"The money of line {line.number} is not missing here.", code="nothing_to_repair")
        if repair is RepairKind.RELEASE and DifferenceKind.DUPLICATE not in wrong:
            raise Conflict(f"Nothing was posted twice for line {line.number}.", code="nothing_to_repair")
        alone = await self._repository.posted_for(provider, line.key) if repair is RepairKind.RELEASE else []
        written = _repair(provider, line, repair, reason, admin_id, alone)
        event = self._event(written, amount, line.currency)
        journal_id = await self._repository.post(written, event, line.posted_fee_minor)
        if journal_id is not None:
            return Repaired(journal_id, True, amount, line.currency)
        known = await self._repository.repair_of(provider, line.key, repair)
        if known is None:
            raise Conflict("The ledger changed meanwhile. Reconcile again.", code="ledger_changed")
        return Repaired(known, False, amount, line.currency)

    def _event(self, repair: Repair, amount: int, currency: str) -> Event:
        """`user_id` is who repaired it."""
        data = {
            "provider": repair.provider,
            "kind": repair.journal.kind,
            "line": repair.line_key,
            "source_id": str(repair.journal.source_id),
            "transaction_id": str(repair.journal.transaction_id) if repair.journal.transaction_id else None,
            "amount": format_minor(amount, currency),
            "amount_minor": amount,
            "currency": currency,
            "reason": repair.reason,
        }
        now, origin = self._clock(), Origin(Actor.USER)
        return Event(uuid7(), "books.repaired", now, user_id=repair.repaired_by, data=data, origin=origin)

    async def _load(
        self,
        lines: Lines,
        kind: Format,
        path: Path,
        window: Window,
        progress: Callable[[int], None],
        *,
        quiet: bool = False,
    ) -> Summary:
        """The file into the table of lines. `quiet`: a file without lines is no error."""
        first: datetime | None = None
        last: datetime | None = None
        summary = Summary(kind.provider, path.name, self._clock(), self._clock())
        batch: list[SettlementLine] = []
        for line in read_file(kind, path):
            summary.lines += 1
            if summary.lines % 10_000 == 0:
                progress(summary.lines)
            first = line.occurred_at if first is None else min(first, line.occurred_at)
            last = line.occurred_at if last is None else max(last, line.occurred_at)
            if _outside(line.occurred_at, window):
                summary.outside += 1
            elif line.kind is LineKind.OTHER:
                summary.not_ours[line.raw_status or "other"] += 1
            else:
                batch.append(line)
            if len(batch) >= lines.batch:
                await lines.add(batch)
                batch = []
        if batch:
            await lines.add(batch)
        await lines.settle()
        since = window.since or (first and _day(first, kind))
        until = window.until or (last and _day(last, kind) + timedelta(days=1))
        if (since is None or until is None) and not quiet:
            raise BadFile(f"{path} has no lines. With --from and --to it is taken as complete for that time.")
        summary.since, summary.until = since or summary.since, until or summary.until
        return summary

    async def _differences(self, lines: Lines, kind: Format, summary: Summary) -> AsyncIterator[Difference]:
        async for line in lines.compared():
            found = list(differences(line))
            summary.repaired += line.repaired_minor is not None and not found
            summary.agreed += not found
            for difference in found:
                summary.differences[difference.kind] += 1
                yield difference
        # What came about at the very edge may lie in the neighbouring file.
        since, until = summary.since + self._margin, summary.until - self._margin
        if since >= until:
            return
        async for ours in lines.unlisted(since, until, kind.lists):
            summary.differences[DifferenceKind.MISSING_THERE] += 1
            yield _missing_there(ours)


def _outside(moment: datetime, window: Window) -> bool:
    return bool((window.since and moment < window.since) or (window.until and moment >= window.until))


def _day(moment: datetime, kind: Format) -> datetime:
    """The beginning of its day where the file was made: files are asked for by days."""
    return moment.astimezone(kind.zone).replace(hour=0, minute=0, second=0, microsecond=0)


def differences(line: ComparedLine) -> Iterator[Difference]:
    """What is wrong with one line, beside what we have."""
    if line.repeated:
        yield _difference(DifferenceKind.DUPLICATE, line, "once", "again")
    elif line.kind == LineKind.FEE:
        yield from _charge(line)
    elif line.attempt_id is None:
        if line.repaired_minor is not None:
            yield from _repair_differs(line, RepairKind.SUSPENSE)
        elif line.status not in (LineStatus.FAILED, LineStatus.PENDING) and (line.amount_minor or line.fee_minor):
            yield _difference(DifferenceKind.MISSING_HERE, line, "", _money(line.amount_minor, line.currency))
    else:
        yield from _attempt_differs(line)


def _attempt_differs(line: ComparedLine) -> Iterator[Difference]:
    if line.repaired_minor is not None:
        yield _twice(line)
    if not _same_status(line):
        yield _difference(DifferenceKind.STATUS, line, _our_status(line), line.raw_status or line.status)
    elif line.status in (LineStatus.SUCCEEDED, LineStatus.REVERSED) and line.kind in (
        LineKind.PAYMENT,
        LineKind.REFUND,
        LineKind.PAYOUT,
    ):
        yield from _money_differs(line)


def _twice(line: ComparedLine) -> Difference:
    """It became known after somebody had posted a repair for it: what it is about is in the ledger, or will be, beside that."""
    return _difference(DifferenceKind.DUPLICATE, line, "posted, and repaired", "once")


def _charge(line: ComparedLine) -> Iterator[Difference]:
    """A fee in a line of its own."""
    if line.attempt_id is not None and line.repaired_minor is not None:
        yield _twice(line)
    if line.status in (LineStatus.FAILED, LineStatus.PENDING) or line.told_above:
        return
    if line.attempt_id is not None:
        yield from _fee_differs(line)
    elif line.repaired_minor is not None:
        yield from _repair_differs(line, RepairKind.FEE)
    else:
        yield _difference(DifferenceKind.FEE, line, "", _money(line.amount_minor, line.currency))


def _repair_differs(line: ComparedLine, repair: RepairKind) -> Iterator[Difference]:
    """Of a line whose repair posted something else than what it tells now."""
    now = _amount_of(line, repair)
    if line.repaired_minor is not None and (line.repaired_minor, line.repaired_currency) != (now, line.currency):
        ours = _money(line.repaired_minor, line.repaired_currency or "")
        yield _difference(DifferenceKind.AMOUNT, line, ours, _money(now, line.currency))


def _same_status(line: ComparedLine) -> bool:
    paid = line.attempt_status in PAID
    if line.kind == LineKind.REVERSAL:
        return line.taken_back or line.transaction_status in TAKEN_BACK
    if line.kind == LineKind.REINSTATEMENT:
        return line.transaction_status != "reversed"
    if line.status == LineStatus.SUCCEEDED:
        return paid and (line.kind != LineKind.PAYOUT or line.attempt_status != "under_review")
    if line.status == LineStatus.REVERSED:
        given_up = line.kind == LineKind.REFUND and line.attempt_status == "declined"
        return given_up or line.attempt_status == "reversed" or line.transaction_status in TAKEN_BACK
    return line.status in (LineStatus.FAILED, LineStatus.PENDING) and not paid


def _our_status(line: ComparedLine) -> str:
    told = line.transaction_status if line.kind in (LineKind.REVERSAL, LineKind.REINSTATEMENT) else line.attempt_status
    return told or ""


def _money_differs(line: ComparedLine) -> Iterator[Difference]:
    if line.posted_minor is None:
        if line.status == LineStatus.SUCCEEDED:
            theirs = _money(line.amount_minor, line.currency)
            yield _difference(DifferenceKind.MISSING_HERE, line, "not in the ledger", theirs)
    elif line.posted_currency != line.currency:
        ours = _money(line.posted_minor, line.posted_currency or "")
        yield _difference(DifferenceKind.CURRENCY, line, ours, _money(line.amount_minor, line.currency))
    else:
        if line.posted_minor != line.amount_minor:
            ours = _money(line.posted_minor, line.currency)
            yield _difference(DifferenceKind.AMOUNT, line, ours, _money(line.amount_minor, line.currency))
        yield from _fee_differs(line)


def _fee_differs(line: ComparedLine) -> Iterator[Difference]:
    """A fee that the line does not tell is not compared; a rounded one may have been rounded the other way."""
    if line.fee_minor is None:
        return
    off = abs(line.fee_minor - (line.posted_fee_minor or 0))
    if off > (1 if line.fee_rounded else 0):
        ours = _money(line.posted_fee_minor or 0, line.currency)
        yield _difference(DifferenceKind.FEE, line, ours, _money(line.fee_minor, line.currency))


def _difference(kind: DifferenceKind, line: ComparedLine, ours: str, theirs: str) -> Difference:
    return Difference(
        kind,
        line.kind,
        line.number,
        line.reference,
        line.names[0] if line.names else line.key,
        line.transaction_id,
        ours,
        theirs,
        line.occurred_at,
    )


def _missing_there(ours: Unlisted) -> Difference:
    about = {"collect": LineKind.PAYMENT, "refund": LineKind.REFUND}.get(ours.operation, LineKind.PAYOUT)
    return Difference(
        DifferenceKind.MISSING_THERE,
        about,
        None,
        ours.reference,
        None,
        ours.transaction_id,
        _money(ours.posted_minor, ours.posted_currency),
        "",
        ours.created_at,
    )


def _money(minor: int, currency: str) -> str:
    return f"{format_minor(minor, currency)} {currency}"


def _amount_of(line: ComparedLine, repair: RepairKind) -> int:
    """Minor units that a repair is about: the fee that lacks, what came (went, if negative), or what is taken back of that."""
    if repair is RepairKind.RELEASE:
        return -(line.repaired_minor or 0)
    if repair is RepairKind.SUSPENSE:
        out = line.kind in OUTWARD and line.status != LineStatus.REVERSED  # a refund or a payout that came back came
        return -line.amount_minor if out else line.amount_minor
    if line.attempt_id is None:
        return line.amount_minor
    return (line.fee_minor or 0) - (line.posted_fee_minor or 0)


def _repair(
    provider: str, line: ComparedLine, repair: RepairKind, reason: str, admin_id: UUID, alone: Sequence[journals.Line]
) -> Repair:
    source_id = uuid5(_NAMESPACE, f"{provider}|{line.key}")
    amount = _amount_of(line, repair)
    if repair is RepairKind.RELEASE:
        return Repair(journals.explained(source_id, alone), provider, line.key, None, reason, admin_id)
    if repair is RepairKind.FEE:
        owner = line.user_id or admin_id
        journal = journals.missing_fee(source_id, provider, owner, line.transaction_id, amount, line.currency)
    else:
        fee = line.fee_minor or 0
        journal = journals.unexplained(source_id, provider, admin_id, amount, fee, line.currency)
    return Repair(journal, provider, line.key, line.attempt_id, reason, admin_id)
