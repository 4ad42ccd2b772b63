"""`/payments`: initialize, get, list, verify, submit-otp, cancel, resolve; and what gives money back."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import Response

from payflow.core.errors import Conflict, Invalid
from payflow.idempotency.service import IdempotencyService
from payflow.identity.dependencies import current_principal
from payflow.identity.principals import Principal
from payflow.identity.service import IdentityService
from payflow.payments.refunds import RefundService
from payflow.payments.schemas import (
    InitializedPayment,
    InitializePayment,
    RefundPayment,
    ResolvePayment,
    ResolveRefund,
    SubmitOtp,
)
from payflow.payments.service import PaymentService
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
    with_etag,
)
from payflow.transactions.repository import TransactionRepository
from payflow.transactions.resolutions import OwnWallet
from payflow.transactions.submissions import Submissions
from payflow.transactions.views import RefundList, RefundView, TransactionDetail, TransactionPage, TransactionView
from payflow.web.problems import problem_responses
from payflow.web.rate_limits import RateLimiter

_NOT_REFUNDABLE = [
    Conflict("A payment that is failed cannot be refunded: only one that is completed.", code="not_refundable"),
    Conflict("All of it has been given back already.", code="already_refunded"),
    Conflict("Only 500.00 NGN of this payment can still be given back.", code="refund_exceeds_remaining"),
    Conflict("C-Pay gives no money back over its API. Ask C-Pay to reverse it.", code="refund_unsupported"),
    Conflict("The wallet no longer holds this much.", code="insufficient_funds"),
    Conflict("The wallet is frozen: nothing leaves it.", code="wallet_frozen"),
]
_NO_CARDS = Invalid("This installation takes no card details.", code="card_details_disabled")
_DRAINED = Conflict("Paystack takes no new payments at the moment.", code="provider_drained")


def payments_router(
    payments: PaymentService,
    submissions: Submissions,
    repository: TransactionRepository,
    idempotency: IdempotencyService,
    identity: IdentityService,
    limiter: RateLimiter,
) -> APIRouter:
    router = APIRouter(prefix="/payments", tags=["payments"], route_class=ExactNumbers)
    reader = current_principal(identity, scope="payments:read", limiter=limiter, group="read")
    writer = current_principal(identity, scope="payments:write", limiter=limiter, group="write")
    admin = current_principal(identity, scope="payments:admin", admin=True, limiter=limiter, group="write")

    @router.post(
        "/initialize",
        status_code=201,
        summary="Start a payment",
        response_model=InitializedPayment,
        responses=problem_responses(
            400, 401, 403, 409, 413, 422, 429, 502, 503, errors=[*KEY_PROBLEMS, _NO_CARDS, _DRAINED]
        ),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def initialize(
        request: Request, body: InitializePayment, principal: Annotated[Principal, Depends(writer)]
    ) -> Response:
        """Opens a payment and starts it at the provider.

        The answer is 201 with the payment's status, also when the provider declined (`failed`, with `failure.code`) or
        nobody can say yet (`processing`, with `next_check_at`). 502 only when nothing could be sent; the problem then
        holds the `transaction_id`. What the customer must do is in `next_action`.
        """
        scope = idempotency.scope(principal.key(), "POST", request.url.path, request.headers.get("idempotency-key"))
        reply = await payments.initialize(principal.id, body, scope, origin_of(request), instance=request.url.path)
        return reply_answer(reply, location=True)

    @router.get(
        "",
        summary="List payments",
        response_model=TransactionPage,
        responses=problem_responses(400, 401, 403, 422, 429, 503),
    )
    async def list_payments(
        request: Request,
        parameters: Annotated[PageParameters, Query()],
        principal: Annotated[Principal, Depends(reader)],
    ) -> Response:
        """Your payments, newest first. `cursor` is steadier than `page` while new ones arrive; the Link header has both."""
        return await page_response(request, repository, parameters, principal, kinds=["payment"])

    @router.get(
        "/{payment_id}",
        summary="Get a payment",
        response_model=TransactionDetail,
        responses={
            304: {"description": "Not changed since the ETag in If-None-Match."},
            **problem_responses(401, 403, 404, 422, 429, 503),
        },
    )
    async def get(
        request: Request,
        payment_id: UUID,
        principal: Annotated[Principal, Depends(reader)],
        if_none_match: Annotated[str | None, Header(max_length=200)] = None,
    ) -> Response:
        """The whole payment: attempts, refunds, and `timeline`, its history without gaps. Admins see everybody's."""
        return with_etag(await payments.get(payment_id, owner_of(principal)), if_none_match)

    @router.post(
        "/{payment_id}/verify",
        summary="Ask the provider now",
        response_model=TransactionDetail,
        responses=problem_responses(401, 403, 404, 422, 429, 503),
    )
    async def verify(request: Request, payment_id: UUID, principal: Annotated[Principal, Depends(writer)]) -> Response:
        """Asks the provider how the payment stands (at most every few seconds per payment) and answers with the payment."""
        return payment_answer(await payments.verify(payment_id, owner_of(principal), origin_of(request)))

    @router.post(
        "/{payment_id}/submit-otp",
        summary="Pass on what the customer was asked for",
        response_model=TransactionView,
        responses=problem_responses(
            400,
            401,
            403,
            404,
            413,
            422,
            429,
            502,
            503,
            errors=[
                *KEY_PROBLEMS,
                Conflict("The payment is completed; it does not wait for otp.", code="nothing_to_submit"),
                Conflict("The provider did not accept this.", code="not_accepted"),
            ],
        ),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def submit_otp(
        request: Request, payment_id: UUID, body: SubmitOtp, principal: Annotated[Principal, Depends(writer)]
    ) -> Response:
        """Passes on the OTP, PIN, phone, birthday or address that `next_action` asks for, and answers with the payment: with
        the next `next_action`, or ended. A wrong code asks again. What you send is neither stored nor logged."""
        scope = idempotency.scope(principal.key(), "POST", request.url.path, request.headers.get("idempotency-key"))
        reply = await submissions.submit(payment_id, owner_of(principal), body.submission(), scope, origin_of(request))
        return reply_answer(reply)

    @router.post(
        "/{payment_id}/cancel",
        summary="Cancel a payment",
        response_model=TransactionDetail,
        responses=problem_responses(
            401,
            403,
            404,
            422,
            429,
            503,
            errors=[Conflict("A payment that is completed can no longer be cancelled.", code="not_cancellable")],
        ),
    )
    async def cancel(request: Request, payment_id: UUID, principal: Annotated[Principal, Depends(writer)]) -> Response:
        """Gives up a payment that the customer has not made. Cancelling twice is the same as once. If the customer pays
        all the same, the payment becomes `completed`: money that came is never hidden."""
        return payment_answer(await payments.cancel(payment_id, owner_of(principal), origin_of(request)))

    @router.post(
        "/{payment_id}/resolve",
        summary="Decide a payment under review",
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
                Conflict("Only a payment that is under_review can be resolved.", code="not_under_review"),
                OwnWallet(),
            ],
        ),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def resolve(
        request: Request, payment_id: UUID, body: ResolvePayment, principal: Annotated[Principal, Depends(admin)]
    ) -> Response:
        """For administrators: the only way out of `under_review`. The reason is kept in the history."""
        scope = idempotency.scope(principal.key(), "POST", request.url.path, request.headers.get("idempotency-key"))
        return reply_answer(await payments.resolve(payment_id, principal.id, body, scope, origin_of(request)))

    return router


