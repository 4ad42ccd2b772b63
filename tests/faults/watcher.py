"""A client as ours should be: it watches a channel, connects again whenever the socket ends, and asks for what it missed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.house import Merchant, eventually

# Before every event of a user: the oldest UUIDv7.
FIRST_EVENT = "00000000-0000-7000-8000-000000000000"
PAUSE_SECONDS = 0.05


class Watcher:
    """`frames` are the events of transactions as they came, repeats included; each connection begins with a snapshot."""

    def __init__(self, nodes: Sequence[str], path: str, token: str, after: str) -> None:
        self.frames: list[dict[str, Any]] = []
        self.snapshots: list[dict[str, Any]] = []
        self._nodes = nodes
        self._path = path
        self._headers = {"Authorization": f"Bearer {token}"}
        self._after = after

    @property
    def connections(self) -> int:
        return len(self.snapshots)

    @property
    def sequences(self) -> list[int]:
        return [frame["sequence"] for frame in self.frames]

    @property
    def types(self) -> list[str]:
        return [frame["type"] for frame in self.frames]

    def histories(self) -> dict[str, list[int]]:
        """The sequences seen of each transaction, each once."""
        seen: dict[str, set[int]] = {}
        for frame in self.frames:
            seen.setdefault(frame["transaction_id"], set()).add(frame["sequence"])
        return {transaction_id: sorted(sequences) for transaction_id, sequences in seen.items()}

    async def watch(self) -> None:
        """Until cancelled; each connection goes to the next node."""
        turn = 0
        while True:
            node = self._nodes[turn % len(self._nodes)].replace("http", "ws", 1)
            turn += 1
            try:
                url = f"{node}{self._path}?after={self._after}"
                async with connect(url, additional_headers=self._headers, proxy=None, open_timeout=10) as socket:
                    async for text in socket:
                        self._take(orjson.loads(text))
            except (OSError, TimeoutError, WebSocketException):
                pass
            await asyncio.sleep(PAUSE_SECONDS)

    def _take(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "snapshot":
            self.snapshots.append(frame)
        elif frame.get("event_id"):
            if frame["transaction_id"] is not None:
                self.frames.append(frame)
            self._after = frame["event_id"] if "/user/" in self._path else str(frame["sequence"])

    async def until(self, event_type: str, *, seconds: float = 40) -> None:
        await eventually(
            lambda: event_type in self.types, seconds=seconds, what=lambda: f"{event_type}, it saw {self.types}"
        )


@asynccontextmanager
async def watching(watcher: Watcher) -> AsyncIterator[Watcher]:
    """Returns once the first socket stands."""
    task = asyncio.create_task(watcher.watch())
    try:
        await eventually(lambda: watcher.connections > 0, what="the first socket")
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def watch_payment(merchant: Merchant, payment_id: str, *nodes: str) -> Watcher:
    """From its first event on."""
    return Watcher(nodes, f"/ws/transaction/{payment_id}", merchant.tokens["access_token"], "0")


def watch_merchant(merchant: Merchant, *nodes: str) -> Watcher:
    return Watcher(nodes, f"/ws/user/{merchant.id}", merchant.tokens["access_token"], FIRST_EVENT)
