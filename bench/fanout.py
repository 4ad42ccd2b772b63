"""Fan-out of one node: messages a second to many sockets of one transaction, processor time a message, memory a socket.

    python bench/fanout.py --clients 1000 --messages 400

The node is a uvicorn process of its own with the middleware of the real application, over a real PostgreSQL and Redis; the
clients and the publisher share the measuring process. Frames are published in batches, and the next batch goes out when
every client has the last: a rate that no client has to be dropped for. The figure to compare is the node's processor time.
"""

import argparse
import asyncio
import base64
import json
import os
import resource
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import asyncpg
import psutil
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from payflow.core.clock import utc_now
from payflow.core.errors import NotAuthenticated
from payflow.core.ids import new_reference, uuid7
from payflow.core.settings import Settings
from payflow.events.publisher import EventPublisher
from payflow.events.repository import EventRepository
from payflow.events.types import Event, frame
from payflow.identity.principals import SCOPES_OF_ROLE, Principal
from payflow.infra.database import Database, plain_url
from payflow.infra.migrations import upgrade
from payflow.infra.redis import connect_redis
from payflow.realtime.endpoints import SocketsFirst, realtime_routes
from payflow.realtime.hub import Hub
from payflow.realtime.metrics import PrometheusRealtimeMetrics
from payflow.realtime.repository import RealtimeRepository
from payflow.realtime.service import RealtimeService
from payflow.transactions.client_tokens import ClientTokens
from payflow.web.application import install_web

DATABASE_URL = os.environ.get("PAYFLOW_TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS_URL = os.environ.get("PAYFLOW_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")


@dataclass(frozen=True)
class Result:
    clients: int
    messages: int
    batch: int
    delivered: int
    messages_per_second: float
    node_cpu_us_per_message: float
    messages_per_cpu_second: float
    kilobytes_per_idle_socket: float
    connect_cpu_us: float
    frame_bytes: int


class OneUser:
    """Stands for the identity room: the token is the user's id."""

    async def authenticate_token(self, text: str) -> Principal:
        try:
            user_id = UUID(text)
        except ValueError:
            raise NotAuthenticated from None
        return Principal(user_id, "user", "user", SCOPES_OF_ROLE["user"], user_id)

    async def is_still_valid(self, principal: Principal) -> bool:
        return True


def build_node(database_url: str, redis_url: str, prefix: str) -> FastAPI:
    settings = Settings(
        _env_file=None,
        environment="test",
        database_url=database_url,
        redis_url=redis_url,
        redis_prefix=prefix,
        sockets_per_user=1_000_000,
        log_level="WARNING",
    )
    database = Database(database_url)
    events, reads, redis = EventRepository(database), RealtimeRepository(database), connect_redis(redis_url)
    registry = CollectorRegistry()
    metrics = PrometheusRealtimeMetrics(registry)
    hub = Hub(redis_url, prefix, events, reads, settings, metrics=metrics)
    tokens = ClientTokens(secrets.token_bytes(32))
    service = RealtimeService(hub, reads, events, OneUser(), tokens, redis, settings, metrics=metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None)
    install_web(app, settings, registry)
    app.add_middleware(SocketsFirst, routes=realtime_routes(service))
    return app


def serve(database_url: str, redis_url: str, prefix: str, port: int) -> None:
    app = build_node(database_url, redis_url, prefix)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        ws="auto",
        ws_per_message_deflate=False,
        ws_max_size=65_536,
        log_level="warning",
        access_log=False,
        backlog=8_192,
        proxy_headers=False,
    )


class Client(asyncio.Protocol):
    """A WebSocket client that only counts: anything more would be measured instead of the node."""

    counted = 0
    goal = 0
    reached: asyncio.Event
    failed: ConnectionError | None = None

    def __init__(self, host: str, path: str, token: str, opened: "asyncio.Future[None]") -> None:
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
            f"Authorization: Bearer {token}\r\n\r\n"
        ).encode()
        self._opened: asyncio.Future[None] | None = opened
        self._upgraded = False
        self._buffer = b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        if not self._upgraded:
            head, separator, rest = buffer.partition(b"\r\n\r\n")
            if not separator:
                self._buffer = buffer
                return
            if b" 101 " not in head[:20]:
                raise ConnectionError(head.decode())
            self._upgraded = True
            buffer = rest
        at, size, counted = 0, len(buffer), 0
        while size - at >= 2:
            length, header = buffer[at + 1] & 127, 2
            if length == 126:
                if size - at < 4:
                    break
                length, header = int.from_bytes(buffer[at + 2 : at + 4], "big"), 4
            elif length == 127:
                raise ConnectionError("a frame as large as this was not sent")
            if size - at < header + length:
                break
            if buffer[at] & 15 == 8:
                self._closed(buffer[at + header : at + header + length])
                return
            if buffer[at] & 15 == 9:
                # A pong with the ping's payload, masked with zeros.
                payload = buffer[at + header : at + header + length]
                self.transport.write(bytes((0x8A, 0x80 | length)) + bytes(4) + payload)
            counted += buffer[at] & 15 == 1
            at += header + length
        self._buffer = buffer[at:]
        if self._opened is not None and counted:
            # The snapshot: this client is watching now.
            self._opened.set_result(None)
            self._opened = None
            counted -= 1
        if counted:
            Client.counted += counted
            if Client.counted >= Client.goal:
                Client.reached.set()

    def _closed(self, payload: bytes) -> None:
        problem = ConnectionError(f"closed with {int.from_bytes(payload[:2], 'big')} {payload[2:].decode()}")
        if self._opened is None:
            Client.failed = problem
            Client.reached.set()
        elif not self._opened.done():
            self._opened.set_exception(problem)
        self._opened = None


