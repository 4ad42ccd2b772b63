"""The bodies of the payment endpoints."""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, EmailStr, Field, SecretStr, StringConstraints

from payflow.gateway.contract import PaymentDetails
from payflow.transactions.examples import STARTED
from payflow.transactions.schemas import Amount, Currency, SubmitOtp, Text, metadata_of, no_card, phone_number
from payflow.transactions.views import TransactionView
from payflow.web.schemas import PLAIN_TEXT, TRIMMED_TEXT, RequestModel


def _return_url(value: str) -> str:
    """https, or http for localhost while developing; never a scheme that runs code in the customer's browser."""
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("This is not a URL.") from None
    local = host in ("localhost", "127.0.0.1", "::1")
    if (
        not host
        or parts.username
        or parts.password
        or not (parts.scheme == "https" or (parts.scheme == "http" and local))
    ):
        raise ValueError("Give an https URL (http only for localhost), without user and password.")
    return value


class CustomerIn(RequestModel):
    """Who pays. Providers differ in what they need: Paystack an email address, M-Pesa a phone number."""

    email: EmailStr | None = Field(default=None, max_length=254, examples=["ada@example.com"])
    phone: Annotated[str, StringConstraints(max_length=32), AfterValidator(phone_number)] | None = Field(
        default=None, description="With country code.", examples=["+254708374149"]
    )
    name: Text | None = Field(default=None, examples=["Ada Obi"])


class PaymentDetailsIn(RequestModel):
    """For a direct charge, without a hosted page, where the provider offers it for the `method`. Passed on to the provider
    and kept nowhere. Never card data."""

    model_config = ConfigDict(hide_input_in_errors=True)

    bank_code: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,20}$")] | None = Field(
        default=None, description="For `bank`: the provider's code.", examples=["057"]
    )
    account_number: Annotated[SecretStr, Field(min_length=4, max_length=34)] | None = Field(
        default=None, description="For `bank`."
    )
    operator: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,20}$")] | None = Field(
        default=None, description="For `mobile_money`: the provider's code.", examples=["mtn"]
    )
    ussd_code: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,6}$")] | None = Field(
        default=None, description="For `ussd`.", examples=["737"]
    )
    birthday: Annotated[SecretStr, Field(min_length=10, max_length=10)] | None = Field(
        default=None, description="Date of birth, YYYY-MM-DD, where a bank demands it."
    )

    def details(self) -> PaymentDetails:
        return PaymentDetails(self.bank_code, self.account_number, self.operator, self.ussd_code, self.birthday)


class InitializePayment(RequestModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "provider": "paystack",
                    "amount": "5000.00",
                    "currency": "NGN",
                    "customer": {"email": "ada@example.com", "name": "Ada Obi"},
                    "description": "Order 1234",
                    "metadata": {"order": "1234"},
                    "return_url": "https://shop.example/return",
                    "customer_id": "customer-7",
                },
                {"provider": "mpesa", "amount": 250, "currency": "KES", "customer": {"phone": "+254708374149"}},
            ]
        }
    )

    provider: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{1,40}$")] | None = Field(
        default=None, description="Without it, the best of those that can take the payment.", examples=["paystack"]
    )
    amount: Amount
    currency: Currency
    customer: CustomerIn = Field(default_factory=CustomerIn)
    method: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}$")] | None = Field(default=None, examples=["card"])
    payment_details: PaymentDetailsIn | None = Field(
        default=None, description="For a direct charge of `method` instead of a hosted page."
    )
    description: Text | None = Field(default=None, examples=["Order 1234"])
    metadata: Annotated[dict[str, Any], AfterValidator(metadata_of)] = Field(
        default_factory=dict,
        description="Yours; given back as it is. At most 50 keys and 8 KiB, and no card numbers.",
        max_length=50,
    )
    return_url: (
        Annotated[str, StringConstraints(max_length=2_000, pattern=PLAIN_TEXT), AfterValidator(_return_url)] | None
    ) = Field(
        default=None,
        description="Where the customer's browser goes after a hosted page.",
        examples=["https://shop.example/return"],
    )
    customer_id: (
        Annotated[str, StringConstraints(pattern=TRIMMED_TEXT, min_length=1, max_length=128), AfterValidator(no_card)]
        | None
    ) = Field(default=None, description="Your own id of the customer; you can list by it.", examples=["customer-7"])


class InitializedPayment(TransactionView):
    model_config = ConfigDict(json_schema_extra={"examples": [{**STARTED, "client_token": "pf_client_AaH9x4IFeIG…"}]})

    client_token: str = Field(description="Lets the customer's browser watch this one payment on the socket.")


class ResolvePayment(RequestModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"outcome": "completed", "reason": "The bank confirmed the transfer by phone."}]
        }
    )

    outcome: Literal["completed", "failed", "refunded", "reversed"]
    reason: Annotated[str, StringConstraints(pattern=TRIMMED_TEXT, min_length=3, max_length=500)] = Field(
        description="Why; it is kept in the history.", examples=["The bank confirmed the transfer by phone."]
    )


class RefundPayment(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"amount": "1500.00", "reason": "Returned goods"}, {}]})

    amount: Amount | None = Field(default=None, description="In major units; without it, all that is left.")
    reason: Text | None = Field(default=None, description="Yours; given to the provider where it takes one.")
    attempt_reference: Annotated[str, StringConstraints(pattern=r"^att[0-9a-z]{26}$")] | None = Field(
        default=None, description="Only for a second payment of the same: the `reference` of the attempt to give back."
    )


class ResolveRefund(RequestModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"outcome": "completed", "reason": "The customer has the money."}]}
    )

    outcome: Literal["completed", "failed"]
    reason: Annotated[str, StringConstraints(pattern=TRIMMED_TEXT, min_length=3, max_length=500)] = Field(
        description="Why; it is kept in the history.", examples=["The customer has the money."]
    )


__all__ = [
    "CustomerIn",
    "InitializePayment",
    "InitializedPayment",
    "RefundPayment",
    "ResolvePayment",
    "ResolveRefund",
    "SubmitOtp",
]
