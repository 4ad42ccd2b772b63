"""Paystack: a hosted checkout, direct charges, refunds and transfers for Nigeria, Ghana, South Africa, Kenya and Côte d'Ivoire
(paystack.com/docs).

- The envelope's `status` only says that the call worked; `data.status` is the payment.
- The reference is the one guard against a second charge, and stays used up even after a failure. Refused as a duplicate, it
  may hold a live checkout: that is unknown, and verify tells.
- A checkout that nobody has touched verifies as `abandoned`. A `failed` one may still be paid on the same page.
- Only success is told by webhook; the webhook key is the secret key; events have neither id nor time.
- `amount` is what the customer was charged, `requested_amount` (missing in older shapes) what we asked for.
- XOF is counted in hundredths, though it has none.
- A key of another account or mode answers "not found" to every reference.
- A direct charge (`POST /charge`) has no page: it asks step by step. Verify tells none of its steps, `GET /charge/{reference}`
  does; the metadata, which verify gives back, say that it was one.
- `reversed` is a full refund as well as a lost dispute: the payment's refunds tell which, those of a dispute name it.
- Refunds have neither idempotency nor a reference of ours. Ours stands in the merchant's note, so that the list finds a refund
  whose answer was lost; else its amount has to do. A list that lacks it does not prove that it never came to be.
- Refund events are signed, but most name no refund and can't be told apart: hints. Their amount is text or a number.
- A transfer needs a recipient, which moves nothing and comes back the same for the same account. It may wait for the merchant's
  OTP, and may be reversed after its success.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

import orjson
from pydantic import BaseModel, ConfigDict, SecretStr, field_validator

from payflow.core.clock import Clock
from payflow.core.money import Money, exponent
from payflow.gateway.contract import (
    AccountHolder,
    ActionType,
    Bank,
    CollectOrder,
    Declaration,
    Destination,
    DestinationType,
    Failure,
    LookupFailed,
    NextAction,
    Operation,
    OrderNotAcceptable,
    PaymentDetails,
    PayoutOrder,
    ProviderEvent,
    Query,
    RefundOrder,
    RefundQuery,
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
    UNREACHABLE,
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
    signature_headers=frozenset({"x-paystack-signature"}),
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

REFUND_STATUSES = {
    "pending": Verdict.PROCESSING,
    "processing": Verdict.PROCESSING,
    "processed": Verdict.COMPLETED,
    "failed": Verdict.DECLINED,
    "needs-attention": Verdict.REQUIRES_ACTION,
}
TRANSFER_STATUSES = {
    "pending": Verdict.PROCESSING,
    "processing": Verdict.PROCESSING,
    "received": Verdict.PROCESSING,
    "otp": Verdict.REQUIRES_ACTION,
    "success": Verdict.COMPLETED,
    "failed": Verdict.DECLINED,
    "blocked": Verdict.DECLINED,
    "rejected": Verdict.DECLINED,
    "abandoned": Verdict.DECLINED,
    "reversed": Verdict.REVERSED,
}
RESOLUTIONS = {
    "merchant-accepted": Verdict.REVERSED,
    "auto-accepted": Verdict.REVERSED,
    "declined": Verdict.DISPUTE_WON,
}

# A direct charge's steps, the words for people where Paystack gives none, and where the answer to each goes.
STEPS = {
    "send_otp": (ActionType.OTP, "Enter the code that was sent to you."),
    "send_pin": (ActionType.PIN, "Enter your PIN."),
    "send_phone": (ActionType.PHONE, "Enter the phone number that your bank knows."),
    "send_birthday": (ActionType.BIRTHDAY, "Enter your date of birth as YYYY-MM-DD."),
    "send_address": (ActionType.ADDRESS, "Enter your billing address as street, city, state, postal code."),
}
ACTS_ELSEWHERE = {"pay_offline", "pending_bank_transfer", "open_url"}
SUBMITTED_AS = {
    ActionType.OTP: "otp",
    ActionType.PIN: "pin",
    ActionType.PHONE: "phone",
    ActionType.BIRTHDAY: "birthday",
    ActionType.ADDRESS: "address",
}
ADDRESS_PARTS = ("address", "city", "state", "zip_code")
BIRTHDAY = re.compile(r"\d{4}-\d{2}-\d{2}")
TRANSFER_OTP = NextAction(ActionType.OTP, display_text="Enter the code that Paystack has sent to the account's owner.")

# What can be charged without the page, in which currency.
DIRECT = {
    "bank": {"NGN"},
    "ussd": {"NGN"},
    "mobile_money": {"GHS", "KES"},
    "bank_transfer": {"NGN", "KES"},
    "eft": {"ZAR"},
    "qr": {"ZAR"},
}
OPERATORS = {"GHS": {"mtn", "atl", "vod"}, "KES": {"mpesa", "mpesa_offline"}}
USSD_CODES = {"737", "919", "822", "966"}
PREFIXES = {"GHS": "+233", "KES": "+254"}
RECIPIENT_TYPES = {"NGN": "nuban", "GHS": "ghipss", "ZAR": "basa", "KES": "kepss"}
# Stands in a refund's note: the one place that Paystack gives back.
REFUND_NOTE = re.compile(r"\[ref ([a-z0-9]{1,50})\]")
BANK_PAGES = REFUND_PAGES = 20
# How long the account of a direct bank transfer takes money.
ACCOUNT_LIFE = timedelta(hours=1)

REFUND_FAILED = Failure("refund_failed", "The refund failed.")
REFUNDED = Failure("already_refunded", "The payment has been refunded in full already.")
LOW_BALANCE = Failure("insufficient_balance", "The account at the payment provider does not hold enough money.")
TRANSFER_FAILED = Failure("transfer_failed", "The transfer failed.")
NO_CODE = Failure("expired", "The transfer was not confirmed in time.")
NO_RECIPIENT = Failure("invalid_recipient", "The payment provider does not accept this account.")
NO_ACCOUNT = Failure("account_not_found", "The bank does not know this account.")
NO_BANK = Failure("unknown_bank", "The payment provider does not know this bank.")

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
CHARGE_REFUSALS = REFUSALS | {
    (400, "email address is required for association with card"): INVALID,
    (400, "transaction reference is invalid"): INVALID,
}
REFUND_REFUSALS = REFUSALS | {
    (400, "transaction_reversed"): REFUNDED,
    (400, "transaction has been fully reversed"): REFUNDED,
    (400, "insufficient_balance"): LOW_BALANCE,
    (400, "transaction_not_found"): INVALID,
    (404, "transaction_not_found"): INVALID,
}
TRANSFER_REFUSALS = REFUSALS | {
    (400, "insufficient_balance"): LOW_BALANCE,
    (400, "your balance is not enough to fulfil this request"): LOW_BALANCE,
    (400, "invalid_transfer_recipient"): NO_RECIPIENT,
    (400, "recipient specified is invalid"): NO_RECIPIENT,
    (400, "you cannot initiate third party payouts as a starter business"): SETUP,
    (400, "transfer code is invalid"): INVALID,
}
RECIPIENT_REFUSALS = REFUSALS | {
    (400, "invalid_params"): NO_RECIPIENT,
    (400, "invalid_bank_code"): NO_RECIPIENT,
    (422, "invalid_bank_code"): NO_RECIPIENT,
    (422, "invalid_params"): NO_RECIPIENT,
}
LOOKUP_FAILURES = {
    (400, "invalid_bank_code"): NO_ACCOUNT,
    (422, "invalid_bank_code"): NO_ACCOUNT,
    (400, "invalid_params"): NO_BANK,
    (422, "invalid_params"): NO_BANK,
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

# Told once each: the name and the id of what it is about tell them apart.
SINGLE_EVENTS = {
    "charge.success",
    "charge.dispute.create",
    "charge.dispute.resolve",
    "transfer.success",
    "transfer.failed",
    "transfer.reversed",
}
TRANSFER_EVENTS = {name for name in SINGLE_EVENTS if name.startswith("transfer.")}
REFUND_EVENTS = {f"refund.{status}" for status in REFUND_STATUSES}
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
        if order.details is not None:
            _check_details(order, order.details)

    async def collect(self, order: CollectOrder, credentials: PaystackCredentials) -> Result:
        try:
            if order.details is not None:
                body = _charge_body(order, order.details, self._clock())
                result = _stepped(await self._send("collect", "POST", "/charge", credentials, body))
                return _veiled(result, order.details.account_number, order.details.birthday)
            body = _order_body(order)
            return _accepted(await self._send("collect", "POST", "/transaction/initialize", credentials, body))
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch(self, query: Query, credentials: PaystackCredentials) -> Result:
        """A query that was not sent, or was refused, says nothing of the payment: it is unknown as well."""
        try:
            path = f"/transaction/verify/{quote(query.reference, safe='')}"
            answer = await self._send("fetch", "GET", path, credentials)
            result = _verified(answer, query)
            if result.verdict is Verdict.REVERSED:
                return await self._taken_back(query, result, credentials)
            if result.verdict in (Verdict.REQUIRES_ACTION, Verdict.PROCESSING) and _is_direct(_data(answer)):
                return await self._at_step(query, result, credentials)
            return result
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    async def submit(self, query: Query, submission: Submission, credentials: PaystackCredentials) -> Result:
        """The next step of a direct charge, or the merchant's code for a transfer. A wrong one that Paystack's documents don't
        name is unknown; the question then tells what is asked for."""
        value = submission.value.get_secret_value()
        try:
            if query.operation is Operation.PAYOUT:
                return _veiled(await self._finalize(query, submission, credentials), submission.value)
            fields = _step_fields(submission.type, value)
            if fields is None:
                return _asked_again(submission.type)
            path = f"/charge/submit_{SUBMITTED_AS[submission.type]}"
            body = {**fields, "reference": query.reference}
            return _veiled(_stepped(await self._send("submit", "POST", path, credentials, body)), submission.value)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    def check_refund(self, order: RefundOrder) -> None:
        if order.amount.currency not in DECLARATION.currencies:
            raise OrderNotAcceptable("/currency", f"Paystack does not refund {order.amount.currency}.")

    async def refund(self, order: RefundOrder, credentials: PaystackCredentials) -> Result:
        try:
            return _refund_taken(await self._send("refund", "POST", "/refund", credentials, _refund_body(order)))
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch_refund(self, query: RefundQuery, credentials: PaystackCredentials) -> Result:
        refund_id = next((item for item in query.provider_references if number(item) is not None), None)
        try:
            if refund_id is None:
                return _found(await self._refunds_of(query.payment, credentials), query)
            return _refund_fetched(await self._send("fetch_refund", "GET", f"/refund/{refund_id}", credentials), query)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    def check_payout(self, order: PayoutOrder) -> None:
        _check_destination(order.amount.currency, order.destination)

    async def pay_out(self, order: PayoutOrder, credentials: PaystackCredentials) -> Result:
        """Two requests. Until the second one nothing can have moved, whatever became of the first."""
        try:
            body = _recipient_body(order.amount.currency, order.destination)
            answer = await self._send("recipient", "POST", "/transferrecipient", credentials, body)
            recipient = _word((_data(answer, (200, 201)) or {}).get("recipient_code"))
            if not recipient:
                return _no_recipient(answer)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.NOT_SENT, raw_status=f"no recipient: {error}", failure=UNREACHABLE)
        try:
            body = _transfer_body(order, recipient)
            answer = await self._send("pay_out", "POST", "/transfer", credentials, body)
            return _transfer_taken(answer, order.reference)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch_payout(self, query: Query, credentials: PaystackCredentials) -> Result:
        try:
            path = f"/transfer/verify/{quote(query.reference, safe='')}"
            return _transfer_fetched(await self._send("fetch_payout", "GET", path, credentials), query.reference)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    async def banks(self, currency: str, credentials: PaystackCredentials) -> Sequence[Bank]:
        """In pages, Nigeria alone has several hundred."""
        if currency not in RECIPIENT_TYPES:
            return ()
        found: list[Bank] = []
        parameters = {"currency": currency, "perPage": "100", "use_cursor": "true"}
        for _ in range(BANK_PAGES):
            body = await self._look_up(f"/bank?{urlencode(parameters)}", credentials)
            found += _banks(body.get("data"), currency)
            meta = body.get("meta")
            cursor = _word(meta.get("next")) if isinstance(meta, dict) else ""
            if not cursor:
                break
            parameters["next"] = cursor
        return tuple(dict.fromkeys(found))

    async def resolve_account(self, destination: Destination, credentials: PaystackCredentials) -> AccountHolder:
        account, bank = destination.account_number or destination.phone or "", destination.bank_code or ""
        if destination.type is DestinationType.MOBILE_MONEY:
            account = _local(destination.phone or account)
        query = urlencode({"account_number": account, "bank_code": bank})
        data = (await self._look_up(f"/bank/resolve?{query}", credentials)).get("data")
        name = _word(data.get("account_name")) if isinstance(data, dict) else ""
        if not name:
            raise LookupFailed
        return AccountHolder(name, account, bank)

    def verify_webhook(self, request: WebhookRequest, credentials: Sequence[PaystackCredentials]) -> None:
        keys = [item.secret_key.get_secret_value() for item in credentials]
        verify_hmac_hex(request.headers.get("x-paystack-signature"), request.body, keys, "sha512")

    def translate(self, request: WebhookRequest) -> Sequence[ProviderEvent]:
        try:
            body = orjson.loads(request.body)
            return [_event(body["event"], body["data"])]
        except (orjson.JSONDecodeError, KeyError, TypeError, Unreadable) as error:
            raise WebhookMalformed(f"no readable Paystack event: {error}") from None

    async def _finalize(self, query: Query, submission: Submission, credentials: PaystackCredentials) -> Result:
        code = next((item for item in query.provider_references if item.startswith("TRF_")), None)
        if submission.type is not ActionType.OTP or code is None:
            return Result(Verdict.UNKNOWN, raw_status="no transfer code")
        body = {"transfer_code": code, "otp": submission.value.get_secret_value()}
        answer = await self._send("submit", "POST", "/transfer/finalize_transfer", credentials, body)
        return _transfer_taken(answer, query.reference)

    async def _at_step(self, query: Query, result: Result, credentials: PaystackCredentials) -> Result:
        """What a direct charge that is under way asks for. Where that can't be learned, verify's answer stands."""
        try:
            path = f"/charge/{quote(query.reference, safe='')}"
            data = _data(await self._send("fetch", "GET", path, credentials))
        except (NotSent, OutcomeUnknown, Unreadable):
            return result
        return _under_way(data, result) if data is not None else result

    async def _taken_back(self, query: Query, result: Result, credentials: PaystackCredentials) -> Result:
        """Refunded in full is still paid, and its refunds tell the rest; only a dispute takes the payment itself back."""
        payment = replace(query, provider_references=result.provider_references or query.provider_references)
        refunds = [
            _refund_result(row)
            for row in await self._refunds_of(payment, credentials)
            if row.get("dispute") is None and row.get("status") != "failed"
        ]
        given_back = sum(item.requested.minor for item in refunds if item.requested is not None)
        if result.paid is not None and result.paid.minor and given_back >= result.paid.minor:
            return replace(result, verdict=Verdict.COMPLETED)
        return result

    async def _refunds_of(self, payment: Query, credentials: PaystackCredentials) -> list[dict[str, Any]]:
        """All the payment's refunds. Should the filter not be heeded, they are found among those of others, on any page."""
        payment_id = next((item for item in payment.provider_references if number(item) is not None), payment.reference)
        found: list[dict[str, Any]] = []
        for page in range(1, REFUND_PAGES + 1):
            path = "/refund?" + urlencode({"transaction": payment_id, "perPage": 100, "page": page})
            answer = await self._send("fetch_refund", "GET", path, credentials)
            body = answer.json_object()
            rows, meta = body.get("data"), body.get("meta")
            if answer.status != 200 or body.get("status") is not True or not isinstance(rows, list):
                raise Unreadable(f"{answer.status} without a list of refunds")
            found += [row for row in rows if isinstance(row, dict) and _is_of(row, payment)]
            if page >= ((number(meta.get("pageCount")) if isinstance(meta, dict) else None) or 1):
                return found
        raise Unreadable("too many refunds to find the payment's among them")

    async def _look_up(self, path: str, credentials: PaystackCredentials) -> dict[str, Any]:
        try:
            answer = await self._send("look_up", "GET", path, credentials)
            body = answer.json_object()
        except (NotSent, OutcomeUnknown, Unreadable):
            raise LookupFailed from None
        if answer.status == 200 and body.get("status") is True:
            return body
        code = _word(body.get("code"))
        failure = LOOKUP_FAILURES.get((answer.status, code))
        raise LookupFailed(told(failure, code) if failure else None)

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


