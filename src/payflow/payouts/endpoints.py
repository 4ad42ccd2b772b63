"""`/wallet/withdraw`, `/wallet/withdrawals`, and the questions before one: `/wallet/banks`, `/wallet/resolve-account`."""

from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from payflow.core.errors import Conflict, Forbidden, Invalid, RateLimited
from payflow.core.settings import Settings
from payflow.gateway.routing import ProvidersSilent
from payflow.idempotency.repository import KeyScope
from payflow.idempotency.service import IdempotencyService
from payflow.identity.dependencies import current_principal
from payflow.identity.principals import Principal
from payflow.identity.service import IdentityService
from payflow.payouts.banks import Banks
from payflow.payouts.schemas import (
    STARTED,
    AccountHolderView,
    BankList,
    BankParameters,
    DecideWithdrawal,
    ResolveAccount,
    ResolveWithdrawal,
    SubmitTransferOtp,
    Withdraw,
    WithdrawalDetail,
)
from payflow.payouts.service import OWN, WithdrawalService
from payflow.transactions.endpoints import (
    KEY_DOCUMENTED,
    KEY_PROBLEMS,
    ExactNumbers,
    PageParameters,
    origin_of,
    owner_of,
    page_response,
    reply_answer,
)
from payflow.transactions.repository import TransactionRepository
from payflow.transactions.resolutions import OwnWallet
from payflow.transactions.submissions import Submissions
from payflow.transactions.views import TransactionPage, TransactionView
from payflow.web.problems import problem_responses
from payflow.web.rate_limits import RateLimiter

_REFUSED = [
    Conflict("The wallet has 120.00 NGN available.", code="insufficient_funds"),
    Conflict("At most 100 withdrawals in 24 hours.", code="withdrawal_limit"),
    Conflict("The wallet is frozen. Please contact support.", code="wallet_frozen"),
    Conflict("The wallet is switched off. Switch it on first.", code="wallet_inactive"),
    Conflict("Paystack takes nothing new at the moment. Name another provider.", code="provider_drained"),
    ProvidersSilent(),
]
WITHDRAW_RESPONSES: dict[int | str, dict[str, Any]] = {
    201: {"content": {"application/json": {"example": STARTED}}},
    **problem_responses(400, 401, 403, 409, 413, 422, 429, 502, 503, errors=[*KEY_PROBLEMS, *_REFUSED]),
}
_NOT_WAITING = Conflict("This withdrawal was approved already.", code="not_awaiting_approval")
_OWN = Forbidden(OWN, code="own_withdrawal")
_LOOKUP_FAILED = Invalid("Could not resolve account name. Check parameters or try again.", code="lookup_failed")


