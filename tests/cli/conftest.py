"""The command as a user runs it: a process of its own, with a clean environment."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.house import Urls
from tests.services import create_database, delete_keys, drop_database, unique_prefix

SECONDS = 60.0
NOT_INHERITED = ("DATABASE_URL", "REDIS_URL", "AMQP_URL", "PYTHONDONTWRITEBYTECODE")


@dataclass
class Process:
    """A running command. `lines` is what it said on standard output so far."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    async def says(self, part: str, seconds: float = SECONDS) -> str:
        """The first line that holds `part`."""
        assert self.process.stdout is not None
        async with asyncio.timeout(seconds):
            while True:
                line = (await self.process.stdout.readline()).decode()
                if not line:
                    raise AssertionError(f"it ended without saying {part!r}: {self.lines} {await self._errors()}")
                self.lines.append(line.rstrip("\n"))
                if part in line:
                    return line.rstrip("\n")

    async def ends(self, number: signal.Signals | None = None, seconds: float = 30) -> tuple[int, str]:
        """Its exit code and what it said on standard error; first it is sent the signal."""
        if number is not None:
            self.process.send_signal(number)
        async with asyncio.timeout(seconds):
            out, errors = await self.process.communicate()
        self.lines += out.decode().splitlines()
        return self.process.returncode or 0, errors.decode()

    async def _errors(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()


Start = Callable[..., Awaitable[Process]]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    errors: str


Run = Callable[..., Awaitable[Done]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the command runs and keeps its data. Not tmp_path: run by root, PostgreSQL's own user could not enter that."""
    base = Path(tempfile.mkdtemp(prefix="payflow-cli-", dir="/tmp"))
    base.chmod(0o755)
    yield base
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all the commands of a run share their bytecode: compiling takes longer than the rest of a start."""
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture
async def start(folder: Path, compiled: Path) -> AsyncIterator[Start]:
    """Start `payflow …` in a folder without .env; what still runs at the end of the test is ended."""
    started: list[Process] = []

    async def begin(*arguments: str, **environment: str) -> Process:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PAYFLOW_") and name not in NOT_INHERITED
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "payflow.cli",
            *arguments,
            cwd=folder,
            env={
                **clean,
                "PAYFLOW_DATA_DIR": str(folder / "data"),
                "PYTHONUNBUFFERED": "1",
                "PYTHONPYCACHEPREFIX": str(compiled),
                **environment,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(Process(process))
        return started[-1]

    yield begin
    for one in started:
        if one.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                one.process.kill()
        await one.process.communicate()


@pytest.fixture
def run(start: Start) -> Run:
    """Run `payflow …` to its end."""

    async def work(*arguments: str, seconds: float = SECONDS, **environment: str) -> Done:
        one = await start(*arguments, **environment)
        code, errors = await one.ends(seconds=seconds)
        return Done(code, "\n".join(one.lines), errors)

    return work


@pytest.fixture
async def servers(urls: Urls) -> AsyncIterator[dict[str, str]]:
    """The environment of an installation with servers of its own: an empty database, prefixes that nobody else uses."""
    database = await create_database(urls.postgres)
    prefix = unique_prefix("redis") + ":"
    yield {
        "DATABASE_URL": database,
        "REDIS_URL": urls.redis,
        "PAYFLOW_REDIS_PREFIX": prefix,
        "PAYFLOW_QUEUE_PREFIX": unique_prefix("queue"),
    }
    await delete_keys(urls.redis, prefix)
    await drop_database(urls.postgres, database)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
