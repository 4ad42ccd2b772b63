"""Prometheus figures of the HTTP side, in a registry of the application's own, at `/metrics`.

prometheus-fastapi-instrumentator finds its `handler` label by matching every route a second time (266 µs with 33
included routes). Here its middleware is told nothing before the request, and the label is read afterwards from the
route that FastAPI chose. It is a template, so neither ids nor tokens become labels.
"""

from collections.abc import Callable

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator.metrics import Info
from prometheus_fastapi_instrumentator.middleware import PrometheusInstrumentatorMiddleware
from starlette.requests import Request

from payflow.web.paths import route_template

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class RequestMetrics(PrometheusInstrumentatorMiddleware):
    def _get_handler(self, request: Request) -> tuple[str, bool]:
        return "", True


def install_metrics(app: FastAPI, registry: CollectorRegistry) -> None:
    """Add the middleware and `GET /metrics`, which shows whatever else is in `registry` too."""
    app.add_middleware(
        RequestMetrics,
        registry=registry,
        instrumentations=[_instrumentation(registry)],
        should_group_status_codes=False,
    )
    Instrumentator(registry=registry).expose(app, endpoint="/metrics", include_in_schema=False)


def _instrumentation(registry: CollectorRegistry) -> Callable[[Info], None]:
    requests = Counter(
        "payflow_http_requests", "Requests answered.", ("method", "handler", "status"), registry=registry
    )
    seconds = Histogram(
        "payflow_http_request_seconds", "Time to answer.", ("method", "handler"), buckets=BUCKETS, registry=registry
    )
    children: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}

    def count(info: Info) -> None:
        # Unknown methods fold into one label value, or a client could make as many as it likes.
        method = info.method if info.method in _METHODS else "other"
        labels = (method, route_template(info.request.scope) or "none", info.modified_status)
        found = children.get(labels)
        if found is None:
            found = children[labels] = (requests.labels(*labels), seconds.labels(*labels[:2]))
        found[0].inc()
        found[1].observe(info.modified_duration)

    return count
