"""What a check of the books found, as a value: it lists what does not agree and never raises for it.

A *break* means that the database holds something which no sequence of moves can lead to: somebody has to look before any
more money goes out. A *warning* is odd and costs nobody anything. `docs/ledger.md` says how to read each of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Break:
    """`id` is that of the row in question (for `trial_balance` the currency, for wallets the user and the currency)."""

    what: str
    id: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Books:
    """One check. Of each kind of break at most a hundred are listed; `breaks_found` counts all."""

    checked_at: datetime
    seconds: float
    entries: int
    breaks_found: int
    breaks: Sequence[Break]
    warnings_found: int
    warnings: Sequence[Break]

    @property
    def clean(self) -> bool:
        return self.breaks_found == 0
