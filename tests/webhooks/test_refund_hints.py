"""Paystack's refund events name no refund: they make us ask, unless they say only what the provider has told already."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from payflow.core.clock import utc_now
from payflow.core.money import Money
from payflow.events.types import Origin
from payflow.gateway.contract import Result, Verdict
from payflow.infra.queue.port import Message
from payflow.webhooks.processing import Disposition, Ending
from tests.house import House, Merchant, Urls, running_house
from tests.payouts.till import began, fill, whole
from tests.webhooks.desk import attempt_of, counted, encoded

PART_MINOR = 20_000


@pytest.fixture(scope="module")
async def desk(urls: Urls) -> AsyncIterator[House]:
    """A house as it is by default: a refund is asked about once in five seconds. The test itself brings the events."""
    async with running_house(
        urls,
        simulator={"deliver_webhooks": False},
        timer_interval_seconds=3_600.0,
        check_min_interval_seconds=None,
        amqp_url="",
    ) as house:
        yield house


class Refunded:
    """A paid payment with refunds under way that end only when told."""

    def __init__(self, house: House, merchant: Merchant, payment: dict[str, Any]) -> None:
        self.house, self.merchant, self.id = house, merchant, payment["id"]
        self.reference = attempt_of(payment)["reference"]

    async def refund(self, amount: str = "200.00", outcome: str = "silent") -> dict[str, Any]:
        await self.house.outcome("paystack", outcome, operation="refund", times=1)
        answer = await self.merchant.post(f"/payments/{self.id}/refund", key=str(uuid4()), json={"amount": amount})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def hint(
        self, status: str, minor: int = PART_MINOR, delivery: int = 0, came: datetime | None = None, **more: Any
    ) -> Disposition:
        """Bring an event straight to the worker's desk."""
        data = {"status": status, "transaction_reference": self.reference, "amount": str(minor), "currency": "NGN"}
        body = encoded({"event": f"refund.{status}", "data": {**data, **more}})
        headers = {"provider": "paystack", "received_at": (came or utc_now()).isoformat(), "trust": "signed"}
        (end,) = await self.house.services.webhooks.process([Message(str(uuid4()), body, headers, delivery)])
        return end

    async def refund_elsewhere(self, minor: int = PART_MINOR) -> str:
        """As somebody does in the provider's dashboard; its id there."""
        key = {"authorization": f"Bearer {self.house.simulator_settings.paystack_secret_key}"}
        await self.house.outcome("paystack", "silent", operation="refund", times=1)
        body = {"transaction": self.reference, "amount": minor}
        answer = await self.house.simulator.post("/paystack/refund", json=body, headers=key)
        assert answer.is_success, answer.text
        return str(answer.json()["data"]["id"])

    async def settle(self) -> None:
        answer = await self.house.act("paystack", self.reference, "refund_settle")
        assert answer.is_success, answer.text

    async def now(self) -> dict[str, Any]:
        return await self.merchant.payment(self.id)

    async def refunds(self) -> list[tuple[str, str]]:
        return [(refund["status"], refund["amount"]) for refund in (await self.now())["refunds"]]

    async def forget_answer(self, status: str) -> None:
        """As it is while the provider's answer has not been written down, or was lost."""
        async with self.house.services.database.raw() as connection:
            await connection.execute(
                "UPDATE attempts SET provider_references = '{}', status = $2"
                " WHERE transaction_id = $1 AND operation = 'refund'",
                UUID(self.id),
                status,
            )


async def paid(house: House) -> Refunded:
    ada = await house.merchant()
    started = await ada.pay("paystack", amount="500.00")
    await house.act("paystack", (await ada.payment(started["id"]))["attempts"][0]["reference"], "pay")
    verified = await ada.post(f"/payments/{started['id']}/verify", key=str(uuid4()))
    assert verified.json()["status"] == "completed", verified.text
    return Refunded(house, ada, await ada.payment(started["id"]))


async def questions(house: House) -> int:
    rows = (await house.simulator.get("/_control/requests", params={"provider": "paystack"})).json()["requests"]
    return sum("/refund" in row["path"] and row["method"] == "GET" for row in rows)


@pytest.mark.parametrize("status", ["pending", "processing"])
async def test_what_the_provider_has_told_already_needs_no_question(desk: House, status: str) -> None:
    payment = await paid(desk)
    await payment.refund()
    asked, unchanged = await questions(desk), counted(desk, "paystack", "unchanged")
    before = await payment.now()
    assert (await payment.hint(status)).ending is Ending.DONE
    assert counted(desk, "paystack", "unchanged") == unchanged + 1
    assert await questions(desk) == asked
    assert await payment.now() == before


async def test_the_end_is_asked_for_at_once_after_events_in_quick_succession(desk: House) -> None:
    payment = await paid(desk)
    await payment.refund()
    for status in ("pending", "processing"):
        assert (await payment.hint(status)).ending is Ending.DONE
    await payment.settle()
    end = await payment.hint("processed")
    assert (end.ending, end.reason) == (Ending.DONE, "")
    assert await payment.refunds() == [("completed", "200.00")]
    assert (await payment.now())["status"] == "partially_refunded"


async def test_a_late_event_of_the_way_after_the_end_changes_nothing(desk: House) -> None:
    payment = await paid(desk)
    await payment.refund()
    await payment.settle()
    assert (await payment.hint("processed")).ending is Ending.DONE
    await payment.hint("processing")
    assert await payment.refunds() == [("completed", "200.00")]


