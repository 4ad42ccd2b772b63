"""The one place where objects meet: `build_services(settings)` makes everything that an API node or a worker needs.

Nothing is made at import, and nothing is a module's own. A test hands over its own transport, clock or publisher; nothing is
patched.
"""

import asyncio
import contextlib
import importlib
import pkgutil
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any
from uuid import UUID

import httpx
from prometheus_client import CollectorRegistry

import payflow.providers
from payflow.airtime.catalogue import Catalogue
from payflow.airtime.service import Airtime
from payflow.core.clock import Clock, rfc3339, utc_now
from payflow.core.crypto import Keyring, derive_key
from payflow.core.ids import uuid7
from payflow.core.settings import Settings
from payflow.events.publisher import EventPublisher
from payflow.events.repository import EventRepository
from payflow.events.types import Actor, Event, Origin
from payflow.gateway.breaker import Breakers, Change
from payflow.gateway.contract import Provider
from payflow.gateway.credentials import SEALING_PURPOSE, SealedCredentials, Seals
from payflow.gateway.drains import Drains
from payflow.gateway.http import ProviderHttp, build_http
from payflow.gateway.keeping import CredentialKeeping
from payflow.gateway.metrics import GatewayMetrics
from payflow.gateway.registry import Registry
from payflow.gateway.repository import ProviderConfigRepository, ProviderStateRepository
from payflow.gateway.routing import Routing
from payflow.gateway.signing import CallbackTokens, CallbackUrls
from payflow.idempotency.repository import IdempotencyRepository
from payflow.idempotency.service import IdempotencyService
from payflow.identity.service import IdentityService
from payflow.infra.database import Database, DatabaseAway, RawConnection
from payflow.infra.queue.dead_letters import DeadLetters
from payflow.infra.queue.fallback import SpooledQueue
from payflow.infra.queue.port import Queue
from payflow.infra.queue.rabbitmq import RabbitQueue
from payflow.infra.queue.spool import SpoolQueue
from payflow.infra.redis import Redis, connect_redis
from payflow.ledger.repository import Accounts, open_wallet
from payflow.payments.refunds import RefundService
from payflow.payments.service import PaymentService
from payflow.payouts.banks import Banks
from payflow.payouts.service import WithdrawalService
from payflow.realtime.hub import Hub
from payflow.realtime.metrics import PrometheusRealtimeMetrics
from payflow.realtime.repository import RealtimeRepository
from payflow.realtime.service import RealtimeService
from payflow.reconciliation.repository import ReconciliationRepository
from payflow.reconciliation.service import ReconciliationService
from payflow.transactions.books.service import BooksService
from payflow.transactions.checks import Checks
from payflow.transactions.client_tokens import ClientTokens
from payflow.transactions.lifecycle import Kind
from payflow.transactions.service import Transactions
from payflow.transactions.submissions import Submissions
from payflow.wallets.service import WalletService
from payflow.web.rate_limits import RateLimiter
from payflow.webhooks.endpoints import BY_SIGNATURE
from payflow.webhooks.intake import Intake
from payflow.webhooks.metrics import WebhookMetrics
from payflow.webhooks.processing import WebhookProcessor
from payflow.webhooks.repository import WebhookRepository
from payflow.webhooks.unordered import UnorderedPayments
from payflow.webhooks.validation import Validations

PublisherFactory = Callable[[Redis, str, Callable[[int], None]], EventPublisher]


@dataclass(slots=True)
class Services:
    """Everything built, to be started once and closed once."""

    settings: Settings
    clock: Clock
    metrics: CollectorRegistry
    database: Database
    redis: Redis
    queue: SpooledQueue
    dead_letters: DeadLetters
    http: ProviderHttp
    limiter: RateLimiter
    identity: IdentityService
    events: EventRepository
    publisher: EventPublisher
    credentials: SealedCredentials
    credential_keeping: CredentialKeeping
    drains: Drains
    registry: Registry
    breakers: Breakers
    callback_urls: CallbackUrls
    idempotency: IdempotencyService
    idempotency_keys: IdempotencyRepository
    transactions: Transactions
    checks: Checks
    airtime: Airtime
    books: BooksService
    payments: PaymentService
    submissions: Submissions
    refunds: RefundService
    wallets: WalletService
    withdrawals: WithdrawalService
    transfer_codes: Submissions
    banks: Banks
    intake: Intake
    webhooks: WebhookProcessor
    webhook_rows: WebhookRepository
    client_tokens: ClientTokens
    realtime: RealtimeService
    reconciliation: ReconciliationService
    _started: bool = field(default=False)

    async def start(self) -> None:
        """Connects the queue in the background; the database and Redis connect when they are first used."""
        if not self._started:
            self._started = True
            await self.queue.start()

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self.queue.close()
        await self.http.aclose()
        with contextlib.suppress(Exception):
            await self.breakers.settled()
        with contextlib.suppress(Exception):
            await self.redis.aclose()
            await self.redis.connection_pool.disconnect()
        self.identity.close()
        await self.database.close()


class ProviderNamedTwice(Exception):
    """Two providers share a name or a webhook address: which of them a payment reached could not be told."""


