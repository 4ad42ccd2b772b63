"""Every secret of a whole house is marked; then everything that can be read is searched for the marks."""

import dataclasses
import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aio_pika
import httpx
import pytest
import structlog
from pydantic import SecretStr

from payflow.core.logging import configure_logging
from payflow.infra.queue.port import WEBHOOKS
from tests.house import House, Urls, eventually, running_house
from tests.webhooks.desk import attempt_of, callback_token, charge_success, encoded, publish, send, until_dead

MARK = "zq7marked"
SETTINGS_SECRET = f"{MARK}-installation-0123456789abcdef0123456789"
PAYSTACK_KEY = f"sk_test_{MARK}paystack"
STRIPE_KEY = f"sk_test_{MARK}stripe"
STRIPE_WEBHOOK_SECRET = f"whsec_{MARK}webhook"
MPESA = {"consumer_key": f"{MARK}ck", "consumer_secret": f"{MARK}cs", "shortcode": "174379", "passkey": f"{MARK}pk"}
ROTATED_KEY = f"sk_test_{MARK}rotated"
PASSWORD = f"{MARK} correct horse"
WRONG_PASSWORD = f"{MARK} wrong horse"
CARD = "4242424242424242"
CARD_SPACED = "4242 4242 4242 4242"
MERCHANTS_CARD, MERCHANTS_OTP = "4000056655665556", f"{MARK[:4]}otp493027"
# Charged by its number; the simulator asks for an OTP, and repeats the number as Monnify does. Three or four digits stand
# anywhere by chance: a number as such never begins with 0, and what is part of a longer word does not count.
CHARGED_CARD, CHARGED_PIN, CARD_OTP = "5060995994247093", "904716283559", "40538652917"
CVV = "0417"
CVV_ALONE = re.compile(rf"(?<![\w.:+-]){CVV}(?![\w.:-])")
MONIEPOINT = {
    "api_key": f"MK_TEST_{MARK}moniepoint",
    "secret_key": f"{MARK}moniepointsecret",
    "contract_code": "7059707855",
}


@dataclass
class Seen:
    """Everything that was read, by where it stood, and the secrets that came to be on the way."""

    places: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)

    def note(self, place: str, *texts: Any) -> None:
        told = "\n".join(text if isinstance(text, str) else repr(text) for text in texts)
        self.places[place] = self.places.get(place, "") + told


class Listening(httpx.AsyncBaseTransport):
    """Keeps every answer of the API; those that hand out a secret on purpose are named by their path."""

    HANDS_OUT = (
        "/auth/login",
        "/auth/refresh",
        "/auth/token",
        "/auth/api-keys",
        "/payments/initialize",
        "/realtime/tickets",
    )

    def __init__(self, inner: httpx.AsyncBaseTransport, seen: Seen) -> None:
        self._inner, self._seen = inner, seen

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        body = (await answer.aread()).decode()
        handed = request.method == "POST" and request.url.path.endswith(self.HANDS_OUT) and answer.is_success
        self._seen.note("answers that hand out" if handed else "answers", str(answer.headers), body)
        return answer


@pytest.fixture(scope="module")
def logs() -> Iterator[io.StringIO]:
    """Everything the process logs at DEBUG, as `configure_logging` writes it, and the access log beside it."""
    root = logging.getLogger()
    handlers, level, levels = list(root.handlers), root.level, {}
    for name in ("uvicorn.access", "httpx", "aio_pika", "aiormq", "alembic"):
        levels[name] = logging.getLogger(name).level
    written = io.StringIO()
    with redirect_stderr(written):
        configure_logging("DEBUG")
        yield written
    root.handlers, root.level = handlers, level
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


