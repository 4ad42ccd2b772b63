"""`/books`: whether ledger, wallets, holds and transactions agree, for administrators."""

from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from payflow.core.clock import rfc3339
from payflow.identity.dependencies import current_principal
from payflow.identity.principals import Principal
from payflow.identity.service import IdentityService
from payflow.ledger.books import Books, Break
from payflow.transactions.books.service import BooksService
from payflow.web.problems import problem_responses
from payflow.web.rate_limits import RateLimiter

_CLEAN: dict[str, Any] = {
    "clean": True,
    "checked_at": "2026-11-21T10:00:00.000000Z",
    "seconds": 0.412,
    "entries": 120_000,
    "breaks_found": 0,
    "breaks": [],
    "warnings_found": 0,
    "warnings": [],
}


class BreakView(BaseModel):
    """Something that does not agree; docs/ledger.md says how to read it."""

    what: str = Field(examples=["wallet"], description="Which of the checks found it.")
    id: str = Field(description="The row in question.")
    expected: str
    found: str


class BooksView(BaseModel):
    """One check of the books, at one moment. At most a hundred breaks of each kind are listed."""

    model_config = ConfigDict(json_schema_extra={"examples": [_CLEAN]})

    clean: bool = Field(description="Whether everything agrees. Warnings cost nobody anything.")
    checked_at: datetime
    seconds: float
    entries: int = Field(description="Ledger entries that were there.")
    breaks_found: int
    breaks: list[BreakView]
    warnings_found: int
    warnings: list[BreakView]


def books_json(books: Books) -> dict[str, Any]:
    """The body of `BooksView`."""
    return {
        "clean": books.clean,
        "checked_at": rfc3339(books.checked_at),
        "seconds": round(books.seconds, 3),
        "entries": books.entries,
        "breaks_found": books.breaks_found,
        "breaks": [_break_json(each) for each in books.breaks],
        "warnings_found": books.warnings_found,
        "warnings": [_break_json(each) for each in books.warnings],
    }


def _break_json(found: Break) -> dict[str, str]:
    return {"what": found.what, "id": found.id, "expected": found.expected, "found": found.found}


def books_router(books: BooksService, identity: IdentityService, limiter: RateLimiter) -> APIRouter:
    router = APIRouter(tags=["transactions"])
    admin = current_principal(identity, admin=True, limiter=limiter, group="read")

    @router.get(
        "/books",
        summary="Check the books",
        response_model=BooksView,
        responses=problem_responses(401, 403, 409, 422, 429, 503),
    )
    async def check_books(
        principal: Annotated[Principal, Depends(admin)],
        fresh: Annotated[bool, Query(description="Check now, which reads the whole ledger.")] = False,
    ) -> Response:
        """What the last check found, which workers make regularly; or a check now. For administrators.

        409 `check_running` while another process checks."""
        found = None if fresh else await books.last()
        if found is None:
            found = await books.check()
        return Response(orjson.dumps(books_json(found)), media_type="application/json")

    return router
