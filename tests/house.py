"""One PayFlow in the test's own process: API app, worker and simulator wired by ASGI transports, on real servers.

    async with running_house(urls) as house:
        ada = await house.merchant()
        payment = await ada.pay(provider="paystack")
        await house.until(ada, payment["id"], "completed")

Nothing of PayFlow is patched: the providers are reached through `transport=`, time through `clock=`.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aio_pika
import httpx
from fastapi import FastAPI
from pydantic import SecretStr

from payflow.bootstrap import PublisherFactory, Services, build_services
from payflow.core.clock import Clock, utc_now
from payflow.core.settings import Settings
from payflow.events.publisher import EventPublisher
from payflow.infra.database import Database
from payflow.infra.queue.port import WEBHOOKS, QueueAway
from payflow.infra.queue.rabbitmq import RabbitQueue
from payflow.main import create_app
from payflow.simulator.app import create_simulator
from payflow.simulator.settings import SimulatorSettings
from tests.services import create_database, delete_keys, drop_database, unique_prefix
from worker.app import Worker

CHEAP_PASSWORDS = (8, 1, 1)
API = "http://payflow.example"
SIMULATOR = "http://simulator.example"
SECRET = "a-secret-of-the-tests-0123456789abcdef"

PAYSTACK = {
    "provider": "paystack",
    "amount": "5000.00",
    "currency": "NGN",
    "customer": {"email": "ada@example.com", "name": "Ada Obi"},
    "return_url": "https://shop.example/return",
}
MPESA = {
    "provider": "mpesa",
    "amount": "250",
    "currency": "KES",
    "customer": {"phone": "+254708374149", "name": "Wanjiru"},
}
STRIPE = {
    "provider": "stripe",
    "amount": "19.90",
    "currency": "USD",
    "customer": {"email": "jenny@example.com", "name": "Jenny Rosen"},
    "return_url": "https://shop.example/return",
}
STANDARDBANK_PAY = {
    "provider": "standardbank_pay",
    "amount": "150.00",
    "currency": "LSL",
    "customer": {"phone": "+26650123456", "name": "Palesa"},
}
MONIEPOINT = {
    "provider": "moniepoint",
    "amount": "4200.00",
    "currency": "NGN",
    "customer": {"email": "chidi@example.com", "name": "Chidi Eze"},
    "return_url": "https://shop.example/return",
}
CPAY = {
    "provider": "cpay",
    "amount": "150.00",
    "currency": "LSL",
    "customer": {"phone": "+26657012345", "name": "Thabo"},
}
FLUTTERWAVE = {
    "provider": "flutterwave",
    "amount": "150.50",
    "currency": "GHS",
    "customer": {"email": "kofi@example.com", "name": "Kofi Mensah"},
    "return_url": "https://shop.example/return",
}
BODIES = {
    "paystack": PAYSTACK,
    "mpesa": MPESA,
    "stripe": STRIPE,
    "standardbank_pay": STANDARDBANK_PAY,
    "moniepoint": MONIEPOINT,
    "cpay": CPAY,
    "flutterwave": FLUTTERWAVE,
}
PROVIDERS = (*BODIES, "vtpass")  # with those that collect nothing


@dataclass(frozen=True)
class Urls:
    """Where the servers are; `template` is the name of a migrated database to copy."""

    postgres: str
    template: str
    redis: str
    amqp: str


def simulator_credentials(simulator: SimulatorSettings) -> dict[str, dict[str, SecretStr]]:
    return {
        "paystack": {"secret_key": SecretStr(simulator.paystack_secret_key)},
        "stripe": {
            "secret_key": SecretStr(simulator.stripe_secret_key),
            "webhook_secret": SecretStr(simulator.stripe_webhook_secret),
        },
        "flutterwave": {
            "secret_key": SecretStr(simulator.flutterwave_secret_key),
            "secret_hash": SecretStr(simulator.flutterwave_secret_hash),
        },
        "mpesa": {
            "consumer_key": SecretStr(simulator.mpesa_consumer_key),
            "consumer_secret": SecretStr(simulator.mpesa_consumer_secret),
            "shortcode": SecretStr(simulator.mpesa_shortcode),
            "passkey": SecretStr(simulator.mpesa_passkey),
            "initiator_name": SecretStr(simulator.mpesa_initiator_name),
            "security_credential": SecretStr(simulator.mpesa_security_credential),
        },
        "standardbank_pay": {
            "api_key": SecretStr(simulator.standardbank_pay_api_key),
            "client_id": SecretStr(simulator.standardbank_pay_client_id),
            "signing_secret": SecretStr(simulator.standardbank_pay_signing_secret),
        },
        "moniepoint": {
            "api_key": SecretStr(simulator.moniepoint_api_key),
            "secret_key": SecretStr(simulator.moniepoint_secret_key),
            "contract_code": SecretStr(simulator.moniepoint_contract_code),
            "source_account_number": SecretStr(simulator.moniepoint_source_account_number),
        },
        "cpay": {
            "api_key": SecretStr(simulator.cpay_api_key),
            "client_code": SecretStr(simulator.cpay_client_code),
            "secret": SecretStr(simulator.cpay_secret),
        },
        "vtpass": {
            "api_key": SecretStr(simulator.vtpass_api_key),
            "public_key": SecretStr(simulator.vtpass_public_key),
            "secret_key": SecretStr(simulator.vtpass_secret_key),
        },
    }


def house_settings(database_url: str, redis_url: str, amqp_url: str, **changes: Any) -> Settings:
    """Settings of a test: own prefixes, short ladders, high limits, nothing read from the environment's .env."""
    values: dict[str, Any] = {
        "environment": "test",
        "secret_key": SecretStr(SECRET),
        "database_url": database_url,
        "redis_url": redis_url,
        "amqp_url": amqp_url,
        "redis_prefix": unique_prefix("redis") + ":",
        "queue_prefix": unique_prefix("queue"),
        "public_url": API,
        "log_level": "WARNING",
        "provider_base_urls": {name: f"{SIMULATOR}/{name}" for name in PROVIDERS},
        "provider_credentials": simulator_credentials(SimulatorSettings()),
        "writes_per_minute": 1_000_000,
        "reads_per_minute": 1_000_000,
        "logins_per_minute": 1_000_000,
        "withdrawals_per_day": 1_000_000,
        "account_lookups_per_minute": 1_000_000,
        "overtaken_delays_seconds": (0.2, 0.4),
        "ladder_seconds": (0.2, 0.4, 0.6, 0.8, 1.0),
        "timer_interval_seconds": 0.1,
        "check_min_interval_seconds": 0.0,
        "check_schedule_seconds": (20, 30, 60, 120, 300, 900, 3_600),
        "provider_checks_per_minute": 1_000_000,
        "database_pool_size": 8,
        # Four test processes share the hundred connections of a PostgreSQL as it comes.
        "database_pool_overflow": 8,
        "spool_poll_seconds": 0.2,
        "provider_timeout_seconds": 5.0,
        "socket_catch_up_seconds": 0.5,
    }
    return Settings(_env_file=None, **{**values, **changes})


