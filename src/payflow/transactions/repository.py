"""The statements behind a transaction: open, lock, save, and the reads of pages.

Every write of a unit goes through `save`: one data-modifying statement for any number of transactions, each guarded by the
version it was decided on; what an attempt learnt meanwhile without a move (its ids, its receipt) is added to and never
overwritten. The parts of such a statement do not see each other's writes, so what depends on the guard joins
`tx` itself. Column order of the `unnest` arrays is the order of the lists in `_transaction_columns` and its siblings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from payflow.core.money import Money
from payflow.events import repository as events
from payflow.events.types import Event
from payflow.gateway.contract import ACCOUNT_REFERENCE_LENGTH, Customer, Failure, Operation, account_of
from payflow.idempotency.repository import RESERVE, Finished, KeyScope, finish_sql
from payflow.infra.database import Database, RawConnection, dumps
from payflow.ledger import repository as ledger
from payflow.transactions.aggregate import Attempt, AttemptStatus, Refund, RefundStatus, Transaction, Unit
from payflow.transactions.lifecycle import Kind, Status


class VersionMoved(Exception):
    """Somebody else moved the transaction since it was read; nothing was written."""


_TRANSACTION = (
    "id, user_id, kind, reference, status, version, last_cause, amount_minor, currency, paid_minor, fee_minor, "
    "refunded_minor, provider, method, description, customer_id, customer_email, customer_phone, customer_name, metadata, "
    "return_url, next_action, checkout_url, failure_code, failure_message, correlation_id, check_count, next_check_at, "
    "expires_at, created_at, updated_at, ended_at"
)
_ATTEMPT = (
    "id, transaction_id, user_id, number, operation, provider, reference, provider_references, receipt, status, "
    "amount_minor, currency, paid_minor, paid_currency, fee_minor, raw_status, failure_code, failure_message, "
    "provider_code, routing, session_ends_at, last_checked_at, created_at, updated_at"
)


def _prefixed(columns: str, alias: str, name: str = "") -> str:
    return ", ".join(f"{alias}.{column} AS {name}{column}" for column in columns.split(", "))


INSERT_TRANSACTION = """
    INSERT INTO transactions (id, user_id, kind, reference, status, version, amount_minor, currency, provider, method,
        description, customer_id, customer_email, customer_phone, customer_name, metadata, return_url, correlation_id,
        next_check_at, expires_at, created_at, updated_at)
"""
INSERT_ATTEMPT = """
    INSERT INTO attempts (id, transaction_id, user_id, number, operation, provider, reference, status, amount_minor,
        currency, routing, created_at, updated_at)
"""

# A: the idempotency key, the intent, its first attempt and its first event, or nothing at all when the key is taken.
OPEN = f"""
    WITH reserved AS (
        {RESERVE}
    ), opened AS (
        {INSERT_TRANSACTION}
        SELECT $6, $9, $10, $11, 'pending', 1, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $26
        FROM reserved RETURNING id
    ), attempted AS (
        {INSERT_ATTEMPT}
        SELECT $27, id, $9, 1, $28, $14, $29, 'created', $12, $13, $30, $26, $26 FROM opened
    ), told AS (
        INSERT INTO events (id, transaction_id, user_id, sequence, type, status, data, actor, ip_address, user_agent,
            correlation_id, created_at)
        SELECT $31, id, $9, 1, $32, 'pending', $33, $34, $35, $36, $23, $26 FROM opened
    )
    SELECT id FROM opened
"""

_FIND = f"""
    SELECT {_prefixed(_TRANSACTION, "t")}, {_prefixed(_ATTEMPT, "a", "a_")}
    FROM attempts a JOIN transactions t ON t.id = a.transaction_id
    WHERE (a.id = ANY($1::uuid[]) OR a.reference = ANY($2::text[]))
