"""The load, in a process of its own: keep-alive HTTP on bare sockets, WebSockets that only note when a frame came.

Each function here is one measurement. It runs in the load process, reads the meter itself at the window's two ends, and
returns numbers only. Everything is bounded in time and in count, and speaks to 127.0.0.1.
"""

import asyncio
import hashlib
import hmac
import json
import random
import resource
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import uvloop

from bench.fanout import Client
from bench.meter import Meter, Used, calibrate, resident_megabytes, used
from bench.provider import CHECKOUT
from payflow.core.clock import utc_now
from payflow.core.ids import uuid7
from payflow.events.publisher import EventPublisher
from payflow.events.types import Event
from payflow.infra.redis import connect_redis

SECRET = "sk_test_benchmark0123456789"
HOST = "127.0.0.1"
AMOUNT_MINOR = 500_000

Sockets = TypeVar("Sockets", bound=Client)

INITIATION = {
    "provider": "paystack",
    "amount": "5000.00",
    "currency": "NGN",
    "customer": {"email": "ada@example.com", "name": "Ada Obi", "phone": "+2348012345678"},
    "customer_id": "customer-7",
    "description": "Order 1234",
    "metadata": {"order": "1234", "channel": "app"},
    "return_url": "https://shop.example/return",
}


@dataclass(frozen=True)
class Payment:
    """What is needed of an initialized payment to pay it and to watch it."""

    id: str
    attempt_reference: str
    version: int


@dataclass(frozen=True)
class HttpJob:
    """`requests` names where they come from: initiations, one request again and again, or webhooks of `references`."""

    port: int
    meter: Meter
    requests: str
    concurrency: int
    seconds: float
    most: int
    expected: int
    header: str = ""
    references: tuple[str, ...] = ()


@dataclass
class HttpResult:
    """`used` and `latencies_ms` are of the window; `sent` counts the warm-up, too."""

    used: Used
    latencies_ms: list[float]
    calibration_ms: float
    sent: int
    payments: list[Payment] = field(default_factory=list)

    @property
    def operations(self) -> int:
        return len(self.latencies_ms)


class LoadFailed(Exception):
    """The service answered otherwise than it should, so that the figures would mean nothing."""


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        if at < 0:
            self._fail(LoadFailed(f"an answer without a length: {head!r}"))
            return
        size = end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < size:
            return
        status, body, self._buffer = int(head[9:12]), self._buffer[end + 4 : size], self._buffer[size:]
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((status, body))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def http(job: HttpJob) -> HttpResult:
    """Requests from `concurrency` connections until the time or the requests are over."""
    return uvloop.run(_http(job))


