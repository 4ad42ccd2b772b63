"""Moniepoint through its web gateway Monnify: a hosted checkout, an account to transfer to, or a card by its number; refunds,
transfers out, banks (developers.monnify.com).

- Amounts are naira with two decimals, written as 100.00 and as "100.00" in one and the same answer.
- `responseCode` is text or a number, `requestSuccessful` may be false under HTTP 200. A 401 may also mean "not enabled for
  you": a token is renewed only where the words say that it has ended, and the order is then repeated once.
- The paymentReference is the one guard against a second charge. Refused as a duplicate, it may be our own first try: that
  is unknown, and the query by that same reference tells.
- While a payment is PENDING its amounts read "0.00". Afterwards nothing tells what we asked for, only what was paid: it has
  to be ours, or more by exactly what Monnify keeps. Too much or too little is told as paid, so that it is compared.
- A page and an account live 40 minutes. No failure is told by webhook but a transfer of a wrong amount, which goes back to
  the customer, who may try again.
- Webhooks have no id; their key is the secret key. The sandbox was seen to send none signed: test credentials may let such
  ones in, as hints to ask for.
- References hold `|`, which Monnify does not encode in the page's address itself.
- A card's charge, and its OTP, are answered without currency or fee, and PAID is SUCCESS there and SUCCESSFUL here: what was
  paid is told by the query alone. The answer repeats the number (`authData`), and the sandbox's names the OTP: no words of
  theirs are kept. PENDING is what the query says before and after, hence the two marks among the references.
- After 3-D Secure Monnify has a call that wants the card once more, which is gone by then: its redirect has to do.
- Refunds and transfers have no id of their own that can be asked by: our reference names them, and is refused a second time.
- Only payments by bank transfer can be refunded (R2), from the merchant's wallet, if Monnify has enabled it. The answer to a
  refund's order may say COMPLETED beside "in progress": only a query or a webhook is believed that the money is back.
- A payment that reads REFUNDED tells nothing new: refunds have events and a query of their own, and counting both would give
  the money back twice.
- A transfer may wait for a code that Monnify mails to the merchant. What a wrong code is answered with is documented nowhere,
  so that after any refusal the transfer itself is asked about.
- FAILED is not always the end of a transfer: beside some words (a timeout, a bank that is away) the money may still arrive.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import quote

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from payflow.core.clock import Clock
from payflow.core.money import Money
from payflow.gateway.contract import (
    AccountHolder,
    ActionType,
    Bank,
    CardDetails,
    CollectOrder,
    Declaration,
    Destination,
    DestinationType,
    Failure,
    LookupFailed,
    NextAction,
    Operation,
    OrderNotAcceptable,
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
from payflow.gateway.http import USER_AGENT, Answer, NotSent, OutcomeUnknown, ProviderHttp, Unreadable
from payflow.gateway.reading import (
    DECLINED,
    INVALID,
    NO_ACCESS,
    SETUP,
    TOO_MANY,
    UNREACHABLE,
    major_units,
    number,
    silence,
    told,
    web_address,
    word,
)
from payflow.gateway.signing import verify_hmac_hex
from payflow.gateway.tokens import NoToken, Token, TokenCache, basic

LOGIN = "/api/v1/auth/login"
INITIATE = "/api/v1/merchant/transactions/init-transaction"
OPEN_ACCOUNT = "/api/v1/merchant/bank-transfer/init-payment"
CHARGE_CARD = "/api/v1/merchant/cards/charge"
CARD_OTP = "/api/v1/merchant/cards/otp/authorize"
QUERY = "/api/v2/merchant/transactions/query"
REFUND = "/api/v1/refunds/initiate-refund"
REFUNDS = "/api/v1/refunds"
TRANSFER = "/api/v2/disbursements/single"
TRANSFER_OTP = "/api/v2/disbursements/single/validate-otp"
TRANSFER_QUERY = "/api/v2/disbursements/single/summary"
BANKS = "/api/v1/banks"
HOLDER = "/api/v1/disbursements/account/validate"

SESSION_LIFE = timedelta(minutes=40)
SMALLEST_REFUND = Money(10_000, "NGN")
# A call to Monnify ends within a minute. A refund that it does not know long after that was never made.
TRACELESS_AFTER = timedelta(minutes=15)
METHODS = {"card": "CARD", "bank_transfer": "ACCOUNT_TRANSFER", "ussd": "USSD"}
CHANNEL = "API_NOTIFICATION"
# Before the id that an OTP is given with, and before the reference of a card's charge that may be under way.
AWAITING, SUBMITTED = "awaiting:", "submitted:"
# Monnify requires that the customer's browser be described. We know of none, and make none up: this is what calls.
DEVICE = {
    "httpBrowserLanguage": "en",
    "httpBrowserJavaEnabled": False,
    "httpBrowserJavaScriptEnabled": False,
    "httpBrowserColorDepth": 24,
    "httpBrowserScreenHeight": 0,
    "httpBrowserScreenWidth": 0,
    "httpBrowserTimeDifference": "",
    "userAgentBrowserValue": USER_AGENT,
}
# What must not be repeated from a message: keys and tokens, known by their shape.
KEYS = re.compile(r"MK_[A-Z]+_\w+|eyJ[\w.=-]+|[\w.=-]{20,}")

DECLARATION = Declaration(
    name="moniepoint",
    path_name="moniepoint",
    title="Moniepoint",
    currencies=frozenset({"NGN"}),
    countries=frozenset({"NG"}),
    methods=frozenset(METHODS),
    live_base_url="https://api.monnify.com",
    session_life=SESSION_LIFE,
    webhook_sources=frozenset({"35.242.133.146"}),
    signature_headers=frozenset({"monnify-signature"}),
    card_details=True,
)

STATUSES = {
    "PENDING": Verdict.REQUIRES_ACTION,
    "PAID": Verdict.COMPLETED,
    "OVERPAID": Verdict.COMPLETED,
    "PARTIALLY_PAID": Verdict.COMPLETED,
    "UNDERPAID": Verdict.COMPLETED,
    "FAILED": Verdict.DECLINED,
    "ABANDONED": Verdict.EXPIRED,
    "CANCELLED": Verdict.CANCELLED,
    "EXPIRED": Verdict.EXPIRED,
    "REVERSED": Verdict.REVERSED,
}
CARD_STATUSES = {
    "SUCCESS": Verdict.PROCESSING,  # until the query has told what was paid
    "OTP_AUTHORIZATION_REQUIRED": Verdict.REQUIRES_ACTION,
    "BANK_AUTHORIZATION_REQUIRED": Verdict.PROCESSING,
    "MPGS_3DS_AUTHORIZATION_REQUIRED": Verdict.REQUIRES_ACTION,
    "FAILED": Verdict.DECLINED,
}
UNLISTED = "unlisted"
AT_THE_BANK = {"BANK_AUTHORIZATION_REQUIRED", "MPGS_3DS_AUTHORIZATION_REQUIRED"}
REFUND_STATUSES = {
    "PENDING": Verdict.PROCESSING,
    "IN_PROGRESS": Verdict.PROCESSING,
    "COMPLETED": Verdict.COMPLETED,
    "FAILED": Verdict.DECLINED,
}
TRANSFER_STATUSES = {
    "PENDING": Verdict.PROCESSING,
    "AWAITING_PROCESSING": Verdict.PROCESSING,
    "IN_PROGRESS": Verdict.PROCESSING,
    "PENDING_AUTHORIZATION": Verdict.REQUIRES_ACTION,
    # The code may be sent again, and the money with it: no end.
    "OTP_EMAIL_DISPATCH_FAILED": Verdict.REQUIRES_ACTION,
    "SUCCESS": Verdict.COMPLETED,
    "COMPLETED": Verdict.COMPLETED,
    "FAILED": Verdict.DECLINED,
    "EXPIRED": Verdict.DECLINED,
    "REVERSED": Verdict.REVERSED,
}
# Beside these words, by Monnify's page of error codes, a failed transfer has to be asked about again.
NOT_FINAL = re.compile(
    r"time ?out|timed out|delay|not (\w+ )?(available|reachable)|unavailable|unreachable|invalid session id"
    r"|invalid response code|malfunction|unable to complete|in progress|is processing|being processed"
)
UNPAID = {Verdict.REQUIRES_ACTION, Verdict.DECLINED, Verdict.CANCELLED, Verdict.EXPIRED}

WRONG_CURRENCY = Failure("unsupported_currency", "This account cannot take this currency.")
FAILURES = {
    "FAILED": DECLINED,
    "ABANDONED": Failure("expired", "The payment was not completed in time."),
    "CANCELLED": Failure("customer_cancelled", "The payment was cancelled."),
    "EXPIRED": Failure("expired", "The payment was not completed in time."),
}
REFUND_FAILED = Failure("refund_failed", "The refund failed.")
TRANSFER_FAILED = Failure("transfer_failed", "The transfer failed.")
NOT_AUTHORISED = Failure("expired", "The transfer was not authorised in time.")
BAD_ACCOUNT = Failure("invalid_account", "There is no such bank account.")
NO_BALANCE = Failure("insufficient_balance", "The merchant's balance at the payment provider is too low.")
WRONG_AMOUNT = Failure("wrong_amount", "Another amount than due was transferred. It goes back to the sender.")

CARD_OTP_ACTION = NextAction(ActionType.OTP, display_text="Enter the code that your bank has sent to you.")
WRONG_CARD_OTP = NextAction(
    ActionType.OTP, display_text="The code was not taken. Enter the code that your bank has sent to you."
)
OTP_ACTION = NextAction(ActionType.OTP, display_text="Enter the code that Monnify has mailed to the merchant.")
WRONG_OTP = NextAction(
    ActionType.OTP, display_text="The code was not taken. Enter the code that Monnify has mailed to the merchant."
)
UNSENT_OTP = NextAction(
    ActionType.OTP,
    display_text="Monnify could not mail the code. Have it sent again from its dashboard, then enter it.",
)

# By code: no refund, or no transfer, was made. R9 and D05 (a reference used before) are not among them, nor are the codes of
# Monnify's own trouble (R10, R11, M01, M02, 99).
REFUND_REFUSALS = {
    "R1": Failure("payment_not_found", "The payment provider does not know this payment."),
    "R2": Failure("refund_not_possible", "Only payments by bank transfer can be refunded at this provider."),
    "R3": Failure("refund_too_large", "The refund exceeds what is left of the payment."),
    "R4": Failure("refund_too_small", "The refund is below the smallest amount of the payment provider."),
    "R5": NO_BALANCE,
    "R6": Failure("refund_account_missing", "The payment provider has no bank account to refund to."),
    "R8": INVALID,
    "R12": Failure("already_refunded", "The payment has already been refunded."),
}
TRANSFER_REFUSALS = {
    "D03": BAD_ACCOUNT,
    "D04": NO_BALANCE,
    "D06": SETUP,
    "D07": Failure("repeated_transfer", "The same amount was sent to this account less than two minutes ago."),
}
# By the words that a message begins with, because the code is nearly always 99. Nothing was opened or charged.
REFUSALS = (
    ("could not find specified contract", SETUP),
    ("merchant is not permitted to perform this operation", SETUP),
    ("disbursement feature not enabled for this merchant", SETUP),
    ("unknown currency code supplied", WRONG_CURRENCY),
    ("the request could not be completed due to malformed syntax", INVALID),
    ("unauthorized, supply authorization header", NO_ACCESS),
    ("bad credentials", NO_ACCESS),
    ("invalid key", NO_ACCESS),
    ("invalid card number", Failure("invalid_card", "There is no card with this number.")),
    ("merchant has not been configured for bin", Failure("card_not_supported", "Cards of this kind are not taken.")),
)
NOT_FOUND = ("there's no transaction matching supplied reference", "could not find transaction with payment reference")
# Monnify answers the same words under several of these; 500 and above prove nothing.
SAYING_NO = {200, 400, 401, 403, 404, 422}
ENDED_TOKEN = ("access token expired", "cannot convert access token to json")

MOVING_EVENTS = {"SUCCESSFUL_TRANSACTION", "REJECTED_PAYMENT"}
# What an event's name promises; a status that says otherwise is believed no more than the name.
ENDS = {
    "SUCCESSFUL_REFUND": Verdict.COMPLETED,
    "FAILED_REFUND": Verdict.DECLINED,
    "SUCCESSFUL_DISBURSEMENT": Verdict.COMPLETED,
    "FAILED_DISBURSEMENT": Verdict.DECLINED,
    "REVERSED_DISBURSEMENT": Verdict.REVERSED,
}
OPERATIONS = {"REFUND": Operation.REFUND, "DISBURSEMENT": Operation.PAYOUT}
# What tells one event of a type from another; the others repeat.
IDENTITIES = {
    "SUCCESSFUL_TRANSACTION": "transactionReference",
    "REJECTED_PAYMENT": "transactionReference",
    "SUCCESSFUL_DISBURSEMENT": "reference",
    "FAILED_DISBURSEMENT": "reference",
    "REVERSED_DISBURSEMENT": "reference",
    "SUCCESSFUL_REFUND": "refundReference",
    "FAILED_REFUND": "refundReference",
    "SETTLEMENT": "settlementReference",
}


class MoniepointCredentials(BaseModel):
    """The secret key also signs the webhooks. `allow_unsigned_webhooks` is for the sandbox: such webhooks are only hints.
    `source_account_number` is the merchant's wallet, from which transfers are sent; without it none is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    api_key: SecretStr
    secret_key: SecretStr = Field(min_length=1)
    contract_code: str = Field(pattern=r"^[0-9]{4,20}$")
    source_account_number: str | None = Field(default=None, pattern=r"^[0-9]{10}$")
    allow_unsigned_webhooks: bool = False

    @model_validator(mode="after")
    def _shaped(self) -> "MoniepointCredentials":
        key = self.api_key.get_secret_value()
        if not re.fullmatch(r"MK_(TEST|PROD)_[A-Za-z0-9_]+", key):
            raise ValueError("an API key begins with MK_TEST_ or MK_PROD_")
        if self.allow_unsigned_webhooks and not key.startswith("MK_TEST_"):
            raise ValueError("only test credentials may allow unsigned webhooks")
        return self


