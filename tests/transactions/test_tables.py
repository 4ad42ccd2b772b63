"""Models and migrations describe the same tables, and rows written raw and through the models are the same rows."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert, inspect, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import String

from payflow.core.ids import new_reference, uuid7
from payflow.core.money import Money
from payflow.events.models import EventRow
from payflow.events.types import Event
from payflow.gateway.contract import Customer, Failure
from payflow.idempotency.models import IdempotencyKeyRow
from payflow.idempotency.repository import Finished, KeyScope
from payflow.infra.database import Base, Database, dumps
from payflow.infra.migrations import import_models
from payflow.ledger.repository import Accounts
from payflow.transactions import repository as sql
from payflow.transactions.aggregate import Attempt, AttemptStatus, Transaction, Unit
from payflow.transactions.lifecycle import Status
from payflow.transactions.models import AttemptRow, RefundRow, TransactionRow, TransitionRow
from payflow.transactions.move import summary
from payflow.transactions.settle import cancel, settle
from tests.transactions.builders import NOW, ORIGIN, USER, attempt, context, first, paid, transaction

OURS = (TransactionRow, AttemptRow, RefundRow, TransitionRow, IdempotencyKeyRow)


@pytest.mark.filterwarnings("ignore:Did not recognize type 'xid8'")
async def test_every_table_has_a_model_with_the_same_columns(database: Database) -> None:
    """Names, nullability, and what Python sees of each type; lengths and CHAR against TEXT are each room's own matter."""
    import_models()

    def described(connection: Connection) -> dict[str, dict[str, tuple[bool, str, bool]]]:
        inspector = inspect(connection)
        return {
            table: {
                column["name"]: _shape(column["type"], column["nullable"]) for column in inspector.get_columns(table)
            }
            for table in inspector.get_table_names()
            if table != "alembic_version"
        }

    async with database.connection() as connection:
        found = await connection.run_sync(described)
    del found["events"]["xid"]  # the transaction that wrote the event: only SQL reads it
    assert found == {
        name: {column.name: _shape(column.type, bool(column.nullable)) for column in table.columns}
        for name, table in Base.metadata.tables.items()
    }


def _shape(kind: Any, nullable: bool) -> tuple[bool, str, bool]:
    word = "text" if isinstance(kind, String) else type(kind).__name__.upper()
    word = {"INTEGER": "int", "BIGINT": "int", "SMALLINTEGER": "int", "SMALLINT": "int", "BIGINTEGER": "int"}.get(
        word, word
    )
    word = {"LARGEBINARY": "BYTEA", "DATETIME": "TIMESTAMP"}.get(word, word)
    return nullable, word, bool(getattr(kind, "timezone", False))


@pytest.mark.filterwarnings("ignore:Did not recognize type 'xid8'")
async def test_the_models_of_transactions_are_exact(database: Database) -> None:
    """Alembic finds no difference in columns, types, defaults, unique constraints and foreign keys."""
    import_models()
    names = {model.__tablename__ for model in OURS}

    def difference(connection: Connection) -> list[Any]:
        def ours(item: Any, name: str | None, kind: str, reflected: bool, other: Any) -> bool:
            table = item if kind == "table" else item.table
            # Indexes are the migrations' matter; the foreign key of a lower room to a higher is the database's alone.
            return (
                table.name in names
                and kind != "index"
                and (kind != "foreign_key_constraint" or table.name != "idempotency_keys")
            )

        options = {"compare_type": True, "include_object": ours}
        return compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)

    async with database.connection() as connection:
        assert await connection.run_sync(difference) == []


async def test_the_models_name_the_same_checks(database: Database) -> None:
    async with database.raw() as connection:
        rows = await connection.fetch(
            "SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid::regclass::text = ANY($1)",
            [model.__tablename__ for model in OURS],
        )
    named = {
        str(item.name) for model in OURS for item in model.__table__.constraints if str(item.name).startswith("ck_")
    }  # type: ignore[attr-defined]
    assert {row["conname"] for row in rows} == named


# -- raw and through the models -----------------------------------------------------------------------------------------


def intent() -> tuple[Transaction, Attempt, Event, sql.Reservation]:
    of = transaction(
        created_at=NOW,
        updated_at=NOW,
        method="card",
        description="Order 7 \"quoted\" \\ 'and' {braces}",
        customer_id="c-7",
        customer=Customer("ada@example.com", "+2348012345678", "Ada Ọbi 🎉"),
        metadata={"order": 7, "nested": [1, {"a": None}], "text": 'ünï\\"x'},
        return_url="https://shop.example/return",
        correlation_id="req-1",
        expires_at=NOW + timedelta(hours=1),
    )
    tried = attempt(of, routing={"reason": "named by the caller"}, created_at=NOW, updated_at=NOW)
    event = Event(uuid7(), "payment.initiated", NOW, USER, of.id, 1, "pending", summary(of), ORIGIN)
    scope = KeyScope(str(USER), "POST", "/api/v1/payments/initialize", str(of.id))
    return of, tried, event, sql.Reservation(scope, b"\x00\xff", NOW + timedelta(minutes=1), NOW + timedelta(days=1))


