"""What every provider must hold, run against canned replies (data, by provider) and against real sockets.

A provider's test file subclasses `ProviderContract`, and `SignedWebhooks` where its webhooks are signed, and fills in the data:

    class TestPaystackContract(SignedWebhooks, ProviderContract):
        adapter = Paystack
        collect_cases = (Case("duplicate reference", Reply(400, {...}), Verdict.UNKNOWN), ...)
"""

import asyncio
import contextlib
import dataclasses
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import httpx
import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from payflow.core.money import Money, exponent
from payflow.gateway.contract import (
    CollectOrder,
    Collects,
    Customer,
    Operation,
    OrderNotAcceptable,
    ProviderEvent,
    Query,
    ReceivesWebhooks,
    Result,
    Trust,
    Verdict,
    WebhookMalformed,
    WebhookRefused,
    WebhookRequest,
)
from payflow.gateway.http import ProviderHttp, build_http

NOW = datetime(2026, 3, 4, 9, 30, 15, tzinfo=UTC)
BASE_URL = "http://provider.test"
REFERENCE = "pf0123456789abcdefghjkmnpqrs"
TRANSACTION_ID = UUID("019c0000-0000-7000-8000-000000000001")
CALLBACK_URL = "https://pay.example/api/v1/webhooks/lipa/" + "a1" * 32

PAGE = b"<html><head><title>502</title></head><body>The upstream hung up.</body></html>"


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()

    def response(self) -> httpx.Response:
        return httpx.Response(self.status, content=self.content, headers=self.headers)

    def wire(self) -> bytes:
        head = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return f"HTTP/1.1 {self.status} X\r\n{head}content-length: {len(self.content)}\r\n\r\n".encode() + self.content


@dataclass(frozen=True)
class Case:
    """One reply and what the adapter must make of it; `expected` names further fields of the Result, `failure` its code."""

    name: str
    reply: Reply
    verdict: Verdict
    failure: str | None = None
    expected: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AmountCase:
    """`sent` is what the provider must receive for this much money."""

    money: Money
    sent: int

    @property
    def name(self) -> str:
        return f"{self.money.currency} {self.money.minor}"


@dataclass(frozen=True)
class RefusedOrder:
    """An order with these fields changed cannot be taken, and the pointer says why."""

    name: str
    changes: Mapping[str, Any]
    pointer: str


@dataclass(frozen=True)
class EventCase:
    """A webhook's body and the one event it must become. `result` names fields of the result; None: no result at all."""

    name: str
    body: Any
    expected: Mapping[str, Any]
    result: Mapping[str, Any] | None = None
    failure: str | None = None

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Handler = Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]


def build(adapter: Any, handler: Handler, clock: Callable[[], datetime] = lambda: NOW) -> Any:
    return adapter(ProviderHttp(httpx.MockTransport(handler)), BASE_URL, clock)


class Wire:
    """Stands for the provider: gives the replies in order, the last one again and again, and keeps the requests."""

    def __init__(self, *replies: Reply | Exception, preliminary: Mapping[str, Reply] | None = None) -> None:
        self.replies = list(replies)
        self.preliminary = dict(preliminary or {})
        self.requests: list[httpx.Request] = []
        self.early: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        if request.url.path in self.preliminary:
            self.early.append(request)
            return self.preliminary[request.url.path].response()
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply.response()

    def build(self, adapter: Any, clock: Callable[[], datetime] = lambda: NOW) -> Any:
        return build(adapter, self, clock)

    @property
    def json(self) -> dict[str, Any]:
        """The body of the only request."""
        (request,) = self.requests
        body: dict[str, Any] = json.loads(request.content)
        return body

    @property
    def form(self) -> dict[str, str]:
        (request,) = self.requests
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        return dict(parse_qsl(request.content.decode(), keep_blank_values=True, strict_parsing=True))


def an_order(amount: Money, **changes: Any) -> CollectOrder:
    order = CollectOrder(
        reference=REFERENCE,
        transaction_id=TRANSACTION_ID,
        amount=amount,
        customer=Customer(email="ada@customer.example", phone="+254712345678", name="Ada"),
        callback_url=CALLBACK_URL,
        description="Order 17",
        return_url="https://shop.example/thanks",
    )
    return dataclasses.replace(order, **changes)


def a_query(amount: Money, *provider_references: str) -> Query:
    return Query(Operation.COLLECT, REFERENCE, provider_references, amount, NOW)


def a_webhook(body: bytes, headers: Mapping[str, str] | None = None) -> WebhookRequest:
    return WebhookRequest(headers or {}, body, NOW)


