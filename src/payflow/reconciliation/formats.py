"""What providers say they settled: one reader per provider's CSV, each giving the same lines.

    BadFile
    └── a file that is not of its format, or a line of it that cannot be read

- Paystack: the dashboard's export of transactions, or of a payout's transactions (which has no status: all of it is paid).
- Flutterwave: the rows of a settlement as the API names them, or the dashboard's words for them.
- Stripe: the itemized balance and payout reconciliation reports. Their lines are facts, so they have no status.
- M-Pesa: the organisation's statement. Charges are lines of their own under the receipt of what they were charged for. A
  payment that a query completed has no receipt here, and is found by its account.

Amounts are major units in all of them, and become minor units by Decimal. Columns that nobody asked for are left alone.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Never

from payflow.core.money import MAX_MINOR, MoneyError, exponent
from payflow.gateway.contract import Operation, account_of

NAIROBI = timezone(timedelta(hours=3), "EAT")
DELIMITERS = (",", ";", "\t")
PREAMBLE_ROWS = 30  # a statement begins with the organisation's name, its short code and the period
YEARS = range(1970, 9999)  # a day more or less can still be told
AMOUNT = re.compile(r"(?:([A-Z]{3}) ?)?(-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?)")
MOMENTS = ("%d-%m-%Y %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d-%m-%Y %H:%M", "%b %d, %Y %I:%M:%S %p",
           "%b %d, %Y %I:%M %p", "%d-%m-%Y", "%d/%m/%Y", "%b %d, %Y")  # fmt: skip


class BadFile(Exception):
    """The file cannot be read as a settlement file of this provider."""


class LineKind(StrEnum):
    PAYMENT = "payment"
    REFUND = "refund"
    PAYOUT = "payout"
    REVERSAL = "reversal"
    REINSTATEMENT = "reinstatement"
    FEE = "fee"
    OTHER = "other"


class LineStatus(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PENDING = "pending"
    REVERSED = "reversed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SettlementLine:
    """One line. `amount_minor` is never negative but for a fee that was given back; which way money went, `kind` says.

    `key` is what makes the line one and the same in every file. `names` are our reference and the provider's ids, as far as
    they stand there. `fee_minor` is None where the line tells no fee; `fee_rounded` says that it told fractions of a minor unit.
    `account` is what a payer typed, or we asked him to pay to: the end of our reference, if it is ours.
    """

    number: int
    key: str
    kind: LineKind
    status: LineStatus
    raw_status: str
    names: tuple[str, ...]
    amount_minor: int
    currency: str
    fee_minor: int | None
    fee_rounded: bool
    occurred_at: datetime
    account: str = ""


class Row:
    """A row under our names of the columns. BadFile names the line and the column of what cannot be read."""

    def __init__(self, number: int, cells: list[str], places: Mapping[str, int], titles: Mapping[str, str]) -> None:
        self.number = number
        self._cells, self._places, self._titles = cells, places, titles

    def text(self, column: str) -> str:
        place = self._places.get(column)
        found = "" if place is None or place >= len(self._cells) else self._cells[place].strip()
        return self._refuse(column, "holds a NUL") if "\x00" in found else found

    def needed(self, column: str) -> str:
        return self.text(column) or self._refuse(column, "is empty")

    def words(self, *columns: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text for column in columns if (text := self.text(column))))

    def currency(self, column: str = "currency") -> str:
        code = self.needed(column).upper()
        try:
            exponent(code)
        except MoneyError as error:
            self._refuse(column, str(error))
        return code

    def minor(self, column: str, currency: str) -> int:
        exact = self._scaled(column, currency)
        if exact != exact.to_integral_value():
            self._refuse(column, f"{self.text(column)!r} has more decimals than {currency}")
        return int(exact)

    def minor_or_zero(self, column: str, currency: str) -> int:
        return self.minor(column, currency) if self.text(column) else 0

    def fee(self, column: str, currency: str) -> tuple[int | None, bool]:
        """In minor units, and whether it had to be rounded: a share of a payment may be less than a minor unit."""
        if not self.text(column):
            return None, False
        exact = self._scaled(column, currency)
        rounded = exact.to_integral_value(ROUND_HALF_UP)
        return int(rounded), rounded != exact

    def moment(self, column: str, zone: tzinfo) -> datetime:
        text = self.needed(column)
        for read in (datetime.fromisoformat, *map(_by, MOMENTS)):
            try:
                found = read(text)
            except ValueError:
                continue
            if found.year not in YEARS:
                self._refuse(column, "is out of range")
            return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
        return self._refuse(column, f"{text!r} is no date that is known")

    def _scaled(self, column: str, currency: str) -> Decimal:
        text = self.needed(column).replace("\u00a0", " ")
        match = AMOUNT.fullmatch(text)
        if match is None:
            return self._refuse(column, f"{text!r} is no amount such as 1,234.50")
        if match[1] not in (None, currency):
            return self._refuse(column, f"{text!r} is not in {currency}")
        exact = Decimal(match[2].replace(",", "")).scaleb(exponent(currency))
        return exact if abs(exact) <= MAX_MINOR else self._refuse(column, "is too large")

    def _refuse(self, column: str, why: str) -> Never:
        raise BadFile(f"Line {self.number}, column {self._titles[column]!r}: {why}.")


def _by(pattern: str) -> Callable[[str], datetime]:
    return lambda text: datetime.strptime(text, pattern)


@dataclass(frozen=True, slots=True)
class Format:
    """`columns`: for each of ours the provider's titles, the documented one first. `lists`: what the file tells all of, so that
    one of ours is missing if it is not there. `zone`: of moments that name none, and of the file's days."""

    provider: str
    columns: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...]
    lists: frozenset[Operation]
    read: Callable[[Row], SettlementLine]
    zone: tzinfo = UTC

    def places(self, header: list[str]) -> dict[str, int]:
        """Where our columns stand in a header."""
        titles = {_folded(title): place for place, title in reversed(list(enumerate(header)))}
        found = {
            name: next((titles[_folded(title)] for title in known if _folded(title) in titles), None)
            for name, known in self.columns.items()
        }
        return {name: place for name, place in found.items() if place is not None}

    def missing(self, header: list[str]) -> list[str]:
        """The required columns that a header lacks, by the titles their provider gives them."""
        places = self.places(header)
        return [self.columns[name][0] for name in self.required if name not in places]


