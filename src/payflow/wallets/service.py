"""A user's view of the ledger: what the wallets hold, what came and went, and whether money may leave.

A wallet is active, inactive (switched off by its owner) or frozen (by us). Nothing leaves one that is not active. Money
still comes into one that is inactive: its owner only said that nothing shall go out. A frozen one takes no new funding;
what was under way before is credited all the same, since money that came is never turned away.
"""

import csv
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from io import StringIO
from typing import Any
from uuid import UUID

from payflow.core.clock import Clock, rfc3339
from payflow.core.errors import Conflict, NotFound
from payflow.core.ids import uuid7
from payflow.core.money import format_minor
from payflow.events.publisher import EventPublisher
from payflow.events.repository import EventRepository
from payflow.events.types import Event, Origin
from payflow.idempotency.repository import KeyScope
from payflow.infra.database import Database, RawConnection
from payflow.ledger import repository as ledger
from payflow.ledger.repository import Wallet
from payflow.payments.schemas import InitializePayment
from payflow.payments.service import PaymentService
from payflow.transactions.lifecycle import Kind
from payflow.transactions.replies import Reply
from payflow.wallets.repository import StatementLine, StatementQuery, WalletRepository

CSV_COLUMNS = (
    "entry_id",
    "time",
    "type",
    "amount",
    "balance",
    "currency",
    "transaction_kind",
    "reference",
    "provider",
    "description",
)
# What a spreadsheet would take for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

# What an entry is to its owner, by what it was posted for.
ENTRY_TYPES = {
    ("attempt", "collected"): "funding",
    ("attempt", "released"): "funding",
    ("attempt", "corrected"): "funding",
    ("attempt", "reversed"): "chargeback",
    ("attempt", "reinstated"): "chargeback_won",
    ("refund", "refunded"): "refund",
    ("refund", "refund_failed"): "refund_returned",
    ("hold", "held"): "hold",
    ("hold", "released"): "hold_released",
    ("hold", "captured"): "sent_late",
    ("hold", "returned"): "returned",
}
_TIMES = re.compile(r"_(again|[0-9]+)$")  # what was taken back, and given again, once more


class WalletFrozen(Conflict):
    """The wallet is frozen. Please contact support."""

    code = "wallet_frozen"


class WalletService:
    def __init__(
        self,
        database: Database,
        payments: PaymentService,
        events: EventRepository,
        publisher: EventPublisher,
        clock: Clock,
        *,
        default_currency: str,
        csv_rows: int = 5_000,
    ) -> None:
        self._database = database
        self._repository = WalletRepository(database)
        self._payments = payments
        self._events = events
        self._publisher = publisher
        self._clock = clock
        self.default_currency = default_currency
        self.csv_rows = csv_rows

    async def of_user(self, user_id: UUID) -> dict[str, Any]:
        return {"data": [wallet_json(wallet) for wallet in await self._repository.of_user(user_id)]}

    # -- the statement ----------------------------------------------------------------------------------------------------

    async def statement(self, query: StatementQuery) -> tuple[list[dict[str, Any]], bool]:
        """A page of entries, newest first, and whether more follow. NotFound without a wallet in this currency."""
        await self._own(query)
        found = await self._repository.statement(replace(query, limit=query.limit + 1))
        shown = found[: query.limit]
        return [entry_json(line, query.currency) for line in shown], len(found) > query.limit

    async def statement_csv(self, query: StatementQuery) -> AsyncIterator[bytes]:
        """The whole period, a part at a time: no connection waits for a slow reader. NotFound."""
        await self._own(query)
        return self._csv(replace(query, limit=self.csv_rows, offset=0))

    async def _csv(self, query: StatementQuery) -> AsyncIterator[bytes]:
        yield _csv_text([CSV_COLUMNS])
        while True:
            found = await self._repository.statement(query)
            if found:
                yield _csv_text([_csv_row(line, query.currency) for line in found])
            if len(found) < query.limit:
                return
            # Each part starts from the balance that the last one ended with, or a long file would sum ever more. An entry
            # that is committed late has an id among the newest: writers wait for the wallet's row, one at a time.
            last = found[-1]
            query = replace(query, before=last.id, known=(last.id, last.balance_minor))

    async def _own(self, query: StatementQuery) -> None:
        if await self._repository.get(query.user_id, query.currency) is None:
            raise _no_wallet()

    # -- its status -------------------------------------------------------------------------------------------------------

    async def toggle(self, user_id: UUID, currency: str, active: bool, origin: Origin) -> dict[str, Any]:
        """The owner switches it on or off. NotFound; WalletFrozen."""

        async def work(connection: RawConnection) -> tuple[Wallet, list[Event]]:
            wallet = await _locked(connection, user_id, currency)
            if wallet.status == "frozen":
                raise WalletFrozen("A frozen wallet cannot be switched on or off. Please contact support.")
            status = "active" if active else "inactive"
            return await self._set(connection, wallet, status, None, f"wallet.{status}", {}, origin)

        return await self._told(*await self._database.in_transaction(work))

    async def freeze(
        self, user_id: UUID, currency: str, frozen: bool, reason: str, by: UUID, origin: Origin
    ) -> dict[str, Any]:
        """An administrator's decision; a wallet that thaws is active. The same again changes nothing. NotFound."""

        async def work(connection: RawConnection) -> tuple[Wallet, list[Event]]:
            wallet = await _locked(connection, user_id, currency)
            if (wallet.status == "frozen") == frozen:
                return wallet, []
            status, word = ("frozen", "frozen") if frozen else ("active", "unfrozen")
            about = {"reason": reason, "by": str(by)}
            return await self._set(
                connection, wallet, status, reason if frozen else None, f"wallet.{word}", about, origin
            )

        return await self._told(*await self._database.in_transaction(work))

    async def _set(
        self,
        connection: RawConnection,
        wallet: Wallet,
        status: str,
        reason: str | None,
        type: str,
        about: dict[str, Any],
        origin: Origin,
    ) -> tuple[Wallet, list[Event]]:
        if wallet.status == status:
            return wallet, []
        await ledger.set_wallet_status(connection, wallet.user_id, wallet.currency, status, reason)
        data = {"currency": wallet.currency, "status": status, **about}
        event = Event(uuid7(), type, self._clock(), user_id=wallet.user_id, data=data, origin=origin)
        await self._events.add([event], connection)
        return replace(wallet, status=status, status_reason=reason), [event]

    async def _told(self, wallet: Wallet, events: list[Event]) -> dict[str, Any]:
        if events:
            await self._publisher.publish(events)
        return wallet_json(wallet)

    # -- money in ---------------------------------------------------------------------------------------------------------

    async def fund(
        self, user_id: UUID, body: InitializePayment, scope: KeyScope, origin: Origin, *, instance: str
    ) -> Reply:
        """Start a funding, as a payment is started. WalletFrozen; a first funding in a currency opens its wallet."""

        async def admit() -> None:
            wallet = await self._repository.get(user_id, body.currency)
            if wallet is not None and wallet.status == "frozen":
                raise WalletFrozen

        reply = await self._payments.initialize(
            user_id, body, scope, origin, instance=instance, kind=Kind.FUNDING, admit=admit
        )
        if reply.status_code == 201 and not reply.replayed:
            async with self._database.raw() as connection:
                await ledger.open_wallet(connection, user_id, body.currency)
        return reply


