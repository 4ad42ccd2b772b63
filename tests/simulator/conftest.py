"""A simulator in this process, and a receiver for its webhooks that answers what a test tells it to."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest
import uvicorn

from payflow.simulator import SimulatorSettings, create_simulator
from payflow.simulator.webhooks import Tasks

DELAY_SECONDS = 0.01


class Receiver:
    """Stands for the service: keeps every webhook and answers 200, or what `answers` says first."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.answers: list[int] = []
        self.words = b""
        self.delay_seconds = 0.0
        self.arrived = asyncio.Event()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        self.requests.append(request)
        self.arrived.set()
        return httpx.Response(self.answers.pop(0) if self.answers else 200, content=self.words)

    @property
    def bodies(self) -> list[Any]:
        return [orjson.loads(request.content) for request in self.requests]

    @property
    def events(self) -> list[str]:
        """The event names; of Daraja, which has none, the result codes."""
        return [
            body.get("event") or body.get("type") or str(body["Body"]["stkCallback"]["ResultCode"])
            for body in self.bodies
        ]

    async def wait(self, count: int = 1) -> None:
        async with asyncio.timeout(30):
            while len(self.requests) < count:
                self.arrived.clear()
                await self.arrived.wait()


class Client(httpx.AsyncClient):
    """Speaks to one simulator; `control` is its `/_control`."""

    receiver: Receiver

    async def control(self, method: str, path: str, **body: Any) -> Any:
        response = await self.request(method, f"/_control{path}", json=body or None)
        assert response.status_code < 400, response.text
        return response.json()

    async def outcome(self, provider: str, outcome: str, **more: Any) -> None:
        await self.control("POST", "/outcomes", provider=provider, outcome=outcome, **more)

    async def settled(self) -> None:
        """Until nobody acts by itself any more: no customer, no webhook under way or to be sent again."""
        running = self.tasks.running
        async with asyncio.timeout(30):
            while running:
                await asyncio.wait(running)

    @property
    def tasks(self) -> Tasks:
        app: Any = self._transport.app  # type: ignore[attr-defined]
        tasks: Tasks = app.state.simulation.tasks
        return tasks


Start = Callable[..., Awaitable[Client]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def start_one(*, clock: Callable[[], float] = time.time, **settings: Any) -> Client:
            receiver = Receiver()
            defaults = {"customer_delay_seconds": DELAY_SECONDS, "webhook_backoff_seconds": DELAY_SECONDS}
            app = create_simulator(
                SimulatorSettings(**(defaults | settings)), clock=clock, transport=httpx.MockTransport(receiver)
            )
            await stack.enter_async_context(app.router.lifespan_context(app))
            client = Client(transport=httpx.ASGITransport(app), base_url="http://simulator")
            client.receiver = receiver
            return await stack.enter_async_context(client)

        yield start_one


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[SimulatorSettings]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        chosen = SimulatorSettings(port=listener.getsockname()[1], **settings)
        config = uvicorn.Config(create_simulator(chosen), log_level="critical", timeout_graceful_shutdown=1)
        server = Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await server.ready.wait()
        try:
            yield chosen
        finally:
            server.should_exit = True
            await task


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[SimulatorSettings]]]:
    """Simulators on real sockets, for what cannot be seen without one."""
    async with AsyncExitStack() as stack:

        async def serve_one(**settings: Any) -> SimulatorSettings:
            return await stack.enter_async_context(serving(**settings))

        yield serve_one


@pytest.fixture
async def client(start: Start) -> Client:
    return await start()


@pytest.fixture
async def by_hand(start: Start) -> Client:
    """Without the automatic customer: a charge moves only when the test says so."""
    return await start(automatic_customer=False)
