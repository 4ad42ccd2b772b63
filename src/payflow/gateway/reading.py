"""What adapters share in reading a provider's words: text fit to be stored, amounts, and the failures every provider knows.

What an answer means stays each adapter's own.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from payflow.core.money import MAX_MINOR, Money, MoneyError
from payflow.gateway.contract import Failure, Result, Verdict
from payflow.gateway.http import Answer, NotSent, OutcomeUnknown, Unreadable

INVALID = Failure("invalid_request", "The payment provider does not accept this payment's details.")
SETUP = Failure("configuration_error", "The payment provider is not set up correctly.")
NO_ACCESS = Failure("authentication_failed", "The payment provider does not accept our credentials.")
TOO_MANY = Failure("rate_limited", "The payment provider is busy. Please try again shortly.")
UNREACHABLE = Failure("provider_unreachable", "The payment provider cannot be reached.")
DECLINED = Failure("declined", "The payment was declined.")


def silence(error: NotSent | OutcomeUnknown | Unreadable) -> Result:
    """An order without a readable answer. A question has no such difference: it is unknown in each case."""
    if isinstance(error, NotSent):
        return Result(Verdict.NOT_SENT, raw_status=str(error), failure=UNREACHABLE)
    return Result(Verdict.UNKNOWN, raw_status=str(error))


def told(failure: Failure, word: str) -> Failure:
    """The failure in our words, with the provider's own beside it."""
    return Failure(failure.code, failure.message, word or None)


def word(value: Any, limit: int = 200) -> str:
    """Foreign text, if it is fit to be stored; else nothing."""
    return value if isinstance(value, str) and value.isprintable() and len(value) <= limit else ""


def web_address(value: Any) -> str:
    """An http or https URL that a customer may be sent to; else nothing."""
    url = word(value, 2_000)
    return url if url.startswith(("https://", "http://")) else ""


def number(value: Any) -> int | None:
    """A whole number, none below zero, whether it is written as 10000 or as "10000"."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    return value if type(value) is int and value >= 0 else None


def minor_units(value: Any, currency: Any, exponents: Mapping[str, int]) -> Money:
    """Whole units as the provider counts them. Unreadable for anything else."""
    if type(value) is not int or not 0 <= value <= MAX_MINOR or not isinstance(currency, str):
        raise Unreadable("an amount that is not whole minor units of a currency")
    try:
        return Money.from_provider(value, currency.upper(), exponents)
    except MoneyError as error:
        raise Unreadable(str(error)) from None


def major_units(value: Any, currency: Any) -> Money:
    """5, 5.00 or "5.00" of a currency. Unreadable for anything else, for floats too: read numbers as Decimal."""
    if type(value) not in (int, Decimal, str) or not isinstance(currency, str):
        raise Unreadable("no amount")
    try:
        return Money.parse(value, currency.upper())
    except MoneyError as error:
        raise Unreadable(str(error)) from None


def object_or_nothing(answer: Answer) -> dict[str, Any]:
    """The body, or nothing where it is empty or HTML: then the status has to do."""
    try:
        return answer.json_object()
    except Unreadable:
        return {}
