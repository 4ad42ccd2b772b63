"""Flutterwave v3: a hosted checkout, "Standard", for much of Africa (developer.flutterwave.com/v3.0/docs).

- The envelope's `status` only says that the call worked; `data.status` is the payment. Errors have no code, only words.
- Amounts are major units, as number or text: read as Decimal, sent as text. A fee may have more decimals than its
  currency.
- An order opens a page and no transaction: until the customer tries, verifying answers "not found". The link is kept
  among the references, because only it closes the page.
- Each try is a transaction of its own under the same tx_ref. A failed one ends nothing while the page is open, so its
  id is not kept, and before it proves anything the list of successful ones is asked.
- `verif-hash` repeats a secret and says nothing of the body; the worker does not know which proof a webhook came with.
  Hence each webhook is a hint, and verify decides. A refund's has no envelope.
- The gateway answers 503 after 28 seconds though the order may live on: unknown, as a duplicate tx_ref is.
- `charged_amount` holds the fee where the customer bears it; `amount` is what we asked for.
"""

import base64
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, ClassVar, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, SecretStr, field_validator

from payflow.core.clock import Clock
from payflow.core.crypto import same
from payflow.core.money import MAX_MINOR, Money, exponent
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
    WebhookRefused,
    WebhookRequest,
)
from payflow.gateway.http import Answer, NotSent, OutcomeUnknown, ProviderHttp, Unreadable
from payflow.gateway.reading import (
    DECLINED,
    INVALID,
    NO_ACCESS,
    SETUP,
    TOO_MANY,
    major_units,
    number,
    silence,
    told,
    web_address,
    word,
)

SESSION_LIFE = timedelta(hours=1)  # Flutterwave takes up to 24 hours, in minutes
SECRET_KEY = re.compile(r"FLWSECK(_TEST)?-[A-Za-z0-9-]+")

# What `payment_options` calls our methods, by currency: mobile money has a name for each country.
METHODS: dict[str, dict[str, str]] = {
    "NGN": {"card": "card", "bank": "account", "bank_transfer": "banktransfer", "ussd": "ussd", "qr": "nqr"},
    "GHS": {"card": "card", "mobile_money": "mobilemoneyghana"},
    "KES": {"card": "card", "mobile_money": "mpesa"},
    "UGX": {"card": "card", "mobile_money": "mobilemoneyuganda"},
    "RWF": {"card": "card", "mobile_money": "mobilemoneyrwanda"},
    "TZS": {"card": "card", "mobile_money": "mobilemoneytanzania"},
    "ZMW": {"card": "card", "mobile_money": "mobilemoneyzambia"},
    "MWK": {"card": "card", "mobile_money": "mobilemoneymalawi"},
    "XAF": {"card": "card", "mobile_money": "mobilemoneyfranco"},
    "XOF": {"card": "card", "mobile_money": "mobilemoneyfranco"},
    "ZAR": {"card": "card", "bank": "account"},
    "USD": {"card": "card", "bank": "account"},
    "EUR": {"card": "card", "bank": "account"},
    "GBP": {"card": "card", "bank": "account"},
}

DECLARATION = Declaration(
    name="flutterwave",
    path_name="flutterwave",
    title="Flutterwave",
    currencies=frozenset(METHODS),
    countries=frozenset({"NG", "GH", "KE", "UG", "RW", "TZ", "ZM", "MW", "ZA", "CM", "SN", "CI", "ML"}),
    methods=frozenset(name for options in METHODS.values() for name in options),
    live_base_url="https://api.flutterwave.com/v3",
    session_life=SESSION_LIFE,
)

STATUSES = {
    "pending": Verdict.PROCESSING,
    "success-pending-validation": Verdict.PROCESSING,
    "successful": Verdict.COMPLETED,
    "failed": Verdict.DECLINED,
}

NO_RETURN = Failure("return_url_required", "Flutterwave needs a return_url to send the customer back to.")
CANCELLED = Failure("customer_cancelled", "The payment was cancelled.")

# By HTTP status and message. Nothing was opened.
REFUSALS = {
    (400, "merchant secret key required"): NO_ACCESS,
    (400, "merchant cannot perform transactions without approval"): SETUP,
}
MISSING = re.compile(r"[a-z_. ]{1,60} is required")
# Whether it proves that no transaction exists: the last is also said of what cannot be an id.
NOT_FOUND = {
    (400, "no transaction was found for this id"): True,
    (404, "transaction not found"): True,
    (400, "invalid transaction id"): False,
}
CLOSED = {(200, "payment link has been disabled successfully"), (400, "this payment link is currently inactive")}
DECLINES = {
    "insufficient funds": Failure("insufficient_funds", "The account does not hold enough money."),
    "expired card": Failure("expired_card", "The card has expired."),
    "incorrect pin": Failure("wrong_pin", "The PIN was wrong."),
}

