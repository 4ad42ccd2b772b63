"""Money on its way out of a wallet: what becomes of its hold follows from what becomes of its transaction. Pure.

A hold ends in one of two ways, and only by a definite end of what it was set aside for: captured when the money went, released
when it certainly did not. While nobody knows, it stays held.
"""

from datetime import datetime

from payflow.core.money import Money
from payflow.events.types import Origin
from payflow.ledger import journals
from payflow.ledger.journals import Hold, HoldStatus
from payflow.transactions.aggregate import Attempt, Unit
from payflow.transactions.lifecycle import Cause, Status
from payflow.transactions.move import move

NOT_SENT = frozenset({Status.FAILED, Status.CANCELLED})


def set_aside(unit: Unit, hold: Hold, cause: Cause, origin: Origin, now: datetime) -> None:
    """Hold an amount of the owner's wallet, whose row the caller has locked and found to have enough."""
    unit.holds[hold.source_id] = hold
    unit.new_holds.append(hold)
    unit.journals.append(journals.held(hold))
    _tell(unit, "held", hold.amount, cause, origin, now)


def follow(unit: Unit, before: Status, attempt: Attempt, cause: Cause, origin: Origin, now: datetime) -> None:
    """After a transaction of money out moved from `before`: end its hold as it ended, or give back what returned."""
    hold, status = unit.holds.get(unit.transaction.id), unit.transaction.status
    if hold is None or status is before:
        return
    if hold.status is not HoldStatus.CAPTURED and not hold.gone and status is Status.COMPLETED:
        fee = None if attempt.fee_minor is None else Money(attempt.fee_minor, hold.amount.currency)
        capture(unit, hold, attempt.provider, fee, cause, origin, now)
    elif hold.status is HoldStatus.HELD and (status in NOT_SENT or status is Status.REVERSED):
        release(unit, hold, cause, origin, now)
    elif hold.gone and (status in NOT_SENT or status is Status.REVERSED):
        give_back(unit, hold, attempt.provider, cause, origin, now)


def capture(
    unit: Unit, hold: Hold, provider: str, fee: Money | None, cause: Cause, origin: Origin, now: datetime
) -> None:
    if hold.status is HoldStatus.RELEASED:
        _capture_late(unit, hold, provider, fee, cause, origin, now)
        return
    _end(unit, hold, HoldStatus.CAPTURED, now)
    hold.gone = True
    unit.journals.append(journals.captured(hold, provider, fee))
    _tell(unit, "debited", hold.amount, cause, origin, now)


def _capture_late(
    unit: Unit, hold: Hold, provider: str, fee: Money | None, cause: Cause, origin: Origin, now: datetime
) -> None:
    """A person found that it went, though it had been taken for failed: the owner may have spent the money since."""
    lacking = max(0, hold.amount.minor - max(0, unit.available or 0))
    hold.gone = True
    unit.journals.append(journals.captured_after_release(hold, provider, fee, lacking=lacking))
    unit.debts[hold.id] = lacking
    _tell_part(unit, "debited", hold, lacking, cause, origin, now)
    if lacking:
        frozen(unit, "sent_after_release", origin, now)


def release(unit: Unit, hold: Hold, cause: Cause, origin: Origin, now: datetime) -> None:
    _end(unit, hold, HoldStatus.RELEASED, now)
    unit.journals.append(journals.released_hold(hold))
    _tell(unit, "released", hold.amount, cause, origin, now)


def give_back(unit: Unit, hold: Hold, provider: str, cause: Cause, origin: Origin, now: datetime) -> None:
    """What was captured came back, once: to the wallet, but for what that had lacked."""
    hold.gone, owed = False, unit.debts.pop(hold.id, 0)
    unit.journals.append(journals.payout_returned(hold, provider, owed=owed))
    _tell_part(unit, "credited", hold, owed, cause, origin, now)


def approved(unit: Unit, reason: str, origin: Origin, now: datetime) -> None:
    """Somebody who did not ask for it let it go; its provider is asked next."""
    move(unit, None, event="approved", cause=Cause.OPERATOR, origin=origin, now=now, data={"reason": reason})


def credited(unit: Unit, amount: Money, origin: Origin, now: datetime) -> None:
    """A funding came, or one that had been taken back came again."""
    _tell(unit, "credited", amount, Cause.PROVIDER, origin, now)


def debited(unit: Unit, amount: Money, origin: Origin, now: datetime) -> None:
    """A funding was taken back: nobody could hold its money before."""
    _tell(unit, "debited", amount, Cause.PROVIDER, origin, now)


def frozen(unit: Unit, reason: str, origin: Origin, now: datetime) -> None:
    """The wallet lacked what was taken back: nothing goes out of it until somebody has looked."""
    unit.freeze = reason
    _tell(unit, "frozen", None, Cause.PROVIDER, origin, now)


def _end(unit: Unit, hold: Hold, status: HoldStatus, now: datetime) -> None:
    hold.status, hold.ended_at = status, now
    unit.ended_holds.append(hold)


def _tell_part(unit: Unit, word: str, hold: Hold, owed: int, cause: Cause, origin: Origin, now: datetime) -> None:
    """Of a hold, what the wallet itself paid or got."""
    if hold.amount.minor > owed:
        _tell(unit, word, Money(hold.amount.minor - owed, hold.amount.currency), cause, origin, now)


def _tell(unit: Unit, word: str, amount: Money | None, cause: Cause, origin: Origin, now: datetime) -> None:
    data = {} if amount is None else {"wallet_amount": amount.decimal_text(), "wallet_amount_minor": amount.minor}
    move(unit, None, event=f"wallet.{word}", cause=cause, origin=origin, now=now, data=data)
