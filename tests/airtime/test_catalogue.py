"""What is sold: asked once an hour, kept beyond, and never made up."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from payflow.airtime.catalogue import Catalogue, Seller
from payflow.core.errors import NotFound, Unavailable
from payflow.core.money import Money
from payflow.gateway.contract import (
    AirtimeService,
    AirtimeVariation,
    Failure,
    LookupFailed,
    SellsAirtime,
    ServiceCategory,
)
from payflow.infra.redis import Redis, connect_redis
from payflow.providers.vtpass import DECLARATION
from tests.airtime.conftest import Shop
from tests.house import House, Merchant, house_settings
from tests.services import delete_keys

MTN = AirtimeService("mtn", "MTN Airtime", ServiceCategory.AIRTIME, "NGN", Money(500, "NGN"), None)
MTN_DATA = AirtimeService("mtn-data", "MTN Data", ServiceCategory.DATA, "NGN")
BUNDLE = AirtimeVariation("mtn-10mb-100", "100 MB", Money(10_000, "NGN"))
NOWHERE = "redis://127.0.0.1:9/0"


class Network:
    """A seller in memory: `failing` is what a lookup fails with."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.failing: Exception | None = None

    async def services(self, category: ServiceCategory, credentials: Any) -> Sequence[AirtimeService]:
        return self._answer(category.value, [MTN] if category is ServiceCategory.AIRTIME else [MTN_DATA])

    async def variations(self, service_id: str, credentials: Any) -> Sequence[AirtimeVariation]:
        if service_id == "mtn":
            raise LookupFailed(Failure("unknown_service", "This service is not offered.", "012"))
        return self._answer(service_id, [BUNDLE])

    def _answer(self, name: str, items: Any) -> Any:
        self.asked[name] += 1
        if self.failing is not None:
            raise self.failing
        return items


