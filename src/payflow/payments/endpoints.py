"""`/payments`: initialize, get, list, verify, submit-otp, cancel, resolve."""

import hashlib
import json
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from payflow.core.errors import Conflict, InFlight, Invalid, Malformed
from payflow.events.types import Actor, Origin
from payflow.idempotency.service import IdempotencyService
from payflow.identity.dependencies import current_principal
from payflow.identity.principals import Principal
from payflow.identity.service import IdentityService
from payflow.payments.schemas import InitializedPayment, InitializePayment, ResolvePayment, SubmitOtp
from payflow.payments.service import PaymentService, Reply
from payflow.payments.submissions import Submissions
from payflow.transactions.endpoints import PageParameters, page_response
from payflow.transactions.lifecycle import Status
from payflow.transactions.repository import TransactionRepository
from payflow.transactions.views import TransactionDetail, TransactionPage, TransactionView
from payflow.web.problems import MEDIA_TYPE, problem_responses
from payflow.web.rate_limits import RateLimiter


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


_KEY_DOCUMENTED = {
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
_KEY_PROBLEMS = [
    Malformed("The Idempotency-Key header is required.", code="idempotency_key_missing"),
    InFlight(),
    Invalid("This Idempotency-Key was used with another body.", code="idempotency_key_reused"),
]
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
        responses=problem_responses(400, 401, 403, 409, 413, 422, 429, 502, 503, errors=[*_KEY_PROBLEMS, _DRAINED]),
        openapi_extra=_KEY_DOCUMENTED,
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
        return _reply(reply, location=True)

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
        return await page_response(request, repository, parameters, principal, kind="payment")

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
        return _json(await payments.verify(payment_id, owner_of(principal), origin_of(request)))

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
                *_KEY_PROBLEMS,
                Conflict("The payment is completed; it does not wait for otp.", code="nothing_to_submit"),
                Conflict("The provider did not accept this.", code="not_accepted"),
            ],
        ),
        openapi_extra=_KEY_DOCUMENTED,
    )
    async def submit_otp(
        request: Request, payment_id: UUID, body: SubmitOtp, principal: Annotated[Principal, Depends(writer)]
    ) -> Response:
        """Passes on the OTP, PIN, phone, birthday or address that `next_action` asks for, and answers with the payment: with
        the next `next_action`, or ended. A wrong code asks again. What you send is neither stored nor logged."""
        scope = idempotency.scope(principal.key(), "POST", request.url.path, request.headers.get("idempotency-key"))
        reply = await submissions.submit(payment_id, owner_of(principal), body.submission(), scope, origin_of(request))
        return _reply(reply)

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
        return _json(await payments.cancel(payment_id, owner_of(principal), origin_of(request)))

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
                *_KEY_PROBLEMS,
                Conflict("Only a payment that is under_review can be resolved.", code="not_under_review"),
            ],
        ),
        openapi_extra=_KEY_DOCUMENTED,
    )
    async def resolve(
        request: Request, payment_id: UUID, body: ResolvePayment, principal: Annotated[Principal, Depends(admin)]
    ) -> Response:
        """For administrators: the only way out of `under_review`. The reason is kept in the history."""
        scope = idempotency.scope(principal.key(), "POST", request.url.path, request.headers.get("idempotency-key"))
        reply = await payments.resolve(
            payment_id, Status(body.outcome), body.reason, scope, body.model_dump(), origin_of(request)
        )
        return _reply(reply)

    return router


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


def _json(value: dict[str, Any]) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def _reply(reply: Reply, *, location: bool = False) -> Response:
    headers = {}
    if reply.replayed:
        headers["idempotent-replayed"] = "true"
    if location and reply.status_code == 201:
        headers["location"] = f"/api/v1/payments/{reply.transaction_id}"
    media = "application/json" if reply.status_code < 400 else MEDIA_TYPE
    return Response(reply.body, reply.status_code, headers, media)