class Merchant:
    """A registered user with a client that carries its access token."""

    def __init__(self, client: httpx.AsyncClient, user: dict[str, Any], tokens: dict[str, Any]) -> None:
        self.client = client
        self.user = user
        self.tokens = tokens
        self.id = user["id"]

    async def post(self, path: str, *, key: str | None = None, **more: Any) -> httpx.Response:
        headers = dict(more.pop("headers", {}))
        if key is not None:
            headers["idempotency-key"] = key
        return await self.client.post("/api/v1" + path, headers=headers, **more)

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.client.get("/api/v1" + path, **more)

    async def initialize(self, body: dict[str, Any], *, key: str | None = None) -> httpx.Response:
        return await self.post("/payments/initialize", key=key or str(uuid4()), json=body)

    async def pay(self, provider: str = "paystack", **changes: Any) -> dict[str, Any]:
        """Initialize a payment that must be accepted; gives its body."""
        answer = await self.initialize({**BODIES[provider], **changes})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def payment(self, payment_id: str) -> dict[str, Any]:
        answer = await self.get(f"/payments/{payment_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@dataclass
class House:
    """What a test may touch. `simulator` is a client of the control API's application."""

    settings: Settings
    services: Services
    app: FastAPI
    simulator: httpx.AsyncClient
    simulator_settings: SimulatorSettings
    worker: Worker
    _clients: list[httpx.AsyncClient] = field(default_factory=list)

    def client(self, **headers: str) -> httpx.AsyncClient:
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.app, client=("127.0.0.1", 50_000)),
            base_url=API,
            headers=headers,
            timeout=30,
        )
        self._clients.append(client)
        return client

    async def merchant(self, *, admin: bool = False, name: str = "Ada's Shop") -> Merchant:
        email, password = f"{uuid4().hex}@example.com", "correct horse battery"
        if admin:
            await self.services.identity.create_admin(email, password, name)
        else:
            await self.services.identity.register(email, password, name)
        client = self.client()
        login = await client.post("/api/v1/auth/login", json={"email": email, "password": password})
        assert login.status_code == 200, login.text
        client.headers["authorization"] = f"Bearer {login.json()['access_token']}"
        me = await client.get("/api/v1/auth/me")
        return Merchant(client, me.json(), login.json())

    async def outcome(self, provider: str, outcome: str, **more: Any) -> None:
        """How the simulated provider behaves from now on (`times=1` for the next attempt only)."""
        answer = await self.simulator.post(
            "/_control/outcomes", json={"provider": provider, "outcome": outcome, **more}
        )
        assert answer.is_success, answer.text

    async def simulate(self, **settings: Any) -> None:
        answer = await self.simulator.post("/_control/settings", json=settings)
        assert answer.is_success, answer.text

    async def act(self, provider: str, reference: str, action: str) -> httpx.Response:
        """Act as the customer (pay, fail, cancel, expire …) on the attempt with this reference."""
        return await self.simulator.post(f"/_control/charges/{provider}/{reference}/{action}")

    async def charges(self, provider: str, reference: str | None = None) -> dict[str, Any]:
        """What reached the simulated provider: submissions, charges and money by reference, with totals."""
        params = {"provider": provider, **({"reference": reference} if reference else {})}
        answer = await self.simulator.get("/_control/charges", params=params)
        assert answer.is_success, answer.text
        return dict(answer.json())

    async def until(self, merchant: Merchant, payment_id: str, *statuses: str, seconds: float = 40) -> dict[str, Any]:
        """Wait until the payment has one of these statuses; gives the whole payment."""
        payment: dict[str, Any] = {}

        async def there() -> bool:
            payment.update(await merchant.payment(payment_id))
            return payment["status"] in statuses

        await eventually(there, seconds=seconds, what=lambda: f"{statuses}, but it is {payment.get('status')}")
        return payment

    async def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Read the database directly."""
        async with self.services.database.raw() as connection:
            return [dict(row) for row in await connection.fetch(statement, *values)]


async def eventually(
    condition: Callable[[], Any], *, seconds: float = 40, what: Callable[[], str] | str = "the condition"
) -> None:
    """Wait until an (async) condition holds, looking often; AssertionError when the time is over."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            # A question that never ends fails here, and the traceback of its cancellation says where it hung.
            async with asyncio.timeout_at(deadline + 30):
                found = await found
        if found:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"waited {seconds} s for {what() if callable(what) else what}")
        await asyncio.sleep(0.02)


