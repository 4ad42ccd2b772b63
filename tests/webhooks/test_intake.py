"""The door: what proves its origin is stored and answered in the provider's words, all else leaves a count and no trace."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from payflow.core.crypto import derive_key
from payflow.gateway.signing import CallbackTokens
from payflow.infra.queue.port import WEBHOOKS
from tests.house import SECRET, House, Urls, eventually, running_house
from tests.webhooks.desk import (
    Relay,
    attempt_of,
    callback_token,
    charge_success,
    counted,
    encoded,
    intent_succeeded,
    paystack_signature,
    send,
    send_mpesa,
    send_paystack,
    send_stripe,
    stk_callback,
    stripe_signature,
)

BODY = encoded(charge_success("att00000000000000000000000000"))
EVENT = encoded(intent_succeeded("att00000000000000000000000000"))
KEY, STRIPE_SECRET = "sk_test_simulator_paystack", "whsec_simulator"
CLOSED_PORT = "127.0.0.1:9"

MakesHeaders = Callable[[], dict[str, str]]


@pytest.fixture
async def door(urls: Urls) -> AsyncIterator[House]:
    """A house whose worker has not come, so that what intake stored can be seen."""
    async with running_house(urls, worker=False) as house:
        yield house


async def stored(house: House) -> int:
    """Webhooks in either queue."""
    return sum([await queue.depth(WEBHOOKS) for queue in house.services.queue.queues])


async def assert_nothing_kept(house: House, marker: bytes = BODY) -> None:
    assert await stored(house) == 0
    for table, column in (("webhook_bodies", "body"), ("queue_messages", "body"), ("dead_letters", "body")):
        assert await house.rows(f"SELECT {column} FROM {table}") == []
    events = await house.rows("SELECT type, transaction_id, data::text AS data FROM events WHERE type LIKE 'webhook.%'")
    assert all(marker.decode() not in event["data"] for event in events)


async def refusals(house: House) -> list[dict[str, Any]]:
    return await house.rows(
        """
        SELECT transaction_id, user_id, sequence, data, actor, ip_address, correlation_id FROM events
        WHERE type = 'webhook.refused' ORDER BY id
        """
    )


# What is let in


async def test_a_signed_webhook_is_stored_durably_and_answered_in_the_providers_words(door: House) -> None:
    answer = await send_paystack(door, charge_success("att00000000000000000000000000"))
    assert (answer.status_code, answer.content) == (200, b"{}")
    answer = await send_stripe(door, intent_succeeded("att00000000000000000000000000"))
    assert (answer.status_code, answer.content) == (200, b"{}")
    token = callback_token("0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50")
    answer = await send_mpesa(door, token, stk_callback("ws_CO_1", "1-1"))
    assert (answer.status_code, answer.json()) == (200, {"ResultCode": 0, "ResultDesc": "Accepted"})
    await eventually(lambda: _holds(door, 3))
    assert [counted(door, name, "accepted") for name in ("paystack", "stripe", "mpesa")] == [1, 1, 1]
    async with door.services.queue.primary.consume(WEBHOOKS, prefetch=10) as consumer:
        taken: list[Any] = []
        while len(taken) < 3:
            taken += await consumer.batch(10)
        messages = {delivery.message.headers["provider"]: delivery.message for delivery in taken}
        await consumer.ack(taken)
    assert messages["paystack"].body == BODY
    assert messages["stripe"].body == EVENT
    assert messages["mpesa"].headers["attempt_id"] == "0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50"
    assert set(messages["paystack"].headers) == {"provider", "received_at", "correlation_id"}


async def test_a_webhook_of_vtpass_is_only_a_hint_and_is_answered_with_its_words(door: House) -> None:
    """200 alone is not enough: it would come again."""
    body = encoded({"type": "transaction-update", "data": {"code": "000", "requestId": "202603041030att0"}})
    answer = await send(door, "vtpass", body, {})
    assert (answer.status_code, answer.content) == (200, b'{"response":"success"}')
    async with door.services.queue.primary.consume(WEBHOOKS, prefetch=1) as consumer:
        (delivery,) = await consumer.batch(1)
        await consumer.ack([delivery])
    assert (delivery.message.body, delivery.message.headers["trust"]) == (body, "confirm")


async def _holds(house: House, many: int) -> bool:
    return await stored(house) == many


async def test_the_request_id_goes_with_the_message(door: House) -> None:
    headers = {"x-paystack-signature": paystack_signature(BODY, KEY), "request-id": "from-the-edge-1"}
    answer = await send(door, "paystack", BODY, headers)
    assert answer.headers["request-id"] == "from-the-edge-1"
    async with door.services.queue.primary.consume(WEBHOOKS, prefetch=1) as consumer:
        (delivery,) = await consumer.batch(1)
        await consumer.ack([delivery])
    assert delivery.message.headers["correlation_id"] == "from-the-edge-1"


async def test_an_upper_case_signature_is_the_same_number(door: House) -> None:
    answer = await send(door, "paystack", BODY, {"x-paystack-signature": paystack_signature(BODY, KEY).upper()})
    assert answer.status_code == 200


async def test_any_of_stripes_signatures_may_fit(door: House) -> None:
    good = stripe_signature(EVENT, STRIPE_SECRET)
    timestamp, signature = good.split(",")
    answer = await send(door, "stripe", EVENT, {"stripe-signature": f"{timestamp},v1={'0' * 64},{signature},v0=abc"})
    assert answer.status_code == 200


async def test_what_is_refused_is_not_looked_into(door: House) -> None:
    """A body that is no JSON is the worker's to judge, if its origin is proven."""
    body = b"\xff\xfenot json"
    answer = await send(door, "paystack", body, {"x-paystack-signature": paystack_signature(body, KEY)})
    assert answer.status_code == 200
    assert (await send(door, "paystack", body, {"x-paystack-signature": "00"})).status_code == 401


