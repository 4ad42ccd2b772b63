"""`/wallet`: what it holds, its statement, switching it on and off, and money in."""

from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse

from payflow.core.errors import NotFound
from payflow.idempotency.service import IdempotencyService
from payflow.identity.dependencies import current_principal
from payflow.identity.principals import Principal
from payflow.identity.service import IdentityService
from payflow.payments.endpoints import KEY_DOCUMENTED, KEY_PROBLEMS, ExactNumbers, origin_of, reply_answer
from payflow.payments.schemas import InitializedPayment, InitializePayment
from payflow.wallets.repository import StatementQuery
from payflow.wallets.schemas import (
    CSV_EXAMPLE,
    FreezeWallet,
    StatementPage,
    StatementParameters,
    ToggleActivity,
    WalletList,
    WalletView,
)
from payflow.wallets.service import WalletFrozen, WalletService
from payflow.web.problems import problem_responses
from payflow.web.rate_limits import RateLimiter

_NO_WALLET = NotFound("There is no wallet in this currency.", code="wallet_not_found")


def wallets_router(
    wallets: WalletService, idempotency: IdempotencyService, identity: IdentityService, limiter: RateLimiter
) -> APIRouter:
    router = APIRouter(prefix="/wallet", tags=["wallet"], route_class=ExactNumbers)
    reader = current_principal(identity, scope="wallet:read", limiter=limiter, group="read")
    writer = current_principal(identity, scope="wallet:write", limiter=limiter, group="write")
    admin = current_principal(identity, scope="payments:admin", admin=True, limiter=limiter, group="write")

    @router.get(
        "",
        summary="List your wallets",
        response_model=WalletList,
        responses=problem_responses(401, 403, 429, 503),
    )
    async def list_wallets(principal: Annotated[Principal, Depends(reader)]) -> Response:
        """One per currency: the first is opened at registration, others at their first funding."""
        return _json(await wallets.of_user(principal.id))

    @router.get(
        "/statement",
        summary="Read a wallet's statement",
        response_model=StatementPage,
        responses={
            200: {"content": {"text/csv": {"schema": {"type": "string"}, "example": CSV_EXAMPLE}}},
            **problem_responses(400, 401, 403, 404, 422, 429, 503, errors=[_NO_WALLET]),
        },
    )
    async def statement(
        request: Request,
        parameters: Annotated[StatementParameters, Query()],
        principal: Annotated[Principal, Depends(reader)],
    ) -> Response:
        """What came into what can be spent and what left it, newest first, with the balance after each entry.

        `cursor` is steadier than `page` while new entries arrive; the Link header has both. As CSV the answer is the whole
        period at once.
        """
        query = _query(parameters, principal.id, wallets.default_currency)
        if _wants_csv(request, parameters):
            name = f"wallet-{query.currency.lower()}.csv"
            headers = {"content-disposition": f'attachment; filename="{name}"', "vary": "accept"}
            return StreamingResponse(await wallets.statement_csv(query), 200, headers, "text/csv")
        entries, more = await wallets.statement(query)
        cursor = entries[-1]["id"] if more else None
        return _page(request, parameters, query.currency, entries, cursor)

    @router.post(
        "/toggle-activity",
        summary="Switch a wallet on or off",
        response_model=WalletView,
        responses=problem_responses(400, 401, 403, 404, 413, 422, 429, 503, errors=[_NO_WALLET, WalletFrozen()]),
    )
    async def toggle_activity(
        request: Request, body: ToggleActivity, principal: Annotated[Principal, Depends(writer)]
    ) -> Response:
        """Nothing leaves a wallet that is switched off; it can still be funded, and what was under way goes on. One that is
        frozen is switched on by nobody but us."""
        return _json(await wallets.toggle(principal.id, body.currency, body.active, origin_of(request)))

    @router.post(
        "/fund",
        status_code=201,
        summary="Fund a wallet",
        response_model=InitializedPayment,
        responses=problem_responses(
            400, 401, 403, 409, 413, 422, 429, 502, 503, errors=[*KEY_PROBLEMS, WalletFrozen()]
        ),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def fund(
        request: Request, body: InitializePayment, principal: Annotated[Principal, Depends(writer)]
    ) -> Response:
        """Starts as a payment does (see `POST /payments/initialize`); what is paid is credited to your wallet in this
        currency, which is opened where there is none. A wallet that is switched off can be funded; a frozen one cannot.
        To give it back, refund it as a payment: its amount is held on the wallet first."""
        scope = idempotency.scope(principal.key(), "POST", request.url.path, request.headers.get("idempotency-key"))
        reply = await wallets.fund(principal.id, body, scope, origin_of(request), instance=request.url.path)
        return reply_answer(reply, location=True)

    @router.post(
        "/{user_id}/freeze",
        summary="Freeze a wallet, or let it thaw",
        response_model=WalletView,
        responses=problem_responses(400, 401, 403, 404, 413, 422, 429, 503, errors=[_NO_WALLET]),
    )
    async def freeze(
        request: Request, user_id: UUID, body: FreezeWallet, principal: Annotated[Principal, Depends(admin)]
    ) -> Response:
        """For administrators: nothing leaves a frozen wallet, and no new funding of it starts. What was under way goes on.
        One that thaws is active. The owner is told, with the reason."""
        about = (user_id, body.currency, body.frozen, body.reason)
        return _json(await wallets.freeze(*about, principal.id, origin_of(request)))

    return router


def _query(parameters: StatementParameters, user_id: UUID, default_currency: str) -> StatementQuery:
    return StatementQuery(
        user_id,
        parameters.currency or default_currency,
        parameters.since,
        parameters.until,
        parameters.cursor,
        parameters.limit,
        0 if parameters.cursor else (parameters.page - 1) * parameters.limit,
    )


def _wants_csv(request: Request, parameters: StatementParameters) -> bool:
    if parameters.format is not None:
        return parameters.format == "csv"
    accept = request.headers.get("accept", "")
    return "text/csv" in accept and "application/json" not in accept


def _page(
    request: Request, parameters: StatementParameters, currency: str, entries: list[dict[str, Any]], cursor: str | None
) -> Response:
    """One page with its Link header (RFC 8288): first, and next by cursor."""
    response = _json(
        {
            "currency": currency,
            "data": entries,
            "page": parameters.page,
            "limit": parameters.limit,
            "has_more": cursor is not None,
            "next_cursor": cursor,
        }
    )
    kept = {name: value for name, value in request.query_params.items() if name not in ("page", "cursor")}
    links = [f'<{request.url.path}?{urlencode(kept)}>; rel="first"']
    if cursor:
        links.append(f'<{request.url.path}?{urlencode({**kept, "cursor": cursor})}>; rel="next"')
    response.headers["link"] = ", ".join(links)
    response.headers["vary"] = "accept"
    return response


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
