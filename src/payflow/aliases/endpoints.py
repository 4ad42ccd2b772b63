"""The older names that people know: each is its use case under another address, marked deprecated, with a Link to the new one.

POST /payments/initiate       POST /payments/initialize, with `provider_preference` for `provider`, and `visa` for a card
POST /payments/verify         POST /payments/{id}/verify, by reference
POST /payments/submit_otp     POST /payments/{id}/submit-otp, by reference
POST /wallet/flutterwave/fund POST /wallet/fund, at Flutterwave
POST /wallet/flutterwave/withdraw POST /wallet/withdraw, at Flutterwave
GET  /ping-rabbitmq           GET /health/ready, of the queue alone
POST /webhooks/payment        POST /webhooks/{provider}: the signature's header says which (see `webhooks.endpoints`)
GET  /api/v1/docs             GET /docs (see `web.docs`)
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from payflow.core.errors import NotFound, Unavailable
from payflow.idempotency.service import IdempotencyService
from payflow.identity.dependencies import current_principal
from payflow.identity.principals import Principal
from payflow.identity.service import IdentityService
from payflow.payments.endpoints import (
    KEY_DOCUMENTED,
    KEY_PROBLEMS,
    ExactNumbers,
    origin_of,
    owner_of,
    payment_answer,
    reply_answer,
)
from payflow.payments.schemas import InitializedPayment, InitializePayment, SubmitOtp
from payflow.payments.service import PaymentService
from payflow.payouts.endpoints import WITHDRAW_RESPONSES
from payflow.payouts.schemas import Withdraw
from payflow.payouts.service import WithdrawalService
from payflow.transactions.repository import TransactionRepository
from payflow.transactions.submissions import Submissions
from payflow.transactions.views import TransactionDetail, TransactionView
from payflow.wallets.service import WalletFrozen, WalletService
from payflow.web.problems import problem_responses
from payflow.web.rate_limits import RateLimiter
from payflow.web.schemas import RequestModel

CARD_NAMES = frozenset({"visa", "mastercard", "card"})

Reference = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]{16,50}$"),
    Field(description="The payment's `reference`.", examples=["pay01m7yqggjzfs1a3vfakgqbn0x5"]),
]


class InitiatePayment(InitializePayment):
    """As for `/payments/initialize`, with the provider under its older name."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "provider_preference": "paystack",
                    "amount": "5000.00",
                    "currency": "NGN",
                    "customer": {"email": "ada@example.com"},
                }
            ]
        }
    )

    provider_preference: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{1,40}$")] | None = Field(
        default=None, description="`visa` means: by card, at whoever takes it.", examples=["paystack"]
    )

    def as_initialize(self) -> InitializePayment:
        values = self.model_dump(exclude={"provider_preference"}, exclude_unset=True)
        name = self.provider or self.provider_preference
        if name in CARD_NAMES:
            values |= {"provider": None, "method": self.method or "card"}
        elif name is not None:
            values |= {"provider": name}
        return InitializePayment.model_validate(values)


class FundAtFlutterwave(InitializePayment):
    """As for `/wallet/fund`; the address names the provider."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"amount": "150.50", "currency": "GHS", "customer": {"email": "kofi@example.com"}}]
        }
    )

    provider: Literal["flutterwave"] | None = Field(default=None, description="Flutterwave in any case.")

    def as_initialize(self) -> InitializePayment:
        values = self.model_dump(exclude_unset=True)
        return InitializePayment.model_validate({**values, "provider": "flutterwave"})


class WithdrawAtFlutterwave(Withdraw):
    """As for `/wallet/withdraw`, without the provider: the address names it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "amount": "1500.00",
                    "currency": "NGN",
                    "destination": {
                        "type": "bank_account",
                        "bank_code": "044",
                        "account_number": "0690000032",
                        "account_name": "Ada Obi",
                    },
                }
            ]
        }
    )

    provider: Literal["flutterwave"] | None = Field(default=None, description="Flutterwave in any case.")

    def as_withdraw(self) -> Withdraw:
        return Withdraw.model_validate({**self.model_dump(exclude_unset=True), "provider": "flutterwave"})


class ByReference(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"reference": "pay01m7yqggjzfs1a3vfakgqbn0x5"}]})

    reference: Reference


class SubmitOtpByReference(SubmitOtp):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"reference": "pay01m7yqggjzfs1a3vfakgqbn0x5", "otp": "123456"}]},
        hide_input_in_errors=True,
    )

    reference: Reference


