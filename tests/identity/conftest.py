"""This room in an application of its own, over a database of its own, with a clock that tests can move."""

import os
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection

from payflow.core.settings import Settings
from payflow.identity.endpoints import identity_router
from payflow.identity.service import IdentityService, Origin, TokenPair
from payflow.infra.database import Database, plain_url
from payflow.infra.redis import Redis, connect_redis
from payflow.web.application import install_web
from payflow.web.rate_limits import RateLimiter

SERVER_URL = os.environ.get("PAYFLOW_TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS_URL = os.environ.get("PAYFLOW_TEST_REDIS_URL", "redis://127.0.0.1:6379")
MIGRATION = Path(__file__).parents[2] / "alembic/versions/0001_identity.py"
CHEAP = (64, 1, 1)
PASSWORD = "correct horse battery"


def load_migration() -> Any:
    spec = spec_from_file_location("migration_0001", MIGRATION)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_migration(connection: Connection, direction: str) -> None:
    with Operations.context(MigrationContext.configure(connection)):
        getattr(load_migration(), direction)()


@dataclass
class MovableClock:
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Events:
    seen: list[tuple[str, UUID | None, dict[str, Any], str | None, str | None]] = field(default_factory=list)

    async def record(
        self, event_type: str, user_id: UUID | None, data: dict[str, Any], ip: str | None, agent: str | None
    ) -> None:
        self.seen.append((event_type, user_id, data, ip, agent))

    @property
    def types(self) -> list[str]:
        return [entry[0] for entry in self.seen]


@pytest.fixture(scope="session")
async def database() -> AsyncIterator[Database]:
    name = f"payflow_test_identity_{secrets.token_hex(6)}"
    server = await asyncpg.connect(plain_url(SERVER_URL))
    await server.execute(f'CREATE DATABASE "{name}"')
    database = Database(SERVER_URL.rpartition("/")[0] + f"/{name}", pool_size=5)
    async with database.engine.begin() as connection:
        await connection.run_sync(run_migration, "upgrade")
    yield database
    await database.close()
    await server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await server.close()


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def settings() -> Settings:
    # High enough that only tests which ask for it meet a limit.
    return Settings(_env_file=None, environment="test", logins_per_minute=10_000)  # type: ignore[call-arg]


MakeIdentity = Callable[..., IdentityService]


@pytest.fixture
async def make_identity(
    database: Database, settings: Settings, clock: MovableClock, events: Events
) -> AsyncIterator[MakeIdentity]:
    """Services over the one database: each is like another process."""
    made: list[IdentityService] = []

    def make(**changes: Any) -> IdentityService:
        arguments = {"clock": clock, "record_event": events.record, "password_cost": CHEAP, **changes}
        service = IdentityService(arguments.pop("database", database), arguments.pop("settings", settings), **arguments)
        made.append(service)
        return service

    yield make
    for service in made:
        service.close()


@pytest.fixture
def identity(make_identity: MakeIdentity) -> IdentityService:
    return make_identity()


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    connection = connect_redis(REDIS_URL)
    yield connection
    await connection.aclose()
    await connection.connection_pool.disconnect()


@pytest.fixture
async def limiter(redis: Redis, settings: Settings) -> AsyncIterator[RateLimiter]:
    prefix = f"payflow_test_identity_{secrets.token_hex(6)}:"
    yield RateLimiter(redis, settings, prefix=prefix)
    keys = [key async for key in redis.scan_iter(match=f"{prefix}*", count=500)]
    if keys:
        await redis.delete(*keys)


@pytest.fixture
def app(identity: IdentityService, limiter: RateLimiter, settings: Settings) -> FastAPI:
    return assembled(identity, limiter, settings)


def assembled(identity: IdentityService, limiter: RateLimiter, settings: Settings) -> FastAPI:
    app = FastAPI(title="PayFlow", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(identity_router(identity, limiter), prefix="/api/v1")
    install_web(app, settings, CollectorRegistry())
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


def client_of(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("198.51.100.7", 4711))
    return httpx.AsyncClient(
        transport=transport, base_url="http://payflow.test/api/v1", headers={"User-Agent": "till/1.0"}
    )


def new_email() -> str:
    return f"{secrets.token_hex(6)}@example.com"


@dataclass
class Account:
    """A registered user, logged in."""

    id: UUID
    email: str
    tokens: TokenPair

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens.access_token}"}


async def new_account(identity: IdentityService, *, admin: bool = False) -> Account:
    email = new_email()
    create = identity.create_admin if admin else identity.register
    user = await create(email, PASSWORD, "Amina")
    return Account(user.id, email, await identity.login(email, PASSWORD, Origin()))


@pytest.fixture
async def account(identity: IdentityService, events: Events) -> Account:
    account = await new_account(identity)
    events.seen.clear()
    return account


async def row_count(database: Database, table: str, condition: str = "true", *values: object) -> int:
    async with database.raw() as connection:
        count: int = await connection.fetchval(f"SELECT count(*) FROM {table} WHERE {condition}", *values)
    return count
