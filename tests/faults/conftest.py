"""The cluster and its servers, and the logs of its processes beside a failure."""

from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest

from tests.faults.cluster import Cluster, Servers, running_cluster, running_servers
from tests.services import PrivatePostgres, PrivateRabbitMQ, PrivateRedis, services_are_required


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    cluster = getattr(item, "funcargs", {}).get("cluster")
    for process in cluster.processes if isinstance(cluster, Cluster) else ():
        if written := process.log():
            report.sections.append((f"the end of {process.log_path}", written))


@pytest.fixture(scope="package")
async def servers() -> AsyncIterator[Servers]:
    """PostgreSQL, Redis and RabbitMQ to be stopped and killed."""
    missing = [kind.__name__ for kind in (PrivatePostgres, PrivateRedis, PrivateRabbitMQ) if not kind.installed()]
    if missing:
        (pytest.fail if services_are_required() else pytest.skip)(f"not installed: {', '.join(missing)}")
    async with running_servers() as started:
        yield started


@pytest.fixture(scope="package")
async def cluster(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Real processes: one node, the simulator, and what the tests add."""
    async with running_cluster(servers, tmp_path_factory.mktemp("cluster")) as built:
        yield built
