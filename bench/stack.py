"""The stack that is measured: servers of its own (or given ones), one API, one worker, one provider, each a process.

The API is `payflow api` and the worker `python -m worker`, as in production but for high limits; the limiter is on.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import httpx
import psutil
import redis.asyncio
from yarl import URL

from bench.load import HOST, SECRET, Payment
from bench.meter import Meter
from payflow.infra.database import plain_url
from payflow.infra.migrations import upgrade
from tests.services import (
    PrivatePostgres,
    PrivateRabbitMQ,
    PrivateRedis,
    PrivateServer,
    create_database,
    delete_keys,
    drop_database,
    unique_prefix,
)
from tests.services.private import free_port

ROOT = Path(__file__).parents[1]
START_SECONDS = 30.0
HIGH = "100000000"
GROUPS = ("api", "worker", "postgres", "redis", "rabbitmq")


class BenchPostgres(PrivatePostgres):
    """As durable as in production: the tests' own servers do not wait for the disk."""

    def _launch(self, folder: Path) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": str(folder),
            "max_connections": "200",
            "shared_buffers": "256MB",
            "autovacuum": "on",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return self._spawn([self.installed() or "", "-D", str(folder / "data"), *options])


@dataclass(frozen=True)
class Given:
    """URLs of servers to use instead of starting some. Their processes are metered when they run on this machine."""

    database_url: str = ""
    redis_url: str = ""
    amqp_url: str = ""