async def live(house: House, seen: Seen) -> None:
    """A day in the life of an installation: logins, keys, payments of three providers, refusals, failures, dead letters."""
    client = httpx.AsyncClient(
        transport=Listening(httpx.ASGITransport(app=house.app), seen), base_url="http://payflow.example/api/v1"
    )
    house._clients.append(client)
    email = f"{uuid4().hex}@example.com"
    await client.post("/auth/register", json={"email": email, "password": PASSWORD, "name": "Ada"})
    await client.post("/auth/login", json={"email": email, "password": WRONG_PASSWORD})
    tokens = (await client.post("/auth/login", json={"email": email, "password": PASSWORD})).json()
    refreshed = (await client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})).json()
    seen.secrets |= {
        "access token": tokens["access_token"],
        "refresh token": tokens["refresh_token"],
        "second access token": refreshed["access_token"],
        "second refresh token": refreshed["refresh_token"],
    }
    client.headers["authorization"] = f"Bearer {refreshed['access_token']}"
    await client.get("/auth/me")
    made = await client.post("/auth/api-keys", json={"name": "shop", "scopes": ["payments:read", "payments:write"]})
    assert made.status_code == 201, made.text
    seen.secrets["api key"] = next(
        value for value in made.json().values() if isinstance(value, str) and value.startswith("pf_key_")
    )
    await client.get("/auth/api-keys")
    await client.get("/payments", headers={"x-api-key": seen.secrets["api key"]})
    await client.get("/payments", headers={"authorization": f"Bearer {MARK}.no.token"})
    await client.get(f"/payments?ticket={MARK}ticket&token={MARK}query")
    await pay_with_each(house, client, seen)
    await fail_in_each_way(house, client, seen)
    await administer(house, seen)


async def pay_with_each(house: House, client: httpx.AsyncClient, seen: Seen) -> None:
    bodies: list[dict[str, Any]] = [
        {
            "provider": "paystack",
            "amount": "5000.00",
            "currency": "NGN",
            "customer": {"email": "ada@example.com"},
            "return_url": "https://shop.example/return",
        },
        {
            "provider": "mpesa",
            "amount": "250",
            "currency": "KES",
            "customer": {"phone": "+254708374149"},
            "metadata": {"otp": MERCHANTS_OTP},
        },
        {
            "provider": "stripe",
            "amount": "19.90",
            "currency": "USD",
            "customer": {"email": "jenny@example.com"},
            "return_url": "https://shop.example/return",
        },
    ]
    kept_out = {**bodies[0], "description": f"card {MERCHANTS_CARD}", "metadata": {"card_number": MERCHANTS_CARD}}
    refused = await client.post("/payments/initialize", json=kept_out, headers={"idempotency-key": str(uuid4())})
    assert refused.status_code == 422, refused.text
    for body in bodies:
        key = str(uuid4())
        started = await client.post("/payments/initialize", json=body, headers={"idempotency-key": key})
        assert started.status_code == 201, started.text
        again = await client.post("/payments/initialize", json=body, headers={"idempotency-key": key})
        assert again.headers["idempotent-replayed"] == "true"
        payment = started.json()
        seen.secrets[f"client token of {body['provider']}"] = payment["client_token"]

        async def completed(identity: str = payment["id"]) -> bool:
            return bool((await client.get(f"/payments/{identity}")).json()["status"] == "completed")

        await eventually(completed)
        shown = (await client.get(f"/payments/{payment['id']}")).json()
        seen.secrets[f"callback token of {body['provider']}"] = callback_token_of(attempt_of(shown)["id"])
        await client.post(f"/payments/{payment['id']}/verify")
    await charge_a_card(house, client, seen)
    await client.get("/transactions")
    await client.get("/events")
    await client.get("/providers")
    (row,) = await house.rows("SELECT count(*) AS many FROM ledger_journals")
    assert row["many"] == 4


async def charge_a_card(house: House, client: httpx.AsyncClient, seen: Seen) -> None:
    """With an OTP, wrong and right; replayed; refused by a provider that takes none and as a mistyped one; and when the adapter
    breaks with the card in its words."""
    card = {"number": CHARGED_CARD, "expiry_month": "12", "expiry_year": "2027", "cvv": CVV, "pin": CHARGED_PIN}
    body = {
        "provider": "moniepoint",
        "amount": "4200.00",
        "currency": "NGN",
        "method": "card",
        "customer": {"email": "ada@example.com"},
        "payment_details": {"card": card},
    }

    async def pay(key: str, **changes: Any) -> httpx.Response:
        return await client.post("/payments/initialize", json=body | changes, headers={"idempotency-key": key})

    started = await pay("card-1")
    assert started.json()["next_action"]["type"] == "otp", started.text
    assert (await pay("card-1")).headers["idempotent-replayed"] == "true"
    path = f"/payments/{started.json()['id']}"
    seen.secrets["client token of moniepoint"] = started.json()["client_token"]
    await client.post(f"{path}/submit-otp", json={"otp": CARD_OTP + "1"}, headers={"idempotency-key": "otp-1"})
    paid = await client.post(f"{path}/submit-otp", json={"otp": CARD_OTP}, headers={"idempotency-key": "otp-2"})
    assert paid.json()["status"] == "completed", paid.text
    await client.get(path)
    swapped = CHARGED_CARD[:-2] + CHARGED_CARD[:-3:-1]
    mistyped = {"card": card | {"number": swapped, "pin": f"{CHARGED_PIN}x", CHARGED_CARD: "x"}}
    for changes in ({"provider": "paystack"}, {"method": "ussd"}, {"payment_details": mistyped}):
        assert (await pay(str(uuid4()), **changes)).status_code == 422
    adapter: Any = house.services.registry.get("moniepoint")

    async def broken(order: Any, _credentials: Any) -> Any:
        raise ValueError(" ".join(item.get_secret_value() for item in vars_of(order.details.card)))

    adapter.collect = broken
    seen.secrets["client token of a broken one"] = (await pay(str(uuid4()))).json()["client_token"]
    del adapter.collect