async def test_the_first_webhooks_of_a_fresh_node_are_all_let_in(door: House) -> None:
    """Credentials are read at first use; who comes while they are being read waits for them."""
    answers = await asyncio.gather(*(send_paystack(door, charge_success(f"ref{n}")) for n in range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20


# What is refused


def paystack(signature: str | None) -> dict[str, str]:
    return {} if signature is None else {"x-paystack-signature": signature}


PAYSTACK_REFUSED: dict[str, tuple[bytes, MakesHeaders, str]] = {
    "header missing": (BODY, lambda: {}, "header_missing"),
    "header empty": (BODY, lambda: paystack(""), "header_missing"),
    "wrong secret": (BODY, lambda: paystack(paystack_signature(BODY, "sk_test_another")), "signature_mismatch"),
    "altered body": (
        BODY.replace(b"500000", b"500001"),
        lambda: paystack(paystack_signature(BODY, KEY)),
        "signature_mismatch",
    ),
    "re-serialised body": (
        json.dumps(json.loads(BODY)).encode(),
        lambda: paystack(paystack_signature(BODY, KEY)),
        "signature_mismatch",
    ),
    "one byte more": (BODY + b"\n", lambda: paystack(paystack_signature(BODY, KEY)), "signature_mismatch"),
    "signed with nothing": (BODY, lambda: paystack(paystack_signature(BODY, "")), "signature_mismatch"),
    "another provider's scheme": (
        BODY,
        lambda: {"stripe-signature": stripe_signature(BODY, STRIPE_SECRET)},
        "header_missing",
    ),
    "not hexadecimal": (BODY, lambda: paystack("é" * 10), "signature_mismatch"),
    "half a signature": (BODY, lambda: paystack(paystack_signature(BODY, KEY)[:64]), "signature_mismatch"),
}

STRIPE_REFUSED: dict[str, tuple[bytes, MakesHeaders, str]] = {
    "header missing": (EVENT, lambda: {}, "header_missing"),
    "wrong secret": (EVENT, lambda: _stripe(stripe_signature(EVENT, "whsec_another")), "signature_mismatch"),
    "altered body": (
        EVENT.replace(b"1990", b"1991"),
        lambda: _stripe(stripe_signature(EVENT, STRIPE_SECRET)),
        "signature_mismatch",
    ),
    "re-serialised body": (
        json.dumps(json.loads(EVENT)).encode(),
        lambda: _stripe(stripe_signature(EVENT, STRIPE_SECRET)),
        "signature_mismatch",
    ),
    "only the test scheme": (
        EVENT,
        lambda: _stripe(stripe_signature(EVENT, STRIPE_SECRET, scheme="v0")),
        "wrong_scheme",
    ),
    "no timestamp": (
        EVENT,
        lambda: _stripe(stripe_signature(EVENT, STRIPE_SECRET).partition(",")[2]),
        "wrong_scheme",
    ),
    "stale": (EVENT, lambda: _stripe(stripe_signature(EVENT, STRIPE_SECRET, time.time() - 302)), "stale"),
    "from the future": (EVENT, lambda: _stripe(stripe_signature(EVENT, STRIPE_SECRET, time.time() + 320)), "stale"),
    "fresh timestamp on an old signature": (
        EVENT,
        lambda: _stripe(
            f"t={int(time.time())}," + stripe_signature(EVENT, STRIPE_SECRET, time.time() - 1_000).partition(",")[2]
        ),
        "signature_mismatch",
    ),
    "signed with nothing": (EVENT, lambda: _stripe(stripe_signature(EVENT, "")), "signature_mismatch"),
    "another provider's scheme": (
        EVENT,
        lambda: paystack(paystack_signature(EVENT, KEY)),
        "header_missing",
    ),
}
REFUSED = [
    pytest.param(name, *case, id=f"{name}: {what}")
    for name, cases in (("paystack", PAYSTACK_REFUSED), ("stripe", STRIPE_REFUSED))
    for what, case in cases.items()
]


def _stripe(header: str) -> dict[str, str]:
    return {"stripe-signature": header}


@pytest.fixture(scope="module")
async def shared_door(urls: Urls) -> AsyncIterator[House]:
    async with running_house(urls, worker=False) as house:
        yield house


@pytest.mark.parametrize(("provider", "body", "headers", "reason"), REFUSED)
async def test_a_webhook_without_proof_is_refused_counted_logged_and_not_kept(
    shared_door: House, provider: str, body: bytes, headers: MakesHeaders, reason: str
) -> None:
    house = shared_door
    before, told = counted(house, provider, "refused"), len(await refusals(house))
    sent = {name: value.encode() for name, value in headers().items()}
    with capture_logs() as logs:
        client = house.client()
        answer = await client.post(f"/api/v1/webhooks/{provider}", content=body, headers=sent)  # type: ignore[arg-type]
    assert answer.status_code == 401
    problem = answer.json()
    assert (problem["code"], problem["detail"]) == ("webhook_refused", "The webhook does not prove its origin.")
    assert reason not in answer.text
    assert "www-authenticate" in answer.headers
    assert counted(house, provider, "refused") == before + 1
    assert [(entry["provider"], entry["reason"]) for entry in logs if entry["event"] == "webhook.refused"] == [
        (provider, reason)
    ]
    *_, event = await refusals(house)
    assert len(await refusals(house)) == told + 1
    assert event["data"] == {"provider": provider, "reason": reason}
    assert (event["transaction_id"], event["user_id"], event["sequence"]) == (None, None, None)
    assert (event["actor"], event["ip_address"]) == ("provider", "127.0.0.1")
    assert event["correlation_id"] == problem["request_id"]
    await assert_nothing_kept(house, body if b"\xff" not in body else b"att0000")


async def test_an_mpesa_callback_needs_a_token_that_we_made(shared_door: House) -> None:
    house = shared_door
    attempt = UUID("0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50")
    good = callback_token(str(attempt))
    foreign = CallbackTokens(derive_key("another-installation-0123456789abcdef", "callback-token")).issue(attempt)
    another = UUID(int=attempt.int + 1).hex + good[32:]
    body = encoded(stk_callback("ws_CO_1", "1-1"))
    for path in (
        "lipa",
        "lipa/" + "0" * 64,
        f"lipa/{foreign}",
        f"lipa/{another}",
        f"lipa/{good[:-1]}",
        f"lipa/{good[:32]}",
        f"lipa/{'g' * 64}",
    ):
        before = counted(house, "mpesa", "refused")
        answer = await send(house, path, body)
        assert (answer.status_code, answer.json()["code"]) == (401, "webhook_refused"), path
        assert counted(house, "mpesa", "refused") == before + 1
        assert good[32:] not in answer.text
        *_, event = await refusals(house)
        assert event["data"] == {"provider": "mpesa", "reason": "token"}
    await assert_nothing_kept(house, body)


async def test_a_token_does_not_stand_for_a_signature(shared_door: House) -> None:
    token = callback_token("0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50")
    assert (await send(shared_door, f"paystack/{token}", BODY)).status_code == 401
    await assert_nothing_kept(shared_door)


@pytest.mark.parametrize("path", ["unknown", "mpesa", "PAYSTACK", "dead-letters", "unknown/" + "0" * 64])
async def test_an_address_of_no_provider_is_not_found(shared_door: House, path: str) -> None:
    answer = await send(shared_door, path, BODY, paystack(paystack_signature(BODY, KEY)))
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert "0" * 64 not in answer.text
    await assert_nothing_kept(shared_door)


async def test_a_provider_without_credentials_lets_nothing_in(urls: Urls) -> None:
    async with running_house(urls, worker=False, amqp_url="", provider_credentials={}) as house:
        for signature in (paystack_signature(BODY, ""), paystack_signature(BODY, KEY)):
            assert (await send(house, "paystack", BODY, paystack(signature))).status_code == 401
        assert [event["data"]["reason"] for event in await refusals(house)] == ["no_secret", "no_secret"]
        await assert_nothing_kept(house)


# Rotation


async def test_during_rotation_the_old_secret_and_the_new_one_are_both_believed(door: House) -> None:
    admin = await door.merchant(admin=True)
    for secret in ("sk_test_second", "sk_test_third"):
        answer = await admin.post("/providers/paystack/config", json={"secret_key": secret})
        assert answer.status_code == 200, answer.text

    async def answer_to(secret: str) -> int:
        return (await send(door, "paystack", BODY, paystack(paystack_signature(BODY, secret)))).status_code

    assert [await answer_to(secret) for secret in ("sk_test_third", "sk_test_second", "sk_test_fourth")] == [
        200,
        200,
        401,
    ]


# Size


async def test_a_body_over_one_mebibyte_is_too_large(shared_door: House) -> None:
    body = b"x" * (1_048_576 + 1)
    answer = await send(shared_door, "paystack", body, paystack(paystack_signature(body, KEY)))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    await assert_nothing_kept(shared_door, b"xxxxxxxx")


async def test_a_body_in_chunks_is_counted_as_it_comes(shared_door: House) -> None:
    given = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(64):
            given += 65_536
            yield b"x" * 65_536

    answer = await shared_door.client().post("/api/v1/webhooks/paystack", content=chunks())
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert given <= 1_048_576 + 65_536
    await assert_nothing_kept(shared_door, b"xxxxxxxx")


async def test_a_body_of_exactly_one_mebibyte_is_taken(door: House) -> None:
    body = b"x" * 1_048_576
    answer = await send(door, "paystack", body, paystack(paystack_signature(body, KEY)))
    assert answer.status_code == 200
    assert await _holds(door, 1)


# Sources and limits


def from_address(house: House, address: str) -> httpx.AsyncClient:
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=house.app, client=(address, 40_000)), base_url="http://payflow.example"
    )
    house._clients.append(client)
    return client


