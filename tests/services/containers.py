"""The servers in containers: for machines that have a Docker engine and nothing else."""

import secrets
import shutil
import subprocess
import time

from tests.services.private import free_port
from tests.services.probes import Probe, ProbeFailed, probe_postgres, probe_rabbitmq, probe_redis, run_apart

READY_SECONDS = 90.0
# The first start may have to fetch the image.
START_SECONDS = 600.0

COMPOSE = """
services:
  postgres:
    image: postgres:17-alpine
    environment: {{POSTGRES_HOST_AUTH_METHOD: trust}}
    ports: ["127.0.0.1:{postgres}:5432"]
  redis:
    image: redis:7-alpine
    command: ["redis-server", "--save", "", "--appendonly", "no"]
    ports: ["127.0.0.1:{redis}:6379"]
  rabbitmq:
    image: rabbitmq:4-alpine
    ports: ["127.0.0.1:{rabbitmq}:5672"]
"""

URLS = {
    "postgres": "postgresql+asyncpg://postgres@127.0.0.1:{port}/postgres",
    "redis": "redis://127.0.0.1:{port}/0",
    "rabbitmq": "amqp://guest:guest@127.0.0.1:{port}/",
}
PROBES: dict[str, Probe] = {"postgres": probe_postgres, "redis": probe_redis, "rabbitmq": probe_rabbitmq}


class EngineMissing(Exception):
    """No container engine answers, or it would not start the container."""


class Containers:
    """One compose project per run, removed with everything in it by `close`."""

    def __init__(self) -> None:
        self._project = f"payflow-test-{secrets.token_hex(4)}"
        self._ports: dict[str, int] = {}
        self._used = False

    def start(self, name: str) -> str:
        """Start one server, wait until it lets us in and return its URL."""
        if shutil.which("docker") is None or _run(["docker", "info"], seconds=15) is not None:
            raise EngineMissing("no Docker engine runs")
        if not self._ports:
            self._ports = {service: free_port() for service in URLS}
        self._used = True
        trouble = self._compose("up", "--detach", name)
        if trouble is not None:
            raise EngineMissing(f"docker compose up failed: {trouble}")
        url = URLS[name].format(port=self._ports[name])
        _wait(PROBES[name], url)
        return url

    def close(self) -> None:
        if self._used:
            self._compose("down", "--volumes", "--timeout", "5")
            self._used = False

    def _compose(self, *words: str) -> str | None:
        command = ["docker", "compose", "--project-name", self._project, "--file", "-", *words]
        return _run(command, seconds=START_SECONDS, text=COMPOSE.format(**self._ports))


def _wait(probe: Probe, url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            return run_apart(lambda: probe(url))
        except ProbeFailed as error:
            if time.monotonic() > deadline:
                raise EngineMissing(f"the container is not ready: {error}") from error
            time.sleep(0.5)


def _run(command: list[str], *, seconds: float, text: str | None = None) -> str | None:
    """Run a command; None if it succeeded, else the last line of what it said."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = (done.stderr or done.stdout).strip().splitlines()
    return None if done.returncode == 0 else (lines[-1] if lines else f"exit code {done.returncode}")
