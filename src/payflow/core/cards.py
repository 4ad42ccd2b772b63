"""Recognising payment card numbers, so that they are neither kept nor logged.

13 to 19 digits with Luhn's check digit (ISO/IEC 7812-1). One in ten numbers of that length passes by chance: where a match
only blanks a log line that is enough; where it refuses somebody's order number, the issuer's prefix must fit as well.
"""

import re
from typing import Any

CARD_SHAPE = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")

# Prefixes and lengths of Mastercard, Visa, American Express, Discover and Verve.
_ISSUED = re.compile(
    r"(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"
    r"|4(?:\d{12}|\d{15}|\d{18})"
    r"|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d|506[01]|507[89])\d{12}(?:\d\d\d?)?"
)


def passes_luhn(number: str) -> bool:
    digits = [int(character) for character in number if character.isdigit()]
    return (sum(digits[-1::-2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])) % 10 == 0


def holds_card_number(value: Any) -> bool:
    """Whether a JSON value holds, anywhere within, what must be taken for a card number."""
    match value:
        case str():
            return any(_is_card(found.group()) for found in CARD_SHAPE.finditer(value))
        case bool() | None:
            return False
        case int():
            return _is_card(str(value))
        case dict():
            return any(holds_card_number(key) or holds_card_number(item) for key, item in value.items())
        case list() | tuple():
            return any(map(holds_card_number, value))
    return False


def _is_card(text: str) -> bool:
    number = text.replace(" ", "").replace("-", "")
    return _ISSUED.fullmatch(number) is not None and passes_luhn(number)
