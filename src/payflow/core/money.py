"""Money: an integer of minor units and an ISO 4217 currency. No float touches an amount."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from functools import lru_cache

from iso4217 import Currency

MAX_MINOR = 10**15  # far above any payment, far below BIGINT: sums cannot overflow


class MoneyError(ValueError):
    """The amount or the currency cannot be used."""


@lru_cache(maxsize=256)
def exponent(currency: str) -> int:
    """Decimals of an ISO 4217 currency (JPY 0, NGN 2, KWD 3). MoneyError for XAU and unknown codes."""
    try:
        decimals = Currency(currency).exponent
    except ValueError:
        raise MoneyError(f"{currency!r} is not an ISO 4217 currency code.") from None
    if decimals is None:
        raise MoneyError(f"{currency} has no minor unit and cannot be used for payments.")
    return int(decimals)


@dataclass(frozen=True, slots=True, order=False)
class Money:
    """`Money(500000, "NGN")` is five thousand naira."""

    minor: int
    currency: str

    @classmethod
    def parse(cls, amount: Decimal | str | int, currency: str) -> "Money":
        """From a decimal amount in major units. MoneyError: too many decimals for the currency, or not positive."""
        places = exponent(currency)
        try:
            value = Decimal(amount)
        except InvalidOperation:
            raise MoneyError("The amount is not a decimal number.") from None
        if not value.is_finite():
            raise MoneyError("The amount is not a finite number.")
        if abs(value) > MAX_MINOR:
            raise MoneyError("The amount is too large.")
        # Exactly: with the default precision a digit far behind would be rounded away instead of refused.
        scaled = value.scaleb(places, Context(prec=max(28, len(value.as_tuple().digits))))
        if scaled != scaled.to_integral_value():
            raise MoneyError(f"{currency} amounts have at most {places} decimals.")
        minor = int(scaled)
        if minor <= 0:
            raise MoneyError("The amount must be greater than zero.")
        if minor > MAX_MINOR:
            raise MoneyError("The amount is too large.")
        return cls(minor, currency)

    def decimal_text(self) -> str:
        """`"5000.00"`: the amount in major units with exactly the currency's decimals."""
        return format_minor(self.minor, self.currency)

    def to_provider(self, overrides: Mapping[str, int]) -> int:
        """Minor units as a provider counts them, whose exponent may differ from ISO 4217.

        MoneyError when the amount cannot be said in the provider's unit (a cent of a currency it counts in wholes).
        """
        shift = overrides.get(self.currency, exponent(self.currency)) - exponent(self.currency)
        step = int(10 ** abs(shift))
        if shift >= 0:
            return self.minor * step
        quotient, rest = divmod(self.minor, step)
        if rest:
            raise MoneyError(f"The provider takes {self.currency} only in steps of {step} minor units.")
        return quotient

    @classmethod
    def from_provider(cls, minor: int, currency: str, overrides: Mapping[str, int]) -> "Money":
        """The reverse of `to_provider`."""
        shift = overrides.get(currency, exponent(currency)) - exponent(currency)
        step = int(10 ** abs(shift))
        if shift <= 0:
            return cls(minor * step, currency)
        quotient, rest = divmod(minor, step)
        if rest:
            raise MoneyError(f"{minor} of the provider's unit is no whole minor unit of {currency}.")
        return cls(quotient, currency)


def format_minor(minor: int, currency: str) -> str:
    places = exponent(currency)
    if places == 0:
        return str(minor)
    sign = "-" if minor < 0 else ""
    digits = str(abs(minor)).rjust(places + 1, "0")
    return f"{sign}{digits[:-places]}.{digits[-places:]}"
