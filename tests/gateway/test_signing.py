import hmac

import pytest

from payflow.core.ids import uuid7
from payflow.gateway.contract import WebhookRefused
from payflow.gateway.signing import (
    CallbackTokens,
    CallbackUrls,
    confirmation_id,
    validation_id,
    verify_hmac_hex,
    verify_timestamped,
)
from payflow.providers.mpesa import DECLARATION, FORBIDDEN_IN_URLS

BODY, NOW = b'{"event":"charge.success"}', 1_795_255_200


def hex_of(secret: str, body: bytes = BODY, digest: str = "sha512") -> str:
    return hmac.digest(secret.encode(), body, digest).hex()


def stamped(secret: str, at: int = NOW, body: bytes = BODY) -> str:
    return f"t={at},v1={hex_of(secret, str(at).encode() + b'.' + body, 'sha256')}"


def refusal(call: object, *arguments: object, **named: object) -> str:
    with pytest.raises(WebhookRefused) as refused:
        call(*arguments, **named)  # type: ignore[operator]
    return refused.value.reason


@pytest.mark.parametrize("header", [hex_of("new"), hex_of("old"), hex_of("new").upper(), f" {hex_of('new')} "])
def test_any_of_the_secrets_verifies(header: str) -> None:
    verify_hmac_hex(header, BODY, ["new", "old"], "sha512")


@pytest.mark.parametrize(
    ("header", "body", "secrets", "reason"),
    [
        (None, BODY, ["new"], "header_missing"),
        ("", BODY, ["new"], "header_missing"),
        (hex_of("new"), BODY + b" ", ["new"], "signature_mismatch"),
        (hex_of("new")[:-1], BODY, ["new"], "signature_mismatch"),
        ("ünï", BODY, ["new"], "signature_mismatch"),
        (hex_of(""), BODY, [""], "no_secret"),
        (hex_of(""), BODY, [], "no_secret"),
        (hex_of(""), BODY, ["", "new"], "signature_mismatch"),
    ],
)
def test_a_wrong_signature_is_refused_with_its_reason(
    header: str | None, body: bytes, secrets: list[str], reason: str
) -> None:
    assert refusal(verify_hmac_hex, header, body, secrets, "sha512") == reason


@pytest.mark.parametrize("at", [NOW, NOW - 300, NOW + 300])
def test_a_timestamped_signature_verifies_within_five_minutes(at: int) -> None:
    verify_timestamped(stamped("new", at), BODY, ["old", "new"], now=NOW)


def test_any_of_several_signatures_may_fit() -> None:
    header = f"t={NOW}, v0=odd, v1={'0' * 64}, {stamped('new').split(',')[1]}"
    verify_timestamped(header, BODY, ["new"], now=NOW)


@pytest.mark.parametrize(
    ("header", "secrets", "reason"),
    [
        (None, ["new"], "header_missing"),
        ("nonsense", ["new"], "wrong_scheme"),
        (f"t={NOW}", ["new"], "wrong_scheme"),
        (stamped("new").replace("v1", "v0"), ["new"], "wrong_scheme"),
        (stamped("new").split(",")[1], ["new"], "wrong_scheme"),
        (stamped("new").replace("t=", "t=-"), ["new"], "wrong_scheme"),
        (stamped("new").replace("t=", "t=" + "9" * 12), ["new"], "wrong_scheme"),
        (stamped("new"), [""], "no_secret"),
        (stamped("other"), ["new"], "signature_mismatch"),
        (stamped("new").replace(f"t={NOW}", f"t={NOW + 1}"), ["new"], "signature_mismatch"),
        (stamped("new", NOW - 301), ["new"], "stale"),
        (stamped("new", NOW + 301), ["new"], "stale"),
    ],
)
def test_a_wrong_timestamped_signature_is_refused_with_its_reason(
    header: str | None, secrets: list[str], reason: str
) -> None:
    assert refusal(verify_timestamped, header, BODY, secrets, now=NOW) == reason


def test_without_a_time_given_the_present_counts() -> None:
    assert refusal(verify_timestamped, stamped("new", 1_000_000), BODY, ["new"]) == "stale"


def test_a_callback_token_names_its_attempt() -> None:
    tokens, attempt_id = CallbackTokens(b"k" * 32), uuid7()
    token = tokens.issue(attempt_id)
    assert tokens.read(token) == attempt_id
    assert len(token) == 64
    assert set(token) <= set("0123456789abcdef")
    # Words that Daraja refuses in a URL cannot be spelt in hex.
    assert not any(word in token for word in ("mpesa", "safaricom", "exe", "cmd", "sql", "query"))


def test_the_urls_that_belong_to_no_attempt_are_always_the_same_and_tell_two_purposes_and_providers_apart() -> None:
    tokens = CallbackTokens(b"k" * 32)
    urls = CallbackUrls(tokens, "https://pay.example/")
    confirmation, validation = urls.confirmation(DECLARATION), urls.validation(DECLARATION)
    assert (confirmation, validation) == (urls.confirmation(DECLARATION), urls.validation(DECLARATION))
    base, _, token = confirmation.rpartition("/")
    assert base == "https://pay.example/api/v1/webhooks/lipa"
    assert tokens.read(token) == confirmation_id("mpesa")
    assert tokens.read(validation.rpartition("/")[2]) == validation_id("mpesa")
    assert (
        len({confirmation_id("mpesa"), validation_id("mpesa"), confirmation_id("other"), validation_id("other")}) == 4
    )
    assert not any(FORBIDDEN_IN_URLS.search(url) for url in (confirmation, validation))


def test_a_callback_token_that_we_did_not_make_is_refused() -> None:
    tokens, attempt_id = CallbackTokens(b"k" * 32), uuid7()
    token = tokens.issue(attempt_id)
    altered = ("0" if token[-1] != "0" else "1").join([token[:-1], ""])
    swapped = uuid7().hex + token[32:]
    for wrong in (
        "",
        "zz" * 32,
        token[:-1],
        token + "0",
        altered,
        swapped,
        CallbackTokens(b"o" * 32).issue(attempt_id),
    ):
        assert refusal(tokens.read, wrong) == "token"
