"""Money out of a wallet, for whoever starts it (withdrawals, airtime): hold first, then the provider, then its answer.

`open` is A: in the caller's database transaction it locks the wallet, sees that it has enough, and writes transaction,
attempt, hold, journal and events down. The provider is asked after the commit. `Transactions.record_outcome` is B, as for a
payment: what the answer means also ends the hold, or leaves it where nobody knows.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from payflow.core.errors import Conflict
from payflow.core.ids import uuid7
from payflow.core.money import Money
from payflow.events.types import Event, Origin
from payflow.infra.database import RawConnection
from payflow.ledger import repository as ledger
from payflow.ledger.journals import Hold
from payflow.ledger.repository import Accounts, Wallet
from payflow.transactions import repository as sql
from payflow.transactions.aggregate import Attempt, Transaction, Unit
from payflow.transactions.holds import set_aside
from payflow.transactions.lifecycle import Cause
from payflow.transactions.move import EVENT_PREFIX, summary


class InsufficientFunds(Conflict):
    """The wallet does not hold this much."""

    code = "insufficient_funds"


def usable(wallet: Wallet | None) -> Wallet:
    """The wallet, if money may leave it. Conflict `wallet_frozen`, `wallet_inactive`; InsufficientFunds without a wallet."""
    if wallet is None:
        raise InsufficientFunds
    if wallet.status == "frozen":
        raise Conflict("The wallet is frozen. Please contact support.", code="wallet_frozen")
    if wallet.status == "inactive":
        raise Conflict("The wallet is switched off. Switch it on first.", code="wallet_inactive")
    return wallet


async def open_outgoing(
    connection: RawConnection,
    accounts: Accounts,
    transaction: Transaction,
    attempt: Attempt,
    origin: Origin,
    now: datetime,
    extra: dict[str, Any] | None = None,
) -> tuple[Unit, Sequence[Event]]:
    """A. The unit for B, and the events to publish after the commit. Conflict (see `usable`), InsufficientFunds."""
    amount = transaction.amount
    wallet = usable(await ledger.lock_wallet(connection, transaction.user_id, amount.currency))
    if wallet.available_minor < amount.minor:
        raise InsufficientFunds(
            f"The wallet has {Money(wallet.available_minor, amount.currency).decimal_text()} {amount.currency} available.",
            extra={"available_minor": wallet.available_minor},
        )
    initiated = Event(
        id=uuid7(),
        type=f"{EVENT_PREFIX[transaction.kind]}.initiated",
        created_at=now,
        user_id=transaction.user_id,
        transaction_id=transaction.id,
        sequence=1,
        status=transaction.status.value,
        data={**summary(transaction), **(extra or {})},
        origin=origin,
    )
    await sql.add_intent(connection, transaction, attempt, initiated)
    unit = Unit.of(transaction, [attempt])
    unit.told.append(initiated)
    hold = Hold(uuid7(), transaction.user_id, transaction.id, "transaction", transaction.id, amount)
    set_aside(unit, hold, Cause.USER, origin, now)
    await sql.save(connection, [unit], accounts)
    return replace(Unit.of(transaction, [attempt]), holds={transaction.id: hold}), [*unit.told, *unit.events]
