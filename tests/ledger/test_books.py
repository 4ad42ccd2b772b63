"""The books check: clean where all is well; and for every lie that could be told in the tables, the break that names it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from payflow.core.clock import utc_now
from payflow.core.errors import Conflict
from payflow.core.ids import new_reference, uuid7
from payflow.core.money import Money
from payflow.core.settings import Settings
from payflow.events.repository import EventRepository
from payflow.events.types import Event
from payflow.gateway.contract import Operation, Result, Verdict
from payflow.infra.database import Database
from payflow.ledger.books import Books
from payflow.ledger.journals import Line, Reversals, account_id
from payflow.ledger.repository import Accounts, balance_at
from payflow.transactions import repository as sql
from payflow.transactions.aggregate import Attempt, AttemptStatus, Refund, RefundStatus, Source, Transaction, Unit
from payflow.transactions.books.repository import BooksRepository
from payflow.transactions.books.service import BooksBroken, BooksService, CheckRunning
from payflow.transactions.lifecycle import Cause, Kind, Status
from payflow.transactions.outgoing import open_outgoing
from payflow.transactions.refunds import routing_of
from payflow.transactions.service import Answer, Transactions
from payflow.transactions.settle import expire, resolve_review, settle
from tests.house import House, Urls
from tests.ledger.test_books_machine import NO, PROVIDER, Silent, add_users
from tests.services import create_database, drop_database
from tests.transactions.builders import context, first, posted, told, unit

SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]


class Told:
    """A funding of 5000 and a withdrawal of 2000 for one user, and what may be done to the tables behind their back."""

    def __init__(self, database: Database, user: UUID) -> None:
        self.database, self.user = database, user
        self.transactions = Transactions(database, Silent(), utc_now, SETTINGS)  # type: ignore[arg-type]
        self.books = BooksRepository(database)
        self.service = BooksService(database, EventRepository(database), utc_now, SETTINGS)

    def intent(self, kind: Kind, minor: int) -> tuple[Transaction, Attempt]:
        now, amount = utc_now(), Money(minor, "NGN")
        transaction = Transaction(
            uuid7(),
            self.user,
            kind,
            new_reference("pay"),
            amount,
            now,
            provider="paystack",
            next_check_at=now,
            updated_at=now,
        )
        operation = Operation.COLLECT if kind is Kind.FUNDING else Operation.PAYOUT
        attempt = Attempt(
            uuid7(),
            transaction.id,
            self.user,
            1,
            operation,
            "paystack",
            new_reference("att"),
            amount,
            now,
            updated_at=now,
        )
        return transaction, attempt

    async def fund(self, minor: int) -> tuple[Transaction, Attempt]:
        transaction, attempt = self.intent(Kind.FUNDING, minor)
        event = told_of(transaction)
        async with self.database.transaction() as connection:
            await sql.add_intent(connection, transaction, attempt, event)
        await self.settle(attempt, Verdict.COMPLETED)
        return transaction, attempt

    async def withdraw(self, minor: int) -> tuple[Transaction, Attempt]:
        transaction, attempt = self.intent(Kind.WITHDRAWAL, minor)
        async with self.database.transaction() as connection:
            await open_outgoing(connection, Accounts(), transaction, attempt, PROVIDER, utc_now())
        return transaction, attempt

    async def settle(self, attempt: Attempt, verdict: Verdict) -> Unit:
        result = Result(verdict, requested=attempt.amount, paid=attempt.amount, failure=NO)
        return await self.transactions.settle(Answer(attempt.id, result, Source.WEBHOOK, PROVIDER))

    async def wallet(self) -> tuple[int, int]:
        async with self.database.raw() as connection:
            row = await connection.fetchrow(
                "SELECT available_minor, held_minor FROM wallets WHERE user_id = $1", self.user
            )
        return row["available_minor"], row["held_minor"]

    async def lie(self, *statements: str) -> None:
        """Write past the triggers, as a mistaken administrator could."""
        async with self.database.transaction() as connection:
            await connection.execute("SET LOCAL session_replication_role = replica")
            for statement in statements:
                await connection.execute(statement)

    async def check(self) -> Books:
        books = await self.books.check(utc_now())
        assert books is not None
        return books

    async def breaks(self) -> set[str]:
        return {each.what for each in (await self.check()).breaks}


def told_of(transaction: Transaction) -> Event:

    return Event(
        uuid7(),
        "payment.initiated",
        utc_now(),
        user_id=transaction.user_id,
        transaction_id=transaction.id,
        sequence=1,
        status="pending",
    )


@pytest.fixture
async def books(urls: Urls) -> AsyncIterator[Told]:
    url = await create_database(urls.postgres, template=urls.template)
    database, user = Database(url, pool_size=3), uuid7()
    await add_users(database, [user])
    story = Told(database, user)
    await story.fund(5_000)
    await story.withdraw(2_000)
    yield story
    await database.close()
    await drop_database(urls.postgres, url)


async def test_books_in_order_are_clean(books: Told) -> None:
    found = await books.check()
    assert (found.clean, found.breaks_found, found.breaks, found.warnings) == (True, 0, [], [])
    assert found.entries == 4
    assert await books.wallet() == (3_000, 2_000)


LIES = {
    "an entry changed": (
        "UPDATE ledger_entries SET amount_minor = amount_minor + 1 WHERE id = (SELECT min(id) FROM ledger_entries)",
        {"trial_balance", "journal"},
    ),
    "two entries changed against each other": (
        "UPDATE ledger_entries SET amount_minor = amount_minor + CASE WHEN id = (SELECT min(id) FROM ledger_entries)"
        " THEN 1 ELSE -1 END WHERE id IN (SELECT min(id) FROM ledger_entries UNION SELECT max(id) FROM ledger_entries)",
        {"journal", "owned", "wallet"},
    ),
    "a wallet made richer": ("UPDATE wallets SET available_minor = available_minor + 1", {"wallet"}),
    "a wallet's held money forgotten": ("UPDATE wallets SET held_minor = 0", {"wallet", "wallet_holds"}),
    "a wallet lost": ("DELETE FROM wallets", {"wallet"}),
    "a wallet below zero": (
        "ALTER TABLE wallets DROP CONSTRAINT ck_wallets_available; UPDATE wallets SET available_minor = -1",
        {"wallet", "negative_wallet"},
    ),
    "a hold released without a posting": (
        "UPDATE holds SET status = 'released', ended_at = now()",
        {"hold_postings", "hold_of_transaction", "wallet_holds"},
    ),
    "a hold lost": ("DELETE FROM holds", {"hold_of_transaction", "wallet_holds", "orphan_journal"}),
    "a withdrawal called completed": (
        "UPDATE transactions SET status = 'completed', paid_minor = amount_minor WHERE kind = 'withdrawal'",
        {"hold_of_transaction", "owned"},
    ),
    "a withdrawal called failed": (
        "UPDATE transactions SET status = 'failed' WHERE kind = 'withdrawal'",
        {"hold_of_transaction"},
    ),
    "a funding called failed": ("UPDATE transactions SET status = 'failed' WHERE kind = 'funding'", {"owned"}),
    "a paid funding called open": (
        "UPDATE transactions SET status = 'processing', next_check_at = now() WHERE kind = 'funding'",
        {"owned"},
    ),
    "a payment forgotten by its attempt": (
        "UPDATE attempts SET status = 'declined' WHERE operation = 'collect'",
        {"collected", "paid"},
    ),
    "an attempt called paid": (
        "UPDATE ledger_journals SET source_id = gen_random_uuid() WHERE kind = 'collected'",
        {"collected", "orphan_journal", "paid"},
    ),
    "a payment taken back that had brought more": (
        "UPDATE transactions SET status = 'reversed' WHERE kind = 'funding';"
        " UPDATE attempts SET paid_minor = 6000 WHERE operation = 'collect'",
        {"owned", "paid"},
    ),
    "more paid than came": ("UPDATE transactions SET paid_minor = 6000 WHERE kind = 'funding'", {"owned", "paid"}),
    "a payment credited to somebody else": (
        "INSERT INTO ledger_accounts (id, code, user_id, currency)"
        " VALUES ('00000000-0000-7000-8000-000000000001', 'sales', '00000000-0000-7000-8000-000000000002', 'NGN');"
        " UPDATE ledger_entries SET account_id = '00000000-0000-7000-8000-000000000001' WHERE id ="
        " (SELECT e.id FROM ledger_entries e JOIN ledger_journals j ON j.id = e.journal_id"
        " WHERE j.kind = 'collected' AND e.amount_minor < 0)",
        {"account", "wallet"},
    ),
    "a payment collected at another provider": (
        "UPDATE ledger_accounts SET code = 'provider_clearing:stripe' WHERE code = 'provider_clearing:paystack'",
        {"account"},
    ),
    "a posting of no transaction": (
        "UPDATE ledger_journals SET transaction_id = NULL WHERE kind = 'collected'",
        {"orphan_journal", "owned"},
    ),
    "a posting that nobody gave a reason for": (
        "UPDATE ledger_journals SET source_type = 'gift', transaction_id = NULL WHERE kind = 'collected'",
        {"collected", "orphan_journal", "owned", "paid"},
    ),
    "money in suspense that nobody brought": (
        "UPDATE ledger_accounts SET code = 'suspense' WHERE code = 'provider_clearing:paystack'",
        {"account", "suspense"},
    ),
    "money under review that is not in suspense": (
        "UPDATE attempts SET status = 'under_review' WHERE operation = 'collect'",
        {"collected", "paid", "suspense"},
    ),
    "a refund without a refund": (
        "UPDATE transactions SET refunded_minor = 10 WHERE kind = 'funding'",
        {"owned", "refunded"},
    ),
}


@pytest.mark.parametrize(("statement", "expected"), LIES.values(), ids=LIES.keys())
async def test_every_lie_is_found(books: Told, statement: str, expected: set[str]) -> None:
    await books.lie(*statement.split("; "))
    assert await books.breaks() == expected


async def test_a_break_names_the_postings_that_were_found(books: Told) -> None:
    await books.lie(
        "UPDATE attempts SET status = 'declined' WHERE operation = 'collect'",
        "INSERT INTO ledger_journals (id, kind, source_type, source_id, transaction_id)"
        " SELECT gen_random_uuid(), 'suspended', source_type, source_id, transaction_id FROM ledger_journals"
        " WHERE kind = 'collected'",
    )
    found = [each for each in (await books.check()).breaks if each.what == "collected"]
    assert [(each.expected, each.found) for each in found] == [("declined", "collected, suspended")]


async def test_journals_of_each_kind_of_source_that_is_missing_are_found(books: Told) -> None:
    await books.lie(
        "INSERT INTO ledger_journals (id, kind, source_type, source_id)"
        " SELECT gen_random_uuid(), 'held', type, gen_random_uuid() FROM unnest('{attempt,refund,hold}'::text[]) AS t (type)"
    )
    found = [each.expected.split()[0] for each in (await books.check()).breaks if each.what == "orphan_journal"]
    assert sorted(found) == ["attempt", "hold", "refund"]


async def test_a_refund_that_says_more_than_its_posting_is_found(books: Told) -> None:
    async with books.database.raw() as connection:
        attempt = await connection.fetchrow("SELECT * FROM attempts WHERE operation = 'collect'")
    await books.lie(
        f"INSERT INTO refunds (id, transaction_id, user_id, attempt_id, payment_attempt_id, reference, status,"
        f" amount_minor, currency) VALUES (gen_random_uuid(), '{attempt['transaction_id']}', '{books.user}',"
        f" '{attempt['id']}', '{attempt['id']}', 'ref1', 'completed', 100, 'NGN')"
    )
    found = (await books.check()).breaks
    assert [(each.what, each.expected, each.found) for each in found] == [
        ("refund_postings", "gone", "nothing"),
        ("refunded", "100", "0"),
    ]


async def test_a_gap_in_a_history_is_a_warning(books: Told) -> None:
    await books.lie("DELETE FROM events WHERE type = 'wallet.held'")
    found = await books.check()
    assert found.clean
    assert [(each.what, each.expected, each.found) for each in found.warnings] == [
        ("event_gap", "1 to 2", "1 of 1 to 1")
    ]


async def test_at_most_a_hundred_of_a_kind_are_listed_and_all_are_counted(books: Told) -> None:
    await books.lie(
        "INSERT INTO ledger_journals (id, kind, source_type, source_id)"
        " SELECT gen_random_uuid(), 'collected', 'attempt', gen_random_uuid() FROM generate_series(1, 150)"
    )
    found = await books.check()
    assert (found.breaks_found, len(found.breaks)) == (150, 100)


# -- kept for every node --------------------------------------------------------------------------------------------------


async def events_told(books: Told) -> list[dict[str, Any]]:
    async with books.database.raw() as connection:
        rows = await connection.fetch("SELECT data FROM events WHERE type = 'books.broken' ORDER BY id")
    return [row["data"] for row in rows]


async def test_what_was_found_is_kept_and_each_break_is_told_once(books: Told) -> None:
    assert await books.service.last() is None
    await books.service.refuse_broken()
    kept = await books.service.check()
    assert await books.service.last() == kept
    assert await events_told(books) == []
    await books.lie("UPDATE wallets SET available_minor = available_minor + 1")
    for _ in range(2):
        broken = await books.service.check()
        assert await books.service.last() == broken
    told = {"breaks_found": 1, "breaks": [{"what": "wallet", "id": f"{books.user} NGN"}]}
    assert await events_told(books) == [told]
    with pytest.raises(BooksBroken):
        await books.service.refuse_broken()


async def test_a_worker_checks_only_when_no_other_has_lately(books: Told) -> None:
    first_check = await books.service.check_due()
    assert await books.service.check_due() == first_check
    later = BooksService(
        books.database, EventRepository(books.database), lambda: utc_now() + timedelta(seconds=901), SETTINGS
    )
    assert await later.check_due() != first_check


async def test_one_process_checks_at_a_time(books: Told) -> None:
    async with books.database.transaction() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(x'626f6f6b73'::bigint)")
        with pytest.raises(CheckRunning):
            await books.service.check()
        assert await books.service.check_due() is None
    assert (await books.service.check()).clean


async def test_a_check_sees_one_moment(books: Told) -> None:
    """While postings are written all the time, no half of one is ever seen."""

    over = asyncio.Event()

    async def post() -> None:
        while not over.is_set():
            await books.fund(100)

    posting = asyncio.create_task(post())
    checks = [await books.check()]
    while len(checks) < 10 or (checks[-1].entries == checks[0].entries and not posting.done()):
        checks.append(await books.check())
    over.set()
    await posting
    assert [check.breaks for check in checks if check.breaks] == []
    assert checks[-1].entries > checks[0].entries


# -- over the API, and in the command -------------------------------------------------------------------------------------


async def test_administrators_see_the_books_and_readiness_tells_of_a_break(house: House) -> None:
    ada, admin = await house.merchant(), await house.merchant(admin=True, name="Admin")
    assert (await ada.client.get("/api/v1/books")).status_code == 403
    seen = await admin.client.get("/api/v1/books", params={"fresh": "true"})
    assert seen.status_code == 200, seen.text
    assert (seen.json()["clean"], seen.json()["breaks"]) == (True, [])
    async with house.services.database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            "UPDATE wallets SET available_minor = 5 WHERE user_id = $1 AND currency = 'NGN'", ada.id
        )
    broken = (await admin.client.get("/api/v1/books", params={"fresh": "true"})).json()
    found = {"what": "wallet", "id": f"{ada.id} NGN", "expected": "available 0, held 0", "found": "available 5, held 0"}
    assert (broken["clean"], broken["breaks"]) == (False, [found])
    assert (await admin.client.get("/api/v1/books")).json() == broken
    ready = await admin.client.get("/api/v1/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["checks"]["books"] == {
        **ready.json()["checks"]["books"],
        "status": "down",
        "detail": "BooksBroken",
    }


# -- a balance at a moment -------------------------------------------------------------------------------------------------


async def test_the_balance_of_an_account_at_a_moment(books: Told) -> None:
    wallet = account_id("wallet", books.user, "NGN")
    async with books.database.raw() as connection:
        moments = [
            row["created_at"] for row in await connection.fetch("SELECT created_at FROM ledger_journals ORDER BY id")
        ]
        before = moments[0] - timedelta(microseconds=1)
        assert [await balance_at(connection, wallet, moment) for moment in (before, *moments)] == [0, -5_000, -3_000]
        assert await balance_at(connection, wallet) == -3_000
        assert await balance_at(connection, account_id("wallet", uuid7(), "NGN")) == 0


# -- what the stories of the machine found in the core -----------------------------------------------------------------------


async def test_money_that_went_after_its_hold_was_released_is_taken_from_the_wallet(books: Told) -> None:
    transaction, attempt = await books.withdraw(2_500)
    await books.settle(attempt, Verdict.DECLINED)
    await books.withdraw(2_000)  # spent meanwhile: 1000 of 3000 are left
    await books.settle(attempt, Verdict.COMPLETED)
    await books.transactions.resolve(transaction.id, Status.COMPLETED, "the bank shows it", PROVIDER)
    async with books.database.raw() as connection:
        owed = await balance_at(connection, account_id("receivable", books.user, "NGN"))
        status = await connection.fetchval("SELECT status FROM wallets WHERE user_id = $1", books.user)
    assert (await books.wallet(), owed, status) == ((0, 4_000), 1_500, "frozen")
    assert await books.breaks() == set()


async def test_money_that_went_after_a_person_had_called_it_reversed_is_decided_again(books: Told) -> None:
    transaction, attempt = await books.withdraw(2_500)
    async with books.database.transaction() as connection:
        await books.transactions.change(
            connection, transaction.id, None, lambda unit: expire(unit, first(unit), utc_now(), proven_unpaid=False)
        )
    await books.transactions.resolve(transaction.id, Status.REVERSED, "it did not arrive", PROVIDER)
    assert await books.wallet() == (3_000, 2_000)
    late = await books.settle(attempt, Verdict.COMPLETED)
    assert late.transaction.status is Status.UNDER_REVIEW
    assert await books.breaks() == set()
    await books.transactions.resolve(transaction.id, Status.COMPLETED, "the bank shows it", PROVIDER)
    assert await books.wallet() == (500, 2_000)
    assert await books.breaks() == set()


async def test_a_refund_that_went_after_its_hold_was_released_is_a_persons_to_decide(books: Told) -> None:
    transaction, paid = await books.fund(2_500)
    now = utc_now()

    def build(unit: Unit) -> tuple[Refund, Attempt, None]:
        order = replace(unit.attempts[paid.id], id=uuid7(), number=2, operation=Operation.REFUND, paid=None)
        order.reference, order.routing = new_reference("att"), routing_of(unit.attempts[paid.id])
        about = (uuid7(), transaction.id, books.user, order.id, paid.id, new_reference("ref"))
        return Refund(*about, paid.amount, now, now, next_check_at=now), order, None

    async with books.database.transaction() as connection:
        _, refund = await books.transactions.open_refund(connection, transaction.id, build, PROVIDER, Cause.USER)
    assert refund is not None
    for verdict, source in ((Verdict.DECLINED, Source.WEBHOOK), (Verdict.COMPLETED, Source.QUERY)):
        answer = Answer(refund.attempt_id, Result(verdict, requested=paid.amount, failure=NO), source, PROVIDER)
        unit = await books.transactions.settle(answer)
    assert (told(unit)[-1], unit.refunds[refund.attempt_id].status) == ("refund.under_review", RefundStatus.FAILED)
    await books.withdraw(5_000)  # spent meanwhile: 500 of 5500 are left
    async with books.database.transaction() as connection:
        about = (transaction.id, refund.id, RefundStatus.COMPLETED, "the bank shows it", PROVIDER)
        _, decided = await books.transactions.resolve_refund(connection, *about)
    async with books.database.raw() as connection:
        owed = await balance_at(connection, account_id("receivable", books.user, "NGN"))
    assert (decided.status, await books.wallet(), owed) == (RefundStatus.COMPLETED, (0, 7_000), 2_000)
    assert await books.breaks() == set()


async def test_two_reversals_in_one_batch_take_what_is_there_once(books: Told) -> None:
    _, one = await books.fund(2_000)
    _, two = await books.fund(2_000)
    await books.withdraw(4_000)  # 3000 of the 7000 are left
    answers = [
        Answer(attempt.id, Result(Verdict.REVERSED, requested=attempt.amount), Source.WEBHOOK, PROVIDER)
        for attempt in (one, two)
    ]
    async with books.database.transaction() as connection:
        await books.transactions.settle_in(connection, answers)
    async with books.database.raw() as connection:
        owed = await balance_at(connection, account_id("receivable", books.user, "NGN"))
    assert (await books.wallet(), owed) == ((0, 6_000), 1_000)
    assert await books.breaks() == set()


async def test_a_payment_that_is_made_and_taken_back_within_one_batch_takes_both_steps(books: Told) -> None:
    transaction, attempt = books.intent(Kind.FUNDING, 1_000)
    async with books.database.transaction() as connection:
        await sql.add_intent(connection, transaction, attempt, told_of(transaction))
        answers = [
            Answer(attempt.id, Result(verdict, requested=attempt.amount), Source.WEBHOOK, PROVIDER)
            for verdict in (Verdict.COMPLETED, Verdict.REVERSED)
        ]
        [settled] = await books.transactions.settle_in(connection, answers)
    assert told(settled) == ["payment.completed", "wallet.credited", "wallet.debited", "payment.reversed"]
    assert settled.transaction.status is Status.REVERSED
    assert await books.wallet() == (3_000, 2_000)
    assert await books.breaks() == set()


async def test_a_debt_that_began_with_a_chargeback_ends_when_the_dispute_is_won(books: Told) -> None:
    _, attempt = await books.fund(2_000)
    await books.withdraw(4_500)  # 500 are left
    for verdict, wallet, debt in (
        (Verdict.REVERSED, (0, 6_500), 1_500),
        (Verdict.DISPUTE_WON, (500, 6_500), 0),
        (Verdict.REVERSED, (0, 6_500), 1_500),
    ):
        await books.settle(attempt, verdict)
        async with books.database.raw() as connection:
            owed = await balance_at(connection, account_id("receivable", books.user, "NGN"))
        assert (await books.wallet(), owed) == (wallet, debt)
        assert await books.breaks() == set()


async def test_what_went_back_out_of_suspense_was_nobodys(books: Told) -> None:
    transaction, attempt = books.intent(Kind.FUNDING, 700)
    async with books.database.transaction() as connection:
        await sql.add_intent(connection, transaction, attempt, told_of(transaction))
    foreign = Result(Verdict.COMPLETED, requested=attempt.amount, paid=Money(700, "USD"))
    await books.transactions.settle(Answer(attempt.id, foreign, Source.WEBHOOK, PROVIDER))
    await books.transactions.resolve(transaction.id, Status.REVERSED, "sent back by the bank", PROVIDER)
    assert await books.breaks() == set()


async def test_a_second_payment_on_its_way_back_holds_nothing_of_the_wallet(books: Told) -> None:
    transaction, paid = await books.fund(700)
    before = await books.wallet()
    second = replace(paid, id=uuid7(), number=2, reference=new_reference("att"), status=AttemptStatus.CREATED)
    await books.transactions.add_attempt(second)
    await books.settle(second, Verdict.COMPLETED)

    def build(unit: Unit) -> tuple[Refund, Attempt, None]:
        payment, now = unit.attempts[second.id], utc_now()
        order = replace(second, id=uuid7(), number=3, operation=Operation.REFUND, reference=new_reference("att"))
        order.routing = routing_of(payment)
        refund = Refund(
            uuid7(),
            transaction.id,
            books.user,
            order.id,
            second.id,
            new_reference("ref"),
            second.amount,
            now,
            now,
            next_check_at=now,
        )
        return refund, order, None

    async with books.database.transaction() as connection:
        await books.transactions.open_refund(connection, transaction.id, build, PROVIDER, Cause.USER)
    assert await books.wallet() == before
    assert await books.breaks() == set()


def test_what_was_given_back_by_hand_counts_once_for_two_paid_attempts() -> None:

    of = unit(
        Status.UNDER_REVIEW,
        [AttemptStatus.SUCCEEDED, AttemptStatus.SUCCEEDED],
        paid_minor=1_000_000,
        refunded_minor=100_000,
    )
    resolve_review(of, list(of.attempts.values()), Status.REFUNDED, "sent back", PROVIDER, utc_now())
    assert [amounts["sales"] for _, amounts in posted(of)] == [400_000, 500_000]


def test_a_won_dispute_gives_again_what_was_taken_and_not_what_is_left_now() -> None:
    of = unit(Status.REVERSED, AttemptStatus.REVERSED, paid_minor=500_000, refunded_minor=0)
    attempt = first(of)
    lines = [
        Line("sales", of.transaction.user_id, "NGN", 300_000),
        Line("provider_clearing:paystack", None, "NGN", -300_000),
    ]
    of.reversals[attempt.id] = Reversals(1, 0, lines)
    settle(of, attempt, Result(Verdict.DISPUTE_WON), context())
    assert posted(of) == [("reinstated", {"sales": -300_000, "provider_clearing:paystack": 300_000})]


def test_what_was_credited_cannot_be_called_failed() -> None:

    of = unit(Status.UNDER_REVIEW, AttemptStatus.SUCCEEDED, paid_minor=500_000)
    with pytest.raises(Conflict, match="has not failed"):
        resolve_review(of, list(of.attempts.values()), Status.FAILED, "no", PROVIDER, utc_now())
    assert (of.transaction.status, told(of), posted(of)) == (Status.UNDER_REVIEW, [], [])