class Node:
    """A process of ours, from `start` to `stop`; what it says is shown when it does not come up."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        with open(self._log, "ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,  # a developer's .env does not lie here
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def check(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended:\n{self.tail()}")

    def tail(self) -> str:
        with suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])
        return ""

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(15)


@dataclass
class Merchant:
    """Who calls the API, by both credentials."""

    id: str
    access_token: str
    api_key: str

    @property
    def by_jwt(self) -> str:
        return f"Authorization: Bearer {self.access_token}"

    @property
    def by_api_key(self) -> str:
        return f"X-API-Key: {self.api_key}"


@dataclass
class Stack:
    """A running stack. `payments` are initialized ones that nobody has paid yet."""

    folder: Path
    database_url: str
    redis_url: str
    amqp_url: str
    redis_prefix: str
    queue_prefix: str
    server_pids: Mapping[str, Sequence[int]]
    versions: Mapping[str, str]
    api: Node = field(init=False)
    api_port: int = 0
    provider: Node = field(init=False)
    provider_port: int = 0
    floor: Node = field(init=False)
    floor_port: int = 0
    worker: Node | None = None
    merchant: Merchant = field(init=False)
    payments: list[Payment] = field(default_factory=list)
    spoken_for: ExitStack = field(default_factory=ExitStack)

    def meter(self, api: Node | None = None) -> Meter:
        groups = {
            "api": [(api or self.api).pid],
            "worker": [self.worker.pid] if self.worker else [],
            **self.server_pids,
        }
        return Meter(groups)

    def floor_meter(self) -> Meter:
        return Meter({"api": [self.floor.pid], **self.server_pids})

    def take_payments(self, most: int) -> list[Payment]:
        taken, self.payments = self.payments[:most], self.payments[most:]
        return taken

    # -- processes --------------------------------------------------------------------------------------------------------

    def environment(self, **changes: str) -> dict[str, str]:
        values = {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "AMQP_URL": self.amqp_url,
            "PAYFLOW_ENVIRONMENT": "production",
            "PAYFLOW_SECRET_KEY": "a-secret-of-the-benchmark-0123456789abcdef",
            "PAYFLOW_LOG_LEVEL": "WARNING",
            "PAYFLOW_HOST": HOST,
            "PAYFLOW_PORT": str(self.api_port),
            "PAYFLOW_PUBLIC_URL": f"http://{HOST}:{self.api_port}",
            "PAYFLOW_REDIS_PREFIX": self.redis_prefix,
            "PAYFLOW_QUEUE_PREFIX": self.queue_prefix,
            "PAYFLOW_PROVIDER_BASE_URLS": json.dumps({"paystack": f"http://{HOST}:{self.provider_port}"}),
            "PAYFLOW_PROVIDER_CREDENTIALS": json.dumps({"paystack": {"secret_key": SECRET}}),
            "PAYFLOW_WRITES_PER_MINUTE": HIGH,
            "PAYFLOW_READS_PER_MINUTE": HIGH,
            "PAYFLOW_LOGINS_PER_MINUTE": HIGH,
            "PAYFLOW_SOCKETS_PER_USER": HIGH,
            "PAYFLOW_ACCESS_TOKEN_SECONDS": "3600",
            # Nobody pays most of these payments, and asking the provider about them all would be measured with the rest.
            "PAYFLOW_IDEMPOTENCY_LEASE_SECONDS": "3600",
            "PAYFLOW_TIMER_INTERVAL_SECONDS": "3600",
            "PAYFLOW_TIMER_BATCH": "1",
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PAYFLOW_")}
        return {**kept, "PYTHONPATH": str(ROOT), **values, **changes}

    def new_api(self, name: str, port: int) -> Node:
        command = [str(Path(sys.executable).with_name("payflow")), "api"]
        return Node(name, command, self.environment(PAYFLOW_PORT=str(port)), self.folder)

    async def start_api(self, name: str = "api") -> tuple[Node, int]:
        """Another API process on a port of its own, ready."""
        port = free_port()
        node = self.new_api(name, port)
        node.start()
        self.spoken_for.callback(node.stop)
        await _until_ready(node, port)
        return node, port

    async def start_worker(self, batch: int) -> None:
        """A worker that consumes, with up to `batch` events in a transaction."""
        await asyncio.to_thread(self.stop_worker)
        # A heartbeat that outlasts the worker's being stopped while its queue is filled.
        amqp_url = str(URL(self.amqp_url).update_query({"heartbeat": "300"}))
        environment = self.environment(AMQP_URL=amqp_url, PAYFLOW_QUEUE_BATCH=str(batch))
        self.worker = Node("worker", [sys.executable, "-m", "worker"], environment, self.folder)
        self.worker.start()
        self.spoken_for.callback(self.stop_worker)
        async with asyncio.timeout(START_SECONDS):
            while await self.consumers() == 0:
                self.worker.check()
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)

    def stop_worker(self) -> None:
        if self.worker is not None:
            self.worker.stop()
            self.worker = None

    async def consumers(self) -> int:
        connection = await aio_pika.connect(self.amqp_url)
        async with connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(f"{self.queue_prefix}.webhooks", passive=True)
            return int(queue.declaration_result.consumer_count or 0)

    async def set_latency(self, milliseconds: int) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            (await client.post(f"http://{HOST}:{self.provider_port}/_latency/{milliseconds}")).raise_for_status()

    # -- start and end ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self.provider_port, self.floor_port = free_port(), free_port()
        module = [sys.executable, "-m"]
        plain = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.provider = Node("provider", [*module, "bench.provider", str(self.provider_port)], plain, self.folder)
        self.provider.start()
        self.spoken_for.callback(self.provider.stop)
        queue = f"{self.queue_prefix}.floor"
        self.floor = Node(
            "floor", [*module, "bench.floor", str(self.floor_port), self.amqp_url, queue], plain, self.folder
        )
        self.floor.start()
        self.spoken_for.callback(self.floor.stop)
        await asyncio.gather(_until_open(self.provider, self.provider_port), _until_open(self.floor, self.floor_port))
        self.api, self.api_port = await self.start_api()
        self.merchant = await self._register()

    async def _register(self) -> Merchant:
        email, password = "merchant@bench.example", "correct horse battery"
        async with httpx.AsyncClient(
            base_url=f"http://{HOST}:{self.api_port}/api/v1", trust_env=False, timeout=30
        ) as client:
            answers = []
            for path, body in (("register", {"name": "Bench"}), ("login", {})):
                answers.append(await client.post(f"/auth/{path}", json={"email": email, "password": password, **body}))
            token = answers[-1].json()["access_token"]
            key = await client.post(
                "/auth/api-keys",
                json={"name": "bench", "scopes": ["payments:read", "payments:write"]},
                headers={"authorization": f"Bearer {token}"},
            )
            return Merchant(answers[0].json()["id"], token, key.json()["key"])

    async def close(self) -> None:
        await asyncio.to_thread(self.spoken_for.close)
        with suppress(Exception):
            await self._delete_queues()
        with suppress(Exception):
            await delete_keys(self.redis_url, self.redis_prefix)

    async def _delete_queues(self) -> None:
        """The queues and the exchange; only for servers that outlive the run does it matter."""
        keys = ["webhooks", "webhooks.dead", "deliveries", "deliveries.dead", "floor"]
        delays = (2_000, 10_000, 60_000, 300_000, 900_000, 3_600_000, 21_600_000)
        keys += [f"{topic}.delay.{delay}ms" for topic in ("webhooks", "deliveries") for delay in delays]
        connection = await aio_pika.connect(self.amqp_url)
        async with connection:
            channel = await connection.channel()
            for key in keys:
                await channel.queue_delete(f"{self.queue_prefix}.{key}")
            await channel.exchange_delete(self.queue_prefix)


class running_stack:
    """Servers, a migrated database, and the stack's processes; everything ends with the block."""

    def __init__(self, given: Given, say: Any) -> None:
        self._given = given
        self._say = say
        self._servers = ExitStack()
        self._admin_url = ""
        self._stack: Stack | None = None

    async def __aenter__(self) -> Stack:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        try:
            return await self._start()
        except BaseException:
            await self.__aexit__()
            raise

    async def _start(self) -> Stack:
        folder = Path(self._servers.enter_context(tempfile.TemporaryDirectory(prefix="payflow-bench-")))
        wanted: list[tuple[str, str, type[PrivateServer]]] = [
            ("postgres", self._given.database_url, BenchPostgres),
            ("redis", self._given.redis_url, PrivateRedis),
            ("rabbitmq", self._given.amqp_url, PrivateRabbitMQ),
        ]
        urls: dict[str, str] = {}
        pids: dict[str, list[int]] = {}
        for name, url, kind in wanted:
            if url:
                urls[name], pids[name] = url, _listeners(url)
                self._say(
                    f"{name}: given" + ("" if pids[name] else ", not on this machine: its processor time is not seen")
                )
                continue
            server = await asyncio.to_thread(lambda kind=kind: self._servers.enter_context(kind()))
            urls[name], pids[name] = server.url, [server.pid or 0]
            self._say(f"{name}: started, process {server.pid}")
        self._admin_url = urls["postgres"]
        database_url = await create_database(self._admin_url)
        await upgrade(database_url)
        prefix = unique_prefix("bench")
        stack = self._stack = Stack(
            folder=folder,
            database_url=database_url,
            redis_url=urls["redis"],
            amqp_url=urls["rabbitmq"],
            redis_prefix=prefix + ":",
            queue_prefix=prefix,
            server_pids=pids,
            versions=await _versions(urls),
        )
        await stack.start()
        return stack

    async def __aexit__(self, *_: object) -> None:
        if self._stack is not None:
            await self._stack.close()
            with suppress(Exception):
                await drop_database(self._admin_url, self._stack.database_url)
        await asyncio.to_thread(self._servers.close)


