"""Servers of a test's own, from the binaries installed on this machine, to be stopped, killed and started again.

    with PrivateRabbitMQ() as broker:
        broker.kill()        # SIGKILL, as a power cut would
        broker.start()       # the same port, the data kept

Everything of an instance lives in one temporary folder and on loopback ports of its own, so a system server on the
standard port does not notice. The methods block for some seconds: in a coroutine call `await asyncio.to_thread(
broker.restart)`, or use `async with`. Only processes started here are ever signalled, each by its id.
"""

import asyncio
import glob
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.services.probes import Probe, ProbeFailed, probe_postgres, probe_rabbitmq, probe_redis, run_apart

STOP_SECONDS = 20.0
# Below Linux's range of ephemeral ports (32768 on): while a server is down no outgoing connection can sit on its port,
# nor can a client that keeps dialling a dead port be connected to itself.
PORTS = range(20_000, 32_000)

_ports_given: set[int] = set()


class ServerUnavailable(Exception):
    """The server's binaries are not installed, or it did not come up."""


class PrivateServer(ABC):
    """One server process and its folder, from `start` to `close`."""

    ready_seconds = 30.0
    stop_signal = signal.SIGTERM
    preferred_user = "nobody"
    probe: Probe

    def __init__(self) -> None:
        self._user = _user_to_run_as(self.preferred_user)
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @classmethod
    @abstractmethod
    def installed(cls) -> str | None:
        """Path of the server's program, or None."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect; the same before and after a restart."""

    @abstractmethod
    def _prepare(self, folder: Path) -> None:
        """Fill a new folder; runs once, before the first start."""

    @abstractmethod
    def _launch(self, folder: Path) -> subprocess.Popen[bytes]:
        """Start the server in the foreground."""

    @property
    def folder(self) -> Path:
        """The instance's folder, made at the first start and removed by `close`."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="payflow-test-", dir=_reachable_temporary_folder()))
            self._give_away(self._folder)
        return self._folder

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start and wait until a client is let in.

        Raises ServerUnavailable with the end of the server's own log otherwise.
        """
        if self.is_running:
            return self
        if self.installed() is None:
            raise ServerUnavailable(f"{type(self).__name__}: the server is not installed")
        first = self._folder is None
        folder = self.folder
        if first:
            self._prepare(folder)
        self._process = self._launch(folder)
        self._guard = _guard(self._process.pid, self.stop_signal, folder)
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End the server as its own service manager would."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """SIGKILL the server and all its children at once, without a chance to write anything more."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def close(self) -> None:
        """Stop and forget the data."""
        self.kill()
        if self._folder is not None:
            # A last child of a killed server may still be unlinking its own files.
            for _ in range(20):
                shutil.rmtree(self._folder, ignore_errors=True)
                if not self._folder.exists():
                    break
                time.sleep(0.1)
            self._folder = None

    def log(self, lines: int = 15) -> str:
        """The end of what the server wrote, for error messages."""
        with suppress(OSError):
            return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-lines:])
        return ""

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def _spawn(
        self, command: Sequence[str], *, environment: dict[str, str] | None = None, log: str = "log"
    ) -> subprocess.Popen[bytes]:
        """Start a program as the unprivileged user, in a session of its own so that Ctrl-C does not reach it."""
        with open(self.folder / log, "ab") as output:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self._user.pw_uid if self._user else None,
                group=self._user.pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
            )

    def _give_away(self, *paths: Path) -> None:
        if self._user is not None:
            for path in paths:
                os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.ready_seconds
        reason = "it never listened"
        while time.monotonic() < deadline:
            if not self.is_running:
                reason = f"it ended with {self._process.returncode if self._process else None}"
                break
            if _listens(self.port):
                try:
                    run_apart(lambda: type(self).probe(self.url))
                    return
                except ProbeFailed as error:
                    reason = str(error)
            time.sleep(0.05)
        raise ServerUnavailable(f"{type(self).__name__} is not ready: {reason}\n{self.log()}")

    def _end(self, how: signal.Signals) -> None:
        if self._guard is not None:
            _dismiss(self._guard)
            self._guard = None
        if self._process is None:
            return
        family = _family(self._process.pid)
        if self._process.poll() is None:
            if how == signal.SIGKILL:
                _kill_all(family)
            else:
                self._process.send_signal(how)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _kill_all(family)
            self._process.wait(STOP_SECONDS)
        deadline = time.monotonic() + 5
        while any(map(is_alive, family)) and time.monotonic() < deadline:
            time.sleep(0.02)
        _kill_all(family)
        self._process = None


class PrivatePostgres(PrivateServer):
    """PostgreSQL with trust for everyone on loopback; the superuser is `postgres`."""

    stop_signal = signal.SIGINT  # "fast": ends sessions instead of waiting for them
    preferred_user = "postgres"
    probe = staticmethod(probe_postgres)

    @classmethod
    def installed(cls) -> str | None:
        found = [path for path in glob.glob("/usr/lib/postgresql/*/bin/postgres") if os.access(path, os.X_OK)]
        newest_first = sorted(found, key=lambda path: int("0" + Path(path).parts[4].split(".")[0]), reverse=True)
        elsewhere = glob.glob("/usr/pgsql-*/bin/postgres") + glob.glob("/opt/homebrew/opt/postgresql*/bin/postgres")
        return next(iter([*newest_first, *sorted(elsewhere, reverse=True)]), None) or shutil.which("postgres")

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/postgres"

    def _prepare(self, folder: Path) -> None:
        initdb = Path(self.installed() or "").parent / "initdb"
        command = [str(initdb), "-D", str(folder / "data"), "-A", "trust", "-U", "postgres", "-E", "UTF8"]
        process = self._spawn([*command, "--locale=C", "--no-sync"])
        if process.wait(60) != 0:
            raise ServerUnavailable(f"initdb failed\n{self.log()}")

    def _launch(self, folder: Path) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(folder),
            "max_connections": "200",
            # A killed process loses nothing that reached the kernel; only a dead machine would, and no test has one.
            "fsync": "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return self._spawn([self.installed() or "", "-D", str(folder / "data"), *options])


