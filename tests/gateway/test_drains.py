"""A drained provider takes no new payments; what it has runs to its end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from payflow.gateway import drains as module
from payflow.gateway.drains import Drains
from payflow.infra.database import DatabaseAway
from tests.house import PAYSTACK, House, Merchant, Urls, eventually, running_house

BY_HAND: dict[str, Any] = {"simulator": {"automatic_customer": False}}


@pytest.fixture
async def shop(urls: Urls) -> AsyncIterator[House]:
    async with running_house(urls, amqp_url="", **BY_HAND, provider_order=("paystack", "stripe", "mpesa")) as house:
        yield house


async def drain(admin: Merchant, provider: str, **body: Any) -> None:
    answer = await admin.post(f"/providers/{provider}/drain", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"name": provider, "drained": body.get("drained", True)}


async def drained(merchant: Merchant) -> set[str]:
    return {each["name"] for each in (await merchant.get("/providers")).json()["data"] if each["drained"]}


async def test_a_drained_provider_is_passed_over_and_says_so_when_it_is_named(shop: House) -> None:
    root, ada = await shop.merchant(admin=True), await shop.merchant()
    unnamed = {**PAYSTACK, "provider": None, "currency": "USD"}
    assert (await ada.initialize(unnamed)).json()["provider"] == "paystack"
    await drain(root, "paystack", reason="Maintenance tonight.")
    assert await drained(ada) == {"paystack"}

    passed_over = (await ada.initialize(unnamed)).json()
    assert passed_over["provider"] == "stripe"
    refused = await ada.initialize(PAYSTACK, key="once")
    assert (refused.status_code, refused.json()["code"]) == (409, "provider_drained")
    others = [each["name"] for each in (await ada.get("/providers")).json()["data"] if "USD" in each["currencies"]]
    others.remove("paystack")
    for name in others:
        await drain(root, name)
    nobody = await ada.initialize(unnamed)
    assert (nobody.status_code, nobody.json()["code"]) == (422, "no_provider")
    assert "paystack: drained" in nobody.json()["detail"]

    for name in ("paystack", *others):
        await drain(root, name, drained=False)
    assert await drained(ada) == set()
    assert (await ada.initialize(PAYSTACK, key="once")).status_code == 201  # a refusal uses no key up
    told = await shop.rows("SELECT type, data FROM events WHERE type LIKE 'provider.%' ORDER BY id")
    many = 1 + len(others)
    assert [row["type"] for row in told] == ["provider.drained"] * many + ["provider.resumed"] * many
    assert told[0]["data"] == {"provider": "paystack", "reason": "Maintenance tonight."}


async def test_what_a_drained_provider_has_runs_to_its_end_and_is_replayed(shop: House) -> None:
    root, ada = await shop.merchant(admin=True), await shop.merchant()
    started = await ada.initialize(PAYSTACK, key="before")
    await drain(root, "paystack")
    assert (await ada.initialize(PAYSTACK, key="before")).headers["idempotent-replayed"] == "true"
    payment = await ada.payment(started.json()["id"])
    await shop.act("paystack", payment["attempts"][0]["reference"], "pay")
    await shop.until(ada, payment["id"], "completed")


async def test_the_other_node_knows_soon(urls: Urls, shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Drains(shop.services.drains._repository)
    assert await other.names() == frozenset()
    await drain(await shop.merchant(admin=True), "stripe")
    assert await other.names() == frozenset()
    monkeypatch.setattr(module, "REFRESH_SECONDS", 0.0)
    assert await other.names() == {"stripe"}


async def test_who_comes_while_nothing_was_read_yet_waits_for_it() -> None:
    """A node that has just started must not send orders where nobody wants them."""
    answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    class Repository:
        asked = 0

        async def drained(self) -> list[str]:
            self.asked += 1
            return await answer

    drains = Drains(repository := Repository())  # type: ignore[arg-type]
    several = [asyncio.create_task(drains.names()) for _ in range(3)]
    await eventually(lambda: repository.asked, what="the first one's question")
    answer.set_result(["paystack"])
    assert await asyncio.gather(*several) == [{"paystack"}] * 3
    assert repository.asked == 1


async def test_without_the_database_what_was_known_goes_on() -> None:
    class Repository:
        away = True

        async def drained(self) -> list[str]:
            if self.away:
                raise DatabaseAway("for the test")
            return ["mpesa"]

    repository = Repository()
    drains = Drains(repository)  # type: ignore[arg-type]
    assert await drains.names() == frozenset()
    repository.away = False
    assert await drains.names() == {"mpesa"}
    repository.away = True
    drains.forget()
    assert await drains.names() == {"mpesa"}


async def test_only_an_admin_drains_and_only_what_there_is(shop: House) -> None:
    root, ada = await shop.merchant(admin=True), await shop.merchant()
    assert (await ada.post("/providers/paystack/drain", json={})).status_code == 403
    assert (await root.post("/providers/nobody/drain", json={})).status_code == 404
    for body in ({"drained": "perhaps"}, {"reason": ""}, {"surprise": 1}):
        assert (await root.post("/providers/paystack/drain", json=body)).status_code == 422
    assert await drained(ada) == set()
