"""What a provider is: the values that pass between the use cases and an adapter, and the capabilities an adapter may have.

An adapter takes and returns frozen values. It never sees a row, a session or a request. A capability is an implemented
protocol: `Collects`, `Cancels`, `TakesOtp`, `ReceivesWebhooks`, `AnswersValidation`, `RegistersUrls`, `Refunds`, `PaysOut`,
`ListsBanks`, `SellsAirtime`.

A verdict is what one answer says about one attempt. The four that are often confused (design §4):

    not_sent   no connection ever existed: DNS, refused, TLS, connect or pool timeout. Nothing can have happened.
    refused    an answer that the adapter lists as "not accepted": nothing happened, another provider may be asked.
    declined   the provider took the order and the payment failed: a result.
    unknown    everything else, also whatever is not listed. Never sent again, asked later.

`reversed` takes a whole payment back (a chargeback that was lost, a payment returned elsewhere). `disputed` only says that it
is contested: a person looks. `dispute_won` gives a reversed payment back.
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
    DISPUTED = "disputed"
    DISPUTE_WON = "dispute_won"
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
    SDK = "sdk"


@dataclass(frozen=True, slots=True)
class NextAction:
    """What the customer must do. `url` only for redirect; `display_text` is for people. `fields` are the customer's own, such
    as what their SDK needs to pay (Stripe's `client_secret`): never shown in a log, hence not in the repr."""

    type: ActionType
    url: str | None = None
    display_text: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
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
    Of `disputed`, `dispute_won` and `reversed`, `requested` is the contested amount where it is told: if that is not the whole
    payment, the payment is not reversed but looked at.
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
class CardDetails:
    """A card to charge: digits, `expiry_month` as 01 to 12, `expiry_year` with four. Passed on at once: neither kept nor logged,
    not even where a provider repeats it."""

    number: SecretStr
    expiry_month: SecretStr
    expiry_year: SecretStr
    cvv: SecretStr
    pin: SecretStr | None = None


@dataclass(frozen=True, slots=True)
class PaymentDetails:
    """What a direct charge needs beyond the customer, by `method`; passed on and kept nowhere.

    `bank_code` and `account_number` for `bank`, `operator` for `mobile_money` (the provider's own code, such as `mtn`),
    `ussd_code` for `ussd` (737), `birthday` as YYYY-MM-DD where a bank demands it at once.
    `card` for `card`, given to those only that declare `card_details`.
    """

    bank_code: str | None = None
    account_number: SecretStr | None = None
    operator: str | None = None
    ussd_code: str | None = None
    birthday: SecretStr | None = None
    card: CardDetails | None = None


@dataclass(frozen=True, slots=True)
class CollectOrder:
    """Take money. `reference` is this attempt's own; `callback_url` already holds the path name and the attempt's token.

    `default_return_url` is ours, for providers that demand one when the caller gave none. With `details` the caller wants
    the method charged directly, without a hosted page.
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
    details: PaymentDetails | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """Ask about an attempt. `provider_references` as the provider gave them, the one to ask with first; may be empty.

    `customer` is told to `submit`, for providers that want the payer named again (C-Pay signs the phone number).
    `callback_url` holds the attempt's token, for providers whose answer to a question is "asked" (Daraja's status query).
    `answered` says that the provider has told of this order before: where it finds nothing now, the key may be another's.
    """

    operation: Operation
    reference: str
    provider_references: tuple[str, ...]
    amount: Money
    created_at: datetime
    customer: Customer | None = None
    callback_url: str | None = None
    answered: bool = False


@dataclass(frozen=True, slots=True)
class RefundOrder:
    """Give back `amount` of a paid attempt. `reference` is this refund's own; where a provider has no place for it, nothing
    but `fetch_refund` tells what became of it. `whole` says that all that was paid is given back at once. `receipt` is the
    payment's. `callback_url` already holds the path name and this refund's token.
    """

    reference: str
    transaction_id: UUID
    payment: Query
    amount: Money
    whole: bool
    callback_url: str
    receipt: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RefundQuery:
    """Ask about a refund. Without `provider_references` its order's answer was lost, or it was made elsewhere: find it
    among the payment's refunds by our `reference`, else by `amount`, leaving out `taken`, the ids of its other refunds.
    `callback_url` holds this refund's token, as in `Query`."""

    reference: str
    provider_references: tuple[str, ...]
    amount: Money
    created_at: datetime
    payment: Query
    taken: tuple[str, ...] = ()
    callback_url: str | None = None


