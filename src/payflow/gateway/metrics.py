"""What is counted of the calls to providers, their breakers, and events that Redis lost."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from payflow.gateway.breaker import Phase, ProviderState


class GatewayMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._latency = Histogram(
            "payflow_provider_request_seconds",
            "Time of a provider's answer.",
            ["provider", "operation"],
            registry=registry,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )
        self._results = Counter(
            "payflow_provider_requests",
            "Requests to providers by outcome: the status class, not_sent or unknown.",
            ["provider", "operation", "outcome"],
            registry=registry,
        )
        self._breakers = Gauge(
            "payflow_provider_breaker_state",
            "As this process saw it last: 0 closed, 1 half-open, 2 open.",
            ["provider"],
            registry=registry,
        )
        self._lost = Counter(
            "payflow_events_publish_lost",
            "Events that Redis did not take; sockets catch up from the log.",
            registry=registry,
        )

    def observe(self, provider: str, operation: str, outcome: str, seconds: float) -> None:
        self._latency.labels(provider, operation).observe(seconds)
        self._results.labels(provider, operation, outcome).inc()

    def breaker(self, provider: str, state: ProviderState) -> None:
        self._breakers.labels(provider).set((Phase.CLOSED, Phase.HALF_OPEN, Phase.OPEN).index(state.phase))

    def lost_events(self, count: int) -> None:
        self._lost.inc(count)
