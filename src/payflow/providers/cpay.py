"""C-Pay of Chaperone in Lesotho: USSD push, OTP, card by link, and money sent to wallets (Chaperone Payments API v1.1).

- Each body carries a checksum over its own words: amount and number stand in it exactly as they stand in the body.
- The API key is the whole Authorization header, without a scheme.
- The envelope comes with and without `return`, in PascalCase and in camelCase, and under an HTTP status that may
  contradict it (a created card link is HTTP 400 with StatusCode 202): the body is read first.
- One id names an order: ours. It must never be used twice, and what a repeat gets is not documented. A lost answer is
  therefore asked about, never sent again.
- Status answers tell no amount. The id was used for one order of our amount, and binds it.
- A wrong OTP is HTTP 422, yet ends nothing: the customer may try again. 422 at a confirmation is a decline only where
  the status says so, since it may also mean that an earlier confirmation, whose answer was lost, went through.
- Callbacks are unsigned, of no documented shape, and were not seen at all for OTP: the URL's token finds the attempt,
  the status query decides.
- `redirectUrl` is the callback's address, not the customer's way back. `subscriptions` must never be sent, even empty.
- There is no refund. What C-Pay itself takes back, at its portal or by its support, then reads "reversed".
- Money goes to wallets of five operators, to no bank, in LSL, out of a prefunded balance. The body is wrapped twice, and
  "accepted" is not "paid": the status query decides, which is documented for payments and asked for these alike. Whose
  wallet is new to C-Pay would have to be identified with documents, which never pass through PayFlow: only known ones are paid.
- The public test code signs such an order over the number in international form and sends it in local form. The documented
  rule is one form in both, as here.
- No live address is published. The one declared here does not exist, so that nothing is sent until a setting names it.
"""

import hmac
import html
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import quote

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from payflow.core.clock import Clock
from payflow.gateway.contract import (
    ActionType,
    CollectOrder,
    Declaration,
    DestinationType,
    Failure,
    NextAction,
    OrderNotAcceptable,
    PayoutOrder,
    ProviderEvent,
    Query,
    Result,
    Submission,
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
    object_or_nothing,
    silence,
    told,
    web_address,
    word,
)

PHONE = re.compile(r"(?:\+?266)?([56][0-9]{7})")
IFRAME = re.compile(r"<iframe\b[^>]*?\ssrc\s*=\s*[\"']([^\"']+)[\"']", re.IGNORECASE)
WORD = re.compile(r"[A-Za-z]{1,40}")  # no digits, so that neither an OTP nor a number can be kept as a status

USSD, OTP, CARD = "ussd", "otp", "card"
PATHS = {
    USSD: "/api/cpaypayments/paymentrequest/async/transactions",
    OTP: "/api/cpaypayments/payment",
    CARD: "/api/cpaypayments/payment?cardPayment=true&rememberMe=false",
}

TOP_UP = "/api/disbursements/wallet-topup-advance"
OPERATORS = ("CPAY", "mpesa", "ecocash", "mywallet", "khetsi")

DECLARATION = Declaration(
    name="cpay",
    path_name="cpay",
    title="C-Pay",
    currencies=frozenset({"LSL"}),
    countries=frozenset({"LS"}),
    methods=frozenset(PATHS),
    # RFC 2606 keeps `.invalid` from ever existing. The documented test system, cpay-uat-env.chaperone.co.ls:5100, must
    # not stand here: its payments move no money and would look paid.
    live_base_url="https://cpay.invalid",
    session_life=timedelta(minutes=30),  # undocumented; a later success is still believed
    webhook_token=True,
    refund_alternative=(
        "C-Pay makes no refunds by its API: have the payment reversed at C-Pay's portal or by its support; it then shows as "
        "reversed."
    ),
)

BAD_PHONE = Failure("invalid_phone", "This phone number has no wallet that C-Pay can reach.")
CANCELLED = Failure("customer_cancelled", "The payment was cancelled.")
TIMED_OUT = Failure("expired", "The payment was not confirmed in time.")
NOT_PAID = Failure("transfer_failed", "The transfer failed.")
OTP_ACTION = NextAction(ActionType.OTP, display_text="Enter the code that C-Pay has sent to your phone.")
WRONG_OTP = NextAction(
    ActionType.OTP, display_text="The code was wrong. Enter the code that C-Pay has sent to your phone."
)

