"""What came with the request for a socket, and what of it can be refused before anything is asked of anybody."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit
from uuid import UUID

from payflow.core.errors import Forbidden, Malformed, NotFound
from payflow.core.settings import Settings

ChannelKind = Literal["transaction", "user"]
WALLET = "wallet"
"""The channel that a socket names only once it is open, by the reference of a transaction."""


@dataclass(frozen=True, slots=True)
class Channel:
    """What a socket watches; as text `transaction:<id>` or `user:<id>`."""

    kind: ChannelKind
    id: UUID

    @classmethod
    def parse(cls, text: str) -> "Channel":
        """NotFound for anything that names no channel."""
        kind, _, identifier = text.partition(":")
        try:
            parsed = UUID(identifier)
        except ValueError:
            raise NotFound from None
        match kind:
            case "transaction" | "user":
                return cls(kind, parsed)
        raise NotFound

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"


@dataclass(frozen=True, slots=True)
class Handshake:
    """`channel` is not parsed yet; `token` is that of a header, never of a cookie."""

    channel: str
    address: str
    origin: str | None = None
    host: str | None = None
    token: str | None = None
    ticket: str | None = None
    after: str | None = None

    def after_sequence(self) -> int | None:
        """The sequence seen last. Malformed also for what the column cannot hold."""
        if not self.after:
            return None
        if not (self.after.isascii() and self.after.isdigit()) or len(self.after) > 10 or int(self.after) >= 2**31:
            raise Malformed("`after` is the sequence seen last.")
        return int(self.after)

    def after_event(self) -> UUID | None:
        """The event seen last. Malformed unless it is a UUIDv7, whose time says from where the log is read."""
        if not self.after:
            return None
        try:
            event_id = UUID(self.after)
        except ValueError:
            event_id = None
        if event_id is None or event_id.version != 7:
            raise Malformed("`after` is the event_id seen last.")
        return event_id


class Origins:
    """Whose pages may open sockets: those of the settings, and our own host's whatever it is called."""

    def __init__(self, settings: Settings) -> None:
        own = urlsplit(settings.public_url)
        listed = (*settings.cors_origins, *settings.allowed_origins, f"{own.scheme}://{own.netloc}")
        self._allowed = frozenset(_normalised(origin) for origin in listed)

    def check(self, handshake: Handshake) -> None:
        """Forbidden. A client that is no browser says no origin; and no credential here is ambient, so this is the second
        lock and not the first."""
        origin = handshake.origin
        if origin is None or "*" in self._allowed or _normalised(origin) in self._allowed:
            return
        if handshake.host is None or _normalised(origin).partition("://")[2] != handshake.host.lower():
            raise Forbidden("Pages of this origin may not open sockets.", code="origin_not_allowed")


def _normalised(origin: str) -> str:
    return origin.lower().rstrip("/")