class DestinationType(StrEnum):
    BANK_ACCOUNT = "bank_account"
    MOBILE_MONEY = "mobile_money"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where money goes: `bank_code` (from `ListsBanks.banks`) with `account_number`, or `phone` (E.164), there with
    `bank_code` as the operator where one has to be named."""

    type: DestinationType
    account_name: str | None = None
    bank_code: str | None = None
    account_number: str | None = None
    phone: str | None = None


@dataclass(frozen=True, slots=True)
class PayoutOrder:
    """Send money. `reference` is this attempt's own, committed before the call; `callback_url` holds its token."""

    reference: str
    transaction_id: UUID
    amount: Money
    destination: Destination
    callback_url: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Bank:
    """A bank, or an operator of mobile money, that `currency` can be sent to. `code` is the provider's own."""

    code: str
    name: str
    currency: str
    type: DestinationType = DestinationType.BANK_ACCOUNT


@dataclass(frozen=True, slots=True)
class AccountHolder:
    """Whose account it is, as the bank says."""

    name: str
    account_number: str
    bank_code: str


class ServiceCategory(StrEnum):
    AIRTIME = "airtime"
    DATA = "data"


@dataclass(frozen=True, slots=True)
class AirtimeService:
    """Something to buy, such as one network's airtime. `smallest` and `largest` bound a free amount, where they are known."""

    id: str
    name: str
    category: ServiceCategory
    currency: str
    smallest: Money | None = None
    largest: Money | None = None


@dataclass(frozen=True, slots=True)
class AirtimeVariation:
    """A bundle of a service at a fixed price."""

    code: str
    name: str
    price: Money