"""


def lock_sql(ids: int, references: int, condition: str = "true") -> str:
    """The locking read, with the numbers of its two parameters, to stand alone or within another statement.

    Both tables are locked, because rows joined to a locked row keep the values from before the wait.
    """
    found = _FIND.replace("$1", f"${ids}").replace("$2", f"${references}")
    return f"{found} AND {condition} ORDER BY t.id, a.id FOR UPDATE OF t, a"


LOCK = lock_sql(1, 2)

SAVE = f"""
    WITH tx AS (
        UPDATE transactions t SET status = u.status, version = u.version, last_cause = u.last_cause,
            paid_minor = u.paid_minor, fee_minor = u.fee_minor, refunded_minor = u.refunded_minor, provider = u.provider,
            next_action = u.next_action, checkout_url = u.checkout_url, failure_code = u.failure_code,
            failure_message = u.failure_message, check_count = u.check_count, next_check_at = u.next_check_at,
            expires_at = u.expires_at, updated_at = u.updated_at, ended_at = u.ended_at
        FROM unnest($1::uuid[], $2::int[], $3::text[], $4::int[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[],
                    $9::text[], $10::jsonb[], $11::text[], $12::text[], $13::text[], $14::int[], $15::timestamptz[],
                    $16::timestamptz[], $17::timestamptz[], $18::timestamptz[])
             AS u (id, base_version, status, version, last_cause, paid_minor, fee_minor, refunded_minor, provider,
                   next_action, checkout_url, failure_code, failure_message, check_count, next_check_at, expires_at,
                   updated_at, ended_at)
        WHERE t.id = u.id AND t.version = u.base_version
        RETURNING t.id
    ), att AS (
        UPDATE attempts a SET status = u.status,
            provider_references = CASE WHEN a.provider_references <@ u.provider_references::text[]
                THEN u.provider_references::text[]
                ELSE a.provider_references || ARRAY(SELECT id FROM unnest(u.provider_references::text[]) AS id
                    WHERE id <> ALL (a.provider_references)) END,
            receipt = coalesce(u.receipt, a.receipt),
            paid_minor = u.paid_minor, paid_currency = u.paid_currency, fee_minor = u.fee_minor,
            raw_status = u.raw_status, failure_code = u.failure_code, failure_message = u.failure_message,
            provider_code = u.provider_code, session_ends_at = u.session_ends_at, last_checked_at = u.last_checked_at,
            updated_at = u.updated_at
        FROM unnest($19::uuid[], $20::text[], $21::text[], $22::text[], $23::bigint[], $24::text[], $25::bigint[],
                    $26::text[], $27::text[], $28::text[], $29::text[], $30::timestamptz[], $31::timestamptz[],
                    $32::timestamptz[])
             AS u (id, status, provider_references, receipt, paid_minor, paid_currency, fee_minor, raw_status,
                   failure_code, failure_message, provider_code, session_ends_at, last_checked_at, updated_at)
        WHERE a.id = u.id AND a.transaction_id IN (SELECT id FROM tx)
    ), told AS (
        INSERT INTO events ({events.COLUMNS})
        SELECT u.* FROM unnest($33::uuid[], $34::uuid[], $35::uuid[], $36::int[], $37::text[], $38::text[], $39::jsonb[],
            $40::text[], $41::text[], $42::text[], $43::text[], $44::timestamptz[])
            AS u ({events.COLUMNS})
        WHERE u.transaction_id IN (SELECT id FROM tx)
    ){{more}}
    SELECT id FROM tx
"""
_JOURNALS = """, posted AS (
        INSERT INTO ledger_journals (id, kind, source_type, source_id, transaction_id)
        SELECT u.* FROM unnest($45::uuid[], $46::text[], $47::text[], $48::uuid[], $49::uuid[])
            AS u (id, kind, source_type, source_id, transaction_id)
        WHERE u.transaction_id IN (SELECT id FROM tx) RETURNING id
    ), entered AS (
        INSERT INTO ledger_entries (journal_id, account_id, currency, amount_minor)
        SELECT u.* FROM unnest($50::uuid[], $51::uuid[], $52::text[], $53::bigint[])
            AS u (journal_id, account_id, currency, amount_minor)
        WHERE u.journal_id IN (SELECT id FROM posted)
    )"""
SAVE_PLAIN = SAVE.format(more="")
SAVE_POSTED = SAVE.format(more=_JOURNALS)
SAVE_FINISHED = SAVE.format(more=f", finished AS ({finish_sql(45, 'transaction_id IN (SELECT id FROM tx)')})")


@dataclass(frozen=True, slots=True)
class Reservation:
    """The idempotency key of a request that opens a transaction."""

    scope: KeyScope
    fingerprint: bytes
    lease_until: datetime
    expires_at: datetime


def _money(minor: int | None, currency: str | None) -> Money | None:
    return None if minor is None or currency is None else Money(minor, currency)


def transaction_from(row: Mapping[str, Any]) -> Transaction:
    return Transaction(
        id=row["id"],
        user_id=row["user_id"],
        kind=Kind(row["kind"]),
        reference=row["reference"],
        amount=Money(row["amount_minor"], row["currency"]),
        created_at=row["created_at"],
        status=Status(row["status"]),
        version=row["version"],
        last_cause=row["last_cause"],
        paid_minor=row["paid_minor"],
        fee_minor=row["fee_minor"],
        refunded_minor=row["refunded_minor"],
        provider=row["provider"],
        method=row["method"],
        description=row["description"],
        customer_id=row["customer_id"],
        customer=Customer(row["customer_email"], row["customer_phone"], row["customer_name"]),
        metadata=row["metadata"],
        return_url=row["return_url"],
        next_action=row["next_action"],
        checkout_url=row["checkout_url"],
        failure_code=row["failure_code"],
        failure_message=row["failure_message"],
        correlation_id=row["correlation_id"],
        check_count=row["check_count"],
        next_check_at=row["next_check_at"],
        expires_at=row["expires_at"],
        updated_at=row["updated_at"],
        ended_at=row["ended_at"],
    )


def attempt_from(row: Mapping[str, Any], prefix: str = "") -> Attempt:
    failure = None
    if row[f"{prefix}failure_code"] is not None:
        failure = Failure(
            row[f"{prefix}failure_code"], row[f"{prefix}failure_message"] or "", row[f"{prefix}provider_code"]
        )
    return Attempt(
        id=row[f"{prefix}id"],
        transaction_id=row[f"{prefix}transaction_id"],
        user_id=row[f"{prefix}user_id"],
        number=row[f"{prefix}number"],
        operation=Operation(row[f"{prefix}operation"]),
        provider=row[f"{prefix}provider"],
        reference=row[f"{prefix}reference"],
        amount=Money(row[f"{prefix}amount_minor"], row[f"{prefix}currency"]),
        created_at=row[f"{prefix}created_at"],
        status=AttemptStatus(row[f"{prefix}status"]),
        provider_references=tuple(row[f"{prefix}provider_references"]),
        receipt=row[f"{prefix}receipt"],
        paid=_money(row[f"{prefix}paid_minor"], row[f"{prefix}paid_currency"]),
        fee_minor=row[f"{prefix}fee_minor"],
        raw_status=row[f"{prefix}raw_status"],
        failure=failure,
        routing=row[f"{prefix}routing"],
        session_ends_at=row[f"{prefix}session_ends_at"],
        last_checked_at=row[f"{prefix}last_checked_at"],
        updated_at=row[f"{prefix}updated_at"],
    )


def _array_literal(values: Sequence[str]) -> str:
    """A text[] as text, since `unnest` would flatten an array of arrays."""
    return "{" + ",".join('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values) + "}"


def _transaction_columns(units: Sequence[Unit]) -> list[list[Any]]:
    rows = [unit.transaction for unit in units]
    return [
        [row.id for row in rows],
        [unit.base_version for unit in units],
        [row.status.value for row in rows],
        [row.version for row in rows],
        [row.last_cause for row in rows],
        [row.paid_minor for row in rows],
        [row.fee_minor for row in rows],
        [row.refunded_minor for row in rows],
        [row.provider for row in rows],
        [None if row.next_action is None else dumps(row.next_action) for row in rows],
        [row.checkout_url for row in rows],
        [row.failure_code for row in rows],
        [row.failure_message for row in rows],
        [row.check_count for row in rows],
        [row.next_check_at for row in rows],
        [row.expires_at for row in rows],
        [row.updated_at for row in rows],
        [row.ended_at for row in rows],
    ]


def _attempt_columns(units: Sequence[Unit]) -> list[list[Any]]:
    rows = [unit.attempts[identity] for unit in units for identity in unit.touched]
    return [
        [row.id for row in rows],
        [row.status.value for row in rows],
        [_array_literal(row.provider_references) for row in rows],
        [row.receipt for row in rows],
        [row.paid.minor if row.paid else None for row in rows],
        [row.paid.currency if row.paid else None for row in rows],
        [row.fee_minor for row in rows],
        [row.raw_status for row in rows],
        [row.failure.code if row.failure else None for row in rows],
        [row.failure.message if row.failure else None for row in rows],
        [row.failure.provider_code if row.failure else None for row in rows],
        [row.session_ends_at for row in rows],
        [row.last_checked_at for row in rows],
        [row.updated_at for row in rows],
    ]


async def open_intent(
    connection: RawConnection, transaction: Transaction, attempt: Attempt, event: Event, key: Reservation
) -> bool:
    """A: write the intent with its attempt, first event and idempotency key. False when the key is taken."""
    customer = transaction.customer
    opened = await connection.fetchval(
        OPEN,
        key.scope.principal,
        key.scope.method,
        key.scope.path,
        key.scope.key,
        key.fingerprint,
        transaction.id,
        key.lease_until,
        key.expires_at,
        transaction.user_id,
        transaction.kind.value,
        transaction.reference,
        transaction.amount.minor,
        transaction.amount.currency,
        transaction.provider,
        transaction.method,
        transaction.description,
        transaction.customer_id,
        customer.email,
        customer.phone,
        customer.name,
        dumps(transaction.metadata),
        transaction.return_url,
        transaction.correlation_id,
        transaction.next_check_at,
        transaction.expires_at,
        transaction.created_at,
        attempt.id,
        attempt.operation.value,
        attempt.reference,
        dumps(attempt.routing),
        event.id,
        event.type,
        dumps(event.data),
        event.origin.actor.value,
        event.origin.ip_address,
        event.origin.user_agent,
    )
    return opened is not None


async def add_transaction(connection: RawConnection, transaction: Transaction) -> None:
    """One in the caller's database transaction, where `open_intent` does not fit. What it holds by then is written; what
    becomes of it is for `save`."""
    customer = transaction.customer
    await connection.execute(
        f"""
        {INSERT_TRANSACTION}
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $21)
        """,
        transaction.id,
        transaction.user_id,
        transaction.kind.value,
        transaction.reference,
        transaction.status.value,
        transaction.version,
        transaction.amount.minor,
        transaction.amount.currency,
        transaction.provider,
        transaction.method,
        transaction.description,
        transaction.customer_id,
        customer.email,
        customer.phone,
        customer.name,
        dumps(transaction.metadata),
        transaction.return_url,
        transaction.correlation_id,
        transaction.next_check_at,
        transaction.expires_at,
        transaction.created_at,
    )


async def add_attempt(connection: RawConnection, attempt: Attempt) -> None:
    """Another provider's turn: its attempt is committed before it is called."""
    await connection.execute(
        f"{INSERT_ATTEMPT} VALUES ($1, $2, $3, $4, $5, $6, $7, 'created', $8, $9, $10, $11, $11)",
        attempt.id,
        attempt.transaction_id,
        attempt.user_id,
        attempt.number,
        attempt.operation.value,
        attempt.provider,
        attempt.reference,
        attempt.amount.minor,
        attempt.amount.currency,
        dumps(attempt.routing),
        attempt.created_at,
    )


