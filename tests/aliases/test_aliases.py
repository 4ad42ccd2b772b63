"""The older names: each does what its use case does, under the same idempotency key, and says where the new address is."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from payflow.infra.queue.port import QueueAway
from tests.house import CPAY, FLUTTERWAVE, PAYSTACK, House, Merchant, Urls, running_house
from tests.payouts.till import body as transfer
from tests.payouts.till import fill


@pytest.fixture(scope="module")
async def shop(urls: Urls) -> AsyncIterator[House]:
    async with running_house(urls, amqp_url="", simulator={"customer_delay_seconds": 0.1}) as house:
        yield house


@pytest.fixture
async def ada(shop: House) -> Merchant:
    return await shop.merchant()


def older(**changes: Any) -> dict[str, Any]:
    body = {**PAYSTACK, "provider_preference": PAYSTACK["provider"], **changes}
    del body["provider"]
    return body


async def test_initiate_is_initialize_with_the_preferred_provider(ada: Merchant) -> None:
    answer = await ada.post("/payments/initiate", key="order-1", json=older())
    assert answer.status_code == 201, answer.text
    payment = answer.json()
    assert (payment["provider"], payment["status"]) == ("paystack", "requires_action")
    assert payment["client_token"].startswith("pf_client_")
    assert answer.headers["deprecation"] == "true"
    assert answer.headers["link"] == '</api/v1/payments/initialize>; rel="successor-version"'


async def test_a_repeat_under_the_new_name_is_the_same_request(ada: Merchant) -> None:
    first = await ada.post("/payments/initiate", key="order-2", json=older())
    again = await ada.post("/payments/initialize", key="order-2", json=PAYSTACK)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    other = await ada.post("/payments/initiate", key="order-2", json=older(amount="1.00"))
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_initiate_needs_its_key_and_a_valid_body(ada: Merchant) -> None:
    missing = await ada.post("/payments/initiate", json=older())
    assert (missing.status_code, missing.json()["code"]) == (400, "idempotency_key_missing")
    unknown = await ada.post("/payments/initiate", key="k", json=older(provider_preference="nobody"))
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_provider")
    amount = await ada.post("/payments/initiate", key="k", json=older(amount="-1"))
    assert (amount.status_code, amount.json()["errors"][0]["pointer"]) == (422, "/body/amount")


@pytest.mark.parametrize("name", ["visa", "mastercard", "card"])
async def test_visa_means_by_card_at_whoever_takes_it(ada: Merchant, name: str) -> None:
    answer = await ada.post("/payments/initiate", key=str(uuid4()), json=older(provider_preference=name))
    assert answer.status_code == 201, answer.text
    payment = answer.json()
    assert payment["method"] == "card"
    shown = {provider["name"]: provider for provider in (await ada.get("/providers")).json()["data"]}
    assert "card" in shown[payment["provider"]]["methods"]


async def test_verify_by_reference(shop: House, ada: Merchant) -> None:
    payment = await ada.pay()
    answer = await ada.post("/payments/verify", json={"reference": payment["reference"]})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["id"], len(answer.json()["attempts"])) == (payment["id"], 1)
    assert answer.headers["link"] == f'</api/v1/payments/{payment["id"]}/verify>; rel="successor-version"'
    bert = await shop.merchant()
    assert (await bert.post("/payments/verify", json={"reference": payment["reference"]})).status_code == 404
    assert (await ada.post("/payments/verify", json={"reference": "pay" + "0" * 26})).status_code == 404
    assert (await ada.post("/payments/verify", json={})).status_code == 422


async def test_submit_otp_by_reference(shop: House, ada: Merchant) -> None:
    started = (await ada.initialize({**CPAY, "method": "otp"})).json()
    assert started["next_action"]["type"] == "otp"
    body = {"reference": started["reference"], "otp": "123456"}
    bert = await shop.merchant()
    assert (await bert.post("/payments/submit_otp", key="k", json=body)).status_code == 404
    answer = await ada.post("/payments/submit_otp", key="k", json=body)
    assert answer.status_code == 200, answer.text
    again = await ada.post(f"/payments/{started['id']}/submit-otp", key="k", json={"otp": "123456"})
    assert again.headers["idempotent-replayed"] == "true"
    await shop.until(ada, started["id"], "completed")


async def test_an_otp_is_never_repeated_in_an_error(ada: Merchant) -> None:
    answer = await ada.post("/payments/submit_otp", key="k", json={"reference": "no", "otp": "987654321"})
    assert answer.status_code == 422
    assert "987654321" not in answer.text


async def test_ping_rabbitmq_asks_the_queue(shop: House, ada: Merchant) -> None:
    client = shop.client()
    assert (await client.get("/api/v1/ping-rabbitmq")).json() == {"status": "ok"}


async def test_ping_rabbitmq_says_when_the_broker_is_away(urls: Urls) -> None:
    async with running_house(urls, worker=False) as house:
        client = house.client()
        assert (await client.get("/api/v1/ping-rabbitmq")).status_code == 200
        await house.services.queue.primary.close()
        with pytest.raises(QueueAway):
            await house.services.queue.primary.ping()
        away = await client.get("/api/v1/ping-rabbitmq")
        assert (away.status_code, away.json()["code"]) == (503, "unavailable")
        assert "retry-after" in away.headers


async def test_the_docs_are_found_under_the_prefix_too(shop: House) -> None:
    answer = await shop.client().get("/api/v1/docs")
    assert answer.status_code == 200
    assert "swagger-ui" in answer.text


async def test_the_document_calls_them_deprecated(shop: House) -> None:
    document = shop.app.openapi()
    for path, method in (
        ("/payments/initiate", "post"),
        ("/payments/verify", "post"),
        ("/payments/submit_otp", "post"),
        ("/wallet/flutterwave/fund", "post"),
        ("/wallet/flutterwave/withdraw", "post"),
        ("/ping-rabbitmq", "get"),
    ):
        assert document["paths"]["/api/v1" + path][method]["deprecated"] is True, path


async def test_a_wallet_is_funded_at_flutterwave(shop: House, ada: Merchant) -> None:
    body = {name: value for name, value in FLUTTERWAVE.items() if name != "provider"}
    answer = await ada.post("/wallet/flutterwave/fund", key="fund-1", json=body)
    assert answer.status_code == 201, answer.text
    funding = answer.json()
    assert (funding["kind"], funding["provider"]) == ("funding", "flutterwave")
    assert answer.headers["deprecation"] == "true"
    assert answer.headers["link"] == '</api/v1/wallet/fund>; rel="successor-version"'
    again = await ada.post("/wallet/fund", key="fund-1", json=FLUTTERWAVE)
    assert (again.headers["idempotent-replayed"], again.json()["id"]) == ("true", funding["id"])
    await shop.until(ada, funding["id"], "completed")
    wallets = {wallet["currency"]: wallet["available"] for wallet in (await ada.get("/wallet")).json()["data"]}
    assert wallets == {"GHS": "150.50", "NGN": "0.00"}
    other = await ada.post("/wallet/flutterwave/fund", key="k", json=PAYSTACK)
    assert (other.status_code, other.json()["errors"][0]["pointer"]) == (422, "/body/provider")


async def test_a_wallet_is_emptied_at_flutterwave(shop: House, ada: Merchant) -> None:
    await fill(shop, ada, 200_000)
    body = transfer("flutterwave")
    named = body.pop("provider")
    answer = await ada.post("/wallet/flutterwave/withdraw", key="withdraw-1", json=body)
    assert answer.status_code == 201, answer.text
    withdrawal = answer.json()
    assert (withdrawal["kind"], withdrawal["provider"]) == ("withdrawal", named)
    assert answer.headers["deprecation"] == "true"
    assert answer.headers["link"] == '</api/v1/wallet/withdraw>; rel="successor-version"'
    again = await ada.post("/wallet/withdraw", key="withdraw-1", json={**body, "provider": named})
    assert (again.headers["idempotent-replayed"], again.json()["id"]) == ("true", withdrawal["id"])
    other = await ada.post("/wallet/flutterwave/withdraw", key="k", json={**body, "provider": "paystack"})
    assert (other.status_code, other.json()["errors"][0]["pointer"]) == (422, "/body/provider")
