"""Everything at once, on real PostgreSQL: however it interleaves, one move, one posting, one call of the provider."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from payflow.core.clock import utc_now
from payflow.core.errors import NotFound
from payflow.core.ids import new_reference, uuid7
from payflow.core.money import Money
from payflow.events.types import Origin
from payflow.gateway.contract import Operation, Result, Verdict
from payflow.infra.redis import connect_redis
from payflow.transactions.aggregate import Attempt, Source
from payflow.transactions.checks import Budget, Refusal
from payflow.transactions.service import Answer
from tests.house import BODIES, PAYSTACK, House, Urls, running_house
from tests.payments.test_payments import attempt_reference, books, by_hand, told
from worker.timers import check_due

SILENT = {"paystack": "5009.05", "stripe": "19.05", "mpesa": "1905"}


@pytest.fixture(scope="module")
async def quiet(urls: Urls) -> AsyncIterator[House]:
    """No timer of its own: the tests run it when they want. Webhooks are worked on as always."""
    async with running_house(
        urls, amqp_url="", timer_interval_seconds=3_600, spool_poll_seconds=0.05, database_pool_overflow=20
    ) as house:
        yield house


async def journals(house: House, payment_id: str) -> list[str]:
    rows = await house.rows(
        "SELECT kind FROM ledger_journals WHERE transaction_id = $1::text::uuid ORDER BY id", payment_id
    )
    return [row["kind"] for row in rows]


async def due_now(house: House, payment_id: str) -> None:
    await house.rows("UPDATE transactions SET next_check_at = now() WHERE id = $1::text::uuid", payment_id)


@pytest.mark.parametrize("provider", ["paystack", "mpesa", "stripe"])
async def test_fifty_requests_with_one_key_start_one_payment(quiet: House, provider: str) -> None:
    ada, key = await quiet.merchant(), str(uuid4())
    before = (await quiet.charges(provider))["totals"]["submissions"]
    body = {**BODIES[provider], "amount": SILENT[provider]}
    answers = await asyncio.gather(*(ada.initialize(body, key=key) for _ in range(50)))

    started = [answer for answer in answers if answer.status_code == 201]
    waiting = [answer for answer in answers if answer.status_code == 409]
    assert len(started) + len(waiting) == 50
    assert sum("idempotent-replayed" not in answer.headers for answer in started) == 1
    assert all(answer.json()["code"] == "in_flight" for answer in waiting)
    assert all(1 <= int(answer.headers["retry-after"]) <= 5 for answer in waiting)

    later = [await ada.initialize(body, key=key) for _ in range(3)]
    assert all(answer.headers["idempotent-replayed"] == "true" for answer in later)
    bodies = [{**answer.json(), "client_token": None} for answer in [*started, *later]]
    assert all(each == bodies[0] for each in bodies)

    assert len((await ada.get("/payments")).json()["data"]) == 1
    assert (await quiet.charges(provider))["totals"]["submissions"] == before + 1
    attempts = (await ada.payment(bodies[0]["id"]))["attempts"]
    assert len(attempts) == 1


@pytest.mark.parametrize("round_", range(4))
@pytest.mark.parametrize("provider", ["paystack", "mpesa", "stripe"])
async def test_webhook_verify_and_timer_at_once_complete_once(quiet: House, provider: str, round_: int) -> None:
    ada = await quiet.merchant()
    payment = await by_hand(quiet, ada, provider)
    reference = await attempt_reference(ada, payment)
    if provider == "mpesa":
        reference = (await ada.payment(payment["id"]))["attempts"][0]["provider_references"][0]
    await due_now(quiet, payment["id"])
    paying = asyncio.create_task(quiet.act(provider, reference, "pay"))
    await asyncio.sleep(0.004 * round_)  # each round meets the webhook at another moment
    await asyncio.gather(
        paying,
        *(ada.post(f"/payments/{payment['id']}/verify") for _ in range(4)),
        check_due(quiet.services),
        check_due(quiet.services),
    )
    paid = await quiet.until(ada, payment["id"], "completed")
    assert told(paid).count("payment.completed") == 1
    assert await journals(quiet, payment["id"]) == ["collected"]
    assert sum((await books(quiet, payment["id"])).values()) == 0
    assert paid["paid_minor"] == paid["amount_minor"]


@pytest.mark.parametrize("provider", ["paystack", "mpesa", "stripe"])
async def test_the_customer_may_be_faster_than_the_providers_answer(quiet: House, provider: str) -> None:
    ada = await quiet.merchant()
    endings = {"paystack": "5009.20", "stripe": "19.20", "mpesa": "1920"}
    answer = await ada.initialize({**BODIES[provider], "amount": endings[provider]})
    assert answer.status_code == 201
    paid = await quiet.until(ada, answer.json()["id"], "completed")
    assert paid["attempts"][0]["provider_references"] != []
    assert paid["next_action"] is None
    assert await journals(quiet, paid["id"]) == ["collected"]
    assert told(paid).count("payment.completed") == 1


async def test_an_answer_overtaken_by_the_webhook_only_adds_ids(quiet: House) -> None:
    """The webhook is settled while the provider's answer is still on its way."""
    ada = await quiet.merchant()
    payment = await by_hand(quiet, ada, "stripe")
    transactions = quiet.services.transactions
    found = await transactions.repository.get(UUID(payment["id"]), None)
    assert found is not None
    of, (tried,) = found
    paid = Result(Verdict.COMPLETED, reference=tried.reference, requested=of.amount, paid=of.amount)
    await transactions.settle(Answer(tried.id, paid, Source.WEBHOOK, Origin()))
    late = Result(Verdict.REQUIRES_ACTION, provider_references=("cs_late",))
    await transactions.settle(Answer(tried.id, late, Source.INITIATION, Origin()))
    now = await ada.payment(payment["id"])
    assert (now["status"], now["version"]) == ("completed", 3)
    assert "cs_late" in now["attempts"][0]["provider_references"]


