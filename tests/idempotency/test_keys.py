"""Idempotency-Key over the API: replays from Redis and from PostgreSQL, other bodies, other scopes, and what a crash leaves."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from payflow.core.clock import utc_now
from payflow.core.errors import InFlight, Invalid, Malformed
from payflow.core.ids import uuid7
from payflow.idempotency.repository import KeyScope
from payflow.idempotency.service import IdempotencyService
from tests.house import PAYSTACK, House, Merchant, Urls, eventually, running_house
from tests.services import PrivateRedis, delete_keys


@pytest.fixture(scope="module")
async def shop(urls: Urls) -> AsyncIterator[House]:
    async with running_house(urls, amqp_url="", worker=False) as house:
        yield house


@pytest.fixture
async def ada(shop: House) -> Merchant:
    return await shop.merchant()


async def submissions(house: House) -> int:
    return int((await house.charges("paystack"))["totals"]["submissions"])


def shown(answer: Any) -> dict[str, Any]:
    return {**answer.json(), "client_token": None}


@pytest.mark.parametrize("where", ["redis", "postgresql"])
async def test_a_repeat_gets_the_same_answer(shop: House, ada: Merchant, where: str) -> None:
    key, before = str(uuid4()), await submissions(shop)
    first = await ada.initialize(PAYSTACK, key=key)
    if where == "postgresql":
        await delete_keys(shop.settings.redis_url, shop.settings.redis_prefix + "idem:")
    again = await ada.initialize(PAYSTACK, key=key)
    assert (again.status_code, shown(again)) == (201, shown(first))
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["client_token"] == first.json()["client_token"]
    assert await submissions(shop) == before + 1


async def test_the_answer_is_kept_as_it_was_given(shop: House, ada: Merchant) -> None:
    """A replay tells what was answered then; the payment itself has moved on. The client token is stored nowhere."""
    key = str(uuid4())
    first = await ada.initialize(PAYSTACK, key=key)
    await ada.post(f"/payments/{first.json()['id']}/cancel")
    again = await ada.initialize(PAYSTACK, key=key)
    assert again.json()["status"] == "requires_action"
    (row,) = await shop.rows("SELECT body FROM idempotency_keys WHERE key = $1", key)
    assert b"client_token" not in row["body"]
    assert b"pf_client_" not in row["body"]


async def test_without_redis_replays_come_from_postgresql(urls: Urls) -> None:
    with PrivateRedis() as redis:
        async with running_house(urls, amqp_url="", worker=False, redis_url=redis.url) as house:
            ada, keys = await house.merchant(), [str(uuid4()) for _ in range(2)]
            first = await ada.initialize(PAYSTACK, key=keys[0])
            redis.stop()
            again = await ada.initialize(PAYSTACK, key=keys[0])
            assert (first.status_code, again.status_code, shown(again)) == (201, 201, shown(first))
            # Started without Redis, and repeated when it is back, empty.
            second = await ada.initialize(PAYSTACK, key=keys[1])
            redis.start()
            assert shown(await ada.initialize(PAYSTACK, key=keys[1])) == shown(second)
            assert await submissions(house) == 2


@pytest.mark.parametrize("where", ["redis", "postgresql"])
async def test_the_same_key_with_another_body_is_refused(shop: House, ada: Merchant, where: str) -> None:
    key, before = str(uuid4()), await submissions(shop)
    first = await ada.initialize(PAYSTACK, key=key)
    if where == "postgresql":
        await delete_keys(shop.settings.redis_url, shop.settings.redis_prefix + "idem:")
    for changes in ({"amount": "5000.01"}, {"metadata": {"a": 1}}, {"customer": {"email": "eve@example.com"}}):
        other = await ada.initialize({**PAYSTACK, **changes}, key=key)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    # Also a body that would be refused by itself: the key stands for its first request.
    wrong = await ada.initialize({**PAYSTACK, "currency": "GBP"}, key=key)
    assert (wrong.status_code, wrong.json()["code"]) == (422, "idempotency_key_reused")
    assert await submissions(shop) == before + 1
    assert shown(await ada.initialize(PAYSTACK, key=key)) == shown(first)


async def test_the_order_of_members_and_the_form_of_the_key_do_not_matter(shop: House, ada: Merchant) -> None:
    key = str(uuid4())
    first = await ada.initialize(PAYSTACK, key=key)
    turned = await ada.initialize(dict(reversed(PAYSTACK.items())), key=f'"{key}"')
    assert shown(turned) == shown(first)


async def test_a_request_that_was_refused_leaves_its_key_free(shop: House, ada: Merchant) -> None:
    key = str(uuid4())
    for wrong in ({**PAYSTACK, "amount": "0"}, {**PAYSTACK, "currency": "GBP"}, {**PAYSTACK, "provider": "nobody"}):
        assert (await ada.initialize(wrong, key=key)).status_code == 422
    assert (await ada.initialize(PAYSTACK, key=key)).status_code == 201


async def test_a_key_stands_for_its_answer_even_if_the_order_would_be_refused_today(urls: Urls) -> None:
    async with running_house(urls, amqp_url="", worker=False) as house:
        ada, key = await house.merchant(), str(uuid4())
        first = await ada.initialize(PAYSTACK, key=key)
        house.services.credentials._environment.clear()  # the provider was taken away
        house.services.credentials.forget()
        assert (await ada.initialize(PAYSTACK)).json()["code"] == "provider_not_configured"
        assert shown(await ada.initialize(PAYSTACK, key=key)) == shown(first)


async def test_two_merchants_may_use_the_same_key(shop: House, ada: Merchant) -> None:
    bob, key = await shop.merchant(), str(uuid4())
    answers = await asyncio.gather(ada.initialize(PAYSTACK, key=key), bob.initialize(PAYSTACK, key=key))
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] != answers[1].json()["id"]


async def test_a_request_that_is_still_running_is_waited_for(urls: Urls) -> None:
    async with running_house(urls, amqp_url="", worker=False, simulator={"slow_seconds": 0.4}) as house:
        ada, key = await house.merchant(), str(uuid4())
        await house.outcome("paystack", "slow")
        first = asyncio.create_task(ada.initialize(PAYSTACK, key=key))
        await eventually(lambda: house.rows("SELECT 1 FROM idempotency_keys"))
        early = await ada.initialize(PAYSTACK, key=key)
        assert (early.status_code, early.json()["code"]) == (409, "in_flight")
        assert 1 <= int(early.headers["retry-after"]) <= 5
        other = await ada.initialize({**PAYSTACK, "amount": "1.00"}, key=key)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        done = await first
        assert shown(await ada.initialize(PAYSTACK, key=key)) == shown(done)
        assert await submissions(house) == 1


async def test_after_a_crash_and_the_lease_a_repeat_shows_the_payment_and_never_sends_again(
    shop: House, ada: Merchant
) -> None:
    key = str(uuid4())
    first = await ada.initialize(PAYSTACK, key=key)
    before = await submissions(shop)
    # As a crash before B leaves it: nothing was answered, the lease runs.
    await shop.rows("UPDATE idempotency_keys SET status_code = NULL, body = NULL WHERE key = $1", key)
    await delete_keys(shop.settings.redis_url, shop.settings.redis_prefix + "idem:")
    running = await ada.initialize(PAYSTACK, key=key)
    assert (running.status_code, running.json()["code"]) == (409, "in_flight")
    await shop.rows("UPDATE idempotency_keys SET lease_until = now() - interval '1 second' WHERE key = $1", key)
    await ada.post(f"/payments/{first.json()['id']}/cancel")
    after = await ada.initialize(PAYSTACK, key=key)
    assert (after.status_code, after.json()["id"], after.json()["status"]) == (201, first.json()["id"], "cancelled")
    assert after.headers["idempotent-replayed"] == "true"
    assert after.json()["client_token"] == first.json()["client_token"]
    assert await submissions(shop) == before


async def test_a_forgotten_key_starts_anew(shop: House, ada: Merchant) -> None:
    key = str(uuid4())
    first = await ada.initialize(PAYSTACK, key=key)
    await shop.rows("UPDATE idempotency_keys SET expires_at = now() - interval '1 second' WHERE key = $1", key)
    assert await shop.services.idempotency_keys.delete_expired(utc_now()) == 1
    assert await shop.services.idempotency_keys.delete_expired(utc_now()) == 0
    await delete_keys(shop.settings.redis_url, shop.settings.redis_prefix + "idem:")
    second = await ada.initialize(PAYSTACK, key=key)
    assert second.json()["id"] != first.json()["id"]


# -- the service --------------------------------------------------------------------------------------------------------


@pytest.fixture
def service(shop: House) -> IdempotencyService:
    return shop.services.idempotency


@pytest.mark.parametrize(
    ("given", "kept"), [("k", "k"), ('"k"', "k"), ('""', '""'), ("~!", "~!"), ("x" * 255, "x" * 255)]
)
def test_a_key_is_visible_ascii(service: IdempotencyService, given: str, kept: str) -> None:
    assert service.scope("p", "POST", "/x", given) == KeyScope("p", "POST", "/x", kept)


@pytest.mark.parametrize("key", [None, "", "x" * 256, "ünï", "a\nb", "a\x7f"])
def test_anything_else_is_no_key(service: IdempotencyService, key: str | None) -> None:
    with pytest.raises(Malformed):
        service.scope("p", "POST", "/x", key)


def test_a_fingerprint_tells_bodies_apart_and_tells_nothing(service: IdempotencyService) -> None:
    one = service.fingerprint({"a": 1, "b": {"c": "secret"}})
    assert one == service.fingerprint({"b": {"c": "secret"}, "a": 1})
    assert one != service.fingerprint({"a": 1, "b": {"c": "other"}})
    assert b"secret" not in one
    assert len(one) == 32


@pytest.mark.parametrize("change", ["principal", "method", "path", "key"])
async def test_each_part_of_the_scope_counts(
    shop: House, ada: Merchant, service: IdempotencyService, change: str
) -> None:
    payment = await ada.pay()
    scope = KeyScope(str(uuid7()), "POST", "/api/v1/x", "k")
    other = KeyScope(**{**{name: getattr(scope, name) for name in KeyScope.__slots__}, change: "another"})
    await _take(shop, scope, UUID(payment["id"]), timedelta(minutes=1))
    with pytest.raises(InFlight) as running:
        await service.replay(scope, b"same")
    assert running.value.retry_after == 5
    with pytest.raises(Invalid):
        await service.replay(scope, b"other")
    assert await service.replay(other, b"same") is None
    await _take(shop, other, UUID(payment["id"]), timedelta(seconds=-1))
    replay = await service.replay(other, b"same")
    assert replay is not None
    assert (replay.transaction_id, replay.status_code, replay.body) == (UUID(payment["id"]), None, None)


async def _take(shop: House, scope: KeyScope, transaction_id: UUID, lease: timedelta) -> None:
    await shop.rows(
        "INSERT INTO idempotency_keys (principal, method, path, key, fingerprint, transaction_id, lease_until, expires_at)"
        " VALUES ($1, $2, $3, $4, 'same', $5, $6, $6)",
        scope.principal,
        scope.method,
        scope.path,
        scope.key,
        transaction_id,
        utc_now() + lease,
    )
