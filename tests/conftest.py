"""The servers and the migrated database of this run, shared by every folder of tests."""

from collections.abc import AsyncIterator, Iterator

import pytest
import structlog

from payflow.infra import migrations
from tests.house import House, Urls, running_house
from tests.services import (
    AMQP,
    POSTGRES,
    REDIS,
    ServiceFinder,
    ServiceMissing,
    create_database,
    drop_database,
    services_are_required,
)

# Unless configured, structlog draws tracebacks with every local in them, which takes seconds where a test makes errors.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S"),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.fixture(scope="session")
def finder() -> Iterator[ServiceFinder]:
    with ServiceFinder() as found:
        yield found


def _url(finder: ServiceFinder, service: str) -> str:
    try:
        return finder.find(service).url
    except ServiceMissing as missing:
        (pytest.fail if services_are_required() else pytest.skip)(str(missing))
        raise


@pytest.fixture(scope="session")
def postgres_url(finder: ServiceFinder) -> str:
    """An administrator's URL; each test makes its own database."""
    return _url(finder, POSTGRES)


@pytest.fixture(scope="session")
def redis_url(finder: ServiceFinder) -> str:
    return _url(finder, REDIS)


@pytest.fixture(scope="session")
def amqp_url(finder: ServiceFinder) -> str:
    return _url(finder, AMQP)


@pytest.fixture(scope="session")
async def migrated(postgres_url: str) -> AsyncIterator[str]:
    """A migrated database to copy from: `create_database(..., template=urls.template)`. Nobody connects to it."""
    url = await create_database(postgres_url)
    await migrations.upgrade(url)
    yield url
    await drop_database(postgres_url, url)


@pytest.fixture(scope="session")
def urls(postgres_url: str, redis_url: str, amqp_url: str, migrated: str) -> Urls:
    return Urls(postgres_url, migrated.rsplit("/", 1)[1], redis_url, amqp_url)


@pytest.fixture
async def house(urls: Urls) -> AsyncIterator[House]:
    """API, worker and simulator of one test, in this process, on real servers, with a database of their own."""
    async with running_house(urls) as built:
        yield built