def _check_details(order: CollectOrder, details: PaymentDetails) -> None:
    """What a direct charge lacks, before Paystack says it."""
    method, currency = order.method, order.amount.currency
    if method not in DIRECT:
        raise OrderNotAcceptable("/method", f"Paystack charges directly by one of {', '.join(sorted(DIRECT))}.")
    if currency not in DIRECT[method]:
        raise OrderNotAcceptable("/currency", f"Paystack charges {method} directly not in {currency}.")
    if method == "bank" and not details.bank_code:
        raise OrderNotAcceptable("/payment_details/bank_code", "Paystack requires the bank's code.")
    if method == "bank" and details.account_number is None:
        raise OrderNotAcceptable("/payment_details/account_number", "Paystack requires the account number.")
    if details.birthday is not None and not BIRTHDAY.fullmatch(details.birthday.get_secret_value()):
        raise OrderNotAcceptable("/payment_details/birthday", "The date of birth is written YYYY-MM-DD.")
    if method == "ussd" and details.ussd_code not in USSD_CODES:
        raise OrderNotAcceptable("/payment_details/ussd_code", f"Paystack offers {', '.join(sorted(USSD_CODES))}.")
    if method == "mobile_money":
        if (details.operator or "").lower() not in OPERATORS[currency]:
            offered = ", ".join(sorted(OPERATORS[currency]))
            raise OrderNotAcceptable("/payment_details/operator", f"For {currency} Paystack offers {offered}.")
        if not (order.customer.phone or "").startswith(PREFIXES[currency]):
            raise OrderNotAcceptable("/customer/phone", f"A number that begins with {PREFIXES[currency]} is required.")


