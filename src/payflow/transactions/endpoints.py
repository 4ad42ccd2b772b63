"""`/transactions`, `/events` and the business figures: every kind of movement of the caller. And what the endpoints of every
room that moves money share."""

import hashlib
import json
from collections.abc import Callable, Coroutine, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import urlencode
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from payflow.core.errors import Forbidden, InFlight, Invalid, Malformed, NotFound
from payflow.core.money import format_minor
from payflow.events.repository import EventRepository
from payflow.events.types import Actor, Origin
from payflow.identity.dependencies import current_principal
from payflow.identity.principals import Principal
from payflow.identity.service import IdentityService
from payflow.transactions import examples
from payflow.transactions.aggregate import ACCOUNT
from payflow.transactions.replies import Reply
from payflow.transactions.repository import PageQuery, TransactionRepository
from payflow.transactions.views import (
    EventView,
    TransactionDetail,
    TransactionPage,
    detail_json,
    event_json,
    transaction_json,
)
from payflow.web.problems import MEDIA_TYPE, problem_responses
from payflow.web.rate_limits import RateLimiter
from payflow.web.schemas import PLAIN_TEXT, Moment

MAX_PAGE = 10_000


class ExactNumbers(APIRoute):
    """Reads JSON numbers to Decimal from their text, because a float would already have lost what was written."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def exact(request: Request) -> Response:
            return await handle(_ExactRequest(request.scope, request.receive))

        return exact


class _ExactRequest(Request):
    async def json(self) -> Any:
        return json.loads(await self.body(), parse_float=Decimal, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Any:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


KEY_DOCUMENTED = {
    "parameters": [
        {
            "in": "header",
            "name": "Idempotency-Key",
            "required": True,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]{1,255}$"},
            "description": "The same key with the same body gives the same answer; keep it for every repeat of a request.",
            "example": "4c9f6c1e-8a30-4c2f-9a41-0f6c1f3b7d52",
        }
    ]
}
KEY_PROBLEMS = [
    Malformed("The Idempotency-Key header is required.", code="idempotency_key_missing"),
    InFlight(),
    Invalid("This Idempotency-Key was used with another body.", code="idempotency_key_reused"),
]


def _example(**members: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [members]})


class PageParameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    provider: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{1,40}$")] | None = None
    status: (
        Literal[
            "pending",
            "requires_action",
            "processing",
            "under_review",
            "completed",
            "failed",
            "cancelled",
            "expired",
            "partially_refunded",
            "refunded",
            "reversed",
        ]
        | None
    ) = None
    customer_id: Annotated[str, StringConstraints(pattern=PLAIN_TEXT, min_length=1, max_length=128)] | None = None
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = None
    created_from: Moment | None = Field(default=None, description="From this time on (RFC 3339).")
    created_to: Moment | None = Field(default=None, description="Before this time (RFC 3339).")
    page: int = Field(default=1, ge=1, le=MAX_PAGE)
    limit: int = Field(default=20, ge=1, le=100)
    cursor: UUID | None = Field(default=None, description="`next_cursor` of the page before; `page` is then ignored.")


class EventPage(BaseModel):
    model_config = _example(data=list(reversed(examples.TIMELINE)), has_more=False, next_cursor=None)

    data: list[EventView]
    has_more: bool
    next_cursor: UUID | None


class Figure(BaseModel):
    kind: str
    status: str
    currency: str
    count: int
    paid: str
    paid_minor: int


class Figures(BaseModel):
    """How many transactions stand how, and what they brought."""

    model_config = _example(
        transactions=[
            {
                "kind": "payment",
                "status": "completed",
                "currency": "NGN",
                "count": 3,
                "paid": "15000.00",
                "paid_minor": 1500000,
            }
        ]
    )

    transactions: list[Figure]


def transactions_router(
    repository: TransactionRepository, events: EventRepository, identity: IdentityService, limiter: RateLimiter
) -> APIRouter:
    router = APIRouter(tags=["transactions"])
    reader = current_principal(identity, scope="payments:read", limiter=limiter, group="read")
    watcher = current_principal(identity, scope="events:read", limiter=limiter, group="read")
    problems = problem_responses(400, 401, 403, 422, 429, 503)

    @router.get("/transactions", summary="List transactions", response_model=TransactionPage, responses=problems)
    async def list_transactions(
        request: Request,
        parameters: Annotated[PageParameters, Query()],
        principal: Annotated[Principal, Depends(reader)],
    ) -> Response:
        """Every kind: payments, fundings, withdrawals, airtime. Newest first. What goes out of a wallet needs the scope
        `wallet:read` too, and is left out without it."""
        return await page_response(request, repository, parameters, principal, kinds=_shown_to(principal))

    @router.get(
        "/transactions/{reference}",
        summary="Get a transaction by reference",
        response_model=TransactionDetail,
        responses=problem_responses(401, 403, 404, 422, 429, 503),
    )
    async def get_transaction(
        reference: Annotated[str, Path(pattern=r"^[a-z0-9]{16,50}$")], principal: Annotated[Principal, Depends(reader)]
    ) -> Response:
        """By our own `reference`, with attempts, refunds and history. 403 `insufficient_scope` for what goes out of a wallet,
        without the scope `wallet:read`."""
        owner = None if principal.is_admin else principal.id
        identity_of = await repository.id_of_reference(reference, owner)
        found = await repository.get(identity_of, owner) if identity_of else None
        if found is None:
            raise NotFound("There is no such transaction, or it is not yours.")
        if found[0].kind not in ACCOUNT and not principal.may("wallet:read"):
            raise Forbidden("This needs the scope wallet:read.", code="insufficient_scope")
        refunds = await repository.refunds(found[0].id)
        timeline = await events.of_transaction(found[0].id)
        return _json(detail_json(*found, refunds, timeline))

    @router.get("/events", summary="List events", response_model=EventPage, responses=problems)
    async def list_events(
        principal: Annotated[Principal, Depends(watcher)],
        type: Annotated[str | None, Query(pattern=r"^[a-z_]+\.[a-z_]+$", max_length=60)] = None,
        cursor: Annotated[UUID | None, Query(description="`next_cursor` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        """Your events, newest first: payments, logins, refusals, configuration. Admins see everybody's."""
        owner = None if principal.is_admin else principal.id
        found = await events.page(owner, type, cursor, limit)
        more = len(found) > limit
        shown = found[:limit]
        return _json(
            {
                "data": [event_json(event) for event in shown],
                "has_more": more,
                "next_cursor": shown[-1].id if more else None,
            }
        )

    @router.get(
        "/metrics", summary="Business figures", response_model=Figures, responses=problem_responses(401, 403, 429, 503)
    )
    async def figures(principal: Annotated[Principal, Depends(reader)]) -> Response:
        """Counts and paid sums by kind, status and currency; of what goes out of wallets with the scope `wallet:read`.
        Technical metrics are at `/metrics` outside the prefix."""
        owner = None if principal.is_admin else principal.id
        rows = await repository.counts_by_status(owner, _shown_to(principal))
        return _json(
            {
                "transactions": [
                    {
                        "kind": kind,
                        "status": status,
                        "currency": currency,
                        "count": count,
                        "paid": format_minor(paid, currency),
                        "paid_minor": paid,
                    }
                    for kind, status, currency, count, paid in rows
                ]
            }
        )

    return router


