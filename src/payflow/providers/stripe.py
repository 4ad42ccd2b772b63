"""Stripe: a Checkout Session on Stripe's own page, or with method `payment_intent` a PaymentIntent for the merchant's own
Stripe.js or mobile SDK; refunds, disputes (docs.stripe.com/api).

- Bodies are forms with brackets, answers JSON. Every call names its API version; an endpoint's events follow the endpoint's.
- The session's metadata is not copied to its PaymentIntent, so our reference goes into both, and into client_reference_id.
- There is no PaymentIntent before the customer confirms, and a decline leaves the session open for another try.
- `checkout.session.completed` may be unpaid: a bank debit on its way.
- A session is fetched by its id, else its PaymentIntent is. When neither is known, because the order's answer was lost, nothing
  can be asked: `fetch` says unknown. Nobody has the page's address then; the events name our reference and teach the ids.
- A PaymentIntent has no end of its own: it is cancelled when its time is over. One that belongs to a session cannot be.
- A `client_secret` lets whoever has it pay and read that PaymentIntent: it goes to the customer as the next action, nowhere else.
- A refund is named by its metadata only. Listing a payment's refunds finds it after a lost answer (lists are not delayed, as
  Stripe's search is); an order may still be on its way for a while, so only later "not listed" means that there is none.
- A refund that succeeded may fail weeks later, and is then declined. What an older event says after a newer one is not told.
- A lost dispute takes back what was disputed, which may be a part, or differ by the exchange rate. The event does not tell the
  payment's amount: `requested` carries the disputed one, to be compared. Inquiries (`warning_…`) move no money and are news.
- An idempotency key answers with what it answered first, also a 500. Each attempt has its own and is never sent again.
- UGX and ISK are counted in hundredths, though they have none; MGA in wholes; the last of three decimals must be 0.
- The smallest amount depends on the merchant's settlement currency: Stripe refuses it with `amount_too_small`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote, urlencode

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from payflow.core.clock import Clock
from payflow.core.money import Money, MoneyError, exponent
from payflow.gateway.contract import (
    ActionType,
    CollectOrder,
    Declaration,
    Failure,
    NextAction,
    Operation,
    OrderNotAcceptable,
    ProviderEvent,
    Query,
    RefundOrder,
    RefundQuery,
    Result,
    Trust,
    Verdict,
    WebhookMalformed,
    WebhookRequest,
)
from payflow.gateway.http import Answer, NotSent, OutcomeUnknown, ProviderHttp, Unreadable
from payflow.gateway.reading import INVALID, NO_ACCESS, SETUP, TOO_MANY, minor_units, silence, told, web_address, word
from payflow.gateway.signing import verify_timestamped

API_VERSION = "2025-09-30.clover"
EXPONENTS = {"UGX": 2, "ISK": 2, "MGA": 0}
MAX_UNITS = 99_999_999
SESSION_LIFE = timedelta(hours=1)  # Stripe takes 30 minutes to 24 hours
SESSIONS = "/v1/checkout/sessions"
INTENTS = "/v1/payment_intents"
REFUNDS = "/v1/refunds"
PAYMENT_INTENT = "payment_intent"  # the method that asks for one
REFUND_LISTED_AFTER = timedelta(minutes=10)  # far longer than a request can be under way

CURRENCIES = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BWP BYN BZD CAD CDF CHF CLP CNY COP CRC CVE "
    "CZK DJF DKK DOP DZD EGP ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR ISK JMD JOD JPY KES "
    "KGS KHR KMF KRW KWD KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR "
    "NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RWF SAR SBD SCR SEK SGD SHP SLE SOS SRD SZL THB TJS TND TOP TRY TTD TWD "
    "TZS UAH UGX USD UYU UZS VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW"
)
# Where a Stripe account can be held.
COUNTRIES = (
    "AE AT AU BE BG BR CA CH CY CZ DE DK EE ES FI FR GB GI GR HK HR HU IE IT JP LI LT LU LV MT MX MY NL NO NZ PL PT RO SE SG "
    "SI SK TH US"
)

DECLARATION = Declaration(
    name="stripe",
    path_name="stripe",
    title="Stripe",
    currencies=frozenset(CURRENCIES.split()),
    countries=frozenset(COUNTRIES.split()),
    methods=frozenset({"card", PAYMENT_INTENT}),
    live_base_url="https://api.stripe.com",
    session_life=SESSION_LIFE,
    signature_headers=frozenset({"stripe-signature"}),
    exponents=EXPONENTS,
)

# By a session's status and payment_status; what a completed but unpaid one means, its PaymentIntent tells.
STATUSES = {
    ("open", "unpaid"): Verdict.REQUIRES_ACTION,
    ("complete", "unpaid"): Verdict.PROCESSING,
    ("complete", "paid"): Verdict.COMPLETED,
    ("complete", "no_payment_required"): Verdict.COMPLETED,
    ("expired", "unpaid"): Verdict.EXPIRED,
    ("expired", "no_payment_required"): Verdict.EXPIRED,
}
INTENT_STATUSES = {
    "requires_payment_method": Verdict.REQUIRES_ACTION,
    "requires_confirmation": Verdict.REQUIRES_ACTION,
    "requires_action": Verdict.REQUIRES_ACTION,
    "processing": Verdict.PROCESSING,
    "requires_capture": Verdict.PROCESSING,
    "succeeded": Verdict.COMPLETED,
    "canceled": Verdict.CANCELLED,
}
REFUND_STATUSES = {
    "pending": Verdict.PROCESSING,
    "requires_action": Verdict.REQUIRES_ACTION,
    "succeeded": Verdict.COMPLETED,
    "failed": Verdict.DECLINED,
    "canceled": Verdict.DECLINED,
}
DISPUTE_STATUSES = {
    "needs_response": Verdict.DISPUTED,
    "under_review": Verdict.DISPUTED,
    "won": Verdict.DISPUTE_WON,
    "lost": Verdict.REVERSED,
}
INQUIRY = "warning_"  # what the status of a dispute begins with while the bank only asks
RAN_OUT = {"automatic", "expired"}  # reasons of a canceled PaymentIntent that nobody cancelled

NO_RETURN = Failure("return_url_required", "Stripe needs a return_url to send the customer back to.")
DECLINED = Failure("card_declined", "The card was declined.")
LIMIT = Failure("limit_exceeded", "The payment exceeds the card's limit.")
BAD_AMOUNT = Failure("amount_not_accepted", "The payment provider does not take this amount.")
CARD_DATA = Failure("incorrect_card", "The card's number, date or code is wrong.")
CONFIRM = Failure("authentication_required", "The bank asked for a confirmation that was not given.")
FAULT = Failure("provider_error", "The payment could not be processed. Please try again.")
TIMED_OUT = Failure("expired", "The payment page has expired.")
CANCELLED = Failure("customer_cancelled", "The payment was cancelled.")
NO_PAYMENT = Failure("payment_unknown", "Stripe has named no payment that could be refunded.")
REFUND_FAILED = Failure("refund_failed", "The refund did not reach the customer.")
REFUND_CANCELLED = Failure("refund_cancelled", "The refund was cancelled.")
CARD_GONE = Failure("refund_failed", "The card that paid can no longer receive a refund.")
TOO_MUCH = Failure("amount_exceeds_payment", "The refund is more than what is left of the payment.")
REFUNDED_BEFORE = Failure("already_refunded", "The payment has been refunded already.")
CONTESTED = Failure("payment_disputed", "The payment is disputed and cannot be refunded.")
NOT_REFUNDABLE = Failure("not_refundable", "The payment cannot be refunded.")
NO_BALANCE = Failure("insufficient_balance", "The merchant's balance at Stripe does not cover the refund.")

# By HTTP status and error type: Stripe executes nothing then. Its idempotency_error, 409, 424 and 5xx leave it open.
REFUSALS = {
    (400, "invalid_request_error"): INVALID,
    (401, "invalid_request_error"): NO_ACCESS,
    (401, "authentication_error"): NO_ACCESS,
    (403, "invalid_request_error"): SETUP,
    (429, "invalid_request_error"): TOO_MANY,
    (429, "rate_limit_error"): TOO_MANY,
}
# By code, where the type alone says too little.
REFUSAL_CODES = {
    "amount_too_small": BAD_AMOUNT,
    "amount_too_large": BAD_AMOUNT,
    "invalid_charge_amount": BAD_AMOUNT,
    "api_key_expired": NO_ACCESS,
    "secret_key_required": NO_ACCESS,
    "livemode_mismatch": SETUP,
    "testmode_charges_only": SETUP,
    "payment_method_types_no_longer_supported": SETUP,
    "charge_already_refunded": REFUNDED_BEFORE,
    "charge_disputed": CONTESTED,
    "refund_disputed_payment": CONTESTED,
    "charge_not_refundable": NOT_REFUNDABLE,
    "balance_insufficient": NO_BALANCE,
}
OVER_REFUND = "greater than unrefunded amount"  # has no code
# By decline_code, else code. Lost, stolen and fraudulent cards get the general words, as Stripe asks.
DECLINES = {
    "insufficient_funds": Failure("insufficient_funds", "The account does not hold enough money."),
    "expired_card": Failure("expired_card", "The card has expired."),
    "card_velocity_exceeded": LIMIT,
    "withdrawal_count_limit_exceeded": LIMIT,
    "pin_try_exceeded": LIMIT,
    "incorrect_pin": Failure("wrong_pin", "The PIN was wrong."),
    "invalid_pin": Failure("wrong_pin", "The PIN was wrong."),
    **dict.fromkeys(("incorrect_cvc", "incorrect_number", "incorrect_zip"), CARD_DATA),
    **dict.fromkeys(("invalid_cvc", "invalid_number", "invalid_expiry_month", "invalid_expiry_year"), CARD_DATA),
    "authentication_required": CONFIRM,
    "payment_intent_authentication_failure": CONFIRM,
    "payment_intent_payment_attempt_expired": TIMED_OUT,
    "payment_method_customer_decline": CANCELLED,
    "processing_error": FAULT,
    "try_again_later": FAULT,
    "issuer_not_available": FAULT,
}

# By failure_reason of a refund.
REFUND_FAILURES = {
    "lost_or_stolen_card": CARD_GONE,
    "expired_or_canceled_card": CARD_GONE,
    "charge_for_pending_refund_disputed": CONTESTED,
    "insufficient_funds": NO_BALANCE,
    "merchant_request": REFUND_CANCELLED,
}

SESSION_EVENTS = {
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
}
INTENT_EVENTS = {
    "payment_intent.succeeded",
    "payment_intent.payment_failed",
    "payment_intent.processing",
    "payment_intent.canceled",
    "payment_intent.requires_action",
    "payment_intent.amount_capturable_updated",
    "payment_intent.partially_funded",
}
INTENT_CREATED = "payment_intent.created"
REFUND_EVENTS = {"refund.created", "refund.updated", "refund.failed", "charge.refund.updated"}
DISPUTE_EVENTS = {"charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed"}
NOT_OPEN = "only checkout sessions with a status in"

NO_ID = Result(Verdict.UNKNOWN, raw_status="no session id")

Reader = Callable[[Any], Result]


class StripeCredentials(BaseModel):
    """`webhook_secret` is the endpoint's own; `default_return_url` serves orders that name none. `publishable_key` is public:
    it is handed to the customer's SDK beside the `client_secret`, for merchants who do not have it there already."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    secret_key: SecretStr
    webhook_secret: SecretStr
    default_return_url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    publishable_key: str | None = Field(default=None, pattern=r"^pk_(test|live)_[A-Za-z0-9_]+$")

    @field_validator("secret_key")
    @classmethod
    def _key_shaped(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch(r"(sk|rk)_(test|live)_[A-Za-z0-9_]+", value.get_secret_value()):
            raise ValueError("a secret key begins with sk_test_, sk_live_, rk_test_ or rk_live_")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _secret_shaped(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch(r"whsec_[A-Za-z0-9+/=_-]+", value.get_secret_value()):
            raise ValueError("a webhook secret begins with whsec_")
        return value


class Stripe:
    declaration: ClassVar[Declaration] = DECLARATION
    CredentialsModel: ClassVar[type[BaseModel]] = StripeCredentials

    def __init__(self, http: ProviderHttp, base_url: str, clock: Clock) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._clock = clock

    def check(self, order: CollectOrder) -> None:
        currency = order.amount.currency
        if currency not in DECLARATION.currencies:
            raise OrderNotAcceptable("/currency", f"Stripe does not take {currency}.")
        if order.method is not None and order.method not in DECLARATION.methods:
            raise OrderNotAcceptable("/method", f"Stripe does not offer {order.method}.")
        _check_amount(order.amount)

    async def collect(self, order: CollectOrder, credentials: StripeCredentials) -> Result:
        read: Reader
        if order.method == PAYMENT_INTENT:
            path, form, read = INTENTS, _intent_body(order), _intent_reader(credentials)
        else:
            return_url = order.return_url or credentials.default_return_url or order.default_return_url
            if return_url is None:
                return Result(Verdict.REFUSED, raw_status="not sent", failure=NO_RETURN)
            path, form, read = SESSIONS, _session_body(order, return_url, self._clock() + SESSION_LIFE), _result
        try:
            return _accepted(await self._send("collect", "POST", path, credentials, form, order.reference), read)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch(self, query: Query, credentials: StripeCredentials) -> Result:
        """A query that was not sent, or was refused, says nothing of the payment: it is unknown as well."""
        subject = _subject(query, credentials)
        if subject is None:
            return NO_ID
        path = subject.path + ("?" + urlencode({"expand[]": "payment_intent"}) if subject.session else "")
        try:
            return _fetched(await self._send("fetch", "GET", path, credentials), subject.read)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    async def cancel(self, query: Query, credentials: StripeCredentials) -> Result:
        """What is no longer open is asked how it ended."""
        subject = _subject(query, credentials)
        if subject is None:
            return NO_ID
        path = subject.path + ("/expire" if subject.session else "/cancel")
        try:
            answer = await self._send("cancel", "POST", path, credentials)
            if _too_late(answer):
                return await self.fetch(query, credentials)
            return _ended(_fetched(answer, subject.read))
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    def check_refund(self, order: RefundOrder) -> None:
        _check_amount(order.amount)
        if _payment_field(order.payment) is None:
            raise OrderNotAcceptable("", NO_PAYMENT.message)

    async def refund(self, order: RefundOrder, credentials: StripeCredentials) -> Result:
        payment = _payment_field(order.payment)
        if payment is None:
            return Result(Verdict.REFUSED, raw_status="not sent", failure=NO_PAYMENT)
        form = _refund_body(order) | payment
        try:
            return _refund_accepted(await self._send("refund", "POST", REFUNDS, credentials, form, order.reference))
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch_refund(self, query: RefundQuery, credentials: StripeCredentials) -> Result:
        """By its id, else among the payment's refunds by our reference. Never by its amount: each of ours names us."""
        refund_id, payment = next(iter(query.provider_references), None), _payment_field(query.payment)
        if refund_id is not None:
            path = f"{REFUNDS}/{_quoted(refund_id)}"
        elif payment is not None:
            path = f"{REFUNDS}?" + urlencode(payment | {"limit": "100"})
        else:
            return Result(Verdict.UNKNOWN, raw_status="no payment id")
        try:
            answer = await self._send("fetch_refund", "GET", path, credentials)
            if answer.status != 200:
                kind, code, _ = _error(answer)
                return Result(Verdict.UNKNOWN, raw_status=f"{answer.status} {code or kind}".strip())
            body = answer.json_object()
            listed_by_now = self._clock() - query.created_at >= REFUND_LISTED_AFTER
            return _refund_result(body) if refund_id else _listed(body, query.reference, listed_by_now)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    def verify_webhook(self, request: WebhookRequest, credentials: Sequence[StripeCredentials]) -> None:
        secrets = [item.webhook_secret.get_secret_value() for item in credentials]
        header = request.headers.get("stripe-signature")
        verify_timestamped(header, request.body, secrets, now=self._clock().timestamp())

    def translate(self, request: WebhookRequest) -> Sequence[ProviderEvent]:
        try:
            body = orjson.loads(request.body)
            return [_event(body["id"], body["type"], body["data"]["object"], body["data"].get("previous_attributes"))]
        except (orjson.JSONDecodeError, KeyError, TypeError, Unreadable) as error:
            raise WebhookMalformed(f"no readable Stripe event: {error}") from None

    async def _send(
        self,
        operation: str,
        method: str,
        path: str,
        credentials: StripeCredentials,
        form: dict[str, str] | None = None,
        key: str | None = None,
    ) -> Answer:
        url, headers = self._base_url + path, _headers(credentials, key)
        return await self._http.send(DECLARATION.name, operation, method, url, headers=headers, form=form)


def _headers(credentials: StripeCredentials, key: str | None) -> dict[str, str]:
    bearer = {"authorization": f"Bearer {credentials.secret_key.get_secret_value()}", "stripe-version": API_VERSION}
    return bearer | ({"idempotency-key": key} if key else {})


def _check_amount(amount: Money) -> None:
    try:
        units = amount.to_provider(EXPONENTS)
    except MoneyError as error:
        raise OrderNotAcceptable("/amount", str(error)) from None
    if exponent(amount.currency) == 3 and units % 10:
        raise OrderNotAcceptable("/amount", f"Stripe takes {amount.currency} with two decimals; the third must be 0.")
    if not 1 <= units <= MAX_UNITS:
        raise OrderNotAcceptable("/amount", "The amount is too large for Stripe.")


def _session_body(order: CollectOrder, return_url: str, expires_at: datetime) -> dict[str, str]:
    item = "line_items[0]"
    form = {
        "mode": "payment",
        "client_reference_id": order.reference,
        "success_url": return_url,
        "cancel_url": return_url,
        "expires_at": str(int(expires_at.timestamp())),
        f"{item}[quantity]": "1",
        f"{item}[price_data][currency]": order.amount.currency.lower(),
        f"{item}[price_data][unit_amount]": str(order.amount.to_provider(EXPONENTS)),
        f"{item}[price_data][product_data][name]": (order.description or "Payment")[:250],
    }
    form |= _metadata(order) | _metadata(order, "payment_intent_data[metadata]")
    if order.customer.email:
        form["customer_email"] = order.customer.email
    return form


def _intent_body(order: CollectOrder) -> dict[str, str]:
    """Without `receipt_email`, which would make Stripe write to the customer."""
    form = {
        "amount": str(order.amount.to_provider(EXPONENTS)),
        "currency": order.amount.currency.lower(),
        "automatic_payment_methods[enabled]": "true",
    }
    if order.description:
        form["description"] = order.description[:250]
    return form | _metadata(order)


def _refund_body(order: RefundOrder) -> dict[str, str]:
    """The amount is always said: without it Stripe gives back whatever is left. Its `reason` takes three words only."""
    form = {"amount": str(order.amount.to_provider(EXPONENTS))} | _metadata(order)
    return form | ({"metadata[reason]": order.reason[:500]} if order.reason else {})


def _metadata(order: CollectOrder | RefundOrder, name: str = "metadata") -> dict[str, str]:
    return {f"{name}[reference]": order.reference, f"{name}[transaction_id]": str(order.transaction_id)}


def _payment_field(payment: Query) -> dict[str, str] | None:
    """What a refund is of, as Stripe's refunds name it."""
    intent_id = _found(payment, "pi_")
    charge_id = _found(payment, "ch_") or _found(payment, "py_")
    if intent_id is not None:
        return {"payment_intent": intent_id}
    return None if charge_id is None else {"charge": charge_id}


class _Subject(NamedTuple):
    """What is asked about, and how its answer is read."""

    path: str
    session: bool
    read: Reader


def _subject(query: Query, credentials: StripeCredentials) -> _Subject | None:
    """The session, else the PaymentIntent: also that of a session whose id was never told."""
    session_id, intent_id = _found(query, "cs_"), _found(query, "pi_")
    if session_id is not None:
        return _Subject(f"{SESSIONS}/{_quoted(session_id)}", True, _result)
    if intent_id is not None:
        return _Subject(f"{INTENTS}/{_quoted(intent_id)}", False, _intent_reader(credentials))
    return None


def _found(query: Query, prefix: str) -> str | None:
    return next((item for item in query.provider_references if item.startswith(prefix)), None)


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _accepted(answer: Answer, read: Reader) -> Result:
    """The answer to an order."""
    if answer.status != 200:
        return _refused(answer)
    result = read(answer.json_object())
    if result.verdict is Verdict.REQUIRES_ACTION and result.next_action is None:
        return Result(Verdict.UNKNOWN, raw_status="no next action", provider_references=result.provider_references)
    return result


def _refused(answer: Answer) -> Result:
    kind, code, _ = _error(answer)
    raw_status = f"{answer.status} {code or kind}".strip()
    if answer.status == 402 and kind == "card_error":
        return Result(Verdict.DECLINED, raw_status=raw_status, failure=told(DECLINES.get(code, DECLINED), code))
    failure = TOO_MANY if answer.status == 429 else REFUSALS.get((answer.status, kind))
    if failure is None:
        return Result(Verdict.UNKNOWN, raw_status=raw_status)
    if answer.status == 400:
        failure = REFUSAL_CODES.get(code, failure)
    return Result(Verdict.REFUSED, raw_status=raw_status, failure=told(failure, code or kind))


def _refund_accepted(answer: Answer) -> Result:
    """The answer to a refund's order. What is of no payment, or more than is left of one, was not executed either."""
    if answer.status == 200:
        return _refund_result(answer.json_object())
    kind, code, message = _error(answer)
    known, failure = kind == "invalid_request_error", None
    if known and answer.status == 400 and OVER_REFUND in message.lower():
        failure = TOO_MUCH
    if known and answer.status == 404 and code == "resource_missing":
        failure = SETUP
    if failure is not None:
        return Result(
            Verdict.REFUSED, raw_status=f"{answer.status} {code or kind}", failure=told(failure, code or kind)
        )
    if answer.status == 402:
        return Result(Verdict.UNKNOWN, raw_status=f"402 {code or kind}".strip())
    return _refused(answer)


def _fetched(answer: Answer, read: Reader) -> Result:
    """The answer to a question about a session or a PaymentIntent."""
    kind, code, _ = _error(answer)
    if answer.status == 404 and code == "resource_missing":
        return Result(Verdict.NOT_FOUND, raw_status=code)
    if answer.status != 200:
        return Result(Verdict.UNKNOWN, raw_status=f"{answer.status} {code or kind}".strip())
    return read(answer.json_object())


def _too_late(answer: Answer) -> bool:
    _, code, message = _error(answer)
    return answer.status == 400 and (code == "payment_intent_unexpected_state" or NOT_OPEN in message.lower())


def _ended(result: Result) -> Result:
    """The answer to a cancellation: expired, because we asked for it."""
    if result.verdict is not Verdict.EXPIRED:
        return result
    ids, reference = result.provider_references, result.reference
    return Result(
        Verdict.CANCELLED, result.raw_status, reference, ids, failure=told(CANCELLED, "expired"), expirable=True
    )


def _result(session: Any) -> Result:
    """A Checkout Session, from an answer or an event. Unreadable for anything else, and for money without an amount."""
    if not isinstance(session, dict) or session.get("object") != "checkout.session":
        raise Unreadable("not a checkout session")
    status, payment_status = word(session.get("status")), word(session.get("payment_status"))
    verdict = STATUSES.get((status, payment_status), Verdict.UNKNOWN)
    raw_intent = session.get("payment_intent")
    intent: dict[str, Any] = raw_intent if isinstance(raw_intent, dict) else {"id": raw_intent}
    failure = TIMED_OUT if verdict is Verdict.EXPIRED else None
    if verdict is Verdict.PROCESSING and intent.get("status") in ("requires_payment_method", "canceled"):
        verdict, failure = Verdict.DECLINED, _decline(intent)
    paid, currency = verdict is Verdict.COMPLETED, session.get("currency")
    action = _next_action(session) if verdict is Verdict.REQUIRES_ACTION else None
    return Result(
        verdict,
        raw_status=f"{status} {payment_status}".strip(),
        reference=word(session.get("client_reference_id")) or None,
        provider_references=_ids(session.get("id"), intent.get("id"), intent.get("latest_charge") if paid else None),
        requested=minor_units(session.get("amount_total"), currency, EXPONENTS) if paid else None,
        paid=minor_units(intent["amount_received"], intent.get("currency"), EXPONENTS)
        if paid and "amount_received" in intent
        else None,
        next_action=action,
        checkout_url=action.url if action else None,
        session_ends_at=_moment(session.get("expires_at")),
        failure=failure,
        expirable=verdict in (Verdict.EXPIRED, Verdict.DECLINED),
    )


def _next_action(session: Mapping[str, Any]) -> NextAction | None:
    url = web_address(session.get("url"))
    if not url:
        return None
    return NextAction(ActionType.REDIRECT, url=url, expires_at=_moment(session.get("expires_at")))


def _intent_reader(credentials: StripeCredentials) -> Reader:
    """For an answer that is a PaymentIntent: while the customer has to act, their SDK needs its `client_secret`."""

    def read(intent: Any) -> Result:
        if not isinstance(intent, dict) or intent.get("object") != "payment_intent":
            raise Unreadable("not a payment intent")
        result, secret = _intent_result(intent), word(intent.get("client_secret"))
        if result.verdict is not Verdict.REQUIRES_ACTION or not secret:
            return result
        fields = {"client_secret": secret}
        if credentials.publishable_key:
            fields["publishable_key"] = credentials.publishable_key
        return replace(result, next_action=NextAction(ActionType.SDK, fields=fields))

    return read


def _intent_result(intent: Mapping[str, Any]) -> Result:
    """A PaymentIntent, from an answer or an event. After a decline the customer may try again, with another card too."""
    status, currency = word(intent.get("status")), intent.get("currency")
    verdict, failure = INTENT_STATUSES.get(status, Verdict.UNKNOWN), None
    if status == "requires_payment_method" and intent.get("last_payment_error"):
        verdict, failure = Verdict.DECLINED, _decline(intent)
    if status == "canceled":
        ran_out = intent.get("cancellation_reason") in RAN_OUT
        verdict, failure = (Verdict.EXPIRED, TIMED_OUT) if ran_out else (Verdict.CANCELLED, CANCELLED)
    paid = verdict is Verdict.COMPLETED
    return Result(
        verdict,
        raw_status=status,
        reference=_references(intent)[0] if _references(intent) else None,
        provider_references=_ids(intent.get("id"), intent.get("latest_charge") if paid else None),
        requested=minor_units(intent.get("amount"), currency, EXPONENTS) if paid else None,
        paid=minor_units(intent.get("amount_received"), currency, EXPONENTS) if paid else None,
        failure=failure,
        session_open=verdict is Verdict.DECLINED,
        expirable=status == "canceled",
    )


def _decline(intent: Mapping[str, Any]) -> Failure:
    error = intent.get("last_payment_error")
    fields = error if isinstance(error, dict) else {}
    code = word(fields.get("decline_code")) or word(fields.get("code"))
    return told(DECLINES.get(code, DECLINED), code)


def _refund_result(refund: Any) -> Result:
    """A refund, from an answer or an event."""
    if not isinstance(refund, dict) or refund.get("object") != "refund":
        raise Unreadable("not a refund")
    status, reason = word(refund.get("status")), word(refund.get("failure_reason"))
    verdict, failure = REFUND_STATUSES.get(status, Verdict.UNKNOWN), None
    if verdict is Verdict.DECLINED:
        general = REFUND_CANCELLED if status == "canceled" else REFUND_FAILED
        failure = told(REFUND_FAILURES.get(reason, general), reason or status)
    return Result(
        verdict,
        raw_status=f"{status} {reason}".strip(),
        reference=next(iter(_references(refund)), None),
        provider_references=_ids(refund.get("id")),
        requested=minor_units(refund.get("amount"), refund.get("currency"), EXPONENTS),
        failure=failure,
    )


def _listed(body: Mapping[str, Any], reference: str, by_now: bool) -> Result:
    """The refund of this reference in the list of a payment's refunds; if it is not there `by_now`, there is none."""
    rows = body.get("data")
    if body.get("object") != "list" or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Unreadable("not a list of refunds")
    for row in rows:
        if reference in _references(row):
            return _refund_result(row)
    complete = by_now and body.get("has_more") is False
    return Result(Verdict.NOT_FOUND if complete else Verdict.UNKNOWN, raw_status="not listed")


def _dispute_result(kind: str, dispute: Mapping[str, Any], previous: Any) -> Result | None:
    """None for what moves nothing: inquiries, evidence that was handed in, and funds on their way."""
    status = word(dispute.get("status"))
    before = word(previous.get("status")) if isinstance(previous, dict) else ""
    evidence_only = kind == "charge.dispute.updated" and not before.startswith(INQUIRY)
    if kind not in DISPUTE_EVENTS or status.startswith(INQUIRY) or evidence_only:
        return None
    return Result(
        DISPUTE_STATUSES.get(status, Verdict.UNKNOWN),
        raw_status=f"dispute {status} {word(dispute.get('reason'))}".strip(),
        provider_references=_ids(dispute.get("payment_intent"), dispute.get("charge")),
        requested=minor_units(dispute.get("amount"), dispute.get("currency"), EXPONENTS),
    )


def _event(event_id: Any, kind: Any, fields: Any, previous: Any) -> ProviderEvent:
    """News that moves nothing (charges, inquiries) keeps its references, so that it is found by them."""
    if not (word(event_id) and word(kind) and isinstance(fields, dict)):
        raise Unreadable("an event without id, type or object")
    event = partial(ProviderEvent, kind, Trust.SIGNED, dedupe_key=event_id)
    references, payment = _references(fields), _ids(fields.get("payment_intent"), fields.get("charge"))
    if kind in REFUND_EVENTS:
        return event(
            Operation.REFUND,
            references=references,
            provider_references=_ids(fields.get("id")),
            payment_references=payment,
            result=_refund_result(fields),
        )
    if kind == "charge.refunded":
        # The object is the charge, its metadata the payment's. It names no refund; the refund's own events do.
        return event(Operation.REFUND, payment_references=(*references, *payment, *_ids(fields.get("id"))))
    if kind.startswith("charge.dispute."):
        result, ids = _dispute_result(kind, fields, previous), (*payment, *_ids(fields.get("id")))
        return event(Operation.COLLECT, references=references, provider_references=ids, result=result)
    result = _payment_result(kind, fields)
    ids = result.provider_references if result else _ids(fields.get("id"), fields.get("payment_intent"))
    return event(Operation.COLLECT, references=references, provider_references=ids, result=result)


def _payment_result(kind: str, fields: Mapping[str, Any]) -> Result | None:
    if kind in INTENT_EVENTS:
        return _intent_result(fields)
    if kind == INTENT_CREATED:
        # Moves nothing, but teaches the id: an order whose answer was lost can then be asked about.
        created = _intent_result(fields)
        return Result(Verdict.ASKED, created.raw_status, created.reference, _ids(fields.get("id")))
    if kind not in SESSION_EVENTS:
        return None
    result = _result(fields)
    if kind == "checkout.session.async_payment_failed" and result.verdict is Verdict.PROCESSING:
        ids, reference = result.provider_references, result.reference
        failure = told(DECLINED, "async_payment_failed")
        return Result(Verdict.DECLINED, result.raw_status, reference, ids, failure=failure, expirable=True)
    return result


def _references(fields: Mapping[str, Any]) -> tuple[str, ...]:
    metadata = fields.get("metadata")
    inner = metadata.get("reference") if isinstance(metadata, dict) else None
    return tuple(dict.fromkeys(text for text in (word(fields.get("client_reference_id")), word(inner)) if text))


def _ids(*found: Any) -> tuple[str, ...]:
    return tuple(text for text in map(word, found) if text)


def _error(answer: Answer) -> tuple[str, str, str]:
    """Type, code (a card's decline_code first) and message; empty where the body is no error of Stripe's."""
    try:
        error = answer.json_object().get("error")
    except Unreadable:
        error = None
    fields = error if isinstance(error, dict) else {}
    code = word(fields.get("decline_code")) or word(fields.get("code"))
    return word(fields.get("type")), code, word(fields.get("message"), 1_000)


def _moment(seconds: Any) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if type(seconds) is int and 0 < seconds < 2**33 else None