async def measure(clients: int, messages: int, batch: int) -> Result:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    prefix = f"payflow_fanout_{secrets.token_hex(4)}:"
    name = f"payflow_fanout_{secrets.token_hex(4)}"
    server = await asyncpg.connect(plain_url(DATABASE_URL))
    await server.execute(f'CREATE DATABASE "{name}"')
    database_url = DATABASE_URL.rpartition("/")[0] + f"/{name}"
    try:
        await upgrade(database_url)
        user_id, transaction_id = await _prepare(database_url)
        port = _free_port()
        node = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--serve", database_url, REDIS_URL, prefix, str(port)
        )
        try:
            return await _measure(node.pid, port, prefix, user_id, transaction_id, clients, messages, batch)
        finally:
            node.kill()
            await node.wait()
    finally:
        await server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await server.close()


async def _measure(
    pid: int, port: int, prefix: str, user_id: UUID, transaction_id: UUID, clients: int, messages: int, batch: int
) -> Result:
    await _until_open(port)
    node = psutil.Process(pid)
    path, host = f"/ws/transaction/{transaction_id}", f"127.0.0.1:{port}"
    # The first few warm up what every later one shares, so that the difference is the sockets' own.
    connected = await _connect(host, port, path, str(user_id), 20)
    await asyncio.sleep(1.0)
    memory, cpu = node.memory_info().rss, _cpu(node)
    connected += await _connect(host, port, path, str(user_id), clients - len(connected))
    connect_cpu = _cpu(node) - cpu
    await asyncio.sleep(2.0)
    kilobytes = (node.memory_info().rss - memory) / 1024 / (clients - 20)

    redis = connect_redis(REDIS_URL)
    publisher = EventPublisher(redis, prefix)
    Client.reached = asyncio.Event()
    sequence = 1
    began, cpu = time.perf_counter(), _cpu(node)
    for start in range(0, messages, batch):
        events = []
        for _ in range(min(batch, messages - start)):
            sequence += 1
            events.append(_event(user_id, transaction_id, sequence))
        Client.goal += len(events) * clients
        Client.reached.clear()
        await publisher.publish(events)
        async with asyncio.timeout(60):
            await Client.reached.wait()
        if Client.failed is not None:
            raise Client.failed
    seconds, node_cpu = time.perf_counter() - began, _cpu(node) - cpu
    delivered = Client.counted
    for client in connected:
        client.transport.abort()
    await redis.aclose()
    await redis.connection_pool.disconnect()
    return Result(
        clients=clients,
        messages=messages,
        batch=batch,
        delivered=delivered,
        messages_per_second=round(delivered / seconds),
        node_cpu_us_per_message=round(node_cpu / delivered * 1e6, 2),
        messages_per_cpu_second=round(delivered / node_cpu),
        kilobytes_per_idle_socket=round(kilobytes, 1),
        connect_cpu_us=round(connect_cpu / (clients - 20) * 1e6),
        frame_bytes=len(frame(_event(user_id, transaction_id, sequence))),
    )


async def _connect(host: str, port: int, path: str, token: str, count: int) -> list[Client]:
    loop = asyncio.get_running_loop()
    made: list[Client] = []
    gate = asyncio.Semaphore(100)

    async def one() -> None:
        async with gate:
            opened: asyncio.Future[None] = loop.create_future()
            _, client = await loop.create_connection(lambda: Client(host, path, token, opened), "127.0.0.1", port)
            await asyncio.wait_for(opened, 30)
            made.append(client)

    await asyncio.gather(*(one() for _ in range(count)))
    return made


def _event(user_id: UUID, transaction_id: UUID, sequence: int) -> Event:
    data = {"reference": "pfb0123456789abcdefghjkmnp", "amount": "5000.00", "amount_minor": 500_000, "currency": "NGN"}
    return Event(uuid7(), "payment.processing", utc_now(), user_id, transaction_id, sequence, "processing", data)


async def _prepare(database_url: str) -> tuple[UUID, UUID]:
    user_id, transaction_id = uuid7(), uuid7()
    connection = await asyncpg.connect(plain_url(database_url))
    await connection.execute(
        "INSERT INTO users (id, email, name, password_hash, role, created_at) VALUES ($1, $2, 'Bench', '-', 'user', now())",
        user_id,
        "bench@example.test",
    )
    await connection.execute(
        """
        INSERT INTO transactions (id, user_id, kind, reference, status, version, amount_minor, currency, next_check_at)
        VALUES ($1, $2, 'payment', $3, 'pending', 1, 500000, 'NGN', now() + interval '1 hour')
        """,
        transaction_id,
        user_id,
        new_reference("pfb"),
    )
    await connection.close()
    return user_id, transaction_id


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _until_open(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, nargs="*", default=[1_000, 5_000])
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--serve", nargs=4, metavar=("DATABASE", "REDIS", "PREFIX", "PORT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        database_url, redis_url, prefix, port = arguments.serve
        serve(database_url, redis_url, prefix, int(port))
        return
    for clients in arguments.clients:
        Client.counted = Client.goal = 0
        runner: Any = asyncio.run
        result: Result = runner(measure(clients, arguments.messages, arguments.batch))
        print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