async def knock(client: httpx.AsyncClient, *, signature: str | None = None, **headers: str) -> int:
    sent = {"x-paystack-signature": signature or paystack_signature(BODY, KEY), **headers}
    return (await client.post("/api/v1/webhooks/paystack", content=BODY, headers=sent)).status_code


async def test_a_source_that_keeps_failing_is_slowed_down_and_a_proven_webhook_never(urls: Urls) -> None:
    async with running_house(urls, worker=False, amqp_url="", refused_webhooks_per_minute=3) as house:
        bad, other = from_address(house, "203.0.113.7"), from_address(house, "203.0.113.8")
        assert [await knock(bad, signature="00") for _ in range(5)] == [401, 401, 401, 429, 429]
        answer = await bad.post("/api/v1/webhooks/paystack", content=BODY)
        assert answer.json()["code"] == "rate_limited"
        assert int(answer.headers["retry-after"]) >= 1
        assert await knock(bad) == 200
        assert await knock(other, signature="00") == 401
        assert counted(house, "paystack", "refused") == 7
        assert len(await refusals(house)) == 4


async def test_a_source_whose_webhooks_nobody_signs_is_slowed_down(urls: Urls) -> None:
    """VTPass signs nothing, so anybody could fill the queue and the database with what looks like its callbacks."""
    async with running_house(urls, worker=False, amqp_url="", refused_webhooks_per_minute=3) as house:
        anybody, other = from_address(house, "203.0.113.7"), from_address(house, "203.0.113.8")
        answers = [await anybody.post("/api/v1/webhooks/vtpass", content=b"{}") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].json()["code"] == "rate_limited"
        assert await knock(anybody, signature="00") == 401
        assert await knock(anybody) == 200
        assert (await other.post("/api/v1/webhooks/vtpass", content=b"{}")).status_code == 200