def _charge_body(order: CollectOrder, details: PaymentDetails, now: datetime) -> dict[str, Any]:
    body: dict[str, Any] = {
        "reference": order.reference,
        "amount": order.amount.to_provider(EXPONENTS),
        "currency": order.amount.currency,
        "email": order.customer.email,
        "metadata": {"transaction_id": str(order.transaction_id), "charge": "direct"},
    }
    if details.birthday is not None:
        body["birthday"] = details.birthday.get_secret_value()
    match order.method:
        case "bank":
            account = details.account_number.get_secret_value() if details.account_number else ""
            body["bank"] = {"code": details.bank_code, "account_number": account}
        case "mobile_money":
            phone = order.customer.phone or ""
            # Ghana's operators are sent local numbers, M-PESA the whole one, as in the documents' samples.
            phone = _local(phone) if order.amount.currency == "GHS" else phone
            body["mobile_money"] = {"phone": phone, "provider": (details.operator or "").lower()}
        case "ussd":
            body["ussd"] = {"type": details.ussd_code}
        case "bank_transfer":
            body["bank_transfer"] = {"account_expires_at": f"{now + ACCOUNT_LIFE:%Y-%m-%dT%H:%M:%SZ}"}
        case "eft":
            body["eft"] = {"provider": "ozow"}
        case "qr":
            body["qr"] = {"provider": "scan-to-pay"}
    return body


