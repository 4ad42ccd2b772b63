"""M-Pesa through Safaricom's Daraja: a prompt on the customer's handset, "STK push" (developer.safaricom.co.ke).

- Whole Kenyan shillings only. No idempotency: a push that timed out has no id to ask with, so it stays unknown until its
  callback comes to the attempt's own URL.
- A token error is 400, 401 or 404 by product, so it is known by its code. It refuses before anything happens: one retry.
- A new token may end the older one, hence one token and one renewal at a time for each set of credentials.
- `500.001.1001` says five different things: the message decides. About a query it decides nothing.
- A query tells neither amount nor receipt. Its CheckoutRequestID was opened for our amount, and binds it.
- Callbacks carry no signature and do not name our reference: the URL's token finds the attempt, the query confirms.
  Refused there are URLs that hold `mpesa`, `safaricom`, `exe`, `cmd`, `sql`, `query`.
- `ResultCode` is a number in the callback and text in the query; `Balance` comes without a `Value`.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from payflow.core.clock import Clock
from payflow.core.money import MoneyError
from payflow.gateway.contract import (
    ActionType,
    CollectOrder,
    Declaration,
    Failure,
    NextAction,
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
    SETUP,
    TOO_MANY,
    UNREACHABLE,
    major_units,
    object_or_nothing,
    silence,
    told,
    word,
)
from payflow.gateway.tokens import NoToken, Token, TokenCache, basic

EXPONENTS = {"KES": 0}
MAX_SHILLINGS = 250_000
PROMPT_LIFE = timedelta(minutes=3)
NAIROBI = timezone(timedelta(hours=3))  # no daylight saving since 1942
PHONE = re.compile(r"(?:\+?254|0)?([17][0-9]{8})")
SOURCES = {
    "196.201.214": (200, 206, 207, 208),
    "196.201.213": (114, 44),
    "196.201.212": (127, 128, 129, 132, 136, 138, 69, 74),
}

DECLARATION = Declaration(
    name="mpesa",
    path_name="lipa",
    title="M-Pesa",
    currencies=frozenset({"KES"}),
    countries=frozenset({"KE"}),
    methods=frozenset({"mobile_money"}),
    live_base_url="https://api.safaricom.co.ke",
    session_life=PROMPT_LIFE,
    first_check_after=timedelta(seconds=30),
    min_check_interval=timedelta(seconds=15),
    exponents=EXPONENTS,
    webhook_token=True,
    webhook_sources=frozenset(f"{net}.{host}" for net, hosts in SOURCES.items() for host in hosts),
    webhook_answer=b'{"ResultCode":0,"ResultDesc":"Accepted"}',
)

TOKEN_ERRORS = {"404.001.03", "401.002.01", "401.003.01", "400.003.01"}

BAD_PHONE = Failure("invalid_phone", "This phone number cannot pay with M-Pesa.")
BUSY = Failure("provider_busy", "The payment provider is busy. Please try again shortly.")
OTHER_PROMPT = Failure("subscriber_busy", "Another M-Pesa request is open on this phone. Please try again in a minute.")
LIMIT = Failure("limit_exceeded", "The payment exceeds an M-Pesa limit.")
TIMED_OUT = Failure("expired", "The request on the phone was not answered in time.")
NOT_SHOWN = Failure("provider_error", "The request could not be shown on the phone.")

# By errorCode (or a gateway fault's errorcode) and words of the message; nothing was sent to the handset.
REFUSALS = (
    ("400.002.02", "invalid phonenumber", BAD_PHONE),
    ("400.002.02", "invalid partya", BAD_PHONE),
    ("400.002.02", "invalid businessshortcode", SETUP),
    ("400.002.02", "invalid partyb", SETUP),
    ("400.002.02", "invalid callbackurl", SETUP),
    ("400.002.02", "invalid", INVALID),
    ("400.002.05", "", INVALID),
    ("400.003.02", "", INVALID),
    *((code, "", NO_ACCESS) for code in sorted(TOKEN_ERRORS)),
    ("404.001.01", "", SETUP),
    ("404.001.04", "", NO_ACCESS),
    ("404.002.01", "", SETUP),
    ("404.003.01", "", SETUP),
    ("405.001", "", SETUP),
    ("500.001.1001", "merchant does not exist", SETUP),
    ("500.001.1001", "wrong credentials", NO_ACCESS),
    ("500.001.1001", "unable to lock subscriber", OTHER_PROMPT),
    ("500.002.1001", "under maintenance", BUSY),
    ("500.003.02", "system is busy", BUSY),
    ("500.003.02", "spike arrest violation", TOO_MANY),
    ("500.003.03", "quota violation", TOO_MANY),
    ("policies.ratelimit.SpikeArrestViolation", "", TOO_MANY),
    ("keymanagement.service.InvalidAPICallAsNoApiProductMatchFound", "", SETUP),
)

RESULTS: dict[str, tuple[Verdict, Failure | None]] = {
    "0": (Verdict.COMPLETED, None),
    "1": (Verdict.DECLINED, Failure("insufficient_funds", "The M-Pesa account does not hold enough money.")),
    "2": (Verdict.DECLINED, LIMIT),
    "3": (Verdict.DECLINED, LIMIT),
    "4": (Verdict.DECLINED, LIMIT),
    "8": (Verdict.DECLINED, LIMIT),
    "17": (Verdict.DECLINED, Failure("rate_limited", "The same payment was just made. Please wait two minutes.")),
    "26": (Verdict.DECLINED, BUSY),
    "1001": (Verdict.DECLINED, OTHER_PROMPT),
    "1019": (Verdict.EXPIRED, TIMED_OUT),
    "1025": (Verdict.DECLINED, NOT_SHOWN),
    "1032": (Verdict.CANCELLED, Failure("customer_cancelled", "The request was cancelled on the phone.")),
    "1036": (Verdict.EXPIRED, TIMED_OUT),
    "1037": (Verdict.EXPIRED, TIMED_OUT),
    "2001": (Verdict.DECLINED, Failure("wrong_pin", "The M-Pesa PIN was wrong.")),
    "2028": (Verdict.DECLINED, SETUP),
    "4999": (Verdict.PROCESSING, None),
    "8006": (Verdict.DECLINED, Failure("pin_locked", "The M-Pesa PIN is locked.")),
    "9999": (Verdict.DECLINED, NOT_SHOWN),
    "SFC_IC0003": (Verdict.DECLINED, SETUP),
}


class MpesaCredentials(BaseModel):
    """For a till, `shortcode` is the store number and `till_number` what the customer knows; a pay bill has only the first."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    consumer_key: SecretStr = Field(min_length=1)
    consumer_secret: SecretStr = Field(min_length=1)
    passkey: SecretStr = Field(min_length=1)
    shortcode: str = Field(pattern=r"^[0-9]{5,7}$")
    transaction_type: Literal["CustomerPayBillOnline", "CustomerBuyGoodsOnline"] = "CustomerPayBillOnline"
    till_number: str | None = Field(default=None, pattern=r"^[0-9]{5,7}$")