# `paymentRequestStatus`, lower case, since its case varies.
STATUSES: dict[str, tuple[Verdict, Failure | None]] = {
    "open": (Verdict.REQUIRES_ACTION, None),
    "otpsent": (Verdict.REQUIRES_ACTION, None),
    "otpsend": (Verdict.REQUIRES_ACTION, None),
    "paymentincomplete": (Verdict.REQUIRES_ACTION, None),
    "scheduled": (Verdict.PROCESSING, None),
    "accepted": (Verdict.PROCESSING, None),
    "processed": (Verdict.COMPLETED, None),
    "success": (Verdict.COMPLETED, None),
    "denied": (Verdict.DECLINED, DECLINED),
    "failed": (Verdict.DECLINED, DECLINED),
    "canceled": (Verdict.CANCELLED, CANCELLED),
    "cancelled": (Verdict.CANCELLED, CANCELLED),
    "expired": (Verdict.EXPIRED, TIMED_OUT),
    "reversed": (Verdict.REVERSED, None),
}
# Of money sent nothing waits for a customer, and each end without money is a failure.
PAYOUT_STATUSES: dict[str, tuple[Verdict, Failure | None]] = {
    "open": (Verdict.PROCESSING, None),
    "scheduled": (Verdict.PROCESSING, None),
    "accepted": (Verdict.PROCESSING, None),
    "processed": (Verdict.COMPLETED, None),
    "success": (Verdict.COMPLETED, None),
    "denied": (Verdict.DECLINED, NOT_PAID),
    "failed": (Verdict.DECLINED, NOT_PAID),
    "canceled": (Verdict.DECLINED, NOT_PAID),
    "cancelled": (Verdict.DECLINED, NOT_PAID),
    "expired": (Verdict.DECLINED, NOT_PAID),
    "reversed": (Verdict.REVERSED, None),
}
ENDS = (Verdict.DECLINED, Verdict.CANCELLED, Verdict.EXPIRED)
PAID_REASONS = {"paymentcomplete", "paymentsuccessful"}
WAITS_FOR_OTP = {"otpsent", "otpsend", "invalidpassword"}

# By StatusCode and words of the description; nothing was opened.
REFUSALS = (
    ("", "transaction checksum is invalid", NO_ACCESS),
    ("", "wallet account does not exist", BAD_PHONE),
    ("400", "", INVALID),
    ("401", "", NO_ACCESS),
    ("403", "", NO_ACCESS),
    ("404", "", SETUP),
)
USED_TWICE = ("unique", "duplicate", "already")