async def second_attempt(house: House, payment: dict[str, Any]) -> Attempt:
    attempt = Attempt(
        id=uuid7(),
        transaction_id=UUID(payment["id"]),
        user_id=UUID(int=0),
        number=2,
        operation=Operation.COLLECT,
        provider="paystack",
        reference=new_reference("att"),
        amount=Money(payment["amount_minor"], payment["currency"]),
        created_at=utc_now(),
    )
    await house.services.transactions.add_attempt(attempt)
    return attempt


async def test_two_attempts_paid_at_once_collect_one_and_suspend_the_other(quiet: House) -> None:
    ada = await quiet.merchant()
    for _ in range(5):
        payment = await by_hand(quiet, ada)
        found = await quiet.services.transactions.repository.get(UUID(payment["id"]), None)
        assert found is not None
        both = [found[1][0], await second_attempt(quiet, payment)]
        answers = [
            Answer(
                each.id, Result(Verdict.COMPLETED, reference=each.reference, paid=each.amount), Source.WEBHOOK, Origin()
            )
            for each in both
        ]
        await asyncio.gather(*(quiet.services.transactions.settle(answer) for answer in answers * 3))
        paid = await ada.payment(payment["id"])
        assert (paid["status"], paid["paid_minor"]) == ("completed", paid["amount_minor"])
        assert told(paid)[2:] == ["payment.completed", "payment.duplicate_detected"]
        assert sorted(each["status"] for each in paid["attempts"]) == ["succeeded", "under_review"]
        assert await journals(quiet, payment["id"]) == ["collected", "suspended"]
        amount = paid["amount_minor"]
        assert await books(quiet, payment["id"]) == {
            "provider_clearing:paystack": 2 * amount,
            "sales": -amount,
            "suspense": -amount,
        }


async def test_cancelling_and_paying_at_once_never_hides_the_money(quiet: House) -> None:
    ada = await quiet.merchant()
    for delay in (0, 0.002, 0.005, 0.01, 0.02):
        payment = await by_hand(quiet, ada)
        reference = await attempt_reference(ada, payment)
        paying = asyncio.create_task(quiet.act("paystack", reference, "pay"))
        await asyncio.sleep(delay)
        cancelled = await ada.post(f"/payments/{payment['id']}/cancel")
        assert cancelled.status_code in (200, 409)
        await paying
        paid = await quiet.until(ada, payment["id"], "completed")
        assert await journals(quiet, payment["id"]) == ["collected"]
        assert paid["timeline"][-1]["data"].get("late", False) is ("payment.cancelled" in told(paid))


