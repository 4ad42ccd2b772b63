"""Double entry: a journal is a set of lines that sum to zero per currency. Debits are positive, credits negative.

provider_clearing:<provider>   what the provider owes us (debit when a customer paid)
sales                          what we owe a merchant for payments (credit), per user
wallet                         a customer wallet (funding), per user
provider_fees                  what the provider kept
suspense                       money that a person must look at, per user
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID, uuid5

from payflow.core.money import Money

_NAMESPACE = UUID("0d9c8d0e-6c0f-5b5c-9a35-5d6f1b7a9c11")


@lru_cache(maxsize=8_192)
def account_id(code: str, user_id: UUID | None, currency: str) -> UUID:
    """An account's id follows from what it is, so that no read is needed to post to it."""
    return uuid5(_NAMESPACE, f"{code}|{user_id or ''}|{currency}")


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
    attempt_id: UUID, transaction_id: UUID, user_id: UUID, provider: str, paid: Money, *, account: str
) -> Journal:
    """The provider took the money back."""
    return Journal(
        "reversed",
        "attempt",
        attempt_id,
        transaction_id,
        [
            Line(account, user_id, paid.currency, paid.minor),
            Line(f"provider_clearing:{provider}", None, paid.currency, -paid.minor),
        ],
    )


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
