"""M-Pesa through Safaricom's Daraja: a prompt on the customer's handset, "STK push" (developer.safaricom.co.ke), and with an
initiator also payouts (B2C v3) and refunds (Reversal). Payments a customer starts alone (C2B) are told too.

- Whole Kenyan shillings only. No idempotency: a push that timed out has no id to ask with, so it stays unknown until its
  callback comes to the attempt's own URL.
- A token error is 400, 401 or 404 by product, so it is known by its code. It refuses before anything happens: one retry.
- A new token may end the older one, hence one token and one renewal at a time for each set of credentials.
- `500.001.1001` says five different things: the message decides. About a query it decides nothing.
- A query tells neither amount nor receipt. Its CheckoutRequestID was opened for our amount, and binds it.
- Callbacks carry no signature and do not name our reference: the URL's token finds the attempt, the query confirms.
  Refused there are URLs that hold `mpesa`, `safaricom`, `exe`, `cmd`, `sql`, `query`.
- `ResultCode` is a number in the callback and text in the query; `Balance` comes without a `Value`.

Payouts and refunds:

- They are only acknowledged; the result comes once to ResultURL, unsigned, and no synchronous query exists. So the URL's
  token is the proof. Transaction Status answers there as well, which is the verdict `asked`.
- A payout's OriginatorConversationID is our reference, and refused when used twice: the first one stands, so that is
  unknown. Its alphabet and length are written nowhere; Safaricom's example is letters, digits and `_`.
- Results of payouts, refunds and status questions have one shape. A status question that failed must not pass for a payout
  that failed: what nothing in the body tells apart moves nothing, and unlisted codes are unknown.
- The queue's timeout is documented without a body, and means that nobody knows. So it has an address of its own, where even
  the body of a failure only makes us ask.
- Whether a part can be reversed is written nowhere, so only the whole is. A reversal needs the payment's receipt.
- `RecieverIdentifierType`, `Occassion`, `OriginatorCoversationID` are spelled so; `InitiatorName` is `Initiator` elsewhere.
- The SecurityCredential is the initiator's password under Safaricom's RSA key, padded by PKCS #1 v1.5. The certificates are
  long expired and still in use, so dates are not looked at.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from payflow.core.clock import Clock
from payflow.core.money import Money, MoneyError
from payflow.gateway.contract import (
    ACCOUNT_REFERENCE_LENGTH,
    HINT_MARK,
    ActionType,
    CollectOrder,
    Declaration,
    DestinationType,
    Failure,
    NextAction,
    Operation,
    OrderNotAcceptable,
    PayoutOrder,
    ProviderEvent,
    Query,
    RefundOrder,
    RefundQuery,
    Result,
    Trust,
    ValidationRequest,
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
MIN_PAYOUT_SHILLINGS = 10
PROMPT_LIFE = timedelta(minutes=3)
NAIROBI = timezone(timedelta(hours=3))  # no daylight saving since 1942
PHONE = re.compile(r"(?:\+?254|0)?([17][0-9]{8})")
OURS = re.compile(r"[a-z][a-z0-9]{15,39}")  # Daraja's own conversation ids hold `-` or `_`
FORBIDDEN_IN_URLS = re.compile(r"m-?pesa|safaricom|exe|cmd|sql|query", re.IGNORECASE)
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

ALREADY_REGISTERED = Failure("already_registered", "URLs are registered; delete them on the portal first.")
BAD_RECEIVER = Failure("invalid_recipient", "This phone number cannot receive money by M-Pesa.")
NO_FUNDS = Failure("insufficient_funds", "The M-Pesa account of the business does not hold enough money.")
NOT_ACTIVE = Failure("account_inactive", "An M-Pesa account of this transfer is not active.")
NOT_MADE = Failure("declined", "M-Pesa did not make this transfer.")

# As above, for the APIs with an initiator. "System is busy" is left out: money may be on its way.
INITIATOR_REFUSALS = (
    ("400.002.02", "invalid partyb", BAD_RECEIVER),
    ("400.002.02", "invalid partya", SETUP),
    ("400.002.02", "invalid initiator", NO_ACCESS),
    ("400.002.02", "invalid securitycredential", NO_ACCESS),
    ("400.002.02", "invalid receiverparty", SETUP),
    ("400.002.02", "invalid resulturl", SETUP),
    ("400.002.02", "invalid queuetimeouturl", SETUP),
    *(line for line in REFUSALS if line[1] != "system is busy"),
)
REGISTRATION_REFUSALS = (
    ("500.003.1001", "urls are already registered", ALREADY_REGISTERED),
    ("400.002.02", "invalid", SETUP),
    *REFUSALS,
)

PAYOUT_RESULTS: dict[str, tuple[Verdict, Failure | None]] = {
    "0": (Verdict.COMPLETED, None),
    "1": (Verdict.DECLINED, NO_FUNDS),
    "2": (Verdict.DECLINED, LIMIT),
    "3": (Verdict.DECLINED, LIMIT),
    "4": (Verdict.DECLINED, LIMIT),
    "8": (Verdict.DECLINED, LIMIT),
    "11": (Verdict.DECLINED, NOT_ACTIVE),
    "21": (Verdict.DECLINED, NO_ACCESS),
    "2001": (Verdict.DECLINED, NO_ACCESS),
    "2006": (Verdict.DECLINED, NOT_ACTIVE),
    "2028": (Verdict.DECLINED, SETUP),
    "2040": (Verdict.DECLINED, BAD_RECEIVER),
    "8006": (Verdict.DECLINED, NO_ACCESS),
    "100000000": (Verdict.PROCESSING, None),  # cached, to be sent again
    "SFC_IC0003": (Verdict.DECLINED, BAD_RECEIVER),
}
# R000001 moved nothing by this order: somebody had reversed the payment before, here or on the portal.
REFUND_RESULTS: dict[str, tuple[Verdict, Failure | None]] = {
    "0": (Verdict.COMPLETED, None),
    "1": (Verdict.DECLINED, NO_FUNDS),
    "11": (Verdict.DECLINED, NOT_ACTIVE),
    "21": (Verdict.DECLINED, NO_ACCESS),
    "2001": (Verdict.DECLINED, NO_ACCESS),
    "2006": (Verdict.DECLINED, NOT_ACTIVE),
    "2028": (Verdict.DECLINED, SETUP),
    "8006": (Verdict.DECLINED, NO_ACCESS),
    "100000000": (Verdict.PROCESSING, None),
    "R000001": (Verdict.DECLINED, Failure("already_refunded", "M-Pesa has already reversed this payment.")),
    "R000002": (Verdict.DECLINED, Failure("payment_not_found", "M-Pesa does not know this payment.")),
}
# What Transaction Status says of a transaction. ResultCode 0 there only means that the question succeeded.
STATUSES: dict[str, tuple[Verdict, Failure | None]] = {
    "Completed": (Verdict.COMPLETED, None),
    "Cancelled": (Verdict.DECLINED, NOT_MADE),
    "Declined": (Verdict.DECLINED, NOT_MADE),
    "Expired": (Verdict.DECLINED, NOT_MADE),
    "Initiated": (Verdict.PROCESSING, None),
    "Authorized": (Verdict.PROCESSING, None),
    "Pending Authorized": (Verdict.PROCESSING, None),
}


class MpesaCredentials(BaseModel):
    """For a till, `shortcode` is the store number and `till_number` what the customer knows; a pay bill has only the first.

    Payouts and refunds need an initiator: `initiator_name`, and either `initiator_password` with Safaricom's `certificate` for
    the environment (PEM, the line breaks may be missing), or the `security_credential` that the portal makes of them.
    `payout_shortcode` where money goes out from another one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    consumer_key: SecretStr = Field(min_length=1)
    consumer_secret: SecretStr = Field(min_length=1)
    passkey: SecretStr = Field(min_length=1)
    shortcode: str = Field(pattern=r"^[0-9]{5,7}$")
    transaction_type: Literal["CustomerPayBillOnline", "CustomerBuyGoodsOnline"] = "CustomerPayBillOnline"
    till_number: str | None = Field(default=None, pattern=r"^[0-9]{5,7}$")
    payout_shortcode: str | None = Field(default=None, pattern=r"^[0-9]{5,7}$")
    initiator_name: str | None = Field(default=None, min_length=1, max_length=100)
    initiator_password: SecretStr | None = Field(default=None, min_length=1)
    certificate: str | None = Field(default=None, min_length=1)
    security_credential: SecretStr | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _whole_initiator(self) -> Self:
        secrets = (self.initiator_password, self.certificate, self.security_credential)
        given = [value is not None for value in secrets]
        if self.initiator_name is None and not any(given):
            return self
        if self.initiator_name is None or given not in ([True, True, False], [False, False, True]):
            raise ValueError("initiator_name goes with initiator_password and certificate, or with security_credential")
        _security_credential(self)
        return self


