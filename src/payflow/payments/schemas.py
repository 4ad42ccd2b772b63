"""The bodies of the payment endpoints."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, EmailStr, Field, SecretStr, StringConstraints

from payflow.core.cards import passes_luhn
from payflow.gateway.contract import CardDetails, PaymentDetails
from payflow.transactions.examples import STARTED
from payflow.transactions.schemas import Amount, Currency, SubmitOtp, Text, metadata_of, no_card, phone_number
from payflow.transactions.views import TransactionView
from payflow.web.schemas import PLAIN_TEXT, TRIMMED_TEXT, RequestModel


def _return_url(value: str) -> str:
    """https, or http for localhost while developing; never a scheme that runs code in the customer's browser."""
    if any(character.isspace() or character == "\\" for character in value):  # `urlsplit` overlooks some of them
        raise ValueError("This is not a URL.")
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


def _digits(pattern: str, words: str) -> Any:
    """Of a secret; the error says what it should be and not what it is."""

    def check(secret: SecretStr) -> SecretStr:
        if not re.fullmatch(pattern, secret.get_secret_value()):
            raise ValueError(words)
        return secret

    return AfterValidator(check)


def _luhn(number: SecretStr) -> SecretStr:
    if not passes_luhn(number.get_secret_value()):
        raise ValueError("This is no card number.")
    return number


NUMBER, MONTH, YEAR, CVV, PIN = "[0-9]{13,19}", "0[1-9]|1[0-2]", "20[0-9]{2}", "[0-9]{3,4}", "[0-9]{4,12}"


class CardIn(RequestModel):
    """A card to charge. Only where the installation accepts it (`PAYFLOW_CARD_DETAILS_ACCEPTED`), and by no means needed: the
    provider's hosted page asks for the card too. Passed on to the provider and kept nowhere."""

    number: Annotated[
        SecretStr,
        _digits(NUMBER, "Give 13 to 19 digits, without spaces."),
        AfterValidator(_luhn),
        Field(json_schema_extra={"pattern": f"^{NUMBER}$"}),
    ]
    expiry_month: Annotated[
        SecretStr, _digits(MONTH, "Give 01 to 12."), Field(json_schema_extra={"pattern": f"^({MONTH})$"})
    ]
    expiry_year: Annotated[
        SecretStr, _digits(YEAR, "Give the year with four digits."), Field(json_schema_extra={"pattern": f"^{YEAR}$"})
    ]
    cvv: Annotated[SecretStr, _digits(CVV, "Give 3 or 4 digits."), Field(json_schema_extra={"pattern": f"^{CVV}$"})]
    pin: (
        Annotated[SecretStr, _digits(PIN, "Give 4 to 12 digits."), Field(json_schema_extra={"pattern": f"^{PIN}$"})]
        | None
    ) = Field(default=None, description="Where the card's bank wants it with the charge.")

    def details(self) -> CardDetails:
        return CardDetails(self.number, self.expiry_month, self.expiry_year, self.cvv, self.pin)


class PaymentDetailsIn(RequestModel):
    """For a direct charge, without a hosted page, where the provider offers it for the `method`. Passed on to the provider
    and kept nowhere."""

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
    card: CardIn | None = Field(default=None, description="For `card`. Refused unless the installation accepts it.")

    def details(self) -> PaymentDetails:
        card = self.card.details() if self.card else None
        return PaymentDetails(self.bank_code, self.account_number, self.operator, self.ussd_code, self.birthday, card)


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
    received: Amount | None = Field(
        default=None,
        description="What came in all, where it is not what the provider told: it is posted before the outcome is.",
    )
    attempt_reference: Annotated[str, StringConstraints(pattern=r"^att[0-9a-z]{26}$")] | None = Field(
        default=None, description="With which attempt `received` came; needed where several are under review."
    )


class RefundPayment(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"amount": "1500.00", "reason": "Returned goods"}, {}]})

    amount: Amount | None = Field(default=None, description="In major units; without it, all that is left.")
    reason: Text | None = Field(default=None, description="Yours; given to the provider where it takes one.")
    attempt_reference: Annotated[str, StringConstraints(pattern=r"^att[0-9a-z]{26}$")] | None = Field(
        default=None,
        description="Only for money in suspense, such as a second payment of the same, or what was rejected in review: the "
        "`reference` of the attempt to give back.",
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