class CpayCredentials(BaseModel):
    """`client_code` is the merchant's number, `secret` the key of the checksums."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    api_key: SecretStr
    client_code: str = Field(pattern=r"^[!-~]+$")
    secret: SecretStr = Field(min_length=1)

    @field_validator("api_key")
    @classmethod
    def _raw(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise ValueError("the key alone, without a scheme before it")
        return value


class Cpay:
    declaration: ClassVar[Declaration] = DECLARATION
    CredentialsModel: ClassVar[type[BaseModel]] = CpayCredentials

    def __init__(self, http: ProviderHttp, base_url: str, clock: Clock) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._clock = clock

    def check(self, order: CollectOrder) -> None:
        if order.amount.currency not in DECLARATION.currencies:
            raise OrderNotAcceptable("/currency", "C-Pay takes Lesotho maloti (LSL) only.")
        if order.method is not None and order.method not in DECLARATION.methods:
            raise OrderNotAcceptable("/method", f"C-Pay does not offer {order.method}.")
        if _msisdn(order.customer.phone) is None:
            raise OrderNotAcceptable("/customer/phone", "C-Pay requires a mobile number of Lesotho (+2665… or +2666…).")
        if order.amount.minor <= 0:
            raise OrderNotAcceptable("/amount", "C-Pay takes amounts above zero.")

    async def collect(self, order: CollectOrder, credentials: CpayCredentials) -> Result:
        method = order.method or USSD
        try:
            answer = await self._post("collect", PATHS[method], credentials, _order_body(order, credentials))
            return self._accepted(answer, method, order)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch(self, query: Query, credentials: CpayCredentials) -> Result:
        return await self._asked("fetch", query.reference, credentials, _answered)

    async def submit(self, query: Query, submission: Submission, credentials: CpayCredentials) -> Result:
        """Confirm with the OTP. Not sent or without an answer, it says nothing of an earlier one: unknown."""
        msisdn = _msisdn(query.customer.phone if query.customer else None)
        if submission.type is not ActionType.OTP or msisdn is None:
            return Result(Verdict.UNKNOWN, raw_status="nothing to confirm with")
        try:
            body = _confirmation(query, msisdn, submission.value.get_secret_value(), credentials)
            return _confirmed(
                await self._post("submit", "/api/cpaypayments/confirm", credentials, body), query.reference
            )
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    def check_payout(self, order: PayoutOrder) -> None:
        destination = order.destination
        if order.amount.currency not in DECLARATION.currencies:
            raise OrderNotAcceptable("/currency", "C-Pay sends Lesotho maloti (LSL) only.")
        if order.amount.minor <= 0:
            raise OrderNotAcceptable("/amount", "C-Pay sends amounts above zero.")
        if destination.type is not DestinationType.MOBILE_MONEY:
            raise OrderNotAcceptable("/destination/type", "C-Pay sends to mobile wallets only.")
        if destination.bank_code not in (None, *OPERATORS):
            raise OrderNotAcceptable("/destination/bank_code", f"C-Pay sends to {', '.join(OPERATORS)}.")
        if _msisdn(destination.phone) is None:
            raise OrderNotAcceptable(
                "/destination/phone", "C-Pay requires a mobile number of Lesotho (+2665… or +2666…)."
            )

    async def pay_out(self, order: PayoutOrder, credentials: CpayCredentials) -> Result:
        operator, number = order.destination.bank_code or OPERATORS[0], _msisdn(order.destination.phone) or ""
        path = f"{TOP_UP}?destinationOperator={operator}&destinationWalletNumber={number}"
        try:
            answer = await self._post("pay_out", path, credentials, _payout_body(order, number, credentials))
            return _payout_accepted(answer, order.reference)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch_payout(self, query: Query, credentials: CpayCredentials) -> Result:
        return await self._asked("fetch_payout", query.reference, credentials, _payout_answered)

    def verify_webhook(self, request: WebhookRequest, credentials: Sequence[CpayCredentials]) -> None:
        """C-Pay signs nothing. The attempt's token in the path was checked before, and the status query decides."""

    def translate(self, request: WebhookRequest) -> Sequence[ProviderEvent]:
        """Any object is a hint, as its shape is not documented. It brings no id: the query needs none but ours."""
        try:
            body = orjson.loads(request.body)
        except (orjson.JSONDecodeError, RecursionError):
            body = None
        if not isinstance(body, dict) or not body:
            raise WebhookMalformed("no readable C-Pay callback")
        envelope = _unwrapped(body)
        reference = word(envelope.get("exttransactionid"), 100)
        return [
            ProviderEvent(
                type="payment_request",
                trust=Trust.CONFIRM,
                references=(reference,) if reference else (),
                result=Result(_standing(envelope)[0], raw_status=_raw(envelope), reference=reference or None),
            )
        ]

    async def _asked(
        self, operation: str, reference: str, credentials: CpayCredentials, read: Callable[[Answer, str], Result]
    ) -> Result:
        """A query that was not sent, or was refused, says nothing of the payment: it is unknown as well."""
        url = f"{self._base_url}/api/cpaypayments/transaction-status?requestReference={quote(reference, safe='')}"
        try:
            answer = await self._http.send(DECLARATION.name, operation, "GET", url, headers=_headers(credentials))
            return read(answer, reference)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    async def _post(self, operation: str, path: str, credentials: CpayCredentials, body: dict[str, Any]) -> Answer:
        headers, url = _headers(credentials), self._base_url + path
        return await self._http.send(DECLARATION.name, operation, "POST", url, headers=headers, json=body)

    def _accepted(self, answer: Answer, method: str, order: CollectOrder) -> Result:
        """The answer to an order. It never says that money moved."""
        envelope = _envelope(answer)
        action = _next_action(answer, envelope, method, order)
        if action is None:
            return _refused(answer, envelope)
        return Result(
            Verdict.REQUIRES_ACTION,
            raw_status=_raw(envelope),
            provider_references=_ids(envelope, order.reference),
            next_action=action,
            checkout_url=action.url,
            session_ends_at=self._clock() + DECLARATION.session_life,
        )


