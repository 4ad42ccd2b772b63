"""Between two providers: the first did not take the payment, which is written down, and the second has not been asked."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest

from payflow.core.clock import utc_now
from payflow.events.publisher import EventPublisher
from payflow.events.types import Event
from payflow.infra.database import DatabaseAway
from tests.house import STRIPE, House, Merchant, Urls, running_house
from tests.payments.conftest import Network
from worker.timers import check_due

ROUTED = {**STRIPE, "provider": None}
KEY = "between"


class Killed(BaseException):
    """What ends a process: nobody catches it."""


class Interrupted(EventPublisher):
    """`publish` comes after the commit; `then` runs when it tells that an attempt has failed."""

    then: Callable[[], Awaitable[None]] | None = None

    async def publish(self, events: Sequence[Event], cached: Sequence[tuple[str, bytes, int]] = ()) -> None:
        await super().publish(events, cached)
        if self.then is not None and "payment.attempt_failed" in [event.type for event in events]:
            then, self.then = self.then, None
            await then()


class Hour:
    """The present, and what a test adds to it."""

    def __init__(self) -> None:
        self.later = timedelta()

    def __call__(self) -> Any:
        return utc_now() + self.later


@pytest.fixture
def clock() -> Hour:
    return Hour()


@pytest.fixture
async def shop(urls: Urls, clock: Hour) -> AsyncIterator[House]:
    async with running_house(
        urls,
        amqp_url="",
        clock=clock,
        worker=False,
        transport=Network,
        publisher=Interrupted,
        provider_order=("paystack", "stripe"),
        breaker_failures=1,
        breaker_cool_down_seconds=1_000.0,
        simulator={"automatic_customer": False},
    ) as house:
        await house.outcome("paystack", "refuse")
        yield house


@pytest.fixture
async def ada(shop: House) -> Merchant:
    return await shop.merchant()


def publisher(shop: House) -> Interrupted:
    found = shop.services.transactions._publisher
    assert isinstance(found, Interrupted)
    return found


async def submissions(shop: House) -> int:
    return int((await shop.charges("stripe"))["totals"]["submissions"])


async def only_payment(shop: House, ada: Merchant) -> dict[str, Any]:
    (row,) = await shop.rows("SELECT id FROM transactions")
    return await ada.payment(str(row["id"]))


async def test_who_gives_up_meanwhile_is_asked_for_nothing_more(shop: House, ada: Merchant) -> None:
    async def cancel() -> None:
        (row,) = await shop.rows("SELECT id FROM transactions")
        assert (await ada.post(f"/payments/{row['id']}/cancel", json={})).status_code == 200

    publisher(shop).then = cancel
    answer = await ada.initialize(ROUTED, key=KEY)
    assert (answer.status_code, answer.json()["status"], answer.json()["next_action"]) == (201, "cancelled", None)
    assert await submissions(shop) == 0
    payment = await only_payment(shop, ada)
    assert [attempt["provider"] for attempt in payment["attempts"]] == ["paystack"]
    again = await ada.initialize(ROUTED, key=KEY)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert {**again.json(), "client_token": ""} == {**answer.json(), "client_token": ""}


async def test_a_node_that_dies_there_leaves_a_payment_that_ends_by_itself(
    shop: House, ada: Merchant, clock: Hour
) -> None:
    async def die() -> None:
        raise Killed

    publisher(shop).then = die
    with pytest.raises(Killed):
        await ada.initialize(ROUTED, key=KEY)
    assert (await ada.initialize(ROUTED, key=KEY)).status_code == 409
    clock.later = timedelta(minutes=2)
    token = await shop.client().post("/api/v1/auth/refresh", json={"refresh_token": ada.tokens["refresh_token"]})
    assert token.status_code == 200, token.text
    ada.client.headers["authorization"] = f"Bearer {token.json()['access_token']}"
    again = await ada.initialize(ROUTED, key=KEY)
    assert (again.status_code, again.json()["status"]) == (201, "pending")
    await check_due(shop.services)
    (row,) = await shop.rows("SELECT id, status, expires_at FROM transactions")
    assert row["status"] == "pending"

    # Nothing was ever sent, which needs neither a provider's word nor a person's.
    clock.later = row["expires_at"] - utc_now() + timedelta(seconds=1)
    await shop.rows("UPDATE transactions SET next_check_at = now()")
    await check_due(shop.services)
    (row,) = await shop.rows("SELECT id, status, next_check_at FROM transactions")
    assert (row["status"], row["next_check_at"]) == ("expired", None)
    assert await submissions(shop) == 0


async def test_a_probe_that_was_granted_is_given_back_when_the_database_goes(shop: House, ada: Merchant) -> None:
    network = shop.services.http._transport
    assert isinstance(network, Network)

    async def refuse(request: httpx.Request) -> None:
        raise httpx.ConnectError("refused")

    network.before = refuse
    assert (await ada.initialize(STRIPE)).status_code == 502
    network.before = None
    await shop.services.breakers.settled()
    key = f"{shop.settings.redis_prefix}{{route}}:stripe"
    await shop.services.redis.hset(key, "until", "1")  # type: ignore[misc]

    async def away() -> None:
        raise DatabaseAway("for the test")

    publisher(shop).then = away
    assert (await ada.initialize(ROUTED)).status_code == 503
    states = await shop.services.breakers.states(["stripe"])
    assert states is not None
    assert (states["stripe"].phase, states["stripe"].probing) == ("half_open", False)
