"""What is counted of the sockets."""

from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge


class RealtimeMetrics(Protocol):
    """`kind` is `transaction`, `user` or `wallet`."""

    def opened(self, kind: str) -> None: ...
    def closed(self, kind: str) -> None: ...
    def sent(self, frames: int) -> None: ...
    def slow_client(self) -> None: ...
    def caught_up(self, events: int) -> None:
        """Events that Redis did not bring and the log did."""


class NoMetrics:
    def opened(self, kind: str) -> None: ...
    def closed(self, kind: str) -> None: ...
    def sent(self, frames: int) -> None: ...
    def slow_client(self) -> None: ...
    def caught_up(self, events: int) -> None: ...


class PrometheusRealtimeMetrics:
    """`RealtimeMetrics` on a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._open = Gauge("payflow_sockets_open", "Sockets that are open.", ["kind"], registry=registry)
        self._frames = Counter("payflow_socket_frames", "Frames sent to sockets.", registry=registry)
        self._slow = Counter("payflow_sockets_slow", "Sockets closed because they did not read.", registry=registry)
        self._caught_up = Counter(
            "payflow_socket_events_caught_up", "Events that Redis did not bring and the log did.", registry=registry
        )

    def opened(self, kind: str) -> None:
        self._open.labels(kind).inc()

    def closed(self, kind: str) -> None:
        self._open.labels(kind).dec()

    def sent(self, frames: int) -> None:
        self._frames.inc(frames)

    def slow_client(self) -> None:
        self._slow.inc()

    def caught_up(self, events: int) -> None:
        self._caught_up.inc(events)
