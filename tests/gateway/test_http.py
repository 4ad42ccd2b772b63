"""Which silence was it? Real sockets, because the transport's own words for what went wrong are not to be believed."""

import asyncio
import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client import CollectorRegistry

from payflow.gateway.http import (
    MAX_ANSWER_BYTES,
    Answer,
    NotSent,
    OutcomeUnknown,
    ProviderHttp,
    Unreadable,
    build_http,
)
from payflow.gateway.metrics import GatewayMetrics

Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(behave: Behave, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that does with each connection what it is told; its address, and the requests it has read."""
    read: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            read.append(head.decode())
            await behave(reader, writer)
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}", read


@asynccontextmanager
async def http(
    timeout_seconds: float = 1.0, connections: int = 5, metrics: GatewayMetrics | None = None
) -> AsyncIterator[ProviderHttp]:
    observe = metrics.observe if metrics else None
    async with build_http(
        timeout_seconds=timeout_seconds, connect_timeout_seconds=0.4, connections=connections, observe=observe
    ) as client:
        yield client


async def post(client: ProviderHttp, url: str, **more: object) -> Answer:
    return await client.send("paystack", "collect", "POST", url + "/charge", json={"amount": 1}, **more)  # type: ignore[arg-type]


def saying(answer: bytes, *, keep_open: float = 0) -> Behave:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(keep_open)

    return behave


OK = b'HTTP/1.1 200 OK\r\nX-Odd: Yes\r\nContent-Length: 11\r\n\r\n{"ok":true}'


async def test_an_answer_comes_whole() -> None:
    async with server(saying(OK)) as (url, read), http() as client:
        answer = await client.send("p", "o", "POST", url + "/x", headers={"authorization": "Bearer k"}, json={"a": 1})
    assert (answer.status, answer.json_object(), answer.headers["x-odd"]) == (200, {"ok": True}, "Yes")
    assert "authorization: bearer k" in read[0].lower()
    assert "content-type: application/json" in read[0].lower()
    assert "user-agent: payflow/" in read[0].lower()


async def test_a_form_is_sent_as_a_form() -> None:
    async with server(saying(OK)) as (url, read), http() as client:
        await client.send("p", "o", "POST", url, form={"a[b]": "c d"})
    assert "application/x-www-form-urlencoded" in read[0].lower()


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_every_status_is_an_answer(status: int) -> None:
    text = f"HTTP/1.1 {status} Odd\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    async with server(saying(text)) as (url, _), http() as client:
        assert (await post(client, url)).status == status


async def test_a_redirect_is_never_followed() -> None:
    text = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    async with server(saying(text)) as (url, read), http() as client:
        assert (await post(client, url)).status == 302
    assert len(read) == 1


async def test_a_refused_connection_was_not_sent() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with http() as client:
            with pytest.raises(NotSent):
                await post(client, f"http://127.0.0.1:{closed.getsockname()[1]}")


async def test_an_unknown_host_was_not_sent() -> None:
    async with http(timeout_seconds=10) as client:
        with pytest.raises(NotSent):
            await post(client, "http://no-such-host.invalid")


async def test_a_scheme_we_do_not_speak_was_not_sent() -> None:
    async with http() as client:
        with pytest.raises(NotSent):
            await post(client, "ftp://127.0.0.1")


async def test_a_connection_that_is_never_accepted_was_not_sent() -> None:
    """A full backlog: the system neither accepts nor refuses."""
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket())
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(busy.getsockname())
        await asyncio.sleep(0.05)
        async with http() as client:
            with pytest.raises(NotSent):
                await post(client, f"http://127.0.0.1:{busy.getsockname()[1]}")


async def test_a_pool_without_a_free_connection_was_not_sent() -> None:
    async with server(saying(OK, keep_open=2)) as (url, read), http(timeout_seconds=2, connections=1) as client:
        reading = asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reading.set()
            await asyncio.sleep(1.5)

        async with server(slow) as (slow_url, _):
            first = asyncio.create_task(post(client, slow_url))
            await reading.wait()
            with pytest.raises(NotSent):
                await post(client, url)
            first.cancel()
            with contextlib.suppress(asyncio.CancelledError, OutcomeUnknown):
                await first
    assert read == []


def untrusted(folder: Path) -> ssl.SSLContext:
    """A server's TLS with a certificate that nobody signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    pem = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def test_a_certificate_that_nobody_signed_was_not_sent(tmp_path: Path) -> None:
    async with server(saying(OK), untrusted(tmp_path)) as (url, read), http() as client:
        with pytest.raises(NotSent):
            await post(client, url)
    assert read == []


async def test_a_server_that_speaks_no_tls_was_not_sent() -> None:
    async with server(saying(b"SSH-2.0-odd\r\n")) as (url, _), http() as client:
        with pytest.raises(NotSent):
            await post(client, url.replace("http:", "https:"))


async def test_a_server_that_hangs_up_after_reading_is_unknown() -> None:
    """The trap: the transport calls this a ConnectTimeout. The charge may exist."""
    async with server(saying(b"")) as (url, read), http() as client:
        with pytest.raises(OutcomeUnknown):
            await post(client, url)
    assert len(read) == 1


async def test_a_server_that_resets_after_reading_is_unknown() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with server(reset) as (url, read), http() as client:
        with pytest.raises(OutcomeUnknown):
            await post(client, url)
    assert len(read) == 1


async def test_a_reused_connection_that_was_closed_is_unknown_and_never_tried_again() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")  # the second request on this connection
        read.append("second")

    async with server(once) as (url, read), http() as client:
        await post(client, url)
        with pytest.raises(OutcomeUnknown):
            await post(client, url)
        assert read[1:] == ["second"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nodd",
        b"not http at all\r\n\r\n",
    ],
    ids=["half", "bad chunk", "bad gzip", "no http"],
)
async def test_an_answer_that_cannot_be_read_is_unknown(answer: bytes) -> None:
    async with server(saying(answer)) as (url, _), http() as client:
        with pytest.raises(OutcomeUnknown):
            await post(client, url)