async def _http(job: HttpJob) -> HttpResult:
    loop = asyncio.get_running_loop()
    connections = [(await loop.create_connection(Connection, HOST, job.port))[1] for _ in range(job.concurrency)]
    requests = _requests(job)
    latencies: list[float] = []
    bodies: list[bytes] = []
    statuses: Counter[int] = Counter()
    sample = b""

    async def ask_until(connection: Connection, deadline: float, most: int, kept: list[float]) -> None:
        nonlocal sample
        for _ in range(most):
            request = next(requests, None)
            if request is None or time.perf_counter() >= deadline:
                return
            began = time.perf_counter()
            status, body = await connection.ask(request)
            kept.append((time.perf_counter() - began) * 1000)
            statuses[status] += 1
            if status != job.expected:
                sample = body
            elif job.requests == "initiations":
                bodies.append(body)

    async def everywhere(seconds: float, most: int, kept: list[float]) -> None:
        deadline = time.perf_counter() + seconds
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(ask_until(connection, deadline, most, kept))

    first: list[float] = []
    # The first request alone: what is loaded at first use is then there for all.
    await ask_until(connections[0], time.perf_counter() + 10, 1, first)
    await everywhere(5.0, 2, first)
    calibration = calibrate()
    own = time.process_time()
    before = job.meter.read()
    await everywhere(job.seconds, max(1, job.most // job.concurrency), latencies)
    after = job.meter.read()
    own = time.process_time() - own
    calibration = (calibration + calibrate()) / 2
    for connection in connections:
        connection.transport.close()
    if set(statuses) - {job.expected}:
        raise LoadFailed(f"{job.requests}: answers {dict(statuses)}, such as {sample[:300]!r}")
    return HttpResult(
        used=used(before, after, load_seconds=own),
        latencies_ms=latencies,
        calibration_ms=calibration,
        sent=sum(statuses.values()),
        payments=[_payment(body) for body in bodies],
    )


def _payment(body: bytes) -> Payment:
    value = json.loads(body)
    return Payment(value["id"], value["checkout_url"].removeprefix(CHECKOUT), value["version"])


def _requests(job: HttpJob) -> Iterator[bytes]:
    match job.requests:
        case "initiations":
            return _initiations(job.header)
        case "replays":
            return _replays(job.header)
        case "webhooks":
            return iter([webhook(reference) for reference in job.references])
    raise ValueError(job.requests)


def _initiations(header: str) -> Iterator[bytes]:
    body = json.dumps(INITIATION).encode()
    head = _head("/api/v1/payments/initialize", body, header)
    while True:
        yield head + b"Idempotency-Key: " + str(uuid7()).encode() + b"\r\n\r\n" + body


def _replays(header: str) -> Iterator[bytes]:
    request = next(_initiations(header))
    while True:
        yield request


def webhook(reference: str) -> bytes:
    """A signed `charge.success` of about 1 kB, as Paystack sends it."""
    number = uuid7().int & 0xFFFFFFFFFF
    card = {
        "authorization_code": "AUTH_8dfhjjdt",
        "bin": "408408",
        "last4": "4081",
        "exp_month": "12",
        "exp_year": "2030",
        "channel": "card",
        "card_type": "visa ",
        "bank": "TEST BANK",
        "country_code": "NG",
        "brand": "visa",
        "reusable": True,
        "signature": "SIG_yEXu7dLBeqG0kU7g95Ke",
        "account_name": None,
    }
    customer = {
        "id": 18324,
        "first_name": "Ada",
        "last_name": "Obi",
        "email": "ada@example.com",
        "customer_code": "CUS_qo38as2hpsgk2r0",
        "phone": None,
        "metadata": None,
        "risk_action": "default",
    }
    body = json.dumps(
        {
            "event": "charge.success",
            "data": {
                "id": number,
                "domain": "test",
                "status": "success",
                "reference": reference,
                "amount": AMOUNT_MINOR,
                "requested_amount": AMOUNT_MINOR,
                "message": None,
                "gateway_response": "Successful",
                "paid_at": "2026-11-21T09:00:00.000Z",
                "created_at": "2026-11-21T08:59:00.000Z",
                "channel": "card",
                "currency": "NGN",
                "ip_address": "41.242.49.37",
                "fees": 7_500,
                "log": None,
                "customer": customer,
                "authorization": card,
                "plan": {},
            },
        }
    ).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha512).hexdigest()
    return _head("/api/v1/webhooks/paystack", body, f"X-Paystack-Signature: {signature}") + b"\r\n" + body


def _head(path: str, body: bytes, header: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {HOST}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *([header] if header else []), ""]).encode()


@dataclass(frozen=True)
class EndToEndJob:
    port: int
    meter: Meter
    token: str
    payments: tuple[Payment, ...]
    rate: float
    warm_up: int  # so many of the payments come first, at the same rate, and are not measured


@dataclass
class EndToEndResult:
    """`missing` frames did not come within ten seconds of the last webhook."""

    used: Used
    answer_ms: list[float]
    frame_ms: list[float]
    missing: int
    calibration_ms: float


class Watcher(Client):
    """A socket that notes when its first frame after the snapshot came."""

    arrived_at = 0.0

    def data_received(self, data: bytes) -> None:
        before = Client.counted
        super().data_received(data)
        if Client.counted > before and not self.arrived_at:
            self.arrived_at = time.perf_counter()


def end_to_end(job: EndToEndJob) -> EndToEndResult:
    """Each payment watched by a socket of its own; its webhook is posted at a random (Poisson) moment."""
    return uvloop.run(_end_to_end(job))


async def _end_to_end(job: EndToEndJob) -> EndToEndResult:
    loop = asyncio.get_running_loop()
    _prepare_client(goal=len(job.payments))
    watchers = await _watch(job.port, [f"/ws/transaction/{payment.id}" for payment in job.payments], job.token, Watcher)
    requests = [webhook(payment.attempt_reference) for payment in job.payments]
    idle = [(await loop.create_connection(Connection, HOST, job.port))[1] for _ in range(16)]
    sent_at: list[float] = [0.0] * len(requests)
    answers: list[float] = []

    async def post(place: int) -> None:
        connection = idle.pop() if idle else None
        if connection is None or connection.transport.is_closing():  # a server keeps no idle connection for long
            connection = (await loop.create_connection(Connection, HOST, job.port))[1]
        sent_at[place] = time.perf_counter()
        status, body = await connection.ask(requests[place])
        answers.append((time.perf_counter() - sent_at[place]) * 1000)
        if status != 200:
            raise LoadFailed(f"a webhook was answered {status}: {body[:300]!r}")
        idle.append(connection)

    async def post_all(places: range) -> None:
        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for place in places:
                due += random.expovariate(job.rate)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(post(place))

    # A worker that has just begun opens its connections with its first events.
    await post_all(range(job.warm_up))
    await asyncio.sleep(0.5)
    answers.clear()
    calibration = calibrate()
    own = time.process_time()
    before = job.meter.read()
    await post_all(range(job.warm_up, len(requests)))
    try:
        async with asyncio.timeout(10):
            await Client.reached.wait()
    except TimeoutError:
        pass
    after = job.meter.read()
    own = time.process_time() - own
    if Client.failed is not None:
        raise Client.failed
    arrived = [
        (watcher.arrived_at - sent) * 1000 if watcher.arrived_at else None
        for watcher, sent in zip(watchers, sent_at, strict=True)
    ]
    await _close([*watchers, *idle])
    frames = [milliseconds for milliseconds in arrived[job.warm_up :] if milliseconds is not None]
    return EndToEndResult(used(before, after, load_seconds=own), answers, frames, arrived.count(None), calibration)