async def _locked(connection: RawConnection, user_id: UUID, currency: str) -> Wallet:
    wallet = await ledger.lock_wallet(connection, user_id, currency)
    if wallet is None:
        raise _no_wallet()
    return wallet


def _no_wallet() -> NotFound:
    return NotFound("There is no wallet in this currency.", code="wallet_not_found")


def wallet_json(wallet: Wallet) -> dict[str, Any]:
    """The body of `WalletView`."""
    return {
        "currency": wallet.currency,
        "available": format_minor(wallet.available_minor, wallet.currency),
        "available_minor": wallet.available_minor,
        "held": format_minor(wallet.held_minor, wallet.currency),
        "held_minor": wallet.held_minor,
        "status": wallet.status,
        "status_reason": wallet.status_reason,
        "created_at": rfc3339(wallet.created_at),
    }


def entry_json(line: StatementLine, currency: str) -> dict[str, Any]:
    """The body of `StatementEntry`."""
    return {
        "id": str(line.id),
        "type": _type(line),
        "amount": format_minor(line.amount_minor, currency),
        "amount_minor": line.amount_minor,
        "balance": format_minor(line.balance_minor, currency),
        "balance_minor": line.balance_minor,
        "currency": currency,
        "transaction_id": line.transaction_id,
        "transaction_kind": line.kind,
        "reference": line.reference,
        "provider": line.provider,
        "description": line.description,
        "created_at": rfc3339(line.created_at),
    }


def _type(line: StatementLine) -> str:
    kind = _TIMES.sub("", line.journal_kind)
    return ENTRY_TYPES.get((line.source_type, kind), kind)


def _csv_row(line: StatementLine, currency: str) -> tuple[str, ...]:
    return (
        str(line.id),
        rfc3339(line.created_at),
        _type(line),
        format_minor(line.amount_minor, currency),
        format_minor(line.balance_minor, currency),
        currency,
        line.kind or "",
        line.reference or "",
        line.provider or "",
        _text_cell(line.description or ""),
    )


def _text_cell(text: str) -> str:
    """What somebody typed, so that no spreadsheet runs it."""
    return "'" + text if text.lstrip().startswith(_FORMULA) else text


def _csv_text(rows: list[tuple[str, ...]]) -> bytes:
    text = StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