def _headers(credentials: CpayCredentials) -> dict[str, str]:
    return {"authorization": credentials.api_key.get_secret_value(), "accept": "text/plain"}


def _checksum(credentials: CpayCredentials, *parts: str) -> str:
    return hmac.digest(credentials.secret.get_secret_value().encode(), "".join(parts).encode(), "sha256").hex()


def _order_body(order: CollectOrder, credentials: CpayCredentials) -> dict[str, Any]:
    msisdn, amount = _msisdn(order.customer.phone) or "", order.amount.decimal_text()
    request = {
        "extTransactionId": order.reference,
        "clientCode": credentials.client_code,
        "msisdn": msisdn,
        "otp": "",
        "amount": amount,
        "currency": order.amount.currency,
        "shortDescription": _short(order.description, "Payment"),
        "otpMedium": "sms",
        "additionalData": {},
        "redirectUrl": order.callback_url,
        "checksum": _checksum(credentials, order.reference, credentials.client_code, amount, msisdn),
    }
    return {"transactionRequest": request}


def _payout_body(order: PayoutOrder, msisdn: str, credentials: CpayCredentials) -> dict[str, Any]:
    amount, name = order.amount.decimal_text(), order.destination.account_name
    request = {
        "extTransactionId": order.reference,
        "clientCode": credentials.client_code,
        "msisdn": msisdn,
        "amount": amount,
        "currency": order.amount.currency,
        "shortDescription": _short(order.description, "Transfer"),
        "additionalData": {"recipientKyc": {"fullName": name} if name else {}},
        "redirectUrl": order.callback_url,
        "checksum": _checksum(credentials, order.reference, credentials.client_code, amount, msisdn),
    }
    return {"transactionRequest": {"transactionRequest": request}}


def _short(description: str | None, otherwise: str) -> str:
    return re.sub(r"[^A-Za-z0-9 ]", "", description or "")[:20].strip() or otherwise


def _confirmation(query: Query, msisdn: str, otp: str, credentials: CpayCredentials) -> dict[str, Any]:
    amount = query.amount.decimal_text()
    request = {
        "extTransactionId": query.reference,
        "clientCode": credentials.client_code,
        "msisdn": msisdn,
        "otp": otp,
        "amount": amount,
        "currency": query.amount.currency,
        "checksum": _checksum(credentials, query.reference, credentials.client_code, amount, msisdn, otp),
    }
    return {"transactionRequest": request}


def _next_action(answer: Answer, envelope: Mapping[str, Any], method: str, order: CollectOrder) -> NextAction | None:
    """What the customer must do; None where the order was not plainly accepted."""
    code, status, reason = _code(envelope), _word(envelope, "paymentrequeststatus"), _word(envelope, "reasoncode")
    if method == CARD:
        url = _card_link(answer, code)
        return NextAction(ActionType.REDIRECT, url=url) if url else None
    if answer.status not in (200, 201) or code != "200" or not _about(envelope, order.reference):
        return None
    if method == OTP:
        return OTP_ACTION if reason == "otpsent" else None
    if status != "open":
        return None
    text = f"Confirm the payment of LSL {order.amount.decimal_text()} on your phone: *220*77#, Pay Merchant."
    return NextAction(ActionType.HANDSET_PROMPT, display_text=text)


def _card_link(answer: Answer, code: str) -> str:
    """In a header beside StatusCode 202, under whatever HTTP status; or in the frame of an HTML page with 202."""
    if code == "202":
        return web_address(answer.headers.get("redirecturl"))
    found = IFRAME.search(answer.body.decode(errors="replace")) if answer.status == 202 and not code else None
    return web_address(html.unescape(found[1])) if found else ""


