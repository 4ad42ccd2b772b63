"""The API node: one FastAPI app over built services. It mounts routers and holds nothing of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Body, FastAPI
from fastapi.responses import Response
from fastapi.routing import APIRoute

from payflow import __version__
from payflow.airtime.endpoints import airtime_router
from payflow.aliases.endpoints import aliases_router
from payflow.bootstrap import Services, build_services
from payflow.checkout.endpoints import checkout_routes
from payflow.core.errors import PayFlowError, Unavailable
from payflow.core.logging import configure_logging
from payflow.core.runtime import spare_the_collector
from payflow.core.settings import Settings
from payflow.gateway.endpoints import providers_router
from payflow.identity.endpoints import identity_router
from payflow.infra.queue.port import QueueAway
from payflow.payments.endpoints import payments_router, refunds_router
from payflow.payouts.endpoints import banks_router, withdrawals_router
from payflow.realtime.endpoints import SocketsFirst, realtime_router, realtime_routes
from payflow.transactions.books.endpoints import books_router
from payflow.transactions.endpoints import transactions_router
from payflow.transactions.examples import EVENTS_BY_TAG
from payflow.transactions.views import EventView
from payflow.wallets.endpoints import wallets_router
from payflow.web.application import install_web
from payflow.web.health import health_router
from payflow.web.openapi import mend_examples
from payflow.webhooks.endpoints import dead_letters_router, document_webhooks, webhook_routes

PREFIX = "/api/v1"

DESCRIPTION = """
Takes, tracks and pays out money over many providers through one API.

1. `POST /api/v1/auth/register`, then `POST /api/v1/auth/login`: use the access token as `Authorization: Bearer`.
2. `POST /api/v1/payments/initialize` with an `Idempotency-Key`: the answer says what the customer must do (`next_action`).
3. Watch `/ws/transaction/{id}` (or poll `GET /api/v1/payments/{id}`) until the payment is `completed`.

Amounts are decimal text in major units, and integers in minor units. Errors are `application/problem+json` (RFC 9457).
"""

TAGS = [
    {"name": "auth", "description": "Users, logins and API keys."},
    {"name": "payments", "description": "Take a payment and follow it."},
    {"name": "wallet", "description": "What you hold with us: balances, statement, money in and out."},
    {"name": "transactions", "description": "Every movement of the caller, its events, and figures."},
    {"name": "airtime", "description": "Buy airtime and data from the wallet."},
    {"name": "providers", "description": "What providers can do, and their credentials."},
    {"name": "webhooks", "description": "Where providers report, and what could not be worked on."},
    {"name": "realtime", "description": "Tickets for the status sockets."},
    {"name": "health", "description": "Whether the service lives and is ready."},
    {"name": "aliases", "description": "Deprecated addresses of the calls above."},
]


def create_app(services: Services) -> FastAPI:
    """The app over these services; its lifespan starts and closes them."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await services.start()
        await services.realtime.start()
        yield
        await services.realtime.close()
        await services.close()

    app = FastAPI(
        title="PayFlow",
        version=__version__,
        summary="One API over many payment providers.",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        license_info={"name": "MIT", "identifier": "MIT"},
        lifespan=lifespan,
    )
    app.router.routes.extend(webhook_routes(services.intake, PREFIX))
    app.router.routes.extend(checkout_routes(services.transactions.repository, services.client_tokens, services.clock))
    for router in _routers(services):
        app.include_router(router, prefix=PREFIX)
    # After the routers: its docs and metrics routes are not looked at before the hot ones.
    install_web(app, services.settings, services.metrics, away={QueueAway: _unavailable})
    # Last, and so outermost: a socket keeps every layer above its endpoint for as long as it lives.
    app.add_middleware(
        SocketsFirst,
        routes=realtime_routes(services.realtime),
        trusted_proxies=services.settings.trusted_proxies,
    )
    _document(app)
    return app


def _operation_id(route: APIRoute) -> str:
    """What generated clients call an operation: `payments_initialize`, `auth_login`."""
    return "_".join([*map(str, route.tags[:1]), route.name])


def _routers(services: Services) -> list[APIRouter]:
    repository, identity, limiter = services.transactions.repository, services.identity, services.limiter
    checks = {
        "database": services.database.ping,
        "redis": lambda: _ping_redis(services),
        "queue": services.queue.primary.ping,
        "books": services.books.refuse_broken,
    }
    return [
        health_router(checks, degraded_ok=("redis", "queue", "books")),
        identity_router(identity, limiter),
        aliases_router(
            services.payments,
            services.submissions,
            services.wallets,
            services.withdrawals,
            repository,
            services.idempotency,
            identity,
            limiter,
            services.queue.primary.ping,
        ),
        payments_router(services.payments, services.submissions, repository, services.idempotency, identity, limiter),
        refunds_router(services.refunds, services.idempotency, identity, limiter),
        wallets_router(services.wallets, services.idempotency, identity, limiter),
        withdrawals_router(
            services.withdrawals, services.transfer_codes, repository, services.idempotency, identity, limiter
        ),
        banks_router(services.banks, identity, limiter, services.settings),
        transactions_router(repository, services.events, identity, limiter),
        books_router(services.books, identity, limiter),
        providers_router(
            services.database,
            services.registry,
            services.credentials,
            services.drains,
            services.breakers,
            services.events,
            identity,
            limiter,
            services.clock,
        ),
        dead_letters_router(services.dead_letters, services.queue, identity, limiter, services.clock),
        airtime_router(services.airtime, repository, services.idempotency, identity, limiter),
        realtime_router(services.realtime, identity, limiter),
    ]


async def _ping_redis(services: Services) -> None:
    await services.redis.ping()


def _unavailable(error: Exception) -> PayFlowError:
    return Unavailable(retry_after=5)


def _document(app: FastAPI) -> None:
    """The events of money as OpenAPI webhooks, and the thin webhook routes."""
    for tag, name, shown in [(tag, *item) for tag, events in EVENTS_BY_TAG.items() for item in events.items()]:

        @app.webhooks.post(
            name,
            operation_id="event_" + name.replace(".", "_"),
            summary=name,
            description=shown.meaning,
            tags=[tag],
            response_class=Response,
            response_description="Any 2xx says that you have it.",
        )
        def event(body: Annotated[EventView, Body(openapi_examples={name: {"value": shown.example}})]) -> None: ...

    inner = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = inner()
            document_webhooks(document, PREFIX)
            for event in document["webhooks"].values():
                del event["post"]["responses"]["422"]  # FastAPI adds it; what you answer is your own
            mend_examples(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def app_from_environment() -> FastAPI:
    """For `uvicorn --factory payflow.main:app_from_environment`."""
    settings = Settings()
    configure_logging(settings.log_level)
    app = create_app(build_services(settings))
    spare_the_collector()
    return app