def withdrawals_router(
    withdrawals: WithdrawalService,
    submissions: Submissions,
    repository: TransactionRepository,
    idempotency: IdempotencyService,
    identity: IdentityService,
    limiter: RateLimiter,
) -> APIRouter:
    router = APIRouter(prefix="/wallet", tags=["wallet"], route_class=ExactNumbers)
    reader = current_principal(identity, scope="wallet:read", limiter=limiter, group="read")
    writer = current_principal(identity, scope="wallet:write", limiter=limiter, group="write")
    admin = current_principal(identity, scope="payments:admin", admin=True, limiter=limiter, group="write")

    def scope_of(request: Request, principal: Principal) -> KeyScope:
        return idempotency.scope(principal.key(), "POST", request.url.path, request.headers.get("idempotency-key"))

    @router.post(
        "/withdraw",
        status_code=201,
        summary="Withdraw to a bank account or phone",
        response_model=TransactionView,
        responses=WITHDRAW_RESPONSES,
        openapi_extra=KEY_DOCUMENTED,
    )
    async def withdraw(request: Request, body: Withdraw, principal: Annotated[Principal, Depends(writer)]) -> Response:
        """Sends money out of your wallet. It is held first, and yours again if it certainly was not sent.

        The answer is 201 with the withdrawal's status, also when the provider refused it (`failed`, with `failure.code`).
        `processing` ends by `withdrawal.completed` or `withdrawal.failed`; `pending` waits for somebody's approval. 502
        only when nothing could be sent; the problem then holds the `transaction_id`. 503 while the provider is known to be
        silent, also one that you named; nothing is held.
        """
        scope = scope_of(request, principal)
        reply = await withdrawals.withdraw(principal.id, body, scope, origin_of(request), instance=request.url.path)
        return reply_answer(reply, location=True)

    @router.get(
        "/withdrawals",
        summary="List withdrawals",
        response_model=TransactionPage,
        responses=problem_responses(400, 401, 403, 422, 429, 503),
    )
    async def list_withdrawals(
        request: Request,
        parameters: Annotated[PageParameters, Query()],
        principal: Annotated[Principal, Depends(reader)],
    ) -> Response:
        """Your withdrawals, newest first. Admins see everybody's."""
        return await page_response(request, repository, parameters, principal, kinds=["withdrawal"])

    @router.get(
        "/withdrawals/{withdrawal_id}",
        summary="Get a withdrawal",
        response_model=WithdrawalDetail,
        responses=problem_responses(401, 403, 404, 422, 429, 503),
    )
    async def get_withdrawal(withdrawal_id: UUID, principal: Annotated[Principal, Depends(reader)]) -> Response:
        """The whole withdrawal: where it goes (the last four digits), its approval, attempts and history."""
        return _json(await withdrawals.get(withdrawal_id, owner_of(principal)))

    @router.post(
        "/withdrawals/{withdrawal_id}/cancel",
        summary="Cancel a withdrawal that waits for approval",
        response_model=WithdrawalDetail,
        responses=problem_responses(
            401,
            403,
            404,
            422,
            429,
            503,
            errors=[
                Conflict(
                    "A withdrawal that is processing can be cancelled only while it waits for approval.",
                    code="not_cancellable",
                )
            ],
        ),
    )
    async def cancel_withdrawal(
        request: Request, withdrawal_id: UUID, principal: Annotated[Principal, Depends(writer)]
    ) -> Response:
        """Gives up your own withdrawal before anybody approved it. Cancelling twice is the same as once."""
        return _json(await withdrawals.cancel(withdrawal_id, principal.id, origin_of(request)))

    @router.post(
        "/withdrawals/{withdrawal_id}/approve",
        summary="Approve a withdrawal",
        response_model=TransactionView,
        responses=problem_responses(
            400, 401, 403, 404, 413, 422, 429, 502, 503, errors=[*KEY_PROBLEMS, _NOT_WAITING, _OWN, ProvidersSilent()]
        ),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def approve_withdrawal(
        request: Request, withdrawal_id: UUID, body: DecideWithdrawal, principal: Annotated[Principal, Depends(admin)]
    ) -> Response:
        """For administrators, but not for who asked for it: sends the money, and answers with the withdrawal."""
        scope, origin = scope_of(request, principal), origin_of(request)
        path = request.url.path
        reply = await withdrawals.approve(withdrawal_id, principal.id, body.reason, scope, origin, instance=path)
        return reply_answer(reply)

    @router.post(
        "/withdrawals/{withdrawal_id}/reject",
        summary="Reject a withdrawal",
        response_model=TransactionView,
        responses=problem_responses(400, 401, 403, 404, 413, 422, 429, 503, errors=[*KEY_PROBLEMS, _NOT_WAITING, _OWN]),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def reject_withdrawal(
        request: Request, withdrawal_id: UUID, body: DecideWithdrawal, principal: Annotated[Principal, Depends(admin)]
    ) -> Response:
        """For administrators, but not for who asked for it: nothing is sent, and the owner has the money back."""
        scope = scope_of(request, principal)
        return reply_answer(
            await withdrawals.reject(withdrawal_id, principal.id, body.reason, scope, origin_of(request))
        )

    @router.post(
        "/withdrawals/{withdrawal_id}/submit-otp",
        summary="Pass on the code for a transfer",
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
                Conflict("The withdrawal is completed; it does not wait for otp.", code="nothing_to_submit"),
                Conflict("The provider did not accept this.", code="not_accepted"),
            ],
        ),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def submit_transfer_otp(
        request: Request, withdrawal_id: UUID, body: SubmitTransferOtp, principal: Annotated[Principal, Depends(admin)]
    ) -> Response:
        """For administrators, since the code goes to whom the provider's account belongs. It is neither stored nor logged."""
        scope = scope_of(request, principal)
        return reply_answer(await submissions.submit(withdrawal_id, None, body.submission(), scope, origin_of(request)))

    @router.post(
        "/withdrawals/{withdrawal_id}/resolve",
        summary="Decide a withdrawal under review",
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
                _OWN,
                OwnWallet(),
            ],
        ),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def resolve_withdrawal(
        request: Request, withdrawal_id: UUID, body: ResolveWithdrawal, principal: Annotated[Principal, Depends(admin)]
    ) -> Response:
        """For administrators: whether the money went. `completed` takes it from the wallet, else the owner has it back.
        What needed approval is not decided by who asked for it."""
        scope = scope_of(request, principal)
        return reply_answer(await withdrawals.resolve(withdrawal_id, principal.id, body, scope, origin_of(request)))

    return router


def banks_router(banks: Banks, identity: IdentityService, limiter: RateLimiter, settings: Settings) -> APIRouter:
    router = APIRouter(prefix="/wallet", tags=["wallet"])
    reader = current_principal(identity, scope="wallet:read", limiter=limiter, group="read")
    writer = current_principal(identity, scope="wallet:write", limiter=limiter, group="write")
    most = settings.account_lookups_per_minute

    @router.get(
        "/banks",
        summary="List banks",
        response_model=BankList,
        responses=problem_responses(401, 403, 422, 429, 503, errors=[_LOOKUP_FAILED]),
    )
    async def list_banks(
        parameters: Annotated[BankParameters, Query()], principal: Annotated[Principal, Depends(reader)]
    ) -> Response:
        """Banks, and operators of mobile money, that a currency can be sent to: at one provider, whose codes they are."""
        return _json(await banks.list(parameters.currency, parameters.provider))

    @router.post(
        "/resolve-account",
        summary="Ask whose account it is",
        response_model=AccountHolderView,
        responses=problem_responses(400, 401, 403, 413, 422, 429, 503, errors=[_LOOKUP_FAILED]),
    )
    async def resolve_account(body: ResolveAccount, principal: Annotated[Principal, Depends(writer)]) -> Response:
        """The holder's name as the bank says, before you send anything. Seldom enough that nobody lists accounts with it."""
        state = await limiter.hit("account_lookups", principal.key(), most)
        if not state.allowed:
            raise RateLimited(f"At most {most} account lookups a minute.", retry_after=state.reset_seconds)
        provider, holder = await banks.holder(body.destination(), body.currency, body.provider)
        return _json(
            {
                "provider": provider,
                "account_name": holder.name,
                "account_number": holder.account_number,
                "bank_code": holder.bank_code,
            }
        )

    return router


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
