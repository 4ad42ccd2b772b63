"""Our side of a reconciliation: payments, refunds and withdrawals as rows, posted as the core posts them; and the files that a
provider would export of them."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from payflow.core.clock import utc_now
from payflow.core.ids import new_reference, uuid7
from payflow.core.money import Money, format_minor
from payflow.core.settings import Settings
from payflow.events.repository import EventRepository
from payflow.infra.database import Database
from payflow.ledger import journals
from payflow.ledger.journals import Hold, Journal
from payflow.ledger.repository import INSERT_ENTRIES, INSERT_JOURNALS, Accounts, add_hold, parameters
from payflow.reconciliation.repository import BATCH, ReconciliationRepository
from payflow.reconciliation.service import Difference, ReconciliationService, Summary, Window

NOW = utc_now() + timedelta(hours=1)  # what the files say; no test lasts so long
OUTWARD = {"withdrawal": "payout", "airtime": "purchase"}


@dataclass(frozen=True)
class Paid:
    """One attempt of ours."""

    transaction_id: UUID
    attempt_id: UUID
    reference: str
    ids: tuple[str, ...]
    receipt: str | None
    amount: Money
    fee: int | None


class Books:
    """`window` is from now on: what stood in the database before is not missed in any file."""

    def __init__(self, database: Database, user_id: UUID, margin_seconds: int = 0, batch: int = BATCH) -> None:
        self.database, self.user_id = database, user_id
        self.window = Window(utc_now(), NOW + timedelta(days=1))
        settings = Settings(_env_file=None, reconciliation_margin_seconds=margin_seconds)
        repository = ReconciliationRepository(database, EventRepository(database), batch)
        self.service = ReconciliationService(repository, utc_now, settings)

    async def rows(self, query: str, *arguments: Any) -> list[dict[str, Any]]:
        async with self.database.raw() as raw:
            return [dict(row) for row in await raw.fetch(query, *arguments)]

    async def post(self, raw: Any, *posted: Journal) -> None:
        await Accounts().open(raw, posted)
        headers, entries = parameters(posted)
        await raw.execute(INSERT_JOURNALS, *headers)
        await raw.execute(INSERT_ENTRIES, *entries)

    async def payment(
        self,
        provider: str,
        amount: Money,
        *,
        fee: int | None = None,
        ids: tuple[str, ...] = (),
        receipt: str | None = None,
        status: str = "succeeded",
        kind: str = "payment",
        post: bool = True,
    ) -> Paid:
        """A payment that came (or with another `status`, did not)."""
        paid = Paid(uuid7(), uuid7(), new_reference("att"), ids, receipt, amount, fee)
        async with self.database.transaction() as raw:
            await self._open(raw, paid, provider, kind, "collect", status)
            if status == "succeeded":
                await self._complete(raw, paid)
            if status == "succeeded" and post:
                money = Money(fee, amount.currency) if fee else None
                about = (paid.attempt_id, paid.transaction_id, self.user_id, provider, amount, money)
                await self.post(raw, journals.collected(*about, account="wallet" if kind == "funding" else "sales"))
        return paid

    async def refund(
        self, of: Paid, provider: str, amount: Money, *, ids: tuple[str, ...] = (), receipt: str | None = None
    ) -> Paid:
        refund = Paid(of.transaction_id, uuid7(), new_reference("att"), ids, receipt, amount, None)
        refund_id = uuid7()
        async with self.database.transaction() as raw:
            number = await raw.fetchval(
                "SELECT max(number) + 1 FROM attempts WHERE transaction_id = $1", of.transaction_id
            )
            await self._attempt(raw, refund, provider, "refund", "succeeded", number)
            await raw.execute(
                "INSERT INTO refunds (id, transaction_id, user_id, attempt_id, payment_attempt_id, reference, status,"
                " amount_minor, currency) VALUES ($1, $2, $3, $4, $8, $5, 'completed', $6, $7)",
                refund_id,
                of.transaction_id,
                self.user_id,
                refund.attempt_id,
                new_reference("ref"),
                amount.minor,
                amount.currency,
                of.attempt_id,
            )
            about = ("refunded", refund_id, of.transaction_id, self.user_id, provider, amount)
            await self.post(raw, journals.refund(*about, account="sales"))
        return refund

    async def withdrawal(self, provider: str, amount: Money, *, receipt: str, fee: int | None = None) -> Paid:
        await self.payment("moniepoint", amount, kind="funding")
        paid = Paid(uuid7(), uuid7(), new_reference("att"), (), receipt, amount, fee)
        hold = Hold(uuid7(), self.user_id, paid.transaction_id, "transaction", paid.transaction_id, amount)
        async with self.database.transaction() as raw:
            await self._open(raw, paid, provider, "withdrawal", "payout", "succeeded")
            await add_hold(raw, hold)
            kept = Money(fee, amount.currency) if fee else None
            await self.post(raw, journals.held(hold), journals.captured(hold, provider, kept))
            await raw.execute("UPDATE holds SET status = 'captured', ended_at = now() WHERE id = $1", hold.id)
            await self._complete(raw, paid)
        return paid

    async def reverse(self, paid: Paid, provider: str) -> None:
        """The provider took it back."""
        async with self.database.transaction() as raw:
            await raw.execute("UPDATE attempts SET status = 'reversed' WHERE id = $1", paid.attempt_id)
            await raw.execute(
                "UPDATE transactions SET status = 'reversed', version = version + 1, last_cause = 'provider' WHERE id = $1",
                paid.transaction_id,
            )
            about = (paid.attempt_id, paid.transaction_id, self.user_id, provider, paid.amount)
            await self.post(raw, journals.reversed_collection(*about, account="sales"))

    async def _open(self, raw: Any, paid: Paid, provider: str, kind: str, operation: str, status: str) -> None:
        await raw.execute(
            "INSERT INTO transactions (id, user_id, kind, reference, status, version, amount_minor, currency, provider,"
            " next_check_at) VALUES ($1, $2, $3, $4, 'pending', 1, $5, $6, $7, now())",
            paid.transaction_id,
            self.user_id,
            kind,
            new_reference("pay"),
            paid.amount.minor,
            paid.amount.currency,
            provider,
        )
        await self._attempt(raw, paid, provider, operation, status, 1)

    async def _attempt(self, raw: Any, paid: Paid, provider: str, operation: str, status: str, number: int) -> None:
        await raw.execute(
            "INSERT INTO attempts (id, transaction_id, user_id, number, operation, provider, reference,"
            " provider_references, receipt, status, amount_minor, currency, fee_minor)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            paid.attempt_id,
            paid.transaction_id,
            self.user_id,
            number,
            operation,
            provider,
            paid.reference,
            list(paid.ids),
            paid.receipt,
            status,
            paid.amount.minor,
            paid.amount.currency,
            paid.fee,
        )

    async def _complete(self, raw: Any, paid: Paid) -> None:
        await raw.execute(
            "UPDATE attempts SET paid_minor = amount_minor, paid_currency = currency WHERE id = $1", paid.attempt_id
        )
        await raw.execute(
            "UPDATE transactions SET status = 'completed', version = 2, last_cause = 'provider', paid_minor = amount_minor"
            " WHERE id = $1",
            paid.transaction_id,
        )

    async def reconcile(
        self, provider: str, path: Path, window: Window | None = None
    ) -> tuple[Summary, list[tuple[str, int | None, str, str]]]:
        """The summary, and each difference as (kind, line, ours, theirs)."""
        summary, found = await self.differences(provider, path, window)
        return summary, [(each.kind.value, each.line, each.ours, each.theirs) for each in found]

    async def differences(
        self, provider: str, path: Path, window: Window | None = None
    ) -> tuple[Summary, list[Difference]]:
        async with self.service.reconcile(provider, path, window or self.window) as (summary, found):
            differences = [difference async for difference in found]
        return summary, differences

    async def ledger(self) -> Mapping[tuple[str, str], int]:
        """Every balance that is not zero, by account and currency."""
        rows = await self.rows(
            "SELECT a.code, a.currency, sum(e.amount_minor)::bigint AS minor FROM ledger_entries e"
            " JOIN ledger_accounts a ON a.id = e.account_id GROUP BY 1, 2"
        )
        return {(row["code"], row["currency"]): row["minor"] for row in rows if row["minor"]}


Fields = Mapping[str, Any]


def at(moment: datetime = NOW) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def major(amount: Money) -> str:
    return format_minor(amount.minor, amount.currency)


def paystack_line(paid: Paid, **changes: Any) -> Fields:
    fee = "" if paid.fee is None else format_minor(paid.fee, paid.amount.currency)
    line = {
        "Reference": paid.reference,
        "Amount": major(paid.amount),
        "Currency": paid.amount.currency,
        "Status": "success",
        "Transaction date": at(),
        "Paystack fee": fee,
        "Transaction ID": paid.ids[0] if paid.ids else "",
        "Customer email": "ada@example.com",
    }
    return {**line, **changes}


def flutterwave_line(paid: Paid, **changes: Any) -> Fields:
    line = {
        "id": paid.ids[0] if paid.ids else "",
        "tx_ref": paid.reference,
        "flw_ref": paid.receipt or "",
        "amount": major(paid.amount),
        "charged_amount": major(paid.amount),
        "app_fee": "" if paid.fee is None else format_minor(paid.fee, paid.amount.currency),
        "currency": paid.amount.currency,
        "status": "successful",
        "created_at": at(),
    }
    return {**line, **changes}


def stripe_line(paid: Paid, category: str = "charge", sign: int = 1, **changes: Any) -> Fields:
    named = paid.ids or ("",)
    fee = paid.fee or 0
    line = {
        "balance_transaction_id": f"txn_{paid.attempt_id.hex}_{category}",
        "created_utc": at().replace("T", " ").rstrip("Z"),
        "reporting_category": category,
        "gross": format_minor(sign * paid.amount.minor, paid.amount.currency),
        "fee": format_minor(fee, paid.amount.currency),
        "net": format_minor(sign * paid.amount.minor - fee, paid.amount.currency),
        "currency": paid.amount.currency.lower(),
        "source_id": named[-1],
        "charge_id": named[-1] if named[-1].startswith("ch_") else "",
        "payment_intent_id": named[0] if named[0].startswith("pi_") else "",
        "automatic_payout_id": "po_1TestPayout",
    }
    return {**line, **changes}


def mpesa_line(paid: Paid, **changes: Any) -> Fields:
    line = {
        "Receipt No.": paid.receipt,
        "Completion Time": NOW.astimezone(ZoneInfo("Africa/Nairobi")).strftime("%d-%m-%Y %H:%M:%S"),
        "Details": "Pay Bill Online from 254708374149 - Wanjiru Test",
        "Transaction Status": "Completed",
        "Paid In": f"{paid.amount.minor / 100:,.2f}",
        "Withdrawn": "",
        "Balance": "0.00",
    }
    return {**line, **changes}


LINES = {"paystack": paystack_line, "flutterwave": flutterwave_line, "stripe": stripe_line, "mpesa": mpesa_line}


def csv_text(lines: Sequence[Fields], delimiter: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def written(path: Path, lines: Sequence[Fields]) -> Path:
    path.write_text(csv_text(lines), encoding="utf-8")
    return path