def check_fields(found: Any, expected: Mapping[str, Any], failure: str | None) -> None:
    assert {name: getattr(found, name) for name in expected} == dict(expected)
    if isinstance(found, Result):
        assert (found.failure.code if found.failure else None) == failure


MALFORMED = {
    "an empty answer": Reply(200),
    "no content": Reply(204),
    "an HTML page instead of the answer": Reply(200, PAGE, {"content-type": "text/html"}),
    "an HTML error page": Reply(502, PAGE, {"content-type": "text/html"}),
    "unavailable": Reply(503, PAGE, {"content-type": "text/html", "retry-after": "5"}),
    "a list": Reply(200, []),
    "a list with the answer in it": Reply(200, [{"status": True}]),
    "null": Reply(200, b"null"),
    "text": Reply(200, b'"success"'),
    "an empty object": Reply(200, {}),
    "an empty object with a server error": Reply(500, {}),
    "not UTF-8": Reply(200, b"\xff\xfe{}"),
    "a redirect": Reply(302, b"", {"location": "http://elsewhere.test/"}),
    "a status nobody uses": Reply(418, {"message": "I'm a teapot"}),
    "an HTML page not found": Reply(404, PAGE, {"content-type": "text/html"}),
    "a bad request without words": Reply(400),
}
ODD_VALUES: tuple[Any, ...] = (None, True, "", "odd", "\x00", -1, 0, 1.5, 10**30, [], {}, [{}], {"odd": []})


def variants(value: Any) -> Iterator[Any]:
    """The value with one place changed at a time to each odd value, and with one member missing at a time."""
    yield from ODD_VALUES
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {name: item for name, item in value.items() if name != key}
            for changed in variants(inner):
                yield {**value, key: changed}
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            for changed in variants(inner):
                yield [*value[:index], changed, *value[index + 1 :]]


class ProviderFoundation:
    """What every provider holds, whatever it can do: its credentials, its webhooks as words, its declaration."""

    adapter: ClassVar[Any]
    capabilities: ClassVar[tuple[type, ...]]
    credentials: ClassVar[Any]
    secrets: ClassVar[tuple[str, ...]]
    bad_credentials: ClassVar[Mapping[str, Any]]  # one that holds "looks-wrong" in a secret's place
    event_cases: ClassVar[tuple[EventCase, ...]]

    # Credentials

    def test_credentials_do_not_show_a_secret(self) -> None:
        for secret in self.secrets:
            assert secret not in repr(self.credentials) + str(self.credentials) + self.credentials.model_dump_json()

    def test_credentials_of_another_shape_are_refused_without_being_repeated(self) -> None:
        model: type[BaseModel] = self.adapter.CredentialsModel
        good = {name: reveal(value) for name, value in self.credentials}
        assert model.model_validate(good) == self.credentials
        for bad in ({**good, "unlisted": "looks-wrong"}, {**good, **self.bad_credentials}):
            with pytest.raises(ValidationError) as refusal:
                model.model_validate(bad)
            assert "looks-wrong" not in str(refusal.value)

    # Events

    def test_a_webhook_becomes_an_event(self, event_case: EventCase) -> None:
        (event,) = Wire().build(self.adapter).translate(a_webhook(event_case.content))
        check_fields(event, event_case.expected, None)
        if event_case.result is None:
            assert event.result is None
        else:
            check_fields(event.result, event_case.result, event_case.failure)

    @pytest.mark.parametrize(
        "body", [b"", b"null", b"[]", b"{}", b'"text"', b"\xff", PAGE, b'{"event"', b"[[[[", b'{"Body":NaN}']
    )
    def test_a_webhook_that_cannot_be_read_is_malformed(self, body: bytes) -> None:
        with pytest.raises(WebhookMalformed):
            Wire().build(self.adapter).translate(a_webhook(body))

    def test_no_odd_value_in_a_webhook_raises_anything_else_than_malformed(self) -> None:
        adapter = Wire().build(self.adapter)
        for case in self.event_cases:
            if not isinstance(case.body, bytes):
                for body in variants(case.body):
                    with contextlib.suppress(WebhookMalformed):
                        adapter.translate(a_webhook(json.dumps(body).encode()))

    # Declaration

    def test_the_declaration_holds_together(self) -> None:
        declaration = self.adapter.declaration
        for capability in self.capabilities:
            assert isinstance(self.adapter(None, BASE_URL, lambda: NOW), capability)
        assert declaration.name == self.adapter.__module__.rpartition(".")[2]
        assert declaration.path_name.isalpha()
        assert declaration.path_name.islower()
        assert declaration.live_base_url.startswith("https://")
        assert all(exponent(currency) >= 0 for currency in declaration.currencies)
        assert all(len(country) == 2 and country.isupper() for country in declaration.countries)
        assert set(declaration.exponents) <= declaration.currencies
        assert declaration.session_life >= declaration.first_check_after