OPERATIONS = {"refund": Operation.REFUND, "transfer": Operation.PAYOUT}


class FlutterwaveCredentials(BaseModel):
    """The secret key decides between test and live. `secret_hash` is what the dashboard's webhook page holds; it is
    repeated in `verif-hash`, or is the key of `flutterwave-signature` where the account signs its webhooks (v4)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    secret_key: SecretStr
    secret_hash: SecretStr
    webhook_header: Literal["verif-hash", "flutterwave-signature"] = "verif-hash"

    @field_validator("secret_key")
    @classmethod
    def _key_shaped(cls, value: SecretStr) -> SecretStr:
        key = value.get_secret_value()
        if not (SECRET_KEY.fullmatch(key) and key.endswith("-X")):
            raise ValueError("a secret key begins with FLWSECK_TEST- or FLWSECK- and ends in -X")
        return value

    @field_validator("secret_hash")
    @classmethod
    def _hash_shaped(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value.get_secret_value()):
            raise ValueError("a secret hash is ASCII text without space around it")
        return value


class Flutterwave:
    declaration: ClassVar[Declaration] = DECLARATION
    CredentialsModel: ClassVar[type[BaseModel]] = FlutterwaveCredentials

    def __init__(self, http: ProviderHttp, base_url: str, clock: Clock) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._clock = clock

    def check(self, order: CollectOrder) -> None:
        currency = order.amount.currency
        if currency not in METHODS:
            raise OrderNotAcceptable("/currency", f"Flutterwave does not take {currency}.")
        if order.method is not None and order.method not in METHODS[currency]:
            raise OrderNotAcceptable("/method", f"Flutterwave does not offer {order.method} in {currency}.")
        if not order.customer.email:
            raise OrderNotAcceptable("/customer/email", "Flutterwave requires the customer's email address.")

    async def collect(self, order: CollectOrder, credentials: FlutterwaveCredentials) -> Result:
        return_url = order.return_url or order.default_return_url
        if return_url is None:
            return Result(Verdict.REFUSED, raw_status="not sent", failure=NO_RETURN)
        ends_at = self._clock() + SESSION_LIFE
        try:
            body = _order_body(order, return_url)
            return _accepted(await self._send("collect", "POST", "/payments", credentials, body), ends_at)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch(self, query: Query, credentials: FlutterwaveCredentials) -> Result:
        """A query that was not sent, or was refused, says nothing of the payment: it is unknown as well."""
        try:
            return await self._ask(query, credentials)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    async def cancel(self, query: Query, credentials: FlutterwaveCredentials) -> Result:
        """Close the page, then ask what was done on it. Without its link there is only the question."""
        link = next((item for item in query.provider_references if web_address(item)), None)
        if link is None:
            return await self.fetch(query, credentials)
        try:
            answer = await self._send("cancel", "POST", "/payments/link/disable", credentials, {"link": link})
            message = _message(_object(answer))
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))
        if (answer.status, _folded(message)) not in CLOSED:
            return Result(Verdict.UNKNOWN, raw_status=f"{answer.status} {message}".strip())
        return _closed(await self.fetch(query, credentials))

    def verify_webhook(self, request: WebhookRequest, credentials: Sequence[FlutterwaveCredentials]) -> None:
        usable = [item for item in credentials if item.secret_hash.get_secret_value()]
        if not usable:
            raise WebhookRefused("no_secret")
        given = [(item, request.headers.get(item.webhook_header, "").strip()) for item in usable]
        if not any(text for _, text in given):
            raise WebhookRefused("header_missing")
        if not any(same(_proof(item, request.body), text) for item, text in given):
            raise WebhookRefused("signature_mismatch")

    def translate(self, request: WebhookRequest) -> Sequence[ProviderEvent]:
        try:
            return [_event(_json(request.body))]
        except Unreadable as error:
            raise WebhookMalformed(f"no readable Flutterwave event: {error}") from None

    async def _ask(self, query: Query, credentials: FlutterwaveCredentials) -> Result:
        """By the transaction's id while that stands; else, and after a failure, by our reference."""
        identity = next((item for item in reversed(query.provider_references) if number(item) is not None), None)
        if identity is not None:
            found = _verified(await self._send("fetch", "GET", f"/transactions/{identity}/verify", credentials))
            ours = found.reference == query.reference and found.verdict is not Verdict.DECLINED
            if ours or found.verdict is Verdict.UNKNOWN:
                return found
        path = "/transactions/verify_by_reference?" + urlencode({"tx_ref": query.reference})
        found = _verified(await self._send("fetch", "GET", path, credentials))
        if found.verdict is not Verdict.DECLINED:
            return found
        # Documented nowhere: which of several tries this is. Another may have been paid.
        path = "/transactions?" + urlencode({"tx_ref": query.reference, "status": "successful"})
        return _paid_beside(found, await self._send("fetch", "GET", path, credentials), query.reference)

    async def _send(
        self,
        operation: str,
        method: str,
        path: str,
        credentials: FlutterwaveCredentials,
        body: dict[str, Any] | None = None,
    ) -> Answer:
        url, headers = self._base_url + path, _headers(credentials)
        return await self._http.send(DECLARATION.name, operation, method, url, headers=headers, json=body)