def _refused(answer: Answer, envelope: Mapping[str, Any]) -> Result:
    """The body's own code decides, and must not contradict the HTTP status. A 401 may come without a body."""
    code, reason = _code(envelope), _word(envelope, "reasoncode")
    raw_status = f"{answer.status} {_raw(envelope)}".strip()
    if answer.status == 429:
        return Result(Verdict.REFUSED, raw_status=raw_status, failure=TOO_MANY)
    if answer.status == 401 and not answer.body:
        code = "401"
    description = word(envelope.get("description"), 500).lower()
    if code != str(answer.status) or any(words in description for words in USED_TWICE):
        return Result(Verdict.UNKNOWN, raw_status=raw_status)
    if code == "422":
        return Result(Verdict.DECLINED, raw_status=raw_status, failure=told(DECLINED, reason), expirable=True)
    for known, words, failure in REFUSALS if 400 <= answer.status < 424 else ():
        if known in ("", code) and words in description:
            return Result(Verdict.REFUSED, raw_status=raw_status, failure=told(failure, reason))
    return Result(Verdict.UNKNOWN, raw_status=raw_status)


def _payout_accepted(answer: Answer, reference: str) -> Result:
    """The answer to an order to send money. It never says that money has arrived, nor that it never will."""
    envelope = _envelope(answer)
    accepted = (_code(envelope), _word(envelope, "paymentrequeststatus")) == ("0000", "accepted")
    if answer.status == 200 and accepted and _about(envelope, reference):
        return Result(
            Verdict.PROCESSING, raw_status=_raw(envelope), provider_references=_ids(envelope, reference)
        )  # fmt: skip
    refused = _refused(answer, envelope)
    return refused if refused.verdict is Verdict.REFUSED else Result(Verdict.UNKNOWN, raw_status=refused.raw_status)


def _payout_answered(answer: Answer, reference: str) -> Result:
    """The answer to a question about money sent: paid needs the status and its reason, as of a payment."""
    envelope = _envelope(answer)
    code, reason = _code(envelope), _word(envelope, "reasoncode")
    if answer.status == 404 and code == "404":
        return Result(Verdict.NOT_FOUND, raw_status=_raw(envelope))
    verdict, failure = PAYOUT_STATUSES.get(_word(envelope, "paymentrequeststatus"), (Verdict.UNKNOWN, None))
    fine = answer.status == 200 and code in ("200", "0000") and _about(envelope, reference)
    paid = reason in PAID_REASONS
    if not fine or (paid and verdict not in (Verdict.COMPLETED, Verdict.REVERSED)):
        verdict = Verdict.UNKNOWN
    if verdict is Verdict.UNKNOWN or (verdict is Verdict.COMPLETED and not paid):
        return Result(Verdict.UNKNOWN, raw_status=f"{answer.status} {_raw(envelope)}".strip())
    return _result(verdict, told(failure, reason) if failure else None, envelope, reference)


def _answered(answer: Answer, reference: str) -> Result:
    """The answer to a question."""
    envelope = _envelope(answer)
    if answer.status == 404 and _code(envelope) == "404":
        return Result(Verdict.NOT_FOUND, raw_status=_raw(envelope))  # the client code may be meant: proves nothing
    if answer.status not in (200, 422) or not _about(envelope, reference):
        return Result(Verdict.UNKNOWN, raw_status=f"{answer.status} {_raw(envelope)}".strip())
    verdict, failure = _standing(envelope)
    if verdict in (Verdict.COMPLETED, Verdict.REVERSED) and answer.status != 200:
        verdict = Verdict.UNKNOWN
    return _result(verdict, failure, envelope, reference)


def _confirmed(answer: Answer, reference: str) -> Result:
    """The answer to an OTP, final where it says "paid"; all but a wrong OTP or a listed end is asked about."""
    envelope = _envelope(answer)
    reason = _word(envelope, "reasoncode")
    verdict, failure = _standing(envelope)
    if not _about(envelope, reference) or (answer.status, _code(envelope)) not in ((200, "200"), (422, "422")):
        verdict = Verdict.UNKNOWN
    elif answer.status == 200:
        if not envelope.get("paymentrequeststatus"):
            verdict = Verdict.COMPLETED if reason in PAID_REASONS else Verdict.UNKNOWN
    elif reason == "invalidpassword" and verdict not in (Verdict.CANCELLED, Verdict.EXPIRED):
        verdict, failure = Verdict.REQUIRES_ACTION, None
    elif verdict not in ENDS:
        verdict = Verdict.UNKNOWN
    return _result(verdict, failure, envelope, reference)


