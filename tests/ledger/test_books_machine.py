"""Whatever happens to payments, wallets and withdrawals, in whatever order: the books stay clean, and no balance goes below
zero. Hypothesis tells stories of customers, providers, crashes and operators over a real database, through the services that
every answer passes; after each step the whole books are checked.

`make prove` tells some ten thousands of steps instead of some thousands.
"""

import asyncio
import os
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from payflow.core.errors import Conflict
from payflow.core.ids import new_reference, uuid7
from payflow.core.money import Money
from payflow.core.settings import Settings
from payflow.events.types import Actor, Event, Origin
from payflow.gateway.contract import ActionType, Failure, NextAction, Operation, Result, Verdict
from payflow.infra.database import Database, RawConnection
from payflow.ledger import repository as ledger
from payflow.transactions import repository as sql
from payflow.transactions.aggregate import Attempt, Received, Refund, RefundStatus, Source, Transaction, Unit
from payflow.transactions.books.repository import BooksRepository
from payflow.transactions.lifecycle import Cause, Kind, Status
from payflow.transactions.outgoing import open_outgoing
from payflow.transactions.refunds import made_elsewhere, refundable, routing_of
from payflow.transactions.service import Answer, Transactions
from tests.house import Urls
from tests.services import create_database, drop_database

T = TypeVar("T")

PROVING = os.environ.get("PAYFLOW_PROVE") == "1"
STORIES, STEPS = (600, 60) if PROVING else (100, 40)

ADMIN, PROVIDER = Origin(Actor.USER), Origin(Actor.PROVIDER)
CURRENCIES, PROVIDERS = ("NGN", "KES", "UGX"), ("paystack", "stripe")
USERS = 5
STORIES_A_DATABASE = 50  # each check reads all of it
OPERATIONS = {Kind.WITHDRAWAL: Operation.PAYOUT, Kind.AIRTIME: Operation.PURCHASE}
REFUNDABLE = (Status.COMPLETED, Status.PARTIALLY_REFUNDED)
NO = Failure("declined", "No.")

users, currencies = st.integers(0, USERS - 1), st.sampled_from(CURRENCIES)
picks = st.integers(0, 10_000)
amounts = st.sampled_from((1, 100, 999, 5_000))
# What a customer paid and what the provider kept: mostly what was asked for.
deviations = st.sampled_from(("none", "none", "none", "fee", "fee on top", "too little", "other currency", "nothing"))
# Some verdicts are likelier, because nothing follows where no money moved.
verdicts = st.sampled_from((*Verdict, *[Verdict.COMPLETED] * 8, *[Verdict.REVERSED] * 2, *[Verdict.DECLINED] * 2))
outcomes = st.one_of(st.none(), verdicts)  # None: the process died before the answer was written down
sources = st.sampled_from((Source.WEBHOOK, Source.QUERY))


class Silent:
    """Nobody listens."""

    async def publish(self, events: Any, cached: Any = ()) -> None: ...


class Stage:
    """A database for the stories, on an event loop of its own. One whose books were broken is thrown away."""

    def __init__(self, urls: Urls) -> None:
        self._urls = urls
        self._runner = asyncio.Runner()
        self.now = datetime(2026, 11, 21, 10, tzinfo=UTC)
        self.broken, self.stories = False, 0
        self._url = ""
        self.renew()

    def renew(self) -> None:
        if self._url:
            self.close_database()
        self._url = self.run(create_database(self._urls.postgres, template=self._urls.template))
        self.database = Database(self._url, pool_size=3)
        self.books = BooksRepository(self.database)
        settings = Settings(_env_file=None)  # type: ignore[call-arg]
        self.transactions = Transactions(self.database, Silent(), lambda: self.now, settings)  # type: ignore[arg-type]
        self.accounts = ledger.Accounts()
        self.broken = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def close_database(self) -> None:
        self.run(self.database.close())
        self.run(drop_database(self._urls.postgres, self._url))

    def close(self) -> None:
        self.close_database()
        self._runner.close()