def tell_where_all_hang() -> None:
    """Every task with the lines it waits at: a test that never ends would otherwise tell nothing of them."""
    for task in asyncio.all_tasks():
        print(f"--- {task.get_name()}, asked {task.cancelling()} times to end", file=sys.stderr)
        waiting: Any = task.get_coro()
        while waiting is not None:
            frame = next((found for name in _FRAMES if (found := getattr(waiting, name, None)) is not None), None)
            if frame is not None:
                place = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
                print(f"    {place}", file=sys.stderr)
            waiting = next((found for name in _AWAITED if (found := getattr(waiting, name, None)) is not None), None)


_FRAMES = ("cr_frame", "gi_frame", "ag_frame")
_AWAITED = ("cr_await", "gi_yieldfrom", "ag_await")


class _Late(httpx.AsyncBaseTransport):
    """The simulator is built before the API it reports to."""

    app: httpx.ASGITransport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.app.handle_async_request(request)


@asynccontextmanager
async def migrated_database(urls: Urls, *, pool_size: int = 4) -> AsyncIterator[Database]:
    """A database of its own, without a house around it."""
    url = await create_database(urls.postgres, template=urls.template)
    built = Database(url, pool_size=pool_size)
    try:
        yield built
    finally:
        await built.close()
        await drop_database(urls.postgres, url)