class Moniepoint:
    declaration: ClassVar[Declaration] = DECLARATION
    CredentialsModel: ClassVar[type[BaseModel]] = MoniepointCredentials

    def __init__(self, http: ProviderHttp, base_url: str, clock: Clock) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._clock = clock
        self._tokens = TokenCache(clock)

    def check(self, order: CollectOrder) -> None:
        if order.amount.currency not in DECLARATION.currencies:
            raise OrderNotAcceptable("/currency", "Moniepoint takes Nigerian naira only.")
        if order.method is not None and order.method not in DECLARATION.methods:
            raise OrderNotAcceptable("/method", f"Moniepoint does not offer {order.method}.")
        if not order.customer.email:
            raise OrderNotAcceptable("/customer/email", "Moniepoint requires the customer's email address.")

    async def collect(self, order: CollectOrder, credentials: MoniepointCredentials) -> Result:
        body = _order_body(order, credentials)
        result = await self._ordered("collect", INITIATE, credentials, body, self._accepted)
        card = order.details.card if order.details else None
        if card is not None and result.verdict is Verdict.REQUIRES_ACTION:
            return await self._charge_card(order, card, result, credentials)
        if order.method == "bank_transfer" and result.verdict is Verdict.REQUIRES_ACTION:
            return await self._with_account(result, credentials)
        return result

    async def fetch(self, query: Query, credentials: MoniepointCredentials) -> Result:
        """By our reference: it also finds an order whose answer was lost, and no hint can put another in its place."""
        path = f"{QUERY}?paymentReference={quote(query.reference, safe='')}"
        found = await self._asked("fetch", path, credentials, lambda answer: _fetched(answer, query))
        under_way = any(text.startswith(SUBMITTED) for text in query.provider_references)
        if found.verdict is Verdict.REQUIRES_ACTION and under_way:
            return dataclasses.replace(found, verdict=Verdict.PROCESSING, expirable=False)
        return found

    def check_refund(self, order: RefundOrder) -> None:
        if order.amount.currency not in DECLARATION.currencies:
            raise OrderNotAcceptable("/currency", "Moniepoint refunds Nigerian naira only.")
        if order.amount.minor < SMALLEST_REFUND.minor:
            raise OrderNotAcceptable("/amount", f"Moniepoint refunds at least NGN {SMALLEST_REFUND.decimal_text()}.")
        if not order.payment.provider_references:
            raise OrderNotAcceptable("", "Moniepoint's own reference of this payment is not known yet.")

    async def refund(self, order: RefundOrder, credentials: MoniepointCredentials) -> Result:
        return await self._ordered(
            "refund", REFUND, credentials, _refund_body(order), lambda answer: _refund_started(answer, order.reference)
        )

    async def fetch_refund(self, query: RefundQuery, credentials: MoniepointCredentials) -> Result:
        """By our reference, or by the one under which it was made elsewhere."""
        name = (*query.provider_references, query.reference)[0]
        traceless = self._clock() - query.created_at >= TRACELESS_AFTER
        path = f"{REFUNDS}/{quote(name, safe='')}"
        return await self._asked(
            "fetch_refund", path, credentials, lambda answer: _refund_fetched(answer, name, traceless)
        )

    def check_payout(self, order: PayoutOrder) -> None:
        destination = order.destination
        if order.amount.currency not in DECLARATION.currencies:
            raise OrderNotAcceptable("/currency", "Moniepoint sends Nigerian naira only.")
        if order.amount.minor <= 0:
            raise OrderNotAcceptable("/amount", "Moniepoint sends amounts above zero.")
        if destination.type is not DestinationType.BANK_ACCOUNT:
            raise OrderNotAcceptable("/destination/type", "Moniepoint sends to bank accounts only.")
        if not re.fullmatch(r"[0-9A-Za-z]{3,10}", destination.bank_code or ""):
            raise OrderNotAcceptable("/destination/bank_code", "Moniepoint requires a bank code of its list of banks.")
        if not re.fullmatch(r"[0-9]{10}", destination.account_number or ""):
            raise OrderNotAcceptable("/destination/account_number", "A Nigerian account number has ten digits.")
        if not destination.account_name:
            raise OrderNotAcceptable("/destination/account_name", "Moniepoint requires the account holder's name.")

    async def pay_out(self, order: PayoutOrder, credentials: MoniepointCredentials) -> Result:
        if credentials.source_account_number is None:
            return Result(Verdict.REFUSED, raw_status="no source_account_number", failure=SETUP)
        body = _transfer_body(order, credentials.source_account_number)
        return await self._ordered(
            "pay_out", TRANSFER, credentials, body, lambda answer: _transfer_started(answer, order.reference)
        )

    async def fetch_payout(self, query: Query, credentials: MoniepointCredentials) -> Result:
        path = f"{TRANSFER_QUERY}?reference={quote(query.reference, safe='')}"
        return await self._asked(
            "fetch_payout", path, credentials, lambda answer: _transfer_fetched(answer, query.reference)
        )

    async def submit(self, query: Query, submission: Submission, credentials: MoniepointCredentials) -> Result:
        """The code that authorises a transfer, or the OTP of a card. Refused, it says nothing by itself: the transfer, or the
        payment, does."""
        token = next((text for text in reversed(query.provider_references) if text.startswith(AWAITING)), None)
        if submission.type is ActionType.OTP and query.operation is Operation.COLLECT and token is not None:
            return await self._authorise_card(query, token.removeprefix(AWAITING), submission, credentials)
        if query.operation is not Operation.PAYOUT or submission.type is not ActionType.OTP:
            return Result(Verdict.UNKNOWN, raw_status="nothing to confirm with")
        body = {"reference": query.reference, "authorizationCode": submission.value.get_secret_value()}
        try:
            answer = await self._send("submit", "POST", TRANSFER_OTP, credentials, body)
            if not _says_no(answer):
                return _authorised(answer, query.reference)
        except (NoToken, NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))
        standing = await self.fetch_payout(query, credentials)
        if standing.next_action == OTP_ACTION:
            return dataclasses.replace(standing, next_action=WRONG_OTP)
        return standing

    async def banks(self, currency: str, credentials: MoniepointCredentials) -> Sequence[Bank]:
        if currency not in DECLARATION.currencies:
            return ()
        rows = _response_body(await self._looked_up("banks", BANKS, credentials))
        if not isinstance(rows, list):
            raise LookupFailed
        found = [(word(row.get("code")), word(row.get("name"))) for row in rows if isinstance(row, dict)]
        return [Bank(code, name, currency) for code, name in found if code and name]

    async def resolve_account(self, destination: Destination, credentials: MoniepointCredentials) -> AccountHolder:
        number, bank = destination.account_number or "", destination.bank_code or ""
        if not (number and bank):
            raise LookupFailed(BAD_ACCOUNT)
        path = f"{HOLDER}?accountNumber={quote(number, safe='')}&bankCode={quote(bank, safe='')}"
        answer = await self._looked_up("resolve_account", path, credentials)
        if _says_no(answer) and _message(answer).lower().startswith("invalid account details"):
            raise LookupFailed(BAD_ACCOUNT)
        body = _response_body(answer)
        name = word(body.get("accountName")) if isinstance(body, dict) else ""
        if not name or body.get("accountNumber") not in (None, number):
            raise LookupFailed
        return AccountHolder(name, number, bank)

    def verify_webhook(self, request: WebhookRequest, credentials: Sequence[MoniepointCredentials]) -> Trust | None:
        """A signature that is there must fit, also where none is asked for. Only the present credentials may ask for none."""
        header = request.headers.get("monnify-signature")
        if not header and credentials and credentials[0].allow_unsigned_webhooks:
            return Trust.CONFIRM
        secrets = [item.secret_key.get_secret_value() for item in credentials]
        verify_hmac_hex(header, request.body, secrets, "sha512")
        return None

    def translate(self, request: WebhookRequest) -> Sequence[ProviderEvent]:
        try:
            body = _object(request.body)
            return [_event(body.get("eventType"), body.get("eventData"))]
        except Unreadable as error:
            raise WebhookMalformed(f"no readable Monnify event: {error}") from None

    async def _ordered(
        self,
        operation: str,
        path: str,
        credentials: MoniepointCredentials,
        body: dict[str, Any],
        read: Callable[[Answer], Result],
    ) -> Result:
        try:
            return read(await self._send(operation, "POST", path, credentials, body))
        except NoToken as refusal:
            return Result(refusal.verdict, raw_status=refusal.status, failure=refusal.failure)
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def _asked(
        self, operation: str, path: str, credentials: MoniepointCredentials, read: Callable[[Answer], Result]
    ) -> Result:
        """Not sent or without an answer, a question says nothing."""
        try:
            return read(await self._send(operation, "GET", path, credentials))
        except (NoToken, NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    async def _looked_up(self, operation: str, path: str, credentials: MoniepointCredentials) -> Answer:
        try:
            return await self._send(operation, "GET", path, credentials)
        except (NoToken, NotSent, OutcomeUnknown):
            raise LookupFailed from None

    async def _send(
        self,
        operation: str,
        method: str,
        path: str,
        credentials: MoniepointCredentials,
        body: dict[str, Any] | None = None,
    ) -> Answer:
        """With a token; with a new one when the first has ended, which is said before Monnify acts."""
        token = await self._token(credentials)
        answer = await self._call(operation, method, path, token, body)
        if _token_ended(answer):
            token = await self._token(credentials, refused=token)
            answer = await self._call(operation, method, path, token, body)
        return answer

    async def _call(self, operation: str, method: str, path: str, token: str, body: dict[str, Any] | None) -> Answer:
        url, headers = self._base_url + path, {"authorization": f"Bearer {token}"}
        return await self._http.send(DECLARATION.name, operation, method, url, headers=headers, json=body)

    async def _token(self, credentials: MoniepointCredentials, refused: str | None = None) -> str:
        key, secret = credentials.api_key.get_secret_value(), credentials.secret_key.get_secret_value()
        return await self._tokens.get(key, secret, lambda: self._new_token(key, secret), refused)

    async def _new_token(self, key: str, secret: str) -> Token:
        """NoToken also when no answer comes: the order itself never left."""
        headers = basic(key, secret)
        asked_at = self._clock()
        try:
            answer = await self._http.send(DECLARATION.name, "token", "POST", self._base_url + LOGIN, headers=headers)
            body = _granted(answer)
            if body is None:
                raise NoToken(_login_failure(answer), f"token {_said(answer)}".strip())
        except (OutcomeUnknown, Unreadable) as error:
            raise NoToken(UNREACHABLE, f"token {error}") from error
        value, life = word(body.get("accessToken"), 10_000), number(body.get("expiresIn")) or 0
        if not value:
            raise NoToken(UNREACHABLE, "token 200 without accessToken")
        return Token(value, asked_at + timedelta(seconds=min(life, 86_400) - 60))

    def _accepted(self, answer: Answer) -> Result:
        """The answer to an order."""
        body = _granted(answer)
        if body is None:
            return _refused(answer)
        references = _words(body.get("transactionReference"))
        url = web_address(body.get("checkoutUrl")).replace("|", "%7C")
        if not url:
            return Result(Verdict.UNKNOWN, raw_status="no checkoutUrl", provider_references=references)
        ends_at = self._clock() + SESSION_LIFE
        return Result(
            Verdict.REQUIRES_ACTION,
            raw_status="PENDING",
            reference=word(body.get("paymentReference")) or None,
            provider_references=references,
            next_action=NextAction(ActionType.REDIRECT, url=url, expires_at=ends_at),
            checkout_url=url,
            session_ends_at=ends_at,
        )

    async def _with_account(self, opened: Result, credentials: MoniepointCredentials) -> Result:
        """The account to transfer to. Without one, the page that is open shows it: the same payment, nothing is lost."""
        body = {"transactionReference": "".join(opened.provider_references)}
        try:
            granted = _granted(await self._send("open_account", "POST", OPEN_ACCOUNT, credentials, body))
            action = _transfer(granted or {}, self._clock())
        except (NoToken, NotSent, OutcomeUnknown, Unreadable):
            return opened
        return dataclasses.replace(opened, next_action=action, session_ends_at=action.expires_at)

    async def _charge_card(
        self, order: CollectOrder, card: CardDetails, opened: Result, credentials: MoniepointCredentials
    ) -> Result:
        """The charge of what was opened. Without its reference the open page remains: the same payment, nothing is lost."""
        if not opened.provider_references:
            return opened
        body = _card_body(opened.provider_references[0], card)
        number = card.number.get_secret_value()
        charged = await self._ordered(
            "charge_card",
            CHARGE_CARD,
            credentials,
            body,
            lambda answer: _charged(answer, number, opened.session_ends_at),
        )
        ids = (*opened.provider_references, *charged.provider_references)
        if charged.verdict in (Verdict.PROCESSING, Verdict.UNKNOWN):
            ids = (*ids, SUBMITTED + ids[0])
        charged = dataclasses.replace(charged, provider_references=ids, session_ends_at=opened.session_ends_at)
        if charged.raw_status != "SUCCESS":
            return charged
        query = Query(Operation.COLLECT, order.reference, ids, order.amount, self._clock())
        return await self._confirmed(query, charged, credentials)

    async def _authorise_card(
        self, query: Query, token: str, submission: Submission, credentials: MoniepointCredentials
    ) -> Result:
        otp = submission.value.get_secret_value()
        reference = query.provider_references[0]
        body = {"transactionReference": reference, "collectionChannel": CHANNEL, "tokenId": token, "token": otp}
        given = await self._ordered("submit", CARD_OTP, credentials, body, _otp_given)
        if given.verdict in (Verdict.NOT_SENT, Verdict.REFUSED):
            return given
        if given.verdict is Verdict.REQUIRES_ACTION:
            standing = await self.fetch(query, credentials)
            return given if standing.verdict is Verdict.REQUIRES_ACTION else standing
        given = dataclasses.replace(given, provider_references=(SUBMITTED + reference,))
        answered = given.raw_status in ("SUCCESSFUL", UNLISTED)
        return await self._confirmed(query, given, credentials) if answered else given

    async def _confirmed(self, query: Query, taken: Result, credentials: MoniepointCredentials) -> Result:
        """The end that the query tells of a card that was taken, with amount and fee; while it tells none, as it was taken."""
        found = await self.fetch(query, credentials)
        if found.verdict not in (Verdict.COMPLETED, Verdict.DECLINED, Verdict.REVERSED):
            return taken
        ids = (*taken.provider_references, *found.provider_references)
        return dataclasses.replace(found, provider_references=tuple(dict.fromkeys(ids)))


def _order_body(order: CollectOrder, credentials: MoniepointCredentials) -> dict[str, Any]:
    body: dict[str, Any] = {
        "amount": orjson.Fragment(order.amount.decimal_text()),
        "currencyCode": order.amount.currency,
        "contractCode": credentials.contract_code,
        "paymentReference": order.reference,
        "customerEmail": order.customer.email,
        "paymentDescription": (order.description or "Payment")[:250],
        "metaData": {"transaction_id": str(order.transaction_id)},
    }
    if order.customer.name:
        body["customerName"] = order.customer.name
    if order.method is not None:
        body["paymentMethods"] = [METHODS[order.method]]
    if order.return_url is not None:
        body["redirectUrl"] = order.return_url
    return body


def _card_body(reference: str, card: CardDetails) -> dict[str, Any]:
    given = {
        "number": card.number,
        "expiryMonth": card.expiry_month,
        "expiryYear": card.expiry_year,
        "cvv": card.cvv,
        "pin": card.pin,
    }
    return {
        "transactionReference": reference,
        "collectionChannel": CHANNEL,
        "card": {name: secret.get_secret_value() for name, secret in given.items() if secret is not None},
        "deviceInformation": DEVICE,
    }


def _charged(answer: Answer, number: str, ends_at: datetime | None) -> Result:
    """The answer to a card's charge, in our words only."""
    body = _granted(answer)
    if body is None:
        return _wordless(_refused(answer), answer)
    status, reference = word(body.get("status")), word(body.get("paymentReference")) or None
    verdict = CARD_STATUSES.get(status, Verdict.UNKNOWN)
    if verdict is Verdict.UNKNOWN:
        return Result(verdict, raw_status=_status_word(status) or UNLISTED, reference=reference)
    failure = told(DECLINED, status) if verdict is Verdict.DECLINED else None
    result = Result(verdict, raw_status=status, reference=reference, failure=failure)
    if status == "OTP_AUTHORIZATION_REQUIRED":
        token = word(_inner(body, "otpData").get("id"))
        if not token or number in token:
            return dataclasses.replace(result, verdict=Verdict.UNKNOWN)
        return dataclasses.replace(result, provider_references=(AWAITING + token,), next_action=CARD_OTP_ACTION)
    url = web_address(_inner(body, "secure3dData").get("redirectUrl")) if status in AT_THE_BANK else ""
    if url:
        action = NextAction(ActionType.REDIRECT, url=url.replace("|", "%7C"), expires_at=ends_at)
        return dataclasses.replace(result, verdict=Verdict.REQUIRES_ACTION, next_action=action)
    return dataclasses.replace(result, verdict=Verdict.UNKNOWN) if verdict is Verdict.REQUIRES_ACTION else result


def _otp_given(answer: Answer) -> Result:
    """What a wrong OTP is answered with is documented nowhere: any refusal may be one."""
    body = _granted(answer)
    if body is not None:
        taken = body.get("paymentStatus") == "SUCCESSFUL"
        return Result(Verdict.PROCESSING, "SUCCESSFUL") if taken else Result(Verdict.UNKNOWN, UNLISTED)
    refused = _wordless(_refused(answer), answer)
    if refused.verdict is Verdict.UNKNOWN and _says_no(answer):
        return dataclasses.replace(refused, verdict=Verdict.REQUIRES_ACTION, next_action=WRONG_CARD_OTP)
    return refused


def _wordless(result: Result, answer: Answer) -> Result:
    """Without the answer's words, which may repeat what was given."""
    failure = result.failure and Failure(result.failure.code, result.failure.message)
    return dataclasses.replace(result, raw_status=str(answer.status), failure=failure)


def _inner(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = body.get(name)
    return found if isinstance(found, dict) else {}


def _refund_body(order: RefundOrder) -> dict[str, Any]:
    """The customer's note stands in the statement of the account that is refunded."""
    return {
        "transactionReference": order.payment.provider_references[0],
        "refundReference": order.reference,
        "refundAmount": orjson.Fragment(order.amount.decimal_text()),
        "refundReason": (order.reason or "Refund")[:64],
        "customerNote": "Refund",
    }


def _transfer_body(order: PayoutOrder, source_account_number: str) -> dict[str, Any]:
    destination = order.destination
    return {
        "amount": orjson.Fragment(order.amount.decimal_text()),
        "reference": order.reference,
        "narration": (order.description or "Transfer")[:100],
        "destinationBankCode": destination.bank_code,
        "destinationAccountNumber": destination.account_number,
        "destinationAccountName": destination.account_name,
        "currency": order.amount.currency,
        "sourceAccountNumber": source_account_number,
    }


def _transfer(body: Mapping[str, Any], now: datetime) -> NextAction:
    """Where to transfer to. `totalPayable` holds the fee, where the customer bears it."""
    due = major_units(body.get("totalPayable"), "NGN")
    found = {"account_number": "accountNumber", "account_name": "accountName", "bank_name": "bankName"}
    fields = {name: word(body.get(key)) for name, key in found.items()}
    if not (fields["account_number"] and fields["bank_name"]):
        raise Unreadable("no account to transfer to")
    seconds = min(number(body.get("accountDurationSeconds")) or int(SESSION_LIFE.total_seconds()), 86_400)
    text = f"Transfer NGN {due.decimal_text()} to {fields['account_number']}, {fields['bank_name']}."
    return NextAction(
        ActionType.TRANSFER,
        display_text=text,
        fields=fields | {"bank_code": word(body.get("bankCode")), "amount": due.decimal_text(), "currency": "NGN"},
        expires_at=now + timedelta(seconds=seconds),
    )


def _refused(answer: Answer, codes: Mapping[str, Failure] | None = None) -> Result:
    if answer.status == 429:
        return Result(Verdict.REFUSED, raw_status="429", failure=TOO_MANY)
    said = _said(answer)
    if _token_ended(answer):
        return Result(Verdict.REFUSED, raw_status=said, failure=NO_ACCESS)
    failure = _listed(answer)
    if codes and _says_no(answer):
        failure = codes.get(_answer_code(answer), failure)
    if failure is None:
        return Result(Verdict.UNKNOWN, raw_status=said)
    return Result(Verdict.REFUSED, raw_status=said, failure=told(failure, said))


def _fetched(answer: Answer, query: Query) -> Result:
    """The answer to a question. What Monnify has told of before it finds, or the key is another."""
    body = _granted(answer)
    if body is not None:
        return _result(body)
    if _says_no(answer) and _message(answer).lower().startswith(NOT_FOUND):
        return Result(Verdict.NOT_FOUND, raw_status=_said(answer), expirable=not query.answered)
    return Result(Verdict.UNKNOWN, raw_status=_said(answer))


def _result(data: Mapping[str, Any]) -> Result:
    """A transaction, from a query or from an event. Unreadable where money has no amount."""
    status = word(data.get("paymentStatus"))
    verdict = STATUSES.get(status, Verdict.UNKNOWN)
    empty = _is_nothing(data.get("amountPaid"))
    if verdict in UNPAID and verdict is not Verdict.REQUIRES_ACTION and not empty:
        verdict = Verdict.UNKNOWN  # ended without money, it says, and names money
    paid = major_units(data.get("amountPaid"), data.get("currency")) if verdict is Verdict.COMPLETED else None
    return Result(
        verdict,
        raw_status=status,
        reference=word(data.get("paymentReference")) or None,
        provider_references=_words(data.get("transactionReference")),
        paid=paid,
        # Of another amount than was due no part is explained as a fee.
        fee=_fee(paid, data.get("settlementAmount")) if paid and status == "PAID" else None,
        failure=told(FAILURES[status], status) if verdict in UNPAID and status in FAILURES else None,
        expirable=verdict in UNPAID and empty,
    )


def _refund_started(answer: Answer, name: str) -> Result:
    body = _granted(answer)
    if body is None:
        return _refused(answer, REFUND_REFUSALS)
    result = _refund_result(body, name)
    if result.verdict is Verdict.COMPLETED and "in progress" in word(body.get("comment")).lower():
        return dataclasses.replace(result, verdict=Verdict.PROCESSING)
    return result


def _refund_fetched(answer: Answer, name: str, traceless: bool) -> Result:
    body = _granted(answer)
    if body is not None:
        return _refund_result(body, name)
    gone = traceless and _says_no(answer) and _answer_code(answer) == "R7"
    return Result(Verdict.NOT_FOUND if gone else Verdict.UNKNOWN, raw_status=_said(answer))


def _refund_result(data: Mapping[str, Any], name: str) -> Result:
    """A refund, from an answer or an event. Our reference is compared here, as a refund made elsewhere has another."""
    if word(data.get("refundReference")) != name:
        return Result(Verdict.UNKNOWN, raw_status="another refund")
    status = _status_word(data.get("refundStatus"))
    verdict = REFUND_STATUSES.get(status, Verdict.UNKNOWN)
    return Result(
        verdict,
        raw_status=status,
        provider_references=(name,) if verdict is not Verdict.UNKNOWN else (),
        requested=_moved(data.get("refundAmount"), "NGN", verdict),
        failure=told(REFUND_FAILED, status) if verdict is Verdict.DECLINED else None,
    )


def _transfer_started(answer: Answer, name: str) -> Result:
    """D01 is a transfer that failed, for the reason in its words."""
    body = _granted(answer)
    if body is not None:
        return _transfer_result(body, name)
    if not (_says_no(answer) and _answer_code(answer) == "D01"):
        return _refused(answer, TRANSFER_REFUSALS)
    if _may_still_arrive(_message(answer)):
        return Result(Verdict.UNKNOWN, raw_status=_said(answer))
    return Result(Verdict.DECLINED, raw_status=_said(answer), failure=told(TRANSFER_FAILED, _said(answer)))


def _transfer_fetched(answer: Answer, name: str) -> Result:
    body = _granted(answer)
    if body is not None:
        return _transfer_result(body, name)
    missing = _says_no(answer) and _answer_code(answer) == "D02"
    return Result(Verdict.NOT_FOUND if missing else Verdict.UNKNOWN, raw_status=_said(answer))


def _authorised(answer: Answer, name: str) -> Result:
    """Without the words of what is no success: they may repeat the code."""
    body = _granted(answer)
    return _transfer_result(body, name) if body is not None else Result(Verdict.UNKNOWN, raw_status=str(answer.status))


def _transfer_result(data: Mapping[str, Any], name: str) -> Result:
    """A transfer, from an answer or an event; an answer to its order names no currency."""
    if word(data.get("reference")) != name:
        return Result(Verdict.UNKNOWN, raw_status="another transfer")
    status = _status_word(data.get("status"))
    verdict = TRANSFER_STATUSES.get(status, Verdict.UNKNOWN)
    words = f"{word(data.get('transactionDescription'), 1_000)} {word(data.get('comment'), 1_000)}"
    if status == "FAILED" and _may_still_arrive(words):
        verdict = Verdict.UNKNOWN
    failure = {"FAILED": TRANSFER_FAILED, "EXPIRED": NOT_AUTHORISED}.get(status)
    currency = data.get("currency", "NGN")
    return Result(
        verdict,
        raw_status=status,
        reference=name,
        provider_references=_words(data.get("transactionReference")),
        requested=_moved(data.get("amount"), currency, verdict),
        fee=_amount_told(data.get("fee", data.get("totalFee")), currency),
        next_action={"PENDING_AUTHORIZATION": OTP_ACTION, "OTP_EMAIL_DISPATCH_FAILED": UNSENT_OTP}.get(status),
        failure=told(failure, status) if failure and verdict is Verdict.DECLINED else None,
    )


def _may_still_arrive(words: str) -> bool:
    """Whatever stands between the words: it is written time-out, time out and timeout."""
    return NOT_FINAL.search(re.sub(r"[^a-z0-9]+", " ", words.lower())) is not None


def _moved(amount: Any, currency: Any, verdict: Verdict) -> Money | None:
    """Unreadable where money has moved and no amount is told."""
    if verdict in (Verdict.COMPLETED, Verdict.REVERSED):
        return major_units(amount, currency)
    return _amount_told(amount, currency)


def _amount_told(amount: Any, currency: Any) -> Money | None:
    try:
        return major_units(amount, currency)
    except Unreadable:
        return None


def _fee(paid: Money, settled: Any) -> Money | None:
    """What Monnify keeps: the difference between what was paid and what is settled, where it tells that."""
    try:
        kept = paid.minor - major_units(settled, paid.currency).minor
    except Unreadable:
        return None
    return Money(kept, paid.currency) if kept > 0 else None


def _event(kind: Any, data: Any) -> ProviderEvent:
    """News that moves nothing (settlements, balances) keeps its references, so that it is found by them."""
    kind = word(kind)
    if not (kind and isinstance(data, dict)):
        raise Unreadable("an event without type or data")
    operation = OPERATIONS.get(kind.rpartition("_")[2], Operation.COLLECT)
    identity = word(data.get(IDENTITIES.get(kind, "")))
    status = next((word(data.get(key)) for key in ("paymentStatus", "refundStatus", "status") if data.get(key)), "")
    # The same transaction may be told again with another status: that is another event.
    parts = (kind, identity, status)
    refund = _words(data.get("refundReference"))
    payment = _words(data.get("transactionReference"), data.get("paymentReference"))
    told_by = (data.get("paymentReference"), data.get("refundReference"), data.get("reference"))
    ids = _words(data.get("transactionReference"), data.get("settlementReference"))
    return ProviderEvent(
        type=kind,
        trust=Trust.SIGNED,
        operation=operation,
        dedupe_key=":".join(filter(None, parts)) if identity else None,
        references=refund if operation is Operation.REFUND else _words(*told_by),
        provider_references=refund if operation is Operation.REFUND else ids,
        payment_references=payment if operation is Operation.REFUND else (),
        result=_event_result(kind, data, identity),
    )


def _event_result(kind: str, data: Mapping[str, Any], identity: str) -> Result | None:
    if kind in MOVING_EVENTS and not (word(data.get("paymentReference")) and identity):
        raise Unreadable(f"{kind} without its references")
    if kind == "SUCCESSFUL_TRANSACTION":
        return _result(data)
    if kind == "REJECTED_PAYMENT":
        return _rejected(data)
    if kind not in ENDS:
        return None
    if not identity:
        raise Unreadable(f"{kind} without its reference")
    result = (_refund_result if kind.endswith("_REFUND") else _transfer_result)(data, identity)
    if result.verdict is not ENDS[kind]:
        return dataclasses.replace(result, verdict=Verdict.UNKNOWN, failure=None, next_action=None)
    return result


def _rejected(data: Mapping[str, Any]) -> Result:
    """A transfer of a wrong amount, which Monnify sends back. The account stays open for the right one."""
    rejection = data.get("paymentRejectionInformation")
    reason = word(rejection.get("rejectionReason")) if isinstance(rejection, dict) else ""
    return Result(
        Verdict.DECLINED,
        raw_status=f"REJECTED_PAYMENT {reason}".strip(),
        reference=word(data.get("paymentReference")),
        provider_references=_words(data.get("transactionReference")),
        failure=told(WRONG_AMOUNT if reason in ("UNDER_PAYMENT", "OVER_PAYMENT") else DECLINED, reason),
        session_open=True,
    )


def _granted(answer: Answer) -> dict[str, Any] | None:
    """What a success holds; None for a refusal. Unreadable for what is neither."""
    if answer.status != 200:
        return None
    body = _object(answer.body)
    inner = body.get("responseBody")
    fine = body.get("requestSuccessful") is True and _code(body.get("responseCode")) == "0"
    return inner if fine and isinstance(inner, dict) else None


def _response_body(answer: Answer) -> Any:
    """What the answer to a lookup holds, of whatever shape. LookupFailed for all else."""
    body = _error(answer)
    fine = answer.status == 200 and body.get("requestSuccessful") is True and _code(body.get("responseCode")) == "0"
    if not fine:
        raise LookupFailed
    return body.get("responseBody")


def _listed(answer: Answer) -> Failure | None:
    message = _message(answer).lower()
    return next((failure for words, failure in REFUSALS if _says_no(answer) and message.startswith(words)), None)


def _says_no(answer: Answer) -> bool:
    return answer.status in SAYING_NO and _error(answer).get("requestSuccessful") is False


def _login_failure(answer: Answer) -> Failure:
    if answer.status == 429:
        return TOO_MANY
    return NO_ACCESS if answer.status in (401, 403) or _listed(answer) is NO_ACCESS else UNREACHABLE


def _token_ended(answer: Answer) -> bool:
    """In the envelope, or as OAuth has it."""
    if answer.status != 401:
        return False
    return _error(answer).get("error") == "invalid_token" or _message(answer).lower().startswith(ENDED_TOKEN)


def _error(answer: Answer) -> dict[str, Any]:
    """The body, or nothing where it is empty or HTML: then the status has to do."""
    try:
        return _object(answer.body)
    except Unreadable:
        return {}


def _answer_code(answer: Answer) -> str:
    return _code(_error(answer).get("responseCode"))


def _message(answer: Answer) -> str:
    return word(_error(answer).get("responseMessage"), 1_000)


def _said(answer: Answer) -> str:
    """Status, code and message, without any key or token that the message repeats."""
    code, message = _code(_error(answer).get("responseCode")), KEYS.sub("***", _message(answer))
    return " ".join(filter(None, (str(answer.status), code, message)))[:200]


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, ArithmeticError, RecursionError):
        raise Unreadable("a body that is not JSON") from None
    if not isinstance(value, dict):
        raise Unreadable("a body that is not a JSON object")
    return value


def _is_nothing(amount: Any) -> bool:
    """0, "0.00" or null."""
    if isinstance(amount, str):
        return re.fullmatch(r"0+(\.0+)?", amount) is not None
    return amount is None or (type(amount) in (int, Decimal) and amount == 0)


def _status_word(value: Any) -> str:
    """No digits, so that no code can be kept as a status."""
    return value if isinstance(value, str) and re.fullmatch(r"[A-Z_]{1,40}", value) else ""


def _words(*found: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in map(word, found) if text))


def _code(value: Any) -> str:
    return str(value) if type(value) is int and abs(value) < 1_000_000 else word(value, 40)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")
