"""Every pair of statuses, for every kind and cause, against the table in code and the trigger in the database."""

from itertools import product
from typing import Any

import asyncpg
import pytest

from payflow.transactions.lifecycle import LIFECYCLE, OPEN, Cause, Kind, Status, allowed, transition_rows
from payflow.transactions.move import MoveRefused, move
from tests.transactions.builders import NOW, ORIGIN, unit

# The design's table in words, one line a status: what it may become. Money out is what differs.
COLLECTION = {
    "pending": "requires_action processing completed failed cancelled expired under_review",
    "requires_action": "processing completed failed cancelled expired under_review",
    "processing": "requires_action completed failed cancelled expired under_review",
    "under_review": "completed failed refunded reversed",
    "completed": "partially_refunded refunded reversed under_review",
    "failed": "completed under_review",
    "cancelled": "completed under_review",
    "expired": "completed under_review",
    "partially_refunded": "refunded reversed completed",
    "refunded": "partially_refunded reversed completed",
    "reversed": "completed",
}
MONEY_OUT = {
    "pending": "requires_action processing completed failed cancelled under_review",
    "requires_action": "processing completed failed cancelled under_review",
    "processing": "requires_action completed failed cancelled under_review",
    "under_review": "completed failed reversed",
    "completed": "reversed under_review",
    "failed": "under_review",
    "cancelled": "under_review",
    "reversed": "under_review",
}
PAIRS = list(product(Kind, Status, Status, Cause))


@pytest.mark.parametrize("kind", Kind)
def test_the_table_is_the_designs(kind: Kind) -> None:
    table = COLLECTION if kind in (Kind.PAYMENT, Kind.FUNDING) else MONEY_OUT
    assert {before.value: set(after) for before, after in LIFECYCLE[kind].items()} == {
        before: set(after.split()) for before, after in table.items()
    }


def test_what_each_cause_may_do() -> None:
    """Users only cancel; the clock only ends what is open; operators decide reviews, and refuse money that is to go out."""
    for kind, before, after, cause in PAIRS:
        if not allowed(kind, before, after, cause):
            continue
        assert before is not after
        assert after is not Status.PENDING
        if cause is Cause.USER:
            assert after is Status.CANCELLED
            assert before in (Status.PENDING, Status.REQUIRES_ACTION)
        if cause is Cause.TIMER:
            assert before in OPEN
            assert after not in (Status.COMPLETED, Status.CANCELLED, Status.REQUIRES_ACTION)
        if cause is Cause.OPERATOR:
            refused = (before, after) == (Status.PENDING, Status.CANCELLED) and kind in (Kind.WITHDRAWAL, Kind.AIRTIME)
            assert refused or before is Status.UNDER_REVIEW


def test_move_follows_the_table_for_every_pair() -> None:
    for kind, before, after, cause in PAIRS:
        if before is after:
            continue
        of = unit(before, kind=kind)
        version = of.transaction.version
        try:
            move(of, after, cause=cause, origin=ORIGIN, now=NOW)
            moved = True
        except MoveRefused:
            moved = False
        assert moved is allowed(kind, before, after, cause), (kind, before, after, cause)
        assert of.transaction.status is (after if moved else before)
        assert of.transaction.version - version == len(of.events) == int(moved)


async def test_the_database_holds_the_same_table(connection: Any) -> None:
    rows = await connection.fetch("SELECT kind, from_status, to_status, cause FROM transitions")
    assert sorted(tuple(row) for row in rows) == transition_rows()


TRY_ALL = """
    CREATE FUNCTION pg_temp.try_all(causes text[], kinds text[], statuses text[])
    RETURNS TABLE (kind text, before text, after text, cause text, answer text) LANGUAGE plpgsql AS $$
    DECLARE one uuid;
    BEGIN
        FOREACH kind IN ARRAY kinds LOOP FOREACH before IN ARRAY statuses LOOP
            one := gen_random_uuid();
            -- Only a superuser may put a row into any status; every trigger sleeps meanwhile.
            SET LOCAL session_replication_role = replica;
            INSERT INTO transactions (id, user_id, kind, reference, status, version, amount_minor, currency, paid_minor,
                next_check_at)
            SELECT one, id, kind, replace(one::text, '-', ''), before, 3, 100, 'NGN', 100, now() FROM users LIMIT 1;
            SET LOCAL session_replication_role = origin;
            FOREACH after IN ARRAY statuses LOOP FOREACH cause IN ARRAY causes LOOP
                BEGIN
                    UPDATE transactions SET status = after, version = 4, last_cause = cause WHERE id = one;
                    RAISE EXCEPTION 'undo' USING ERRCODE = 'P0999';
                EXCEPTION WHEN SQLSTATE 'P0999' THEN answer := 'moved';
                          WHEN check_violation THEN answer := 'check_violation';
                END;
                RETURN NEXT;
            END LOOP; END LOOP;
        END LOOP; END LOOP;
    END $$
"""