async def lock_pending(connection: RawConnection, transaction_id: UUID) -> bool:
    """Keep a transaction as it is until the caller's has ended, if it is still pending."""
    pending = await connection.fetchval(
        "SELECT id FROM transactions WHERE id = $1 AND status = 'pending' FOR SHARE", transaction_id
    )
    return pending is not None


async def claim_submission(connection: RawConnection, attempt_id: UUID, now: datetime, until: datetime) -> bool:
    """Take the right to pass something on for an attempt; False while somebody else has it."""
    claimed = await connection.fetchval(
        """
        UPDATE attempts SET submitting_until = $3
        WHERE id = $1 AND (submitting_until IS NULL OR submitting_until <= $2) RETURNING id
        """,
        attempt_id,
        now,
        until,
    )
    return claimed is not None


async def awaits(connection: RawConnection, attempt: Attempt, given: str) -> bool:
    """Whether an attempt, whose submission the caller has claimed, still waits for this: another one may have come first."""
    return bool(
        await connection.fetchval(
            """
            SELECT t.status = 'requires_action' AND a.status = 'requires_action' AND t.next_action->>'type' = $2
            FROM attempts a JOIN transactions t ON t.id = a.transaction_id WHERE a.id = $1
            """,
            attempt.id,
            given,
        )
    )


