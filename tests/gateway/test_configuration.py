"""`/providers`, and credentials: sealed, never shown, effective at once, the older ones still good for webhooks."""

import asyncio
import hmac
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from payflow.bootstrap import build_services
from payflow.core.clock import utc_now
from payflow.core.crypto import Keyring, derive_key, seal
from payflow.core.ids import uuid7
from payflow.gateway.contract import (
    Cancels,
    Collects,
    ListsBanks,
    PaysOut,
    ReceivesWebhooks,
    Refunds,
    SellsAirtime,
    TakesOtp,
    WebhookRefused,
    WebhookRequest,
)
from payflow.gateway.credentials import SEALING_PURPOSE, SealedCredentials, Seals
from payflow.gateway.keeping import Resealed
from payflow.gateway.repository import ProviderConfigRepository
from payflow.infra.database import Database
from tests.house import MPESA, PAYSTACK, SECRET, House, Urls, eventually, running_house

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
    assert by_name["vtpass"]["capabilities"] == ["airtime", "webhooks"]
    assert (by_name["vtpass"]["currencies"], by_name["vtpass"]["methods"]) == (["NGN"], [])
    assert by_name["mpesa"]["currencies"] == ["KES"]
    assert by_name["mpesa"]["webhook_path"] == "/api/v1/webhooks/lipa/{token}"
    assert by_name["paystack"]["webhook_path"] == "/api/v1/webhooks/paystack"
    assert by_name["paystack"]["simulated"] is False


async def test_each_capability_is_a_protocol_that_the_provider_implements(refusing: House) -> None:
    """The names of the document are all there are, and each is told of exactly those that have it."""
    protocols = {
        "collect": Collects,
        "cancel": Cancels,
        "otp": TakesOtp,
        "refund": Refunds,
        "payout": PaysOut,
        "banks": ListsBanks,
        "airtime": SellsAirtime,
        "webhooks": ReceivesWebhooks,
    }
    ada = await refusing.merchant()
    for each in (await ada.get("/providers")).json()["data"]:
        provider = refusing.services.registry.get(each["name"])
        assert each["capabilities"] == [name for name, protocol in protocols.items() if isinstance(provider, protocol)]
    document = refusing.app.openapi()["components"]["schemas"]["ProviderView"]["properties"]["capabilities"]
    assert re.findall(r"`([a-z]+)`", document["description"]) == list(protocols)