def _folded(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", title.strip().lower()).strip("_")


def _paystack(row: Row) -> SettlementLine:
    currency = row.currency()
    amount = row.minor("amount", currency)
    raw = row.text("status")
    status = PAYSTACK_STATUSES.get(raw.lower(), LineStatus.UNKNOWN) if raw else LineStatus.SUCCEEDED
    return _collected(row, amount, currency, status, raw, row.words("reference", "id"), UTC)


def _flutterwave(row: Row) -> SettlementLine:
    currency = row.currency()
    amount, raw = row.minor("amount", currency), row.text("status")
    status = FLUTTERWAVE_STATUSES.get(raw.lower(), LineStatus.UNKNOWN)
    return _collected(row, amount, currency, status, raw, row.words("reference", "id", "flw_ref"), UTC)


def _collected(
    row: Row, amount: int, currency: str, status: LineStatus, raw: str, names: tuple[str, ...], zone: tzinfo
) -> SettlementLine:
    """A payment, or where the amount is negative what was given back of it."""
    reference, at = row.needed("reference"), row.moment("date", zone)
    kind = LineKind.REFUND if amount < 0 else LineKind.PAYMENT
    # One payment has one line, but may be given back in several parts.
    key = f"refund:{reference}:{at.isoformat()}:{amount}" if amount < 0 else f"payment:{reference}"
    fee, rounded = row.fee("fee", currency)
    return SettlementLine(row.number, key, kind, status, raw, names, abs(amount), currency, fee, rounded, at)


def _stripe(row: Row) -> SettlementLine:
    currency, category = row.currency(), row.needed("category").lower()
    kind, status = STRIPE_CATEGORIES.get(category, (LineKind.OTHER, LineStatus.SUCCEEDED))
    amount, (fee, rounded) = row.minor("gross", currency), row.fee("fee", currency)
    names = row.words("payment_reference", "refund_reference", "charge", "intent", "source")
    if kind is LineKind.FEE:
        amount, fee, rounded = -amount + (fee or 0), None, False
    elif row.text("shown_currency") and row.text("shown_amount") and row.currency("shown_currency") != currency:
        # The customer paid in another currency than the one that is settled, which is the only one the fee is told in.
        currency = row.currency("shown_currency")
        amount, fee, rounded = abs(row.minor("shown_amount", currency)), None, False
    else:
        amount = abs(amount)
    at = row.moment("date", UTC)
    return SettlementLine(
        row.number, row.needed("key"), kind, status, category, names, amount, currency, fee, rounded, at
    )


def _mpesa(row: Row) -> SettlementLine:
    receipt, raw = row.needed("receipt"), row.text("status")
    paid_in, withdrawn = (abs(row.minor_or_zero(column, "KES")) for column in ("paid_in", "withdrawn"))
    status = MPESA_STATUSES.get(raw.lower(), LineStatus.UNKNOWN)
    kind, reversal = _mpesa_kind(row.text("details").lower(), row.text("reason").lower(), paid_in, withdrawn)
    names = (receipt, *row.words("linked")) if kind is LineKind.REFUND else (receipt,)
    if reversal and status is LineStatus.SUCCEEDED:
        status = LineStatus.REVERSED
    at, amount = row.moment("date", NAIROBI), paid_in or withdrawn
    key = f"{'reversed ' if reversal else ''}{kind}:{receipt}"
    account = account_of(row.text("account")) if kind is LineKind.PAYMENT else None
    return SettlementLine(row.number, key, kind, status, raw, names, amount, "KES", None, False, at, account or "")


def _mpesa_kind(details: str, reason: str, paid_in: int, withdrawn: int) -> tuple[LineKind, bool]:
    """And whether it takes back a payout. A withdrawal of an unknown name counts as a payout: shown rather than overlooked."""
    told = f"{reason} {details}"
    if (not paid_in and not withdrawn) or "organization settlement" in told:
        return LineKind.OTHER, False
    if "reversal" in told or "reversed" in told:
        return (LineKind.PAYOUT, True) if paid_in else (LineKind.REFUND, False)
    if "charge" in reason or (not reason and re.search(r"\bcharges?$", details)):
        return LineKind.FEE, False
    return (LineKind.PAYMENT if paid_in else LineKind.PAYOUT), False


PAYSTACK_STATUSES = {
    "success": LineStatus.SUCCEEDED,
    "successful": LineStatus.SUCCEEDED,
    "failed": LineStatus.FAILED,
    "abandoned": LineStatus.FAILED,
    "reversed": LineStatus.REVERSED,
    "ongoing": LineStatus.PENDING,
    "pending": LineStatus.PENDING,
    "processing": LineStatus.PENDING,
    "queued": LineStatus.PENDING,
}
FLUTTERWAVE_STATUSES = {
    "successful": LineStatus.SUCCEEDED,
    "completed": LineStatus.SUCCEEDED,
    "failed": LineStatus.FAILED,
    "cancelled": LineStatus.FAILED,
    "pending": LineStatus.PENDING,
}
MPESA_STATUSES = {
    "completed": LineStatus.SUCCEEDED,
    "failed": LineStatus.FAILED,
    "cancelled": LineStatus.FAILED,
    "declined": LineStatus.FAILED,
    "expired": LineStatus.FAILED,
    "pending": LineStatus.PENDING,
}
# docs.stripe.com/reports/reporting-categories; every other category moves money that no transaction of ours is about.
STRIPE_CATEGORIES = {
    "charge": (LineKind.PAYMENT, LineStatus.SUCCEEDED),
    "refund": (LineKind.REFUND, LineStatus.SUCCEEDED),
    "refund_failure": (LineKind.REFUND, LineStatus.REVERSED),
    "dispute": (LineKind.REVERSAL, LineStatus.SUCCEEDED),
    "dispute_reversal": (LineKind.REINSTATEMENT, LineStatus.SUCCEEDED),
    "fee": (LineKind.FEE, LineStatus.SUCCEEDED),
}

FORMATS: Mapping[str, Format] = {
    "paystack": Format(
        "paystack",
        {
            "reference": ("Reference", "Reference number", "Transaction reference"),
            "amount": ("Amount", "Amount paid"),
            "currency": ("Currency",),
            "date": ("Transaction date", "Paid at", "Date", "Created at"),
            "status": ("Status", "Transaction status"),
            "fee": ("Paystack fee", "Paystack fees", "Fees", "Fee"),
            "id": ("Transaction ID", "ID"),
        },
        ("reference", "amount", "currency", "date"),
        frozenset({Operation.COLLECT}),
        _paystack,
    ),
    "flutterwave": Format(
        "flutterwave",
        {
            "reference": ("tx_ref", "Transaction reference", "Merchant reference"),
            "amount": ("charged_amount", "Amount charged", "amount"),
            "currency": ("currency",),
            "status": ("status",),
            "date": ("created_at", "transaction_date", "date"),
            "fee": ("app_fee", "Flutterwave fee", "fee"),
            "id": ("id", "transaction_id"),
            "flw_ref": ("flw_ref", "Flutterwave reference"),
        },
        ("reference", "amount", "currency", "status", "date"),
        frozenset({Operation.COLLECT}),
        _flutterwave,
    ),
    "stripe": Format(
        "stripe",
        {
            "key": ("balance_transaction_id",),
            "category": ("reporting_category",),
            "gross": ("gross",),
            "fee": ("fee",),
            "currency": ("currency",),
            "date": ("created_utc", "created"),
            "charge": ("charge_id",),
            "intent": ("payment_intent_id",),
            "source": ("source_id",),
            "shown_amount": ("customer_facing_amount",),
            "shown_currency": ("customer_facing_currency",),
            "payment_reference": ("payment_metadata[reference]",),
            "refund_reference": ("refund_metadata[reference]",),
        },
        ("key", "category", "gross", "fee", "currency", "date"),
        frozenset({Operation.COLLECT, Operation.REFUND}),
        _stripe,
    ),
    "mpesa": Format(
        "mpesa",
        {
            "receipt": ("Receipt No.", "Receipt Number", "Receipt"),
            "date": ("Completion Time",),
            "details": ("Details",),
            "status": ("Transaction Status", "Status"),
            "paid_in": ("Paid In",),
            "withdrawn": ("Withdrawn",),
            "reason": ("Reason Type", "Transaction Type"),
            "linked": ("Linked Transaction ID",),
            "account": ("A/C No.", "A/C No", "Account No."),
        },
        ("receipt", "date", "details", "status", "paid_in", "withdrawn"),
        frozenset({Operation.COLLECT, Operation.REFUND, Operation.PAYOUT}),
        _mpesa,
        NAIROBI,
    ),
}


def format_of(provider: str) -> Format:
    """BadFile for a provider whose files nobody has taught us."""
    if provider not in FORMATS:
        raise BadFile(f"There is no settlement format of {provider!r}. There are: {', '.join(sorted(FORMATS))}.")
    return FORMATS[provider]


def read_file(kind: Format, path: Path) -> Iterator[SettlementLine]:
    """The lines of a file, one at a time. BadFile."""
    try:
        delimiter, header_row = _find_header(kind, path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(islice(rows, header_row, None))
            places = kind.places(header)
            titles = {
                name: header[places[name]].strip() if name in places else known[0]
                for name, known in kind.columns.items()
            }
            for cells in rows:
                if any(cell.strip() for cell in cells):
                    yield kind.read(Row(rows.line_num, cells, places, titles))
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeError:
        raise BadFile(f"{path} is not text in UTF-8. Export it as CSV.") from None
    except csv.Error as error:
        raise BadFile(f"{path} is not CSV: {error}.") from None


def _find_header(kind: Format, path: Path) -> tuple[str, int]:
    """The delimiter, and which row names the columns. BadFile with the columns that the likeliest row lacks."""
    nearest: list[str] | None = None
    for delimiter in DELIMITERS:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(islice(csv.reader(file, delimiter=delimiter), PREAMBLE_ROWS)):
                missing = kind.missing(row)
                if not missing:
                    return delimiter, number
                if any(cell.strip() for cell in row) and (nearest is None or len(missing) < len(nearest)):
                    nearest = missing
    if nearest is None:
        raise BadFile(f"{path} is empty.")
    raise BadFile(f"{path} is not a settlement file of {kind.provider}: it lacks the columns {', '.join(nearest)}.")
