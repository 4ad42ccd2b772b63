"""Passwords: argon2id through passlib, in a few threads of its own.

A hash takes tens of milliseconds and 19 MiB, so the number of threads bounds both what logins can take from requests
and what a flood of them can take from memory.
"""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from passlib.context import CryptContext

from payflow.core.errors import Unavailable

T = TypeVar("T")

# OWASP's minimum for argon2id, as (KiB of memory, passes, lanes).
ARGON2_COST = (19_456, 2, 1)
_WAITING_PER_THREAD = 32


class Passwords:
    def __init__(self, *, threads: int, cost: tuple[int, int, int] = ARGON2_COST) -> None:
        memory, passes, lanes = cost
        self._context = CryptContext(
            ["argon2"], argon2__memory_cost=memory, argon2__time_cost=passes, argon2__parallelism=lanes
        )
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="argon2")
        self._waiting = 0
        self._most_waiting = threads * _WAITING_PER_THREAD
        self._nobodys_hash: str | None = None

    async def hash(self, password: str) -> str:
        return await self._in_thread(lambda: self._context.hash(password))

    async def verify(self, password: str, stored: str | None) -> tuple[bool, str | None]:
        """Whether it matches, and a new hash when `stored` was made with other costs than today's.

        `stored` is None for an unknown user: the same work is then done against a hash nobody knows the password of,
        so that the time tells nothing.
        """

        def work() -> tuple[bool, str | None]:
            if self._nobodys_hash is None:
                self._nobodys_hash = self._context.hash(secrets.token_hex(16))
            if stored is None:
                self._context.verify(password, self._nobodys_hash)
                return False, None
            matches = self._context.verify(password, stored)
            renewed = self._context.hash(password) if matches and self._context.needs_update(stored) else None
            return matches, renewed

        return await self._in_thread(work)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._waiting >= self._most_waiting:
            raise Unavailable("Too many logins at once.", retry_after=2)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