def provider_classes(*, plugins: bool = True) -> list[Any]:
    """Every class in the modules of `payflow.providers`, and of its entry points, that declares a provider."""
    classes: list[Any] = []
    for module in pkgutil.iter_modules(payflow.providers.__path__, "payflow.providers."):
        loaded = importlib.import_module(module.name)
        classes.extend(
            value
            for value in vars(loaded).values()
            if isinstance(value, type) and value.__module__ == module.name and hasattr(value, "declaration")
        )
    if plugins:
        classes.extend(entry.load() for entry in entry_points(group="payflow.providers"))
    return classes


def discover_providers(
    http: ProviderHttp, base_urls: Mapping[str, str], clock: Clock, *, plugins: bool = True
) -> dict[str, Provider]:
    """The providers of this installation by name. ProviderNamedTwice."""
    found: dict[str, Provider] = {}
    paths: set[str] = set()
    for kind in provider_classes(plugins=plugins):
        declaration = kind.declaration
        if declaration.path_name == BY_SIGNATURE:
            raise ProviderNamedTwice(
                f"{declaration.name!r} takes webhooks at {BY_SIGNATURE!r}, which all providers share."
            )
        if declaration.name in found or declaration.path_name in paths:
            raise ProviderNamedTwice(
                f"Two providers are called {declaration.name!r}, or take webhooks at {declaration.path_name!r}."
            )
        base_url = base_urls.get(declaration.name, declaration.live_base_url)
        found[declaration.name] = kind(http, base_url.rstrip("/"), clock)
        paths.add(declaration.path_name)
    return found


def build_services(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    clock: Clock = utc_now,
    publisher: PublisherFactory = EventPublisher,
    password_cost: tuple[int, int, int] | None = None,
) -> Services:
    """Build everything from settings. `transport` replaces the network to the providers, `publisher` the one to Redis."""
    secret = settings.secret_key.get_secret_value()
    metrics = CollectorRegistry()
    database = Database(
        settings.database_url, pool_size=settings.database_pool_size, overflow=settings.database_pool_overflow
    )
    redis = connect_redis(settings.redis_url)
    events = EventRepository(database)
    gateway_metrics = GatewayMetrics(metrics)
    publishes = publisher(redis, settings.redis_prefix, gateway_metrics.lost_events)
    http = _http(settings, transport, gateway_metrics)
    providers = discover_providers(http, settings.provider_base_urls, clock)
    keys = Keyring(settings.sealing_secret, settings.former_sealing_secrets, SEALING_PURPOSE)
    configs = ProviderConfigRepository(database)
    credentials = SealedCredentials(configs, providers, settings.provider_credentials, keys=keys)
    drains = Drains(ProviderStateRepository(database))
    registry = Registry(providers, credentials, drains, settings.provider_order)
    accounts = Accounts()
    transactions = Transactions(database, publishes, clock, settings, accounts)
    callback_tokens = CallbackTokens(derive_key(secret, "callback-token"))
    callback_urls = CallbackUrls(callback_tokens, settings.public_url)
    checks = Checks(transactions, registry, callback_urls, redis, clock, settings)
    record = _EventRecorder(events, clock)
    breakers = Breakers(
        redis, settings, prefix=settings.redis_prefix, changed=record.breaker_changed, seen=gateway_metrics.breaker
    )
    routing = Routing(registry, breakers, settings.provider_weights, random.SystemRandom().random)
    idempotency_keys = IdempotencyRepository(database)
    idempotency = IdempotencyService(
        idempotency_keys,
        redis,
        clock,
        secret=secret,
        redis_prefix=settings.redis_prefix,
        lease_seconds=settings.idempotency_lease_seconds,
        keep_days=settings.idempotency_days,
    )
    client_tokens = ClientTokens(derive_key(secret, "client-token"), settings.client_token_grace_seconds)
    limiter = RateLimiter(redis, settings, prefix=settings.redis_prefix, registry=metrics)
    extra: dict[str, Any] = {} if password_cost is None else {"password_cost": password_cost}

    async def welcome(connection: RawConnection, user_id: UUID) -> None:
        await open_wallet(connection, user_id, settings.default_currency)

    identity = IdentityService(
        database, settings, clock=clock, record_event=record.user_event, welcome=welcome, **extra
    )
    refunds = RefundService(database, transactions, registry, idempotency, callback_urls, clock, settings)
    queue = _queue(settings, database)
    webhook_metrics = WebhookMetrics(metrics)
    reads, socket_metrics = RealtimeRepository(database), PrometheusRealtimeMetrics(metrics)
    hub = Hub(settings.redis_url, settings.redis_prefix, events, reads, settings, clock=clock, metrics=socket_metrics)
    payments = PaymentService(
        database,
        transactions,
        checks,
        registry,
        routing,
        idempotency,
        events,
        callback_urls,
        client_tokens,
        clock,
        settings,
    )
    return Services(
        settings=settings,
        clock=clock,
        metrics=metrics,
        database=database,
        redis=redis,
        queue=queue,
        dead_letters=DeadLetters(database),
        http=http,
        limiter=limiter,
        identity=identity,
        events=events,
        publisher=publishes,
        credentials=credentials,
        credential_keeping=CredentialKeeping(database, configs, credentials, Seals(keys), events, clock),
        drains=drains,
        registry=registry,
        breakers=breakers,
        callback_urls=callback_urls,
        idempotency=idempotency,
        idempotency_keys=idempotency_keys,
        transactions=transactions,
        checks=checks,
        payments=payments,
        books=BooksService(database, events, clock, settings),
        airtime=Airtime(
            database,
            transactions,
            checks,
            registry,
            routing,
            Catalogue(redis, clock, settings),
            idempotency,
            events,
            clock,
            settings,
        ),
        submissions=Submissions(database, transactions, registry, idempotency, clock, settings),
        refunds=refunds,
        wallets=WalletService(database, payments, events, publishes, clock, default_currency=settings.default_currency),
        withdrawals=WithdrawalService(
            database, transactions, registry, routing, idempotency, events, callback_urls, accounts, clock, settings
        ),
        transfer_codes=Submissions(
            database, transactions, registry, idempotency, clock, settings, kinds=(Kind.WITHDRAWAL,)
        ),
        banks=Banks(registry, redis, settings),
        intake=Intake(
            registry,
            queue,
            callback_tokens,
            Validations(transactions.repository, settings),
            limiter,
            webhook_metrics,
            clock,
            settings,
            record.refused_webhook,
        ),
        webhooks=WebhookProcessor(
            database,
            registry,
            transactions,
            checks,
            refunds,
            UnorderedPayments(
                database,
                transactions,
                checks,
                events,
                lambda: identity.find_owner(settings.unordered_payments_owner),
                clock,
            ),
            events,
            webhook_metrics,
            clock,
            settings,
        ),
        webhook_rows=WebhookRepository(database),
        client_tokens=client_tokens,
        realtime=RealtimeService(
            hub, reads, events, identity, client_tokens, redis, settings, clock=clock, metrics=socket_metrics
        ),
        reconciliation=ReconciliationService(ReconciliationRepository(database, events), clock, settings),
    )


