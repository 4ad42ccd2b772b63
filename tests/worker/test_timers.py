"""What happens by the clock."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from payflow.infra.database import DatabaseAway
from payflow.webhooks.repository import BODY_RETENTION
from tests.house import House, Merchant, Urls, eventually, running_house
from tests.webhooks.desk import MovableClock, attempt_of, charge_success, kept_bodies, send_paystack, story
from worker.timers import CLAIM_LEASE, check_due, housekeeping, repeat

QUIET: dict[str, Any] = {
    "amqp_url": "",
    "worker": False,
    "access_token_seconds": 10_000_000,
    "simulator": {"automatic_customer": False, "deliver_webhooks": False},
}


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
async def house(urls: Urls, clock: MovableClock) -> AsyncIterator[House]:
    """No worker and no webhooks: the test itself lets the timers run."""
    async with running_house(urls, clock=clock, **QUIET) as built:
        yield built


async def started(house: House, provider: str = "paystack", **changes: Any) -> tuple[Merchant, dict[str, Any]]:
    ada = await house.merchant()
    return ada, await ada.payment((await ada.pay(provider, **changes))["id"])


async def test_nothing_is_asked_before_its_time(house: House) -> None:
    await started(house)
    assert await check_due(house.services) == 0


@pytest.mark.parametrize("provider", ["paystack", "mpesa", "stripe"])
async def test_a_payment_whose_webhook_never_came_is_completed_by_asking(
    house: House, clock: MovableClock, provider: str
) -> None:
    ada, payment = await started(house, provider)
    charge = (await house.charges(provider))["charges"][0]["items"][0]["id"]
    assert (await house.act(provider, charge, "pay")).is_success
    clock.ahead = timedelta(seconds=61)
    assert await check_due(house.services) == 1
    paid = await ada.payment(payment["id"])
    assert story(paid) == ["payment.initiated", "payment.requires_action", "payment.completed"]
    assert paid["next_check_at"] is None
    assert await check_due(house.services) == 0


async def test_an_open_payment_is_asked_about_ever_more_seldom(house: House, clock: MovableClock) -> None:
    ada, payment = await started(house)
    gaps = []
    for _ in range(6):
        before = (await ada.payment(payment["id"]))["next_check_at"]
        clock.ahead += timedelta(hours=1)
        now = clock()
        assert before < now.isoformat()
        assert await check_due(house.services) == 1
        (row,) = await house.rows("SELECT next_check_at FROM transactions")
        gaps.append(round((row["next_check_at"] - now).total_seconds(), -1))
    assert gaps == [30, 60, 120, 300, 900, 3_600]


async def test_a_claimed_payment_is_not_asked_about_by_another_worker(house: House, clock: MovableClock) -> None:
    await started(house)
    clock.ahead = timedelta(seconds=61)
    repository = house.services.transactions.repository
    claims = await asyncio.gather(*(repository.claim_due(clock(), 10, CLAIM_LEASE) for _ in range(4)))
    assert sum(len(claim) for claim in claims) == 1
    assert await check_due(house.services) == 0
    clock.ahead += CLAIM_LEASE  # whoever claimed it died
    assert await check_due(house.services) == 1


async def test_a_page_nobody_paid_on_expires_when_its_time_is_over(house: House, clock: MovableClock) -> None:
    ada, payment = await started(house, "stripe")
    clock.ahead = timedelta(minutes=64)
    await check_due(house.services)
    assert (await ada.payment(payment["id"]))["status"] == "requires_action"
    clock.ahead = timedelta(minutes=66)
    await check_due(house.services)
    over = await ada.payment(payment["id"])
    assert (over["status"], over["next_check_at"]) == ("expired", None)
    assert attempt_of(over)["status"] == "expired"
    assert attempt_of(over)["failure"]["code"] == "expired"
    assert (await house.act("stripe", attempt_of(over)["provider_references"][0], "pay")).status_code == 409


async def test_an_order_nobody_can_tell_about_is_given_to_a_person_in_the_end(
    house: House, clock: MovableClock
) -> None:
    await house.outcome("stripe", "server_error")
    ada, payment = await started(house, "stripe")
    assert payment["status"] == "processing"
    clock.ahead = timedelta(hours=24)
    await check_due(house.services)
    assert (await ada.payment(payment["id"]))["status"] == "processing"
    clock.ahead = timedelta(hours=26)
    await check_due(house.services)
    held = await ada.payment(payment["id"])
    assert held["status"] == "under_review"
    assert held["timeline"][-1]["data"]["reason"] == "unresolved"


async def test_a_check_that_fails_keeps_no_other_from_being_made(house: House, clock: MovableClock) -> None:
    ada, bad = await started(house)
    good = [await ada.payment((await ada.pay("paystack"))["id"]) for _ in range(3)]
    for charge in (await house.charges("paystack"))["charges"]:
        assert (await house.act("paystack", charge["reference"], "pay")).is_success
    async with house.services.database.raw() as connection:
        await connection.execute(
            f"""
            CREATE FUNCTION refuse_one() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.id = '{bad["id"]}' AND NEW.status = 'completed' THEN RAISE EXCEPTION 'no'; END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER refuse_one BEFORE UPDATE ON transactions FOR EACH ROW EXECUTE FUNCTION refuse_one();
            """
        )
    clock.ahead = timedelta(seconds=61)
    with capture_logs() as logs:
        assert await check_due(house.services) == 4
    assert [entry["transaction_id"] for entry in logs if entry["event"] == "timer.check_failed"] == [bad["id"]]
    assert {(await ada.payment(payment["id"]))["status"] for payment in good} == {"completed"}
    assert (await ada.payment(bad["id"]))["status"] == "requires_action"
    async with house.services.database.raw() as connection:
        await connection.execute("DROP TRIGGER refuse_one ON transactions")
    clock.ahead += CLAIM_LEASE + timedelta(seconds=60)
    assert await check_due(house.services) == 1
    assert (await ada.payment(bad["id"]))["status"] == "completed"


async def test_housekeeping_forgets_what_is_over_and_only_that(house: House, clock: MovableClock) -> None:
    await house.worker.start()
    ada, payment = await started(house)
    await send_paystack(house, charge_success(attempt_of(payment)["reference"]))
    await house.until(ada, payment["id"], "completed")
    assert await kept_bodies(house) == 1
    keys = "SELECT count(*) AS many FROM idempotency_keys"
    assert (await house.rows(keys))[0]["many"] == 1
    await housekeeping(house.services)
    assert (await kept_bodies(house), (await house.rows(keys))[0]["many"]) == (1, 1)
    clock.ahead = timedelta(days=2)
    await housekeeping(house.services)
    assert (await kept_bodies(house), (await house.rows(keys))[0]["many"]) == (1, 0)
    clock.ahead = BODY_RETENTION + timedelta(hours=1)
    await housekeeping(house.services)
    assert await kept_bodies(house) == 0
    assert (await ada.payment(payment["id"]))["status"] == "completed"
    assert len(await house.rows("SELECT 1 FROM webhook_events")) == 1


async def test_a_timer_goes_on_after_an_outage_and_after_a_bug() -> None:
    runs: list[int] = []

    async def action() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise DatabaseAway("gone")
        if len(runs) == 2:
            raise RuntimeError("a bug")

    with capture_logs() as logs:
        task = asyncio.create_task(repeat(0.01, "test", action))
        await eventually(lambda: len(runs) >= 4)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [(entry["event"], entry["timer"]) for entry in logs] == [
        ("timer.postponed", "test"),
        ("timer.failed", "test"),
    ]


async def test_depths_and_dead_letters_are_gauges(house: House) -> None:
    await house.worker.start()
    metrics = house.services.metrics

    def depth() -> float | None:
        return metrics.get_sample_value("payflow_queue_depth", {"queue": "spool", "topic": "webhooks"})

    await eventually(lambda: depth() == 0.0)
    assert metrics.get_sample_value("payflow_dead_letters") == 0.0


async def test_a_worker_process_serves_its_metrics_and_ends_when_told(urls: Urls, house: House) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PAYFLOW_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "worker",
        env={
            **environment,
            "DATABASE_URL": house.settings.database_url,
            "REDIS_URL": house.settings.redis_url,
            "PAYFLOW_REDIS_PREFIX": house.settings.redis_prefix,
            "PAYFLOW_WORKER_METRICS_PORT": str(port),
        },
        stderr=asyncio.subprocess.PIPE,
    )

    async def answers() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"http://127.0.0.1:{port}/metrics")
        except httpx.HTTPError:
            return False
        return "payflow_worker_batch_size" in answer.text and "payflow_queue_depth" in answer.text

    await eventually(answers, seconds=30)
    process.terminate()
    _, said = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, said.decode()
    assert b"worker.stopping" in said
    assert b"Traceback" not in said
