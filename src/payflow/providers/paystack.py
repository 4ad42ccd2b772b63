"""Paystack: a hosted checkout for Nigeria, Ghana, South Africa, Kenya and Côte d'Ivoire (paystack.com/docs).

- The envelope's `status` only says that the call worked; `data.status` is the payment.
- The reference is the one guard against a second charge, and stays used up even after a failure. Refused as a duplicate, it
  may hold a live checkout: that is unknown, and verify tells.
- A checkout that nobody has touched verifies as `abandoned`. A `failed` one may still be paid on the same page.
- Only success is told by webhook; the webhook key is the secret key; events have neither id nor time.
- `amount` is what the customer was charged, `requested_amount` (missing in older shapes) what we asked for.
- XOF is counted in hundredths, though it has none.
- A key of another account or mode answers "not found" to every reference.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import quote

import orjson
from pydantic import BaseModel, ConfigDict, SecretStr, field_validator

from payflow.core.clock import Clock
from payflow.core.money import Money
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
    Result,
    Trust,
    Verdict,
    WebhookMalformed,
    WebhookRequest,
)
from payflow.gateway.http import Answer, NotSent, OutcomeUnknown, ProviderHttp, Unreadable
from payflow.gateway.reading import (
    DECLINED,
    INVALID,
    NO_ACCESS,
    TOO_MANY,
    minor_units,
    number,
    silence,
    told,
    web_address,
    word,
)
from payflow.gateway.signing import verify_hmac_hex

EXPONENTS = {"XOF": 2}
SECRET_KEY = re.compile(r"sk_(test|live)_[A-Za-z0-9_]+")

DECLARATION = Declaration(
    name="paystack",
    path_name="paystack",
    title="Paystack",
    currencies=frozenset({"NGN", "GHS", "ZAR", "KES", "USD", "XOF"}),
    countries=frozenset({"NG", "GH", "ZA", "KE", "CI"}),
    methods=frozenset({"card", "bank", "ussd", "qr", "mobile_money", "bank_transfer", "eft"}),
    live_base_url="https://api.paystack.co",
    # The page has no end of its own unless the merchant sets one; a later success is still believed.
    session_life=timedelta(hours=24),
    exponents=EXPONENTS,
    webhook_sources=frozenset({"52.31.139.75", "52.49.173.169", "52.214.14.220"}),
)

STATUSES = {
    "abandoned": Verdict.REQUIRES_ACTION,
    "ongoing": Verdict.PROCESSING,
    "pending": Verdict.PROCESSING,
    "processing": Verdict.PROCESSING,
    "queued": Verdict.PROCESSING,
    "failed": Verdict.DECLINED,
    "success": Verdict.COMPLETED,
    "reversed": Verdict.REVERSED,
}

WRONG_CURRENCY = Failure("unsupported_currency", "This account cannot take this currency.")

# By HTTP status and the answer's code, or where it has none its message. Nothing was opened.
REFUSALS = {
    (400, "missing_params"): INVALID,
    (400, "invalid_params"): INVALID,
    (400, "invalid amount sent"): INVALID,
    (400, '"amount" must be an integer'): INVALID,
    (400, "email address is required"): INVALID,
    (400, "invalid email address passed"): INVALID,
    (400, "unsupported_currency"): WRONG_CURRENCY,
    (400, "currency not supported by merchant"): WRONG_CURRENCY,
    (401, "invalid key"): NO_ACCESS,
    (401, "no authorization header was found"): NO_ACCESS,
}
NOT_FOUND = {
    (400, "transaction_not_found"),
    (400, "transaction reference not found"),
    (404, "transaction_not_found"),
    (404, "transaction reference not found"),
    (404, "entity not found"),
}
DECLINES = {
    "insufficient funds": Failure("insufficient_funds", "The account does not hold enough money."),
    "expired card": Failure("expired_card", "The card has expired."),
    "incorrect pin": Failure("wrong_pin", "The PIN was wrong."),
    "exceeds withdrawal limit": Failure("limit_exceeded", "The payment exceeds the account's limit."),
}

MOVING_EVENTS = {"charge.success"}
SINGLE_EVENTS = {"charge.success", "charge.dispute.create", "charge.dispute.resolve"}
OPERATIONS = {"refund": Operation.REFUND, "transfer": Operation.PAYOUT}


class PaystackCredentials(BaseModel):
    """The secret key decides between test and live, and also signs the webhooks."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    secret_key: SecretStr

    @field_validator("secret_key")
    @classmethod
    def _shaped(cls, value: SecretStr) -> SecretStr:
        if not SECRET_KEY.fullmatch(value.get_secret_value()):
            raise ValueError("a secret key begins with sk_test_ or sk_live_")
        return value


