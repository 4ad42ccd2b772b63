"""`/airtime`: what is sold, buying it, and following what was bought."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from payflow.airtime.schemas import (
    SERVICE_NAME,
    ProviderName,
    PurchaseAirtime,
    PurchaseDetail,
    PurchasePage,
    PurchaseView,
    ResolvePurchase,
    ServiceList,
    VariationList,
)
from payflow.airtime.service import Airtime
from payflow.core.errors import Conflict, FieldError, Invalid, NotFound, Unavailable
from payflow.gateway.contract import ServiceCategory
from payflow.gateway.routing import ProvidersSilent
from payflow.idempotency.service import IdempotencyService
from payflow.identity.dependencies import current_principal
from payflow.identity.principals import Principal
from payflow.identity.service import IdentityService
from payflow.transactions.endpoints import (
    KEY_DOCUMENTED,
    KEY_PROBLEMS,
    ExactNumbers,
    PageParameters,
    origin_of,
    owner_of,
    page_response,
    payment_answer,
    reply_answer,
)
from payflow.transactions.lifecycle import Status
from payflow.transactions.outgoing import InsufficientFunds
from payflow.transactions.repository import TransactionRepository
from payflow.transactions.resolutions import OwnWallet
from payflow.transactions.views import TransactionView
from payflow.web.problems import problem_responses
from payflow.web.rate_limits import RateLimiter

_NOT_BOUGHT = [
    InsufficientFunds("The wallet has 120.00 NGN available.", extra={"available_minor": 12_000}),
    Conflict("The wallet is frozen. Please contact support.", code="wallet_frozen"),
    Conflict("The wallet is switched off. Switch it on first.", code="wallet_inactive"),
    Conflict("VTPass takes no new purchases at the moment.", code="provider_drained"),
    Invalid(
        "This bundle costs 100.00 NGN.",
        code="order_not_acceptable",
        errors=[FieldError("/body/amount", "This bundle costs 100.00 NGN.")],
    ),
]
_NO_SERVICE = NotFound("There is no such service.", code="unknown_service")
_NOT_SAID = Unavailable("The provider cannot say at the moment what it sells.", code="catalogue_unavailable")


class ProviderParameter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    provider: ProviderName | None = Field(default=None, description="Without it, the first that sells airtime.")


class ServiceParameters(ProviderParameter):
    category: ServiceCategory = Field(default=ServiceCategory.AIRTIME, description="`airtime` or `data`.")


def airtime_router(
    airtime: Airtime,
    repository: TransactionRepository,
    idempotency: IdempotencyService,
    identity: IdentityService,
    limiter: RateLimiter,
) -> APIRouter:
    router = APIRouter(prefix="/airtime", tags=["airtime"], route_class=ExactNumbers)
    reader = current_principal(identity, scope="wallet:read", limiter=limiter, group="read")
    writer = current_principal(identity, scope="wallet:write", limiter=limiter, group="write")
    admin = current_principal(identity, scope="payments:admin", admin=True, limiter=limiter, group="write")

    @router.get(
        "/services",
        summary="List what can be bought",
        response_model=ServiceList,
        responses=problem_responses(401, 403, 422, 429, 503, errors=[_NOT_SAID]),
        dependencies=[Depends(reader)],
    )
    async def services(parameters: Annotated[ServiceParameters, Query()]) -> Response:
        """The networks whose airtime or data is sold. Asked of the provider once an hour."""
        return payment_answer(await airtime.services(parameters.category, parameters.provider))

    @router.get(
        "/services/{service_id}/variations",
        summary="List the bundles of a service",
        response_model=VariationList,
        responses=problem_responses(401, 403, 422, 429, 503, errors=[_NO_SERVICE, _NOT_SAID]),
        dependencies=[Depends(reader)],
    )
    async def variations(
        service_id: Annotated[str, Path(pattern=SERVICE_NAME, examples=["mtn-data"])],
        parameters: Annotated[ProviderParameter, Query()],
    ) -> Response:
        """Bundles of data and their prices. Airtime has none: there the amount is free."""
        return payment_answer(await airtime.variations(service_id, parameters.provider))

    @router.post(
        "/purchase",
        status_code=201,
        summary="Buy airtime or data",
        response_model=PurchaseView,
        responses=problem_responses(
            400,
            401,
            403,
            409,
            413,
            422,
            429,
            502,
            503,
            errors=[*KEY_PROBLEMS, *_NOT_BOUGHT, _NOT_SAID, ProvidersSilent()],
        ),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def purchase(
        request: Request, body: PurchaseAirtime, principal: Annotated[Principal, Depends(writer)]
    ) -> Response:
        """Buys airtime for an `amount`, or a bundle by its `variation_code`, from your wallet in this currency.

        The money is held first. The answer is 201 with the purchase's status: `completed`, `failed` (with `failure.code`;
        the money is back in the wallet), or `processing` while nobody can say yet: then it stays held, and the provider is
        asked until it can. 502 only when nothing could be sent; the problem then holds the `transaction_id`. 503 while the
        provider is known to be silent; nothing is held.
        """
        scope = idempotency.scope(principal.key(), "POST", request.url.path, request.headers.get("idempotency-key"))
        reply = await airtime.purchase(principal.id, body, scope, origin_of(request), instance=request.url.path)
        return reply_answer(reply, location=True)

    @router.get(
        "/purchases",
        summary="List purchases",
        response_model=PurchasePage,
        responses=problem_responses(400, 401, 403, 422, 429, 503),
    )
    async def list_purchases(
        request: Request,
        parameters: Annotated[PageParameters, Query()],
        principal: Annotated[Principal, Depends(reader)],
    ) -> Response:
        """Your purchases, newest first. `cursor` is steadier than `page` while new ones arrive."""
        return await page_response(request, repository, parameters, principal, kinds=["airtime"])

    @router.get(
        "/purchases/{purchase_id}",
        summary="Get a purchase",
        response_model=PurchaseDetail,
        responses=problem_responses(401, 403, 404, 422, 429, 503),
    )
    async def get_purchase(purchase_id: UUID, principal: Annotated[Principal, Depends(reader)]) -> Response:
        """The whole purchase: what was bought for which number, attempts, and `timeline`, its history without gaps."""
        return payment_answer(await airtime.get(purchase_id, owner_of(principal)))

    @router.post(
        "/purchases/{purchase_id}/verify",
        summary="Ask the provider about a purchase now",
        response_model=PurchaseDetail,
        responses=problem_responses(401, 403, 404, 422, 429, 503),
    )
    async def verify_purchase(
        request: Request, purchase_id: UUID, principal: Annotated[Principal, Depends(writer)]
    ) -> Response:
        """Asks the provider how the purchase stands (at most every few seconds) and answers with the purchase."""
        return payment_answer(await airtime.verify(purchase_id, owner_of(principal), origin_of(request)))

    @router.post(
        "/purchases/{purchase_id}/resolve",
        summary="Decide a purchase under review",
        response_model=TransactionView,
        responses=problem_responses(
            400,
            401,
            403,
            404,
            413,
            422,
            429,
            503,
            errors=[
                *KEY_PROBLEMS,
                Conflict("Only a transaction that is under_review can be resolved.", code="not_under_review"),
                OwnWallet(),
            ],
        ),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def resolve_purchase(
        request: Request,
        purchase_id: UUID,
        body: ResolvePurchase,
        principal: Annotated[Principal, Depends(admin)],
    ) -> Response:
        """For administrators: the only way out of `under_review`, and the end of the hold. The reason is kept in the
        history."""
        scope = idempotency.scope(principal.key(), "POST", request.url.path, request.headers.get("idempotency-key"))
        reply = await airtime.resolve(
            purchase_id, principal.id, Status(body.outcome), body.reason, scope, body.model_dump(), origin_of(request)
        )
        return reply_answer(reply)

    return router