def vars_of(card: Any) -> list[SecretStr]:
    return [getattr(card, field.name) for field in dataclasses.fields(card)]


def callback_token_of(attempt_id: str) -> str:
    from uuid import UUID

    from payflow.core.crypto import derive_key
    from payflow.gateway.signing import CallbackTokens

    return CallbackTokens(derive_key(SETTINGS_SECRET, "callback-token")).issue(UUID(attempt_id))


async def fail_in_each_way(house: House, client: httpx.AsyncClient, seen: Seen) -> None:
    """Refused webhooks that hold secrets, a token in the path, bodies that cannot be read, a provider that hangs up."""
    token = seen.secrets["callback token of mpesa"]
    proven = await send(house, f"lipa/{token}", encoded({"Body": {"what": "is this"}}))
    assert proven.status_code == 200
    attempts = (
        ("paystack", {"x-paystack-signature": f"{MARK}signature"}),
        ("stripe", {"stripe-signature": f"t=1,v1={MARK}signature"}),
        (f"lipa/{token[:-1]}{'0' if token[-1] != '0' else '1'}", {}),
        (f"nowhere/{token}", {"authorization": f"Bearer {MARK}bearer"}),
    )
    for path, headers in attempts:
        raw = encoded({"password": f"{MARK}body", "otp": f"{MARK}otp", "card": CARD})
        answer = await send(house, path, raw, headers)
        seen.note("answers", str(answer.headers), answer.text)
    malformed = await publish(house, "paystack", encoded({"event": "charge.success", "data": {"note": "x"}}))
    unknown = await publish(house, "paystack", encoded(charge_success("att" + "0" * 26)))
    await until_dead(house, 3)
    seen.note("messages", malformed.headers, unknown.headers)
    for outcome in ("refuse", "server_error", "dropped_after_charging", "html_error"):
        await house.outcome("all", outcome, times=1)
        for body in (
            {"provider": "paystack", "amount": "7.00", "currency": "NGN", "customer": {"email": "a@example.com"}},
            {"provider": "mpesa", "amount": "7", "currency": "KES", "customer": {"phone": "+254708374149"}},
        ):
            await client.post("/payments/initialize", json=body, headers={"idempotency-key": str(uuid4())})
    invalid = {"provider": "paystack", "amount": "x", "password": PASSWORD, "otp": f"{MARK}otp"}
    await client.post("/payments/initialize", json=invalid, headers={"idempotency-key": f"{MARK}-no-secret"[9:]})
    await client.post("/auth/login", json={"email": "ada@example.com", "password": {"no": f"{MARK}text"}})
    await client.post("/auth/register", json={"email": "no-address", "password": PASSWORD, "name": "x"})
    structlog.get_logger("payflow.test").debug("provider.asked", authorization=f"Bearer {MARK}", key=PAYSTACK_KEY)
    structlog.get_logger("payflow.test").warning(
        "provider.said", text=f"Bearer {MARK}abcdef0123 refused key {PAYSTACK_KEY}", otp=f"{MARK}otp", card=CARD_SPACED
    )


async def administer(house: House, seen: Seen) -> None:
    password = f"{MARK} admin horse"
    email = f"{uuid4().hex}@example.com"
    await house.services.identity.create_admin(email, password, "Root")
    client = httpx.AsyncClient(
        transport=Listening(httpx.ASGITransport(app=house.app), seen), base_url="http://payflow.example/api/v1"
    )
    house._clients.append(client)
    login = (await client.post("/auth/login", json={"email": email, "password": password})).json()
    client.headers["authorization"] = f"Bearer {login['access_token']}"
    configured = await client.post("/providers/paystack/config", json={"secret_key": ROTATED_KEY})
    assert configured.status_code == 200, configured.text
    mistyped = await client.post("/providers/paystack/config", json={"secret_key": f"{MARK} mistyped", "x": MARK})
    assert mistyped.status_code == 422
    letters = (await client.get("/webhooks/dead-letters")).json()["data"]
    await client.post(f"/webhooks/dead-letters/{letters[0]['id']}/replay")
    await client.get("/events")
    await client.get("/providers")


