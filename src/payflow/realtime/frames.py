"""What goes over a socket: one text frame per event, encoded once however many sockets it goes to.

    {"type", "event_id", "transaction_id", "sequence", "status", "data", "occurred_at"}

A `Frame` keeps the ASGI message itself, so that every socket sends the same object. Holders of a transaction's client
token get the same frames with less in `data`; that form is made when the first of them needs it.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson

from payflow.core.clock import rfc3339
from payflow.core.money import Money
from payflow.events.types import Event, frame
from payflow.realtime.repository import Watched

Message = MutableMapping[str, Any]

CUSTOMER_DATA = ("amount", "amount_minor", "currency", "next_action")
"""All of `data` that the customer's browser may see. A list of what may pass, so that a new field stays hidden."""


class Frame:
    """One frame. `event_id` and `sequence` are None for what is no event (a snapshot, an error, a pong)."""

    __slots__ = ("_body", "_for_customer", "event_id", "sequence", "whole")

    def __init__(self, body: Mapping[str, Any], text: str) -> None:
        self.event_id: str | None = body.get("event_id")
        self.sequence: int | None = body.get("sequence")
        self.whole: Message = {"type": "websocket.send", "text": text}
        self._body = body
        self._for_customer: Message | None = None

    @classmethod
    def of(cls, event: Event) -> "Frame":
        transaction_id = None if event.transaction_id is None else _plain(event.transaction_id)
        return cls.parse(frame(replace(event, id=_plain(event.id), transaction_id=transaction_id)))

    @classmethod
    def parse(cls, encoded: bytes) -> "Frame":
        """From a published frame. ValueError when it is none."""
        body = orjson.loads(encoded)
        if not isinstance(body, dict) or not isinstance(body.get("event_id"), str):
            raise ValueError("not the frame of an event")
        return cls(body, encoded.decode())

    @classmethod
    def saying(cls, body: Mapping[str, Any]) -> "Frame":
        return cls(body, orjson.dumps(body).decode())

    @property
    def for_customer(self) -> Message:
        if self._for_customer is None:
            data = self._body.get("data")
            if data is None:
                self._for_customer = self.whole
            else:
                shown = {name: data[name] for name in CUSTOMER_DATA if name in data}
                text = orjson.dumps({**self._body, "data": shown}).decode()
                self._for_customer = {"type": "websocket.send", "text": text}
        return self._for_customer


def _plain(identifier: UUID) -> UUID:
    """asyncpg gives a subclass of UUID, which orjson refuses."""
    return UUID(int=identifier.int)


PONG = Frame.saying({"type": "pong"})


def error(code: str, detail: str) -> Frame:
    return Frame.saying({"type": "error", "code": code, "detail": detail})


def transaction_snapshot(watched: Watched) -> Frame:
    """How the transaction stands. Its `sequence` is that of the last event told by it."""
    money = Money(watched.amount_minor, watched.currency)
    failure = {"code": watched.failure_code, "message": watched.failure_message} if watched.failure_code else None
    return Frame.saying(
        {
            "type": "snapshot",
            "event_id": None,
            "transaction_id": _plain(watched.id),
            "sequence": watched.sequence,
            "status": watched.status,
            "data": {
                "kind": watched.kind,
                "reference": watched.reference,
                "amount": money.decimal_text(),
                "amount_minor": money.minor,
                "currency": money.currency,
                "provider": watched.provider,
                "next_action": watched.next_action,
                "checkout_url": watched.checkout_url,
                "failure": failure,
            },
            "occurred_at": rfc3339(watched.updated_at),
        }
    )


def user_snapshot(user_id: UUID, last_event_id: UUID | None, now: str) -> Frame:
    """Where the user's log stands: `last_event_id` is what to give as `?after=` when nothing came before the next drop."""
    return Frame.saying(
        {
            "type": "snapshot",
            "event_id": None,
            "user_id": _plain(user_id),
            "transaction_id": None,
            "sequence": None,
            "status": None,
            "data": {"last_event_id": last_event_id and _plain(last_event_id)},
            "occurred_at": now,
        }
    )