class Paystack:
    declaration: ClassVar[Declaration] = DECLARATION
    CredentialsModel: ClassVar[type[BaseModel]] = PaystackCredentials

    def __init__(self, http: ProviderHttp, base_url: str, clock: Clock) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._clock = clock

    def check(self, order: CollectOrder) -> None:
        if order.amount.currency not in DECLARATION.currencies:
            raise OrderNotAcceptable("/currency", f"Paystack does not take {order.amount.currency}.")
        if order.method is not None and order.method not in DECLARATION.methods:
            raise OrderNotAcceptable("/method", f"Paystack does not offer {order.method}.")
        if not order.customer.email:
            raise OrderNotAcceptable("/customer/email", "Paystack requires the customer's email address.")

    async def collect(self, order: CollectOrder, credentials: PaystackCredentials) -> Result:
        try:
            body = _order_body(order)
            return _accepted(await self._send("collect", "POST", "/transaction/initialize", credentials, body))
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch(self, query: Query, credentials: PaystackCredentials) -> Result:
        """A query that was not sent, or was refused, says nothing of the payment: it is unknown as well."""
        try:
            path = f"/transaction/verify/{quote(query.reference, safe='')}"
            return _verified(await self._send("fetch", "GET", path, credentials))
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    def verify_webhook(self, request: WebhookRequest, credentials: Sequence[PaystackCredentials]) -> None:
        keys = [item.secret_key.get_secret_value() for item in credentials]
        verify_hmac_hex(request.headers.get("x-paystack-signature"), request.body, keys, "sha512")

    def translate(self, request: WebhookRequest) -> Sequence[ProviderEvent]:
        try:
            body = orjson.loads(request.body)
            return [_event(body["event"], body["data"])]
        except (orjson.JSONDecodeError, KeyError, TypeError, Unreadable) as error:
            raise WebhookMalformed(f"no readable Paystack event: {error}") from None

    async def _send(
        self,
        operation: str,
        method: str,
        path: str,
        credentials: PaystackCredentials,
        body: dict[str, Any] | None = None,
    ) -> Answer:
        url, headers = self._base_url + path, _headers(credentials)
        return await self._http.send(DECLARATION.name, operation, method, url, headers=headers, json=body)


def _headers(credentials: PaystackCredentials) -> dict[str, str]:
    return {"authorization": f"Bearer {credentials.secret_key.get_secret_value()}"}


def _order_body(order: CollectOrder) -> dict[str, Any]:
    body: dict[str, Any] = {
        "reference": order.reference,
        "amount": order.amount.to_provider(EXPONENTS),
        "currency": order.amount.currency,
        "email": order.customer.email,
        "metadata": {"transaction_id": str(order.transaction_id)},
    }
    if order.method is not None:
        body["channels"] = [order.method]
    if order.return_url is not None:
        body["callback_url"] = order.return_url
    return body


def _accepted(answer: Answer) -> Result:
    """The answer to an order."""
    if answer.status == 429:
        return Result(Verdict.REFUSED, raw_status="429", failure=TOO_MANY)
    body = answer.json_object()
    data = body.get("data")
    if answer.status != 200 or body.get("status") is not True or not isinstance(data, dict):
        return _refused(answer.status, body)
    url = web_address(data.get("authorization_url"))
    if not url:
        return Result(Verdict.UNKNOWN, raw_status="no authorization_url")
    return Result(
        Verdict.REQUIRES_ACTION,
        raw_status=_word(body.get("message")),
        reference=_word(data.get("reference")) or None,
        next_action=NextAction(ActionType.REDIRECT, url=url),
        checkout_url=url,
    )