async def test_the_trigger_follows_the_table_for_every_pair(connection: Any) -> None:
    await connection.execute(TRY_ALL)
    rows = await connection.fetch(
        "SELECT * FROM pg_temp.try_all($1, $2, $3)",
        [*(cause.value for cause in Cause), "nobody"],
        [kind.value for kind in Kind],
        [status.value for status in Status],
    )
    assert len(rows) == len(Kind) * len(Status) ** 2 * (len(Cause) + 1)
    permitted = set(transition_rows())
    for kind, before, after, cause, answer in rows:
        may = before == after or (kind, before, after, cause) in permitted
        assert answer == ("moved" if may else "check_violation"), (kind, before, after, cause)


async def insert(connection: Any, **changes: Any) -> Any:
    """One pending transaction by plain SQL; its id."""
    of = unit().transaction
    values: dict[str, Any] = {
        "id": of.id,
        "user_id": of.user_id,
        "kind": "payment",
        "reference": of.reference,
        "status": "pending",
        "version": 1,
        "amount_minor": 100,
        "currency": "NGN",
        "next_check_at": NOW,
        **changes,
    }
    numbers = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    await connection.execute(f"INSERT INTO transactions ({', '.join(values)}) VALUES ({numbers})", *values.values())
    return values["id"]


async def refused(connection: Any, error: type[Exception], statement: str, *values: Any) -> str:
    """The message of a statement that the database refuses with this error; the transaction goes on."""
    with pytest.raises(error) as raised:
        async with connection.transaction():
            await connection.execute(statement, *values)
    return str(raised.value)


async def test_a_status_never_changes_without_an_event(connection: Any) -> None:
    one = await insert(connection)
    update = "UPDATE transactions SET status = 'processing', last_cause = 'provider', version = $2 WHERE id = $1"
    assert "moves without an event" in await refused(connection, asyncpg.CheckViolationError, update, one, 1)
    assert "goes back" in await refused(connection, asyncpg.CheckViolationError, update, one, 0)
    await connection.execute(update, one, 2)
    assert await connection.fetchval("SELECT status FROM transactions WHERE id = $1", one) == "processing"


async def test_a_version_never_goes_back_even_without_a_move(connection: Any) -> None:
    one = await insert(connection)
    await connection.execute("UPDATE transactions SET version = 5 WHERE id = $1", one)
    message = await refused(
        connection, asyncpg.CheckViolationError, "UPDATE transactions SET version = 4 WHERE id = $1", one
    )
    assert "goes back" in message


async def test_nobody_is_no_cause(connection: Any) -> None:
    one = await insert(connection)
    update = "UPDATE transactions SET status = 'processing', version = 2 WHERE id = $1"
    assert "by nobody" in await refused(connection, asyncpg.CheckViolationError, update, one)


@pytest.mark.parametrize(
    "change",
    [
        "amount_minor = 101",
        "currency = 'USD'",
        "kind = 'funding'",
        "reference = 'another000000000'",
        "user_id = gen_random_uuid()",
    ],
)
async def test_what_a_transaction_is_about_never_changes(connection: Any, change: str) -> None:
    one = await insert(connection)
    message = await refused(
        connection, asyncpg.CheckViolationError, f"UPDATE transactions SET {change}, version = 2 WHERE id = $1", one
    )
    assert "never changes" in message


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.PENDING, Status.UNDER_REVIEW}))
async def test_a_transaction_starts_pending_or_under_review(connection: Any, status: Status) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="starts as pending or under_review"):
        await insert(connection, status=status.value, paid_minor=1)


async def test_money_without_a_transaction_starts_under_review(connection: Any) -> None:
    one = await insert(connection, status="under_review", next_check_at=None)
    assert await connection.fetchval("SELECT version FROM transactions WHERE id = $1", one) == 1


@pytest.mark.parametrize("table", ["transactions", "attempts"])
async def test_transactions_and_attempts_are_never_deleted(connection: Any, table: str) -> None:
    one = await insert(connection)
    await connection.execute(
        "INSERT INTO attempts (id, transaction_id, user_id, number, operation, provider, reference, status, amount_minor,"
        " currency) VALUES ($1, $1, $1, 1, 'collect', 'paystack', $1::uuid::text, 'created', 1, 'NGN')",
        one,
    )
    message = await refused(connection, asyncpg.RestrictViolationError, f"DELETE FROM {table} WHERE id = $1", one)
    assert message == f"{table} is append-only"