async def _until_ready(node: Node, port: int) -> None:
    await _until_open(node, port)
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(START_SECONDS):
        while True:
            answer = await client.get(f"http://{HOST}:{port}/api/v1/health/ready")
            if answer.status_code == 200 and answer.json()["status"] == "ready":
                return
            node.check()
            await asyncio.sleep(0.1)


async def _until_open(node: Node, port: int) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            node.check()
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def _versions(urls: Mapping[str, str]) -> dict[str, str]:
    postgres = await asyncpg.connect(plain_url(urls["postgres"]))
    client = redis.asyncio.Redis.from_url(urls["redis"], protocol=2)
    rabbit = await aio_pika.connect(urls["rabbitmq"])
    try:
        properties = rabbit.transport.connection.server_properties if rabbit.transport else {}
        return {
            "postgres": str(await postgres.fetchval("SHOW server_version")),
            "redis": str((await client.info("server"))["redis_version"]),
            "rabbitmq": str(properties.get("version", "")),
        }
    finally:
        await postgres.close()
        await client.aclose()
        await rabbit.close()


def _listeners(url: str) -> list[int]:
    """The processes on this machine that listen on the URL's port."""
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return []
    standard = {"redis": 6379, "amqp": 5672}
    port = parts.port or standard.get(parts.scheme, 5432)
    with suppress(psutil.Error):
        return sorted(
            {
                entry.pid
                for entry in psutil.net_connections("tcp")
                if entry.status == psutil.CONN_LISTEN and entry.laddr.port == port and entry.pid
            }
        )
    return []
