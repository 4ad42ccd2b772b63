"""PayFlow as real processes: API nodes, workers and the simulator, to be watched, killed and started again.

    async with running_servers() as servers, running_cluster(servers, folder) as cluster:
        ada = await cluster.merchant(cluster.node)
        worker = await cluster.worker("one")
        worker.kill()                              # SIGKILL
        worker = await cluster.worker("one")

PostgreSQL, Redis and RabbitMQ are the package's own as well. Each process writes into a log of its own, which pytest shows
when a test fails. Whatever was started ends with the block, each process by its id.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import asyncpg
import httpx
import orjson
import redis.asyncio
from pydantic import SecretStr

from payflow.core.settings import Settings
from payflow.infra import migrations
from payflow.infra.queue.rabbitmq import RabbitQueue
from tests.house import PROVIDERS, Merchant, eventually, house_settings
from tests.services import PrivatePostgres, PrivateRabbitMQ, PrivateRedis, create_database
from tests.services.private import free_port
from tests.services.probes import asyncpg_dsn

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 45.0
STOP_SECONDS = 15.0
LOG_LINES = 40

# Short rungs, and so many that an outage never drives a message off the ladder into the dead letters.
LADDER = (0.3, 0.6, *[1.0] * 60)


class Process:
    """One process of ours. `port` is where it answers HTTP, if it does."""

    def __init__(self, name: str, words: list[str], environment: Mapping[str, str], log: Path, port: int) -> None:
        self.name = name
        self.port = port
        self.log_path = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=log.parent,  # not the project's folder: its .env is none of the tests' business
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # A shell that waits for our end of a pipe to close, which happens however this run dies.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", f"read -r _ || kill -9 {self._popen.pid}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def returncode(self) -> int | None:
        return self._popen.poll()

    @property
    def is_running(self) -> bool:
        return self.returncode is None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._popen.kill()
        self._popen.wait(STOP_SECONDS)
        self._dismiss_guard()

    def pause(self) -> None:
        """SIGSTOP: it is there and does nothing."""
        self._popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._popen.send_signal(signal.SIGCONT)

    def tell_to_stop(self) -> None:
        self._popen.send_signal(signal.SIGTERM)

    async def stop(self) -> None:
        """End it as a service manager would."""
        if self.is_running:
            self.tell_to_stop()
            with suppress(AssertionError):
                await eventually(lambda: not self.is_running, seconds=STOP_SECONDS)
        self.kill()

    async def died(self) -> int:
        """Its return code, once it has ended by itself."""
        await eventually(lambda: not self.is_running, seconds=30, what=lambda: f"the end of {self.name}\n{self.log()}")
        self._dismiss_guard()
        assert self.returncode is not None
        return self.returncode

    def log(self, lines: int = LOG_LINES) -> str:
        with suppress(OSError):
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def _dismiss_guard(self) -> None:
        self._guard.kill()
        self._guard.wait(STOP_SECONDS)
        if self._guard.stdin is not None:
            self._guard.stdin.close()


class Cluster:
    """What a test starts and asks. `node` is the API node that providers are told to report to."""

    node: Process

    def __init__(self, settings: Settings, folder: Path, node_port: int, simulator_port: int) -> None:
        self.settings = settings
        self.processes: list[Process] = []
        self._folder = folder
        self._node_port = node_port
        self._simulator_port = simulator_port
        self._environment = {**_inherited(), **environment_of(settings), "PYTHONPATH": str(ROOT)}
        self._clients: list[httpx.AsyncClient] = []
        self.control = self._client(f"http://127.0.0.1:{simulator_port}")

    # -- processes --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """The simulator and the node it reports to."""
        self.node, _ = await asyncio.gather(self.api("node", port=self._node_port), self.simulator())

    async def api(self, name: str, *, port: int = 0, dies: str | None = None, **changes: Any) -> Process:
        """An API node that answers. `dies` names the point at which it kills itself; `changes` are settings."""
        words = ["payflow.cli", "api"] if dies is None else ["tests.faults.dying_api", dies]
        port = port or free_port()
        process = self._start(f"api-{name}", words, port, PAYFLOW_PORT=str(port), **_variables(changes))
        await self._until_it_answers(process, "/api/v1/health")
        return process

    async def worker(self, name: str, *, dies: str | None = None, **changes: Any) -> Process:
        """A worker whose loops run. `dies` as for an API node; one that dies may be gone already."""
        words = ["worker"] if dies is None else ["tests.faults.dying_worker", dies]
        port = free_port()
        process = self._start(
            f"worker-{name}", words, port, PAYFLOW_WORKER_METRICS_PORT=str(port), **_variables(changes)
        )
        if dies is None:
            await self._until_it_answers(process, "/metrics")
        return process

    async def simulator(self) -> Process:
        hooks = f"http://127.0.0.1:{self._node_port}/api/v1/webhooks"
        process = self._start(
            "simulator",
            ["payflow.cli", "simulator"],
            self._simulator_port,
            PAYFLOW_SIMULATOR_PORT=str(self._simulator_port),
            PAYFLOW_SIMULATOR_PAYSTACK_WEBHOOK_URL=f"{hooks}/paystack",
            PAYFLOW_SIMULATOR_STRIPE_WEBHOOK_URL=f"{hooks}/stripe",
            PAYFLOW_SIMULATOR_VTPASS_WEBHOOK_URL=f"{hooks}/vtpass",
            PAYFLOW_SIMULATOR_AUTOMATIC_CUSTOMER="false",
        )
        await self._until_it_answers(process, "/")
        return process

    def _start(self, name: str, words: list[str], port: int, **variables: str) -> Process:
        log = self._folder / f"{name}.log"
        process = Process(name, words, {**self._environment, **variables}, log, port)
        self.processes.append(process)
        return process

    async def _until_it_answers(self, process: Process, path: str) -> None:
        async def answers() -> bool:
            assert process.is_running, f"{process.name} ended with {process.returncode}\n{process.log()}"
            with suppress(httpx.HTTPError):
                return (await self.control.get(process.url + path)).is_success
            return False

        await eventually(answers, seconds=START_SECONDS, what=lambda: f"{process.name}\n{process.log()}")

    async def close(self) -> None:
        for process in self.processes:
            if process.is_running:
                process.tell_to_stop()
        for process in self.processes:
            await process.stop()
        for client in self._clients:
            await client.aclose()

    # -- merchants and customers ------------------------------------------------------------------------------------------

    def _client(self, base_url: str, **headers: str) -> httpx.AsyncClient:
        client = httpx.AsyncClient(base_url=base_url, headers=headers, timeout=30, trust_env=False)
        self._clients.append(client)
        return client

    async def merchant(self, node: Process) -> Merchant:
        """A new merchant, who talks to this node."""
        client = self._client(node.url)
        account = {"email": f"{uuid4().hex}@example.com", "password": "correct horse battery", "name": "Ada's Shop"}
        registered = await client.post("/api/v1/auth/register", json=account)
        assert registered.status_code == 201, registered.text
        return await self.log_in(node, registered.json(), account["password"])

    async def log_in(self, node: Process, user: dict[str, Any], password: str) -> Merchant:
        client = self._client(node.url)
        login = await client.post("/api/v1/auth/login", json={"email": user["email"], "password": password})
        assert login.status_code == 200, login.text
        return self._as(client, user, login.json())

    def elsewhere(self, merchant: Merchant, node: Process) -> Merchant:
        """The same merchant, talking to another node."""
        return self._as(self._client(node.url), merchant.user, merchant.tokens)

    def _as(self, client: httpx.AsyncClient, user: dict[str, Any], tokens: dict[str, Any]) -> Merchant:
        client.headers["authorization"] = f"Bearer {tokens['access_token']}"
        return Merchant(client, user, tokens)

    async def act(self, provider: str, reference: str, action: str = "pay") -> None:
        """Act as the customer on the attempt with this reference; its webhooks have been tried once when this returns."""
        name = at_provider(provider, reference)
        answer = await self.control.post(f"/_control/charges/{provider}/{name}/{action}")
        assert answer.is_success, answer.text

    async def simulate(self, **settings: Any) -> None:
        answer = await self.control.post("/_control/settings", json=settings)
        assert answer.is_success, answer.text

    async def charges(self, provider: str, reference: str) -> dict[str, Any]:
        """What the simulated provider was asked for by this attempt."""
        params = {"provider": provider, "reference": at_provider(provider, reference)}
        answer = await self.control.get("/_control/charges", params=params)
        assert answer.is_success, answer.text
        return dict(answer.json()["totals"])

    async def deliveries(self, provider: str, reference: str) -> list[dict[str, Any]]:
        """The simulator's webhooks about this attempt."""
        params = {"provider": provider, "reference": at_provider(provider, reference)}
        answer = await self.control.get("/_control/webhooks", params=params)
        return list(answer.json()["webhooks"])

    # -- what is stored ---------------------------------------------------------------------------------------------------

    async def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Read the database directly."""
        connection = await asyncpg.connect(asyncpg_dsn(self.settings.database_url), timeout=10)
        try:
            return [dict(row) for row in await connection.fetch(statement, *values)]
        finally:
            await connection.close(timeout=10)

    async def count(self, statement: str, *values: Any) -> int:
        return int((await self.rows(f"SELECT count(*) AS n FROM {statement}", *values))[0]["n"])

    async def messages(self) -> dict[str, int]:
        """Messages that are ready, by the name of their queue without the prefix; empty queues are left out."""
        names = _rabbit(self.settings).queue_names
        found = {}
        async with await aio_pika.connect(self.settings.amqp_url) as connection, connection.channel() as channel:
            for name in names:
                queue = await channel.declare_queue(name, passive=True)
                found[name.removeprefix(self.settings.queue_prefix + ".")] = queue.declaration_result.message_count or 0
        found["spool"] = await self.count("queue_messages")
        return {name: count for name, count in found.items() if count}

    async def until_waiting(self, webhooks: int = 0) -> None:
        """So many webhooks are not worked off yet, and no other message. RabbitMQ counts with some delay; one that it did not
        confirm in time, on a busy machine, waits in the spool."""
        seen: dict[str, int] = {}

        async def there() -> bool:
            seen.clear()
            seen.update(await self.messages())
            return seen.keys() <= {"webhooks", "spool"} and sum(seen.values()) == webhooks

        await eventually(there, seconds=30, what=lambda: f"{webhooks} webhooks in the queues, there is {seen}")

    @asynccontextmanager
    async def published(self, channel: str) -> AsyncIterator[list[dict[str, Any]]]:
        """Everything that Redis is told on a channel (its name without the prefix), as it comes."""
        heard: list[dict[str, Any]] = []
        client = redis.asyncio.Redis.from_url(self.settings.redis_url, protocol=2)
        subscription = client.pubsub(ignore_subscribe_messages=True)
        await subscription.subscribe(self.settings.redis_prefix + channel)

        async def listen() -> None:
            async for message in subscription.listen():
                heard.append(orjson.loads(message["data"]))

        task = asyncio.create_task(listen())
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await subscription.aclose()  # type: ignore[no-untyped-call]
            await client.aclose()


def at_provider(provider: str, reference: str) -> str:
    """An attempt's reference as the provider keeps it: M-Pesa has room for its last twelve characters."""
    return reference[-12:] if provider == "mpesa" else reference


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that a process of its own reads the same settings from."""
    return _variables({name: getattr(settings, name) for name in settings.model_fields_set})


def _variables(values: Mapping[str, Any]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for name, value in values.items():
        variable = name.upper() if name in ("database_url", "redis_url", "amqp_url") else f"PAYFLOW_{name.upper()}"
        if name == "provider_credentials":
            for provider, fields in value.items():
                for field, secret in fields.items():
                    variables[f"{variable}__{provider}__{field}".upper()] = secret.get_secret_value()
        elif isinstance(value, SecretStr):
            variables[variable] = value.get_secret_value()
        else:
            variables[variable] = value if isinstance(value, str) else orjson.dumps(value).decode()
    return variables


def _inherited() -> dict[str, str]:
    """The environment without anything that would be read as a setting of ours."""
    ours = ("PAYFLOW_", "DATABASE_URL", "REDIS_URL", "AMQP_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _rabbit(settings: Settings) -> RabbitQueue:
    delays = (*settings.overtaken_delays_seconds, *settings.ladder_seconds)
    return RabbitQueue(settings.amqp_url, settings.queue_prefix, delays_seconds=delays)


@dataclass
class Servers:
    """Servers of this package's own: it stops and kills them, and no other test feels it."""

    postgres: PrivatePostgres
    redis: PrivateRedis
    rabbitmq: PrivateRabbitMQ