def refunds_router(
    refunds: RefundService, idempotency: IdempotencyService, identity: IdentityService, limiter: RateLimiter
) -> APIRouter:
    router = APIRouter(prefix="/payments", tags=["payments"], route_class=ExactNumbers)
    reader = current_principal(identity, scope="payments:read", limiter=limiter, group="read")
    writer = current_principal(identity, scope="payments:write", limiter=limiter, group="write")
    admin = current_principal(identity, scope="payments:admin", admin=True, limiter=limiter, group="write")

    @router.post(
        "/{payment_id}/refund",
        status_code=201,
        summary="Give money back",
        response_model=RefundView,
        responses=problem_responses(
            400, 401, 403, 404, 409, 413, 422, 429, 502, 503, errors=[*KEY_PROBLEMS, *_NOT_REFUNDABLE]
        ),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def refund(
        request: Request, payment_id: UUID, body: RefundPayment, principal: Annotated[Principal, Depends(writer)]
    ) -> Response:
        """Gives back the whole payment, or a part of it, as often as something is left.

        The answer is 201 with the refund's status, also when the provider refused it (`failed`, with `failure.code`).
        Most refunds are `processing` first; how they end comes as `refund.completed` or `refund.failed`. What is on its
        way counts as given back. Where a provider cannot do it over its API, the 409 names what to do instead.
        What was paid into a wallet is taken out of it, which needs `wallet:write` too.
        """
        scope = idempotency.scope(principal.key(), "POST", request.url.path, request.headers.get("idempotency-key"))
        reply = await refunds.refund(
            payment_id,
            owner_of(principal),
            body,
            scope,
            origin_of(request),
            instance=request.url.path,
            from_wallet=principal.may("wallet:write"),
        )
        return reply_answer(reply, location=True)

    @router.get(
        "/{payment_id}/refunds",
        summary="List a payment's refunds",
        response_model=RefundList,
        responses=problem_responses(401, 403, 404, 422, 429, 503),
    )
    async def list_refunds(payment_id: UUID, principal: Annotated[Principal, Depends(reader)]) -> Response:
        """Oldest first, with what may still be given back."""
        return payment_answer(await refunds.list(payment_id, owner_of(principal)))

    @router.get(
        "/{payment_id}/refunds/{refund_id}",
        summary="Get a refund",
        response_model=RefundView,
        responses=problem_responses(401, 403, 404, 422, 429, 503),
    )
    async def get_refund(
        payment_id: UUID, refund_id: UUID, principal: Annotated[Principal, Depends(reader)]
    ) -> Response:
        """One refund of a payment, as it stands now."""
        return payment_answer(await refunds.get(payment_id, refund_id, owner_of(principal)))

    @router.post(
        "/{payment_id}/refunds/{refund_id}/resolve",
        summary="Decide a refund under review",
        response_model=RefundView,
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
                Conflict("Only a refund that is under_review can be resolved.", code="not_under_review"),
                OwnWallet(),
            ],
        ),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def resolve_refund(
        request: Request,
        payment_id: UUID,
        refund_id: UUID,
        body: ResolveRefund,
        principal: Annotated[Principal, Depends(admin)],
    ) -> Response:
        """For administrators: how a refund ended that nobody could say anything of. The reason is kept in the history."""
        scope = idempotency.scope(principal.key(), "POST", request.url.path, request.headers.get("idempotency-key"))
        return reply_answer(await refunds.resolve(payment_id, refund_id, principal.id, body, scope, origin_of(request)))

    return router


__all__ = [
    "KEY_DOCUMENTED",
    "KEY_PROBLEMS",
    "ExactNumbers",
    "origin_of",
    "owner_of",
    "payment_answer",
    "payments_router",
    "refunds_router",
    "reply_answer",
    "with_etag",
]
