"""`/providers`, and credentials: sealed, never shown, effective at once, the older ones still good for webhooks."""

import hmac
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from payflow.core.clock import utc_now
from payflow.core.ids import uuid7
from payflow.gateway.contract import ReceivesWebhooks, WebhookRefused, WebhookRequest
from payflow.gateway.credentials import SealedCredentials
from payflow.gateway.repository import ProviderConfigRepository
from payflow.infra.database import Database
from tests.house import MPESA, PAYSTACK, SECRET, House, Urls, running_house

DARAJA = {"consumer_key": "k", "consumer_secret": "s", "passkey": "p", "shortcode": "174379"}
NEW = {"secret_key": "sk_test_simulator_paystack_rotated"}


@pytest.fixture
async def shop(urls: Urls) -> AsyncIterator[House]:
    async with running_house(urls, amqp_url="", worker=False) as house:
        yield house


@pytest.fixture(scope="module")
async def refusing(urls: Urls) -> AsyncIterator[House]:
    """One house for all that is refused: nothing may be left behind in it."""
    async with running_house(urls, amqp_url="", worker=False) as house:
        yield house


async def configs(shop: House) -> list[dict[str, Any]]:
    return await shop.rows("SELECT * FROM provider_configs ORDER BY id")


async def test_the_providers_are_listed_with_what_they_can_do(urls: Urls) -> None:
    credentials = {"paystack": {"secret_key": SecretStr("sk_test_x")}, "nobody": {"a": SecretStr("b")}, "stripe": {}}
    async with running_house(
        urls, amqp_url="", worker=False, provider_order=("stripe", "mpesa"), provider_credentials=credentials
    ) as house:
        ada = await house.merchant()
        listed = (await ada.get("/providers")).json()["data"]
    names = [each["name"] for each in listed]
    assert (names[:2], names[2:]) == (["stripe", "mpesa"], sorted(names[2:]))
    by_name = {each["name"]: each for each in listed}
    assert {name: each["configured"] for name, each in by_name.items() if name in ("stripe", "mpesa", "paystack")} == {
        "stripe": False,
        "mpesa": False,
        "paystack": True,
    }
    assert {"collect", "cancel", "webhooks"} <= set(by_name["stripe"]["capabilities"])
    assert "cancel" not in by_name["paystack"]["capabilities"]
    assert by_name["mpesa"]["currencies"] == ["KES"]
    assert by_name["mpesa"]["webhook_path"] == "/api/v1/webhooks/lipa/{token}"
    assert by_name["paystack"]["webhook_path"] == "/api/v1/webhooks/paystack"
    assert by_name["paystack"]["simulated"] is False


async def test_new_credentials_are_sealed_used_at_once_and_told(shop: House) -> None:
    admin = await shop.merchant(admin=True)
    answer = await admin.post("/providers/paystack/config", json=NEW)
    (row,) = await configs(shop)
    assert answer.json() == {"name": "paystack", "config_id": str(row["id"]), "fields": ["secret_key"]}
    assert row["created_by"] == UUID(admin.id)
    assert b"sk_test" not in row["sealed"]
    assert b"secret_key" not in row["sealed"]
    # The simulator knows only the older key: at once, without a restart, it refuses.
    refused = (await admin.initialize(PAYSTACK)).json()
    assert (refused["status"], refused["failure"]["code"]) == ("failed", "authentication_failed")
    assert "sk_test" not in json.dumps(refused)
    (event,) = (await admin.get("/events", params={"type": "config.changed"})).json()["data"]
    assert (event["data"], event["actor"]) == ({"provider": "paystack", "fields": ["secret_key"]}, "user")


def signed(body: bytes, key: str) -> WebhookRequest:
    signature = hmac.digest(key.encode(), body, "sha512").hex()
    return WebhookRequest({"x-paystack-signature": signature}, body, utc_now())


async def test_the_credentials_before_still_verify_webhooks_and_older_ones_do_not(shop: House) -> None:
    admin = await shop.merchant(admin=True)
    for number in (1, 2, 3):
        await admin.post("/providers/paystack/config", json={"secret_key": f"sk_test_{number}"})
    known = await shop.services.registry.credentials("paystack")
    provider = shop.services.registry.get("paystack")
    assert known is not None
    assert isinstance(provider, ReceivesWebhooks)
    for key in ("sk_test_3", "sk_test_2"):
        provider.verify_webhook(signed(b"{}", key), known.all)
    with pytest.raises(WebhookRefused):
        provider.verify_webhook(signed(b"{}", "sk_test_1"), known.all)
    current = known.current.model_dump()["secret_key"]
    assert current.get_secret_value() == "sk_test_3"
    assert "sk_test_3" not in repr(known)