async def test_a_neighbourhood_of_ipv6_addresses_is_one_source(urls: Urls) -> None:
    async with running_house(urls, worker=False, amqp_url="", refused_webhooks_per_minute=2) as house:
        statuses = [await knock(from_address(house, f"2001:db8:1:2::{n}"), signature="00") for n in range(1, 5)]
        assert statuses == [401, 401, 429, 429]


async def test_a_foreign_source_is_counted_and_let_in_by_default(shared_door: House) -> None:
    before = counted(shared_door, "paystack", "foreign_source")
    assert await knock(from_address(shared_door, "203.0.113.7")) == 200
    assert counted(shared_door, "paystack", "foreign_source") == before + 1
    assert await knock(from_address(shared_door, "52.31.139.75")) == 200
    assert counted(shared_door, "paystack", "foreign_source") == before + 1
    async with shared_door.services.queue.primary.consume(WEBHOOKS, prefetch=10) as consumer:
        taken = await consumer.batch(10)
        while len(taken) < 2:
            taken += await consumer.batch(10)
        await consumer.ack(taken)


async def test_where_sources_are_enforced_only_the_published_ones_are_let_in(urls: Urls) -> None:
    async with running_house(urls, worker=False, amqp_url="", enforce_webhook_sources=True) as house:
        assert await knock(from_address(house, "52.31.139.75")) == 200
        assert await knock(from_address(house, "::ffff:52.49.173.169")) == 200
        assert await knock(from_address(house, "203.0.113.7")) == 401
        assert await knock(from_address(house, "203.0.113.7"), **{"x-forwarded-for": "52.31.139.75"}) == 401
        assert [event["data"]["reason"] for event in await refusals(house)] == ["source", "source"]
        body = encoded(intent_succeeded("att00000000000000000000000000"))
        answer = await send(house, "stripe", body, _stripe(stripe_signature(body, STRIPE_SECRET)))
        assert answer.status_code == 200  # publishes no list here


