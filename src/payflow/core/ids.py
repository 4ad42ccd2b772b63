"""Identifiers: UUIDv7 keys (RFC 9562 §5.7) and the references that providers see."""

import os
import time
from uuid import UUID

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base32, lower case: no i, l, o, u


def uuid7(after: UUID | None = None) -> UUID:
    """A time-ordered id: 48 bits of Unix milliseconds, then 74 random bits. Never before `after`, whose random bits are
    counted up within the same millisecond (RFC 9562 §6.2)."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | (0x7 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return UUID(int=value if after is None else max(value, after.int + 1))


def new_reference(prefix: str) -> str:
    """`prefix` and 26 characters of [0-9a-z]: inside every provider's alphabet, and 16 to 50 long as Paystack asks."""
    number = uuid7().int
    characters = []
    for _ in range(26):
        characters.append(_ALPHABET[number & 31])
        number >>= 5
    return prefix + "".join(reversed(characters))
