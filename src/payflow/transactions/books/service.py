"""Checking the books: on demand, and by the worker's timer, one process at a time. What was found is kept for every node."""

from collections.abc import Collection
from datetime import timedelta

from payflow.core.clock import Clock
from payflow.core.errors import Conflict
from payflow.core.ids import uuid7
from payflow.core.logging import get_logger
from payflow.core.settings import Settings
from payflow.events.repository import EventRepository
from payflow.events.types import Event
from payflow.infra.database import Database
from payflow.ledger.books import Books, Break
from payflow.transactions.books.repository import BooksRepository

log = get_logger(__name__)

TOLD = 20  # breaks that an event lists; the others are in the check itself


class CheckRunning(Conflict):
    """Another process is checking the books at this moment."""

    code = "check_running"


class BooksBroken(Exception):
    """The last check found something that does not agree."""


class BooksService:
    def __init__(self, database: Database, events: EventRepository, clock: Clock, settings: Settings) -> None:
        self._database = database
        self._repository = BooksRepository(database)
        self._events = events
        self._clock = clock
        self._interval = timedelta(seconds=settings.books_check_seconds)

    async def check(self) -> Books:
        """Check now, and keep what was found. CheckRunning."""
        books = await self._check_alone()
        if books is None:
            raise CheckRunning
        return books

    async def check_due(self) -> Books | None:
        """For the timer of each worker: check if no other has lately. The newest check, whoever made it."""
        last = await self._repository.last()
        if last is not None and self._clock() < last.checked_at + self._interval:
            return last
        return await self._check_alone() or last

    async def last(self) -> Books | None:
        return await self._repository.last()

    async def refuse_broken(self) -> None:
        """For the readiness check. BooksBroken while the newest check is not clean."""
        last = await self._repository.last()
        if last is not None and not last.clean:
            raise BooksBroken

    async def _check_alone(self) -> Books | None:
        books = await self._repository.check(self._clock(), alone=True)
        if books is None:
            return None
        before = await self._repository.last()
        news = _identities(books.breaks) - _identities(before.breaks if before else ())
        async with self._database.transaction() as connection:
            await self._repository.keep(books, connection)
            if news:
                # Told once for each: a break that nobody has mended yet is no news every quarter of an hour.
                await self._events.add([self._broken(books)], connection)
        for broken in books.breaks if news else ():
            log.error("books.broken", what=broken.what, id=broken.id, expected=broken.expected, found=broken.found)
        return books

    def _broken(self, books: Books) -> Event:
        told = [{"what": each.what, "id": each.id} for each in books.breaks[:TOLD]]
        data = {"breaks_found": books.breaks_found, "breaks": told}
        return Event(uuid7(), "books.broken", self._clock(), data=data)


def _identities(breaks: Collection[Break]) -> set[tuple[str, str]]:
    return {(each.what, each.id) for each in breaks}