async def test_only_a_trusted_proxy_is_believed_about_the_source(urls: Urls) -> None:
    async with running_house(
        urls, worker=False, amqp_url="", enforce_webhook_sources=True, trusted_proxies=("10.0.0.0/8",)
    ) as house:
        proxy, stranger = from_address(house, "10.1.2.3"), from_address(house, "203.0.113.7")
        assert await knock(proxy, **{"x-forwarded-for": "52.31.139.75"}) == 200
        assert await knock(proxy, **{"x-forwarded-for": "52.31.139.75, 203.0.113.9"}) == 401
        assert await knock(proxy, **{"x-forwarded-for": "203.0.113.9, 52.31.139.75, 10.9.9.9"}) == 200
        assert await knock(proxy) == 401
        assert await knock(stranger, **{"x-forwarded-for": "52.31.139.75"}) == 401
        addresses = [event["ip_address"] for event in await refusals(house)]
        assert addresses == ["203.0.113.9", "10.1.2.3", "203.0.113.7"]


# Outages


async def test_while_the_broker_is_away_the_spool_takes_the_webhook(urls: Urls) -> None:
    async with running_house(urls, worker=False) as house:
        closed = house.services.queue.primary
        await closed.close()
        answer = await send_paystack(house, charge_success("att00000000000000000000000000"))
        assert (answer.status_code, answer.content) == (200, b"{}")
        assert counted(house, "paystack", "spooled") == 1
        assert counted(house, "paystack", "accepted") == 0
        (row,) = await house.rows("SELECT topic, body, headers FROM queue_messages")
        assert (row["topic"], row["body"], row["headers"]["provider"]) == ("webhooks", BODY, "paystack")


async def test_with_broker_and_database_away_the_provider_is_asked_to_come_again(urls: Urls) -> None:
    async with (
        Relay.to(urls.postgres) as relay,
        running_house(replace(urls, postgres=relay.url), worker=False, amqp_url="") as house,
    ):
        assert (await send_paystack(house, charge_success("before"))).status_code == 200
        await relay.cut()
        answer = await send_paystack(house, charge_success("att00000000000000000000000000"))
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.json()["code"], answer.headers["retry-after"]) == ("unavailable", "10")
        assert counted(house, "paystack", "unavailable") == 1
        refused = await send(house, "paystack", BODY, paystack("00"))
        assert refused.status_code == 401  # a refusal needs neither
        await relay.mend()
        assert (await send_paystack(house, charge_success("after"))).status_code == 200
        assert await _holds(house, 2)


async def test_an_accepted_webhook_is_worked_on_after_the_broker_came_back(urls: Urls) -> None:
    """What went to the spool is consumed like the rest."""
    async with running_house(urls, simulator={"automatic_customer": False}) as house:
        ada = await house.merchant()
        payment = await ada.payment((await ada.pay("paystack"))["id"])
        await house.services.queue.primary.close()
        reference = attempt_of(payment)["reference"]
        assert (await send_paystack(house, charge_success(reference))).status_code == 200
        assert counted(house, "paystack", "spooled") == 1
        await house.until(ada, payment["id"], "completed")


def test_the_tests_sign_as_this_house_does() -> None:
    tokens = CallbackTokens(derive_key(SecretStr(SECRET).get_secret_value(), "callback-token"))
    attempt = UUID("0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50")
    assert tokens.read(callback_token(str(attempt))) == attempt