class Pong(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: str


def aliases_router(
    payments: PaymentService,
    submissions: Submissions,
    wallets: WalletService,
    withdrawals: WithdrawalService,
    repository: TransactionRepository,
    idempotency: IdempotencyService,
    identity: IdentityService,
    limiter: RateLimiter,
    ping_queue: Callable[[], Awaitable[object]],
) -> APIRouter:
    """Before the routers of the rooms: `/payments/verify` would else be read as the id of a payment."""
    router = APIRouter(tags=["aliases"], route_class=ExactNumbers, deprecated=True)
    writer = current_principal(identity, scope="payments:write", limiter=limiter, group="write")

    wallet_writer = current_principal(identity, scope="wallet:write", limiter=limiter, group="write")

    def scope_of(request: Request, principal: Principal, path: str) -> Any:
        """The key's scope is that of the new address, so that a repeat under either name is the same request."""
        return idempotency.scope(principal.key(), "POST", path, request.headers.get("idempotency-key"))

    async def id_of(reference: str, principal: Principal) -> UUID:
        found = await repository.id_of_reference(reference, owner_of(principal))
        if found is None:
            raise NotFound("There is no such payment, or it is not yours.")
        return found

    @router.post(
        "/payments/initiate",
        status_code=201,
        summary="Start a payment (older name)",
        response_model=InitializedPayment,
        responses=problem_responses(400, 401, 403, 409, 413, 422, 429, 502, 503, errors=KEY_PROBLEMS),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def initiate(
        request: Request, body: InitiatePayment, principal: Annotated[Principal, Depends(writer)]
    ) -> Response:
        """Use `POST /payments/initialize`."""
        path = request.url.path.removesuffix("initiate") + "initialize"
        scope = scope_of(request, principal, path)
        reply = await payments.initialize(
            principal.id, body.as_initialize(), scope, origin_of(request), instance=request.url.path
        )
        return _successor(reply_answer(reply, location=True), path)

    @router.post(
        "/payments/verify",
        summary="Ask the provider now (older name)",
        response_model=TransactionDetail,
        responses=problem_responses(400, 401, 403, 404, 413, 422, 429, 503),
    )
    async def verify(request: Request, body: ByReference, principal: Annotated[Principal, Depends(writer)]) -> Response:
        """Use `POST /payments/{payment_id}/verify`."""
        payment_id = await id_of(body.reference, principal)
        answer = payment_answer(await payments.verify(payment_id, owner_of(principal), origin_of(request)))
        return _successor(answer, request.url.path.removesuffix("verify") + f"{payment_id}/verify")

    @router.post(
        "/payments/submit_otp",
        summary="Pass on what the customer was asked for (older name)",
        response_model=TransactionView,
        responses=problem_responses(400, 401, 403, 404, 409, 413, 422, 429, 502, 503, errors=KEY_PROBLEMS),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def submit_otp(
        request: Request, body: SubmitOtpByReference, principal: Annotated[Principal, Depends(writer)]
    ) -> Response:
        """Use `POST /payments/{payment_id}/submit-otp`."""
        payment_id = await id_of(body.reference, principal)
        path = request.url.path.removesuffix("submit_otp") + f"{payment_id}/submit-otp"
        scope = scope_of(request, principal, path)
        reply = await submissions.submit(payment_id, owner_of(principal), body.submission(), scope, origin_of(request))
        return _successor(reply_answer(reply), path)

    @router.post(
        "/wallet/flutterwave/fund",
        status_code=201,
        summary="Fund a wallet at Flutterwave (older name)",
        response_model=InitializedPayment,
        responses=problem_responses(
            400, 401, 403, 409, 413, 422, 429, 502, 503, errors=[*KEY_PROBLEMS, WalletFrozen()]
        ),
        openapi_extra=KEY_DOCUMENTED,
    )
    async def fund_at_flutterwave(
        request: Request, body: FundAtFlutterwave, principal: Annotated[Principal, Depends(wallet_writer)]
    ) -> Response:
        """Use `POST /wallet/fund`."""
        path = request.url.path.removesuffix("flutterwave/fund") + "fund"
        scope = scope_of(request, principal, path)
        reply = await wallets.fund(
            principal.id, body.as_initialize(), scope, origin_of(request), instance=request.url.path
        )
        return _successor(reply_answer(reply, location=True), path)

    @router.post(
        "/wallet/flutterwave/withdraw",
        status_code=201,
        summary="Withdraw from a wallet at Flutterwave (older name)",
        response_model=TransactionView,
        responses=WITHDRAW_RESPONSES,
        openapi_extra=KEY_DOCUMENTED,
    )
    async def withdraw_at_flutterwave(
        request: Request, body: WithdrawAtFlutterwave, principal: Annotated[Principal, Depends(wallet_writer)]
    ) -> Response:
        """Use `POST /wallet/withdraw`."""
        path = request.url.path.removesuffix("flutterwave/withdraw") + "withdraw"
        scope = scope_of(request, principal, path)
        reply = await withdrawals.withdraw(
            principal.id, body.as_withdraw(), scope, origin_of(request), instance=request.url.path
        )
        return _successor(reply_answer(reply, location=True), path)

    @router.get(
        "/ping-rabbitmq",
        summary="Is the queue there? (older name)",
        response_model=Pong,
        responses=problem_responses(503),
    )
    async def ping_rabbitmq(request: Request) -> Pong:
        """Use `GET /health/ready`."""
        try:
            await ping_queue()
        except Exception as error:
            raise Unavailable("The queue does not answer; webhooks are spooled meanwhile.", retry_after=5) from error
        return Pong(status="ok")

    return router


def _successor(answer: Response, path: str) -> Response:
    answer.headers["deprecation"] = "true"
    answer.headers["link"] = f'<{path}>; rel="successor-version"'
    return answer
