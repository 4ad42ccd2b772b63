from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payflow.core.money import MAX_MINOR, Money, MoneyError, exponent, format_minor


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("5000.00", "NGN", 500_000),
        (Decimal("0.1"), "USD", 10),
        (5000, "JPY", 5_000),
        ("1.234", "KWD", 1_234),
        (Decimal("1E+3"), "NGN", 100_000),
        ("19.990", "USD", 1_999),
        ("0.01", "USD", 1),
        ("10000000000000", "USD", MAX_MINOR),
    ],
)
def test_an_amount_is_read_exactly(amount: Decimal | str | int, currency: str, minor: int) -> None:
    assert Money.parse(amount, currency) == Money(minor, currency)


@pytest.mark.parametrize(
    ("amount", "currency", "reason"),
    [
        ("19.999", "USD", "at most 2 decimals"),
        ("0.5", "JPY", "at most 0 decimals"),
        ("1.2345", "KWD", "at most 3 decimals"),
        # One digit more than a decimal context holds by default, which would have rounded it away.
        ("10.000000000000000000000000001", "USD", "at most 2 decimals"),
        (Decimal("1E-999999"), "USD", "at most 2 decimals"),
        ("0", "USD", "greater than zero"),
        ("-1", "USD", "greater than zero"),
        ("1E+400", "USD", "too large"),
        ("-1E+400", "USD", "too large"),
        ("10000000000000.01", "USD", "too large"),
        ("NaN", "USD", "finite"),
        ("Infinity", "USD", "finite"),
        ("five", "USD", "not a decimal"),
        ("1", "XAU", "no minor unit"),
        ("1", "ZZZ", "not an ISO 4217"),
        ("1", "usd", "not an ISO 4217"),
    ],
)
def test_an_amount_that_is_no_payment_is_refused(amount: str | Decimal, currency: str, reason: str) -> None:
    with pytest.raises(MoneyError, match=reason):
        Money.parse(amount, currency)


@pytest.mark.parametrize(
    ("currency", "decimals"), [("JPY", 0), ("XOF", 0), ("UGX", 0), ("NGN", 2), ("KES", 2), ("KWD", 3), ("TND", 3)]
)
def test_decimals_follow_iso_4217(currency: str, decimals: int) -> None:
    assert exponent(currency) == decimals


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [(5, "USD", "0.05"), (-5, "USD", "-0.05"), (500_000, "NGN", "5000.00"), (7, "JPY", "7"), (1, "KWD", "0.001")],
)
def test_an_amount_is_written_with_the_decimals_of_its_currency(minor: int, currency: str, text: str) -> None:
    assert format_minor(minor, currency) == text


@given(minor=st.integers(1, MAX_MINOR), currency=st.sampled_from(["JPY", "NGN", "KWD"]))
def test_what_is_written_is_read_back(minor: int, currency: str) -> None:
    assert Money.parse(Money(minor, currency).decimal_text(), currency) == Money(minor, currency)


@given(text=st.from_regex(r"[0-9]{1,9}\.[0-9]{3,40}", fullmatch=True))
def test_no_digit_is_ever_lost(text: str) -> None:
    """An amount is refused exactly if a digit after the second decimal is not zero."""
    whole, _, decimals = text.partition(".")
    minor = int(whole + decimals[:2])
    read = Decimal(text)
    if decimals[2:].strip("0") or minor == 0:
        with pytest.raises(MoneyError):
            Money.parse(read, "USD")
    else:
        assert Money.parse(read, "USD").minor == minor


@pytest.mark.parametrize(
    ("money", "overrides", "units"),
    [
        (Money(1_000, "XOF"), {"XOF": 2}, 100_000),
        (Money(500, "KES"), {"KES": 0}, 5),
        (Money(500, "KES"), {}, 500),
    ],
)
def test_a_provider_may_count_in_another_unit(money: Money, overrides: dict[str, int], units: int) -> None:
    assert money.to_provider(overrides) == units
    assert Money.from_provider(units, money.currency, overrides) == money


def test_what_cannot_be_said_in_the_providers_unit_is_refused() -> None:
    with pytest.raises(MoneyError, match="steps of 100"):
        Money(501, "KES").to_provider({"KES": 0})
    with pytest.raises(MoneyError, match="no whole minor unit"):
        Money.from_provider(150, "XOF", {"XOF": 2})