def _step_fields(kind: ActionType, value: str) -> dict[str, str] | None:
    """As Paystack names them; nothing where what was given has not the shape."""
    if kind is ActionType.ADDRESS:
        parts = [part.strip() for part in value.rsplit(",", 3)]
        return dict(zip(ADDRESS_PARTS, parts, strict=True)) if len(parts) == 4 and all(parts) else None
    if kind not in SUBMITTED_AS or (kind is ActionType.BIRTHDAY and not BIRTHDAY.fullmatch(value)):
        return None
    return {SUBMITTED_AS[kind]: value}


def _asked_again(kind: ActionType) -> Result:
    """Nothing was sent."""
    texts = dict(STEPS.values())
    if kind not in texts:
        return Result(Verdict.UNKNOWN, raw_status="nothing to submit")
    action = NextAction(kind, display_text=texts[kind])
    return Result(Verdict.REQUIRES_ACTION, raw_status="not sent", next_action=action)


def _refund_body(order: RefundOrder) -> dict[str, Any]:
    note = f"{(order.reason or 'Refund')[:150]} [ref {order.reference}]"
    amount = order.amount.to_provider(EXPONENTS)
    return {"transaction": order.payment.reference, "amount": amount, "merchant_note": note}


def _check_destination(currency: str, destination: Destination) -> None:
    if currency not in RECIPIENT_TYPES:
        raise OrderNotAcceptable("/currency", f"Paystack does not send {currency}.")
    if not destination.bank_code:
        raise OrderNotAcceptable("/destination/bank_code", "Paystack requires the code of the bank or operator.")
    if not destination.account_name:
        raise OrderNotAcceptable("/destination/account_name", "Paystack requires the name of the account's holder.")
    if destination.type is DestinationType.MOBILE_MONEY:
        if currency not in PREFIXES:
            raise OrderNotAcceptable("/destination/type", f"Paystack sends no {currency} to phones.")
        if not (destination.phone or "").startswith(PREFIXES[currency]):
            raise OrderNotAcceptable(
                "/destination/phone", f"A number that begins with {PREFIXES[currency]} is required."
            )
    elif not destination.account_number:
        raise OrderNotAcceptable("/destination/account_number", "Paystack requires the account number.")