async def test_an_event_that_waited_until_its_refund_had_ended_keeps_nobody_from_asking_about_the_next(
    desk: House,
) -> None:
    payment = await paid(desk)
    await payment.refund()
    came = utc_now()
    await payment.settle()
    assert (await payment.hint("processed")).ending is Ending.DONE
    await payment.refund("300.00")
    asked = await questions(desk)
    assert (await payment.hint("pending", delivery=1, came=came)).ending is Ending.DONE
    assert await questions(desk) == asked
    await payment.settle()
    end = await payment.hint("processed", minor=30_000)
    assert (end.ending, end.reason) == (Ending.DONE, "")
    assert await payment.refunds() == [("completed", "200.00"), ("completed", "300.00")]


@pytest.mark.parametrize(("status", "delivery"), [("processing", 0), ("unknown", 0), ("created", 1)])
async def test_where_the_orders_answer_is_missing_the_provider_is_asked(
    desk: House, status: str, delivery: int
) -> None:
    payment = await paid(desk)
    await payment.refund()
    told = (await payment.now())["attempts"][-1]["provider_references"]
    await payment.forget_answer(status)
    asked = await questions(desk)
    assert (await payment.hint("processing", delivery=delivery)).ending is Ending.DONE
    assert await questions(desk) > asked
    assert (await payment.now())["attempts"][-1]["provider_references"] == told


async def test_an_event_that_overtook_the_orders_answer_waits_for_it_once(desk: House) -> None:
    payment = await paid(desk)
    await payment.refund()
    await payment.forget_answer("created")
    asked = await questions(desk)
    end = await payment.hint("pending")
    assert (end.ending, end.reason) == (Ending.RETRY, "the answer to the order is not there yet")
    assert end.delay_seconds == desk.settings.overtaken_delays_seconds[0]
    assert await questions(desk) == asked


async def test_the_end_does_not_wait_for_the_orders_answer(desk: House) -> None:
    payment = await paid(desk)
    await payment.refund()
    await payment.forget_answer("created")
    await payment.settle()
    assert (await payment.hint("processed")).ending is Ending.DONE
    assert await payment.refunds() == [("completed", "200.00")]


async def test_one_of_two_without_an_answer_is_asked_about(desk: House) -> None:
    payment = await paid(desk)
    await payment.refund()
    await payment.refund(outcome="dropped_after_charging")
    asked = await questions(desk)
    await payment.hint("processing")
    assert await questions(desk) > asked


@pytest.mark.parametrize("minor", [PART_MINOR + 1, PART_MINOR - 1])
async def test_an_event_of_another_amount_is_of_another_refund(desk: House, minor: int) -> None:
    payment = await paid(desk)
    await payment.refund()
    asked = await questions(desk)
    await payment.hint("processing", minor)
    assert await questions(desk) > asked


async def test_an_event_with_an_id_that_nobody_knows_is_asked_about(desk: House) -> None:
    payment = await paid(desk)
    await payment.refund()
    asked = await questions(desk)
    await payment.hint("processing", id=987_654_321)
    assert await questions(desk) > asked


@pytest.mark.parametrize("status", ["processed", "failed", "needs-attention"])
async def test_an_event_that_says_more_is_asked_about(desk: House, status: str) -> None:
    payment = await paid(desk)
    await payment.refund()
    asked = await questions(desk)
    await payment.hint(status)
    assert await questions(desk) > asked
    assert await payment.refunds() == [("processing", "200.00")]


async def test_a_refund_made_elsewhere_is_in_the_books_once_whatever_tells_of_it_at_once(desk: House) -> None:
    payment = await paid(desk)
    made = await payment.refund_elsewhere()
    ends = await asyncio.gather(
        *(payment.hint(status, delivery=1) for status in ("pending", "processing", "processed"))
    )
    assert {end.ending for end in ends} <= {Ending.DONE, Ending.RETRY}
    stands = await payment.now()
    assert await payment.refunds() == [("processing", "200.00")]
    assert [attempt["provider_references"] for attempt in stands["attempts"][1:]] == [[made]]
    assert [event["sequence"] for event in stands["timeline"]] == list(range(1, stands["version"] + 1))


async def test_what_may_be_a_refund_of_ours_is_not_taken_for_one_made_elsewhere(desk: House) -> None:
    payment = await paid(desk)
    await payment.refund()
    (told,) = (await payment.now())["attempts"][-1]["provider_references"]
    of = (await desk.services.transactions.repository.get(UUID(payment.id), None))[1][0]  # type: ignore[index]
    result = Result(Verdict.PROCESSING, provider_references=(told,), requested=Money(PART_MINOR, "NGN"))

    async def adopted(result: Result) -> bool | None:
        return await desk.services.refunds.adopt(UUID(payment.id), of, result, Origin())

    assert await adopted(result) is False
    await payment.forget_answer("created")
    assert await adopted(result) is None
    assert await payment.refunds() == [("processing", "200.00")]
    assert await adopted(replace(result, requested=Money(PART_MINOR + 1, "NGN"))) is True
    assert await payment.refunds() == [("processing", "200.00"), ("processing", "200.01")]


async def test_a_refund_of_a_withdrawal_is_asked_about_nowhere(desk: House) -> None:
    ada = await desk.merchant()
    await fill(desk, ada, 1_000_000)
    started = await began(ada)
    payment = Refunded(desk, ada, {"id": started["id"], **await whole(ada, started["id"])})
    asked = await questions(desk)
    end = await payment.hint("processed", minor=150_000, delivery=len(desk.settings.overtaken_delays_seconds))
    assert end.ending is Ending.DONE
    assert await questions(desk) == asked
    assert (await whole(ada, started["id"]))["refunds"] == []