async def rows_of(connection: Any, table: str, column: str, value: Any) -> list[dict[str, Any]]:
    rows = await connection.fetch(f"SELECT * FROM {table} WHERE {column} = $1", value)
    return [dict(row) for row in rows]


def transaction_values(of: Transaction) -> dict[str, Any]:
    values = {name: getattr(of, name) for name in Transaction.__slots__ if name not in ("amount", "customer")}
    return values | {
        "kind": of.kind.value,
        "status": of.status.value,
        "amount_minor": of.amount.minor,
        "currency": of.amount.currency,
        "customer_email": of.customer.email,
        "customer_phone": of.customer.phone,
        "customer_name": of.customer.name,
        "metadata": of.metadata,
    }


def attempt_values(of: Attempt) -> dict[str, Any]:
    values = {name: getattr(of, name) for name in Attempt.__slots__ if name not in ("amount", "paid", "failure")}
    return values | {
        "operation": of.operation.value,
        "status": of.status.value,
        "provider_references": list(of.provider_references),
        "amount_minor": of.amount.minor,
        "currency": of.amount.currency,
        "paid_minor": of.paid.minor if of.paid else None,
        "paid_currency": of.paid.currency if of.paid else None,
        "failure_code": of.failure.code if of.failure else None,
        "failure_message": of.failure.message if of.failure else None,
        "provider_code": of.failure.provider_code if of.failure else None,
        "submitting_until": None,  # a lease of the database's, no part of the aggregate
    }


def event_values(of: Event) -> dict[str, Any]:
    values = {name: getattr(of, name) for name in Event.__slots__ if name != "origin"}
    origin = of.origin
    return values | {
        "actor": origin.actor.value,
        "ip_address": origin.ip_address,
        "user_agent": origin.user_agent,
        "correlation_id": origin.correlation_id,
    }


def common(row: Mapping[str, Any], *besides: str) -> dict[str, Any]:
    """A row without what tells two rows apart."""
    return {name: value for name, value in row.items() if name not in besides}


async def test_an_intent_written_raw_equals_one_written_through_the_models(database: Database) -> None:
    of, tried, event, key = intent()
    async with database.raw() as raw:
        assert await sql.open_intent(raw, of, tried, event, key) is True

    twin, twin_tried, twin_event, twin_key = intent()
    async with database.connection() as orm:
        await orm.execute(insert(TransactionRow), transaction_values(twin))
        await orm.execute(insert(AttemptRow), attempt_values(twin_tried))
        await orm.execute(insert(EventRow), event_values(twin_event))
        scope = twin_key.scope
        key_values = {name: getattr(scope, name) for name in KeyScope.__slots__}
        key_values |= {"fingerprint": twin_key.fingerprint, "transaction_id": twin.id}
        key_values |= {"lease_until": twin_key.lease_until, "expires_at": twin_key.expires_at}
        await orm.execute(insert(IdempotencyKeyRow), key_values)

    async with database.raw() as raw:
        (one,), (two,) = [await rows_of(raw, "transactions", "id", each.id) for each in (of, twin)]
        assert common(one, "id", "reference") == common(two, "id", "reference")
        (one,), (two,) = [await rows_of(raw, "attempts", "id", each.id) for each in (tried, twin_tried)]
        assert common(one, "id", "transaction_id", "reference") == common(two, "id", "transaction_id", "reference")
        (one,), (two,) = [await rows_of(raw, "events", "id", each.id) for each in (event, twin_event)]
        assert common(one, "id", "transaction_id", "xid", "data") == common(two, "id", "transaction_id", "xid", "data")
        assert common(one["data"], "reference") == common(two["data"], "reference")
        (one,), (two,) = [await rows_of(raw, "idempotency_keys", "transaction_id", each.id) for each in (of, twin)]
        assert common(one, "key", "transaction_id", "created_at") == common(two, "key", "transaction_id", "created_at")


async def opened(database: Database) -> Unit:
    of, tried, event, key = intent()
    async with database.raw() as raw:
        assert await sql.open_intent(raw, of, tried, event, key)
    return Unit.of(of, [tried])