def _recipient_body(currency: str, destination: Destination) -> dict[str, Any]:
    mobile = destination.type is DestinationType.MOBILE_MONEY
    return {
        "type": "mobile_money" if mobile else RECIPIENT_TYPES[currency],
        "name": destination.account_name,
        "account_number": _local(destination.phone or "") if mobile else destination.account_number,
        "bank_code": destination.bank_code,
        "currency": currency,
    }


def _transfer_body(order: PayoutOrder, recipient: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "source": "balance",
        "amount": order.amount.to_provider(EXPONENTS),
        "currency": order.amount.currency,
        "recipient": recipient,
        "reference": order.reference,
    }
    return body | ({"reason": order.description[:100]} if order.description else {})


def _local(phone: str) -> str:
    """0551234987 for +233551234987."""
    prefix = next((item for item in PREFIXES.values() if phone.startswith(item)), None)
    return f"0{phone.removeprefix(prefix)}" if prefix else phone


def _data(answer: Answer, statuses: Sequence[int] = (200,)) -> dict[str, Any] | None:
    """What a call that worked gives."""
    body = answer.json_object()
    data = body.get("data")
    return data if answer.status in statuses and body.get("status") is True and isinstance(data, dict) else None


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


Refusals = Mapping[tuple[int, str], Failure]


def _refused(status: int, body: Mapping[str, Any], refusals: Refusals = REFUSALS) -> Result:
    code, message = _word(body.get("code")), _word(body.get("message"))
    if status == 429:
        return Result(Verdict.REFUSED, raw_status="429", failure=TOO_MANY)
    failure = refusals.get((status, code)) or refusals.get((status, _folded(message)))
    if failure is None or "duplicate" in message.lower():
        return Result(Verdict.UNKNOWN, raw_status=f"{status} {code or message}".strip())
    return Result(Verdict.REFUSED, raw_status=f"{status} {code or message}", failure=told(failure, code or message))


def _stepped(answer: Answer) -> Result:
    """The answer to a direct charge or to one of its steps. A failed step may be told under `status: false`."""
    body = _body(answer)
    data = body.get("data")
    if (
        answer.status == 200
        and isinstance(data, dict)
        and (body.get("status") is True or data.get("status") == "failed")
    ):
        return _step(data) or _result(data, direct=True)
    return _refused(answer.status, body, CHARGE_REFUSALS)


def _step(data: Mapping[str, Any]) -> Result | None:
    """What the customer has to do next, if that is what it says."""
    status = _word(data.get("status"))
    action = _next_action(status, data)
    if action is None:
        return None
    return Result(
        Verdict.REQUIRES_ACTION,
        raw_status=status,
        reference=_word(data.get("reference")) or None,
        next_action=action,
        checkout_url=action.url,
        session_ends_at=action.expires_at,
        expirable=True,
    )