class Mpesa:
    declaration: ClassVar[Declaration] = DECLARATION
    CredentialsModel: ClassVar[type[BaseModel]] = MpesaCredentials

    def __init__(self, http: ProviderHttp, base_url: str, clock: Clock) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._clock = clock
        self._tokens = TokenCache(clock)

    def check(self, order: CollectOrder) -> None:
        _check_currency(order.amount)
        if order.method is not None and order.method not in DECLARATION.methods:
            raise OrderNotAcceptable("/method", f"M-Pesa does not offer {order.method}.")
        if _msisdn(order.customer.phone) is None:
            raise OrderNotAcceptable("/customer/phone", "M-Pesa requires a Kenyan mobile number (+2547… or +2541…).")
        _check_shillings(order.amount, 1)

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

    def check_payout(self, order: PayoutOrder) -> None:
        _check_currency(order.amount)
        if order.destination.type is not DestinationType.MOBILE_MONEY:
            raise OrderNotAcceptable("/destination/type", "M-Pesa sends to mobile money only.")
        if _msisdn(order.destination.phone) is None:
            raise OrderNotAcceptable("/destination/phone", "M-Pesa requires a Kenyan mobile number (+2547… or +2541…).")
        _check_shillings(order.amount, MIN_PAYOUT_SHILLINGS)

    async def pay_out(self, order: PayoutOrder, credentials: MpesaCredentials) -> Result:
        body = {
            "OriginatorConversationID": order.reference,
            "InitiatorName": credentials.initiator_name,
            "CommandID": "BusinessPayment",
            "Amount": order.amount.to_provider(EXPONENTS),
            "PartyA": credentials.payout_shortcode or credentials.shortcode,
            "PartyB": _msisdn(order.destination.phone),
            "Remarks": _remarks(order.description, "Payout"),
            "Occassion": "Payout",
        }
        return await self._instruct("pay_out", "/mpesa/b2c/v3/paymentrequest", credentials, body, order.callback_url)

    async def fetch_payout(self, query: Query, credentials: MpesaCredentials) -> Result:
        """By the conversation id, which for a payout is our reference, so that it can be asked after a lost answer too."""
        conversation = next(iter(query.provider_references), query.reference)
        shortcode = credentials.payout_shortcode or credentials.shortcode
        return await self._ask("fetch_payout", credentials, conversation, shortcode, query.callback_url)

    def check_refund(self, order: RefundOrder) -> None:
        _check_currency(order.amount)
        if order.receipt is None:
            raise OrderNotAcceptable("", "M-Pesa refunds by the payment's receipt, which is not known yet.")
        if not order.whole:
            raise OrderNotAcceptable("/amount", "M-Pesa gives back whole payments only.")
        _check_shillings(order.amount, 1)

    async def refund(self, order: RefundOrder, credentials: MpesaCredentials) -> Result:
        body = {
            "Initiator": credentials.initiator_name,
            "CommandID": "TransactionReversal",
            "TransactionID": order.receipt,
            "Amount": order.amount.to_provider(EXPONENTS),
            "ReceiverParty": credentials.shortcode,
            "RecieverIdentifierType": "11",
            "Remarks": _remarks(order.reason, "Refund"),
        }
        return await self._instruct("refund", "/mpesa/reversal/v1/request", credentials, body, order.callback_url)

    async def fetch_refund(self, query: RefundQuery, credentials: MpesaCredentials) -> Result:
        """A reversal has no name of ours: without its conversation id there is nothing to ask with."""
        if not query.provider_references:
            return Result(Verdict.UNKNOWN, raw_status="no OriginatorConversationID")
        conversation, shortcode = query.provider_references[0], credentials.shortcode
        return await self._ask("fetch_refund", credentials, conversation, shortcode, query.callback_url)

    async def register_c2b_urls(
        self,
        confirmation_url: str,
        validation_url: str,
        credentials: MpesaCredentials,
        *,
        when_silent: str = "Completed",
    ) -> Result:
        """Where payments are told that customers start alone. Live, this can be done once; then only on the portal.

        `when_silent`, `Completed` or `Cancelled`, is what M-Pesa does with a payment whose validation we don't answer.
        """
        if any(FORBIDDEN_IN_URLS.search(url) for url in (confirmation_url, validation_url)):
            return Result(Verdict.REFUSED, raw_status="a word that Daraja forbids in URLs", failure=SETUP)
        body = {
            "ShortCode": credentials.shortcode,
            "ResponseType": when_silent,
            "ConfirmationURL": confirmation_url,
            "ValidationURL": validation_url,
        }
        try:
            answer = await self._send("register_c2b_urls", "/mpesa/c2b/v2/registerurl", credentials, body)
        except NoToken as refusal:
            return Result(refusal.verdict, raw_status=refusal.status, failure=refusal.failure)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)
        if answer.status == 200 and _code(object_or_nothing(answer).get("ResponseCode")) == "0":
            return Result(Verdict.COMPLETED, raw_status="0")
        return _refused(answer, REGISTRATION_REFUSALS)

    def verify_webhook(self, request: WebhookRequest, credentials: Sequence[MpesaCredentials]) -> None:
        """Daraja signs nothing. The token in the path was checked before; of a prompt, the query decides."""

    def translate(self, request: WebhookRequest) -> Sequence[ProviderEvent]:
        try:
            body = _json(request)
            if "Result" in body:
                return [_result_event(body["Result"])]
            if "TransID" in body:
                return [_confirmation(body)]
            if _conversation(body):
                return [_timeout(body)]
            return [_event(body["Body"]["stkCallback"])]
        except (ValueError, ArithmeticError, RecursionError, KeyError, TypeError, Unreadable) as error:
            raise WebhookMalformed(f"no readable callback: {type(error).__name__}") from None

    def read_validation(self, request: WebhookRequest) -> ValidationRequest | None:
        """A validation is a confirmation whose account balance is blank. Nothing else tells the two apart."""
        try:
            body = _json(request)
            if not _asks(body):
                return None
            return ValidationRequest(_c2b_amount(body), word(body.get("BillRefNumber")), _c2b_receipt(body))
        except (ValueError, ArithmeticError, RecursionError, TypeError, Unreadable) as error:
            raise WebhookMalformed(f"no readable validation: {type(error).__name__}") from None

    def answer_validation(self, request: WebhookRequest, accept: bool) -> bytes:
        if accept:
            return b'{"ResultCode":"0","ResultDesc":"Accepted"}'
        return b'{"ResultCode":"C2B00016","ResultDesc":"Rejected"}'

    async def _instruct(
        self, operation: str, path: str, credentials: MpesaCredentials, order: dict[str, Any], callback_url: str
    ) -> Result:
        """An order that is acknowledged now; what becomes of it, and that nobody knows, comes to the callback URL."""
        if credentials.initiator_name is None:
            return Result(Verdict.REFUSED, raw_status="no initiator", failure=SETUP)
        addresses = {"ResultURL": callback_url, "QueueTimeOutURL": callback_url + HINT_MARK}
        body = order | addresses | {"SecurityCredential": _security_credential(credentials)}
        try:
            answer = await self._send(operation, path, credentials, body)
        except NoToken as refusal:
            return Result(refusal.verdict, raw_status=refusal.status, failure=refusal.failure)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)
        if not _acknowledged(answer):
            return _refused(answer, INITIATOR_REFUSALS)
        ids = _conversation(object_or_nothing(answer))
        return Result(Verdict.PROCESSING, raw_status="0", provider_references=ids)

    async def _ask(
        self, operation: str, credentials: MpesaCredentials, conversation: str, shortcode: str, callback_url: str | None
    ) -> Result:
        """Transaction Status: asked, because the answer comes to the callback URL. Unknown when it could not be asked."""
        if credentials.initiator_name is None or callback_url is None:
            return Result(Verdict.UNKNOWN, raw_status="no initiator" if callback_url else "no URL for the answer")
        body = {
            "Initiator": credentials.initiator_name,
            "SecurityCredential": _security_credential(credentials),
            "CommandID": "TransactionStatusQuery",
            "OriginalConversationID": conversation,
            "PartyA": shortcode,
            "IdentifierType": "4",
            "ResultURL": callback_url,
            "QueueTimeOutURL": callback_url,
            "Remarks": "Status",
            "Occasion": "Status",
        }
        try:
            answer = await self._send(operation, "/mpesa/transactionstatus/v1/query", credentials, body)
        except (NoToken, NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))
        if _acknowledged(answer):
            return Result(Verdict.ASKED, raw_status="0")
        return Result(Verdict.UNKNOWN, raw_status=f"{answer.status} {_error(answer)[0]}".strip())

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
            "AccountReference": re.sub(r"[^A-Za-z0-9]", "", order.reference)[-ACCOUNT_REFERENCE_LENGTH:],
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