class Bench:
    """A catalogue over real Redis, with its clock and its seller in hand. `another` is another process's."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self.now = datetime(2026, 11, 21, 10, tzinfo=UTC)
        self.network = Network()
        self.seller = Seller("vtpass", DECLARATION, cast(SellsAirtime, self.network), None)
        self._prefix = prefix
        self.catalogue = self.another(redis)

    def another(self, redis: Redis) -> Catalogue:
        settings = house_settings("postgresql+asyncpg://nobody@127.0.0.1:9/none", NOWHERE, "")
        return Catalogue(redis, lambda: self.now, settings.model_copy(update={"redis_prefix": self._prefix}))


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = connect_redis(redis_url)
    yield client
    await client.aclose()
    await client.connection_pool.disconnect()


@pytest.fixture
async def away() -> AsyncIterator[Redis]:
    client = connect_redis(NOWHERE)
    yield client
    await client.aclose()
    await client.connection_pool.disconnect()


@pytest.fixture
async def bench(redis: Redis, redis_url: str) -> AsyncIterator[Bench]:
    prefix = house_settings("", "", "").redis_prefix
    yield Bench(redis, prefix)
    await delete_keys(redis_url, prefix)


async def test_a_provider_is_asked_once_an_hour_by_all_processes(bench: Bench, redis: Redis) -> None:
    other = bench.another(redis)
    for catalogue in (bench.catalogue, other, bench.catalogue):
        assert await catalogue.services(bench.seller, ServiceCategory.AIRTIME) == [MTN]
    assert bench.network.asked == {"airtime": 1}

    bench.now += timedelta(minutes=59)
    await other.services(bench.seller, ServiceCategory.AIRTIME)
    assert bench.network.asked == {"airtime": 1}
    bench.now += timedelta(minutes=1)
    await other.services(bench.seller, ServiceCategory.AIRTIME)
    assert bench.network.asked == {"airtime": 2}


async def test_many_at_once_ask_once(bench: Bench) -> None:
    found = await asyncio.gather(*(bench.catalogue.variations(bench.seller, "mtn-data") for _ in range(20)))
    assert found == [[BUNDLE]] * 20
    assert bench.network.asked == {"airtime": 1, "data": 1, "mtn-data": 1}


@pytest.mark.parametrize("failing", [LookupFailed(), LookupFailed(Failure("no_access", "…")), ZeroDivisionError()])
async def test_the_last_good_answer_is_better_than_none(bench: Bench, redis: Redis, failing: Exception) -> None:
    await bench.catalogue.services(bench.seller, ServiceCategory.DATA)
    bench.network.failing = failing
    bench.now += timedelta(days=2)
    assert await bench.another(redis).services(bench.seller, ServiceCategory.DATA) == [MTN_DATA]
    assert bench.network.asked == {"data": 2}


async def test_without_redis_the_provider_is_asked_each_time_and_the_last_answer_remembered(
    bench: Bench, away: Redis
) -> None:
    catalogue = bench.another(away)
    for _ in range(2):
        assert await catalogue.services(bench.seller, ServiceCategory.AIRTIME) == [MTN]
    assert bench.network.asked == {"airtime": 2}
    bench.network.failing = LookupFailed()
    assert await catalogue.services(bench.seller, ServiceCategory.AIRTIME) == [MTN]


async def test_a_provider_that_does_not_answer_is_left_alone_for_a_while(bench: Bench) -> None:
    bench.network.failing = LookupFailed()
    for _ in range(3):
        with pytest.raises(Unavailable) as caught:
            await bench.catalogue.services(bench.seller, ServiceCategory.AIRTIME)
    assert caught.value.retry_after == 10
    assert bench.network.asked == {"airtime": 1}

    bench.network.failing = None
    bench.now += timedelta(seconds=10)
    assert await bench.catalogue.services(bench.seller, ServiceCategory.AIRTIME) == [MTN]


async def test_the_provider_is_not_asked_of_names_it_never_gave(bench: Bench) -> None:
    for _ in range(2):
        with pytest.raises(NotFound):
            await bench.catalogue.variations(bench.seller, "made-up")
    assert bench.network.asked == {"airtime": 1, "data": 1}
    with pytest.raises(NotFound):
        await bench.catalogue.variations(bench.seller, "mtn")


async def test_a_service_in_a_list_that_could_not_be_read_is_not_called_unknown(bench: Bench) -> None:
    await bench.catalogue.services(bench.seller, ServiceCategory.AIRTIME)
    bench.network.failing = LookupFailed()
    assert await bench.catalogue.service(bench.seller, "mtn") == MTN
    with pytest.raises(Unavailable):
        await bench.catalogue.service(bench.seller, "mtn-data")


async def test_what_another_version_kept_is_asked_again(bench: Bench, redis: Redis) -> None:
    await bench.catalogue.services(bench.seller, ServiceCategory.AIRTIME)
    (key,) = await redis.keys(f"{bench._prefix}airtime:*")
    await redis.set(key, b'{"asked_at":"2026-11-21T10:00:00Z","items":[{"name":"of old"}]}')
    assert await bench.catalogue.services(bench.seller, ServiceCategory.AIRTIME) == [MTN]
    assert bench.network.asked == {"airtime": 2}


# Through the house


async def test_services_and_bundles_are_shown_with_their_prices(window: tuple[House, Merchant]) -> None:
    _, ada = window
    airtime = (await ada.get("/airtime/services", params={"category": "airtime"})).json()
    assert airtime["provider"] == "vtpass"
    assert {service["id"] for service in airtime["data"]} == {"mtn", "glo", "airtel", "etisalat"}
    assert airtime["data"][0] == {
        "id": "mtn",
        "name": "MTN Airtime VTU",
        "category": "airtime",
        "currency": "NGN",
        "smallest": "5.00",
        "smallest_minor": 500,
        "largest": "500000.00",
        "largest_minor": 50_000_000,
    }
    data = (await ada.get("/airtime/services", params={"category": "data"})).json()
    assert {service["category"] for service in data["data"]} == {"data"}
    bundles = (await ada.get("/airtime/services/mtn-data/variations")).json()
    assert bundles["data"][0] == {
        "code": "mtn-10mb-100",
        "name": "N100 100MB - 24 hrs",
        "price": "100.00",
        "price_minor": 10_000,
        "currency": "NGN",
    }


async def test_what_there_is_not_is_not_found(window: tuple[House, Merchant]) -> None:
    _, ada = window
    for service_id in ("nobody", "mtn"):
        answer = await ada.get(f"/airtime/services/{service_id}/variations")
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_service")
    assert (await ada.get("/airtime/services", params={"category": "tv"})).status_code == 422
    assert (await ada.get("/airtime/services", params={"provider": "paystack"})).status_code == 422


async def test_a_provider_that_cannot_be_asked_is_a_503(shop: Shop, ada: Merchant) -> None:
    async def broken(request: Any) -> None:
        raise TimeoutError

    shop.way.before = broken
    for answer in (await ada.get("/airtime/services"), await ada.get("/airtime/services/mtn-data/variations")):
        assert (answer.status_code, answer.json()["code"]) == (503, "catalogue_unavailable")
        assert answer.headers["retry-after"] == "10"
