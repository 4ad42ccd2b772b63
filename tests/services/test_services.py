"""The private servers keep what they promise to the fault tests, and leave nothing behind."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import asyncpg
import psutil
import pytest
import redis.asyncio

from tests.services.finder import AMQP, POSTGRES, REDIS, SERVICES, Service, ServiceFinder, ServiceMissing
from tests.services.isolation import create_database, delete_keys, drop_database, unique_prefix
from tests.services.private import (
    PrivatePostgres,
    PrivateRabbitMQ,
    PrivateRedis,
    PrivateServer,
    is_alive,
    wait_until_gone,
)
from tests.services.probes import asyncpg_dsn

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=[PrivatePostgres, PrivateRedis, PrivateRabbitMQ], scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    if request.param.installed() is None:
        pytest.skip(f"{request.param.__name__}: not installed")
    with request.param() as started:
        yield started


@pytest.fixture(scope="module")
def finder() -> Iterator[ServiceFinder]:
    with ServiceFinder() as finder:
        yield finder


async def remember(server: PrivateServer, word: str) -> None:
    """Store a word as durably as the server can."""
    if isinstance(server, PrivatePostgres):
        connection = await asyncpg.connect(asyncpg_dsn(server.url))
        await connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
        await connection.execute("INSERT INTO words VALUES ($1)", word)
        await connection.close()
    elif isinstance(server, PrivateRedis):
        client = redis.asyncio.Redis.from_url(server.url, protocol=2)
        await client.rpush("words", word)
        await client.aclose()
    else:
        async with await aio_pika.connect(server.url) as link:
            channel = await link.channel(publisher_confirms=True)
            queue = await channel.declare_queue("words", durable=True, arguments={"x-queue-type": "quorum"})
            message = aio_pika.Message(word.encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, routing_key=queue.name)


async def recall(server: PrivateServer) -> list[str]:
    """The words stored, in order."""
    if isinstance(server, PrivatePostgres):
        connection = await asyncpg.connect(asyncpg_dsn(server.url))
        rows = await connection.fetch("SELECT word FROM words")
        await connection.close()
        return [row["word"] for row in rows]
    if isinstance(server, PrivateRedis):
        client = redis.asyncio.Redis.from_url(server.url, protocol=2)
        words = await client.lrange("words", 0, -1)
        await client.aclose()
        return [word.decode() for word in words]
    async with await aio_pika.connect(server.url) as link:
        channel = await link.channel()
        queue = await channel.declare_queue("words", durable=True, arguments={"x-queue-type": "quorum"})
        words = []
        while (message := await queue.get(fail=False, timeout=10)) is not None:
            words.append(message.body.decode())
            await message.nack(requeue=False)
        return words


def family(server: PrivateServer) -> list[psutil.Process]:
    assert server.pid is not None
    parent = psutil.Process(server.pid)
    return [parent, *parent.children(recursive=True)]


async def test_data_survives_a_stop_and_a_kill_on_the_same_port(server: PrivateServer) -> None:
    url = server.url
    kept = not isinstance(server, PrivateRedis)
    await remember(server, "before the stop")
    await asyncio.to_thread(server.restart)
    assert server.url == url
    if not kept:
        client = redis.asyncio.Redis.from_url(server.url, protocol=2)
        assert await client.dbsize() == 0
        await client.aclose()
    await remember(server, "before the kill")
    processes = family(server)
    await asyncio.to_thread(server.kill)
    assert not server.is_running
    assert not any(map(is_alive, processes))
    await asyncio.to_thread(server.start)
    assert server.url == url
    if kept:
        assert await recall(server) == ["before the stop", "before the kill"]


@pytest.mark.parametrize("kind", [PrivatePostgres, PrivateRedis])
def test_close_leaves_no_process_and_no_folder(kind: type[PrivateServer]) -> None:
    if kind.installed() is None:
        pytest.skip("not installed")
    server = kind().start()
    processes, folder = family(server), server.folder
    server.close()
    assert not any(map(is_alive, processes))
    assert not folder.exists()


def test_a_private_server_ends_when_its_owner_is_killed() -> None:
    if PrivateRedis.installed() is None:
        pytest.skip("not installed")
    code = "from tests.services import PrivateRedis; import time; s = PrivateRedis().start(); "
    owner = subprocess.Popen(
        [sys.executable, "-c", code + "print(s.pid, flush=True); time.sleep(60)"], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert owner.stdout is not None
    with owner.stdout:
        server = psutil.Process(int(owner.stdout.readline()))
        owner.kill()
        owner.wait()
    wait_until_gone(server)


async def test_a_run_gets_a_database_of_its_own(finder: ServiceFinder) -> None:
    admin = find(finder, POSTGRES)
    first, second = await create_database(admin), await create_database(admin)
    assert first != second
    connection = await asyncpg.connect(asyncpg_dsn(first))
    await connection.execute("CREATE TABLE words (word text)")
    await connection.close()
    connection = await asyncpg.connect(asyncpg_dsn(second))
    assert await connection.fetchval("SELECT to_regclass('words')") is None
    await drop_database(admin, first)
    await drop_database(admin, second)  # although somebody is still connected
    await connection.close()
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(asyncpg_dsn(first))


async def test_only_the_keys_of_a_run_are_deleted(finder: ServiceFinder) -> None:
    url = find(finder, REDIS)
    ours, others = unique_prefix(), unique_prefix()
    client = redis.asyncio.Redis.from_url(url, protocol=2)
    await client.mset({f"{ours}:a": 1, f"{ours}:b": 2, f"{others}:a": 3})
    assert await delete_keys(url, ours) == 2
    assert await client.get(f"{others}:a") == b"3"
    assert await delete_keys(url, others) == 1
    await client.aclose()


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_wrong_url_in_the_environment_is_an_error_not_a_hint(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(service.variable, service.standard_url.replace("127.0.0.1:", "127.0.0.1:1"))
    with ServiceFinder() as finder, pytest.raises(ServiceMissing, match=service.variable):
        finder.find(service)


def test_without_a_standard_server_a_private_one_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    if PrivateRedis.installed() is None:
        pytest.skip("not installed")
    monkeypatch.delenv(REDIS.variable, raising=False)
    with ServiceFinder(standard_ports=False, containers=False) as finder:
        found = finder.find(REDIS)
        assert found.how.startswith("started, process")
        assert finder.find(REDIS) is found
        process = psutil.Process(int(found.how.split()[-1]))
    assert not is_alive(process)


def test_ensure_hands_the_urls_to_the_command_and_returns_its_exit_code(finder: ServiceFinder, tmp_path: Path) -> None:
    urls = {service.variable: find(finder, service) for service in (POSTGRES, REDIS, AMQP)}
    script = "import os, sys; print(*(os.environ[name] for name in sys.argv[1:])); sys.exit(7)"
    words = [sys.executable, "-m", "tests.services.ensure", "--env", str(tmp_path / "urls"), "--"]
    done = subprocess.run(
        [*words, sys.executable, "-c", script, *urls],
        env={**os.environ, **urls},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (7, list(urls.values()))
    assert [line.split("=")[0] for line in (tmp_path / "urls").read_text().splitlines()] == [
        f"export {name}" for name in urls
    ]


def find(finder: ServiceFinder, service: Service) -> str:
    try:
        return finder.find(service).url
    except ServiceMissing as missing:
        pytest.skip(str(missing))