def _check_currency(amount: Money) -> None:
    if amount.currency not in DECLARATION.currencies:
        raise OrderNotAcceptable("/currency", "M-Pesa takes Kenyan shillings only.")


def _check_shillings(amount: Money, smallest: int) -> None:
    try:
        shillings = amount.to_provider(EXPONENTS)
    except MoneyError:
        raise OrderNotAcceptable("/amount", "M-Pesa takes whole shillings only.") from None
    if not smallest <= shillings <= MAX_SHILLINGS:
        raise OrderNotAcceptable("/amount", f"M-Pesa takes {smallest} to {MAX_SHILLINGS} shillings.")


def _security_credential(credentials: MpesaCredentials) -> str:
    """Base64. ValueError when the certificate or a precomputed one cannot be used; the words repeat no secret."""
    if credentials.security_credential is not None:
        given = credentials.security_credential.get_secret_value().strip()
        try:
            usable = len(base64.b64decode(given, validate=True)) in (128, 256, 512)
        except binascii.Error:
            usable = False
        if not usable:
            raise ValueError("security_credential is not the base64 of an RSA ciphertext")
        return given
    assert credentials.initiator_password is not None
    password, key = (
        credentials.initiator_password.get_secret_value().encode(),
        _public_key(credentials.certificate or ""),
    )
    if len(password) > key.key_size // 8 - 11:
        raise ValueError("initiator_password is too long for the certificate's key")
    return base64.b64encode(key.encrypt(password, PKCS1v15())).decode()