async def test_a_payment_through_a_provider_that_only_sells_is_refused_and_it_is_nobodys_alternative(
    refusing: House,
) -> None:
    ada = await refusing.merchant()
    named = await ada.initialize({**PAYSTACK, "provider": "vtpass"})
    assert (named.status_code, named.json()["code"]) == (422, "order_not_acceptable")
    assert named.json()["errors"] == [{"pointer": "/body/provider", "detail": "VTPass does not collect."}]
    unknown = await ada.initialize({**PAYSTACK, "provider": "nobody"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_provider")
    assert "paystack" in unknown.json()["errors"][0]["detail"]
    assert "vtpass" not in unknown.json()["errors"][0]["detail"]
    assert await refusing.rows("SELECT id FROM transactions") == []


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


def keyring(current: str = SECRET, *former: str) -> Keyring:
    return Keyring(current, former, SEALING_PURPOSE)


def node(shop: House, keys: Keyring, environment: Any = None, database: Database | None = None) -> SealedCredentials:
    """The credentials as another node reads them."""
    providers: dict[str, Any] = {name: shop.services.registry.get(name) for name in shop.services.registry.names}
    repository = ProviderConfigRepository(database or shop.services.database)
    return SealedCredentials(repository, providers, environment or {}, keys=keys)


async def key_of(source: SealedCredentials, provider: str = "paystack") -> list[str]:
    known = await source.get(provider)
    return [each.model_dump()["secret_key"].get_secret_value() for each in known.all] if known else []


@pytest.mark.parametrize("key_id", [keyring().current_id, "k1"])
async def test_a_seal_moved_to_another_row_is_broken(shop: House, key_id: str) -> None:
    admin = await shop.merchant(admin=True)
    await admin.post("/providers/paystack/config", json=NEW)
    assert await key_of(node(shop, keyring())) == [NEW["secret_key"]]
    # Copied to a newer row, to another provider, or altered: each is ignored.
    (row,) = await configs(shop)
    for provider, sealed in (("paystack", row["sealed"]), ("stripe", row["sealed"]), ("nobody", b"x")):
        await insert(shop, row, provider=provider, sealed=sealed, key_id=key_id)
    read = node(shop, keyring())
    known = await read.get("paystack")
    assert known is not None
    assert known.previous == ()
    assert await read.get("stripe") is None
    assert await read.get("nobody") is None


async def insert(shop: House, row: dict[str, Any], **changes: Any) -> UUID:
    """A copy of the row under an id of its own."""
    copy = {**row, "id": uuid7(), **changes}
    await shop.rows(
        "INSERT INTO provider_configs (id, provider, key_id, sealed, created_by) VALUES ($1, $2, $3, $4, $5)",
        *(copy[name] for name in ("id", "provider", "key_id", "sealed", "created_by")),
    )
    return UUID(str(copy["id"]))


async def test_a_seal_under_another_key_id_is_broken(shop: House) -> None:
    admin = await shop.merchant(admin=True)
    await admin.post("/providers/paystack/config", json=NEW)
    keys = keyring(SECRET, "another-secret")
    (row,) = await configs(shop)
    assert row["key_id"] == keys.current_id
    assert await key_of(node(shop, keys)) == [NEW["secret_key"]]
    # A key that is held, one that is not, and the mark of rows from before keys had ids.
    for key_id in (keyring("another-secret").current_id, "000000000000", "k1"):
        await shop.rows("UPDATE provider_configs SET key_id = $1", key_id)
        assert await node(shop, keys).get("paystack") is None


async def test_with_another_secret_nothing_is_opened(shop: House) -> None:
    admin = await shop.merchant(admin=True)
    await admin.post("/providers/paystack/config", json=NEW)
    assert await node(shop, keyring("another")).get("paystack") is None
    assert await key_of(node(shop, keyring("another", SECRET))) == [NEW["secret_key"]]


async def test_a_row_from_before_keys_had_ids_is_still_opened(shop: House) -> None:
    admin, identity = await shop.merchant(admin=True), uuid7()
    context = f"provider_configs.sealed:paystack:{identity}"
    sealed = seal(derive_key(SECRET, SEALING_PURPOSE), json.dumps(NEW).encode(), context)
    row = {"provider": "paystack", "key_id": "k1", "sealed": sealed, "created_by": UUID(admin.id)}
    await insert(shop, row, id=identity)
    for keys in (keyring(), keyring("another", SECRET)):
        assert await key_of(node(shop, keys)) == [NEW["secret_key"]]


async def test_credentials_that_the_adapter_no_longer_takes_leave_the_others_alone(shop: House) -> None:
    admin = await shop.merchant(admin=True)
    await admin.post("/providers/paystack/config", json=NEW)
    keys, identity, (row,) = keyring(), uuid7(), await configs(shop)
    stored = json.dumps({"values": {"gone": "sk_test_gone"}, "alone": False}).encode()
    sealed = keys.seal(stored, f"provider_configs.sealed:stripe:{identity}")
    await insert(shop, row, id=identity, provider="stripe", sealed=sealed)
    read = node(shop, keys)
    assert await read.get("stripe") is None
    assert await key_of(read) == [NEW["secret_key"]]


async def test_a_change_reaches_another_node_without_a_restart(shop: House) -> None:
    other = build_services(shop.settings)
    try:
        environment = shop.simulator_settings.paystack_secret_key
        assert await key_of(other.credentials) == [environment]
        admin = await shop.merchant(admin=True)
        await admin.post("/providers/paystack/config", json=NEW)

        async def there() -> bool:
            return await key_of(other.credentials) == [NEW["secret_key"], environment]

        await eventually(there, seconds=30, what="the change")
    finally:
        await other.close()


async def test_a_former_secret_verifies_until_it_is_retired(shop: House) -> None:
    admin, client = await shop.merchant(admin=True), shop.client()
    former = shop.simulator_settings.paystack_secret_key
    body = b'{"event":"charge.success","data":{}}'

    async def answer(key: str) -> int:
        headers = dict(signed(body, key).headers)
        return (await client.post("/api/v1/webhooks/paystack", content=body, headers=headers)).status_code

    await admin.post("/providers/paystack/config", json=NEW)
    assert [await answer(key) for key in (former, NEW["secret_key"])] == [200, 200]
    retired = await admin.client.delete("/api/v1/providers/paystack/config/previous")
    assert (retired.status_code, retired.json()) == (200, {"name": "paystack", "retired": 1})
    assert [await answer(key) for key in (former, NEW["secret_key"])] == [401, 200]
    assert await key_of(node(shop, keyring(), {"paystack": {"secret_key": SecretStr(former)}})) == [NEW["secret_key"]]
    # What is set afterwards follows the retired one, and brings back nothing from before it.
    await admin.post("/providers/paystack/config", json={"secret_key": "sk_test_third"})
    assert [await answer(key) for key in (former, NEW["secret_key"], "sk_test_third")] == [401, 200, 200]
    assert (await admin.client.delete("/api/v1/providers/paystack/config/previous")).json()["retired"] == 1
    assert [await answer(key) for key in (NEW["secret_key"], "sk_test_third")] == [401, 200]
    assert len(await configs(shop)) == 1
    events = (await admin.get("/events", params={"type": "config.changed"})).json()["data"]
    assert [event["data"] for event in events if "retired" in event["data"]] == [
        {"provider": "paystack", "retired": 1},
        {"provider": "paystack", "retired": 1},
    ]


async def test_retiring_where_nothing_came_before_changes_nothing(shop: House) -> None:
    ada, admin = await shop.merchant(), await shop.merchant(admin=True)
    for provider in ("paystack", "stripe"):
        answer = await admin.client.delete(f"/api/v1/providers/{provider}/config/previous")
        assert (answer.status_code, answer.json()) == (200, {"name": provider, "retired": 0})
    assert (await admin.client.delete("/api/v1/providers/nobody/config/previous")).status_code == 404
    assert (await ada.client.delete("/api/v1/providers/paystack/config/previous")).status_code == 403
    assert (await admin.get("/events", params={"type": "config.changed"})).json()["data"] == []
    assert (await admin.initialize(PAYSTACK)).json()["status"] == "requires_action"


async def test_what_cannot_be_opened_cannot_be_retired(shop: House) -> None:
    admin = await shop.merchant(admin=True)
    for number in (1, 2):
        await admin.post("/providers/paystack/config", json={"secret_key": f"sk_test_{number}"})
    await shop.rows("UPDATE provider_configs SET key_id = '000000000000'")
    answer = await admin.client.delete("/api/v1/providers/paystack/config/previous")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert len(await configs(shop)) == 2


async def test_credentials_are_masked_wherever_they_are_shown(shop: House, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "sk_test_zq7marked"
    admin = await shop.merchant(admin=True)
    told = [await admin.post("/providers/paystack/config", json={"secret_key": secret})]
    told += [await admin.get("/providers"), await admin.get("/events")]
    await shop.rows("UPDATE provider_configs SET key_id = '000000000000'")
    broken = node(shop, keyring())
    await broken.get("paystack")
    await shop.rows("UPDATE provider_configs SET key_id = $1", keyring().current_id)
    read = node(
        shop, keyring(), {"stripe": {"secret_key": SecretStr(secret), "webhook_secret": SecretStr("whsec_zq7")}}
    )
    known = await read.get("paystack")
    assert known is not None
    (row,) = await configs(shop)
    stored = Seals(keyring()).open(row)
    assert stored.values == {"secret_key": secret}
    told += [await admin.client.delete("/api/v1/providers/paystack/config/previous")]
    shown = [answer.text for answer in told]
    shown += [repr(each) for each in (known, known.current, stored, read, vars(read), read.environment, keyring())]
    shown += [str(row["sealed"]), json.dumps(await shop.rows("SELECT data::text FROM events")), *capsys.readouterr()]
    assert [text for text in shown if "zq7" in text] == []


# What an operator does


async def test_all_rows_are_sealed_anew_and_a_second_run_finds_nothing_to_do(shop: House) -> None:
    admin = await shop.merchant(admin=True)
    await admin.post("/providers/paystack/config", json=NEW)
    await admin.post("/providers/mpesa/config", json=DARAJA)
    before, new = await configs(shop), "a-new-key-0123456789abcdef0123456789"
    services = build_services(shop.settings.model_copy(update=rotated(new)))
    keeping = services.credential_keeping
    try:
        assert [step.outcome async for step in keeping.reseal(dry_run=True)] == [Resealed.DUE] * 2
        assert await configs(shop) == before
        # Broken off after the first row, it goes on with the second.
        first = keeping.reseal()
        assert (await anext(first)).outcome is Resealed.DONE
        await first.aclose()
        assert [row["key_id"] for row in await configs(shop)] == [keeping.key_id, before[1]["key_id"]]
        assert await key_of(services.credentials) != []
        assert [step.outcome async for step in keeping.reseal()] == [Resealed.CURRENT, Resealed.DONE]
        assert [step.outcome async for step in keeping.reseal()] == [Resealed.CURRENT] * 2
    finally:
        await services.close()
    after = await configs(shop)
    assert [row["id"] for row in after] == [row["id"] for row in before]
    assert {row["key_id"] for row in after} == {keyring(new).current_id}
    # Without the former key all is there, and with it alone nothing is.
    assert await key_of(node(shop, keyring(new))) == [NEW["secret_key"]]
    assert await node(shop, keyring()).get("mpesa") is None
    told = await shop.rows("SELECT data FROM events WHERE type = 'config.changed' AND data ? 'key_id' ORDER BY id")
    assert [(event["data"]["provider"], event["data"]["key_id"]) for event in told] == [
        ("paystack", keeping.key_id),
        ("mpesa", keeping.key_id),
    ]


def rotated(new: str) -> dict[str, Any]:
    return {"credentials_key": SecretStr(new), "former_credentials_keys": (SecretStr(SECRET),)}


async def test_a_node_without_the_new_key_goes_on_with_what_it_knew_and_brings_back_nothing_retired(
    shop: House,
) -> None:
    """The environment's secret may be retired because it leaked: a row that cannot be opened must not revive it."""
    admin, new = await shop.merchant(admin=True), "a-new-key-0123456789abcdef0123456789"
    environment = {"paystack": {"secret_key": SecretStr(shop.simulator_settings.paystack_secret_key)}}
    await admin.post("/providers/paystack/config", json=NEW)
    await admin.client.delete("/api/v1/providers/paystack/config/previous")
    running = node(shop, keyring(), environment)
    assert await key_of(running) == [NEW["secret_key"]]
    services = build_services(shop.settings.model_copy(update=rotated(new)))
    try:
        assert [step.outcome async for step in services.credential_keeping.reseal()] == [Resealed.DONE]
    finally:
        await services.close()
    running.forget()
    assert await key_of(running) == [NEW["secret_key"]]
    assert await key_of(node(shop, keyring(), environment)) == []  # started since: it knows nothing
    assert await key_of(node(shop, keyring(new), environment)) == [NEW["secret_key"]]


async def test_sealing_anew_keeps_what_was_retired(shop: House) -> None:
    admin, new = await shop.merchant(admin=True), "a-new-key-0123456789abcdef0123456789"
    await admin.post("/providers/paystack/config", json=NEW)
    await admin.client.delete("/api/v1/providers/paystack/config/previous")
    services = build_services(shop.settings.model_copy(update=rotated(new)))
    try:
        assert [step.outcome async for step in services.credential_keeping.reseal()] == [Resealed.DONE]
        assert await key_of(services.credentials) == [NEW["secret_key"]]
    finally:
        await services.close()


async def test_a_row_that_cannot_be_opened_is_told_and_left(shop: House) -> None:
    admin = await shop.merchant(admin=True)
    await admin.post("/providers/paystack/config", json=NEW)
    before = await configs(shop)
    lost = {"credentials_key": SecretStr("a-new-key-0123456789abcdef0123456789")}
    services = build_services(shop.settings.model_copy(update=lost))
    try:
        assert [step.outcome async for step in services.credential_keeping.reseal()] == [Resealed.BROKEN]
    finally:
        await services.close()
    assert await configs(shop) == before


async def test_the_environment_is_imported_where_nothing_is_stored(shop: House) -> None:
    admin = await shop.merchant(admin=True)
    await admin.post("/providers/paystack/config", json=NEW)
    keeping = shop.services.credential_keeping
    runs = await asyncio.gather(*(keeping.import_environment(UUID(admin.id)) for _ in range(3)))
    others = set(shop.settings.provider_credentials) - {"paystack"}
    assert [run["paystack"] for run in runs] == [None, None, None]
    assert all(sum(run[name] is not None for run in runs) == 1 for name in others)
    stored = await configs(shop)
    assert sorted(row["provider"] for row in stored) == sorted({"paystack", *others})
    assert {row["created_by"] for row in stored} == {UUID(admin.id)}
    # Another node needs no environment any more.
    assert await key_of(node(shop, keyring()), "stripe") == [shop.simulator_settings.stripe_secret_key]
    told = await shop.rows("SELECT data FROM events WHERE type = 'config.changed' AND data->>'source' = 'environment'")
    assert sorted(event["data"]["provider"] for event in told) == sorted(others)
    assert (await admin.pay("stripe"))["status"] == "requires_action"


async def test_without_the_database_what_is_known_goes_on(shop: House) -> None:
    away = Database("postgresql://127.0.0.1:1/nothing")
    environment = {"paystack": {"secret_key": SecretStr("sk_test_environment")}}
    source = node(shop, keyring(), environment, away)
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
