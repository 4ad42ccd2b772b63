"""What the bodies of every room that starts a transaction are made of."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

import orjson
import phonenumbers
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from payflow.core.cards import holds_card_number
from payflow.core.money import MoneyError, exponent
from payflow.gateway.contract import SUBMITTABLE, ActionType, Submission
from payflow.web.schemas import TRIMMED_TEXT, PlainSecret, RequestModel

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


def phone_number(value: str) -> str:
    try:
        number = phonenumbers.parse(value, None)
    except phonenumbers.NumberParseException:
        raise ValueError("Give the phone number with its country code, such as +254708374149.") from None
    if not phonenumbers.is_possible_number(number):
        raise ValueError("This cannot be a phone number.")
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


def no_card(value: Any) -> Any:
    """Card numbers are nobody's to keep here, and what is kept is given back: better refused than stored."""
    if holds_card_number(value):
        raise ValueError("This holds what looks like a card number; never send one here.")
    return value


def metadata_of(value: Mapping[str, Any]) -> Any:
    if len(value) > MAX_METADATA_KEYS:
        raise ValueError(f"At most {MAX_METADATA_KEYS} keys.")
    stored = _storable(value, depth=0)
    no_card(stored)
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
Text = Annotated[str, StringConstraints(pattern=TRIMMED_TEXT, min_length=1, max_length=200), AfterValidator(no_card)]


Given = Annotated[PlainSecret, Field(min_length=1, max_length=200)]


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