def _refused(status: int, body: Mapping[str, Any]) -> Result:
    code, message = _word(body.get("code")), _word(body.get("message"))
    failure = REFUSALS.get((status, code)) or REFUSALS.get((status, _folded(message)))
    if failure is None or "duplicate" in message.lower():
        return Result(Verdict.UNKNOWN, raw_status=f"{status} {code or message}".strip())
    return Result(Verdict.REFUSED, raw_status=f"{status} {code or message}", failure=told(failure, code or message))


def _verified(answer: Answer) -> Result:
    """The answer to a question."""
    body = answer.json_object()
    if answer.status == 200 and body.get("status") is True and isinstance(body.get("data"), dict):
        return _result(body["data"])
    code, message = _word(body.get("code")), _word(body.get("message"))
    if NOT_FOUND & {(answer.status, code), (answer.status, _folded(message))}:
        return Result(Verdict.NOT_FOUND, raw_status=code or message, expirable=True)
    return Result(Verdict.UNKNOWN, raw_status=f"{answer.status} {code or message}".strip())


def _result(data: Mapping[str, Any]) -> Result:
    """A transaction object, from verify or from an event. Unreadable where money has no amount."""
    status, currency = _word(data.get("status")), data.get("currency")
    verdict = STATUSES.get(status, Verdict.UNKNOWN)
    identity, moved = number(data.get("id")), verdict in (Verdict.COMPLETED, Verdict.REVERSED)
    requested, fees = data.get("requested_amount"), data.get("fees")
    return Result(
        verdict,
        raw_status=status,
        reference=_word(data.get("reference")) or None,
        provider_references=(str(identity),) if identity is not None else (),
        receipt=_word(data.get("receipt_number")) or None,
        requested=_money(requested, currency) if requested is not None else None,
        paid=_money(data.get("amount"), currency) if moved else None,
        fee=_money(fees, currency) if moved and fees is not None else None,
        failure=_decline(data) if verdict is Verdict.DECLINED else None,
        session_open=verdict is Verdict.DECLINED,
        expirable=verdict in (Verdict.REQUIRES_ACTION, Verdict.DECLINED),
    )


def _decline(data: Mapping[str, Any]) -> Failure:
    reason = _word(data.get("gateway_response")) or _word(data.get("message"))
    return told(DECLINES.get(_folded(reason), DECLINED), reason)


def _event(name: Any, data: Any) -> ProviderEvent:
    """News that moves nothing yet (refunds, disputes, transfers) keeps its references, so that it is found by them."""
    if not isinstance(name, str) or not name:
        raise Unreadable("an event without a name")
    if name in MOVING_EVENTS and not (isinstance(data, dict) and _word(data.get("reference"))):
        raise Unreadable(f"{name} without a reference")
    fields = data if isinstance(data, dict) else {}
    inner = fields.get("transaction")
    nested = inner.get("reference") if isinstance(inner, dict) else None
    found = (fields.get("transaction_reference"), nested, fields.get("reference"))
    identity = number(fields.get("id"))
    return ProviderEvent(
        type=name,
        trust=Trust.SIGNED,
        operation=OPERATIONS.get(name.partition(".")[0], Operation.COLLECT),
        dedupe_key=f"{name}:{identity}" if name in SINGLE_EVENTS and identity is not None else None,
        references=tuple(dict.fromkeys(text for text in map(_word, found) if text)),
        provider_references=(str(identity),) if name in MOVING_EVENTS and identity is not None else (),
        result=_result(fields) if name in MOVING_EVENTS else None,
    )


def _money(minor: Any, currency: Any) -> Money:
    """Paystack writes the same number as 10000 or as "10000"."""
    return minor_units(number(minor), currency, EXPONENTS)


def _word(value: Any) -> str:
    """A message may repeat the key it refuses."""
    return SECRET_KEY.sub("sk_***", word(value))


def _folded(message: str) -> str:
    return message.strip().rstrip(".").lower()
