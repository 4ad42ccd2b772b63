"""Double entry: a journal is a set of lines that sum to zero per currency. Debits are positive, credits negative.

provider_clearing:<provider>   what the provider owes us (debit when a customer paid)
sales                          what we owe a merchant for payments (credit), per user
wallet                         what of a wallet can be spent (credit), per user
wallet_held                    what of a wallet is on its way out and not yet gone (credit), per user
receivable                     what a user owes us: money taken back that the wallet no longer held (debit), per user
provider_fees                  what the provider kept
suspense                       money that a person must look at, per user

Only wallets keep a balance in a row (`wallets`, by a trigger over the entries); every other balance is a sum of entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from uuid import UUID, uuid5

from payflow.core.money import Money

_NAMESPACE = UUID("0d9c8d0e-6c0f-5b5c-9a35-5d6f1b7a9c11")


@lru_cache(maxsize=8_192)
def account_id(code: str, user_id: UUID | None, currency: str) -> UUID:
    """An account's id follows from what it is, so that no read is needed to post to it."""
    return uuid5(_NAMESPACE, f"{code}|{user_id or ''}|{currency}")


class HoldStatus(StrEnum):
    HELD = "held"
    CAPTURED = "captured"
    RELEASED = "released"


@dataclass(slots=True)
class Hold:
    """Money of a wallet that is on its way out, for a transaction or for the refund of a funding. It ends once."""

    id: UUID
    user_id: UUID
    transaction_id: UUID
    source_type: str  # `transaction` or `refund`
    source_id: UUID
    amount: Money
    status: HoldStatus = HoldStatus.HELD
    ended_at: datetime | None = None
    gone: bool = False  # posted as sent, and not as come back; also of a hold that had been released before


@dataclass(slots=True)
class Reversals:
    """How often an attempt was taken back and given again, and the lines, added up, of what is taken at present; and how often
    the sum that came was corrected."""

    taken: int = 0
    given_again: int = 0
    lines: "list[Line]" = field(default_factory=list)
    corrected: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """`amount_minor` > 0 debits, < 0 credits the account."""

    code: str
    user_id: UUID | None
    currency: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Journal:
    """Posted once: (source_type, source_id, kind) is unique in the database."""

    kind: str
    source_type: str
    source_id: UUID
    transaction_id: UUID | None
    lines: Sequence[Line]

    def __post_init__(self) -> None:
        sums: dict[str, int] = {}
        for line in self.lines:
            sums[line.currency] = sums.get(line.currency, 0) + line.amount_minor
        if not self.lines or any(sums.values()):
            raise ValueError(f"journal {self.kind} does not balance: {sums}")


def collected(
    attempt_id: UUID,
    transaction_id: UUID,
    user_id: UUID,
    provider: str,
    paid: Money,
    fee: Money | None,
    *,
    account: str,
) -> Journal:
    """A customer paid: the provider owes us `paid` less its fee; the owner's `account` (sales or wallet) is credited."""
    lines = [Line(f"provider_clearing:{provider}", None, paid.currency, paid.minor)]
    if fee is not None and fee.minor > 0 and fee.currency == paid.currency and fee.minor < paid.minor:
        lines[0] = Line(f"provider_clearing:{provider}", None, paid.currency, paid.minor - fee.minor)
        lines.append(Line("provider_fees", user_id, paid.currency, fee.minor))
    lines.append(Line(account, user_id, paid.currency, -paid.minor))
    return Journal("collected", "attempt", attempt_id, transaction_id, lines)


def suspended(attempt_id: UUID, transaction_id: UUID, user_id: UUID, provider: str, paid: Money) -> Journal:
    """Money came that cannot be given to anybody yet: another amount or currency, or a second payment."""
    return Journal(
        "suspended",
        "attempt",
        attempt_id,
        transaction_id,
        [
            Line(f"provider_clearing:{provider}", None, paid.currency, paid.minor),
            Line("suspense", user_id, paid.currency, -paid.minor),
        ],
    )


def corrected(
    attempt_id: UUID,
    transaction_id: UUID,
    user_id: UUID,
    provider: str,
    more: int,
    currency: str,
    *,
    account: str,
    times: int = 0,
) -> Journal:
    """Another sum came than was told at first: `more` minor units (less, if negative) beside what was posted before."""
    return Journal(
        _repeated("corrected", times),
        "attempt",
        attempt_id,
        transaction_id,
        [Line(f"provider_clearing:{provider}", None, currency, more), Line(account, user_id, currency, -more)],
    )


def released(attempt_id: UUID, transaction_id: UUID, user_id: UUID, paid: Money, *, account: str) -> Journal:
    """A person decided that suspended money belongs to the owner."""
    return Journal(
        "released",
        "attempt",
        attempt_id,
        transaction_id,
        [Line("suspense", user_id, paid.currency, paid.minor), Line(account, user_id, paid.currency, -paid.minor)],
    )


def reversed_collection(
    attempt_id: UUID,
    transaction_id: UUID,
    user_id: UUID,
    provider: str,
    paid: Money,
    *,
    account: str,
    times: int = 0,
    lacking: int = 0,
) -> Journal:
    """The provider took the money back; `times` it did so before, and gave it again. `lacking` minor units are no longer in
    the account: the user owes them."""
    lines = [
        Line(account, user_id, paid.currency, paid.minor - lacking),
        Line("receivable", user_id, paid.currency, lacking),
        Line(f"provider_clearing:{provider}", None, paid.currency, -paid.minor),
    ]
    return Journal(
        _repeated("reversed", times),
        "attempt",
        attempt_id,
        transaction_id,
        [line for line in lines if line.amount_minor],
    )


