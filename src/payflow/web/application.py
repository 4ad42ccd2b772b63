"""Puts the parts of this room into an application, in the one order in which they work."""

import logging
from collections.abc import Mapping

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware

from payflow.core.settings import Settings
from payflow.web.docs import install_docs
from payflow.web.metrics import install_metrics
from payflow.web.middleware import BodyLimit, RequestContext, SecurityHeaders, write_access_line
from payflow.web.problems import ErrorFactory, UnexpectedErrors, install_problem_handlers

_EXPOSED = (
    "Request-Id",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "ETag",
    "Link",
    "Location",
    "Idempotent-Replayed",
)
_ACCEPTED = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "Request-Id",
    "X-API-Key",
)


def install_web(
    app: FastAPI,
    settings: Settings,
    registry: CollectorRegistry,
    *,
    away: Mapping[type[Exception], ErrorFactory] | None = None,
) -> None:
    """Problems, metrics, docs and middleware. Starlette puts what is added last outermost, so read from the bottom:

    RequestContext → SecurityHeaders → CORS → metrics → BodyLimit → UnexpectedErrors → FastAPI
    """
    install_problem_handlers(app, away)
    install_docs(app)
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    install_metrics(app, registry)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=_ACCEPTED,
            expose_headers=_EXPOSED,
            max_age=600,
        )
    app.add_middleware(SecurityHeaders)
    logged = logging.getLevelNamesMapping()[settings.log_level.upper()] <= logging.INFO
    app.add_middleware(
        RequestContext,
        trusted_proxies=settings.trusted_proxies,
        access_log=write_access_line if logged else None,
    )