def _public_key(certificate: str) -> RSAPublicKey:
    """Of a PEM whose line breaks may have become spaces or a written \\n: a setting is one line."""
    inner = re.sub(r"-----[A-Z ]+-----|\\n|\s", "", certificate)
    try:
        key = x509.load_der_x509_certificate(base64.b64decode(inner, validate=True)).public_key()
    except ValueError:
        raise ValueError("certificate is not a readable X.509 certificate in PEM") from None
    if not isinstance(key, RSAPublicKey):
        raise ValueError("certificate does not hold an RSA key")
    return key


def _remarks(text: str | None, default: str) -> str:
    """2 to 100 characters."""
    kept = re.sub(r"[^A-Za-z0-9 ]", "", text or "")[:100].strip()
    return kept if len(kept) >= 2 else default


def _acknowledged(answer: Answer) -> bool:
    body = object_or_nothing(answer)
    return answer.status == 200 and _code(body.get("ResponseCode")) == "0" and len(_conversation(body)) == 2


def _conversation(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The one to ask with first."""
    found = (word(body.get("OriginatorConversationID")), word(body.get("ConversationID")))
    return tuple(text for text in found if text)


def _refused(answer: Answer, refusals: Sequence[tuple[str, str, Failure]] = REFUSALS) -> Result:
    code, message = _error(answer)
    raw_status = f"{answer.status} {code}".strip()
    if answer.status == 429:
        return Result(Verdict.REFUSED, raw_status=raw_status, failure=told(TOO_MANY, code))
    for known, words, failure in refusals:
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


def _result_event(outcome: Any) -> ProviderEvent:
    """What became of a payout, a reversal or a question. What is not final, or nothing tells apart, is mere news."""
    if not isinstance(outcome, dict):
        raise Unreadable("no result")
    ids, code, parameters = _conversation(outcome), _code(outcome.get("ResultCode")), _parameters(outcome)
    if not ids or not code:
        raise Unreadable("no ids or no result code")
    if "TransactionStatus" in parameters:
        return _status_event(code, parameters)
    operation = _operation(outcome, ids, code, parameters)
    if operation is None or _code(outcome.get("ResultType")) != "0":
        return ProviderEvent(type="result", trust=Trust.CAPABILITY, provider_references=ids)
    payout = operation is Operation.PAYOUT
    verdict, failure = (PAYOUT_RESULTS if payout else REFUND_RESULTS).get(code, (Verdict.UNKNOWN, None))
    amount = parameters.get("TransactionAmount" if payout else "Amount")
    receipt = word(parameters.get("TransactionReceipt")) or word(outcome.get("TransactionID"))
    original = word(parameters.get("OriginalTransactionID"))
    return _money_event(
        "b2c_result" if payout else "reversal_result",
        operation,
        ids,
        Result(
            verdict,
            raw_status=code,
            receipt=receipt or None if verdict is Verdict.COMPLETED else None,
            requested=major_units(amount, "KES") if verdict is Verdict.COMPLETED else None,
            failure=told(failure, code) if failure else None,
        ),
        payment=original,
    )


def _operation(
    outcome: Mapping[str, Any], ids: Sequence[str], code: str, parameters: Mapping[str, Any]
) -> Operation | None:
    """A failure has no parameters, but Daraja repeats its own address of the queue, and we name payouts alone."""
    address = _reference_data(outcome).lower()
    if "OriginalTransactionID" in parameters or code.startswith("R0") or "reversalresults" in address:
        return Operation.REFUND
    if "TransactionReceipt" in parameters or "b2cresults" in address or OURS.fullmatch(ids[0]):
        return Operation.PAYOUT
    return None


def _status_event(code: str, parameters: Mapping[str, Any]) -> ProviderEvent:
    """Of a refund only if it says that it speaks of a reversal: the payment itself is completed as well."""
    ids, reason = _conversation(parameters), word(parameters.get("ReasonType")).lower()
    if not ids:
        raise Unreadable("a status of nothing")
    status = word(parameters.get("TransactionStatus"))
    verdict, failure = STATUSES.get(status, (Verdict.UNKNOWN, None)) if code == "0" else (Verdict.UNKNOWN, None)
    payout = OURS.fullmatch(ids[0]) is not None or "payment to customer" in reason
    if not payout and "reversal" not in reason:
        return ProviderEvent(type="transaction_status", trust=Trust.CAPABILITY, provider_references=ids)
    completed = verdict is Verdict.COMPLETED
    result = Result(
        verdict,
        raw_status=status,
        receipt=word(parameters.get("ReceiptNo")) or None if completed else None,
        requested=major_units(parameters.get("Amount"), "KES") if completed else None,
        failure=told(failure, status) if failure else None,
    )
    return _money_event("transaction_status", Operation.PAYOUT if payout else Operation.REFUND, ids, result)


def _timeout(body: Mapping[str, Any]) -> ProviderEvent:
    """The queue gave up. M-Pesa may have acted or not."""
    ids = _conversation(body)
    operation = Operation.PAYOUT if OURS.fullmatch(ids[0]) else Operation.REFUND
    return _money_event("queue_timeout", operation, ids, Result(Verdict.UNKNOWN, raw_status="queue timeout"))


def _money_event(
    kind: str, operation: Operation, ids: tuple[str, ...], result: Result, payment: str = ""
) -> ProviderEvent:
    """Without a dedupe key: a body that came with another order's token must not make the genuine one a duplicate."""
    ours = ids[0] if OURS.fullmatch(ids[0]) else None
    return ProviderEvent(
        type=kind,
        trust=Trust.CAPABILITY,
        operation=operation,
        references=(ours,) if ours else (),
        provider_references=ids,
        payment_references=(payment,) if payment else (),
        result=replace(result, reference=ours, provider_references=ids),
    )


def _parameters(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """By name. One parameter may come without its list, and a value may be missing."""
    return _pairs(outcome.get("ResultParameters"), "ResultParameter")


def _reference_data(outcome: Mapping[str, Any]) -> str:
    return " ".join(word(value) for value in _pairs(outcome.get("ReferenceData"), "ReferenceItem").values())


def _pairs(holder: Any, name: str) -> dict[str, Any]:
    found = holder.get(name) if isinstance(holder, dict) else None
    items = found if isinstance(found, list) else [found]
    return {word(item.get("Key")): item.get("Value") for item in items if isinstance(item, dict)}


def _confirmation(body: Mapping[str, Any]) -> ProviderEvent:
    """Money that a customer sent alone. A validation that was queued instead of answered is for a person to look at."""
    if _asks(body):
        raise Unreadable("a validation request")
    receipt, account = _c2b_receipt(body), word(body.get("BillRefNumber"))
    return ProviderEvent(
        type="c2b.confirmation",
        trust=Trust.CAPABILITY,
        dedupe_key=f"c2b:{receipt}",
        references=(account,) if account else (),
        provider_references=(receipt,),
        result=Result(
            Verdict.COMPLETED,
            raw_status=word(body.get("TransactionType")),
            provider_references=(receipt,),
            receipt=receipt,
            paid=_c2b_amount(body),
        ),
        unordered=True,
    )


def _asks(body: Mapping[str, Any]) -> bool:
    return "TransID" in body and body.get("OrgAccountBalance") in (None, "")


def _c2b_amount(body: Mapping[str, Any]) -> Money:
    return major_units(body.get("TransAmount"), "KES")


def _c2b_receipt(body: Mapping[str, Any]) -> str:
    receipt = word(body.get("TransID"), 40)
    if not receipt:
        raise Unreadable("no TransID")
    return receipt


def _json(request: WebhookRequest) -> dict[str, Any]:
    body = json.loads(request.body, parse_float=Decimal, parse_constant=_no_constant)
    if not isinstance(body, dict):
        raise Unreadable("no JSON object")
    return body


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
