"""The lifecycle of a transaction, as data: from which status to which, and by whom. The database holds the same table.

    pending ─► requires_action ⇄ processing ─► completed ─► partially_refunded ⇄ refunded, reversed
       └────────────┴────────────────┴──────► failed · cancelled · expired     (a late success leads to completed)
                     any of them ─► under_review ─► a person decides

`provider` is an answer or a webhook, `timer` our own clock, `user` the owner, `operator` an admin with a reason.
"""

from collections.abc import Mapping
from enum import StrEnum


class Kind(StrEnum):
    PAYMENT = "payment"
    FUNDING = "funding"
    WITHDRAWAL = "withdrawal"
    AIRTIME = "airtime"


class Status(StrEnum):
    PENDING = "pending"
    REQUIRES_ACTION = "requires_action"
    PROCESSING = "processing"
    UNDER_REVIEW = "under_review"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"
    REVERSED = "reversed"


class Cause(StrEnum):
    PROVIDER = "provider"
    TIMER = "timer"
    USER = "user"
    OPERATOR = "operator"


OPEN = frozenset({Status.PENDING, Status.REQUIRES_ACTION, Status.PROCESSING})
"""The statuses that the timer looks after: each has a `next_check_at` and an end."""

ENDED_UNPAID = frozenset({Status.FAILED, Status.CANCELLED, Status.EXPIRED})

_P = frozenset({Cause.PROVIDER})
_PT = frozenset({Cause.PROVIDER, Cause.TIMER})
_PU = frozenset({Cause.PROVIDER, Cause.USER})
_O = frozenset({Cause.OPERATOR})
_PO = frozenset({Cause.PROVIDER, Cause.OPERATOR})

Table = Mapping[Status, Mapping[Status, frozenset[Cause]]]

_LATE_SUCCESS: Mapping[Status, frozenset[Cause]] = {Status.COMPLETED: _P, Status.UNDER_REVIEW: _P}

COLLECTION: Table = {
    Status.PENDING: {
        Status.REQUIRES_ACTION: _P,
        Status.PROCESSING: _PT,
        Status.COMPLETED: _P,
        Status.FAILED: _PT,
        Status.CANCELLED: _PU,
        Status.EXPIRED: _PT,
        Status.UNDER_REVIEW: _PT,
    },
    Status.REQUIRES_ACTION: {
        Status.PROCESSING: _P,
        Status.COMPLETED: _P,
        Status.FAILED: _P,
        Status.CANCELLED: _PU,
        Status.EXPIRED: _PT,
        Status.UNDER_REVIEW: _PT,
    },
    Status.PROCESSING: {
        Status.REQUIRES_ACTION: _P,
        Status.COMPLETED: _P,
        Status.FAILED: _P,
        Status.CANCELLED: _P,
        Status.EXPIRED: _PT,
        Status.UNDER_REVIEW: _PT,
    },
    Status.UNDER_REVIEW: {
        Status.COMPLETED: _O,
        Status.FAILED: _O,
        Status.REFUNDED: _O,
        Status.REVERSED: _PO,
    },
    Status.COMPLETED: {
        Status.PARTIALLY_REFUNDED: _P,
        Status.REFUNDED: _P,
        Status.REVERSED: _P,
        Status.UNDER_REVIEW: _P,
    },
    Status.FAILED: _LATE_SUCCESS,
    Status.CANCELLED: _LATE_SUCCESS,
    Status.EXPIRED: _LATE_SUCCESS,
    Status.PARTIALLY_REFUNDED: {Status.REFUNDED: _P, Status.REVERSED: _P, Status.COMPLETED: _P},
    Status.REFUNDED: {Status.PARTIALLY_REFUNDED: _P, Status.REVERSED: _P, Status.COMPLETED: _P},
    Status.REVERSED: {Status.COMPLETED: _P},
}

# Money out never expires, and is never completed after it failed: a late success is for a person to look at.
MONEY_OUT: Table = {
    Status.PENDING: {
        Status.REQUIRES_ACTION: _P,
        Status.PROCESSING: _PT,
        Status.COMPLETED: _P,
        Status.FAILED: _P,
        Status.CANCELLED: frozenset({Cause.PROVIDER, Cause.USER, Cause.OPERATOR}),
        Status.UNDER_REVIEW: _PT,
    },
    Status.REQUIRES_ACTION: {
        Status.PROCESSING: _P,
        Status.COMPLETED: _P,
        Status.FAILED: _P,
        Status.CANCELLED: _P,
        Status.UNDER_REVIEW: _PT,
    },
    Status.PROCESSING: {
        Status.REQUIRES_ACTION: _P,
        Status.COMPLETED: _P,
        Status.FAILED: _P,
        Status.CANCELLED: _P,
        Status.UNDER_REVIEW: _PT,
    },
    Status.UNDER_REVIEW: {Status.COMPLETED: _O, Status.FAILED: _O, Status.REVERSED: _PO},
    Status.COMPLETED: {Status.REVERSED: _P, Status.UNDER_REVIEW: _P},
    Status.FAILED: {Status.UNDER_REVIEW: _P},
    Status.CANCELLED: {Status.UNDER_REVIEW: _P},
    Status.REVERSED: {Status.UNDER_REVIEW: _P},
}

LIFECYCLE: Mapping[Kind, Table] = {
    Kind.PAYMENT: COLLECTION,
    Kind.FUNDING: COLLECTION,
    Kind.WITHDRAWAL: MONEY_OUT,
    Kind.AIRTIME: MONEY_OUT,
}


def allowed(kind: Kind, before: Status, after: Status, cause: Cause) -> bool:
    """Whether this kind of transaction may move so, for this cause."""
    return cause in LIFECYCLE[kind].get(before, {}).get(after, frozenset())


def transition_rows() -> list[tuple[str, str, str, str]]:
    """Every permitted move as (kind, from, to, cause): the rows of the `transitions` table."""
    return sorted(
        (kind.value, before.value, after.value, cause.value)
        for kind, table in LIFECYCLE.items()
        for before, targets in table.items()
        for after, causes in targets.items()
        for cause in causes
    )
