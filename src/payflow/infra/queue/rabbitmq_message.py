"""A message as AMQP carries it."""

from typing import Any
from uuid import NAMESPACE_OID, uuid5

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from payflow.infra.queue.port import DELIVERY_LIMIT_REASON, Message, tidy_reason

_HEADER_CHARACTERS = 16_384  # all headers must fit one frame, of 131,072 bytes; more would end the whole connection
_ATTEMPT = "payflow-attempt"
_REASON = "payflow-reason"
_NOT_THE_SENDERS = ("payflow-", "x-first-death-", "x-last-death-", "x-opt-")


def to_properties(message: Message, reason: str) -> Basic.Properties:
    """Persistent; a reason where it is delayed or given up. ValueError when the headers are too large."""
    headers: dict[str, Any] = dict(message.headers)
    if sum(map(len, headers)) + sum(map(len, headers.values())) > _HEADER_CHARACTERS:
        raise ValueError("A queue message's headers are too large.")
    headers[_ATTEMPT] = message.attempt
    if reason:
        headers[_REASON] = tidy_reason(reason)
    return Basic.Properties(headers=headers, delivery_mode=2, message_id=message.id)


def from_delivered(delivered: DeliveredMessage) -> tuple[Message, str]:
    """The message, and why it was delayed or given up the last time."""
    properties = delivered.header.properties
    headers = properties.headers or {}
    attempt = headers.get(_ATTEMPT)
    message = Message(
        # A message that somebody put there by hand may have no id; derived from the body it is the same each time.
        id=properties.message_id or str(uuid5(NAMESPACE_OID, delivered.body.hex())),
        body=delivered.body,
        headers={
            name: value
            for name, value in headers.items()
            if isinstance(value, str) and not name.startswith(_NOT_THE_SENDERS)
        },
        attempt=attempt if isinstance(attempt, int) else 0,
    )
    return message, _reason(headers)


def _reason(headers: dict[str, Any]) -> str:
    """Ours, unless the broker itself gave the message up since: then the newest entry of x-death says so."""
    deaths = headers.get("x-death")
    last = deaths[0] if isinstance(deaths, list) and deaths else None
    if isinstance(last, dict) and last.get("reason") == "delivery_limit":
        return DELIVERY_LIMIT_REASON
    ours = headers.get(_REASON)
    return ours if isinstance(ours, str) else ""