async def gather_all(house: House, seen: Seen) -> None:
    """Read every table but those that hold hashes and sealed values by design, the metrics, and what lies in the queues."""
    tables = await house.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    for table in (row["tablename"] for row in tables):
        for row in await house.rows(f'SELECT * FROM "{table}"'):
            seen.note(f"table {table}", json.dumps({key: str(value) for key, value in row.items()}))
    answer = await house.client().get("/metrics")
    seen.note("metrics", answer.text)
    answer = await house.client().get("/openapi.json")
    seen.note("openapi", answer.text)
    keys = [key async for key in house.services.redis.scan_iter(match=f"{house.settings.redis_prefix}*")]
    for key in keys:
        seen.note("redis keys", key.decode())
        if await house.services.redis.type(key) == b"string":
            seen.note("redis values", (await house.services.redis.get(key) or b"").decode(errors="replace"))


async def raw_messages(house: House) -> list[tuple[bytes, Any]]:
    """What lies in the queue as AMQP holds it, left there."""
    connection = await aio_pika.connect(house.settings.amqp_url)
    found = []
    async with connection, connection.channel() as channel:
        queue = await channel.get_queue(f"{house.settings.queue_prefix}.{WEBHOOKS}")
        while (message := await queue.get(fail=False)) is not None:
            found.append((message.body, message.headers))
    return found


@pytest.fixture(scope="module")
async def seen(urls: Urls, logs: io.StringIO) -> Seen:
    found = Seen(
        secrets={
            "password": PASSWORD,
            "wrong password": WRONG_PASSWORD,
            "installation": SETTINGS_SECRET,
            "Paystack key": PAYSTACK_KEY,
            "rotated key": ROTATED_KEY,
            "Stripe key": STRIPE_KEY,
            "Stripe webhook secret": STRIPE_WEBHOOK_SECRET,
            "M-Pesa consumer secret": MPESA["consumer_secret"],
            "M-Pesa passkey": MPESA["passkey"],
            "Monnify key": MONIEPOINT["api_key"],
            "Monnify secret": MONIEPOINT["secret_key"],
            "any marked secret": MARK,
            "card": CARD,
            "card with spaces": CARD_SPACED,
            "card that was charged": CHARGED_CARD,
            "PIN of the card": CHARGED_PIN,
            "OTP of the card": CARD_OTP,
        }
    )
    credentials = {
        "paystack": {"secret_key": SecretStr(PAYSTACK_KEY)},
        "stripe": {"secret_key": SecretStr(STRIPE_KEY), "webhook_secret": SecretStr(STRIPE_WEBHOOK_SECRET)},
        "mpesa": {name: SecretStr(value) for name, value in MPESA.items()},
        "moniepoint": {name: SecretStr(value) for name, value in MONIEPOINT.items()},
    }
    async with running_house(
        urls,
        log_level="DEBUG",
        secret_key=SecretStr(SETTINGS_SECRET),
        provider_credentials=credentials,
        card_details_accepted=True,
        ladder_seconds=(0.1,),
        overtaken_delays_seconds=(0.1,),
        simulator={
            "paystack_secret_key": PAYSTACK_KEY,
            "stripe_secret_key": STRIPE_KEY,
            "stripe_webhook_secret": STRIPE_WEBHOOK_SECRET,
            "mpesa_consumer_key": MPESA["consumer_key"],
            "mpesa_consumer_secret": MPESA["consumer_secret"],
            "mpesa_passkey": MPESA["passkey"],
            "moniepoint_api_key": MONIEPOINT["api_key"],
            "moniepoint_secret_key": MONIEPOINT["secret_key"],
            "moniepoint_contract_code": MONIEPOINT["contract_code"],
            "moniepoint_otp": CARD_OTP,
            "customer_delay_seconds": 0.05,
        },
    ) as house:
        await live(house, found)
        await gather_all(house, found)
        await house.worker.stop()
        for number in range(2):
            await send_signed(house, number)
        messages = await raw_messages(house)
        assert len(messages) >= 2
        found.note("messages", *messages)
    found.note("logs", logs.getvalue())
    return found