@dataclass(frozen=True)
class FanOutJob:
    port: int
    pid: int
    meter: Meter
    token: str
    user_id: str
    payment: Payment
    redis_url: str
    redis_prefix: str
    sockets: int
    messages: int
    batch: int = 20


@dataclass
class FanOutResult:
    used: Used
    delivered: int
    kilobytes_per_socket: float
    connect_cpu_us: float
    calibration_ms: float


def fan_out(job: FanOutJob) -> FanOutResult:
    """One transaction watched by all sockets; its events are published in batches, each when all have the one before."""
    return uvloop.run(_fan_out(job))


async def _fan_out(job: FanOutJob) -> FanOutResult:
    _prepare_client(goal=0)
    path = f"/ws/transaction/{job.payment.id}"
    # The first few warm up what every later one shares, so that the difference is the sockets' own.
    clients = await _watch(job.port, [path] * 20, job.token, Client)
    await asyncio.sleep(1.0)
    memory, before = resident_megabytes(job.pid), job.meter.read()
    more = job.sockets - len(clients)
    clients += await _watch(job.port, [path] * more, job.token, Client)
    connecting = used(before, job.meter.read())
    await asyncio.sleep(1.5)
    kilobytes = (resident_megabytes(job.pid) - memory) * 1024 / more

    redis = connect_redis(job.redis_url)
    publisher = EventPublisher(redis, job.redis_prefix)
    calibration = calibrate()
    sequence = job.payment.version
    own = time.process_time()
    before = job.meter.read()
    for start in range(0, job.messages, job.batch):
        numbers = range(start, min(start + job.batch, job.messages))
        Client.goal += len(numbers) * job.sockets
        Client.reached.clear()
        await publisher.publish([_event(job, sequence + 1 + number) for number in numbers])
        async with asyncio.timeout(60):
            await Client.reached.wait()
        if Client.failed is not None:
            raise Client.failed
    after = job.meter.read()
    own = time.process_time() - own
    await redis.aclose()
    await redis.connection_pool.disconnect()
    await _close(clients)
    return FanOutResult(
        used=used(before, after, load_seconds=own),
        delivered=job.messages * job.sockets,
        kilobytes_per_socket=kilobytes,
        connect_cpu_us=connecting.cpu["api"] / more * 1e6,
        calibration_ms=calibration,
    )


def _event(job: FanOutJob, sequence: int) -> Event:
    data = {"reference": "payb0123456789abcdefghjkmnp", "amount": "5000.00", "amount_minor": 500_000, "currency": "NGN"}
    return Event(
        uuid7(),
        "payment.processing",
        utc_now(),
        # No user: nobody watches the user's channel here, and each message shall be one.
        None,
        UUID(job.payment.id),
        sequence,
        "processing",
        data,
    )


def _prepare_client(*, goal: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Client.counted, Client.goal, Client.failed = 0, goal, None
    Client.reached = asyncio.Event()


async def _watch(port: int, paths: list[str], token: str, kind: type[Sockets]) -> list[Sockets]:
    """Sockets on these paths, in their order, each past its snapshot."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(50)

    async def one(path: str) -> Sockets:
        async with gate:
            opened: asyncio.Future[None] = loop.create_future()
            _, client = await loop.create_connection(lambda: kind(f"{HOST}:{port}", path, token, opened), HOST, port)
            await asyncio.wait_for(opened, 30)
            return client

    return list(await asyncio.gather(*(one(path) for path in paths)))


async def _close(clients: list[Any]) -> None:
    for client in clients:
        client.transport.abort()
    await asyncio.sleep(0.2)