class PrivateRedis(PrivateServer):
    """Redis that keeps nothing: after a restart it is empty, which is what the service must bear."""

    preferred_user = "redis"
    probe = staticmethod(probe_redis)

    @classmethod
    def installed(cls) -> str | None:
        return shutil.which("redis-server") or shutil.which("valkey-server")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _prepare(self, folder: Path) -> None:
        pass

    def _launch(self, folder: Path) -> subprocess.Popen[bytes]:
        words = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        return self._spawn([self.installed() or "", *words, "--dir", str(folder), "--daemonize", "no"])


class PrivateRabbitMQ(PrivateServer):
    """RabbitMQ with its own node name, cookie, port mapper (epmd) and distribution port."""

    ready_seconds = 60.0
    preferred_user = "rabbitmq"
    probe = staticmethod(probe_rabbitmq)

    def __init__(self) -> None:
        super().__init__()
        self._epmd_port = free_port()
        self._distribution_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._epmd_guard: subprocess.Popen[bytes] | None = None

    @classmethod
    def installed(cls) -> str | None:
        # Debian's /usr/sbin/rabbitmq-server is a wrapper that insists on root or `rabbitmq` and on /var/lib/rabbitmq;
        # the script behind it obeys the environment.
        scripts = [
            "/usr/lib/rabbitmq/bin/rabbitmq-server",
            *sorted(glob.glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"), reverse=True),
            *sorted(glob.glob("/opt/rabbitmq*/sbin/rabbitmq-server"), reverse=True),
            "/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",
        ]
        if shutil.which("epmd") is None:
            return None
        return next((path for path in scripts if os.access(path, os.X_OK)), None)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def _prepare(self, folder: Path) -> None:
        (folder / "rabbitmq.conf").write_text("disk_free_limit.absolute = 50MB\n")
        (folder / "advanced.config").write_text("[].\n")
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "environment.conf").write_text("")
        for path in list(folder.iterdir()):
            path.chmod(0o644)
            self._give_away(path)

    def _environment(self, folder: Path) -> dict[str, str]:
        """The whole environment: nothing of a system broker's may leak in, so it is not built on os.environ."""
        return {
            "PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"),
            "LANG": "C.UTF-8",
            "HOME": str(folder),  # where Erlang keeps its cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": f"payflow-test-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "environment.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false +sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        }

    def _launch(self, folder: Path) -> subprocess.Popen[bytes]:
        environment = self._environment(folder)
        # Left to itself Erlang starts epmd as a daemon that outlives the node and that nobody owns.
        epmd = [shutil.which("epmd") or "epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]
        self._epmd = self._spawn(epmd, environment=environment, log="epmd.log")
        self._epmd_guard = _guard(self._epmd.pid, signal.SIGTERM)
        _wait_for_port(self._epmd_port, 5)
        return self._spawn([self.installed() or ""], environment=environment)

    def _end(self, how: signal.Signals) -> None:
        super()._end(how)
        if self._epmd_guard is not None:
            _dismiss(self._epmd_guard)
            self._epmd_guard = None
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(STOP_SECONDS)
            self._epmd = None


def free_port() -> int:
    """A loopback port nobody listens on, and that this process has not handed out before."""
    for port in random.sample(PORTS, len(PORTS)):
        if port in _ports_given:
            continue
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
        _ports_given.add(port)
        return port
    raise ServerUnavailable("no free port")


def _listens(port: int) -> bool:
    with socket.socket() as attempt:
        attempt.settimeout(1)
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def _wait_for_port(port: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not _listens(port):
        if time.monotonic() > deadline:
            raise ServerUnavailable(f"nothing listens on {port}")
        time.sleep(0.02)


def _user_to_run_as(preferred: str) -> pwd.struct_passwd | None:
    """PostgreSQL refuses root and the others need not have it; None means "as we are"."""
    if os.geteuid() != 0:
        return None
    for name in (preferred, "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerUnavailable("run by root, and there is no unprivileged user to hand the server to")


def _reachable_temporary_folder() -> str:
    """The temporary folder, unless root's own lies where the unprivileged user cannot go."""
    chosen = Path(tempfile.gettempdir()).resolve()
    if os.geteuid() == 0:
        for folder in (chosen, *chosen.parents):
            if not folder.stat().st_mode & stat.S_IXOTH:
                return "/tmp"
    return str(chosen)


def _guard(pid: int, how: signal.Signals, folder: Path | None = None) -> subprocess.Popen[bytes]:
    """A shell that waits for our end of a pipe to close, which happens however we die, and then ends the server."""
    script = f"read -r _ || kill -{how.value} {pid}"
    if folder is not None:
        script = f'{script} && while kill -0 {pid}; do sleep 0.1; done; rm -rf "$0"'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _dismiss(guard: subprocess.Popen[bytes]) -> None:
    """End a guard without letting it act."""
    guard.kill()
    guard.wait(STOP_SECONDS)
    if guard.stdin is not None:
        guard.stdin.close()


def _family(pid: int) -> list[psutil.Process]:
    """The process and its descendants; servers put children into sessions of their own, so a group would miss them."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs. A dead orphan stays a zombie until the init process looks, which may take seconds."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(process: psutil.Process, seconds: float = STOP_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while is_alive(process):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{process} is still there")
        time.sleep(0.02)


def _kill_all(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
