"""What is taken for a card number, and what is somebody's order number."""

from typing import Any

import pytest

from payflow.core.cards import holds_card_number

# Published test numbers of the networks: Visa, Visa of 13, Mastercard old and new range, Amex, Discover, Verve of 19.
CARDS = [
    "4242424242424242",
    "4222222222222",
    "5555555555554444",
    "2223003122003222",
    "378282246310005",
    "6011111111111117",
    "5060666666666666666",
]


@pytest.mark.parametrize("number", CARDS)
def test_card_numbers_are_found_wherever_they_stand(number: str) -> None:
    spaced = " ".join(number[at : at + 4] for at in range(0, len(number), 4))
    for value in (number, int(number), f"card {spaced}, please", {"a": [{"b": number}]}, {number: 1}, (spaced,)):
        assert holds_card_number(value), value


@pytest.mark.parametrize(
    "value",
    [
        "4242424242424241",  # the check digit is wrong
        "1234567890123452",  # passes Luhn, but nobody issues it
        "1763728000000",  # a moment in milliseconds
        "1234567812345670123",
        "+2547083741490000",
        "0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50",
        "order4242424242424242",
        "4242",
        42,
        True,
        None,
        1.5,
        {"order": ["A-1", 7, None]},
    ],
)
def test_other_numbers_are_not(value: Any) -> None:
    assert not holds_card_number(value)
