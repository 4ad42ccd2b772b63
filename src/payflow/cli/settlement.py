"""`payflow reconcile`: what it asks of the services, and what it says."""

import contextlib
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

import typer

from payflow.bootstrap import Services
from payflow.core.money import format_minor
from payflow.reconciliation.formats import BadFile, format_of
from payflow.reconciliation.report import totals, write_report
from payflow.reconciliation.service import RepairKind, Window

CLEAN, DIFFERENT, BAD_FILE = 0, 1, 2


class Form(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class FileFirst(typer.core.TyperGroup):
    """`payflow reconcile paystack FILE` is `payflow reconcile file paystack FILE`: what is no command is a provider."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["file", *args]
        return super().parse_args(ctx, args)


async def reconcile(
    services: Services, provider: str, path: Path, since: str, until: str, form: Form, output: Path | None
) -> int:
    """The exit code."""
    try:
        zone = format_of(provider).zone
        window = Window(_moment(since, zone), _moment(until, zone, whole_day=True))
        if window.since and window.until and window.since >= window.until:
            raise BadFile(f"From {since} to {until} there is no time: nothing would be compared.")
        reconciled = services.reconciliation.reconcile(provider, path, window, _progress)
        async with reconciled as (summary, found):
            with _opened(output) as out:
                await write_report(form, out, summary, found)
    except BadFile as error:
        print(f"payflow: {error}", file=sys.stderr)
        return BAD_FILE
    if form is not Form.TABLE or output is not None:
        print("\n".join(totals(summary)), file=sys.stderr)
    return CLEAN if summary.clean else DIFFERENT


async def repair(
    services: Services, provider: str, path: Path, line: int, kind: RepairKind, reason: str, email: str
) -> int:
    """The exit code."""
    admin = await services.identity.admin(email)
    try:
        done = await services.reconciliation.repair(provider, path, line, kind, reason, admin.id)
    except BadFile as error:
        print(f"payflow: {error}", file=sys.stderr)
        return BAD_FILE
    if done.new:
        amount = format_minor(done.amount_minor, done.currency)
        print(f"Posted journal {done.journal_id}: {kind.value} of {amount} {done.currency}.")
    else:
        print(f"Line {line} was repaired before, by journal {done.journal_id}. Nothing was posted.")
    return CLEAN


def _progress(lines: int) -> None:
    print(f"{lines} lines read", file=sys.stderr, flush=True)


def _moment(text: str, zone: tzinfo, *, whole_day: bool = False) -> datetime | None:
    """A day or a time; the end of the time that is compared includes the day that it names. BadFile."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
        return moment + timedelta(days=1) if whole_day and _names_a_day(text) else moment
    except (ValueError, OverflowError):
        raise BadFile(f"{text!r} is no date such as 2026-11-21 or 2026-11-21T10:00:00Z.") from None


def _names_a_day(text: str) -> bool:
    """Also as 20261121: taken for its first moment, it would leave the day out without a word."""
    try:
        return bool(date.fromisoformat(text))
    except ValueError:
        return False


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears when it is whole. BadFile."""
    if output is None:
        yield sys.stdout
        return
    part = output.with_name(output.name + ".part")
    try:
        file = part.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise BadFile(f"{output} cannot be written: {error.strerror}.") from None
    try:
        with file:
            yield file
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
