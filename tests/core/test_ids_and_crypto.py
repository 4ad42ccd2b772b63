import re
import time
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payflow.core.clock import rfc3339, utc_now
from payflow.core.crypto import Keyring, SealBroken, derive_key, keyed_digest, same, seal, unseal
from payflow.core.ids import new_reference, uuid7

KEY = derive_key("a secret", "sealing")


def test_ids_are_version_7_and_hold_the_time() -> None:
    before = time.time_ns() // 1_000_000
    identity = uuid7()
    assert (identity.version, identity.variant) == (7, UUID(int=0x8 << 60).variant)
    assert before <= identity.int >> 80 <= time.time_ns() // 1_000_000


def test_ids_are_ordered_by_time_and_never_repeat() -> None:
    first = uuid7()
    time.sleep(0.002)
    assert first < uuid7()
    assert len({uuid7() for _ in range(10_000)}) == 10_000


def test_ids_that_follow_one_another_keep_their_order_within_a_millisecond() -> None:
    ids = [uuid7()]
    for _ in range(1_000):
        ids.append(uuid7(ids[-1]))
    assert ids == sorted(set(ids))
    assert {identity.version for identity in ids} == {7}
    late = UUID(int=uuid7().int + (60_000 << 80))  # another node's clock is a minute ahead
    assert uuid7(late).int == late.int + 1


@pytest.mark.parametrize("prefix", ["pay", "att"])
def test_references_fit_every_providers_alphabet_and_length(prefix: str) -> None:
    references = {new_reference(prefix) for _ in range(1_000)}
    assert len(references) == 1_000
    for reference in references:
        # Paystack: 16 to 50 of [A-Za-z0-9.=-]; Monnify and Flutterwave take these too; Daraja shows the last 12.
        assert re.fullmatch(rf"{prefix}[0-9a-z]{{26}}", reference)
        assert not set("ilou") & set(reference.removeprefix(prefix))


def test_the_last_twelve_characters_of_references_differ() -> None:
    """Daraja shows only so many to the customer; they come from the random part."""
    assert len({new_reference("att")[-12:] for _ in range(5_000)}) == 5_000


def test_times_are_utc_with_microseconds() -> None:
    moment = datetime(2026, 11, 21, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=3)))
    assert rfc3339(moment) == "2026-11-21T09:00:00.000005Z"
    assert utc_now().tzinfo is UTC


def test_each_purpose_has_a_key_of_its_own() -> None:
    keys = {derive_key(secret, purpose) for secret in ("one", "two") for purpose in ("a", "b")}
    assert len(keys) == 4
    assert {len(key) for key in keys} == {32}
    assert derive_key("one", "a") == derive_key("one", "a")


def test_digests_tell_lists_of_parts_apart() -> None:
    assert keyed_digest(KEY, "ab", "c") != keyed_digest(KEY, "a", "bc")
    assert keyed_digest(KEY, "a") == keyed_digest(KEY, b"a")


def test_comparison_takes_any_header() -> None:
    assert same("abc", b"abc")
    assert not same("abc", "abd")
    assert not same("\udce9", "é")
    assert not same("", "a")


@given(plain=st.binary(max_size=200), context=st.text(max_size=50))
def test_what_was_sealed_is_opened_in_its_place(plain: bytes, context: str) -> None:
    sealed = seal(KEY, plain, context)
    assert unseal(KEY, sealed, context) == plain
    with pytest.raises(SealBroken):
        unseal(KEY, sealed, context + "x")


def test_sealing_the_same_twice_looks_different() -> None:
    assert seal(KEY, b"secret", "row") != seal(KEY, b"secret", "row")
    assert b"secret" not in seal(KEY, b"secret", "row")


@pytest.mark.parametrize("place", [0, 11, 12, -1])
def test_an_altered_seal_is_broken(place: int) -> None:
    sealed = bytearray(seal(KEY, b"secret", "row"))
    sealed[place] ^= 1
    with pytest.raises(SealBroken):
        unseal(KEY, bytes(sealed), "row")


def test_another_key_or_a_stump_opens_nothing() -> None:
    sealed = seal(KEY, b"secret", "row")
    with pytest.raises(SealBroken):
        unseal(derive_key("another secret", "sealing"), sealed, "row")
    with pytest.raises(SealBroken):
        unseal(KEY, b"", "row")


def test_a_keyring_seals_with_the_current_key_and_opens_with_the_former_ones() -> None:
    before, after = Keyring("one", (), "rows"), Keyring("two", ("one",), "rows")
    sealed = before.seal(b"secret", "row")
    assert after.unseal(before.current_id, sealed, "row") == b"secret"
    assert before.current_id in after
    assert after.current_id not in before
    with pytest.raises(SealBroken):
        before.unseal(after.current_id, after.seal(b"secret", "row"), "row")
    with pytest.raises(SealBroken):
        after.unseal(after.current_id, sealed, "row")


def test_the_id_of_a_key_is_its_own_and_tells_nothing_of_it() -> None:
    ids = {Keyring(secret, (), purpose).current_id for secret in ("one", "two") for purpose in ("a", "b")}
    assert len(ids) == 4
    assert Keyring("one", ("two",), "a").current_id == Keyring("one", (), "a").current_id
    assert all(re.fullmatch(r"[0-9a-f]{12}", each) for each in ids)
    assert derive_key("one", "a").hex()[:12] not in ids
