"""Where this run finds PostgreSQL, Redis and RabbitMQ. In this order, for each:

1. the URL in its environment variable (then nothing else is tried: a wrong URL is an error, not a hint);
2. the standard port on 127.0.0.1, if it speaks the protocol and lets us in;
3. the installed program, started as a private instance on a free port;
4. a container, if a Docker engine runs;
5. nothing: the test is skipped with the reasons, or fails where REQUIRE_SERVICES=1.

What was started ends with `close`.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.services.containers import Containers, EngineMissing
from tests.services.private import (
    PrivatePostgres,
    PrivateRabbitMQ,
    PrivateRedis,
    PrivateServer,
    ServerUnavailable,
)
from tests.services.probes import (
    Probe,
    ProbeFailed,
    probe_postgres,
    probe_rabbitmq,
    probe_redis,
    run_apart,
)


class ServiceMissing(Exception):
    """No server could be found or started; the message holds every reason."""


@dataclass(frozen=True)
class Service:
    """A kind of server and the ways to one."""

    name: str
    variable: str
    standard_url: str
    probe: Probe
    private: type[PrivateServer]
    package: str


@dataclass(frozen=True)
class Found:
    """A server that answered."""

    service: Service
    url: str
    how: str


POSTGRES = Service(
    name="postgres",
    variable="PAYFLOW_TEST_DATABASE_URL",
    standard_url="postgresql+asyncpg://postgres@127.0.0.1:5432/postgres",
    probe=probe_postgres,
    private=PrivatePostgres,
    package="postgresql",
)
REDIS = Service(
    name="redis",
    variable="PAYFLOW_TEST_REDIS_URL",
    standard_url="redis://127.0.0.1:6379/0",
    probe=probe_redis,
    private=PrivateRedis,
    package="redis-server",
)
AMQP = Service(
    name="rabbitmq",
    variable="PAYFLOW_TEST_AMQP_URL",
    standard_url="amqp://guest:guest@127.0.0.1:5672/",
    probe=probe_rabbitmq,
    private=PrivateRabbitMQ,
    package="rabbitmq-server",
)
SERVICES = (POSTGRES, REDIS, AMQP)


def services_are_required() -> bool:
    """Whether a missing server fails the tests instead of skipping them."""
    return os.environ.get("REQUIRE_SERVICES", "") not in ("", "0")


class ServiceFinder:
    """Finds each server once and owns what it had to start."""

    def __init__(self, *, standard_ports: bool = True, containers: bool = True) -> None:
        self._standard_ports = standard_ports
        self._containers = Containers() if containers else None
        self._found: dict[Service, Found] = {}
        self._missing: dict[Service, ServiceMissing] = {}
        self._started: list[PrivateServer] = []

    def find(self, service: Service) -> Found:
        """The server, started if need be; raises ServiceMissing with every reason, and remembers both answers."""
        if service in self._missing:
            raise self._missing[service]
        if service not in self._found:
            try:
                self._found[service] = self._search(service)
            except ServiceMissing as missing:
                self._missing[service] = missing
                raise
        return self._found[service]

    def forget_failures(self) -> None:
        """Search again for what was missing, after something has been installed."""
        self._missing.clear()

    def close(self) -> None:
        for server in reversed(self._started):
            server.close()
        self._started.clear()
        if self._containers is not None:
            self._containers.close()
        self._found.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _search(self, service: Service) -> Found:
        given = os.environ.get(service.variable)
        if given:
            try:
                _probe(service, given)
            except ProbeFailed as error:
                raise ServiceMissing(f"{service.name}: {service.variable} is set, but {error}") from error
            return Found(service, given, service.variable)
        reasons: list[str] = []
        ways: list[Callable[[Service], Found]] = [self._privately, self._in_container]
        if self._standard_ports:
            ways.insert(0, self._on_standard_port)
        for way in ways:
            try:
                return way(service)
            except (ProbeFailed, ServerUnavailable, EngineMissing) as error:
                reasons.append(str(error))
        raise ServiceMissing(f"{service.name}: " + "; ".join(reasons))

    def _on_standard_port(self, service: Service) -> Found:
        try:
            _probe(service, service.standard_url)
        except ProbeFailed as error:
            raise ProbeFailed(f"standard port: {error}") from error
        return Found(service, service.standard_url, "already running")

    def _privately(self, service: Service) -> Found:
        server = service.private()
        try:
            server.start()
        except BaseException:
            server.close()
            raise
        self._started.append(server)
        return Found(service, server.url, f"started, process {server.pid}")

    def _in_container(self, service: Service) -> Found:
        if self._containers is None:
            raise EngineMissing("containers are switched off")
        url = self._containers.start(service.name)
        _probe(service, url)
        return Found(service, url, "started in a container")


def install(missing: list[Service], progress: Callable[[str], None]) -> bool:
    """Install Debian's packages of the missing servers, as root on a machine that has apt-get.

    Returns whether it was done. Only `ensure` calls it: a plain pytest run changes nothing on the machine.
    """
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0 or not missing:
        return False
    packages = [service.package for service in missing]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        progress("apt-get " + " ".join(words))
        with suppress(OSError):
            if subprocess.run([apt, "-q", *words], env=environment, timeout=600, check=False).returncode == 0:
                continue
        progress(f"apt-get {words[0]} failed")
        # An outdated list may still name packages that can be had, so a failed update alone does not end it.
        if words[0] == "install":
            return False
    return True


def _probe(service: Service, url: str) -> None:
    run_apart(lambda: service.probe(url))