class ProviderContract(ProviderFoundation):
    """Subclass with the provider's data; nothing here knows a provider."""

    capabilities: ClassVar[tuple[type, ...]] = (Collects, ReceivesWebhooks)
    amount: ClassVar[Money]
    provider_references: ClassVar[tuple[str, ...]]
    preliminary: ClassVar[Mapping[str, Reply]] = {}
    collect_path: ClassVar[str]

    accepted: ClassVar[Reply]
    completed: ClassVar[Reply]
    completed_money: ClassVar[tuple[Money | None, Money | None]]  # requested and paid, as `completed` tells
    collect_cases: ClassVar[tuple[Case, ...]]
    fetch_cases: ClassVar[tuple[Case, ...]]
    amount_cases: ClassVar[tuple[AmountCase, ...]]
    refused_orders: ClassVar[tuple[RefusedOrder, ...]]

    def wire(self, *replies: Reply | Exception) -> Wire:
        return Wire(*replies, preliminary=self.preliminary)

    def order(self, **changes: Any) -> CollectOrder:
        return an_order(changes.pop("amount", self.amount), **changes)

    def query(self) -> Query:
        return a_query(self.amount, *self.provider_references)

    def sent_amount(self, wire: Wire) -> int:
        raise NotImplementedError

    # Answers

    async def test_an_order_is_answered_by_the_table(self, collect_case: Case) -> None:
        wire = self.wire(collect_case.reply)
        result = await wire.build(self.adapter).collect(self.order(), self.credentials)
        assert result.verdict is collect_case.verdict
        check_fields(result, collect_case.expected, collect_case.failure)
        assert wire.requests[0].method == "POST"
        assert wire.requests[0].url.path == self.collect_path

    async def test_a_query_is_answered_by_the_table(self, fetch_case: Case) -> None:
        wire = self.wire(fetch_case.reply)
        result = await wire.build(self.adapter).fetch(self.query(), self.credentials)
        assert result.verdict is fetch_case.verdict
        check_fields(result, fetch_case.expected, fetch_case.failure)

    async def test_an_order_and_a_query_are_each_one_request(self) -> None:
        wire = self.wire(self.accepted)
        await wire.build(self.adapter).collect(self.order(), self.credentials)
        assert len(wire.requests) == 1
        wire = self.wire(self.completed)
        await wire.build(self.adapter).fetch(self.query(), self.credentials)
        assert len(wire.requests) == 1

    @pytest.mark.parametrize("reply", MALFORMED.values(), ids=MALFORMED.keys())
    async def test_an_answer_that_cannot_be_read_is_unknown(self, reply: Reply) -> None:
        for verb, subject in (("collect", self.order()), ("fetch", self.query())):
            wire = self.wire(reply)
            result = await getattr(wire.build(self.adapter), verb)(subject, self.credentials)
            assert (result.verdict, result.failure, result.expirable) == (Verdict.UNKNOWN, None, False)
            assert len(wire.requests) == 1

    async def test_an_answer_cut_short_is_unknown(self) -> None:
        for verb, subject, whole in (
            ("collect", self.order(), self.accepted.content),
            ("fetch", self.query(), self.completed.content),
        ):
            for length in (1, len(whole) // 2, len(whole) - 1):
                adapter = self.wire(Reply(200, whole[:length])).build(self.adapter)
                assert (await getattr(adapter, verb)(subject, self.credentials)).verdict is Verdict.UNKNOWN

    async def test_no_odd_value_in_an_answer_raises_or_completes_with_other_money(self) -> None:
        for body in variants(self.completed.body):
            result = await self.wire(Reply(200, body)).build(self.adapter).fetch(self.query(), self.credentials)
            if result.verdict is Verdict.COMPLETED:
                for told, known in zip((result.requested, result.paid), self.completed_money, strict=True):
                    assert told is None or told == known or told.minor == 0
                assert result.requested or result.paid or result.amount_bound

    async def test_no_odd_value_in_an_answer_to_an_order_raises(self) -> None:
        for body in variants(self.accepted.body):
            for status in (200, 400, 500):
                wire = self.wire(Reply(status, body))
                result = await wire.build(self.adapter).collect(self.order(), self.credentials)
                assert result.verdict is not Verdict.COMPLETED

    # Silence

    async def test_a_refused_connection_is_not_sent(self) -> None:
        async with on_real_sockets(self.adapter, f"http://127.0.0.1:{closed_port()}") as adapter:
            result = await adapter.collect(self.order(), self.credentials)
            assert (result.verdict, result.failure.code) == (Verdict.NOT_SENT, "provider_unreachable")

    async def test_a_failed_tls_handshake_is_not_sent(self) -> None:
        async def plain_text(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        async with listening(plain_text) as url, on_real_sockets(self.adapter, url.replace("http", "https")) as adapter:
            assert (await adapter.collect(self.order(), self.credentials)).verdict is Verdict.NOT_SENT

    async def test_a_query_that_was_not_sent_says_nothing_of_the_payment(self) -> None:
        async with on_real_sockets(self.adapter, f"http://127.0.0.1:{closed_port()}") as adapter:
            result = await adapter.fetch(self.query(), self.credentials)
            assert (result.verdict, result.failure, result.expirable) == (Verdict.UNKNOWN, None, False)

    async def test_a_connection_closed_after_the_request_was_read_is_unknown(self) -> None:
        provider = Provider(self.preliminary, ["close"])
        async with listening(provider) as url, on_real_sockets(self.adapter, url) as adapter:
            assert (await adapter.collect(self.order(), self.credentials)).verdict is Verdict.UNKNOWN
        assert provider.paths == [self.collect_path]

    async def test_a_reset_of_a_reused_connection_is_unknown_and_never_not_sent(self) -> None:
        provider = Provider(self.preliminary, [self.completed, "reset"])
        async with listening(provider) as url, on_real_sockets(self.adapter, url) as adapter:
            assert (await adapter.fetch(self.query(), self.credentials)).verdict is Verdict.COMPLETED
            assert (await adapter.collect(self.order(), self.credentials)).verdict is Verdict.UNKNOWN
        assert provider.connections == 1
        assert provider.paths[1:] == [self.collect_path]

    async def test_a_read_timeout_is_unknown(self) -> None:
        provider = Provider(self.preliminary, ["silence", "silence"])
        async with listening(provider) as url, on_real_sockets(self.adapter, url, timeout_seconds=0.1) as adapter:
            assert (await adapter.collect(self.order(), self.credentials)).verdict is Verdict.UNKNOWN
            assert (await adapter.fetch(self.query(), self.credentials)).verdict is Verdict.UNKNOWN
        assert len(provider.paths) == 2

    async def test_a_body_that_breaks_off_is_unknown(self) -> None:
        provider = Provider(self.preliminary, ["half", "half"], half_of=self.accepted)
        async with listening(provider) as url, on_real_sockets(self.adapter, url) as adapter:
            assert (await adapter.collect(self.order(), self.credentials)).verdict is Verdict.UNKNOWN
        assert provider.paths == [self.collect_path]

    # Orders

    def test_the_order_of_this_suite_is_acceptable(self) -> None:
        self.wire().build(self.adapter).check(self.order())

    def test_an_order_that_cannot_be_taken_points_at_the_reason(self, refused_order: RefusedOrder) -> None:
        with pytest.raises(OrderNotAcceptable) as refusal:
            self.wire().build(self.adapter).check(self.order(**refused_order.changes))
        assert refusal.value.pointer == refused_order.pointer

    async def test_amounts_are_sent_in_the_providers_unit(self, amount_case: AmountCase) -> None:
        wire = self.wire(self.accepted)
        adapter, order = wire.build(self.adapter), self.order(amount=amount_case.money)
        adapter.check(order)
        await adapter.collect(order, self.credentials)
        assert self.sent_amount(wire) == amount_case.sent

    # Secrets

    async def test_no_secret_is_told_even_when_the_provider_repeats_it(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(0)
        for secret in self.secrets:
            words = f"Invalid API Key provided: {secret}"
            error = {"type": "invalid_request_error", "message": words, "errorCode": "1", "errorMessage": words}
            for body in ({**error, "error": error, "status": False}, {"fault": {"faultstring": words}}, words):
                for status in (200, 400, 401, 404, 500):
                    adapter = self.wire(Reply(status, body)).build(self.adapter)
                    for verb, subject in (("collect", self.order()), ("fetch", self.query())):
                        result = await getattr(adapter, verb)(subject, self.credentials)
                        assert secret not in repr(result)
            assert secret not in repr(adapter) + repr(vars(adapter))
            assert secret not in caplog.text

    async def test_no_secret_is_in_an_address(self) -> None:
        for verb, subject, reply in (("collect", self.order(), self.accepted), ("fetch", self.query(), self.completed)):
            wire = self.wire(reply)
            await getattr(wire.build(self.adapter), verb)(subject, self.credentials)
            for request in wire.requests + wire.early:
                assert not any(secret in str(request.url) for secret in self.secrets)


class SignedWebhooks:
    """For providers that sign: `sign` gives the headers of a genuine webhook."""

    adapter: ClassVar[Any]
    credentials: ClassVar[Any]
    other_credentials: ClassVar[Any]
    empty_credentials: ClassVar[Any]
    signature_header: ClassVar[str]
    body: ClassVar[bytes] = b'{"event":"charge.success","data":{"note":"caf\xc3\xa9 \\/ 1.0"}}'

    def sign(self, body: bytes, credentials: Any) -> dict[str, str]:
        raise NotImplementedError

    def verify(self, body: bytes, headers: Mapping[str, str], *credentials: Any) -> None:
        Wire().build(self.adapter).verify_webhook(a_webhook(body, headers), credentials)

    def refusal(self, body: bytes, headers: Mapping[str, str], *credentials: Any) -> str:
        with pytest.raises(WebhookRefused) as refused:
            self.verify(body, headers, *credentials)
        return refused.value.reason

    def test_a_genuine_webhook_is_believed(self) -> None:
        self.verify(self.body, self.sign(self.body, self.credentials), self.credentials)

    @pytest.mark.parametrize("place", [0, 20, -1])
    def test_one_changed_byte_is_refused(self, place: int) -> None:
        altered = bytearray(self.body)
        altered[place] ^= 1
        headers = self.sign(self.body, self.credentials)
        assert self.refusal(bytes(altered), headers, self.credentials) == "signature_mismatch"

    def test_a_body_written_anew_is_refused(self) -> None:
        again = json.dumps(json.loads(self.body)).encode()
        headers = self.sign(self.body, self.credentials)
        assert self.refusal(again, headers, self.credentials) == "signature_mismatch"

    def test_a_webhook_without_its_header_is_refused(self) -> None:
        assert self.refusal(self.body, {}, self.credentials) == "header_missing"
        assert self.refusal(self.body, {self.signature_header: ""}, self.credentials) == "header_missing"

    def test_a_webhook_signed_with_another_secret_is_refused(self) -> None:
        headers = self.sign(self.body, self.other_credentials)
        assert self.refusal(self.body, headers, self.credentials) == "signature_mismatch"

    def test_either_of_two_secrets_proves_the_origin_during_rotation(self) -> None:
        for signer in (self.credentials, self.other_credentials):
            self.verify(self.body, self.sign(self.body, signer), self.credentials, self.other_credentials)

    def test_an_empty_secret_never_proves_anything(self) -> None:
        headers = self.sign(self.body, self.empty_credentials)
        assert self.refusal(self.body, headers, self.empty_credentials) == "no_secret"
        assert self.refusal(self.body, headers) == "no_secret"
        assert self.refusal(self.body, headers, self.empty_credentials, self.credentials) == "signature_mismatch"

    def test_every_event_is_declared_as_signed(self, event_case: EventCase) -> None:
        (event,) = Wire().build(self.adapter).translate(a_webhook(event_case.content))
        assert isinstance(event, ProviderEvent)
        assert event.trust is Trust.SIGNED


# --- Real sockets ---------------------------------------------------------------------------------------------------

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Provider:
    """Answers one request after the other: a Reply, or `close`, `reset`, `silence`, `half` once the request was read whole."""

    def __init__(
        self, preliminary: Mapping[str, Reply], script: list[Reply | str], half_of: Reply | None = None
    ) -> None:
        self.preliminary = preliminary
        self.script = list(script)
        self.half_of = half_of
        self.paths: list[str] = []
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.decode().split("\r\n")
            path = urlsplit(lines[0].split(" ")[1]).path
            lengths = [int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length")]
            await reader.readexactly(sum(lengths))
            if path in self.preliminary:
                writer.write(self.preliminary[path].wire())
            elif not await self.answer(path, writer):
                return

    async def answer(self, path: str, writer: asyncio.StreamWriter) -> bool:
        self.paths.append(path)
        step = self.script.pop(0)
        if isinstance(step, Reply):
            writer.write(step.wire())
            return True
        if step == "silence":
            await asyncio.sleep(30)
        if step == "half" and self.half_of is not None:
            writer.write(self.half_of.wire()[:-5])
            await writer.drain()
        if step == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return False


@contextlib.asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[str]:
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def on_real_sockets(adapter: Any, url: str, *, timeout_seconds: float = 5) -> AsyncIterator[Any]:
    async with build_http(timeout_seconds=timeout_seconds, connect_timeout_seconds=2, connections=10) as client:
        yield adapter(client, url, lambda: datetime.now(UTC))


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def reveal(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