def _http(settings: Settings, transport: httpx.AsyncBaseTransport | None, metrics: GatewayMetrics) -> ProviderHttp:
    if transport is not None:
        timeout = httpx.Timeout(settings.provider_timeout_seconds)
        return ProviderHttp(transport, timeout=timeout, observe=metrics.observe)
    return build_http(
        timeout_seconds=settings.provider_timeout_seconds,
        connect_timeout_seconds=settings.provider_connect_timeout_seconds,
        connections=settings.provider_connections,
        observe=metrics.observe,
    )


def _queue(settings: Settings, database: Database) -> SpooledQueue:
    """RabbitMQ with the spool behind it; without AMQP_URL the spool alone."""
    spool = SpoolQueue(
        database,
        poll_seconds=settings.spool_poll_seconds,
        lease_seconds=settings.spool_lease_seconds,
        delivery_limit=settings.queue_delivery_limit,
    )
    if not settings.amqp_url:
        return SpooledQueue(spool)
    rabbit: Queue = RabbitQueue(
        settings.amqp_url,
        settings.queue_prefix,
        delays_seconds=(*settings.overtaken_delays_seconds, *settings.ladder_seconds),
        confirm_seconds=settings.webhook_confirm_seconds,
        delivery_limit=settings.queue_delivery_limit,
    )
    return SpooledQueue(rabbit, spool)


class _EventRecorder:
    """Events that belong to no transaction: logins, keys, refused webhooks, breakers."""

    def __init__(self, events: EventRepository, clock: Clock) -> None:
        self._events = events
        self._clock = clock

    async def user_event(
        self, type: str, user_id: UUID | None, data: dict[str, Any], ip_address: str | None, user_agent: str | None
    ) -> None:
        origin = Origin(Actor.USER, ip_address, user_agent)
        await self._add(Event(uuid7(), type, self._clock(), user_id=user_id, data=data, origin=origin))

    async def refused_webhook(
        self, provider: str, reason: str, address: str | None, correlation_id: str | None
    ) -> None:
        origin = Origin(Actor.PROVIDER, address, None, correlation_id)
        data = {"provider": provider, "reason": reason}
        # A refusal that cannot be written down is still counted and logged.
        with contextlib.suppress(DatabaseAway, asyncio.TimeoutError):
            await self._add(Event(uuid7(), "webhook.refused", self._clock(), data=data, origin=origin))

    async def breaker_changed(self, change: Change) -> None:
        data: dict[str, Any] = {"provider": change.provider}
        if change.state.until is not None:
            data |= {"until": rfc3339(change.state.until), "openings": change.trips}
        type = "provider.breaker_opened" if change.opened else "provider.breaker_closed"
        with contextlib.suppress(DatabaseAway, asyncio.TimeoutError):
            await self._add(Event(uuid7(), type, self._clock(), data=data, origin=Origin(Actor.SYSTEM)))

    async def _add(self, event: Event) -> None:
        await self._events.add([event])
