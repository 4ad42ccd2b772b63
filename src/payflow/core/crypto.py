"""Keys derived from the one secret, message authentication, and sealing of small secrets."""

import hashlib
import hmac
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand


class SealBroken(ValueError):
    """The sealed value was altered, moved to another row, or sealed with another key."""


def derive_key(secret: str, purpose: str) -> bytes:
    """A 32-byte key for one purpose (HKDF-Expand, RFC 5869), so that no two uses share a key."""
    extracted = hmac.digest(b"payflow", secret.encode(), "sha256")
    return HKDFExpand(algorithm=SHA256(), length=32, info=purpose.encode()).derive(extracted)


def keyed_digest(key: bytes, *parts: str | bytes) -> bytes:
    """HMAC-SHA-256 over length-prefixed parts: no two lists of parts give the same message."""
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        mac.update(len(raw).to_bytes(8, "big"))
        mac.update(raw)
    return mac.digest()


def same(left: bytes | str, right: bytes | str) -> bool:
    """Constant-time comparison; text is compared as UTF-8, so that odd headers compare unequal and do not raise."""
    first = left.encode("utf-8", "surrogateescape") if isinstance(left, str) else left
    second = right.encode("utf-8", "surrogateescape") if isinstance(right, str) else right
    return hmac.compare_digest(first, second)


def seal(key: bytes, plain: bytes, context: str) -> bytes:
    """AES-256-GCM; `context` (table, column, row id) is associated data. Layout: 12-byte nonce, ciphertext with tag."""
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, plain, context.encode())


def unseal(key: bytes, sealed: bytes, context: str) -> bytes:
    """The reverse of `seal`. SealBroken when anything differs."""
    try:
        return AESGCM(key).decrypt(sealed[:12], sealed[12:], context.encode())
    except (InvalidTag, ValueError):
        raise SealBroken("The sealed value cannot be opened with this key in this place.") from None


class Keyring:
    """The key that seals, and the former ones that still open. Each is known by an id made of itself, so that two
    installations, or two orders of the same list, never call different keys alike."""

    def __init__(self, current: str, former: Sequence[str], purpose: str) -> None:
        keys = [derive_key(secret, purpose) for secret in (current, *former)]
        self._keys = {_key_id(key): key for key in keys}
        self.current_id = _key_id(keys[0])

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._keys

    def seal(self, plain: bytes, context: str) -> bytes:
        """Under the current key; the key's id is bound too, so that a row cannot claim another."""
        return seal(self._keys[self.current_id], plain, f"{context}:{self.current_id}")

    def unseal(self, key_id: str, sealed: bytes, context: str) -> bytes:
        """SealBroken also for a key that is not held."""
        key = self._keys.get(key_id)
        if key is None:
            raise SealBroken("The key that sealed this value is not among the keys of this installation.")
        return unseal(key, sealed, f"{context}:{key_id}")

    def unseal_without_id(self, sealed: bytes, context: str) -> bytes:
        """What was sealed before keys had ids. SealBroken when no key opens it."""
        for key in self._keys.values():
            try:
                return unseal(key, sealed, context)
            except SealBroken:
                continue
        raise SealBroken("None of the keys of this installation opens this value.")


def _key_id(key: bytes) -> str:
    """Twelve hex characters that tell nothing of the key."""
    return keyed_digest(key, "key-id").hex()[:12]