@dataclass(frozen=True, slots=True)
class PurchaseOrder:
    """Buy airtime (`amount` is free) or a bundle (`variation_code`, `amount` is its price) for `phone` (E.164).

    `reference` and `created_at` are the attempt's, committed before the call: a provider's own request id may be made of
    them, and `fetch_purchase` makes the same one.
    """

    reference: str
    transaction_id: UUID
    created_at: datetime
    service_id: str
    amount: Money
    phone: str
    variation_code: str | None = None


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
    that moves nothing. `references` are ours as echoed, `provider_references` the provider's, to find the attempt by.

    With `operation` REFUND these name the refund, and `payment_references` (ours or the provider's) the payment it is of:
    a refund may have been made elsewhere, or carry no name of its own.

    `unordered`: money that a customer sent by hand. `references` are then what the payer typed, and `result` tells receipt and
    what was paid. With the trust CAPABILITY it is believed on the confirmation URL alone."""

    type: str
    trust: Trust
    operation: Operation = Operation.COLLECT
    dedupe_key: str | None = None
    references: tuple[str, ...] = ()
    provider_references: tuple[str, ...] = ()
    payment_references: tuple[str, ...] = ()
    result: Result | None = None
    unordered: bool = False


HINT_MARK = "0"
"""Behind a callback URL that holds a token: what comes there is only a reason to ask, whatever it says."""

ACCOUNT_REFERENCE_LENGTH = 12
"""Where a customer can type which account a payment is for, an order's account is the end of its reference, so long."""


def account_of(typed: str) -> str | None:
    """The order's account that was typed, in any case and with any signs between; None if it cannot be one of ours."""
    account = "".join(sign for sign in typed.lower() if sign.isascii() and sign.isalnum())
    return account if len(account) == ACCOUNT_REFERENCE_LENGTH else None


@dataclass(frozen=True, slots=True)
class ValidationRequest:
    """A payment that the provider asks about before it takes the money. `reference` is what the payer typed, perhaps nothing."""

    amount: Money
    reference: str
    provider_reference: str


class WebhookRefused(Exception):
    """The webhook does not prove its origin. `reason` is one of: header_missing, wrong_scheme, signature_mismatch, stale,
    no_secret, token. It is counted and logged, never told to the sender."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class WebhookMalformed(Exception):
    """The origin is proven, but the body is not what the provider's documents describe: straight to the dead letters."""


class LookupFailed(Exception):
    """A question that moves no money (banks, an account's holder, services) has no answer. With `failure` the provider
    said why, such as an account that does not exist; without, it could not be reached or understood."""

    def __init__(self, failure: Failure | None = None) -> None:
        self.failure = failure
        super().__init__(failure.message if failure else "no answer")


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
    `signature_headers` (lower case) prove its webhooks and are sent by no other provider: by them the older address
    `/webhooks/payment` tells whose webhook it is.
    `card_details`: a card can be charged by its number (`CardDetails`), not only on the provider's page.
    `refund_alternative` is a sentence: what to do instead, where the provider does not implement `Refunds`.
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
    signature_headers: frozenset[str] = frozenset()
    webhook_answer: bytes = b"{}"
    simulated: bool = False
    card_details: bool = False
    refund_alternative: str | None = None


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
        """Pass on what the customer gave; with `query.operation` PAYOUT, the merchant's own code for a transfer.

        `requires_action` with a `next_action` asks for the next thing, or for the same again after a wrong one. Never raises
        for what the provider or the network does: that is a verdict."""
        ...


@runtime_checkable
class Refunds(Protocol):
    """Results are about the refund: `completed` once the money is back, `requested` its amount, `provider_references` its
    ids. `requires_action` means that a person has to act at the provider (an account to refund to is missing)."""

    def check_refund(self, order: RefundOrder) -> None:
        """OrderNotAcceptable when the provider cannot do it: a part where only the whole can go back, a missing receipt."""
        ...

    async def refund(self, order: RefundOrder, credentials: Credentials) -> Result:
        """Start the refund. Never raises for what the provider or the network does: that is a verdict."""
        ...

    async def fetch_refund(self, query: RefundQuery, credentials: Credentials) -> Result:
        """Ask how it stands. `not_found` only where the provider reliably knows of every refund at once."""
        ...


@runtime_checkable
class PaysOut(Protocol):
    def check_payout(self, order: PayoutOrder) -> None:
        """OrderNotAcceptable when this provider cannot send it."""
        ...

    async def pay_out(self, order: PayoutOrder, credentials: Credentials) -> Result:
        """Start the transfer. `requires_action` with an OTP action where the merchant has to finalise it (`TakesOtp`)."""
        ...

    async def fetch_payout(self, query: Query, credentials: Credentials) -> Result:
        """Ask how it stands. Never raises for what the provider or the network does."""
        ...


@runtime_checkable
class ListsBanks(Protocol):
    async def banks(self, currency: str, credentials: Credentials) -> Sequence[Bank]:
        """Where `currency` can be sent to. LookupFailed."""
        ...

    async def resolve_account(self, destination: Destination, credentials: Credentials) -> AccountHolder:
        """Whose account it is. LookupFailed, with a failure when there is no such account."""
        ...


@runtime_checkable
class SellsAirtime(Protocol):
    async def services(self, category: ServiceCategory, credentials: Credentials) -> Sequence[AirtimeService]:
        """What can be bought. LookupFailed."""
        ...

    async def variations(self, service_id: str, credentials: Credentials) -> Sequence[AirtimeVariation]:
        """The bundles of a service. LookupFailed, with a failure when there is no such service."""
        ...

    def check_purchase(self, order: PurchaseOrder) -> None:
        """OrderNotAcceptable when this provider cannot sell it."""
        ...

    async def purchase(self, order: PurchaseOrder, credentials: Credentials) -> Result:
        """Buy. Never raises for what the provider or the network does: that is a verdict."""
        ...

    async def fetch_purchase(self, query: Query, credentials: Credentials) -> Result:
        """Ask how it stands (a requery). Never raises for what the provider or the network does."""
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


@runtime_checkable
class AnswersValidation(Protocol):
    """For a provider that asks, within seconds, whether it may take a payment we did not start (Daraja's C2B)."""

    def read_validation(self, request: WebhookRequest) -> ValidationRequest | None:
        """What is asked; None for any other webhook. A guess by the body: only on a URL registered for nothing else may
        an answer replace the queue. WebhookMalformed when it asks something that cannot be read."""
        ...

    def answer_validation(self, request: WebhookRequest, accept: bool) -> bytes:
        """The body of our 200."""
        ...


@runtime_checkable
class RegistersUrls(Protocol):
    """For a provider that has to be told once where payments go that we did not start (Daraja's C2B)."""

    async def register_c2b_urls(self, confirmation_url: str, validation_url: str, credentials: Credentials) -> Result:
        """`completed` when they are registered. Never raises for what the provider or the network does."""
        ...