async def add_users(database: Database, users: list[UUID]) -> None:
    async with database.raw() as connection:
        for user in users:
            await connection.execute(
                "INSERT INTO users (id, email, name, password_hash, role, created_at)"
                " VALUES ($1, $2, 'Ada', 'x', 'user', now())",
                user,
                f"{user}@example.com",
            )


class BooksMachine(RuleBasedStateMachine):
    """What the tests know of the stories: who there is, and which orders a provider could tell about."""

    stage: Stage

    def __init__(self) -> None:
        super().__init__()
        self.stage.stories += 1
        if self.stage.broken or self.stage.stories % STORIES_A_DATABASE == 0:
            self.stage.renew()
        self.users = [uuid7() for _ in range(USERS)]
        self.attempts: list[Attempt] = []  # collections, payouts and purchases
        self.refunds: list[Attempt] = []
        self.stage.run(add_users(self.stage.database, self.users))

    # -- what users start ---------------------------------------------------------------------------------------------

    @rule(
        user=users,
        currency=currencies,
        funding=st.booleans(),
        minor=amounts,
        outcome=outcomes,
        deviation=deviations,
        provider=st.sampled_from(PROVIDERS),
    )
    def collect(
        self,
        user: int,
        currency: str,
        funding: bool,
        minor: int,
        outcome: Verdict | None,
        deviation: str,
        provider: str,
    ) -> None:
        """A payment or a funding: intent, and the provider's first answer unless the process dies."""
        kind = Kind.FUNDING if funding else Kind.PAYMENT
        transaction, attempt = self._intent(user, kind, Money(minor, currency), provider)
        self.stage.run(self._begin(transaction, attempt))
        self.attempts.append(attempt)
        if outcome is not None:
            self.stage.run(self._outcome(Unit.of(transaction, [attempt]), attempt, answer(attempt, outcome, deviation)))

    @rule(user=users, currency=currencies, minor=amounts)
    def fund(self, user: int, currency: str, minor: int) -> None:
        """The plain way, so that there is money to spend."""
        self.collect(user, currency, True, minor, Verdict.COMPLETED, "none", "paystack")

    @rule(
        user=users,
        currency=currencies,
        kind=st.sampled_from((Kind.WITHDRAWAL, Kind.AIRTIME)),
        minor=amounts,
        outcome=outcomes,
        deviation=deviations,
    )
    def send_out(
        self, user: int, currency: str, kind: Kind, minor: int, outcome: Verdict | None, deviation: str
    ) -> None:
        """A withdrawal or a purchase: hold, provider, answer."""
        transaction, attempt = self._intent(user, kind, Money(minor, currency), "paystack")
        unit = self.stage.run(self._send_out(transaction, attempt))
        if unit is None:
            return
        self.attempts.append(attempt)
        if outcome is not None:
            self.stage.run(self._outcome(unit, attempt, answer(attempt, outcome, deviation)))

    @precondition(lambda self: self.attempts)
    @rule(pick=picks, share=st.sampled_from((1, 2, 3)), outcome=outcomes, elsewhere=st.booleans())
    def refund(self, pick: int, share: int, outcome: Verdict | None, elsewhere: bool) -> None:
        """All that is left, or a part; or the provider tells of a refund that was made there."""
        attempt = self.attempts[pick % len(self.attempts)]
        if attempt.operation is not Operation.COLLECT:
            return
        order = self.stage.run(self._open_refund(attempt, share, elsewhere))
        if order is None:
            return
        self.refunds.append(order)
        if outcome is not None:
            self.stage.run(
                self.stage.transactions.record_refund(
                    order.id, refund_answer(order, outcome), PROVIDER, finish_with=lambda _: None
                )
            )

    @precondition(lambda self: self.attempts)
    @rule(pick=picks, provider=st.sampled_from(PROVIDERS))
    def try_another(self, pick: int, provider: str) -> None:
        """Another provider's turn for the same payment: both may yet be paid."""
        before = self.attempts[pick % len(self.attempts)]
        if before.operation is Operation.COLLECT:
            attempt = self.stage.run(self._another(before, provider))
            self.attempts.append(attempt)

    @precondition(lambda self: self.attempts)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        attempt = self.attempts[pick % len(self.attempts)]
        self._unless_refused(self.stage.transactions.cancel(attempt.transaction_id, attempt.user_id, ADMIN))

    @rule(user=users, currency=currencies)
    def look_after_a_frozen_wallet(self, user: int, currency: str) -> None:
        async def thaw() -> None:
            async with self.stage.database.transaction() as connection:
                await ledger.set_wallet_status(connection, self.users[user], currency, "active", None)

        self.stage.run(thaw())

    # -- what providers tell ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.attempts)
    @rule(pick=picks, verdict=verdicts, source=sources, deviation=deviations)
    def tell(self, pick: int, verdict: Verdict, source: Source, deviation: str) -> None:
        """A webhook or the answer to the timer: early, late, contradictory, and then once more."""
        attempt = self.attempts[pick % len(self.attempts)]
        told = Answer(attempt.id, answer(attempt, verdict, deviation), source, PROVIDER)
        self._tell_twice(told)

    @precondition(lambda self: self.refunds)
    @rule(pick=picks, verdict=verdicts, source=sources)
    def tell_of_a_refund(self, pick: int, verdict: Verdict, source: Source) -> None:
        order = self.refunds[pick % len(self.refunds)]
        self._tell_twice(Answer(order.id, refund_answer(order, verdict), source, PROVIDER))

    @precondition(lambda self: self.attempts)
    @rule(told=st.lists(st.tuples(picks, verdicts, deviations), min_size=2, max_size=6))
    def tell_much_at_once(self, told: list[tuple[int, Verdict, str]]) -> None:
        """A batch of the worker: one database transaction, perhaps about the same wallet many times."""
        orders = [*self.attempts, *self.refunds]
        answers = []
        for pick, verdict, deviation in told:
            order = orders[pick % len(orders)]
            refunded = order.operation is Operation.REFUND
            said = refund_answer(order, verdict) if refunded else answer(order, verdict, deviation)
            answers.append(Answer(order.id, said, Source.WEBHOOK, PROVIDER))
        self.stage.run(self._settle(answers))

    @precondition(lambda self: self.attempts)
    @rule(pick=picks)
    def dispute(self, pick: int) -> None:
        """A payment is contested, lost, and in the end won after all."""
        attempt = self.attempts[pick % len(self.attempts)]
        for verdict in (Verdict.REVERSED, Verdict.DISPUTE_WON):
            self._tell_twice(Answer(attempt.id, answer(attempt, verdict, "none"), Source.WEBHOOK, PROVIDER))

    # -- what time and people do ---------------------------------------------------------------------------------------

    @rule(hours=st.sampled_from((1, 30, 400)))
    def wait(self, hours: int) -> None:
        self.stage.now += timedelta(hours=hours)

    @precondition(lambda self: self.attempts)
    @rule(
        pick=picks,
        outcome=st.sampled_from((Status.COMPLETED, Status.FAILED, Status.REFUNDED, Status.REVERSED)),
        came=st.sampled_from((None, None, Decimal(1), Decimal(50), Decimal(7_000))),
    )
    def resolve(self, pick: int, outcome: Status, came: Decimal | None) -> None:
        attempt = self.attempts[pick % len(self.attempts)]
        # How much came in all, a person says of collections only.
        said = came is not None and attempt.operation is Operation.COLLECT
        received = Received(came, attempt.reference) if said and came else None
        about = (attempt.transaction_id, outcome, "looked", ADMIN)
        self._unless_refused(self.stage.transactions.resolve(*about, received=received))

    @precondition(lambda self: self.refunds)
    @rule(pick=picks, completed=st.booleans())
    def resolve_a_refund(self, pick: int, completed: bool) -> None:
        self._unless_refused(
            self._resolve_refund(
                self.refunds[pick % len(self.refunds)], RefundStatus.COMPLETED if completed else RefundStatus.FAILED
            )
        )

    # -- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def the_books_are_clean(self) -> None:
        books = self.stage.run(self.stage.books.check(self.stage.now))
        assert books is not None
        self.stage.broken = not books.clean or books.warnings_found > 0
        assert books.breaks == []
        assert books.warnings == []

    # -- how -----------------------------------------------------------------------------------------------------------

    def _intent(self, user: int, kind: Kind, amount: Money, provider: str) -> tuple[Transaction, Attempt]:
        now = self.stage.now
        transaction = Transaction(
            id=uuid7(),
            user_id=self.users[user],
            kind=kind,
            reference=new_reference("pay"),
            amount=amount,
            created_at=now,
            provider=provider,
            next_check_at=now + timedelta(seconds=20),
            expires_at=None if kind in OPERATIONS else now + timedelta(hours=1),
            updated_at=now,
        )
        return transaction, self._attempt(transaction, OPERATIONS.get(kind, Operation.COLLECT), provider, amount, 1)

    def _attempt(
        self, of: Transaction, operation: Operation, provider: str, amount: Money, number: int, **more: Any
    ) -> Attempt:
        return Attempt(
            id=uuid7(),
            transaction_id=of.id,
            user_id=of.user_id,
            number=number,
            operation=operation,
            provider=provider,
            reference=new_reference("att"),
            amount=amount,
            created_at=self.stage.now,
            updated_at=self.stage.now,
            **more,
        )

    async def _begin(self, transaction: Transaction, attempt: Attempt) -> None:
        initiated = Event(
            id=uuid7(),
            type="payment.initiated",
            created_at=self.stage.now,
            user_id=transaction.user_id,
            transaction_id=transaction.id,
            sequence=1,
            status="pending",
        )
        async with self.stage.database.transaction() as connection:
            await sql.add_intent(connection, transaction, attempt, initiated)

    async def _send_out(self, transaction: Transaction, attempt: Attempt) -> Unit | None:
        try:
            async with self.stage.database.transaction() as connection:
                unit, _ = await open_outgoing(
                    connection, self.stage.accounts, transaction, attempt, ADMIN, self.stage.now
                )
                return unit
        except Conflict:
            return None

    async def _outcome(self, unit: Unit, attempt: Attempt, result: Result) -> None:
        await self.stage.transactions.record_outcome(
            unit,
            attempt,
            result,
            PROVIDER,
            last=True,
            finish_with=lambda _: None,
            check_after=timedelta(seconds=20),
        )

    async def _another(self, before: Attempt, provider: str) -> Attempt:
        found = await self.stage.transactions.repository.get(before.transaction_id, None)
        assert found is not None
        transaction, attempts = found
        number = max(each.number for each in attempts) + 1
        attempt = self._attempt(transaction, Operation.COLLECT, provider, transaction.amount, number)
        await self.stage.transactions.add_attempt(attempt)
        return attempt

    async def _open_refund(self, paid: Attempt, share: int, elsewhere: bool) -> Attempt | None:
        now, orders = self.stage.now, []

        def build(unit: Unit) -> tuple[Refund, Attempt, None] | None:
            transaction, payment = unit.transaction, unit.attempts[paid.id]
            left = refundable(unit, payment)
            if left <= 0 or payment.paid is None or (transaction.status not in REFUNDABLE and not elsewhere):
                return None
            amount = Money(max(1, left // share), payment.paid.currency)
            number = max(each.number for each in unit.attempts.values()) + 1
            routing = made_elsewhere(unit, payment, amount) if elsewhere else routing_of(payment)
            if routing is None or (amount.minor != left and routing.get("from") == "suspense"):
                return None
            order = self._attempt(transaction, Operation.REFUND, paid.provider, amount, number, routing=routing)
            refund = Refund(
                id=uuid7(),
                transaction_id=transaction.id,
                user_id=transaction.user_id,
                attempt_id=order.id,
                payment_attempt_id=paid.id,
                reference=new_reference("ref"),
                amount=amount,
                created_at=now,
                updated_at=now,
                next_check_at=now + timedelta(seconds=20),
            )
            orders.append(order)
            return refund, order, None

        cause = Cause.PROVIDER if elsewhere else Cause.USER

        async def work(connection: RawConnection) -> None:
            await self.stage.transactions.open_refund(connection, paid.transaction_id, build, ADMIN, cause)

        try:
            await self.stage.database.in_transaction(work)
        except Conflict:
            return None
        return orders[0] if orders else None

    async def _resolve_refund(self, order: Attempt, outcome: RefundStatus) -> None:
        found = await self.stage.transactions.repository.refunds(order.transaction_id)
        [refund] = [each for each in found if each.attempt_id == order.id]
        async with self.stage.database.transaction() as connection:
            await self.stage.transactions.resolve_refund(
                connection, order.transaction_id, refund.id, outcome, "looked", ADMIN
            )

    async def _settle(self, answers: list[Answer]) -> list[Unit]:
        async with self.stage.database.transaction() as connection:
            return await self.stage.transactions.settle_in(connection, answers)

    def _tell_twice(self, told: Answer) -> None:
        self.stage.run(self._settle([told]))
        [again] = self.stage.run(self._settle([told]))
        if told.source is Source.WEBHOOK:  # a question has a schedule of its own, and may be the one too many
            assert again.events == []

    def _unless_refused(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            self.stage.run(work)
        except Conflict:
            return


def answer(attempt: Attempt, verdict: Verdict, deviation: str) -> Result:
    """What a provider says about an order, with its oddities."""
    amount = attempt.amount
    other = Money(amount.minor, "USD")
    fee = Money(max(0, amount.minor // 10), amount.currency)
    carried: dict[str, dict[str, Any]] = {
        "none": {"requested": amount, "paid": amount},
        "fee": {"requested": amount, "paid": amount, "fee": fee},
        "fee on top": {"requested": amount, "paid": Money(amount.minor + fee.minor, amount.currency), "fee": fee},
        "too little": {"paid": Money(amount.minor // 2, amount.currency)},
        "other currency": {"paid": other},
        "nothing": {},
    }
    return Result(
        verdict,
        verdict.value,
        reference=attempt.reference,
        provider_references=(f"id-{attempt.reference}",),
        next_action=NextAction(ActionType.REDIRECT, url="https://pay.example/1"),
        failure=NO if verdict in (Verdict.DECLINED, Verdict.REFUSED) else None,
        expirable=verdict is Verdict.NOT_FOUND,
        **carried[deviation],
    )


def refund_answer(order: Attempt, verdict: Verdict) -> Result:
    return Result(
        verdict,
        verdict.value,
        provider_references=(f"re-{order.reference}",),
        requested=order.amount,
        failure=NO if verdict is Verdict.DECLINED else None,
        expirable=verdict is Verdict.NOT_FOUND,
    )


@pytest.mark.timeout(3_600 if PROVING else 600)
def test_whatever_happens_the_books_stay_clean(urls: Urls) -> None:
    stage = Stage(urls)
    machine = type("BooksMachine", (BooksMachine,), {"stage": stage})
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=STORIES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=list(Phase)
                if PROVING
                else [Phase.generate],  # the same stories each time: `make prove` shortens them,
                derandomize=not PROVING,
            ),
        )
    finally:
        stage.close()