class Mpesa:
    declaration: ClassVar[Declaration] = DECLARATION
    CredentialsModel: ClassVar[type[BaseModel]] = MpesaCredentials

    def __init__(self, http: ProviderHttp, base_url: str, clock: Clock) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._clock = clock
        self._tokens = TokenCache(clock)

    def check(self, order: CollectOrder) -> None:
        if order.amount.currency not in DECLARATION.currencies:
            raise OrderNotAcceptable("/currency", "M-Pesa takes Kenyan shillings only.")
        if order.method is not None and order.method not in DECLARATION.methods:
            raise OrderNotAcceptable("/method", f"M-Pesa does not offer {order.method}.")
        if _msisdn(order.customer.phone) is None:
            raise OrderNotAcceptable("/customer/phone", "M-Pesa requires a Kenyan mobile number (+2547… or +2541…).")
        try:
            shillings = order.amount.to_provider(EXPONENTS)
        except MoneyError:
            raise OrderNotAcceptable("/amount", "M-Pesa takes whole shillings only.") from None
        if not 1 <= shillings <= MAX_SHILLINGS:
            raise OrderNotAcceptable("/amount", f"M-Pesa takes 1 to {MAX_SHILLINGS} shillings.")

    async def collect(self, order: CollectOrder, credentials: MpesaCredentials) -> Result:
        try:
            body = self._order_body(order, credentials)
            return self._accepted(
                await self._send("collect", "/mpesa/stkpush/v1/processrequest", credentials, body), order
            )
        except NoToken as refusal:
            return Result(refusal.verdict, raw_status=refusal.status, failure=refusal.failure)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch(self, query: Query, credentials: MpesaCredentials) -> Result:
        """Without a CheckoutRequestID there is nothing to ask with: unknown. So is a query that failed in any way."""
        if not query.provider_references:
            return Result(Verdict.UNKNOWN, raw_status="no CheckoutRequestID")
        checkout_id = query.provider_references[0]
        try:
            body = self._merchant(credentials) | {"CheckoutRequestID": checkout_id}
            return _answered(await self._send("fetch", "/mpesa/stkpushquery/v1/query", credentials, body), checkout_id)
        except (NoToken, NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    def verify_webhook(self, request: WebhookRequest, credentials: Sequence[MpesaCredentials]) -> None:
        """Daraja signs nothing. The attempt's token in the path was checked before, and the query decides."""

    def translate(self, request: WebhookRequest) -> Sequence[ProviderEvent]:
        try:
            body = json.loads(request.body, parse_float=Decimal, parse_constant=_no_constant)
            return [_event(body["Body"]["stkCallback"])]
        except (ValueError, ArithmeticError, RecursionError, KeyError, TypeError, Unreadable) as error:
            raise WebhookMalformed(f"no readable STK callback: {type(error).__name__}") from None

    async def _send(self, operation: str, path: str, credentials: MpesaCredentials, body: dict[str, Any]) -> Answer:
        """With a token; with a new one when the first is refused as such, which happens before Daraja acts."""
        token = await self._token(credentials)
        answer = await self._post(operation, path, token, body)
        if _error(answer)[0] in TOKEN_ERRORS:
            answer = await self._post(operation, path, await self._token(credentials, refused=token), body)
        return answer

    async def _post(self, operation: str, path: str, token: str, body: dict[str, Any]) -> Answer:
        headers, url = _headers(token), self._base_url + path
        return await self._http.send(DECLARATION.name, operation, "POST", url, headers=headers, json=body)

    async def _token(self, credentials: MpesaCredentials, refused: str | None = None) -> str:
        key, secret = credentials.consumer_key.get_secret_value(), credentials.consumer_secret.get_secret_value()
        return await self._tokens.get(key, secret, lambda: self._new_token(key, secret), refused)

    async def _new_token(self, key: str, secret: str) -> Token:
        """NoToken also when no answer comes: the order itself never left."""
        headers = basic(key, secret)
        url = f"{self._base_url}/oauth/v1/generate?grant_type=client_credentials"
        asked_at = self._clock()
        try:
            answer = await self._http.send(DECLARATION.name, "token", "GET", url, headers=headers)
            if answer.status != 200:
                raise NoToken(_token_failure(answer), f"token {answer.status} {_error(answer)[0]}".strip())
            body = answer.json_object()
        except (OutcomeUnknown, Unreadable) as error:
            raise NoToken(UNREACHABLE, f"token {error}") from error
        value, seconds = word(body.get("access_token")), str(body.get("expires_in"))
        if not value:
            raise NoToken(UNREACHABLE, "token 200 without access_token")
        life = int(seconds) if re.fullmatch(r"[0-9]{1,6}", seconds) else 0
        return Token(value, asked_at + timedelta(seconds=life - 60))

    def _merchant(self, credentials: MpesaCredentials) -> dict[str, Any]:
        timestamp = self._clock().astimezone(NAIROBI).strftime("%Y%m%d%H%M%S")
        plain = f"{credentials.shortcode}{credentials.passkey.get_secret_value()}{timestamp}"
        password = base64.b64encode(plain.encode()).decode()
        return {"BusinessShortCode": credentials.shortcode, "Password": password, "Timestamp": timestamp}

    def _order_body(self, order: CollectOrder, credentials: MpesaCredentials) -> dict[str, Any]:
        phone = _msisdn(order.customer.phone)
        return self._merchant(credentials) | {
            "TransactionType": credentials.transaction_type,
            "Amount": order.amount.to_provider(EXPONENTS),
            "PartyA": phone,
            "PartyB": credentials.till_number or credentials.shortcode,
            "PhoneNumber": phone,
            "CallBackURL": order.callback_url,
            "AccountReference": re.sub(r"[^A-Za-z0-9]", "", order.reference)[-12:],
            "TransactionDesc": re.sub(r"[^A-Za-z0-9 ]", "", order.description or "")[:13].strip() or "Payment",
        }

    def _accepted(self, answer: Answer, order: CollectOrder) -> Result:
        """The answer to an order."""
        body = object_or_nothing(answer)
        ids = _ids(body)
        if answer.status != 200 or _code(body.get("ResponseCode")) != "0" or len(ids) != 2:
            return _refused(answer)
        ends_at = self._clock() + PROMPT_LIFE
        text = f"Enter your M-Pesa PIN on your phone to pay KES {order.amount.to_provider(EXPONENTS)}."
        return Result(
            Verdict.REQUIRES_ACTION,
            raw_status="0",
            provider_references=ids,
            next_action=NextAction(ActionType.HANDSET_PROMPT, display_text=text, expires_at=ends_at),
            session_ends_at=ends_at,
        )


def _headers(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def _refused(answer: Answer) -> Result:
    code, message = _error(answer)
    raw_status = f"{answer.status} {code}".strip()
    if answer.status == 429:
        return Result(Verdict.REFUSED, raw_status=raw_status, failure=told(TOO_MANY, code))
    for known, words, failure in REFUSALS:
        if code == known and words in message.lower():
            return Result(Verdict.REFUSED, raw_status=raw_status, failure=told(failure, code))
    return Result(Verdict.UNKNOWN, raw_status=raw_status)


def _answered(answer: Answer, checkout_id: str) -> Result:
    """The answer to a question. Only ResponseCode 0 with a listed ResultCode, about the prompt we asked for, decides."""
    body = object_or_nothing(answer)
    if answer.status == 200 and _code(body.get("ResponseCode")) == "0" and body.get("CheckoutRequestID") == checkout_id:
        return _result(body, bound=True)
    code, message = _error(answer)
    in_flight = code == "500.001.1001" and message.lower() in ("the transaction is being processed", "")
    return Result(Verdict.PROCESSING if in_flight else Verdict.UNKNOWN, raw_status=f"{answer.status} {code}".strip())


def _result(body: Mapping[str, Any], *, bound: bool, unlisted: Verdict = Verdict.UNKNOWN) -> Result:
    """A result code from a query, or from a callback, where any other non-zero code is final too."""
    code = _code(body.get("ResultCode"))
    verdict, failure = RESULTS.get(code, (unlisted if code else Verdict.UNKNOWN, DECLINED))
    known = failure is not None and verdict is not Verdict.UNKNOWN
    return Result(
        verdict,
        raw_status=code,
        provider_references=_ids(body),
        amount_bound=bound and verdict is Verdict.COMPLETED,
        failure=told(failure, code) if known and failure else None,
        expirable=verdict in (Verdict.DECLINED, Verdict.CANCELLED, Verdict.EXPIRED),
    )


def _event(callback: Any) -> ProviderEvent:
    if not isinstance(callback, dict):
        raise Unreadable("no callback")
    result = _result(callback, bound=False, unlisted=Verdict.DECLINED)
    if len(result.provider_references) != 2 or not result.raw_status:
        raise Unreadable("no ids or no result code")
    if result.verdict is Verdict.COMPLETED:
        result = _paid(result, callback)
    return ProviderEvent(
        type="stk_callback",
        trust=Trust.CONFIRM,
        provider_references=result.provider_references,
        result=result,
    )


def _paid(result: Result, callback: Mapping[str, Any]) -> Result:
    """By name, never by place: `Balance` may be missing, and any item may lack its value."""
    items = callback["CallbackMetadata"]["Item"]
    values = {item.get("Name"): item.get("Value") for item in items if isinstance(item, dict)}
    return Result(
        result.verdict,
        raw_status=result.raw_status,
        provider_references=result.provider_references,
        receipt=word(values.get("MpesaReceiptNumber")) or None,
        paid=major_units(values.get("Amount"), "KES"),
    )


def _token_failure(answer: Answer) -> Failure:
    """Wrong credentials come as 400 or 401, often with an empty body."""
    if answer.status in (400, 401):
        return NO_ACCESS
    return TOO_MANY if answer.status == 429 else UNREACHABLE


def _error(answer: Answer) -> tuple[str, str]:
    """Code and message of an error, in Daraja's envelope or its gateway's."""
    body = object_or_nothing(answer)
    fault = body.get("fault")
    if isinstance(fault, dict):
        detail = fault.get("detail")
        return word(detail.get("errorcode") if isinstance(detail, dict) else None), word(fault.get("faultstring"))
    return word(body.get("errorCode")), word(body.get("errorMessage"))


def _ids(body: Mapping[str, Any]) -> tuple[str, ...]:
    found = (word(body.get("CheckoutRequestID")), word(body.get("MerchantRequestID")))
    return tuple(text for text in found if text)


def _code(value: Any) -> str:
    return str(value) if type(value) is int else word(value)


def _msisdn(phone: str | None) -> str | None:
    """2547… or 2541…, as Daraja writes a number."""
    found = PHONE.fullmatch(re.sub(r"[ ()-]", "", phone or ""))
    return f"254{found[1]}" if found else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
