"""An application of this room's parts alone, and a Redis of its own key prefix."""

import os
import secrets
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from payflow.core.settings import Settings
from payflow.infra.redis import Redis, connect_redis
from payflow.web.application import install_web
from payflow.web.problems import ErrorFactory

REDIS_URL = os.environ.get("PAYFLOW_TEST_REDIS_URL", "redis://127.0.0.1:6379")

MakeApp = Callable[..., FastAPI]
MakeClient = Callable[..., httpx.AsyncClient]


@pytest.fixture
def make_app() -> MakeApp:
    def make(
        routes: Callable[[FastAPI], None] | None = None,
        *,
        registry: CollectorRegistry | None = None,
        away: dict[type[Exception], ErrorFactory] | None = None,
        **settings: object,
    ) -> FastAPI:
        app = FastAPI(title="PayFlow", docs_url=None, redoc_url=None, redirect_slashes=False)
        if routes is not None:
            routes(app)
        values = Settings(_env_file=None, environment="test", **settings)  # type: ignore[call-arg, arg-type]
        install_web(app, values, registry or CollectorRegistry(), away=away)
        return app

    return make


@pytest.fixture
async def client_of() -> AsyncIterator[MakeClient]:
    """Clients of an application, as from a peer of our choice."""
    clients: list[httpx.AsyncClient] = []

    def make(app: FastAPI, peer: str = "198.51.100.7") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(peer, 4711))
        client = httpx.AsyncClient(transport=transport, base_url="http://payflow.test")
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    connection = connect_redis(REDIS_URL)
    yield connection
    await connection.aclose()
    await connection.connection_pool.disconnect()


@pytest.fixture
async def key_prefix(redis: Redis) -> AsyncIterator[str]:
    prefix = f"payflow_test_web_{secrets.token_hex(6)}:"
    yield prefix
    keys = [key async for key in redis.scan_iter(match=f"{prefix}*", count=500)]
    if keys:
        await redis.delete(*keys)
