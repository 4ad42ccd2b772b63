import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import pytest
import structlog

from payflow.core.logging import REDACTED, configure_logging, correlation_id, get_logger, redact, redact_text

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


@pytest.mark.parametrize(
    "secret",
    [
        "sk_test_abc123",
        "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
        "rk_live_abc",
        "whsec_simulator",
        "pf_key_0123456789abcdef_secret",
        "pf_client_AbC-123_x",
        "Bearer abcdefgh12345678",
        "bearer ABCDEFGH.ijkl=",
        "Basic dXNlcjpwYXNzd29yZA==",
        JWT,
        "0" * 32 + "a" * 32,  # a callback token
        "ticket=abc123-_x",
        "4242424242424242",
        "4242 4242 4242 4242",
        "3782-822463-10005",
    ],
)
def test_a_secret_inside_any_text_is_blanked(secret: str) -> None:
    shown = redact_text(f"refused: {secret}, sorry")
    assert secret not in shown
    assert shown == f"refused: {REDACTED}, sorry"


@pytest.mark.parametrize(
    "harmless",
    [
        "4242424242424241",  # fails Luhn
        "att01m7yqggjzfs1a3vfakgqbn0x5",
        "0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50",
        "2026-11-21T10:00:00.000000Z",
        "amount_minor=500000",
        "+254708374149",
    ],
)
def test_what_is_no_secret_stays_readable(harmless: str) -> None:
    assert redact_text(f"see {harmless}.") == f"see {harmless}."


@pytest.mark.parametrize(
    "name",
    [
        "password", "passwd", "secret_key", "webhook_secret", "access_token", "otp", "customer_otp", "pin", "card_pin",
        "Authorization", "api_key", "X-API-Key", "credentials", "passkey", "cvv", "cvc", "card_number", "cardnumber",
        "x-paystack-signature", "Set-Cookie",
    ],
)  # fmt: skip
def test_a_value_with_a_secret_name_is_blanked_whatever_it_is(name: str) -> None:
    for value in ("plain words", b"bytes", 123456, ["1234"], {"value": "1234"}):
        assert redact({name: value}) == {name: REDACTED}


def test_redaction_reaches_every_depth_and_keeps_the_rest() -> None:
    value = {
        "a": [{"otp": "123456", "amount": 5}, ("sk_test_x", None)],
        "pinned": "yes",
        "otp": None,
        "card": 4242424242424242,
    }
    assert redact(value) == {
        "a": [{"otp": REDACTED, "amount": 5}, [REDACTED, None]],
        "pinned": "yes",
        "otp": None,
        "card": REDACTED,
    }


def test_numbers_and_flags_are_kept() -> None:
    assert redact({"count": 3, "amount_minor": 500_000, "paid": True}) == {
        "count": 3,
        "amount_minor": 500_000,
        "paid": True,
    }


@contextmanager
def logging_as_in_production() -> Iterator[io.StringIO]:
    """What is written meanwhile. Puts the loggers back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    written = io.StringIO()
    with redirect_stderr(written):
        configure_logging("info")
    try:
        yield written
    finally:
        structlog.reset_defaults()
        root.handlers = handlers
        root.setLevel(level)


def entries(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_entries_are_json_with_the_correlation_id_and_without_secrets() -> None:
    with logging_as_in_production() as written:
        token = correlation_id.set("req-7")
        get_logger("payflow.test").info("webhook.refused", signature="abc", reason="no key sk_test_1", count=2)
        correlation_id.reset(token)
    (entry,) = entries(written)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {
        "event": "webhook.refused",
        "level": "info",
        "correlation_id": "req-7",
        "signature": REDACTED,
        "reason": f"no key {REDACTED}",
        "count": 2,
    }


def test_a_traceback_and_a_foreign_logger_are_redacted_too() -> None:
    with logging_as_in_production() as written:
        try:
            raise RuntimeError("the key was sk_live_secret")
        except RuntimeError:
            get_logger("payflow.test").exception("it.failed")
        logging.getLogger("somebody.else").warning("sent %s", "Bearer abcdefgh12345678")
        get_logger("payflow.test").debug("not.shown")
    first, second = entries(written)
    assert f"RuntimeError: the key was {REDACTED}" in first["exception"]
    assert "sk_live_secret" not in written.getvalue()
    assert second["event"] == f"sent {REDACTED}"
    assert second["logger"] == "somebody.else"
    assert "correlation_id" not in second
