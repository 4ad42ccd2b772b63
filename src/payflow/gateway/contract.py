"""What a provider is: the values that pass between the use cases and an adapter, and the capabilities an adapter may have.

An adapter takes and returns frozen values. It never sees a row, a session or a request. A capability is an implemented
protocol: `Collects`, `Cancels`, `TakesOtp`, `ReceivesWebhooks`, and later `Refunds`, `PaysOut`, `ListsBanks`, `SellsAirtime`.

A verdict is what one answer says about one attempt. The four that are often confused (design §4):

    not_sent   no connection ever existed: DNS, refused, TLS, connect or pool timeout. Nothing can have happened.
    refused    an answer that the adapter lists as "not accepted": nothing happened, another provider may be asked.
    declined   the provider took the order and the payment failed: a result.
    unknown    everything else, also whatever is not listed. Never sent again, asked later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Protocol, runtime_checkable
from uuid import UUID

from pydantic import BaseModel, SecretStr

from payflow.core.money import Money


class Operation(StrEnum):
    COLLECT = "collect"
    REFUND = "refund"
    PAYOUT = "payout"
    PURCHASE = "purchase"


class Verdict(StrEnum):
    COMPLETED = "completed"
    PROCESSING = "processing"
    REQUIRES_ACTION = "requires_action"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REVERSED = "reversed"
    REFUSED = "refused"
    NOT_SENT = "not_sent"
    NOT_FOUND = "not_found"
    ASKED = "asked"
    UNKNOWN = "unknown"


class ActionType(StrEnum):
    REDIRECT = "redirect"
    HANDSET_PROMPT = "handset_prompt"
    OTP = "otp"
    PIN = "pin"
    PHONE = "phone"
    BIRTHDAY = "birthday"
    ADDRESS = "address"
    USSD = "ussd"
    TRANSFER = "transfer"


@dataclass(frozen=True, slots=True)
class NextAction:
    """What the customer must do. `url` only for redirect; `display_text` is for people."""

    type: ActionType
    url: str | None = None
    display_text: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why: `code` is ours and stable, `provider_code` the provider's own word, `message` safe to show to a customer."""

    code: str
    message: str
    provider_code: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One answer about one attempt.

    `requested` is what the provider says we asked for, `paid` what the customer was charged (fees may be on top), `fee` what
    the provider keeps. `reference` is our reference as the provider echoes it. `provider_references` are the provider's ids,
    the first the one to ask with. `amount_bound` says that this kind of answer carries no amount but names the attempt's own
    provider session, which was opened for our amount (Daraja's query). `session_open` says that a decline did not end the
    hosted session. `expirable` says that the answer proves that no money is there, so that the attempt may expire when due.
    """

    verdict: Verdict
    raw_status: str = ""
    reference: str | None = None
    provider_references: tuple[str, ...] = ()
    receipt: str | None = None
    requested: Money | None = None
    paid: Money | None = None
    fee: Money | None = None
    amount_bound: bool = False
    next_action: NextAction | None = None
    checkout_url: str | None = None
    session_ends_at: datetime | None = None
    failure: Failure | None = None
    session_open: bool = False
    expirable: bool = False


@dataclass(frozen=True, slots=True)
class Customer:
    email: str | None = None
    phone: str | None = None  # E.164
    name: str | None = None


@dataclass(frozen=True, slots=True)
class CollectOrder:
    """Take money. `reference` is this attempt's own; `callback_url` already holds the path name and the attempt's token.

    `default_return_url` is ours, for providers that demand one when the caller gave none.
    """

    reference: str
    transaction_id: UUID
    amount: Money
    customer: Customer
    callback_url: str
    method: str | None = None
    description: str | None = None
    return_url: str | None = None
    default_return_url: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """Ask about an attempt. `provider_references` as the provider gave them, the one to ask with first; may be empty.

    `customer` is told to `submit`, for providers that want the payer named again (C-Pay signs the phone number).
    """

    operation: Operation
    reference: str
    provider_references: tuple[str, ...]
    amount: Money
    created_at: datetime
    customer: Customer | None = None


# What a customer can be asked to give through us; the other actions happen elsewhere.
SUBMITTABLE = frozenset({ActionType.OTP, ActionType.PIN, ActionType.PHONE, ActionType.BIRTHDAY, ActionType.ADDRESS})


@dataclass(frozen=True, slots=True)
class Submission:
    """What the customer gave when a `next_action` asked for it. It is passed on at once, and neither kept nor logged."""

    type: ActionType
    value: SecretStr


class Trust(StrEnum):
    """How far an incoming event can be believed: by its signature, after asking back, or by its unguessable URL."""

    SIGNED = "signed"
    CONFIRM = "confirm"
    CAPABILITY = "capability"


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """A webhook as it came. Header names are lower case. `body` is the raw bytes."""

    headers: Mapping[str, str]
    body: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """One thing a webhook tells. `dedupe_key` only for trusted events that can be told apart; `result` None when it is news
    that moves nothing. `references` are ours as echoed, `provider_references` the provider's, to find the attempt by."""

    type: str
    trust: Trust
    operation: Operation = Operation.COLLECT
    dedupe_key: str | None = None
    references: tuple[str, ...] = ()
    provider_references: tuple[str, ...] = ()
    result: Result | None = None


class WebhookRefused(Exception):
    """The webhook does not prove its origin. `reason` is one of: header_missing, wrong_scheme, signature_mismatch, stale,
    no_secret, token. It is counted and logged, never told to the sender."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class WebhookMalformed(Exception):
    """The origin is proven, but the body is not what the provider's documents describe: straight to the dead letters."""


class OrderNotAcceptable(Exception):
    """The provider cannot take this order: `pointer` (RFC 6901, into the request) says which field, before anything is sent."""

    def __init__(self, pointer: str, detail: str) -> None:
        self.pointer = pointer
        self.detail = detail
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a provider says of itself.

    `path_name` is used in webhook URLs, because a provider may forbid its own name there (Daraja). `exponents` holds the
    currencies whose minor unit differs from ISO 4217 at this provider. `session_life` is how long a customer can still pay
    after initiation when the provider names no end itself. `first_check_after` is when a query first makes sense.
    """

    name: str
    path_name: str
    title: str
    currencies: frozenset[str]
    countries: frozenset[str]
    methods: frozenset[str]
    live_base_url: str
    session_life: timedelta
    first_check_after: timedelta = timedelta(seconds=20)
    min_check_interval: timedelta = timedelta(seconds=5)
    exponents: Mapping[str, int] = field(default_factory=dict)
    webhook_token: bool = False
    webhook_sources: frozenset[str] = frozenset()
    webhook_answer: bytes = b"{}"
    simulated: bool = False


Credentials = Any  # an instance of the adapter's own `CredentialsModel`


class Provider(Protocol):
    """Every adapter. Built with (http: ProviderHttp, base_url: str, clock: Clock)."""

    declaration: ClassVar[Declaration]
    CredentialsModel: ClassVar[type[BaseModel]]


@runtime_checkable
class Collects(Protocol):
    def check(self, order: CollectOrder) -> None:
        """OrderNotAcceptable when this provider cannot take the order (a missing phone, cents where it has none)."""
        ...

    async def collect(self, order: CollectOrder, credentials: Credentials) -> Result:
        """Start the collection. Never raises for what the provider or the network does: that is a verdict."""
        ...

    async def fetch(self, query: Query, credentials: Credentials) -> Result:
        """Ask how it stands. Never raises for what the provider or the network does."""
        ...


@runtime_checkable
class Cancels(Protocol):
    async def cancel(self, query: Query, credentials: Credentials) -> Result:
        """End the customer's session so that nothing can be paid any more; the verdict may also be that it was paid."""
        ...


@runtime_checkable
class TakesOtp(Protocol):
    async def submit(self, query: Query, submission: Submission, credentials: Credentials) -> Result:
        """Pass on what the customer gave. `requires_action` with a `next_action` asks for the next thing, or for the same
        again after a wrong one. Never raises for what the provider or the network does: that is a verdict."""
        ...


@runtime_checkable
class ReceivesWebhooks(Protocol):
    def verify_webhook(self, request: WebhookRequest, credentials: Sequence[Credentials]) -> Trust | None:
        """WebhookRefused unless one of the credentials (the present ones, and those being rotated out) proves the origin.

        Runs before anything is parsed, in constant time. CONFIRM lets in what the credentials allow without proof: none of
        its events is believed further than that, whatever `translate` declares."""
        ...

    def translate(self, request: WebhookRequest) -> Sequence[ProviderEvent]:
        """What the body tells, in our words. WebhookMalformed when it cannot be read."""
        ...
