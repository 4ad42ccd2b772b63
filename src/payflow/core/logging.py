"""Structured JSON logs with the request's correlation id, and redaction of what must never be read.

Redaction works on names (a field called `otp` or `authorization`) and on shapes (bearer tokens, provider keys, JWTs and
card numbers inside any text), because a secret most often leaks through a message that nobody thought about.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any

import structlog

from payflow.core.cards import CARD_SHAPE, passes_luhn

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")

REDACTED = "[redacted]"
_SECRET_NAME = re.compile(
    r"(?i)(passw|secret|token|otp$|^pin$|_pin$|authorization|api.?key|credential|passkey|cvv|cvc|card_?number|signature|cookie)"
)
_SECRET_SHAPE = re.compile(
    r"(?i)\b(?:sk|rk|pk)_(?:test|live)_\w+|\bwhsec_\w+|\bpf_(?:key|client)_[\w-]+|\b(?:bearer|basic)\s+[\w.+/=~-]{8,}"
    r"|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*|\b[0-9a-f]{64}\b|\bticket=[\w-]+"
)


def redact_text(text: str) -> str:
    """The text with keys, tokens and card numbers blanked. 13 to 19 digits count as a card only if Luhn agrees."""
    return CARD_SHAPE.sub(_blank_card, _SECRET_SHAPE.sub(REDACTED, text))


def _blank_card(match: re.Match[str]) -> str:
    return REDACTED if passes_luhn(match.group()) else match.group()


def redact(value: Any, name: str = "") -> Any:
    """A copy of a log or event value with secrets blanked, by name and by shape."""
    if value is not None and name and _SECRET_NAME.search(name):
        return REDACTED  # whatever it is: an OTP is as often a number, and credentials are a mapping
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, int) and redact_text(str(value)) == REDACTED:
        return REDACTED
    if isinstance(value, Mapping):
        return {key: redact(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value


def _redact_processor(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: redact(value, key) for key, value in event.items()}


def _add_correlation_id(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    current = correlation_id.get()
    if current:
        event.setdefault("correlation_id", current)
    return event


def configure_logging(level: str = "INFO") -> None:
    """One JSON line per entry on stderr, for structlog and for the standard library's loggers alike."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_correlation_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_processor,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for noisy in ("uvicorn.access", "httpx", "aio_pika", "aiormq", "alembic"):
        logging.getLogger(noisy).setLevel("WARNING")
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True


def get_logger(name: str) -> Any:
    """A structlog logger: `log.info("webhook.refused", provider="paystack", reason="signature")`."""
    return structlog.stdlib.get_logger(name)