@asynccontextmanager
async def running_servers() -> AsyncIterator[Servers]:
    servers = Servers(PrivatePostgres(), PrivateRedis(), PrivateRabbitMQ())
    started = (servers.postgres, servers.redis, servers.rabbitmq)
    try:
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in started))
        yield servers
    finally:
        await asyncio.gather(*(asyncio.to_thread(server.close) for server in started))


@asynccontextmanager
async def running_cluster(servers: Servers, folder: Path, **changes: Any) -> AsyncIterator[Cluster]:
    """A cluster with one node and the simulator; the tests add others. `changes` are settings."""
    database_url = await create_database(servers.postgres.url)
    await migrations.upgrade(database_url)
    node_port, simulator_port = free_port(), free_port()
    simulator_url = f"http://127.0.0.1:{simulator_port}"
    values: dict[str, Any] = {
        "public_url": f"http://127.0.0.1:{node_port}",
        "provider_base_urls": {name: f"{simulator_url}/{name}" for name in PROVIDERS},
        "ladder_seconds": LADDER,
        "spool_lease_seconds": 5.0,
        **changes,
    }
    settings = house_settings(database_url, servers.redis.url, servers.rabbitmq.url, **values)
    cluster = Cluster(settings, folder, node_port, simulator_port)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.close()
