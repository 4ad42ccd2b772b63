"""What is measured, and how often. Each scenario gives samples; a round runs every scenario once."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import httpx
import orjson
import redis.asyncio

from bench import load
from bench.ledger import measure
from bench.load import HOST
from bench.meter import Used, calibrate, percentile, resident_megabytes, used
from bench.stack import Stack
from payflow.events.publisher import user_channel
from payflow.infra.migrations import upgrade
from tests.services import create_database, drop_database

T = TypeVar("T")

PERCENTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Initiation:
    """One way to initiate. `credential` is jwt or key."""

    credential: str
    concurrency: int
    latency_ms: int

    @property
    def row(self) -> str:
        return f"initiate, {self.credential}, {self.concurrency} at once, provider {self.latency_ms} ms"


@dataclass(frozen=True)
class Plan:
    """How much of each. Every number is a bound."""

    rounds: int = 3
    seconds: float = 2.5
    most: int = 4_000
    begin_nothing_after_seconds: float = 410.0
    initiations: tuple[Initiation, ...] = (
        Initiation("jwt", 1, 0),
        Initiation("key", 1, 0),
        Initiation("jwt", 32, 0),
        Initiation("key", 32, 0),
        Initiation("jwt", 100, 0),
        Initiation("jwt", 100, 50),
        Initiation("jwt", 100, 100),
        Initiation("key", 100, 100),
    )
    drained: tuple[tuple[int, int], ...] = ((1, 1_500), (50, 4_000))
    rates: tuple[tuple[float, int], ...] = ((20, 120), (100, 500), (300, 1_500))
    fan_outs: tuple[tuple[int, int], ...] = ((1_000, 200), (5_000, 60))


QUICK = Plan(
    rounds=1,
    seconds=1.0,
    begin_nothing_after_seconds=45.0,
    initiations=(
        Initiation("jwt", 32, 0),
        Initiation("key", 32, 0),
        Initiation("jwt", 100, 0),
        Initiation("jwt", 100, 100),
    ),
    drained=((1, 200), (50, 500)),
    rates=((100, 100), (300, 300)),
    fan_outs=((1_000, 100),),
)


@dataclass
class Sample:
    """One measurement. `cpu_us` is processor time per operation by group; `elsewhere` and `steal` are shares of a core."""

    row: str
    operations: int
    seconds: float
    cpu_us: dict[str, float]
    latency_ms: list[float] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    calibration_ms: float = 0.0
    elsewhere: float = 0.0
    steal: float = 0.0


def sample(row: str, operations: int, window: Used, latencies: Sequence[float], calibration_ms: float) -> Sample:
    return Sample(
        row=row,
        operations=operations,
        seconds=window.seconds,
        cpu_us={name: seconds / max(1, operations) * 1e6 for name, seconds in window.cpu.items()},
        latency_ms=[percentile(latencies, share) for share in PERCENTILES] if latencies else [],
        calibration_ms=calibration_ms,
        elsewhere=window.elsewhere / window.seconds,
        steal=window.steal / window.seconds,
    )


def rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"


class Bench:
    """The scenarios over one running stack. `say` prints a line of progress."""

    def __init__(self, stack: Stack, plan: Plan, pool: ProcessPoolExecutor, say: Callable[[str], None]) -> None:
        self._stack = stack
        self._plan = plan
        self._pool = pool
        self._say = say
        self.samples: list[Sample] = []

    @property
    def scenarios(self) -> dict[str, Callable[[int], Awaitable[None]]]:
        """By the names that `--only` takes, in their order."""
        return {
            "memory": self.memory,
            "initiate": self.initiate,
            "replay": self.replay,
            "worker": self.ingest_and_drain,
            "e2e": self.end_to_end,
            "fanout": self.fan_out,
            "ledger": self.ledger,
        }

    # -- API at rest ------------------------------------------------------------------------------------------------------

    async def memory(self, _: int) -> None:
        """A fresh API process that has answered a few requests."""
        async with self._fresh_api() as (port, pid, _):
            async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", trust_env=False) as client:
                for path in ("/openapi.json", "/api/v1/payments", "/metrics"):
                    await client.get(path, headers={"authorization": f"Bearer {self._stack.merchant.access_token}"})
            await asyncio.sleep(1.0)
            megabytes = resident_megabytes(pid)
        self._keep(Sample("memory of an API process at rest", 1, 0.0, {}, figures={"MB": megabytes}))

    # -- initiation -------------------------------------------------------------------------------------------------------

    async def initiate(self, round_number: int) -> None:
        turn = round_number % len(self._plan.initiations)
        for variant in (*self._plan.initiations[turn:], *self._plan.initiations[:turn]):
            await self._initiate(variant)
        await self._stack.set_latency(0)

    async def _initiate(self, variant: Initiation) -> None:
        await self._stack.set_latency(variant.latency_ms)
        merchant = self._stack.merchant
        result = await self._http(
            variant.row,
            requests="initiations",
            concurrency=variant.concurrency,
            header=merchant.by_jwt if variant.credential == "jwt" else merchant.by_api_key,
        )
        self._stack.payments.extend(result.payments)

    async def _more_payments(self, count: int) -> None:
        """Enough initialized payments for what follows, made unmeasured."""
        while len(self._stack.payments) < count:
            job = self._job("initiations", 32, seconds=20.0, most=count - len(self._stack.payments) + 32)
            self._stack.payments.extend((await self._run(partial(load.http, job))).payments)

    async def replay(self, _: int) -> None:
        """One key again and again: answered from Redis, without the provider."""
        await self._http("idempotent replay, jwt, 32 at once", requests="replays", concurrency=32)

    # -- webhooks in, and the worker --------------------------------------------------------------------------------------

    async def ingest_and_drain(self, _: int) -> None:
        """The worker stands still while its queue is filled through the API; then it is timed until the queue is empty."""
        for batch, events in self._plan.drained:
            await self._more_payments(events)
            payments = self._stack.take_payments(events)
            references = tuple(payment.attempt_reference for payment in payments)
            await self._stack.start_worker(batch)
            assert self._stack.worker is not None
            self._stack.worker.signal(signal.SIGSTOP)
            try:
                await self._floor(references)
                result = await self._http(
                    "webhook ingest, 32 at once",
                    requests="webhooks",
                    concurrency=32,
                    seconds=30.0,
                    most=len(references),
                    references=references,
                )
            except BaseException:
                self._stack.worker.signal(signal.SIGCONT)
                raise
            await self._drain(batch, result.sent)
            await asyncio.to_thread(self._stack.stop_worker)

    async def _floor(self, references: tuple[str, ...]) -> None:
        await self._http(
            "webhook ingest, floor",
            requests="webhooks",
            concurrency=32,
            seconds=30.0,
            most=min(2_000, len(references)),
            references=references[:2_000],
            floor=True,
        )

    async def _drain(self, batch: int, events: int) -> None:
        stack = self._stack
        assert stack.worker is not None
        async with self._completions() as completions:
            calibration = calibrate()
            meter = stack.meter()
            before = meter.read()
            stack.worker.signal(signal.SIGCONT)
            done = 0
            try:
                async with asyncio.timeout(60):
                    async for _ in completions:
                        done += 1
                        if done == events:
                            break
            except TimeoutError:
                raise RuntimeError(f"the worker settled {done} of {events}:\n{stack.worker.tail()}") from None
            after = meter.read()
        row = "worker, one event at a time" if batch == 1 else f"worker, batches of up to {batch}"
        self._keep(sample(row, events, used(before, after), [], (calibration + calibrate()) / 2))

    @asynccontextmanager
    async def _completions(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """Each published `payment.completed` of the merchant: the last that a worker does before it acknowledges."""
        client = redis.asyncio.Redis.from_url(self._stack.redis_url, protocol=2)
        subscription = client.pubsub(ignore_subscribe_messages=True)
        await subscription.subscribe(user_channel(self._stack.redis_prefix, self._stack.merchant.id))  # type: ignore[arg-type]

        async def completed() -> AsyncIterator[bytes]:
            async for message in subscription.listen():
                if orjson.loads(message["data"])["type"] == "payment.completed":
                    yield message["data"]

        try:
            # The subscription's own confirmation.
            await subscription.get_message(timeout=2)
            yield completed()
        finally:
            await subscription.aclose()
            await client.aclose()

    # -- sockets ----------------------------------------------------------------------------------------------------------

    async def end_to_end(self, _: int) -> None:
        """Webhook posted → frame at the socket, with the worker as it is shipped."""
        for rate, count in self._plan.rates:
            warm_up = count // 5
            await self._more_payments(warm_up + count)
            await self._stack.start_worker(50)
            job = load.EndToEndJob(
                self._stack.api_port,
                self._stack.meter(),
                self._stack.merchant.access_token,
                tuple(self._stack.take_payments(warm_up + count)),
                rate,
                warm_up,
            )
            result = await self._run(partial(load.end_to_end, job))
            row = f"webhook → socket, {rate:.0f} a second"
            found = sample(row, len(result.frame_ms), result.used, result.frame_ms, result.calibration_ms)
            found.figures = {
                "missing": result.missing,
                "longest ms": max(result.frame_ms, default=0.0),
                "answer p99 ms": percentile(result.answer_ms, 0.99),
            }
            self._keep(found)
        await asyncio.to_thread(self._stack.stop_worker)

    async def fan_out(self, _: int) -> None:
        """Each number of sockets on a fresh process, whose memory nothing else has used before."""
        stack = self._stack
        for sockets, messages in self._plan.fan_outs:
            await self._more_payments(1)
            async with self._fresh_api() as (port, pid, meter):
                job = load.FanOutJob(
                    port,
                    pid,
                    meter,
                    stack.merchant.access_token,
                    stack.merchant.id,
                    stack.take_payments(1)[0],
                    stack.redis_url,
                    stack.redis_prefix,
                    sockets,
                    messages,
                )
                result = await self._run(partial(load.fan_out, job))
            found = sample(f"fan-out to {sockets} sockets", result.delivered, result.used, [], result.calibration_ms)
            found.figures = {
                "KB a socket": result.kilobytes_per_socket,
                "connect µs": result.connect_cpu_us,
                "messages a processor second": result.delivered / result.used.cpu["api"],
            }
            self._keep(found)

    # -- the ledger -------------------------------------------------------------------------------------------------------

    async def ledger(self, round_number: int) -> None:
        """Once: a million entries take a minute to write."""
        if round_number:
            return
        url = await create_database(self._stack.database_url)
        try:
            await upgrade(url)
            async for timing in measure(url, self._plan.seconds, self._stack.meter()):
                latency = timing.latency_ms
                self._keep(sample(timing.row, len(latency), timing.used, latency, calibrate()))
        finally:
            await drop_database(self._stack.database_url, url)

    # -- what they share --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _fresh_api(self) -> AsyncIterator[tuple[int, int, load.Meter]]:
        node, port = await self._stack.start_api("api-fresh")
        try:
            yield port, node.pid, self._stack.meter(node)
        finally:
            await asyncio.to_thread(node.stop)

    def _job(
        self,
        requests: str,
        concurrency: int,
        *,
        seconds: float,
        most: int,
        header: str | None = None,
        references: tuple[str, ...] = (),
        floor: bool = False,
    ) -> load.HttpJob:
        stack = self._stack
        return load.HttpJob(
            port=stack.floor_port if floor else stack.api_port,
            meter=stack.floor_meter() if floor else stack.meter(),
            requests=requests,
            concurrency=concurrency,
            seconds=seconds,
            most=most,
            expected=200 if requests == "webhooks" else 201,
            header=stack.merchant.by_jwt if header is None else header,
            references=references,
        )

    async def _http(
        self,
        row: str,
        *,
        requests: str,
        concurrency: int,
        seconds: float | None = None,
        most: int | None = None,
        header: str | None = None,
        references: tuple[str, ...] = (),
        floor: bool = False,
    ) -> load.HttpResult:
        job = self._job(
            requests,
            concurrency,
            seconds=seconds or self._plan.seconds,
            most=most or self._plan.most,
            header=header,
            references=references,
            floor=floor,
        )
        result = await self._run(partial(load.http, job))
        self._keep(sample(row, result.operations, result.used, result.latencies_ms, result.calibration_ms))
        return result

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _keep(self, found: Sample) -> None:
        self.samples.append(found)
        words = [f"{rate(found.operations / found.seconds)}/s"] if found.seconds else []
        words += [f"{name} {value:,.0f} µs" for name, value in found.cpu_us.items() if value >= 0.5]
        words += [f"p99 {found.latency_ms[2]:.1f} ms"] if found.latency_ms else []
        words += [f"{name} {value:,.1f}" for name, value in found.figures.items()]
        self._say(f"{time.strftime('%H:%M:%S')}  {found.row:<48} {', '.join(words)}")