@asynccontextmanager
async def running_house(
    urls: Urls,
    *,
    clock: Clock = utc_now,
    publisher: PublisherFactory = EventPublisher,
    transport: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport] = lambda inner: inner,
    worker: bool = True,
    simulator: dict[str, Any] | None = None,
    **changes: Any,
) -> AsyncIterator[House]:
    """Build and run a house. `changes` are settings; `simulator` are the simulator's; `transport` wraps the one to it."""
    async with AsyncExitStack() as stack:
        watch: list[asyncio.TimerHandle] = []
        stack.callback(lambda: [handle.cancel() for handle in watch])
        database_url = await create_database(urls.postgres, template=urls.template)
        stack.push_async_callback(drop_database, urls.postgres, database_url)
        settings = house_settings(
            database_url, changes.pop("redis_url", urls.redis), changes.pop("amqp_url", urls.amqp), **changes
        )
        simulator_settings = SimulatorSettings(
            public_url=SIMULATOR,
            paystack_webhook_url=f"{API}/api/v1/webhooks/paystack",
            stripe_webhook_url=f"{API}/api/v1/webhooks/stripe",
            moniepoint_webhook_url=f"{API}/api/v1/webhooks/moniepoint",
            flutterwave_webhook_url=f"{API}/api/v1/webhooks/flutterwave",
            vtpass_webhook_url=f"{API}/api/v1/webhooks/vtpass",
            **{"customer_delay_seconds": 0.05, "webhook_backoff_seconds": 0.05, **(simulator or {})},
        )
        towards_api = _Late()
        simulated = create_simulator(simulator_settings, transport=towards_api)
        services = build_services(
            settings,
            transport=transport(httpx.ASGITransport(app=simulated)),
            clock=clock,
            publisher=publisher,
            password_cost=CHEAP_PASSWORDS,
        )
        app = create_app(services)
        towards_api.app = httpx.ASGITransport(app=app, client=("127.0.0.1", 40_000))
        stack.push_async_callback(_clean_up, services, settings)
        await stack.enter_async_context(app.router.lifespan_context(app))
        await stack.enter_async_context(simulated.router.lifespan_context(simulated))
        working = Worker(services)
        if worker:
            await working.start()
        stack.push_async_callback(working.stop)
        control = await stack.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(app=simulated), base_url=SIMULATOR, timeout=30)
        )
        house = House(settings, services, app, control, simulator_settings, working)
        await _until_declared(services, settings, consumed=worker)
        stack.callback(lambda: watch.append(asyncio.get_running_loop().call_later(40, tell_where_all_hang)))
        yield house
        for client in house._clients:
            await client.aclose()


async def _until_declared(services: Services, settings: Settings, *, consumed: bool) -> None:
    """Wait until nobody declares queues any more. RabbitMQ 3.10 loses its dead-lettering for good, for everybody, when
    queues are deleted while they are being declared, as the end of a very short test would do."""
    primary = services.queue.primary
    if not isinstance(primary, RabbitQueue):
        return

    async def reachable() -> bool:
        try:
            await primary.ping()
        except QueueAway:
            return False
        return True

    await eventually(reachable, what="RabbitMQ")
    if consumed:
        connection = await aio_pika.connect(settings.amqp_url)
        async with connection, connection.channel() as channel:
            name = f"{settings.queue_prefix}.{WEBHOOKS}"

            async def consuming() -> bool:
                queue = await channel.declare_queue(name, passive=True)
                return bool(queue.declaration_result.consumer_count)

            await eventually(consuming, what="the worker's subscription")


async def _clean_up(services: Services, settings: Settings) -> None:
    """Remove the queues and keys of this house."""
    primary = services.queue.primary
    if isinstance(primary, RabbitQueue):
        connection = await aio_pika.connect(settings.amqp_url)
        async with connection, connection.channel() as channel:
            for name in primary.queue_names:
                await channel.queue_delete(name)
            await channel.exchange_delete(settings.queue_prefix)
    await delete_keys(settings.redis_url, settings.redis_prefix)