def _standing(envelope: Mapping[str, Any]) -> tuple[Verdict, Failure | None]:
    """How a payment stands. Paid needs the status and its reason; a status that is null is not decided yet."""
    code, reason = _code(envelope), _word(envelope, "reasoncode")
    told_status = envelope.get("paymentrequeststatus", "")
    status = _word(envelope, "paymentrequeststatus")
    verdict, failure = STATUSES.get(status, (Verdict.UNKNOWN, None))
    if code not in ("200", "422") or (verdict is Verdict.COMPLETED and (code, reason in PAID_REASONS) != ("200", True)):
        return Verdict.UNKNOWN, None
    if reason in PAID_REASONS and verdict not in (Verdict.COMPLETED, Verdict.REVERSED):
        return Verdict.UNKNOWN, None
    if not status and reason in (*WAITS_FOR_OTP, "paymentincomplete") and told_status in (None, ""):
        return Verdict.REQUIRES_ACTION, None
    if told_status is None and code == "200" and not reason:
        return Verdict.PROCESSING, None
    return verdict, told(failure, reason) if failure else None


def _result(verdict: Verdict, failure: Failure | None, envelope: Mapping[str, Any], reference: str) -> Result:
    status, reason = _word(envelope, "paymentrequeststatus"), _word(envelope, "reasoncode")
    asks = verdict is Verdict.REQUIRES_ACTION and bool({status, reason} & WAITS_FOR_OTP)
    action = (WRONG_OTP if reason == "invalidpassword" else OTP_ACTION) if asks else None
    return Result(
        verdict,
        raw_status=_raw(envelope),
        reference=word(envelope.get("exttransactionid"), 100) or None,
        provider_references=_ids(envelope, reference) if verdict is not Verdict.UNKNOWN else (),
        amount_bound=verdict is Verdict.COMPLETED,
        next_action=action,
        failure=failure if verdict is not Verdict.UNKNOWN else None,
        # Without the OTP, which goes through us, nothing can be paid; an open request can be as long as C-Pay keeps it.
        expirable=asks or verdict in ENDS,
    )


def _envelope(answer: Answer) -> dict[str, Any]:
    return _unwrapped(object_or_nothing(answer))


def _unwrapped(body: Mapping[str, Any]) -> dict[str, Any]:
    """Names in lower case, since their case varies; with or without the wrapper."""
    folded = {name.lower(): value for name, value in body.items()}
    inner = folded.get("return")
    return {name.lower(): value for name, value in inner.items()} if isinstance(inner, dict) else folded


def _code(envelope: Mapping[str, Any]) -> str:
    value = envelope.get("statuscode")
    text = str(value) if type(value) is int else word(value, 4)
    return text if re.fullmatch(r"[0-9]{3}|0000", text) else ""


def _word(envelope: Mapping[str, Any], name: str) -> str:
    value = envelope.get(name)
    return value.lower() if isinstance(value, str) and WORD.fullmatch(value) else ""


def _raw(envelope: Mapping[str, Any]) -> str:
    parts = (_code(envelope), _word(envelope, "paymentrequeststatus"), _word(envelope, "reasoncode"))
    return " ".join(part for part in parts if part)


def _about(envelope: Mapping[str, Any], reference: str) -> bool:
    """An answer may leave our id out, but must not name another."""
    return envelope.get("exttransactionid") in (None, "", reference)


def _ids(envelope: Mapping[str, Any], reference: str) -> tuple[str, ...]:
    """Ours first: it is the one to ask with, and the one that binds the amount."""
    value = envelope.get("cpaytransactionid")
    own = str(value) if type(value) is int and value > 0 else word(value, 100)
    return (reference, own) if own and own != reference else (reference,)


def _msisdn(phone: str | None) -> str | None:
    """Eight digits, the form that the test system accepts in body and checksum alike."""
    found = PHONE.fullmatch(re.sub(r"[ ()-]", "", phone or ""))
    return found[1] if found else None
