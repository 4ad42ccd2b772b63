"""`POST /webhooks/payment`: the older address that all providers share, where the signature's header says whose it is."""

from collections.abc import AsyncIterator

import httpx
import pytest

from payflow.infra.queue.port import WEBHOOKS
from payflow.webhooks.endpoints import BY_SIGNATURE
from tests.house import PROVIDERS, House, Urls, running_house
from tests.webhooks.desk import PATHS, callback_token, counted, encoded, proof, send

BODY = encoded({"event": "anything", "eventType": "ANYTHING", "event_id": "evt_1", "event_type": "ANYTHING"})
SIGNING = ("paystack", "flutterwave", "moniepoint", "stripe", "standardbank_pay")


@pytest.fixture(scope="module")
async def door(urls: Urls) -> AsyncIterator[House]:
    """A house whose worker has not come, so that what intake stored can be seen."""
    async with running_house(urls, worker=False, amqp_url="", refused_webhooks_per_minute=1_000_000) as house:
        yield house


async def stored(house: House) -> int:
    return sum([await queue.depth(WEBHOOKS) for queue in house.services.queue.queues])


def test_a_signatures_header_belongs_to_one_provider_and_none_has_the_address_as_its_name(door: House) -> None:
    declared = [door.services.registry.declaration(name) for name in door.services.registry.names]
    headers = [header for declaration in declared for header in declaration.signature_headers]
    assert len(headers) == len(set(headers)) == 6
    assert all(header == header.lower() for header in headers)
    assert {declaration.name for declaration in declared if declaration.signature_headers} == set(SIGNING)
    assert BY_SIGNATURE not in {declaration.path_name for declaration in declared}


@pytest.mark.parametrize("provider", SIGNING)
async def test_a_genuine_webhook_is_taken_as_at_its_own_address(door: House, provider: str) -> None:
    before, accepted = await stored(door), counted(door, provider, "accepted")
    answer = await send(door, BY_SIGNATURE, BODY, proof(door, provider, BODY))
    own = await send(door, PATHS.get(provider, provider), BODY, proof(door, provider, BODY))
    assert (answer.status_code, answer.content) == (own.status_code, own.content) == (200, b"{}")
    assert answer.headers["deprecation"] == "true"
    successor = f"/api/v1/webhooks/{PATHS.get(provider, provider)}"
    assert answer.headers["link"] == f'<{successor}>; rel="successor-version"'
    assert counted(door, provider, "accepted") == accepted + 2
    assert await stored(door) == before + 2
    rows = await door.rows("SELECT headers->>'provider' AS provider FROM queue_messages ORDER BY id DESC LIMIT 2")
    assert [row["provider"] for row in rows] == [provider] * 2


@pytest.mark.parametrize("provider", SIGNING)
async def test_a_wrong_signature_is_refused_in_the_name_of_its_provider(door: House, provider: str) -> None:
    before, kept = counted(door, provider, "refused"), await stored(door)
    genuine = proof(door, provider, BODY)
    wrong = {name: value[:-1] + ("0" if value[-1] != "0" else "1") for name, value in genuine.items()}
    altered = [] if provider == "flutterwave" else [(BODY + b" ", genuine)]  # its hash binds no body
    for body, headers in [(BODY, wrong), *altered]:
        assert_refused(await send(door, BY_SIGNATURE, body, headers))
    assert counted(door, provider, "refused") == before + 1 + len(altered)
    assert await stored(door) == kept


async def test_the_signature_of_one_provider_proves_nothing_under_the_header_of_another(door: House) -> None:
    kept, before = await stored(door), counted(door, "moniepoint", "refused")
    (signature,) = proof(door, "paystack", BODY).values()
    assert_refused(await send(door, BY_SIGNATURE, BODY, {"monnify-signature": signature}))
    assert counted(door, "moniepoint", "refused") == before + 1
    assert await stored(door) == kept


async def test_without_a_signature_or_with_two_nobody_is_heard(door: House) -> None:
    kept, before = await stored(door), counted(door, "unknown", "refused")
    both = {**proof(door, "paystack", BODY), **proof(door, "stripe", BODY)}
    for headers in ({}, {"x-sbp-timestamp": "1"}, both):
        assert_refused(await send(door, BY_SIGNATURE, BODY, headers))
    assert counted(door, "unknown", "refused") == before + 3
    rows = await door.rows("SELECT data FROM events WHERE type = 'webhook.refused' ORDER BY id DESC LIMIT 3")
    assert [row["data"] for row in rows] == [
        {"provider": "unknown", "reason": reason} for reason in ("wrong_scheme", "header_missing", "header_missing")
    ]
    assert await stored(door) == kept


async def test_there_is_no_such_address_with_a_token(door: House) -> None:
    token = callback_token("0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50")
    answer = await send(door, f"{BY_SIGNATURE}/{token}", BODY, proof(door, "paystack", BODY))
    assert answer.status_code == 404


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - set(SIGNING)))
async def test_a_provider_that_signs_nothing_declares_no_header(door: House, provider: str) -> None:
    assert door.services.registry.declaration(provider).signature_headers == frozenset()


async def test_refusals_are_limited_here_too(urls: Urls) -> None:
    async with running_house(urls, worker=False, amqp_url="", refused_webhooks_per_minute=2) as house:
        answers = [(await send(house, BY_SIGNATURE, BODY)).status_code for _ in range(4)]
        assert answers == [401, 401, 429, 429]
        assert (await send(house, BY_SIGNATURE, BODY, proof(house, "paystack", BODY))).status_code == 200


def test_the_document_calls_it_deprecated(door: House) -> None:
    operation = door.app.openapi()["paths"][f"/api/v1/webhooks/{BY_SIGNATURE}"]["post"]
    assert (operation["deprecated"], operation["tags"]) == (True, ["aliases"])


def assert_refused(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (401, "webhook_refused")
    assert "www-authenticate" in answer.headers
