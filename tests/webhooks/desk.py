"""What the tests of webhooks share: a clock that can be moved, webhooks made by hand, and looking into the house."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import time
from datetime import datetime, timedelta
from typing import Any

import httpx
from sqlalchemy.engine import make_url

from payflow.core.clock import utc_now
from payflow.core.crypto import derive_key
from payflow.gateway.signing import CallbackTokens
from payflow.infra.queue.port import WEBHOOKS, Message
from tests.house import SECRET, House, Merchant, eventually


class MovableClock:
    """The real time, and what the test adds to it."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


class Impatient(httpx.AsyncBaseTransport):
    """Gives up as a network client does, and tells a broken answer as one: httpx's in-process transport does neither."""

    def __init__(self, inner: httpx.AsyncBaseTransport, seconds: float) -> None:
        self._inner = inner
        self._seconds = seconds

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._inner.handle_async_request(request)
        except TimeoutError:
            raise httpx.ReadTimeout("the provider did not answer", request=request) from None
        except AssertionError:
            raise httpx.RemoteProtocolError("the answer broke off", request=request) from None


def encoded(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def paystack_signature(body: bytes, secret: str) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()


def stripe_signature(body: bytes, secret: str, timestamp: float | None = None, scheme: str = "v1") -> str:
    moment = int(time.time() if timestamp is None else timestamp)
    digest = hmac.new(secret.encode(), b"%d." % moment + body, hashlib.sha256).hexdigest()
    return f"t={moment},{scheme}={digest}"


PATHS = {"standardbank_pay": "standardbank", "mpesa": "lipa"}  # where it is not the provider's name


def proof(house: House, provider: str, body: bytes) -> dict[str, str]:
    """The headers by which this provider proves this body; none where it signs nothing."""
    known = house.simulator_settings
    if provider == "paystack":
        return {"x-paystack-signature": paystack_signature(body, known.paystack_secret_key)}
    if provider == "stripe":
        return {"stripe-signature": stripe_signature(body, known.stripe_webhook_secret)}
    if provider == "flutterwave":
        return {"verif-hash": known.flutterwave_secret_hash}
    if provider == "moniepoint":
        return {"monnify-signature": paystack_signature(body, known.moniepoint_secret_key)}  # the same scheme
    if provider == "standardbank_pay":
        timestamp, signature = stripe_signature(body, known.standardbank_pay_signing_secret).split(",")
        return {"x-sbp-timestamp": timestamp.removeprefix("t="), "x-sbp-signature": signature}
    return {}


def charge_success(reference: str, *, amount: int = 500_000, currency: str = "NGN", number: int = 4_099_260_516) -> Any:
    """Paystack's charge.success, as its documents show it (trimmed)."""
    return {
        "event": "charge.success",
        "data": {
            "id": number,
            "domain": "test",
            "status": "success",
            "reference": reference,
            "amount": amount,
            "requested_amount": amount,
            "currency": currency,
            "fees": None,
            "gateway_response": "Approved",
            "customer": {"email": "ada@example.com"},
        },
    }


def intent_succeeded(
    reference: str, *, amount: int = 1_990, currency: str = "usd", event_id: str = "evt_1", intent_id: str = "pi_1"
) -> Any:
    """Stripe's payment_intent.succeeded, trimmed."""
    return {
        "id": event_id,
        "object": "event",
        "type": "payment_intent.succeeded",
        "data": {
            "object": {
                "id": intent_id,
                "object": "payment_intent",
                "amount": amount,
                "amount_received": amount,
                "currency": currency,
                "status": "succeeded",
                "metadata": {"reference": reference},
            }
        },
    }


def stk_callback(
    checkout_id: str, merchant_id: str, code: int = 0, *, shillings: int = 250, receipt: str = "SKL0000001"
) -> Any:
    callback: dict[str, Any] = {
        "MerchantRequestID": merchant_id,
        "CheckoutRequestID": checkout_id,
        "ResultCode": code,
        "ResultDesc": "told by the test",
    }
    if code == 0:
        items = [
            {"Name": "Amount", "Value": float(shillings)},
            {"Name": "MpesaReceiptNumber", "Value": receipt},
            {"Name": "Balance"},
            {"Name": "TransactionDate", "Value": 20261121102115},
            {"Name": "PhoneNumber", "Value": 254708374149},
        ]
        callback["CallbackMetadata"] = {"Item": items}
    return {"Body": {"stkCallback": callback}}


def attempt_of(payment: dict[str, Any]) -> dict[str, Any]:
    attempt: dict[str, Any] = payment["attempts"][-1]
    return attempt


def callback_token(attempt_id: str) -> str:
    """The token that the house put into the callback URL of this attempt."""
    from uuid import UUID

    return CallbackTokens(derive_key(SECRET, "callback-token")).issue(UUID(attempt_id))


async def send(house: House, path: str, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    client = house.client()
    return await client.post(
        f"/api/v1/webhooks/{path}", content=body, headers={"content-type": "application/json", **(headers or {})}
    )


async def send_paystack(house: House, body: Any) -> httpx.Response:
    raw = encoded(body)
    signature = paystack_signature(raw, house.simulator_settings.paystack_secret_key)
    return await send(house, "paystack", raw, {"x-paystack-signature": signature})


async def send_stripe(house: House, body: Any) -> httpx.Response:
    raw = encoded(body)
    signature = stripe_signature(raw, house.simulator_settings.stripe_webhook_secret)
    return await send(house, "stripe", raw, {"stripe-signature": signature})


async def send_mpesa(house: House, token: str, body: Any) -> httpx.Response:
    return await send(house, f"lipa/{token}", encoded(body))


async def waiting(house: House, merchant: Merchant, provider: str, **changes: Any) -> dict[str, Any]:
    """A payment whose customer does nothing by itself, with its attempts."""
    payment = await merchant.pay(provider, **changes)
    return await merchant.payment(payment["id"])


def counted(house: House, provider: str, outcome: str) -> float:
    """`webhook_events_total` of this provider and outcome."""
    value = house.services.metrics.get_sample_value("webhook_events_total", {"provider": provider, "outcome": outcome})
    return value or 0.0


async def until_counted(house: House, provider: str, outcome: str, times: float = 1, seconds: float = 40) -> None:
    await eventually(
        lambda: counted(house, provider, outcome) >= times,
        seconds=seconds,
        what=lambda: f"{times} {outcome} of {provider}, but it is {counted(house, provider, outcome)}",
    )


async def until_dead(house: House, many: int = 1, seconds: float = 40) -> list[Any]:
    """The dead letters, newest first, once there are so many."""

    async def there() -> bool:
        return await house.services.dead_letters.count(WEBHOOKS) >= many

    await eventually(there, seconds=seconds, what=f"{many} dead letters")
    return list((await house.services.dead_letters.list(WEBHOOKS)).items)


async def publish(house: House, provider: str, body: bytes, **headers: str) -> Message:
    """Put a message into the queue as intake would."""
    from uuid import uuid4

    message = Message(str(uuid4()), body, {"provider": provider, "received_at": utc_now().isoformat(), **headers})
    await house.services.queue.publish(WEBHOOKS, message)
    return message


async def books(house: House) -> dict[str, int]:
    """What stands on each account, in minor units."""
    rows = await house.rows(
        """
        SELECT a.code, sum(e.amount_minor)::bigint AS amount FROM ledger_entries e
        JOIN ledger_accounts a ON a.id = e.account_id GROUP BY a.code ORDER BY a.code
        """
    )
    return {row["code"]: row["amount"] for row in rows}


async def journals(house: House) -> list[str]:
    return [row["kind"] for row in await house.rows("SELECT kind FROM ledger_journals ORDER BY kind")]


async def kept_bodies(house: House) -> int:
    return int((await house.rows("SELECT count(*) AS many FROM webhook_bodies"))[0]["many"])


def story(payment: dict[str, Any]) -> list[str]:
    return [event["type"] for event in payment["timeline"]]


async def steady(look: Any, *, seconds: float = 0.5, limit: float = 30) -> Any:
    """Wait until what `look` sees has not changed for a while: everything that was under way has ended."""
    loop = asyncio.get_running_loop()
    end, since, seen = loop.time() + limit, loop.time(), await look()
    while loop.time() - since < seconds:
        assert loop.time() < end, "it does not come to rest"
        await asyncio.sleep(0.05)
        now = await look()
        if now != seen:
            since, seen = loop.time(), now
    return seen


class Relay:
    """A TCP way to a server that a test may cut and mend: `async with Relay.to(url) as relay`, then use `relay.url`."""

    def __init__(self, host: str, port: int, url: str) -> None:
        self._host, self._port, self._target_url = host, port, url
        self._server: asyncio.Server | None = None
        self._ways: set[asyncio.StreamWriter] = set()
        self.port = 0

    @classmethod
    def to(cls, url: str) -> "Relay":
        parts = make_url(url)
        assert parts.host is not None
        assert parts.port is not None
        return cls(parts.host, parts.port, url)

    @property
    def url(self) -> str:
        parts = make_url(self._target_url).set(host="127.0.0.1", port=self.port)
        return parts.render_as_string(hide_password=False)

    async def __aenter__(self) -> "Relay":
        await self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse new connections and end those that are open."""
        assert self._server is not None
        self._server.close()
        for way in list(self._ways):
            way.transport.abort()
        await eventually(lambda: not self._ways)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, self._port)
        self._ways |= {writer, back}
        with contextlib.suppress(OSError):
            await asyncio.gather(_pour(reader, back), _pour(there, writer))
        for way in (writer, back):
            way.transport.abort()
            self._ways.discard(way)


async def _pour(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    sink.transport.abort()