def _under_way(data: Mapping[str, Any], result: Result) -> Result:
    """A direct charge's step as asked for later. Whoever acts elsewhere is told how at the start only: then without an action,
    so that the first one stays."""
    status, step = _word(data.get("status")), _step(data)
    action = step.next_action if step is not None else None
    if step is not None and action is not None and (status in STEPS or action.fields or action.url):
        return replace(step, provider_references=result.provider_references)
    if status in ACTS_ELSEWHERE:
        return replace(result, verdict=Verdict.REQUIRES_ACTION, raw_status=status, expirable=True)
    return result


def _next_action(status: str, data: Mapping[str, Any]) -> NextAction | None:
    text, url = _word(data.get("display_text")) or None, web_address(data.get("url"))
    if status in STEPS:
        kind, usual = STEPS[status]
        country = _word(data.get("country_code"))
        return NextAction(kind, display_text=text or usual, fields={"country_code": country} if country else {})
    if status == "open_url" and url:
        return NextAction(ActionType.REDIRECT, url=url, display_text=text)
    if status == "pending_bank_transfer" and data.get("account_number"):
        return _transfer_details(data, text)
    if status == "pay_offline":
        return _offline(data, text, url)
    return None


def _offline(data: Mapping[str, Any], text: str | None, url: str) -> NextAction:
    """The customer acts elsewhere: dials, scans, pays a bill at M-PESA, or answers the phone."""
    if code := _word(data.get("ussd_code")):
        return NextAction(ActionType.USSD, display_text=text, fields={"ussd_code": code})
    if url:
        fields = {"qr_code": code} if (code := word(data.get("qr_code"), 2_000)) else {}
        return NextAction(ActionType.REDIRECT, url=url, display_text=text, fields=fields)
    if data.get("account_number"):
        return _transfer_details(data, text)
    return NextAction(ActionType.HANDSET_PROMPT, display_text=text)


def _transfer_details(data: Mapping[str, Any], text: str | None) -> NextAction:
    """Numbers come as text and as numbers."""
    bank = data.get("bank")
    found = {name: data.get(name) for name in ("account_number", "account_name", "account_reference")}
    found["bank_name"] = bank.get("name") if isinstance(bank, dict) else None
    fields = {name: _word(str(value)) for name, value in found.items() if type(value) in (str, int)}
    return NextAction(
        ActionType.TRANSFER,
        display_text=text,
        fields={name: value for name, value in fields.items() if value},
        expires_at=_moment(data.get("account_expires_at")),
    )


def _veiled(result: Result, *secrets: SecretStr | None) -> Result:
    """Without what the customer gave, should the provider repeat it."""

    def veil(text: str | None) -> str | None:
        for secret in secrets:
            if text and secret is not None and secret.get_secret_value():
                text = text.replace(secret.get_secret_value(), "***")
        return text

    failure, action = result.failure, result.next_action
    return replace(
        result,
        raw_status=veil(result.raw_status) or "",
        failure=failure and replace(failure, provider_code=veil(failure.provider_code)),
        next_action=action and replace(action, display_text=veil(action.display_text)),
    )


def _refund_taken(answer: Answer) -> Result:
    """The answer to a refund."""
    data = _data(answer) if answer.status == 200 else None
    return _refund_result(data) if data is not None else _refused(answer.status, _body(answer), REFUND_REFUSALS)


def _refund_fetched(answer: Answer, query: RefundQuery) -> Result:
    data = _data(answer)
    if data is None:
        return Result(Verdict.UNKNOWN, raw_status=_said(answer))
    if not _is_of(data, query.payment):
        return Result(Verdict.UNKNOWN, raw_status="a refund of another payment")
    return _refund_result(data)


def _found(rows: Sequence[Mapping[str, Any]], query: RefundQuery) -> Result:
    """Ours by the note; else the oldest of its amount that bears no other's name and is not taken."""
    refunds = [_refund_result(row) for row in reversed(rows)]
    named = [item for item in refunds if item.reference == query.reference]
    nameless = [
        item
        for item in refunds
        if item.reference is None
        and item.requested == query.amount
        and not set(item.provider_references) & set(query.taken)
    ]
    if named or nameless:
        return (named or nameless)[0]
    return Result(Verdict.UNKNOWN, raw_status="not in the list")


def _refund_result(data: Mapping[str, Any]) -> Result:
    """A refund, as answered, listed or told by an event. Unreadable without an amount."""
    status, identity = _word(data.get("status")), number(data.get("id"))
    verdict = REFUND_STATUSES.get(status, Verdict.UNKNOWN)
    noted = REFUND_NOTE.search(word(data.get("merchant_note"), 1_000))
    return Result(
        verdict,
        raw_status=status,
        reference=noted[1] if noted else None,
        provider_references=(str(identity),) if identity is not None else (),
        requested=_money(data.get("amount"), data.get("currency")),
        failure=told(REFUND_FAILED, status) if verdict is Verdict.DECLINED else None,
    )


