"""The bodies of the payment endpoints."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import orjson
import phonenumbers
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    Field,
    SecretStr,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from payflow.core.cards import holds_card_number
from payflow.core.money import MoneyError, exponent
from payflow.gateway.contract import SUBMITTABLE, ActionType, Submission
from payflow.transactions.examples import STARTED
from payflow.transactions.views import TransactionView
from payflow.web.schemas import PLAIN_TEXT, TRIMMED_TEXT, PlainSecret, RequestModel

MAX_METADATA_BYTES = 8_192
MAX_METADATA_KEYS = 50
MAX_AMOUNT = 10_000_000_000
DECIMAL_TEXT = re.compile(r"[0-9]{1,10}(\.[0-9]{1,4})?")


def _amount(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValueError('Give a number or a decimal string, such as 5000 or "5000.50".')
    if isinstance(value, str) and not DECIMAL_TEXT.fullmatch(
        value
    ):  # Decimal itself also reads "1_000", " 5" and "NaN"
        raise ValueError('Give plain digits with at most 4 decimals, such as "5000.50".')
    return value


def _currency(value: str) -> str:
    try:
        exponent(value)
    except MoneyError as error:
        raise ValueError(str(error)) from None
    return value


def _phone(value: str) -> str:
    try:
        number = phonenumbers.parse(value, None)
    except phonenumbers.NumberParseException:
        raise ValueError("Give the phone number with its country code, such as +254708374149.") from None
    if not phonenumbers.is_possible_number(number):
        raise ValueError("This cannot be a phone number.")
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


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


def _no_card(value: Any) -> Any:
    """Card numbers are nobody's to keep here, and what is kept is given back: better refused than stored."""
    if holds_card_number(value):
        raise ValueError("This holds what looks like a card number; never send one here.")
    return value


def _metadata(value: Mapping[str, Any]) -> Any:
    if len(value) > MAX_METADATA_KEYS:
        raise ValueError(f"At most {MAX_METADATA_KEYS} keys.")
    stored = _storable(value, depth=0)
    _no_card(stored)
    if len(orjson.dumps(stored)) > MAX_METADATA_BYTES:
        raise ValueError(f"At most {MAX_METADATA_BYTES} bytes of JSON.")
    return stored


def _storable(value: Any, depth: int) -> Any:
    """What jsonb can hold and any JSON reader can read back: no NUL, no lone surrogate, no number out of range."""
    if depth > 16:
        raise ValueError("Nested too deeply.")
    if isinstance(value, str):
        if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("Text must not hold NUL or lone surrogates.")
        return value
    if isinstance(value, Decimal):  # numbers were read exactly, for the amount's sake; here they are only numbers
        value = float(value)
        if not math.isfinite(value):
            raise ValueError("A number is out of range.")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("A number is out of range.")
    if isinstance(value, Mapping):
        return {_storable(key, depth + 1): _storable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item, depth + 1) for item in value]
    return value


Amount = Annotated[
    Decimal,
    BeforeValidator(_amount),
    Field(gt=0, le=MAX_AMOUNT),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_AMOUNT},
                {"type": "string", "pattern": r"^(?!0+(\.0+)?$)[0-9]{1,10}(\.[0-9]{1,4})?$"},
            ],
            "description": "In major units, with no more decimals than the currency has.",
            "examples": ["5000.00"],
        }
    ),
]
Currency = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Z]{3}$"),
    AfterValidator(_currency),
    Field(description="ISO 4217.", examples=["NGN"]),
]
Text = Annotated[str, StringConstraints(pattern=TRIMMED_TEXT, min_length=1, max_length=200), AfterValidator(_no_card)]


Given = Annotated[PlainSecret, Field(min_length=1, max_length=200)]


class CustomerIn(RequestModel):
    """Who pays. Providers differ in what they need: Paystack an email address, M-Pesa a phone number."""

    email: EmailStr | None = Field(default=None, max_length=254, examples=["ada@example.com"])
    phone: Annotated[str, StringConstraints(max_length=32), AfterValidator(_phone)] | None = Field(
        default=None, description="With country code.", examples=["+254708374149"]
    )
    name: Text | None = Field(default=None, examples=["Ada Obi"])


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
    description: Text | None = Field(default=None, examples=["Order 1234"])
    metadata: Annotated[dict[str, Any], AfterValidator(_metadata)] = Field(
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
        Annotated[str, StringConstraints(pattern=TRIMMED_TEXT, min_length=1, max_length=128), AfterValidator(_no_card)]
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


class SubmitOtp(RequestModel):
    """Exactly one of these: what the payment's `next_action.type` names."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"otp": "123456"}]}, hide_input_in_errors=True)

    otp: Given | None = Field(default=None, description="The code the customer was sent.", examples=["123456"])
    pin: Given | None = Field(default=None, description="The card's or account's PIN.")
    phone: Given | None = Field(default=None, description="The phone number the provider asked for.")
    birthday: Given | None = Field(default=None, description="Date of birth, YYYY-MM-DD.")
    address: Given | None = Field(default=None, description="The billing address the provider asked for.")

    @model_validator(mode="after")
    def _exactly_one(self) -> "SubmitOtp":
        if sum(value is not None for value in self.given().values()) != 1:
            raise ValueError("Give exactly one of otp, pin, phone, birthday and address.")
        return self

    def given(self) -> dict[ActionType, SecretStr | None]:
        return {type: getattr(self, type.value) for type in sorted(SUBMITTABLE)}

    def submission(self) -> Submission:
        return next(Submission(type, value) for type, value in self.given().items() if value is not None)


__all__ = ["CustomerIn", "InitializePayment", "InitializedPayment", "ResolvePayment", "SubmitOtp"]
