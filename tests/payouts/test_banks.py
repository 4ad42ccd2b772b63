"""`GET /wallet/banks` and `POST /wallet/resolve-account`."""

from typing import Any

import pytest

from payflow.gateway.contract import LookupFailed
from payflow.infra.redis import connect_redis
from payflow.payouts.banks import Banks
from tests.house import House, Merchant, Urls, running_house

ZENITH = {"code": "057", "name": "Zenith Bank", "type": "bank_account"}
ACCOUNT = {"type": "bank_account", "bank_code": "057", "account_number": "0123456789", "currency": "NGN"}


async def asked(shop: House) -> int:
    listed = (await shop.simulator.get("/_control/requests", params={"provider": "paystack"})).json()["requests"]
    return sum(request["path"].endswith("/bank") for request in listed)


async def test_banks_are_asked_once_and_then_kept(shop: House, ada: Merchant) -> None:
    first = await ada.get("/wallet/banks", params={"currency": "NGN", "provider": "paystack"})
    assert first.status_code == 200, first.text
    assert (first.json()["provider"], first.json()["currency"]) == ("paystack", "NGN")
    assert ZENITH in first.json()["data"]
    before = await asked(shop)
    again = await ada.get("/wallet/banks", params={"currency": "NGN", "provider": "paystack"})
    assert again.json() == first.json()
    assert await asked(shop) == before


async def test_without_redis_they_are_asked_each_time(shop: House) -> None:
    nobody = connect_redis("redis://127.0.0.1:1", timeout_seconds=0.2)
    banks = Banks(shop.services.registry, nobody, shop.settings)
    before = await asked(shop)
    for _ in range(2):
        assert ZENITH in (await banks.list("NGN", "paystack"))["data"]
    assert await asked(shop) > before + 1
    await nobody.aclose()


async def test_without_a_name_the_first_that_lists_the_currency_is_asked(ada: Merchant) -> None:
    found = await ada.get("/wallet/banks", params={"currency": "NGN"})
    assert found.status_code == 200
    assert found.json()["data"]
    nobody = await ada.get("/wallet/banks", params={"currency": "LSL"})
    assert (nobody.status_code, nobody.json()["code"]) == (422, "no_provider")
    named = await ada.get("/wallet/banks", params={"currency": "NGN", "provider": "stripe"})
    assert (named.status_code, named.json()["code"]) == (422, "no_provider")


async def test_whose_account_it_is(ada: Merchant) -> None:
    answer = await ada.post("/wallet/resolve-account", json={**ACCOUNT, "provider": "paystack"})
    assert (answer.status_code, answer.json()["account_name"]) == (200, "ADA OBI"), answer.text
    wrong = {**ACCOUNT, "account_number": "9999999999", "provider": "paystack"}
    refused = await ada.post("/wallet/resolve-account", json=wrong)
    assert (refused.status_code, refused.json()["code"]) == (422, "lookup_failed")
    assert refused.json()["errors"][0]["pointer"] == "/body/account_number"


@pytest.mark.parametrize("failure", [LookupFailed(), RuntimeError("a mistake of ours")])
async def test_no_answer_is_503(shop: House, ada: Merchant, failure: Exception) -> None:
    provider: Any = shop.services.registry.get("paystack")

    async def silent(*_: Any) -> Any:
        raise failure

    provider.resolve_account = silent
    try:
        answer = await ada.post("/wallet/resolve-account", json={**ACCOUNT, "provider": "paystack"})
    finally:
        del provider.resolve_account
    assert (answer.status_code, answer.json()["code"]) == (503, "provider_unavailable")
    assert int(answer.headers["retry-after"]) > 0


async def test_lookups_are_seldom(urls: Urls) -> None:
    async with running_house(urls, amqp_url="", worker=False, account_lookups_per_minute=2) as house:
        ada, bob = await house.merchant(), await house.merchant()
        sent = {**ACCOUNT, "provider": "paystack"}
        codes = [(await ada.post("/wallet/resolve-account", json=sent)).status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        assert (await bob.post("/wallet/resolve-account", json=sent)).status_code == 200


@pytest.mark.parametrize(
    "changes", [{"bank_code": None}, {"account_number": None}, {"type": "mobile_money"}, {"account_number": "12 34"}]
)
async def test_an_account_that_is_not_whole_is_refused(ada: Merchant, changes: dict[str, Any]) -> None:
    answer = await ada.post("/wallet/resolve-account", json={**ACCOUNT, **changes})
    assert answer.status_code == 422
