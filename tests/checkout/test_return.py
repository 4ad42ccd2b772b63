"""The page after a hosted checkout says what is known, to who holds the payment's token; and decides nothing."""

import re
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.house import BODIES, House, Merchant, Urls, running_house


@pytest.fixture(scope="module")
async def shop(urls: Urls) -> AsyncIterator[House]:
    async with running_house(urls, amqp_url="", simulator={"customer_delay_seconds": 0.05}) as house:
        yield house


@pytest.fixture
async def ada(shop: House) -> Merchant:
    return await shop.merchant()


async def page(shop: House, **params: Any) -> str:
    answer = await shop.client().get("/checkout/return", params=params)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-store"
    return answer.text


async def test_without_the_token_it_knows_only_that_somebody_came_back(shop: House, ada: Merchant) -> None:
    plain = await page(shop)
    assert "You are back from the payment page." in plain
    started = await ada.pay(amount="500.00")
    await shop.until(ada, started["id"], "completed")
    for params in (
        {"reference": started["reference"]},
        {"reference": started["reference"], "status": "successful", "trxref": started["reference"]},
        {"reference": started["reference"], "client_token": started["client_token"][:-4] + "AAAA"},
        {"reference": started["reference"], "client_token": "pf_client_"},
        {"reference": "<script>alert(1)</script>"},
    ):
        assert await page(shop, **params) == plain, params


async def test_its_policy_allows_the_style_that_it_has_and_nothing_else(shop: House) -> None:
    answer = await shop.client().get("/checkout/return")
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    named = b64encode(sha256(style.encode()).digest()).decode()
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["style-src"] == f"'sha256-{named}'"
    assert "script-src" not in policy


async def test_with_it_the_books_are_told(shop: House, ada: Merchant) -> None:
    started = await ada.pay(amount="500.00")
    await shop.until(ada, started["id"], "completed")
    paid = await page(shop, client_token=started["client_token"])
    assert "Your payment of 500.00 NGN is confirmed." in paid
    assert await page(shop, client_token=started["client_token"], reference=started["reference"]) == paid
    other = await ada.pay()
    assert await page(shop, client_token=started["client_token"], reference=other["reference"]) == await page(shop)


async def test_what_the_address_says_decides_nothing(shop: House, ada: Merchant) -> None:
    await shop.outcome("paystack", "silent", times=1)
    started = await ada.pay(amount="500.00")
    before = await ada.payment(started["id"])
    told = await page(shop, client_token=started["client_token"], reference=started["reference"], status="successful")
    assert "Your payment of 500.00 NGN is not confirmed yet." in told
    assert '<a href="">Look again</a>' in told
    assert await ada.payment(started["id"]) == before
    cancelled = await ada.post(f"/payments/{started['id']}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    assert "was not made, as far as we know" in await page(shop, client_token=started["client_token"])


@pytest.mark.parametrize("provider", ["stripe", "flutterwave"])
async def test_where_the_provider_sends_the_customer_says_how_the_payment_stands(
    shop: House, ada: Merchant, provider: str
) -> None:
    """Without a return URL of the shop. What is in the address opens this page alone."""
    await shop.simulate(automatic_customer=False)
    try:
        body = {name: value for name, value in BODIES[provider].items() if name != "return_url"}
        started = (await ada.initialize(body)).json()
        back = (await shop.simulator.post(started["next_action"]["url"], data={"action": "pay"})).headers["location"]
    finally:
        await shop.simulate(automatic_customer=True)
    await shop.until(ada, started["id"], "completed")
    paid = await shop.client().get(back)
    assert "is confirmed." in paid.text
    token = parse_qs(urlsplit(back).query)["payment"][0]
    assert await page(shop, payment=token[:-4] + "AAAA") == await page(shop, client_token=token) == await page(shop)
    watching = await shop.client(authorization=f"Bearer {token}").get(f"/api/v1/payments/{started['id']}")
    assert watching.status_code == 401


async def test_what_was_given_back_is_told(shop: House, ada: Merchant) -> None:
    started = await ada.pay(amount="500.00")
    await shop.until(ada, started["id"], "completed")
    assert (await ada.post(f"/payments/{started['id']}/refund", key="k", json={})).status_code == 201
    await shop.until(ada, started["id"], "refunded")
    assert "Your payment of 500.00 NGN was given back." in await page(shop, client_token=started["client_token"])