async def send_signed(house: House, number: int) -> None:
    from tests.webhooks.desk import paystack_signature

    body = encoded(charge_success("somebody", number=number))
    headers = {"x-paystack-signature": paystack_signature(body, PAYSTACK_KEY), "authorization": f"Bearer {MARK}x"}
    assert (await send(house, "paystack", body, headers)).status_code == 200


def leaks(seen: Seen, place: str, *but: str) -> list[str]:
    text = seen.places[place]
    return [name for name, secret in seen.secrets.items() if secret in text and name not in but]


def test_the_search_would_find_something(seen: Seen) -> None:
    """What hands out a token is found to hold it, and every place was read."""
    assert "client token of mpesa" in leaks(seen, "answers that hand out")
    assert "api key" in leaks(seen, "answers that hand out")
    for part in ("webhook.refused", '"event":"request"', "webhook_refused", "provider.said", "worker.started"):
        assert part in seen.places["logs"] + seen.places["answers"], part
    assert "provider.asked" in seen.places["logs"]  # at DEBUG
    for place in ("table events", "table dead_letters", "table idempotency_keys", "table webhook_bodies", "metrics"):
        assert len(seen.places[place]) > 100, place


def test_no_secret_is_in_the_logs(seen: Seen) -> None:
    assert leaks(seen, "logs") == []


def test_no_secret_is_in_the_messages_of_the_queue(seen: Seen) -> None:
    assert leaks(seen, "messages") == []


def test_no_secret_is_in_the_metrics_or_the_document(seen: Seen) -> None:
    assert leaks(seen, "metrics") == []
    assert leaks(seen, "openapi") == []


def test_no_secret_is_in_any_table(seen: Seen) -> None:
    """Neither plain in the event log, the dead letters and the kept answers, nor in the tables of users and keys."""
    places = [place for place in seen.places if place.startswith("table ")]
    assert len(places) > 10
    assert {place: leaks(seen, place) for place in places if leaks(seen, place)} == {}


def test_no_secret_is_in_redis(seen: Seen) -> None:
    assert leaks(seen, "redis keys") == []
    assert leaks(seen, "redis values") == []


def test_no_secret_is_in_an_answer_that_does_not_hand_it_out(seen: Seen) -> None:
    assert leaks(seen, "answers") == []


def test_an_answer_that_hands_out_a_token_holds_no_other_secret(seen: Seen) -> None:
    handed = [name for name in seen.secrets if "token" in name and not name.startswith("callback")]
    assert leaks(seen, "answers that hand out", "api key", *handed) == []


def test_a_card_number_that_a_merchant_sends_by_mistake_is_kept_nowhere(seen: Seen) -> None:
    assert [place for place, text in seen.places.items() if MERCHANTS_CARD in text] == []


def test_a_card_that_is_charged_by_its_number_is_kept_nowhere(seen: Seen) -> None:
    """Not in part, nor with its code: what is passed on leaves no trace."""
    assert seen.places["answers that hand out"].count('"type":"otp"') == 2  # the card was charged, and replayed
    assert "payment.adapter_failed" in seen.places["logs"]
    for secret in (CHARGED_CARD, CHARGED_CARD[6:], CHARGED_PIN, CARD_OTP):
        assert [place for place, text in seen.places.items() if secret in text] == []
    assert CVV_ALONE.search(f'{{"cvv":"{CVV}"}}')
    assert CVV_ALONE.search(f"cannot send {CVV}")
    assert [place for place, text in seen.places.items() if CVV_ALONE.search(text)] == []


def test_what_a_merchant_puts_into_metadata_by_mistake_goes_no_further_than_the_payment(seen: Seen) -> None:
    """It is the merchant's own to read again; the history, the logs and the queue never hold it."""
    held = {place for place, text in seen.places.items() if MERCHANTS_OTP in text}
    assert held <= {
        "table transactions",
        "table idempotency_keys",
        "redis values",
        "answers",
        "answers that hand out",
    }
    assert "table transactions" in held


def test_callback_tokens_are_nowhere_but_at_the_provider(seen: Seen) -> None:
    tokens = {name: value for name, value in seen.secrets.items() if name.startswith("callback token")}
    assert len(tokens) == 3
    for place, text in seen.places.items():
        assert [name for name, value in tokens.items() if value in text] == [], place


def test_the_marks_of_the_desk_are_those_of_this_house(seen: Seen) -> None:
    """The tests of webhooks derive tokens from another secret; here they would find nothing."""
    assert callback_token("0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50") != callback_token_of(
        "0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50"
    )