async def test_what_was_saved_raw_is_read_through_the_models(database: Database) -> None:
    unit = await opened(database)
    tried = first(unit)
    result = paid(
        tried, fee=Money(7_500, "NGN"), receipt="R" + tried.reference, provider_references=('p"1', "p\\2", "{,}", "")
    )
    tried.failure = Failure("x", "y", "z")
    settle(unit, tried, result, context())
    tried.failure = Failure("odd", 'It\'s "odd".', "51")
    async with database.transaction() as raw:
        await sql.save(raw, [unit], Accounts())

    async with database.connection() as orm:
        row = (
            (await orm.execute(select(TransactionRow).where(TransactionRow.id == unit.transaction.id))).mappings().one()
        )
        assert dict(row) == transaction_values(unit.transaction)
        row = (await orm.execute(select(AttemptRow).where(AttemptRow.id == tried.id))).mappings().one()
        assert dict(row) == attempt_values(tried)
        row = (await orm.execute(select(EventRow).where(EventRow.id == unit.events[0].id))).mappings().one()
        assert dict(row) == event_values(unit.events[0])


async def test_what_was_saved_is_read_back_the_same(database: Database) -> None:
    unit = await opened(database)
    settle(unit, first(unit), paid(first(unit)), context())
    async with database.transaction() as raw:
        await sql.save(raw, [unit], Accounts())
        whole = await sql.lock_whole(raw, unit.transaction.id)
    assert whole is not None
    assert (whole.transaction, whole.attempts) == (unit.transaction, unit.attempts)


BREACHES: list[tuple[str, dict[str, Any], str]] = [
    ("transactions", {"kind": "gift"}, "ck_transactions_kind"),
    ("transactions", {"reference": "Has-Capitals-000000"}, "ck_transactions_reference"),
    ("transactions", {"reference": "short"}, "ck_transactions_reference"),
    ("transactions", {"status": "lost"}, "starts as pending"),
    ("transactions", {"version": 0}, "ck_transactions_version"),
    ("transactions", {"amount_minor": 0}, "ck_transactions_amount"),
    ("transactions", {"amount_minor": -1}, "ck_transactions_amount"),
    ("transactions", {"currency": "ngn"}, "ck_transactions_currency"),
    ("transactions", {"paid_minor": -1}, "ck_transactions_paid"),
    ("transactions", {"fee_minor": -1}, "ck_transactions_fee"),
    ("transactions", {"refunded_minor": -1}, "ck_transactions_refunded"),
    ("transactions", {"refunded_minor": 500_001}, "ck_transactions_refunded"),
    ("transactions", {"provider": "Pay-Stack"}, "ck_transactions_provider"),
    ("transactions", {"next_check_at": None}, "ck_transactions_checked"),
    ("transactions", {"user_id": uuid7()}, "fk_transactions_user_id"),
    ("attempts", {"number": 0}, "ck_attempts_number"),
    ("attempts", {"operation": "steal"}, "ck_attempts_operation"),
    ("attempts", {"status": "paid"}, "ck_attempts_status"),
    ("attempts", {"amount_minor": 0}, "ck_attempts_amount"),
    ("attempts", {"provider": "Stripe"}, "ck_attempts_provider"),
    ("attempts", {"transaction_id": uuid7()}, "fk_attempts_transaction_id"),
    ("events", {"type": "NoDot"}, "ck_events_type"),
    ("events", {"actor": "nobody"}, "ck_events_actor"),
    ("events", {"sequence": None}, "ck_events_sequence"),
    ("events", {"sequence": 0}, "ck_events_sequence"),
    ("events", {"transaction_id": uuid7()}, "fk_events_transaction_id"),
]


@pytest.mark.parametrize(("table", "change", "constraint"), BREACHES)
async def test_every_constraint_refuses_both_ways(
    database: Database, table: str, change: dict[str, Any], constraint: str
) -> None:
    unit = await opened(database)
    event = Event(uuid7(), "payment.processing", NOW, USER, unit.transaction.id, 2, "processing", {}, ORIGIN)
    model, values = {
        "transactions": (TransactionRow, transaction_values(transaction())),
        "attempts": (AttemptRow, attempt_values(attempt(unit.transaction, number=2))),
        "events": (EventRow, event_values(event)),
    }[table]
    wrong = values | change
    with pytest.raises(IntegrityError, match=constraint):
        async with database.connection() as orm:
            await orm.execute(insert(model), wrong)
    columns = {name: dumps(value) if isinstance(value, dict) else value for name, value in wrong.items()}
    numbers = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    async with database.raw() as raw:
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match=constraint):
            await raw.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({numbers})", *columns.values())


async def test_a_reference_is_used_once(database: Database) -> None:
    unit = await opened(database)
    again, tried, event, key = intent()
    again.reference = unit.transaction.reference
    with pytest.raises(asyncpg.UniqueViolationError, match="uq_transactions_reference"):
        async with database.raw() as raw:
            await sql.open_intent(raw, again, tried, event, key)
    second = attempt(unit.transaction, number=2, reference=first(unit).reference)
    with pytest.raises(asyncpg.UniqueViolationError, match="uq_attempts_reference"):
        async with database.raw() as raw:
            await sql.add_attempt(raw, second)
    with pytest.raises(asyncpg.UniqueViolationError, match="uq_attempts_transaction_id"):
        async with database.raw() as raw:
            await sql.add_attempt(raw, attempt(unit.transaction, number=1))