def _headers(credentials: FlutterwaveCredentials) -> dict[str, str]:
    return {"authorization": f"Bearer {credentials.secret_key.get_secret_value()}"}


def _proof(credentials: FlutterwaveCredentials, body: bytes) -> str:
    """What the header must hold."""
    secret = credentials.secret_hash.get_secret_value()
    if credentials.webhook_header == "verif-hash":
        return secret
    return base64.b64encode(hmac.digest(secret.encode(), body, "sha256")).decode()


def _order_body(order: CollectOrder, return_url: str) -> dict[str, Any]:
    customer = {"email": order.customer.email, "name": order.customer.name, "phonenumber": order.customer.phone}
    body: dict[str, Any] = {
        "tx_ref": order.reference,
        "amount": order.amount.decimal_text(),
        "currency": order.amount.currency,
        "redirect_url": return_url,
        "customer": {name: value for name, value in customer.items() if value},
        "customizations": {"title": (order.description or "Payment")[:100]},
        "meta": {"transaction_id": str(order.transaction_id)},
        "configurations": {"session_duration": int(SESSION_LIFE.total_seconds() // 60)},
    }
    if order.method is not None:
        body["payment_options"] = METHODS[order.amount.currency][order.method]
    return body


def _accepted(answer: Answer, ends_at: datetime) -> Result:
    """The answer to an order."""
    if answer.status == 429:
        return Result(Verdict.REFUSED, raw_status="429", failure=TOO_MANY)
    body = _object(answer)
    data = body.get("data")
    if answer.status != 200 or body.get("status") != "success" or not isinstance(data, dict):
        return _refused(answer.status, body)
    link = web_address(data.get("link"))
    if not link:
        return Result(Verdict.UNKNOWN, raw_status="no link")
    return Result(
        Verdict.REQUIRES_ACTION,
        raw_status=_message(body),
        provider_references=(link,),
        next_action=NextAction(ActionType.REDIRECT, url=link, expires_at=ends_at),
        checkout_url=link,
        session_ends_at=ends_at,
    )


def _refused(status: int, body: Mapping[str, Any]) -> Result:
    message = _message(body)
    failure = REFUSALS.get((status, _folded(message)))
    if status == 401 and body.get("status") == "error":
        failure = NO_ACCESS  # whatever the words: without a valid key nothing is opened
    if status == 400 and MISSING.fullmatch(_folded(message)):
        failure = INVALID
    raw_status = f"{status} {message}".strip()
    if failure is None or body.get("status") != "error":
        return Result(Verdict.UNKNOWN, raw_status=raw_status)
    return Result(Verdict.REFUSED, raw_status=raw_status, failure=told(failure, message))


def _verified(answer: Answer) -> Result:
    """The answer to a question."""
    body = _object(answer)
    if answer.status == 200 and body.get("status") == "success" and isinstance(body.get("data"), dict):
        return _result(body["data"])
    message = _message(body)
    proves_nothing_paid = NOT_FOUND.get((answer.status, _folded(message)))
    if proves_nothing_paid is not None:
        return Result(Verdict.NOT_FOUND, raw_status=message, expirable=proves_nothing_paid)
    return Result(Verdict.UNKNOWN, raw_status=f"{answer.status} {message}".strip())


def _paid_beside(declined: Result, answer: Answer, reference: str) -> Result:
    """The successful try among those of this reference; else the decline, which an empty list proves to be final."""
    body = _object(answer)
    listed = body.get("data")
    if answer.status != 200 or body.get("status") != "success" or not isinstance(listed, list):
        return declined
    tries = [item if isinstance(item, dict) else {} for item in listed]
    for data in tries:
        if data.get("tx_ref") == reference and STATUSES.get(_word(data.get("status"))) is Verdict.COMPLETED:
            return _result(data)
    # Others' in the list: it was not narrowed to ours, and ours may stand on another page.
    return replace(declined, expirable=all(data.get("tx_ref") == reference for data in tries))


def _closed(result: Result) -> Result:
    """How it stands after the page was closed: cancelled, where nothing was paid."""
    if not result.expirable:
        return replace(result, session_open=False)
    return Result(
        Verdict.CANCELLED, result.raw_status, result.reference, failure=told(CANCELLED, "disabled"), expirable=True
    )


def _result(data: Mapping[str, Any]) -> Result:
    """A transaction, from verify, a list or an event. Unreadable where money has no amount."""
    status, currency = _word(data.get("status")), data.get("currency")
    verdict = STATUSES.get(status, Verdict.UNKNOWN)
    moved, identity = verdict is Verdict.COMPLETED, number(data.get("id"))
    requested = major_units(data.get("amount"), currency) if moved else None
    paid = major_units(data["charged_amount"], currency) if moved and data.get("charged_amount") is not None else None
    kept = identity is not None and verdict is not Verdict.DECLINED
    return Result(
        verdict,
        raw_status=status,
        reference=_word(data.get("tx_ref")) or None,
        provider_references=(str(identity),) if kept else (),
        receipt=(_word(data.get("flw_ref")) or None) if moved else None,
        requested=requested,
        paid=paid or requested,
        fee=_fee(data.get("app_fee"), requested, paid) if requested else None,
        failure=_decline(data) if verdict is Verdict.DECLINED else None,
        session_open=verdict is Verdict.DECLINED,
    )


def _fee(value: Any, requested: Money, paid: Money | None) -> Money | None:
    """26.875 is a fee in naira. Where the customer bore it, it is what was charged above the amount, as rounded."""
    try:
        exact = Decimal(value if type(value) in (int, str, Decimal) else "")
    except InvalidOperation:
        return None
    minor = exact.scaleb(exponent(requested.currency)) if exact.is_finite() and 0 < exact < MAX_MINOR else Decimal(0)
    above = paid.minor - requested.minor if paid is not None and paid.currency == requested.currency else 0
    if above > 0 and abs(minor - above) < 1:
        return Money(above, requested.currency)
    rounded = int(minor.to_integral_value(ROUND_HALF_UP))
    return Money(rounded, requested.currency) if 0 < rounded <= MAX_MINOR else None


def _decline(data: Mapping[str, Any]) -> Failure:
    reason = _word(data.get("processor_response"))
    return told(DECLINES.get(_folded(reason), DECLINED), reason)


def _event(body: Any) -> ProviderEvent:
    """News that moves nothing yet (refunds, transfers) keeps its references, so that it is found by them."""
    if not isinstance(body, dict):
        raise Unreadable("not an object")
    if "event" not in body and "AmountRefunded" in body:
        return _refund_event(body)
    name, data = _word(body.get("event")), body.get("data")
    if not name:
        raise Unreadable("an event without a name")
    fields = data if isinstance(data, dict) else {}
    moving = name == "charge.completed"
    reference, identity = _word(fields.get("tx_ref")), number(fields.get("id"))
    if moving and not reference:
        raise Unreadable(f"{name} without a tx_ref")
    found = (reference, _word(fields.get("reference")))
    return ProviderEvent(
        type=name,
        trust=Trust.CONFIRM,
        operation=OPERATIONS.get(name.partition(".")[0], Operation.COLLECT),
        references=tuple(dict.fromkeys(text for text in found if text)),
        provider_references=(str(identity),) if moving and identity is not None else (),
        result=_result(fields) if moving else None,
    )


def _refund_event(body: Mapping[str, Any]) -> ProviderEvent:
    """It names the transaction by its id alone."""
    status, identity = _word(body.get("status")), number(body.get("TransactionId"))
    return ProviderEvent(
        type=f"refund.{status or 'unknown'}",
        trust=Trust.CONFIRM,
        operation=Operation.REFUND,
        provider_references=(str(identity),) if identity is not None else (),
    )


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise Unreadable(f"a body that is not JSON ({type(error).__name__})") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _object(answer: Answer) -> dict[str, Any]:
    """The body as an object, with Decimal for every fraction: `Answer.json_object` would make floats of them."""
    body = _json(answer.body)
    if not isinstance(body, dict):
        raise Unreadable(f"HTTP {answer.status} with a body that is not a JSON object")
    return body


def _message(body: Mapping[str, Any]) -> str:
    return _word(body.get("message"))


def _word(value: Any) -> str:
    """A message may repeat the key it refuses."""
    return SECRET_KEY.sub("FLWSECK_***", word(value))


def _folded(message: str) -> str:
    return message.strip().rstrip(".").lower()