@pytest.mark.parametrize(
    ("name", "body", "field"),
    [
        ("paystack", {"secret_key": "mistyped-9f2c"}, "secret_key"),
        ("paystack", {"secret_key": 9_213_441}, "secret_key"),
        ("paystack", {}, "secret_key"),
        ("paystack", {**NEW, "a/b~c": "mistyped-9f2c"}, "a~1b~0c"),
        ("mpesa", {**DARAJA, "consumer_key": "mistyped-9f2c", "consumer_secret": ""}, "consumer_secret"),
        ("mpesa", {**DARAJA, "shortcode": "mistyped-9f2c"}, "shortcode"),
        ("stripe", {"secret_key": "sk_test_x", "webhook_secret": "mistyped-9f2c"}, "webhook_secret"),
    ],
)
async def test_wrong_credentials_are_refused_and_never_echoed(
    refusing: House, name: str, body: dict[str, Any], field: str
) -> None:
    admin = await refusing.merchant(admin=True)
    answer = await admin.post(f"/providers/{name}/config", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert [error["pointer"] for error in answer.json()["errors"]] == [f"/body/{field}"]
    assert "mistyped" not in answer.text
    assert "9213441" not in answer.text
    assert await configs(refusing) == []
    assert (await admin.initialize(PAYSTACK)).json()["status"] == "requires_action"


@pytest.mark.parametrize("text", ["\\ud800", "a\\u0000b", "a\\nb"])
async def test_text_that_no_header_could_carry_is_refused(refusing: House, text: str) -> None:
    admin = await refusing.merchant(admin=True)
    body = f'{{"consumer_key": "{text}", "consumer_secret": "s", "passkey": "p", "shortcode": "174379"}}'
    answer = await admin.post("/providers/mpesa/config", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert await configs(refusing) == []


async def test_only_an_admin_configures(refusing: House) -> None:
    ada, admin = await refusing.merchant(), await refusing.merchant(admin=True)
    assert (await ada.post("/providers/paystack/config", json=NEW)).status_code == 403
    assert (await refusing.client().post("/api/v1/providers/paystack/config", json=NEW)).status_code == 401
    assert (await admin.post("/providers/nobody/config", json=NEW)).status_code == 404
    assert (await admin.post("/providers/No!/config", json=NEW)).status_code == 422
    assert await configs(refusing) == []


async def fresh(shop: House) -> SealedCredentials:
    """As another node reads them."""
    providers = {name: shop.services.registry.get(name) for name in shop.services.registry.names}
    return SealedCredentials(ProviderConfigRepository(shop.services.database), providers, {}, secret=SECRET)  # type: ignore[arg-type]


async def test_a_seal_moved_to_another_row_is_broken(shop: House) -> None:
    admin = await shop.merchant(admin=True)
    await admin.post("/providers/paystack/config", json=NEW)
    assert await (await fresh(shop)).get("paystack") is not None
    # Copied to a newer row, to another provider, or altered: each is ignored.
    (row,) = await configs(shop)
    for provider, sealed in (("paystack", row["sealed"]), ("stripe", row["sealed"]), ("nobody", b"x")):
        await shop.rows(
            "INSERT INTO provider_configs (id, provider, key_id, sealed, created_by) VALUES ($1, $2, 'k1', $3, $4)",
            uuid7(),
            provider,
            sealed,
            row["created_by"],
        )
    read = await fresh(shop)
    known = await read.get("paystack")
    assert known is not None
    assert known.previous == ()
    assert await read.get("stripe") is None
    assert await read.get("nobody") is None


async def test_with_another_secret_nothing_is_opened(shop: House) -> None:
    admin = await shop.merchant(admin=True)
    await admin.post("/providers/paystack/config", json=NEW)
    providers = {name: shop.services.registry.get(name) for name in shop.services.registry.names}
    other = SealedCredentials(ProviderConfigRepository(shop.services.database), providers, {}, secret="another")  # type: ignore[arg-type]
    assert await other.get("paystack") is None


async def test_without_the_database_what_is_known_goes_on(shop: House) -> None:
    away = Database("postgresql://127.0.0.1:1/nothing")
    providers = {name: shop.services.registry.get(name) for name in shop.services.registry.names}
    environment = {"paystack": {"secret_key": SecretStr("sk_test_environment")}}
    source = SealedCredentials(ProviderConfigRepository(away), providers, environment, secret=SECRET)  # type: ignore[arg-type]
    for _ in range(2):
        known = await source.get("paystack")
        assert known is not None
        assert known.current.model_dump()["secret_key"].get_secret_value() == "sk_test_environment"
        assert await source.get("mpesa") is None
        source.forget()
    await away.close()


async def test_a_provider_is_found_by_the_name_in_its_path(shop: House) -> None:
    registry = shop.services.registry
    assert registry.by_path("lipa") is registry.get("mpesa")
    assert registry.by_path("mpesa") is None
    assert (await (await shop.merchant()).initialize(MPESA)).json()["provider"] == "mpesa"