def refund(
    kind: str,
    refund_id: UUID,
    transaction_id: UUID,
    user_id: UUID,
    provider: str,
    amount: Money,
    *,
    account: str,
    lacking: int = 0,
) -> Journal:
    """`refunded`: the provider gave `amount` back to the customer. `refund_failed`: it came back after all. `lacking` minor
    units are (were) no longer in the account: the user owes them, or does so no more."""
    sign = 1 if kind == "refunded" else -1
    lines = [
        Line(account, user_id, amount.currency, sign * (amount.minor - lacking)),
        Line("receivable", user_id, amount.currency, sign * lacking),
        Line(f"provider_clearing:{provider}", None, amount.currency, -sign * amount.minor),
    ]
    return Journal(kind, "refund", refund_id, transaction_id, [line for line in lines if line.amount_minor])


def reinstated(attempt_id: UUID, transaction_id: UUID, taken: Sequence[Line], times: int = 0) -> Journal:
    """A dispute was won: what the provider had taken back (`taken`, the lines of that) is given again where it came from, so
    that a debt which began with it ends with it."""
    lines = [Line(line.code, line.user_id, line.currency, -line.amount_minor) for line in taken]
    return Journal(_repeated("reinstated", times), "attempt", attempt_id, transaction_id, lines)


def returned(attempt_id: UUID, transaction_id: UUID, user_id: UUID, provider: str, paid: Money) -> Journal:
    """A person decided that suspended money goes back to who paid it."""
    return Journal(
        "returned",
        "attempt",
        attempt_id,
        transaction_id,
        [
            Line("suspense", user_id, paid.currency, paid.minor),
            Line(f"provider_clearing:{provider}", None, paid.currency, -paid.minor),
        ],
    )


def held(hold: Hold) -> Journal:
    """Money is set aside before it is sent."""
    return _of_hold("held", hold, "wallet", "wallet_held")


def released_hold(hold: Hold) -> Journal:
    """It was not sent, for certain: the owner can spend it again."""
    return _of_hold("released", hold, "wallet_held", "wallet")


def captured(hold: Hold, provider: str, fee: Money | None = None) -> Journal:
    """It was sent: the provider no longer owes it to us, nor `fee`, which it kept for that."""
    clearing = f"provider_clearing:{provider}"
    kept = fee.minor if fee is not None and fee.currency == hold.amount.currency and fee.minor > 0 else 0
    lines = [
        Line("wallet_held", hold.user_id, hold.amount.currency, hold.amount.minor),
        Line(clearing, None, hold.amount.currency, -hold.amount.minor - kept),
    ]
    if kept:
        lines.append(Line("provider_fees", hold.user_id, hold.amount.currency, kept))
    return Journal("captured", "hold", hold.id, hold.transaction_id, lines)


def captured_after_release(hold: Hold, provider: str, fee: Money | None = None, *, lacking: int = 0) -> Journal:
    """It went after all, though its hold had been released: the wallet pays, and what that lacks the user owes."""
    amount, sent = hold.amount, captured(hold, provider, fee)
    lines = [
        Line("wallet", hold.user_id, amount.currency, amount.minor - lacking),
        Line("receivable", hold.user_id, amount.currency, lacking),
        *sent.lines[1:],
    ]
    return replace(sent, lines=[line for line in lines if line.amount_minor])


def payout_returned(hold: Hold, provider: str, *, owed: int = 0) -> Journal:
    """What had been sent came back. `owed` minor units of it the wallet had lacked: that debt ends."""
    amount = hold.amount
    lines = [
        Line(f"provider_clearing:{provider}", None, amount.currency, amount.minor),
        Line("receivable", hold.user_id, amount.currency, -owed),
        Line("wallet", hold.user_id, amount.currency, owed - amount.minor),
    ]
    return Journal("returned", "hold", hold.id, hold.transaction_id, [line for line in lines if line.amount_minor])


def missing_fee(
    line_id: UUID, provider: str, user_id: UUID, transaction_id: UUID | None, amount: int, currency: str
) -> Journal:
    """A settlement file shows that the provider kept `amount` minor units more than we had posted (less, if negative)."""
    return Journal(
        "fee",
        "repair",
        line_id,
        transaction_id,
        [
            Line("provider_fees", user_id, currency, amount),
            Line(f"provider_clearing:{provider}", None, currency, -amount),
        ],
    )


def unexplained(line_id: UUID, provider: str, user_id: UUID, amount: int, fee: int, currency: str) -> Journal:
    """A settlement file shows money that nobody here knows of: `amount` came (went, if negative), `fee` of it was kept. It
    waits in the suspense of the user who posts it."""
    lines = [
        Line(f"provider_clearing:{provider}", None, currency, amount - fee),
        Line("provider_fees", user_id, currency, fee),
        Line("suspense", user_id, currency, -amount),
    ]
    return Journal("suspense", "repair", line_id, None, [line for line in lines if line.amount_minor])


def explained(line_id: UUID, lines: Sequence[Line]) -> Journal:
    """What `unexplained` or `missing_fee` posted for a line by itself is posted for its transaction after all: taken back."""
    return Journal(
        "release", "repair", line_id, None, [replace(line, amount_minor=-line.amount_minor) for line in lines]
    )


def _repeated(kind: str, times: int) -> str:
    """The same kind once more, since (source, kind) is posted once: `reversed`, `reversed_again`, `reversed_3`."""
    return kind if times == 0 else f"{kind}_again" if times == 1 else f"{kind}_{times + 1}"


def _of_hold(kind: str, hold: Hold, debit: str, credit: str) -> Journal:
    amount = hold.amount
    return Journal(
        kind,
        "hold",
        hold.id,
        hold.transaction_id,
        [
            Line(debit, hold.user_id, amount.currency, amount.minor),
            Line(credit, hold.user_id, amount.currency, -amount.minor),
        ],
    )
