"""Flutterwave v3: a hosted checkout, "Standard", for much of Africa (developer.flutterwave.com/v3.0/docs).

- The envelope's `status` only says that the call worked; `data.status` is the payment. Errors have no code, only words.
- Amounts are major units, as number or text: read as Decimal, sent as text. A fee may have more decimals than its
  currency.
- An order opens a page and no transaction: until the customer tries, verifying answers "not found". The link is kept
  among the references, because only it closes the page.
- Each try is a transaction of its own under the same tx_ref. A failed one ends nothing while the page is open, so its
  id is not kept, and before it proves anything the list of successful ones is asked. So it is while a try is pending,
  which one that the customer gave up may stay.
- `verif-hash` repeats a secret and says nothing of the body; the worker does not know which proof a webhook came with.
  Hence each webhook is a hint, and verify decides. A refund's has no envelope.
- The gateway answers 503 after 28 seconds though the order may live on: unknown, as a duplicate tx_ref is.
- `charged_amount` holds the fee where the customer bears it; `amount` is what we asked for.
- A direct charge (`/charges`) answers with `data`, or with `meta.authorization` alone, or with that inside `data`. Only an
  OTP is given back through us, by `flw_ref`. `pending` is what it says whether or not the customer has acted, hence the
  two marks among the references. Cards would pass through us here: they are taken on the page only.
- A refund wants the transaction's number and has no place for our reference but its comment. Its status `completed` says
  that it was begun; done is `completed-mpgs` and the like. It names no currency.
- A transfer that lacks balance is accepted and fails later. A reference is taken once, and a duplicate may be our own.
  Without the wallet to debit being named, another currency could be changed.
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

import orjson
from pydantic import BaseModel, ConfigDict, SecretStr, field_validator

from payflow.core.clock import Clock
from payflow.core.crypto import same
from payflow.core.money import MAX_MINOR, Money, exponent
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

# What `/charges?type=` calls them, where no page is wanted. Not cards; the others are taken on the page only.
CHARGES: dict[tuple[str, str | None], str] = {
    ("NGN", "bank"): "debit_ng_account",
    ("NGN", "bank_transfer"): "bank_transfer",
    ("NGN", "ussd"): "ussd",
    ("GHS", "mobile_money"): "mobile_money_ghana",
    ("KES", "mobile_money"): "mpesa",
    ("UGX", "mobile_money"): "mobile_money_uganda",
    ("RWF", "mobile_money"): "mobile_money_rwanda",
    ("TZS", "mobile_money"): "mobile_money_tanzania",
    ("ZMW", "mobile_money"): "mobile_money_zambia",
    ("XAF", "mobile_money"): "mobile_money_franco",
    ("XOF", "mobile_money"): "mobile_money_franco",
}
NETWORKS = {f"mobile_money_{place}" for place in ("ghana", "uganda", "rwanda", "tanzania", "zambia")}
ORDER_IDS = {f"mobile_money_{place}" for place in ("uganda", "rwanda", "zambia")}
FRANCO = {("XAF", "237"): "CM", ("XOF", "221"): "SN", ("XOF", "225"): "CI", ("XOF", "223"): "ML"}  # by the phone

# Where transfers go. In Ghana, Uganda and Tanzania a bank wants the branch's code too, for which there is no place.
BANK_COUNTRIES = {"NGN": "NG", "KES": "KE", "ZAR": "ZA"}
OPERATORS = {
    "KES": {"MPS": "M-PESA"},
    "GHS": {"MTN": "MTN", "VODAFONE": "Vodafone", "TIGO": "AirtelTigo"},
    **{currency: {"MPS": "Mobile money"} for currency in ("UGX", "RWF", "TZS", "ZMW")},
    **{currency: {"FMM": "Mobile money"} for currency in ("XAF", "XOF")},
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
    signature_headers=frozenset({"verif-hash", "flutterwave-signature"}),
)

STATUSES = {
    "pending": Verdict.PROCESSING,
    "success-pending-validation": Verdict.PROCESSING,
    "successful": Verdict.COMPLETED,
    "failed": Verdict.DECLINED,
}

REFUNDS = {
    "completed": Verdict.PROCESSING,  # begun
    "processing": Verdict.PROCESSING,
    "pending-momo": Verdict.PROCESSING,
    "completed-bank-transfer": Verdict.COMPLETED,
    "completed-momo": Verdict.COMPLETED,
    "completed-mpgs": Verdict.COMPLETED,
    "completed-offline": Verdict.COMPLETED,
    "completed-preauth": Verdict.COMPLETED,
    "failed": Verdict.DECLINED,
}
TRANSFERS = {
    "NEW": Verdict.PROCESSING,
    "PENDING": Verdict.PROCESSING,
    "SUCCESSFUL": Verdict.COMPLETED,
    "FAILED": Verdict.DECLINED,
}
LIST_PAGES = 20  # of refunds, when one has to be found among all
SKEW = timedelta(minutes=10)

# Before a direct charge's flw_ref, among its references: whether the customer still has to act.
AWAITING, SUBMITTED = "awaiting:", "submitted:"

NO_RETURN = Failure("return_url_required", "Flutterwave needs a return_url to send the customer back to.")
CANCELLED = Failure("customer_cancelled", "The payment was cancelled.")

# By HTTP status and message. Nothing was opened.
REFUSALS = {
    (400, "merchant secret key required"): NO_ACCESS,
    (400, "merchant cannot perform transactions without approval"): SETUP,
}
TRANSFER_REFUSALS = REFUSALS | {
    (400, "payout was made to a blacklisted account number"): Failure(
        "destination_not_allowed", "The payment provider does not send money to this account."
    ),
    (400, "please enable ip whitelisting to access this service"): SETUP,
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

REFUND_FAILED = Failure("refund_failed", "The refund failed.")
TRANSFER_FAILED = Failure("payout_failed", "The transfer failed.")
TRANSFER_DECLINES = {
    "disburse failed: insufficient funds in customer wallet": Failure(
        "provider_balance", "The balance at the payment provider does not suffice."
    ),
}
NO_ACCOUNT = Failure("account_not_found", "There is no such account, or the bank does not answer for it.")
NO_LOOKUP = Failure("lookup_not_offered", "Flutterwave names the holders of bank accounts only.")
NO_TRANSFERS = Failure("currency_not_supported", "Flutterwave does not send this currency from here.")

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
        if order.details is not None:
            _check_charge(order, order.details)

    async def collect(self, order: CollectOrder, credentials: FlutterwaveCredentials) -> Result:
        return_url = order.return_url or order.default_return_url
        ends_at = self._clock() + SESSION_LIFE
        if order.details is not None:
            return await self._charge(order, order.details, return_url, ends_at, credentials)
        if return_url is None:
            return Result(Verdict.REFUSED, raw_status="not sent", failure=NO_RETURN)
        try:
            body = _order_body(order, return_url)
            return _accepted(await self._send("collect", "POST", "/payments", credentials, body), ends_at)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch(self, query: Query, credentials: FlutterwaveCredentials) -> Result:
        """A query that was not sent, or was refused, says nothing of the payment: it is unknown as well."""
        try:
            return _without_page(await self._ask(query, credentials), query)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    async def submit(self, query: Query, submission: Submission, credentials: FlutterwaveCredentials) -> Result:
        """An OTP for a direct charge. How Flutterwave words a wrong one is not documented: unknown, and the charge asked."""
        flw_ref = next((text.removeprefix(AWAITING) for text in query.provider_references if _awaits(text)), None)
        if submission.type is not ActionType.OTP or flw_ref is None:
            return Result(Verdict.UNKNOWN, raw_status="nothing to validate")
        body = {"otp": submission.value.get_secret_value(), "flw_ref": flw_ref, "type": "account"}
        try:
            answer = await self._send("submit", "POST", "/validate-charge", credentials, body)
            return _untold(_validated(answer, query, flw_ref), submission.value)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    def check_refund(self, order: RefundOrder) -> None:
        if not _numbers(order.payment):
            raise OrderNotAcceptable("", "Flutterwave refunds by its number of the transaction, which is not known.")

    async def refund(self, order: RefundOrder, credentials: FlutterwaveCredentials) -> Result:
        identity = _numbers(order.payment)[-1]
        comment = f"{(order.reason or 'Refund')[:100]} ({order.reference})"
        body = {"amount": _number(order.amount), "comments": comment}
        try:
            answer = await self._send("refund", "POST", f"/transactions/{identity}/refund", credentials, body)
            return _refunded(answer, order.payment)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch_refund(self, query: RefundQuery, credentials: FlutterwaveCredentials) -> Result:
        identity = next((item for item in query.provider_references if number(item) is not None), None)
        try:
            if identity is None:
                return await self._find_refund(query, credentials)
            answer = await self._send("fetch_refund", "GET", f"/refunds/{identity}", credentials)
            return _asked(_refunded(answer, query.payment))
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    def check_payout(self, order: PayoutOrder) -> None:
        currency, destination = order.amount.currency, order.destination
        if currency not in BANK_COUNTRIES and currency not in OPERATORS:
            raise OrderNotAcceptable("/currency", f"Flutterwave does not send {currency} from here.")
        if destination.type is DestinationType.MOBILE_MONEY:
            _check_wallet(currency, destination)
        else:
            _check_account(currency, destination)
        if currency != "NGN" and not destination.account_name:
            raise OrderNotAcceptable("/destination/account_name", "Flutterwave requires the receiver's name.")

    async def pay_out(self, order: PayoutOrder, credentials: FlutterwaveCredentials) -> Result:
        try:
            answer = await self._send("pay_out", "POST", "/transfers", credentials, _transfer_body(order))
            return _transferred(answer, order.reference)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch_payout(self, query: Query, credentials: FlutterwaveCredentials) -> Result:
        """By the transfer's number, else by our reference. Whether a list names a transfer at once is documented nowhere."""
        known = _numbers(query)
        path = f"/transfers/{known[-1]}" if known else "/transfers?" + urlencode({"reference": query.reference})
        try:
            answer = await self._send("fetch_payout", "GET", path, credentials)
            found = _transferred(answer, query.reference) if known else _transfer_listed(answer, query.reference)
            return _asked(found)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    async def banks(self, currency: str, credentials: FlutterwaveCredentials) -> Sequence[Bank]:
        operators = OPERATORS.get(currency, {})
        wallets = [Bank(code, name, currency, DestinationType.MOBILE_MONEY) for code, name in operators.items()]
        country = BANK_COUNTRIES.get(currency)
        if country is None and not wallets:
            raise LookupFailed(NO_TRANSFERS)
        if country is None:
            return wallets
        body = await self._look_up("banks", "GET", f"/banks/{country}", credentials)
        listed = [_bank(item, currency) for item in _rows(body)]
        return [bank for bank in listed if bank is not None and bank.code not in operators] + wallets

    async def resolve_account(self, destination: Destination, credentials: FlutterwaveCredentials) -> AccountHolder:
        account, bank = destination.account_number, destination.bank_code
        if destination.type is not DestinationType.BANK_ACCOUNT or not account or not bank:
            raise LookupFailed(NO_LOOKUP)
        body = {"account_number": account, "account_bank": bank}
        data = (await self._look_up("resolve_account", "POST", "/accounts/resolve", credentials, body)).get("data")
        name = _word(data.get("account_name")) if isinstance(data, dict) else ""
        if not name:
            raise LookupFailed
        return AccountHolder(name, account, bank)

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
        known = _numbers(query)
        found = Result(Verdict.NOT_FOUND)
        if known:
            found = _verified(await self._send("fetch", "GET", f"/transactions/{known[-1]}/verify", credentials))
            if found.verdict is Verdict.UNKNOWN:
                return found
        if found.reference != query.reference or found.verdict is Verdict.DECLINED:
            path = "/transactions/verify_by_reference?" + urlencode({"tx_ref": query.reference})
            found = _verified(await self._send("fetch", "GET", path, credentials))
        if found.verdict is Verdict.NOT_FOUND and known:
            return replace(found, expirable=False)  # it told of one before: the key may be another's
        if found.verdict is not Verdict.DECLINED and (found.verdict is not Verdict.PROCESSING or _marks(query)):
            return found
        # Documented nowhere: which of several tries this is. Another may have been paid, also while one is left pending (a
        # transfer that the customer gave up for a card). A direct charge is one try.
        path = "/transactions?" + urlencode({"tx_ref": query.reference, "status": "successful"})
        return _paid_beside(found, await self._send("fetch", "GET", path, credentials), query.reference)

    async def _charge(
        self,
        order: CollectOrder,
        details: PaymentDetails,
        return_url: str | None,
        ends_at: datetime,
        credentials: FlutterwaveCredentials,
    ) -> Result:
        kind = CHARGES[order.amount.currency, order.method]
        body = _charge_body(order, details, kind, return_url)
        try:
            answer = await self._send("collect", "POST", f"/charges?type={kind}", credentials, body)
            return _untold(_charged(answer, order, ends_at), details.account_number)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def _find_refund(self, query: RefundQuery, credentials: FlutterwaveCredentials) -> Result:
        """Among all refunds since the order, because the list knows no other filter."""
        found: list[Mapping[str, Any]] = []
        days = {"from": query.created_at - timedelta(days=1), "to": self._clock() + timedelta(days=1)}
        for page in range(1, LIST_PAGES + 1):
            params = {name: f"{day:%Y-%m-%d}" for name, day in days.items()} | {"page": str(page)}
            answer = await self._send("fetch_refund", "GET", "/refunds?" + urlencode(params), credentials)
            body = _object(answer)
            if answer.status != 200 or body.get("status") != "success" or not isinstance(body.get("data"), list):
                return Result(Verdict.UNKNOWN, raw_status=f"{answer.status} {_message(body)}".strip())
            found += [item for item in _rows(body) if _may_be(item, query)]
            if page >= _pages(body):
                return _chosen(found, query)
        return Result(Verdict.UNKNOWN, raw_status="too many refunds to find it among them")

    async def _look_up(
        self,
        operation: str,
        method: str,
        path: str,
        credentials: FlutterwaveCredentials,
        body: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The answer to a question that moves nothing. LookupFailed."""
        try:
            answer = await self._send(operation, method, path, credentials, body)
            told_body = _object(answer)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            raise LookupFailed from error
        if answer.status == 200 and told_body.get("status") == "success":
            return told_body
        refused = _refused(answer.status, told_body).failure
        if refused is None and answer.status == 400 and operation == "resolve_account":
            refused = NO_ACCOUNT if told_body.get("status") == "error" else None
        raise LookupFailed(refused)

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


def _check_charge(order: CollectOrder, details: PaymentDetails) -> None:
    currency = order.amount.currency
    kind = CHARGES.get((currency, order.method))
    if kind is None:
        way = f"{order.method} in {currency}" if order.method else "an unnamed method"
        raise OrderNotAcceptable("/method", f"Flutterwave takes {way} on its page only, without payment_details.")
    phone = _digits(order.customer.phone)
    if order.method == "mobile_money" and not phone:
        raise OrderNotAcceptable("/customer/phone", "Flutterwave requires the phone number of the wallet.")
    if kind == "mobile_money_franco" and (currency, phone[:3]) not in FRANCO:
        raise OrderNotAcceptable("/customer/phone", f"Flutterwave takes no {currency} from this country's phones.")
    if kind in NETWORKS and not details.operator:
        raise OrderNotAcceptable("/payment_details/operator", "Flutterwave requires the wallet's network.")
    if kind in ("ussd", "debit_ng_account") and not details.bank_code:
        raise OrderNotAcceptable("/payment_details/bank_code", "Flutterwave requires the bank's code.")
    if kind == "debit_ng_account" and details.account_number is None:
        raise OrderNotAcceptable("/payment_details/account_number", "Flutterwave requires the account number.")


def _charge_body(order: CollectOrder, details: PaymentDetails, kind: str, return_url: str | None) -> dict[str, Any]:
    currency, phone = order.amount.currency, _digits(order.customer.phone)
    body: dict[str, Any] = {
        "tx_ref": order.reference,
        "amount": order.amount.decimal_text(),
        "currency": currency,
        "email": order.customer.email,
        "fullname": order.customer.name,
        "phone_number": phone,
        "redirect_url": return_url,
        "meta": {"transaction_id": str(order.transaction_id)},
    }
    if kind in ("ussd", "debit_ng_account"):
        body["account_bank"] = details.bank_code
    if kind == "debit_ng_account" and details.account_number is not None:
        body["account_number"] = details.account_number.get_secret_value()
    if kind == "bank_transfer":
        body["expires"] = int(SESSION_LIFE.total_seconds())
    if kind in NETWORKS and details.operator:
        # Tanzania's are written Airtel and Halopesa, the others MTN and VODAFONE.
        body["network"] = details.operator.capitalize() if currency == "TZS" else details.operator.upper()
    if kind in ORDER_IDS:
        body["order_id"] = order.reference
    if kind == "mobile_money_franco":
        body["country"] = FRANCO[currency, phone[:3]]
    return {name: value for name, value in body.items() if value}


def _charged(answer: Answer, order: CollectOrder, ends_at: datetime) -> Result:
    """The answer to a direct charge."""
    if answer.status == 429:
        return Result(Verdict.REFUSED, raw_status="429", failure=TOO_MANY)
    body = _object(answer)
    if answer.status != 200 or body.get("status") != "success":
        return _refused(answer.status, body)
    data, asked = _inner(body, "data"), _authorization(body)
    found = replace(_result(data), session_open=False) if data else Result(Verdict.PROCESSING, _message(body))
    if data and found.reference != order.reference:
        return Result(Verdict.UNKNOWN, raw_status="another reference")
    if found.verdict is not Verdict.PROCESSING:
        return found
    flw_ref = _word(data.get("flw_ref")) or _word(asked.get("transfer_reference"))
    mode, action = _word(asked.get("mode")), _action(order, data, asked, ends_at)
    if action is None and (mode or not data):
        return replace(found, verdict=Verdict.UNKNOWN, raw_status=mode or "neither data nor a next step")
    mark = (AWAITING if action else SUBMITTED) + (flw_ref or order.reference)
    return replace(
        found,
        verdict=Verdict.REQUIRES_ACTION if action else Verdict.PROCESSING,
        provider_references=(*found.provider_references, mark),
        next_action=action,
        session_ends_at=ends_at,
    )


def _authorization(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Beside `data`, or within."""
    return _inner(_inner(body, "meta"), "authorization") or _inner(
        _inner(_inner(body, "data"), "meta"), "authorization"
    )


def _action(
    order: CollectOrder, data: Mapping[str, Any], asked: Mapping[str, Any], ends_at: datetime
) -> NextAction | None:
    """What the customer does next; None for a mode that is not listed, or says too little. `pin` is for cards."""
    mobile = order.method == "mobile_money"
    match _word(asked.get("mode")):
        case "redirect":
            url = web_address(asked.get("redirect")) or web_address(data.get("auth_url"))
            return NextAction(ActionType.REDIRECT, url=url, expires_at=ends_at) if url else None
        case "otp" if _word(data.get("flw_ref")):
            text = _word(asked.get("validate_instructions")) or "Enter the code that your bank has sent to you."
            return NextAction(ActionType.OTP, display_text=text)
        case "ussd" if code := _word(asked.get("note"), 60):
            text = f"Dial {code} to pay."
            return NextAction(ActionType.USSD, display_text=text, fields={"code": code}, expires_at=ends_at)
        case "banktransfer":
            return _account_to_pay(order, asked, ends_at)
        case "callback" | "" if mobile and data:
            text = f"Confirm the payment of {order.amount.currency} {order.amount.decimal_text()} on your phone."
            return NextAction(ActionType.HANDSET_PROMPT, display_text=text, expires_at=ends_at)
        case _:
            return None


def _account_to_pay(order: CollectOrder, asked: Mapping[str, Any], ends_at: datetime) -> NextAction | None:
    """With `transfer_amount` as told: it holds the fee where the customer bears it."""
    currency = order.amount.currency
    fields = {"account_number": _word(asked.get("transfer_account")), "bank_name": _word(asked.get("transfer_bank"))}
    if not all(fields.values()):
        return None
    due = major_units(asked.get("transfer_amount"), currency).decimal_text()
    text = f"Transfer exactly {currency} {due} to account {fields['account_number']} at {fields['bank_name']}."
    return NextAction(
        ActionType.TRANSFER,
        display_text=text,
        fields=fields | {"amount": due, "currency": currency},
        expires_at=ends_at,
    )


def _untold(result: Result, given: SecretStr | None) -> Result:
    """A message may repeat what it refuses, and that is kept nowhere."""
    secret = given.get_secret_value() if given else ""
    failure, action = result.failure, result.next_action
    if secret and action is not None and action.display_text:
        result = replace(result, next_action=replace(action, display_text=action.display_text.replace(secret, "***")))
    if not secret or secret not in f"{result.raw_status} {failure.provider_code if failure else ''}":
        return result
    return replace(result, raw_status="", failure=Failure(failure.code, failure.message) if failure else None)


def _without_page(result: Result, query: Query) -> Result:
    """Of a direct charge: a failure ends it, and while it is pending the customer has to act, if we were told so."""
    marks = _marks(query)
    if not marks:
        return result
    if result.verdict is Verdict.PROCESSING and all(_awaits(text) for text in marks):
        return replace(result, verdict=Verdict.REQUIRES_ACTION)
    return replace(result, session_open=False)


def _marks(query: Query) -> list[str]:
    """What only a direct charge leaves."""
    return [text for text in query.provider_references if text.startswith((AWAITING, SUBMITTED))]


def _awaits(text: str) -> bool:
    return text.startswith(AWAITING)


def _validated(answer: Answer, query: Query, flw_ref: str) -> Result:
    """The answer to an OTP."""
    if answer.status == 429:
        return Result(Verdict.REFUSED, raw_status="429", failure=TOO_MANY)
    body = _object(answer)
    data = _inner(body, "data")
    if answer.status != 200 or body.get("status") != "success" or not data:
        return _refused(answer.status, body)
    found = replace(_result(data), session_open=False)
    if found.reference != query.reference:
        return Result(Verdict.UNKNOWN, raw_status="another reference")
    mark = SUBMITTED + flw_ref
    return replace(found, provider_references=(*found.provider_references, mark))


def _refunded(answer: Answer, payment: Query) -> Result:
    """The answer about one refund."""
    if answer.status == 429:
        return Result(Verdict.REFUSED, raw_status="429", failure=TOO_MANY)
    body = _object(answer)
    data = _inner(body, "data")
    if answer.status != 200 or body.get("status") != "success" or not data:
        return _refused(answer.status, body)
    return _refund(data, payment)


def _refund(data: Mapping[str, Any], payment: Query) -> Result:
    """A refund of our payment, whose currency it is in. Unreadable without an amount."""
    status, identity = _word(data.get("status")), number(data.get("id"))
    verdict, disbursed = REFUNDS.get(status, Verdict.UNKNOWN), _inner(data, "meta").get("disburse_status")
    if identity is None or str(data.get("tx_id")) not in _numbers(payment):
        return Result(Verdict.UNKNOWN, raw_status="a refund of another transaction")
    if verdict is Verdict.COMPLETED and disbursed not in (None, "successful"):
        verdict = Verdict.UNKNOWN
    return Result(
        verdict,
        raw_status=status,
        provider_references=(str(identity),),
        requested=major_units(data.get("amount_refunded"), payment.amount.currency),
        failure=told(REFUND_FAILED, status) if verdict is Verdict.DECLINED else None,
    )


def _may_be(data: Mapping[str, Any], query: RefundQuery) -> bool:
    """Whether a listed refund can be the one that is looked for: of this payment, this amount, not older, not another's."""
    try:
        found = _refund(data, query.payment)
        created_at = datetime.fromisoformat(_word(data.get("created_at")))
        early = created_at < query.created_at - SKEW
    except (Unreadable, ValueError, TypeError):
        return False
    fresh = found.provider_references and found.provider_references[0] not in query.taken
    return bool(fresh) and found.requested == query.amount and not early


def _chosen(found: Sequence[Mapping[str, Any]], query: RefundQuery) -> Result:
    """The one whose comment names our reference, where comments are told; else the oldest."""
    named = [item for item in found if query.reference in _word(item.get("comments"), 500)]
    for item in sorted(named or found, key=lambda item: number(item.get("id")) or 0):
        return _refund(item, query.payment)
    return Result(Verdict.UNKNOWN, raw_status="not listed")


def _check_account(currency: str, destination: Destination) -> None:
    if currency not in BANK_COUNTRIES:
        raise OrderNotAcceptable("/destination/type", f"Flutterwave sends {currency} from here to mobile money only.")
    if not destination.bank_code:
        raise OrderNotAcceptable("/destination/bank_code", "Flutterwave requires the bank's code.")
    if not destination.account_number:
        raise OrderNotAcceptable("/destination/account_number", "Flutterwave requires the account number.")


def _check_wallet(currency: str, destination: Destination) -> None:
    if currency not in OPERATORS:
        raise OrderNotAcceptable("/destination/type", f"Flutterwave sends {currency} to bank accounts only.")
    if not _digits(destination.phone):
        raise OrderNotAcceptable("/destination/phone", "Flutterwave requires the phone number of the wallet.")
    if _operator(currency, destination) not in OPERATORS[currency]:
        names = ", ".join(OPERATORS[currency])
        raise OrderNotAcceptable("/destination/bank_code", f"Flutterwave requires the operator: {names}.")


def _operator(currency: str, destination: Destination) -> str:
    """Its code, which need not be named where there is but one."""
    only = next(iter(OPERATORS[currency])) if len(OPERATORS[currency]) == 1 else ""
    return destination.bank_code or only


def _transfer_body(order: PayoutOrder) -> dict[str, Any]:
    currency, destination = order.amount.currency, order.destination
    wallet = destination.type is DestinationType.MOBILE_MONEY
    body = {
        "account_bank": _operator(currency, destination) if wallet else destination.bank_code,
        "account_number": _digits(destination.phone) if wallet else destination.account_number,
        "amount": _number(order.amount),
        "currency": currency,
        "debit_currency": currency,
        "reference": order.reference,
        "narration": (order.description or "Payout")[:100],
        "beneficiary_name": destination.account_name,
    }
    return {name: value for name, value in body.items() if value}


def _transferred(answer: Answer, reference: str) -> Result:
    """The answer about one transfer."""
    if answer.status == 429:
        return Result(Verdict.REFUSED, raw_status="429", failure=TOO_MANY)
    body = _object(answer)
    data = _inner(body, "data")
    if answer.status != 200 or body.get("status") != "success" or not data:
        return _refused(answer.status, body, TRANSFER_REFUSALS)
    found = _transfer(data)
    return found if found.reference == reference else Result(Verdict.UNKNOWN, raw_status="another reference")


def _transfer_listed(answer: Answer, reference: str) -> Result:
    body = _object(answer)
    if answer.status != 200 or body.get("status") != "success":
        return Result(Verdict.UNKNOWN, raw_status=f"{answer.status} {_message(body)}".strip())
    ours = [item for item in _rows(body) if item.get("reference") == reference]
    return _transfer(ours[0]) if len(ours) == 1 else Result(Verdict.UNKNOWN, raw_status="not listed")


def _transfer(data: Mapping[str, Any]) -> Result:
    """A transfer, from any answer or an event. Unreadable where money has no amount."""
    status, identity = _word(data.get("status")), number(data.get("id"))
    verdict, why = TRANSFERS.get(status, Verdict.UNKNOWN), _word(data.get("complete_message"))
    if verdict is Verdict.PROCESSING and (data.get("requires_approval"), data.get("is_approved")) == (1, 0):
        verdict = Verdict.REQUIRES_ACTION  # in the dashboard
    requested = major_units(data.get("amount"), data.get("currency")) if verdict is Verdict.COMPLETED else None
    return Result(
        verdict,
        raw_status=status,
        reference=_word(data.get("reference")) or None,
        provider_references=(str(identity),) if identity is not None else (),
        requested=requested,
        fee=_fee(data.get("fee"), requested, None) if requested else None,
        failure=told(TRANSFER_DECLINES.get(_folded(why), TRANSFER_FAILED), why)
        if verdict is Verdict.DECLINED
        else None,
    )


def _asked(result: Result) -> Result:
    """A question that was refused says nothing of what was asked about."""
    if result.verdict is not Verdict.REFUSED:
        return result
    return Result(Verdict.UNKNOWN, raw_status=result.raw_status)


def _bank(item: Mapping[str, Any], currency: str) -> Bank | None:
    code, name = _word(item.get("code"), 20), _word(item.get("name"))
    return Bank(code, name, currency) if code and name else None


def _refused(status: int, body: Mapping[str, Any], table: Mapping[tuple[int, str], Failure] = REFUSALS) -> Result:
    message = _message(body)
    failure = table.get((status, _folded(message)))
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


def _paid_beside(found: Result, answer: Answer, reference: str) -> Result:
    """The successful try among those of this reference; else what was found, a decline proven final by an empty list."""
    body = _object(answer)
    listed = body.get("data")
    if answer.status != 200 or body.get("status") != "success" or not isinstance(listed, list):
        return found
    tries = [item if isinstance(item, dict) else {} for item in listed]
    for data in tries:
        if data.get("tx_ref") == reference and STATUSES.get(_word(data.get("status"))) is Verdict.COMPLETED:
            return _result(data)
    # Others' in the list: it was not narrowed to ours, and ours may stand on another page.
    narrowed = all(data.get("tx_ref") == reference for data in tries)
    return replace(found, expirable=narrowed and found.verdict is Verdict.DECLINED)


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
    """News that moves nothing keeps its references, so that it is found by them."""
    if not isinstance(body, dict):
        raise Unreadable("not an object")
    if "event" not in body and "AmountRefunded" in body:
        return _refund_event(f"refund.{_word(body.get('status')) or 'unknown'}", body)
    name, data = _word(body.get("event")) or _word(body.get("type")), body.get("data")  # v4 says type, and reference
    if not name:
        raise Unreadable("an event without a name")
    fields = data if isinstance(data, dict) else {}
    operation = OPERATIONS.get(name.partition(".")[0], Operation.COLLECT)
    if operation is Operation.REFUND:
        return _refund_event(name, fields)
    found = (_word(fields.get("tx_ref")), _word(fields.get("reference")))
    if name == "charge.completed" and not any(found):
        raise Unreadable(f"{name} without a tx_ref")
    moving = {"charge.completed": _result, "transfer.completed": _transfer}.get(name)
    identity = number(fields.get("id"))
    return ProviderEvent(
        type=name,
        trust=Trust.CONFIRM,
        operation=operation,
        references=tuple(dict.fromkeys(text for text in found if text)),
        provider_references=(str(identity),) if moving and identity is not None else (),
        result=moving(fields) if moving else None,
    )


def _refund_event(name: str, body: Mapping[str, Any]) -> ProviderEvent:
    """It names the transaction by its number alone, and no currency. The envelope is what others have seen."""
    status, identity = _word(body.get("status")), number(body.get("id"))
    payment = body.get("TransactionId", body.get("tx_id"))
    ours, theirs = _word(body.get("tx_ref")), number(payment)
    verdict = REFUNDS.get(status, Verdict.UNKNOWN)
    known = (str(identity),) if identity is not None else ()
    return ProviderEvent(
        type=name,
        trust=Trust.CONFIRM,
        operation=Operation.REFUND,
        provider_references=known,
        payment_references=tuple(text for text in (ours, str(theirs) if theirs is not None else "") if text),
        result=Result(
            verdict,
            raw_status=status,
            provider_references=known,
            failure=told(REFUND_FAILED, status) if verdict is Verdict.DECLINED else None,
        ),
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


def _inner(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    return value if isinstance(value, dict) else {}


def _rows(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = body.get("data")
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _pages(body: Mapping[str, Any]) -> int:
    return number(_inner(_inner(body, "meta"), "page_info").get("total_pages")) or 1


def _numbers(query: Query) -> tuple[str, ...]:
    """Flutterwave's own numbers among what is known, the latest last."""
    return tuple(item for item in query.provider_references if number(item) is not None)


def _number(money: Money) -> orjson.Fragment:
    """5500 or 5500.5: an exact JSON number."""
    text = money.decimal_text()
    return orjson.Fragment(text.rstrip("0").rstrip(".") if "." in text else text)


def _digits(phone: str | None) -> str:
    return (phone or "").removeprefix("+")


def _message(body: Mapping[str, Any]) -> str:
    return _word(body.get("message"))


def _word(value: Any, limit: int = 200) -> str:
    """A message may repeat the key it refuses."""
    return SECRET_KEY.sub("FLWSECK_***", word(value, limit))


def _folded(message: str) -> str:
    return message.strip().rstrip(".").lower()
