"""A webhook on its way in: prove its origin, make it durable, and only then say 200.

Nothing is parsed here and no transaction is touched; the worker does that. Only a provider that waits to be told whether it
may take a payment is answered at once. Broker away: the spool takes it, still 200. Both
away: 503, and the provider comes again.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from payflow.core.clock import Clock, rfc3339
from payflow.core.errors import NotAuthenticated, NotFound, RateLimited, Unavailable
from payflow.core.ids import uuid7
from payflow.core.logging import get_logger
from payflow.core.settings import Settings
from payflow.gateway.contract import (
    AnswersValidation,
    Declaration,
    Provider,
    ReceivesWebhooks,
    Trust,
    WebhookMalformed,
    WebhookRefused,
    WebhookRequest,
)
from payflow.gateway.registry import Registry
from payflow.gateway.signing import CallbackTokens, validation_id
from payflow.infra.queue.fallback import SpooledQueue
from payflow.infra.queue.port import WEBHOOKS, Message, QueueAway
from payflow.web.rate_limits import RateLimiter, household
from payflow.webhooks.metrics import WebhookMetrics
from payflow.webhooks.validation import Validations

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
        validations: Validations,
        limiter: RateLimiter,
        metrics: WebhookMetrics,
        clock: Clock,
        settings: Settings,
        record_refusal: RecordRefusal,
    ) -> None:
        self._registry = registry
        self._queue = queue
        self._tokens = tokens
        self._validations = validations
        self._limiter = limiter
        self._metrics = metrics
        self._clock = clock
        self._enforce_sources = settings.enforce_webhook_sources
        self._refused_per_minute = settings.refused_webhooks_per_minute
        self._record_refusal = record_refusal

    async def receive(self, arrival: Arrival) -> bytes:
        """The body that the provider wants to read with its 200.

        NotFound for an unknown provider, NotAuthenticated when the origin is not proven. RateLimited when that happens too
        often from one address, or when what is let in without proof comes too often from one; a proven webhook is never
        limited. Unavailable when it could be made durable nowhere.
        """
        provider = self._registry.by_path(arrival.path_name)
        if provider is None or not isinstance(provider, ReceivesWebhooks):
            raise NotFound("There is no such webhook address.")
        name = provider.declaration.name
        now = self._clock()
        request = WebhookRequest(arrival.headers, arrival.body, now)
        try:
            answer = await self._validated(provider, arrival, request)
            if answer is not None:
                return answer
            attempt_id, trust = await self._prove(provider, arrival, request)
            if trust is Trust.CONFIRM and attempt_id is None:
                await self._limit("webhooks-unproven", arrival)
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

    async def receive_by_signature(self, arrival: Arrival) -> tuple[bytes, str]:
        """As `receive`, at the older address that all providers share; the path name of the one whose header it carries too.

        The header only says who has to prove it. None proves nothing, and several cannot be one provider's: both are
        refused like a wrong signature, so that they are counted and limited too.
        """
        found = self._registry.by_signature(arrival.headers)
        if len(found) != 1:
            await self._refuse("unknown", "wrong_scheme" if found else "header_missing", arrival)
            raise NotAuthenticated("The webhook does not prove its origin.", code="webhook_refused")
        path_name = found[0].declaration.path_name
        return await self.receive(replace(arrival, path_name=path_name)), path_name

    async def _validated(self, provider: Provider, arrival: Arrival, request: WebhookRequest) -> bytes | None:
        """The answer to a provider that asks whether it may take a payment. None for whatever has to be queued.

        Nothing is waited for here but the decision, which keeps its own deadline. WebhookRefused."""
        declaration = provider.declaration
        if not isinstance(provider, AnswersValidation) or arrival.token is None:
            return None
        if self._tokens.read(self._tokens.without_mark(arrival.token)[0]) != validation_id(declaration.name):
            return None
        try:
            asked = provider.read_validation(request)
        except WebhookMalformed:
            return None
        if asked is None:
            return None
        self._check_source(declaration, arrival)
        decision = await self._validations.decide(declaration.name, asked)
        self._metrics.count(declaration.name, decision.outcome)
        if not decision.accept:
            log.info("validation.refused", provider=declaration.name, reason=decision.reason)
        return provider.answer_validation(request, decision.accept)

    def _check_source(self, declaration: Declaration, arrival: Arrival) -> None:
        if declaration.webhook_sources and arrival.address not in declaration.webhook_sources:
            self._metrics.count(declaration.name, "foreign_source")
            if self._enforce_sources:
                raise WebhookRefused("source")

    async def _prove(
        self, provider: Provider, arrival: Arrival, request: WebhookRequest
    ) -> tuple[UUID | None, Trust | None]:
        """The attempt that the path's token names, if any, and how far the events can be believed at most. WebhookRefused."""
        declaration = provider.declaration
        attempt_id = None
        only_a_hint = False
        if arrival.token is not None:
            token, only_a_hint = self._tokens.without_mark(arrival.token)
            attempt_id = self._tokens.read(token)
        elif declaration.webhook_token:
            raise WebhookRefused("token")
        self._check_source(declaration, arrival)
        credentials = await self._registry.credentials(declaration.name)
        if credentials is None:
            raise WebhookRefused("no_secret")
        assert isinstance(provider, ReceivesWebhooks)
        trust = provider.verify_webhook(request, credentials.all)
        return attempt_id, Trust.CONFIRM if only_a_hint else trust

    async def _refuse(self, provider: str, reason: str, arrival: Arrival) -> None:
        self._metrics.count(provider, "refused")
        log.warning("webhook.refused", provider=provider, reason=reason, address=arrival.address)
        await self._limit("webhooks-refused", arrival)
        await self._record_refusal(provider, reason, arrival.address, arrival.correlation_id)

    async def _limit(self, group: str, arrival: Arrival) -> None:
        """RateLimited: whoever proves nothing may not fill the queue, the database and the log."""
        state = await self._limiter.hit(group, household(arrival.address or "unknown"), self._refused_per_minute)
        if not state.allowed:
            raise RateLimited("Too many webhooks without proof of origin.", retry_after=state.reset_seconds)