async def test_many_cancellations_at_once_are_one(quiet: House) -> None:
    ada = await quiet.merchant()
    payment = await by_hand(quiet, ada, "stripe")
    answers = await asyncio.gather(*(ada.post(f"/payments/{payment['id']}/cancel") for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    types = told(await ada.payment(payment["id"]))
    assert types.count("payment.cancelled") + types.count("payment.expired") == 1


# -- the timer ----------------------------------------------------------------------------------------------------------


async def test_two_timers_never_claim_the_same(quiet: House) -> None:
    ada = await quiet.merchant()
    payments = [await by_hand(quiet, ada) for _ in range(12)]
    for payment in payments:
        await due_now(quiet, payment["id"])
    repository = quiet.services.transactions.repository
    now, lease = utc_now() + timedelta(seconds=1), timedelta(minutes=2)
    claims = await asyncio.gather(*(repository.claim_due(now, 4, lease) for _ in range(6)))
    claimed = [identity for claim in claims for identity in claim]
    assert len(claimed) == len(set(claimed))
    assert {UUID(payment["id"]) for payment in payments} <= set(claimed)
    assert all(len(claim) <= 4 for claim in claims)
    assert await repository.claim_due(now, 50, lease) == []


async def test_two_timers_ask_the_provider_once(quiet: House) -> None:
    ada = await quiet.merchant()
    payment = await by_hand(quiet, ada)
    asked = len((await quiet.simulator.get("/_control/requests", params={"provider": "paystack"})).json()["requests"])
    await due_now(quiet, payment["id"])
    counts = await asyncio.gather(*(check_due(quiet.services) for _ in range(5)))
    assert sum(counts) == 1
    requests = (await quiet.simulator.get("/_control/requests", params={"provider": "paystack"})).json()["requests"]
    assert len(requests) == asked + 1


async def test_everything_open_is_asked_again_some_time(quiet: House) -> None:
    ada = await quiet.merchant()
    for provider in SILENT:
        await due_now(quiet, (await by_hand(quiet, ada, provider))["id"])
    await check_due(quiet.services)
    await ada.initialize({**PAYSTACK, "amount": "5009.15"})
    rows = await quiet.rows(
        "SELECT status, next_check_at FROM transactions WHERE status IN ('pending', 'requires_action', 'processing')"
    )
    assert len(rows) >= 4
    assert all(row["next_check_at"] > utc_now() for row in rows)
    ended = await quiet.rows(
        "SELECT status FROM transactions WHERE next_check_at IS NOT NULL"
        " AND status NOT IN ('pending', 'requires_action', 'processing')"
    )
    assert ended == []


async def test_each_check_comes_later_than_the_one_before(quiet: House) -> None:
    ada = await quiet.merchant()
    payment = await by_hand(quiet, ada)
    waits = []
    for _ in range(4):
        await due_now(quiet, payment["id"])
        await check_due(quiet.services)
        (row,) = await quiet.rows(
            "SELECT extract(epoch FROM next_check_at - now())::float AS wait, check_count FROM transactions"
            " WHERE id = $1::text::uuid",
            payment["id"],
        )
        waits.append((row["check_count"], round(row["wait"])))
    assert waits == [(1, 30), (2, 60), (3, 120), (4, 300)]


async def test_the_minimum_interval_is_shared_by_all_who_ask(urls: Urls) -> None:
    async with running_house(urls, amqp_url="", worker=False, check_min_interval_seconds=60) as house:
        ada = await house.merchant()
        payment = await by_hand(house, ada)
        answers = await asyncio.gather(*(ada.post(f"/payments/{payment['id']}/verify") for _ in range(10)))
        assert {answer.status_code for answer in answers} == {200}
        verifies = [
            request
            for request in (await house.simulator.get("/_control/requests", params={"provider": "paystack"})).json()[
                "requests"
            ]
            if request["method"] == "GET"
        ]
        assert len(verifies) == 1
        report = await house.services.checks.check_due(UUID(payment["id"]))
        assert report is not None
        assert report.refusal is Refusal.TOO_SOON
        (row,) = await house.rows("SELECT next_check_at FROM transactions")
        assert timedelta(0) < row["next_check_at"] - utc_now() <= timedelta(seconds=60)


async def test_the_budget_of_a_provider_bounds_all_checks(urls: Urls) -> None:
    async with running_house(urls, amqp_url="", worker=False, provider_checks_per_minute=2) as house:
        ada = await house.merchant()
        payment = await by_hand(house, ada)
        refusals = []
        for _ in range(5):  # the minute may end between, which gives at most two more
            report = await house.services.checks.check(UUID(payment["id"]))
            assert report is not None
            refusals.append(report.refusal)
        assert refusals.count(None) in (2, 3, 4)
        assert Refusal.BUDGET in refusals
        report = await house.services.checks.check_due(UUID(payment["id"]))
        (row,) = await house.rows("SELECT next_check_at FROM transactions")
        assert row["next_check_at"] > utc_now()


async def test_without_redis_the_budget_is_counted_here() -> None:
    away = connect_redis("redis://127.0.0.1:1", timeout_seconds=0.2)
    budget = Budget(away, "p:", 2)
    budget._local = {str(number): 1 for number in range(1_001)}
    taken = [await budget.take("paystack") for _ in range(3)]
    assert taken[:2] == [True, True]
    assert taken[2] is False or len(budget._local) > 1  # the minute ended between
    await away.aclose()
    await away.connection_pool.disconnect()


async def test_what_a_session_leaves_unpaid_expires_by_itself(urls: Urls) -> None:
    """The clock runs a day ahead: past the session and its grace."""
    ahead = timedelta(0)

    async with running_house(urls, amqp_url="", timer_interval_seconds=3_600, clock=lambda: utc_now() + ahead) as house:
        ada = await house.merchant()
        payments = {provider: await by_hand(house, ada, provider) for provider in ("paystack", "stripe", "mpesa")}
        ahead = timedelta(hours=25)
        assert await check_due(house.services) == 3
        rows = await house.rows("SELECT provider, status, last_cause FROM transactions")
        ended = {row["provider"]: (row["status"], row["last_cause"]) for row in rows}
        assert ended["paystack"] == ("expired", "timer")
        assert ended["stripe"] == ("expired", "provider")
        # Daraja says "processing" of a prompt that nobody touched, a day after its end: no proof, so a person looks.
        assert ended["mpesa"] == ("under_review", "timer")
        assert (await house.charges("stripe"))["charges"][0]["status"] == "expired"
        assert payments.keys() == ended.keys()
        assert await house.rows("SELECT id FROM ledger_journals") == []


async def test_what_nobody_can_say_goes_to_a_person_in_the_end(urls: Urls) -> None:
    ahead = timedelta(0)
    async with running_house(urls, amqp_url="", timer_interval_seconds=3_600, clock=lambda: utc_now() + ahead) as house:
        ada = await house.merchant()
        payment = (await ada.initialize({**PAYSTACK, "amount": "5009.06"})).json()  # queries fail too
        for hours, status in ((24.5, "requires_action"), (49, "under_review")):
            ahead = timedelta(hours=hours)
            assert await check_due(house.services) == 1
            (row,) = await house.rows("SELECT status FROM transactions WHERE id = $1::text::uuid", payment["id"])
            assert row["status"] == status
        assert await check_due(house.services) == 0
        (event,) = await house.rows("SELECT data, actor FROM events WHERE type = 'payment.under_review'")
        assert (event["data"]["reason"], event["actor"]) == ("unresolved", "system")


async def test_a_provider_that_was_taken_away_leaves_its_payments_to_a_person_in_the_end(urls: Urls) -> None:
    ahead = timedelta(0)
    async with running_house(urls, amqp_url="", timer_interval_seconds=3_600, clock=lambda: utc_now() + ahead) as house:
        ada = await house.merchant()
        payment = await by_hand(house, ada)
        house.services.credentials._environment.clear()
        house.services.credentials.forget()
        report = await house.services.checks.check(UUID(payment["id"]))
        assert report is not None
        assert report.refusal is Refusal.NOT_CONFIGURED
        for hours, status in ((24.5, "requires_action"), (49, "under_review")):
            ahead = timedelta(hours=hours)
            assert await check_due(house.services) == 1
            (row,) = await house.rows("SELECT status FROM transactions")
            assert row["status"] == status


async def test_what_is_not_there_is_neither_checked_nor_settled(quiet: House) -> None:
    assert await quiet.services.checks.check(uuid4()) is None
    assert await quiet.services.checks.check_due(uuid4()) is None
    with pytest.raises(NotFound):
        await quiet.services.transactions.settle(Answer(uuid4(), Result(Verdict.PROCESSING), Source.QUERY, Origin()))