async def test_no_answer_in_time_is_unknown() -> None:
    async with server(saying(b"", keep_open=2)) as (url, read), http(timeout_seconds=0.2) as client:
        with pytest.raises(OutcomeUnknown):
            await post(client, url)
    assert len(read) == 1


async def test_a_call_may_have_a_shorter_time_of_its_own() -> None:
    async with server(saying(b"", keep_open=2)) as (url, _), http(timeout_seconds=30) as client:
        with pytest.raises(OutcomeUnknown):
            await post(client, url, timeout_seconds=0.1)


async def test_an_answer_without_end_is_unknown() -> None:
    size = MAX_ANSWER_BYTES + 1
    text = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + b" " * size
    async with server(saying(text)) as (url, _), http(timeout_seconds=5) as client:
        with pytest.raises(OutcomeUnknown, match="larger than 1 MiB"):
            await post(client, url)


async def test_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with server(saying(OK)) as (url, read), http() as client:
        assert (await post(client, url)).status == 200
    assert len(read) == 1


@pytest.mark.parametrize(("body", "words"), [(b"<html>", "not JSON"), (b"[1]", "not a JSON object"), (b"", "not JSON")])
def test_a_body_that_is_no_object_is_unreadable(body: bytes, words: str) -> None:
    with pytest.raises(Unreadable, match=f"HTTP 200 with a body that is {words}"):
        Answer(200, {}, body).json_object()


async def test_each_call_is_counted_with_its_outcome() -> None:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    async with server(saying(OK)) as (url, _), http(metrics=metrics) as client:
        await post(client, url)
    async with server(saying(b"")) as (url, _), http(metrics=metrics) as client:
        with pytest.raises(OutcomeUnknown):
            await post(client, url)
    async with http(metrics=metrics) as client:
        with pytest.raises(NotSent):
            await post(client, "http://127.0.0.1:1")
    metrics.lost_events(3)

    def counted(outcome: str) -> float | None:
        labels = {"provider": "paystack", "operation": "collect", "outcome": outcome}
        return registry.get_sample_value("payflow_provider_requests_total", labels)

    assert [counted(outcome) for outcome in ("2xx", "unknown", "not_sent")] == [1, 1, 1]
    assert registry.get_sample_value("payflow_events_publish_lost_total") == 3


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (httpx.ConnectError("x"), False),
        (httpx.PoolTimeout("x"), False),
        (httpx.ReadTimeout("x"), True),
        (httpx.ReadError("x"), True),
    ],
)
async def test_another_transport_is_believed_by_its_own_words(error: httpx.HTTPError, sent: bool) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    async with ProviderHttp(httpx.MockTransport(fail)) as client:
        with pytest.raises(OutcomeUnknown if sent else NotSent):
            await post(client, "http://provider.example")
