"""What is counted of incoming webhooks."""

from prometheus_client import CollectorRegistry, Counter, Histogram


class WebhookMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "webhook_events", "Incoming webhooks by what became of them.", ["provider", "outcome"], registry=registry
        )
        self.lag = Histogram(
            "payflow_worker_lag_seconds",
            "From the receipt of a webhook to the end of its work.",
            registry=registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300, 3_600),
        )
        self.batch = Histogram(
            "payflow_worker_batch_size",
            "Messages worked on in one transaction.",
            registry=registry,
            buckets=(1, 2, 5, 10, 25, 50, 100),
        )

    def count(self, provider: str, outcome: str) -> None:
        self.events.labels(provider, outcome).inc()
