"""The bodies of the withdrawal endpoints."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from payflow.gateway.contract import ActionType, Destination, DestinationType, Submission
from payflow.transactions import examples
from payflow.transactions.schemas import Amount, Currency, Given, Text, metadata_of, no_card, phone_number
from payflow.transactions.views import TransactionDetail
from payflow.web.schemas import TRIMMED_TEXT, RequestModel

BankCode = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,20}$")]
AccountNumber = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{4,34}$"), AfterValidator(no_card)]
Phone = Annotated[str, StringConstraints(max_length=32), AfterValidator(phone_number)]
ProviderName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{1,40}$")]
Reason = Annotated[str, StringConstraints(pattern=TRIMMED_TEXT, min_length=3, max_length=500)]


class _Account(RequestModel):
    type: Literal["bank_account", "mobile_money"]
    bank_code: BankCode | None = Field(
        default=None, description="From `GET /wallet/banks`; for mobile money the operator.", examples=["057"]
    )
    account_number: AccountNumber | None = Field(
        default=None, description="For `bank_account`.", examples=["0123456789"]
    )
    phone: Phone | None = Field(
        default=None, description="For `mobile_money`, with country code.", examples=["+254708374149"]
    )

    @model_validator(mode="after")
    def _whole(self) -> "_Account":
        if self.type == "bank_account" and not (self.bank_code and self.account_number):
            raise ValueError("A bank account needs bank_code and account_number.")
        if self.type == "mobile_money" and not self.phone:
            raise ValueError("Mobile money needs a phone.")
        return self


class DestinationIn(_Account):
    """Where the money goes. Kept apart from the books, and shown with its last four digits only."""

    account_name: Text | None = Field(
        default=None, description="Whose it is; some providers demand it.", examples=["Ada Obi"]
    )

    def destination(self) -> Destination:
        return Destination(
            DestinationType(self.type), self.account_name, self.bank_code, self.account_number, self.phone
        )


class Withdraw(RequestModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "amount": "1500.00",
                    "currency": "NGN",
                    "destination": {
                        "type": "bank_account",
                        "bank_code": "057",
                        "account_number": "0123456789",
                        "account_name": "Ada Obi",
                    },
                    "provider": "paystack",
                    "description": "Payout for November",
                    "metadata": {"invoice": "77"},
                },
                {
                    "amount": 500,
                    "currency": "KES",
                    "destination": {"type": "mobile_money", "phone": "+254708374149"},
                },
            ]
        }
    )

    amount: Amount
    currency: Currency
    destination: DestinationIn
    provider: ProviderName | None = Field(
        default=None, description="Without it, the first in order of those that can send it.", examples=["paystack"]
    )
    description: Text | None = Field(default=None, examples=["Payout for November"])
    metadata: Annotated[dict[str, Any], AfterValidator(metadata_of)] = Field(
        default_factory=dict,
        description="Yours; given back as it is. At most 50 keys and 8 KiB, and no card numbers.",
        max_length=50,
    )


class DestinationView(BaseModel):
    """Where the money goes, with nothing but the last four digits."""

    type: Literal["bank_account", "mobile_money"]
    account_name: str | None
    bank_code: str | None
    account_number: str | None = Field(examples=["******6789"])
    phone: str | None


class ApprovalView(BaseModel):
    """Whether somebody else has to let the withdrawal go, and has."""

    decision: Literal["approved", "rejected"] | None = Field(description="null while nobody has decided.")
    reason: str | None
    requested_at: datetime
    decided_at: datetime | None


_TIMELINE = [examples.EVENTS[name].example for name in ("withdrawal.initiated", "wallet.held", "withdrawal.processing")]
STARTED: dict[str, Any] = {
    **examples.STARTED,
    **_TIMELINE[0]["data"],
    "kind": "withdrawal",
    "status": "processing",
    "method": "bank_account",
    "description": "Payout for November",
    "customer": {"email": None, "phone": None, "name": None},
    "customer_id": None,
    "metadata": {"invoice": "77"},
    "return_url": None,
    "next_action": None,
    "checkout_url": None,
    "version": 3,
}
_DETAIL: dict[str, Any] = {
    **STARTED,
    "attempts": [
        {
            **examples.ATTEMPT,
            "operation": "payout",
            "provider_references": ["TRF_v5tip3zx8nna9o78"],
            "status": "processing",
            "amount_minor": 150_000,
            "paid_minor": None,
            "paid_currency": None,
            "fee_minor": None,
            "raw_status": "pending",
        }
    ],
    "refunds": [],
    "timeline": _TIMELINE,
    "destination": {
        "type": "bank_account",
        "account_name": "Ada Obi",
        "bank_code": "057",
        "account_number": "******6789",
        "phone": None,
    },
    "approval": None,
}


class WithdrawalDetail(TransactionDetail):
    """The whole withdrawal: with its destination, approval, attempts and history."""

    model_config = ConfigDict(json_schema_extra={"examples": [_DETAIL]})

    destination: DestinationView | None = Field(description="null once it was erased.")
    approval: ApprovalView | None = Field(description="null where none was needed.")


class DecideWithdrawal(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "Checked against the invoice."}]})

    reason: Reason = Field(description="Why; it is kept in the history.", examples=["Checked against the invoice."])


class ResolveWithdrawal(RequestModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"outcome": "completed", "reason": "The bank confirmed the transfer."}]}
    )

    outcome: Literal["completed", "failed", "reversed"]
    reason: Reason = Field(description="Why; it is kept in the history.", examples=["The bank confirmed the transfer."])


class SubmitTransferOtp(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"otp": "123456"}]}, hide_input_in_errors=True)

    otp: Given = Field(description="The code that the provider sent to its merchant.", examples=["123456"])

    def submission(self) -> Submission:
        return Submission(ActionType.OTP, self.otp)


class BankParameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    currency: Currency
    provider: ProviderName | None = Field(
        default=None, description="Without it, the first in order that lists banks of the currency."
    )


class BankView(BaseModel):
    code: str = Field(description="The provider's own: give it as `bank_code` with the same provider.")
    name: str
    type: Literal["bank_account", "mobile_money"]


class BankList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "provider": "paystack",
                    "currency": "NGN",
                    "data": [{"code": "057", "name": "Zenith Bank", "type": "bank_account"}],
                }
            ]
        }
    )

    provider: str
    currency: str
    data: list[BankView]


class ResolveAccount(_Account):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "bank_account",
                    "bank_code": "057",
                    "account_number": "0123456789",
                    "currency": "NGN",
                    "provider": "paystack",
                }
            ]
        }
    )

    currency: Currency
    provider: ProviderName | None = None

    def destination(self) -> Destination:
        return Destination(DestinationType(self.type), None, self.bank_code, self.account_number, self.phone)


class AccountHolderView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "provider": "paystack",
                    "account_name": "ADA OBI",
                    "account_number": "0123456789",
                    "bank_code": "057",
                }
            ]
        }
    )

    provider: str
    account_name: str = Field(description="Whose account it is, as the bank says.")
    account_number: str
    bank_code: str