def _is_of(refund: Mapping[str, Any], payment: Query) -> bool:
    """The payment is named by its number, by our reference, or as an object with both."""
    transaction = refund.get("transaction")
    inner = transaction if isinstance(transaction, dict) else {"id": transaction}
    if payment.reference in (refund.get("transaction_reference"), inner.get("reference")):
        return True
    identity = number(inner.get("id"))
    return identity is not None and str(identity) in payment.provider_references


def _no_recipient(answer: Answer) -> Result:
    """Whatever it says: no transfer was asked for."""
    result = _refused(answer.status, _body(answer), RECIPIENT_REFUSALS)
    if result.verdict is Verdict.REFUSED:
        return result
    said = f"no recipient: {result.raw_status}"
    if answer.status >= 500:
        return Result(Verdict.NOT_SENT, raw_status=said, failure=UNREACHABLE)
    return Result(Verdict.REFUSED, raw_status=said, failure=NO_RECIPIENT)


def _transfer_taken(answer: Answer, reference: str) -> Result:
    """The answer to a transfer or to its OTP. A reference used twice is unknown: the question tells."""
    data = _data(answer) if answer.status == 200 else None
    if data is None:
        return _refused(answer.status, _body(answer), TRANSFER_REFUSALS)
    return _only(reference, _transfer_result(data))


def _transfer_fetched(answer: Answer, reference: str) -> Result:
    data = _data(answer)
    if data is not None:
        return _only(reference, _transfer_result(data))
    body = _body(answer)
    words = {_word(body.get("code")), _folded(_word(body.get("message")))}
    if answer.status == 404 and words & {"transfer_not_found", "transfer not found"}:
        return Result(Verdict.NOT_FOUND, raw_status="transfer not found")
    return Result(Verdict.UNKNOWN, raw_status=_said(answer))


def _only(reference: str, result: Result) -> Result:
    """What is said of another transfer decides nothing: believing its failure would release money that may be gone."""
    if result.reference in (None, reference):
        return result
    return Result(Verdict.UNKNOWN, raw_status="another transfer")


def _transfer_result(data: Mapping[str, Any]) -> Result:
    """A transfer, as answered, asked for or told by an event. Unreadable without an amount."""
    status, code, identity = _word(data.get("status")), _word(data.get("transfer_code")), number(data.get("id"))
    verdict, currency, fee = (
        TRANSFER_STATUSES.get(status, Verdict.UNKNOWN),
        data.get("currency"),
        data.get("fee_charged"),
    )
    failure = NO_CODE if status == "abandoned" else TRANSFER_FAILED
    return Result(
        verdict,
        raw_status=status,
        reference=_word(data.get("reference")) or None,
        provider_references=tuple(item for item in (code, str(identity) if identity is not None else "") if item),
        requested=_money(data.get("amount"), currency),
        fee=_fee(fee, currency) if verdict is Verdict.COMPLETED else None,
        next_action=TRANSFER_OTP if verdict is Verdict.REQUIRES_ACTION else None,
        failure=told(failure, _word(data.get("gateway_response")) or status) if verdict is Verdict.DECLINED else None,
    )


def _banks(rows: Any, currency: str) -> list[Bank]:
    if not isinstance(rows, list):
        raise LookupFailed
    found = []
    for row in rows:
        if not isinstance(row, dict) or row.get("active") is False or row.get("is_deleted") is True:
            continue
        code, name = _word(row.get("code")), _word(row.get("name"))
        mobile = row.get("type") in ("mobile_money", "mobile_money_business")
        if code and name and row.get("currency") == currency:
            kind = DestinationType.MOBILE_MONEY if mobile else DestinationType.BANK_ACCOUNT
            found.append(Bank(code, name, currency, kind))
    return found


def _verified(answer: Answer, query: Query) -> Result:
    """The answer to a question. It finds what it has told of before, if only as `abandoned`: else the key is another."""
    body = answer.json_object()
    if answer.status == 200 and body.get("status") is True and isinstance(body.get("data"), dict):
        return _result(body["data"], direct=_is_direct(body["data"]))
    code, message = _word(body.get("code")), _word(body.get("message"))
    if NOT_FOUND & {(answer.status, code), (answer.status, _folded(message))}:
        return Result(Verdict.NOT_FOUND, raw_status=code or message, expirable=not query.answered)
    return Result(Verdict.UNKNOWN, raw_status=f"{answer.status} {code or message}".strip())


def _is_direct(data: Mapping[str, Any] | None) -> bool:
    """By the metadata that we sent, given back as an object or as its text."""
    metadata = data.get("metadata") if data else None
    if isinstance(metadata, str):
        try:
            metadata = orjson.loads(metadata)
        except orjson.JSONDecodeError:
            return False
    return isinstance(metadata, dict) and metadata.get("charge") == "direct"