async def test_one_receipt_pays_one_attempt(database: Database) -> None:
    receipt = new_reference("r")
    one, two = await opened(database), await opened(database)
    for unit in (one, two):
        settle(unit, first(unit), paid(first(unit), receipt=receipt), context())
    async with database.transaction() as raw:
        await sql.save(raw, [one], Accounts())
    with pytest.raises(asyncpg.UniqueViolationError, match="uq_attempts_receipt"):
        async with database.transaction() as raw:
            await sql.save(raw, [two], Accounts())


async def test_a_taken_key_opens_nothing(database: Database) -> None:
    of, tried, event, key = intent()
    again, again_tried, again_event, _ = intent()
    async with database.raw() as raw:
        assert await sql.open_intent(raw, of, tried, event, key) is True
        assert await sql.open_intent(raw, again, again_tried, again_event, key) is False
        for table, identity in (("transactions", again.id), ("attempts", again_tried.id), ("events", again_event.id)):
            assert await rows_of(raw, table, "id", identity) == []


async def test_a_version_that_moved_writes_nothing(database: Database) -> None:
    """Attempts, events, journals and the answer to keep: all hang on the same guard."""
    mine, theirs = await opened(database), None
    async with database.transaction() as raw:
        theirs = await sql.lock_whole(raw, mine.transaction.id)
        assert theirs is not None
        cancel(theirs, list(theirs.attempts.values()), ORIGIN, NOW)
        await sql.save(raw, [theirs], Accounts())

    settle(mine, first(mine), paid(first(mine), provider_references=("late",)), context())
    scope = KeyScope(str(USER), "POST", "/api/v1/payments/initialize", str(mine.transaction.id))
    with pytest.raises(sql.VersionMoved):
        async with database.transaction() as raw:
            await sql.save(raw, [mine], Accounts())
    mine.journals.clear()
    async with database.raw() as raw:
        with pytest.raises(sql.VersionMoved):
            await sql.save(raw, [mine], Accounts(), Finished(scope, 201, b"{}"))
        (row,) = await rows_of(raw, "transactions", "id", mine.transaction.id)
        assert (row["status"], row["version"], row["paid_minor"]) == (Status.CANCELLED, 2, 0)
        (row,) = await rows_of(raw, "attempts", "id", first(mine).id)
        assert (row["status"], row["provider_references"]) == (AttemptStatus.CANCELLED, [])
        assert [row["type"] for row in await rows_of(raw, "events", "transaction_id", mine.transaction.id)] == [
            "payment.initiated",
            "payment.cancelled",
        ]
        (row,) = await rows_of(raw, "idempotency_keys", "transaction_id", mine.transaction.id)
        assert (row["status_code"], row["body"]) == (None, None)
        assert await rows_of(raw, "ledger_journals", "transaction_id", mine.transaction.id) == []


async def test_what_an_attempt_learnt_meanwhile_without_a_move_is_kept(database: Database) -> None:
    """B decides on what A wrote; a webhook that moved nothing may have told ids and the receipt in between."""
    mine = await opened(database)
    async with database.transaction() as raw:
        theirs = await sql.lock_whole(raw, mine.transaction.id)
        assert theirs is not None
        first(theirs).provider_references, first(theirs).receipt = ("both", "theirs"), new_reference("r")
        theirs.touch(first(theirs), NOW)
        await sql.save(raw, [theirs], Accounts())
    first(mine).provider_references = ("mine", "both")
    mine.touch(first(mine), NOW)
    async with database.raw() as raw:
        await sql.save(raw, [mine], Accounts())
        (row,) = await rows_of(raw, "attempts", "id", first(mine).id)
    assert row["provider_references"] == ["both", "theirs", "mine"]
    assert row["receipt"] == first(theirs).receipt


async def test_many_units_are_saved_in_one_statement(database: Database) -> None:
    units = [await opened(database) for _ in range(5)]
    for unit in units[:4]:
        settle(unit, first(unit), paid(first(unit)), context())
    async with database.transaction() as raw:
        await sql.save(raw, units, Accounts())
        await sql.save(raw, units[4:], Accounts())  # nothing was decided: no statement at all
        rows = await raw.fetch(
            "SELECT status, count(*) AS many FROM transactions WHERE id = ANY($1) GROUP BY status",
            [unit.transaction.id for unit in units],
        )
    assert {row["status"]: row["many"] for row in rows} == {"completed": 4, "pending": 1}
