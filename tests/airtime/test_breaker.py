"""Purchases count for the seller's breaker, and while it is open nothing is held for it, or bought."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.airtime.desk import balanced, buy, phone, purchase_of, rich, transactions_of, wallet
from tests.gateway.test_routing import SETTINGS, expire, line, shown
from tests.house import House, Merchant, Urls, running_house
from tests.webhooks.desk import MovableClock
from worker.timers import check_due

FUNDED = 10_000_000


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
async def house(urls: Urls, clock: MovableClock) -> AsyncIterator[House]:
    async with running_house(urls, amqp_url="", clock=clock, access_token_seconds=86_400, **SETTINGS) as house:
        house.services.breakers._timeout_seconds = 30  # a busy machine is no Redis that is away
        yield house
        await balanced(house)


@pytest.fixture
async def ada(house: House) -> Merchant:
    ada = await rich(house)
    await ada.get("/airtime/services")  # what is sold is remembered, so that only purchases meet the silence
    return ada


async def silence(house: House, ada: Merchant) -> None:
    """Purchases for which there is no line, until the breaker opens."""
    line(house).cut = {"vtpass"}
    for number in range(3):
        assert (await buy(ada, phone=phone(100 + number))).status_code == 502
        await house.services.breakers.settled()
    line(house).cut = set()
    assert (await shown(ada, "vtpass"))["breaker"]["state"] == "open"


def refused(answer: Any) -> tuple[int, str, str | None]:
    return answer.status_code, answer.json()["code"], answer.headers.get("retry-after")


async def test_silent_purchases_open_it_and_the_next_is_refused_with_nothing_held(house: House, ada: Merchant) -> None:
    await silence(house, ada)
    begun, key = line(house).begun("vtpass"), str(uuid4())

    for named in ({}, {"provider": "vtpass"}):
        assert refused(await buy(ada, key=key, **named)) == (503, "provider_unavailable", "5")
    assert await wallet(house, ada) == (FUNDED, 0)
    assert await transactions_of(house, ada) == 3
    assert line(house).begun("vtpass") == begun

    await expire(house, "vtpass")
    answer = await buy(ada, key=key)
    assert (answer.status_code, answer.json()["status"]) == (201, "completed")
    (attempt,) = (await purchase_of(ada, answer.json()["id"]))["attempts"]
    assert attempt["routing"] == {"reason": "sells this service; probe of its breaker"}
    await house.services.breakers.settled()
    now = await shown(ada, "vtpass")
    assert (now["breaker"]["state"], now["health"]["calls"], now["health"]["success_rate"]) == ("closed", 1, 1.0)


async def test_what_could_not_be_delivered_is_an_answer(house: House, ada: Merchant) -> None:
    await house.outcome("vtpass", "refuse", operation="purchase")
    for number in range(4):
        assert (await buy(ada, phone=phone(number))).json()["status"] == "failed"
    await house.services.breakers.settled()
    now = await shown(ada, "vtpass")
    assert (now["breaker"]["state"], now["health"]["calls"], now["health"]["success_rate"]) == ("closed", 4, 1.0)


async def test_a_probe_that_is_not_bought_is_given_back(house: House, ada: Merchant) -> None:
    await silence(house, ada)
    await expire(house, "vtpass")
    poor = await house.merchant()
    assert (await buy(poor)).json()["code"] == "insufficient_funds"
    assert (await buy(ada)).json()["status"] == "completed"


async def test_an_unknown_end_is_asked_for_while_the_breaker_is_open(
    house: House, ada: Merchant, clock: MovableClock
) -> None:
    await house.outcome("vtpass", "dropped_after_charging", operation="purchase")
    unknown = [await buy(ada, key=f"unknown {number}", phone=phone(number)) for number in range(3)]
    await house.services.breakers.settled()
    assert {answer.json()["status"] for answer in unknown} == {"processing"}
    assert (await shown(ada, "vtpass"))["breaker"]["state"] == "open"
    assert await wallet(house, ada) == (FUNDED - 150_000, 150_000)
    # A key stands for its first answer, and the provider is asked as ever.
    again = await buy(ada, key="unknown 0", phone=phone(0))
    assert (again.status_code, again.content) == (201, unknown[0].content)

    clock.ahead += timedelta(minutes=10)
    await check_due(house.services)
    for answer in unknown:
        assert (await purchase_of(ada, answer.json()["id"]))["status"] == "completed"
    assert await wallet(house, ada) == (FUNDED - 150_000, 0)
    assert (await shown(ada, "vtpass"))["breaker"]["state"] == "open"