def _result(data: Mapping[str, Any], *, direct: bool = False) -> Result:
    """A transaction object, from verify or from an event. Unreadable where money has no amount. A decline leaves the page
    open, and a direct charge has none."""
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
        fee=_fee(fees, currency) if moved else None,
        failure=_decline(data) if verdict is Verdict.DECLINED else None,
        session_open=verdict is Verdict.DECLINED and not direct,
        expirable=verdict in (Verdict.REQUIRES_ACTION, Verdict.DECLINED),
    )


def _decline(data: Mapping[str, Any]) -> Failure:
    reason = _word(data.get("gateway_response")) or _word(data.get("message"))
    return told(DECLINES.get(_folded(reason), DECLINED), reason)


def _event(name: Any, data: Any) -> ProviderEvent:
    """News that moves nothing keeps its references, so that it is found by them."""
    if not isinstance(name, str) or not name:
        raise Unreadable("an event without a name")
    fields = data if isinstance(data, dict) else {}
    if name in REFUND_EVENTS:
        return _refund_event(name, fields)
    references, identity = _references(fields), number(fields.get("id"))
    if name in SINGLE_EVENTS and not references:
        raise Unreadable(f"{name} without a reference")
    result = _told(name, fields)
    return ProviderEvent(
        type=name,
        trust=Trust.SIGNED,
        operation=OPERATIONS.get(name.partition(".")[0], Operation.COLLECT),
        dedupe_key=f"{name}:{identity}" if name in SINGLE_EVENTS and identity is not None else None,
        references=references,
        provider_references=result.provider_references if result else _payment_ids(fields),
        result=result,
    )


def _told(name: str, fields: Mapping[str, Any]) -> Result | None:
    if name == "charge.success":
        return _result(fields, direct=_is_direct(fields))
    if name in TRANSFER_EVENTS:
        return _transfer_result(fields)
    if name == "charge.dispute.create":
        return Result(
            Verdict.DISPUTED, raw_status=_word(fields.get("status")), provider_references=_payment_ids(fields)
        )
    if name == "charge.dispute.resolve":
        return _resolved(fields)
    return None


def _refund_event(name: str, fields: Mapping[str, Any]) -> ProviderEvent:
    """A hint: most name no refund, and two refunds of one amount look alike."""
    payment, result = _word(fields.get("transaction_reference")), _refund_result(fields)
    if not payment:
        raise Unreadable(f"{name} without a transaction")
    return ProviderEvent(
        type=name,
        trust=Trust.CONFIRM,
        operation=Operation.REFUND,
        references=(result.reference,) if result.reference else (),
        provider_references=result.provider_references,
        payment_references=(payment,),
        result=result,
    )


def _resolved(fields: Mapping[str, Any]) -> Result:
    """A dispute's end. What it takes may be a part of the payment, which is then told as `requested`."""
    resolution = _word(fields.get("resolution"))
    verdict = RESOLUTIONS.get(resolution, Verdict.UNKNOWN)
    transaction = fields.get("transaction")
    inner = transaction if isinstance(transaction, dict) else {}
    currency = inner.get("currency") or fields.get("currency")
    lost = verdict is Verdict.REVERSED
    return Result(
        verdict,
        raw_status=resolution,
        provider_references=_payment_ids(fields),
        requested=_money(fields.get("refund_amount"), fields.get("currency") or currency) if lost else None,
        paid=_money(inner.get("amount"), currency) if lost else None,
    )


def _references(fields: Mapping[str, Any]) -> tuple[str, ...]:
    inner = fields.get("transaction")
    nested = inner.get("reference") if isinstance(inner, dict) else None
    found = (fields.get("transaction_reference"), nested, fields.get("reference"))
    return tuple(dict.fromkeys(text for text in map(_word, found) if text))


def _payment_ids(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a dispute, or of a transfer to us that was sent back."""
    for holder, name in (("transaction", "id"), ("bank_transfer", "transaction_id")):
        inner = fields.get(holder)
        identity = number(inner.get(name)) if isinstance(inner, dict) else None
        if identity is not None:
            return (str(identity),)
    return ()


def _money(minor: Any, currency: Any) -> Money:
    """Paystack writes the same number as 10000 or as "10000"."""
    return minor_units(number(minor), currency, EXPONENTS)


def _fee(units: Any, currency: Any) -> Money | None:
    """None where it cannot be read: what came has come, whatever was kept of it. Of XOF hundredths are kept, which we round."""
    told, step = number(units), 10 ** (EXPONENTS[currency] - exponent(currency)) if currency in EXPONENTS else 1
    try:
        return None if told is None else _money((told + step // 2) // step * step, currency)
    except Unreadable:
        return None


def _word(value: Any) -> str:
    """A message may repeat the key it refuses."""
    return SECRET_KEY.sub("sk_***", word(value))


def _folded(message: str) -> str:
    return message.strip().rstrip(".").lower()


def _body(answer: Answer) -> dict[str, Any]:
    """A busy answer may be a page."""
    return {} if answer.status == 429 else answer.json_object()


def _said(answer: Answer) -> str:
    body = answer.json_object()
    return f"{answer.status} {_word(body.get('code')) or _word(body.get('message'))}".strip()


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment and moment.tzinfo else None