async def release_submission(connection: RawConnection, attempt_id: UUID) -> None:
    await connection.execute("UPDATE attempts SET submitting_until = NULL WHERE id = $1", attempt_id)


_REFUND = (
    "id, transaction_id, user_id, attempt_id, payment_attempt_id, reference, amount_minor, currency, status, reason, "
    "failure_code, failure_message, check_count, next_check_at, created_at, updated_at"
)


def refund_from(row: Mapping[str, Any]) -> Refund:
    failure = None
    if row["failure_code"] is not None:
        failure = Failure(row["failure_code"], row["failure_message"] or "")
    return Refund(
        id=row["id"],
        transaction_id=row["transaction_id"],
        user_id=row["user_id"],
        attempt_id=row["attempt_id"],
        payment_attempt_id=row["payment_attempt_id"],
        reference=row["reference"],
        amount=Money(row["amount_minor"], row["currency"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        status=RefundStatus(row["status"]),
        reason=row["reason"],
        failure=failure,
        check_count=row["check_count"],
        next_check_at=row["next_check_at"],
    )


async def add_refund(connection: RawConnection, refund: Refund, attempt: Attempt, digest: bytes | None) -> None:
    """A refund and its attempt, committed before the provider is asked. The database refuses more than was paid."""
    await add_attempt(connection, attempt)
    await connection.execute(
        """
        INSERT INTO refunds (id, transaction_id, user_id, attempt_id, reference, status, amount_minor, currency, reason,
            next_check_at, created_at, updated_at, request_digest, payment_attempt_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $12, $13)
        """,
        refund.id,
        refund.transaction_id,
        refund.user_id,
        refund.attempt_id,
        refund.reference,
        refund.status.value,
        refund.amount.minor,
        refund.amount.currency,
        refund.reason,
        refund.next_check_at,
        refund.created_at,
        digest,
        refund.payment_attempt_id,
    )


async def has_refund(connection: RawConnection, transaction_id: UUID, digest: bytes) -> bool:
    """Whether a request has opened a refund before."""
    known = await connection.fetchval(
        "SELECT id FROM refunds WHERE transaction_id = $1 AND request_digest = $2", transaction_id, digest
    )
    return known is not None


async def lock_refunds(connection: RawConnection, units: Sequence[Unit]) -> None:
    """Give units all refunds of their transactions, and what these give back. Their transactions are locked already."""
    by_id = {unit.transaction.id: unit for unit in units}
    rows = await connection.fetch(
        f"SELECT {_REFUND} FROM refunds WHERE transaction_id = ANY($1::uuid[]) ORDER BY transaction_id, id FOR UPDATE",
        list(by_id),
    )
    gone: dict[UUID, Unit] = {}
    for row in rows:
        unit = by_id[row["transaction_id"]]
        refund = unit.refunds[row["attempt_id"]] = refund_from(row)
        if refund.status is RefundStatus.COMPLETED and unit.transaction.kind is Kind.FUNDING:
            gone[refund.id] = unit
    await _with_debts(connection, gone)
    missing = {row["payment_attempt_id"] for row in rows} - {known for unit in units for known in unit.attempts}
    if missing:
        paid = await connection.fetch(
            f"SELECT {_ATTEMPT} FROM attempts WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE", list(missing)
        )
        for row in paid:
            by_id[row["transaction_id"]].attempts[row["id"]] = attempt_from(row)


async def _with_debts(connection: RawConnection, gone: Mapping[UUID, Unit]) -> None:
    """`gone`: units by the holds and refunds whose money went, and may come back."""
    if gone:
        for source_id, minor in (await ledger.debts(connection, list(gone))).items():
            gone[source_id].debts[source_id] = minor


async def _save_refunds(connection: RawConnection, units: Sequence[Unit]) -> None:
    for unit in units:
        for attempt_id in unit.touched_refunds:
            refund = unit.refunds[attempt_id]
            await connection.execute(
                """
                UPDATE refunds SET status = $2, failure_code = $3, failure_message = $4, check_count = $5,
                    next_check_at = $6, updated_at = $7
                WHERE id = $1
                """,
                refund.id,
                refund.status.value,
                refund.failure.code if refund.failure else None,
                refund.failure.message if refund.failure else None,
                refund.check_count,
                refund.next_check_at,
                refund.updated_at,
            )


def units_from(rows: Sequence[Mapping[str, Any]]) -> dict[UUID, Unit]:
    """The locked rows as units, by transaction id."""
    units: dict[UUID, Unit] = {}
    for row in rows:
        attempt = attempt_from(row, "a_")
        unit = units.get(row["id"])
        if unit is None:
            units[row["id"]] = Unit.of(transaction_from(row), [attempt])
        else:
            unit.attempts[attempt.id] = attempt
    return units


async def lock(
    connection: RawConnection, attempt_ids: Sequence[UUID] = (), references: Sequence[str] = ()
) -> dict[UUID, Unit]:
    """Lock the transactions of these attempts, by transaction id. Call it inside a database transaction."""
    return units_from(await connection.fetch(LOCK, list(attempt_ids), list(references)))


async def lock_wallets(connection: RawConnection, units: Sequence[Unit]) -> None:
    """Give units of wallets their holds, and what the wallet has available, locked."""
    moving = [unit for unit in units if unit.transaction.kind is not Kind.PAYMENT]
    if not moving:
        return
    by_id = {unit.transaction.id: unit for unit in moving}
    gone: dict[UUID, Unit] = {}
    for hold in await ledger.lock_holds(connection, list(by_id)):
        by_id[hold.transaction_id].holds[hold.source_id] = hold
        if hold.gone:
            gone[hold.id] = by_id[hold.transaction_id]
    await _with_debts(connection, gone)
    for unit in sorted(moving, key=lambda unit: (unit.transaction.user_id, unit.transaction.amount.currency)):
        of = unit.transaction
        wallet = await ledger.lock_wallet(connection, of.user_id, of.amount.currency)
        unit.wallet_minor = 0 if wallet is None else wallet.available_minor
        unit.wallet_status = "active" if wallet is None else wallet.status
        unit.beside = [other for other in moving if _same_wallet(other, unit)]


def _same_wallet(one: Unit, other: Unit) -> bool:
    first, second = one.transaction, other.transaction
    return (first.user_id, first.amount.currency) == (second.user_id, second.amount.currency)


async def add_intent(connection: RawConnection, transaction: Transaction, attempt: Attempt, event: Event) -> None:
    """A transaction with its first attempt and event, in the caller's database transaction."""
    await add_transaction(connection, transaction)
    await add_attempt(connection, attempt)
    await connection.execute(events.INSERT_MANY, *events.parameters([event]))


async def lock_whole(connection: RawConnection, transaction_id: UUID) -> Unit | None:
    """Lock one transaction with all its attempts: it first, so that those which somebody added meanwhile are seen."""
    await connection.execute("SELECT FROM transactions WHERE id = $1 FOR UPDATE", transaction_id)
    rows = await connection.fetch(
        f"""
        SELECT {_prefixed(_TRANSACTION, "t")}, {_prefixed(_ATTEMPT, "a", "a_")}
        FROM transactions t JOIN attempts a ON a.transaction_id = t.id
        WHERE t.id = $1 ORDER BY a.number FOR UPDATE OF t, a
        """,
        transaction_id,
    )
    return units_from(rows).get(transaction_id)


async def save(
    connection: RawConnection,
    units: Sequence[Unit],
    accounts: ledger.Accounts,
    finished: Finished | None = None,
) -> None:
    """Write what was decided. VersionMoved (and nothing written) when a version is no longer the one decided on.

    With journals it must run inside a database transaction; without, the one statement is atomic by itself.
    """
    changed = sorted((unit for unit in units if unit.changed), key=lambda unit: unit.transaction.id)
    if not changed and finished is None:
        return
    for unit in changed:
        for hold in unit.new_holds:
            await ledger.add_hold(connection, hold)
        if unit.ended_holds:
            await ledger.end_holds(connection, unit.ended_holds)
    journals = [journal for unit in changed for journal in unit.journals]
    parameters = [
        *_transaction_columns(changed),
        *_attempt_columns(changed),
        *events.parameters([event for unit in changed for event in unit.events]),
    ]
    statement = SAVE_PLAIN
    if journals:
        await accounts.open(connection, journals)
        headers, entries = ledger.parameters(journals)
        statement, parameters = SAVE_POSTED, [*parameters, *headers, *entries]
    elif finished is not None:
        statement, parameters = SAVE_FINISHED, [*parameters, *finished.parameters()]
    written = await connection.fetch(statement, *parameters)
    if len(written) != len(changed):
        raise VersionMoved
    await _save_refunds(connection, changed)
    for unit in changed:
        if unit.freeze is not None:
            of = unit.transaction
            await ledger.set_wallet_status(connection, of.user_id, of.amount.currency, "frozen", unit.freeze)


class TransactionRepository:
    """Reads. Every read of a user's rows filters by the user."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, transaction_id: UUID, user_id: UUID | None) -> tuple[Transaction, list[Attempt]] | None:
        """One transaction with its attempts in order; `user_id` None for an admin or the service itself."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                f"""
                SELECT {_prefixed(_TRANSACTION, "t")}, {_prefixed(_ATTEMPT, "a", "a_")}
                FROM transactions t JOIN attempts a ON a.transaction_id = t.id
                WHERE t.id = $1 AND ($2::uuid IS NULL OR t.user_id = $2) ORDER BY a.number
                """,
                transaction_id,
                user_id,
            )
        if not rows:
            return None
        return transaction_from(rows[0]), [attempt_from(row, "a_") for row in rows]

    async def refunds(self, transaction_id: UUID) -> list[Refund]:
        """The refunds of a transaction, oldest first."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                f"SELECT {_REFUND} FROM refunds WHERE transaction_id = $1 ORDER BY id", transaction_id
            )
        return [refund_from(row) for row in rows]

    async def refund_of_request(self, transaction_id: UUID, digest: bytes) -> Refund | None:
        """The refund that a request once opened."""
        async with self._database.raw() as connection:
            row = await connection.fetchrow(
                f"SELECT {_REFUND} FROM refunds WHERE transaction_id = $1 AND request_digest = $2",
                transaction_id,
                digest,
            )
        return None if row is None else refund_from(row)

    async def duplicates(self, limit: int, after: UUID | None = None) -> list[tuple[UUID, UUID]]:
        """(transaction id, attempt id) of second payments that lie in suspense and were never asked to go back, oldest first;
        those `after` an attempt."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                """
                SELECT a.transaction_id, a.id FROM attempts a JOIN transactions t ON t.id = a.transaction_id
                WHERE a.status = 'under_review' AND a.operation = 'collect' AND a.paid_minor > 0
                    AND a.paid_currency = t.currency AND t.paid_minor > 0
                    AND EXISTS (SELECT FROM attempts o WHERE o.transaction_id = t.id AND o.status = 'succeeded'
                        AND o.operation = 'collect')
                    AND NOT EXISTS (SELECT FROM refunds r WHERE r.payment_attempt_id = a.id)
                    AND ($2::uuid IS NULL OR a.id > $2)
                ORDER BY a.id LIMIT $1
                """,
                limit,
                after,
            )
        return [(row["transaction_id"], row["id"]) for row in rows]

    async def claim_due_refunds(self, now: datetime, limit: int, lease: timedelta) -> list[tuple[UUID, UUID]]:
        """(transaction id, attempt id) of refunds whose time to ask has come, claimed as `claim_due` does."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                """
                UPDATE refunds SET next_check_at = $1::timestamptz + $3::interval WHERE id IN (
                    SELECT id FROM refunds WHERE next_check_at <= $1::timestamptz
                    ORDER BY next_check_at LIMIT $2 FOR UPDATE SKIP LOCKED)
                RETURNING transaction_id, attempt_id
                """,
                now,
                limit,
                lease,
            )
        return [(row["transaction_id"], row["attempt_id"]) for row in rows]

    async def postpone_refund_check(self, attempt_id: UUID, at: datetime) -> None:
        async with self._database.raw() as connection:
            await connection.execute(
                "UPDATE refunds SET next_check_at = $2 WHERE attempt_id = $1 AND next_check_at IS NOT NULL",
                attempt_id,
                at,
            )

    async def id_of_reference(self, reference: str, user_id: UUID | None) -> UUID | None:
        async with self._database.raw() as connection:
            found: UUID | None = await connection.fetchval(
                "SELECT id FROM transactions WHERE reference = $1 AND ($2::uuid IS NULL OR user_id = $2)",
                reference,
                user_id,
            )
        return found

    async def attempts_by_provider_reference(
        self, provider: str, references: Sequence[str], operation: Operation = Operation.COLLECT
    ) -> list[tuple[UUID, tuple[str, ...]]]:
        """Attempts of a provider that know any of these ids of the provider: (attempt id, all its provider ids).

        Within one operation: a payment and a refund may have the same number."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                """
                SELECT id, provider_references FROM attempts
                WHERE provider_references && $2::text[] AND provider = $1 AND operation = $3
                """,
                provider,
                list(references),
                operation.value,
            )
        return [(row["id"], tuple(row["provider_references"])) for row in rows]

    async def attempt_by_receipt(self, provider: str, receipt: str) -> UUID | None:
        """The attempt whose money came under this receipt, or was recorded under it and has been given back since."""
        async with self._database.raw() as connection:
            found: UUID | None = await connection.fetchval(
                """
                SELECT id FROM attempts WHERE provider = $1 AND receipt = $2 AND status IN ('succeeded', 'under_review')
                UNION ALL
                SELECT id FROM attempts
                WHERE provider_references && $3::text[] AND provider = $1 AND operation = 'collect'
                """,
                provider,
                receipt,
                [receipt],
            )
        return found

    async def attempt_by_account(self, provider: str, account: str) -> tuple[Transaction, Attempt] | None:
        """The collection that an account typed by hand names."""
        typed = account_of(account)
        if typed is None:
            return None
        async with self._database.raw() as connection:
            row = await connection.fetchrow(
                f"""
                SELECT {_prefixed(_TRANSACTION, "t")}, {_prefixed(_ATTEMPT, "a", "a_")}
                FROM attempts a JOIN transactions t ON t.id = a.transaction_id
                WHERE right(a.reference, {ACCOUNT_REFERENCE_LENGTH}) = $1 AND a.provider = $2 AND a.operation = 'collect'
                """,
                typed,
                provider,
            )
        return None if row is None else (transaction_from(row), attempt_from(row, "a_"))

    async def find_attempt(self, attempt_id: UUID | None, reference: str | None) -> tuple[Transaction, Attempt] | None:
        """An attempt with its transaction, unlocked, by its id or by our reference."""
        async with self._database.raw() as connection:
            row = await connection.fetchrow(_FIND, [attempt_id] if attempt_id else [], [reference] if reference else [])
        return None if row is None else (transaction_from(row), attempt_from(row, "a_"))

    async def page(self, query: "PageQuery") -> tuple[list[Transaction], bool]:
        """Newest first. One row more than the limit is read, to know whether there is a next page."""
        conditions, values = query.conditions()
        order = f"ORDER BY id DESC LIMIT ${len(values) + 1} OFFSET ${len(values) + 2}"
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                f"SELECT {_TRANSACTION} FROM transactions WHERE {conditions} {order}",
                *values,
                query.limit + 1,
                query.offset,
            )
        return [transaction_from(row) for row in rows[: query.limit]], len(rows) > query.limit

    async def count(self, query: "PageQuery") -> int:
        conditions, values = query.conditions()
        async with self._database.raw() as connection:
            return int(await connection.fetchval(f"SELECT count(*) FROM transactions WHERE {conditions}", *values))

    async def claim_due(self, now: datetime, limit: int, lease: timedelta) -> list[UUID]:
        """Transactions whose time to ask has come. Claimed by moving `next_check_at` forward, so no two workers ask at once."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                """
                UPDATE transactions SET next_check_at = $1::timestamptz + $3::interval WHERE id IN (
                    SELECT id FROM transactions WHERE next_check_at <= $1::timestamptz
                    ORDER BY next_check_at LIMIT $2 FOR UPDATE SKIP LOCKED)
                RETURNING id
                """,
                now,
                limit,
                lease,
            )
        return [row["id"] for row in rows]

    async def postpone_check(self, transaction_id: UUID, at: datetime) -> None:
        async with self._database.raw() as connection:
            await connection.execute(
                "UPDATE transactions SET next_check_at = $2 WHERE id = $1 AND next_check_at IS NOT NULL",
                transaction_id,
                at,
            )

    async def claim_check(self, attempt_id: UUID, now: datetime, interval: timedelta) -> bool:
        """Take the right to ask about an attempt: False when somebody asked less than `interval` ago, on any node."""
        async with self._database.raw() as connection:
            claimed = await connection.fetchval(
                """
                UPDATE attempts SET last_checked_at = $2::timestamptz
                WHERE id = $1 AND (last_checked_at IS NULL OR last_checked_at <= $2::timestamptz - $3::interval) RETURNING id
                """,
                attempt_id,
                now,
                interval,
            )
        return claimed is not None

    async def counts_by_status(
        self, user_id: UUID | None, kinds: Sequence[str] | None
    ) -> list[tuple[str, str, str, int, int]]:
        """(kind, status, currency, how many, paid minor units), for the business figures."""
        async with self._database.raw() as connection:
            rows = await connection.fetch(
                """
                SELECT kind, status, currency, count(*) AS many, coalesce(sum(paid_minor), 0)::bigint AS paid
                FROM transactions WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::text[] IS NULL OR kind = ANY($2))
                GROUP BY kind, status, currency ORDER BY 1, 2, 3
                """,
                user_id,
                kinds,
            )
        return [(row["kind"], row["status"], row["currency"], row["many"], row["paid"]) for row in rows]


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Filters of a list. `before` is the cursor: the id of the last row of the page before."""

    user_id: UUID | None
    kinds: Sequence[str] | None = None
    provider: str | None = None
    status: str | None = None
    customer_id: str | None = None
    currency: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    before: UUID | None = None
    limit: int = 20
    offset: int = 0

    def conditions(self) -> tuple[str, list[Any]]:
        """The WHERE text with its parameters; only constant column names stand in the text."""
        wanted = (
            ("user_id = ${}", self.user_id),
            ("kind = ANY(${}::text[])", self.kinds),
            ("provider = ${}", self.provider),
            ("status = ${}", self.status),
            ("customer_id = ${}", self.customer_id),
            ("currency = ${}", self.currency),
            ("created_at >= ${}", self.created_from),
            ("created_at < ${}", self.created_to),
            ("id < ${}", self.before),
        )
        given = [(text, value) for text, value in wanted if value is not None]
        text = " AND ".join(text.format(number) for number, (text, _) in enumerate(given, start=1))
        return text or "true", [value for _, value in given]