async def page_response(
    request: Request,
    repository: TransactionRepository,
    parameters: PageParameters,
    principal: Principal,
    *,
    kinds: Sequence[str] | None = None,
) -> Response:
    """One page with its Link header (RFC 8288): next by cursor, first."""
    query = PageQuery(
        user_id=None if principal.is_admin else principal.id,
        kinds=kinds,
        provider=parameters.provider,
        status=parameters.status,
        customer_id=parameters.customer_id,
        currency=parameters.currency,
        created_from=parameters.created_from,
        created_to=parameters.created_to,
        before=parameters.cursor,
        limit=parameters.limit,
        offset=0 if parameters.cursor else (parameters.page - 1) * parameters.limit,
    )
    found, more = await repository.page(query)
    cursor = str(found[-1].id) if more else None
    body: dict[str, Any] = {
        "data": [transaction_json(transaction) for transaction in found],
        "page": parameters.page,
        "limit": parameters.limit,
        "has_more": more,
        "next_cursor": cursor,
    }
    response = _json(body)
    kept = {name: value for name, value in request.query_params.items() if name not in ("page", "cursor")}
    links = [f'<{request.url.path}?{urlencode(kept)}>; rel="first"']
    if cursor:
        links.append(f'<{request.url.path}?{urlencode({**kept, "cursor": cursor})}>; rel="next"')
    response.headers["link"] = ", ".join(links)
    return response


def _shown_to(principal: Principal) -> Sequence[str] | None:
    """The kinds that a reader of payments may see: all (None) who may read wallets too."""
    return None if principal.may("wallet:read") else [kind.value for kind in ACCOUNT]


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def owner_of(principal: Principal) -> UUID | None:
    """Whose rows a principal sees: its own; an admin everybody's (None)."""
    return None if principal.is_admin else principal.id


def origin_of(request: Request) -> Origin:
    state = request.scope.get("state") or {}
    agent = request.headers.get("user-agent")
    return Origin(
        actor=Actor.USER,
        ip_address=state.get("client_address"),
        user_agent=agent[:256] if agent else None,
        correlation_id=state.get("request_id"),
    )


def with_etag(value: dict[str, Any], if_none_match: str | None) -> Response:
    """200 with an ETag of the content, or 304 when the caller has it."""
    body = orjson.dumps(value)
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    if if_none_match and (tag in if_none_match or if_none_match.strip() == "*"):
        return Response(status_code=304, headers={"etag": tag})
    return Response(body, media_type="application/json", headers={"etag": tag})


def payment_answer(value: dict[str, Any]) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def reply_answer(reply: Reply, *, location: bool = False) -> Response:
    headers = {}
    if reply.replayed:
        headers["idempotent-replayed"] = "true"
    if location and reply.status_code == 201:
        headers["location"] = reply.location
    media = "application/json" if reply.status_code < 400 else MEDIA_TYPE
    return Response(reply.body, reply.status_code, headers, media)
