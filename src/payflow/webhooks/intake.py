"""A webhook on its way in: prove its origin, make it durable, and only then say 200.

Nothing is parsed here and no transaction is touched; the worker does that. Broker away: the spool takes it, still 200. Both
away: 503, and the provider comes again.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from payflow.core.clock import Clock, rfc3339
from payflow.core.errors import NotAuthenticated, NotFound, RateLimited, Unavailable
from payflow.core.ids import uuid7
from payflow.core.logging import get_logger
from payflow.core.settings import Settings
from payflow.gateway.contract import Provider, ReceivesWebhooks, Trust, WebhookRefused, WebhookRequest
from payflow.gateway.registry import Registry
from payflow.gateway.signing import CallbackTokens
from payflow.infra.queue.fallback import SpooledQueue
from payflow.infra.queue.port import WEBHOOKS, Message, QueueAway
from payflow.web.rate_limits import RateLimiter, household
from payflow.webhooks.metrics import WebhookMetrics

log = get_logger(__name__)

RecordRefusal = Callable[[str, str, str | None, str | None], Awaitable[None]]
"""(provider, reason, address, correlation id): tells the event log."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A webhook as the endpoint hands it over. `token` is the last part of the path, where there is one."""

    path_name: str
    token: str | None
    headers: Mapping[str, str]
    body: bytes
    address: str | None
    correlation_id: str


class Intake:
    def __init__(
        self,
        registry: Registry,
        queue: SpooledQueue,
        tokens: CallbackTokens,
        limiter: RateLimiter,
        metrics: WebhookMetrics,
        clock: Clock,
        settings: Settings,
        record_refusal: RecordRefusal,
    ) -> None:
        self._registry = registry
        self._queue = queue
        self._tokens = tokens
        self._limiter = limiter
        self._metrics = metrics
        self._clock = clock
        self._enforce_sources = settings.enforce_webhook_sources
        self._refused_per_minute = settings.refused_webhooks_per_minute
        self._record_refusal = record_refusal

    async def receive(self, arrival: Arrival) -> bytes:
        """The body that the provider wants to read with its 200.

        NotFound for an unknown provider, NotAuthenticated when the origin is not proven (RateLimited when that happens too
        often from one address; a proven webhook is never limited), Unavailable when it could be made durable nowhere.
        """
        provider = self._registry.by_path(arrival.path_name)
        if provider is None or not isinstance(provider, ReceivesWebhooks):
            raise NotFound("There is no such webhook address.")
        name = provider.declaration.name
        now = self._clock()
        try:
            attempt_id, trust = await self._prove(provider, arrival, WebhookRequest(arrival.headers, arrival.body, now))
        except WebhookRefused as refusal:
            await self._refuse(name, refusal.reason, arrival)
            raise NotAuthenticated("The webhook does not prove its origin.", code="webhook_refused") from None
        headers = {"provider": name, "received_at": rfc3339(now), "correlation_id": arrival.correlation_id}
        if attempt_id is not None:
            headers["attempt_id"] = str(attempt_id)
        if trust is not None:
            headers["trust"] = trust.value
        try:
            taken_by = await self._queue.publish(WEBHOOKS, Message(str(uuid7()), arrival.body, headers))
        except QueueAway as error:
            self._metrics.count(name, "unavailable")
            raise Unavailable("The webhook could not be stored. Send it again.", retry_after=10) from error
        self._metrics.count(name, "accepted" if taken_by == self._queue.primary.name else "spooled")
        return provider.declaration.webhook_answer

    async def _prove(
        self, provider: Provider, arrival: Arrival, request: WebhookRequest
    ) -> tuple[UUID | None, Trust | None]:
        """The attempt that the path's token names, if any, and how far the events can be believed at most. WebhookRefused."""
        declaration = provider.declaration
        attempt_id = None
        if arrival.token is not None:
            attempt_id = self._tokens.read(arrival.token)
        elif declaration.webhook_token:
            raise WebhookRefused("token")
        if declaration.webhook_sources and arrival.address not in declaration.webhook_sources:
            self._metrics.count(declaration.name, "foreign_source")
            if self._enforce_sources:
                raise WebhookRefused("source")
        credentials = await self._registry.credentials(declaration.name)
        if credentials is None:
            raise WebhookRefused("no_secret")
        assert isinstance(provider, ReceivesWebhooks)
        return attempt_id, provider.verify_webhook(request, credentials.all)

    async def _refuse(self, provider: str, reason: str, arrival: Arrival) -> None:
        self._metrics.count(provider, "refused")
        log.warning("webhook.refused", provider=provider, reason=reason, address=arrival.address)
        source = household(arrival.address or "unknown")
        state = await self._limiter.hit("webhooks-refused", source, self._refused_per_minute)
        if not state.allowed:
            raise RateLimited("Too many webhooks without proof of origin.", retry_after=state.reset_seconds)
        await self._record_refusal(provider, reason, arrival.address, arrival.correlation_id)
