"""Standard Bank Pay, simulated: an approval page for South Africa and Lesotho behind JSON that is signed both ways.

We know of no public documentation of such an API, of Standard Bank or of Standard Lesotho Bank. This is a pattern to
agree on with a bank; only our simulator speaks it, and `DECLARATION.simulated` says so.

- Each request carries a Bearer key, `X-SBP-Client-Id`, `X-SBP-Request-Id` (the attempt's reference: the same request
  twice is one payment), `X-SBP-Timestamp` and `X-SBP-Signature: v1=` the hex HMAC-SHA-256 of
  `<timestamp>.<METHOD>.<path>.<hex SHA-256 of the body>`. The path is the one below the base URL.
- Webhooks carry the same two headers, signed over `<timestamp>.<raw body>` with the same secret, 300 seconds long.
- Status and event name amount, currency and our reference. The amount is one: what was asked is what is taken.
- Only `sbp_txn_ref` can be asked about. After a lost answer the events alone know it, and name our reference.
- A decline is final, and has no reason. Nothing can be cancelled by us: the session ends by itself after 300 seconds.
- The page leads nowhere afterwards: the order has no return address.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
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
    minor_units,
    number,
    object_or_nothing,
    silence,
    told,
    web_address,
    word,
)
from payflow.gateway.signing import verify_timestamped

PAYMENTS = "/api/v1/payments"
SESSION_SECONDS = 300
MAX_SESSION_SECONDS = 86_400

DECLARATION = Declaration(
    name="standardbank_pay",
    path_name="standardbank",
    title="Standard Bank Pay",
    currencies=frozenset({"ZAR", "LSL"}),
    countries=frozenset({"ZA", "LS"}),
    methods=frozenset({"bank"}),
    # There is no live address. RFC 6761 promises that this one never resolves: without a base URL nothing is sent.
    live_base_url="https://standardbank-pay.invalid",
    session_life=timedelta(seconds=SESSION_SECONDS),
    signature_headers=frozenset({"x-sbp-signature"}),
    simulated=True,
    refund_alternative="Standard Bank Pay makes no refunds: pay the customer back with a new payment out.",
)

AWAITING = "AWAITING_CUSTOMER"
STATUSES = {
    AWAITING: Verdict.REQUIRES_ACTION,
    "SETTLED": Verdict.COMPLETED,
    "DECLINED": Verdict.DECLINED,
    "EXPIRED": Verdict.EXPIRED,
    "CANCELLED": Verdict.CANCELLED,
    "REVERSED": Verdict.REVERSED,
}
EVENTS = {f"PAYMENT_{state}": state for state in STATUSES if state != AWAITING}

FAILURES = {
    Verdict.DECLINED: DECLINED,
    Verdict.EXPIRED: Failure("expired", "The payment was not approved in time."),
    Verdict.CANCELLED: Failure("customer_cancelled", "The payment was cancelled at the bank."),
}
LIMIT = Failure("limit_exceeded", "The payment exceeds a limit of the bank.")

# By HTTP status and the answer's `error`. Nothing was opened.
REFUSALS = {
    (400, "invalid request"): INVALID,
    (400, "invalid amount"): INVALID,
    (400, "invalid currency"): INVALID,
    (400, "invalid customer"): INVALID,
    (401, "invalid api key"): NO_ACCESS,
    (401, "invalid signature"): NO_ACCESS,
    (401, "stale timestamp"): SETUP,
    (422, "amount exceeds daily limit"): LIMIT,
}
NOT_FOUND = (404, "payment not found")


class StandardBankPayCredentials(BaseModel):
    """`signing_secret` signs our requests and the webhooks."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    api_key: SecretStr
    client_id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    signing_secret: SecretStr = Field(min_length=16)

    @field_validator("api_key")
    @classmethod
    def _shaped(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("sbp_test_", "sbp_live_")):
            raise ValueError("an API key begins with sbp_test_ or sbp_live_")
        return value


class StandardBankPay:
    declaration: ClassVar[Declaration] = DECLARATION
    CredentialsModel: ClassVar[type[BaseModel]] = StandardBankPayCredentials

    def __init__(self, http: ProviderHttp, base_url: str, clock: Clock) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._clock = clock

    def check(self, order: CollectOrder) -> None:
        if order.amount.currency not in DECLARATION.currencies:
            raise OrderNotAcceptable("/currency", f"Standard Bank Pay does not take {order.amount.currency}.")
        if order.method is not None and order.method not in DECLARATION.methods:
            raise OrderNotAcceptable("/method", f"Standard Bank Pay does not offer {order.method}.")
        if not (order.customer.phone or order.customer.email):
            raise OrderNotAcceptable("/customer", "Standard Bank Pay requires the customer's phone or email address.")

    async def collect(self, order: CollectOrder, credentials: StandardBankPayCredentials) -> Result:
        path, body = f"{PAYMENTS}/initiate", orjson.dumps(_order_body(order))
        try:
            return self._accepted(await self._send("collect", "POST", path, credentials, order.reference, body))
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch(self, query: Query, credentials: StandardBankPayCredentials) -> Result:
        """A query that was not sent, or was refused, says nothing of the payment: it is unknown as well."""
        if not query.provider_references:
            return Result(Verdict.UNKNOWN, raw_status="no sbp_txn_ref")
        path = f"{PAYMENTS}/{quote(query.provider_references[0], safe='')}/status"
        try:
            return _fetched(await self._send("fetch", "GET", path, credentials, query.reference))
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    def verify_webhook(self, request: WebhookRequest, credentials: Sequence[StandardBankPayCredentials]) -> None:
        """Stripe's scheme in two headers instead of one."""
        timestamp, signature = request.headers.get("x-sbp-timestamp"), request.headers.get("x-sbp-signature")
        header = f"t={timestamp},{signature}" if timestamp and signature else None
        secrets = [item.signing_secret.get_secret_value() for item in credentials]
        verify_timestamped(header, request.body, secrets, now=self._clock().timestamp())

    def translate(self, request: WebhookRequest) -> Sequence[ProviderEvent]:
        try:
            return [_event(orjson.loads(request.body))]
        except (orjson.JSONDecodeError, Unreadable) as error:
            raise WebhookMalformed(f"no readable Standard Bank Pay event: {error}") from None

    async def _send(
        self,
        operation: str,
        method: str,
        path: str,
        credentials: StandardBankPayCredentials,
        request_id: str,
        body: bytes = b"",
    ) -> Answer:
        headers = _headers(credentials, request_id, method, path, body, int(self._clock().timestamp()))
        # A fragment goes out byte for byte: what is sent is what was signed.
        json = orjson.Fragment(body) if body else None
        return await self._http.send(
            DECLARATION.name, operation, method, self._base_url + path, headers=headers, json=json
        )

    def _accepted(self, answer: Answer) -> Result:
        """The answer to an order."""
        if answer.status != 201:
            return _refused(answer)
        body = answer.json_object()
        state, url, identity = word(body.get("processing_state")), web_address(body.get("approval_url")), _ids(body)
        if state != AWAITING or not (url and identity):
            return Result(Verdict.UNKNOWN, raw_status=f"201 {state}".strip(), provider_references=identity)
        seconds = number(body.get("expires_in_seconds")) or SESSION_SECONDS
        ends_at = self._clock() + timedelta(seconds=min(seconds, MAX_SESSION_SECONDS))
        return Result(
            Verdict.REQUIRES_ACTION,
            raw_status=state,
            provider_references=identity,
            next_action=NextAction(ActionType.REDIRECT, url=url, expires_at=ends_at),
            checkout_url=url,
            session_ends_at=ends_at,
        )


def _headers(
    credentials: StandardBankPayCredentials, request_id: str, method: str, path: str, body: bytes, timestamp: int
) -> dict[str, str]:
    signed = f"{timestamp}.{method}.{path}.{hashlib.sha256(body).hexdigest()}"
    secret = credentials.signing_secret.get_secret_value().encode()
    return {
        "authorization": f"Bearer {credentials.api_key.get_secret_value()}",
        "x-sbp-client-id": credentials.client_id,
        "x-sbp-request-id": request_id,
        "x-sbp-timestamp": str(timestamp),
        "x-sbp-signature": f"v1={hmac.digest(secret, signed.encode(), 'sha256').hex()}",
    }


def _order_body(order: CollectOrder) -> dict[str, Any]:
    customer = {}
    if order.customer.phone:
        customer["msisdn"] = order.customer.phone.removeprefix("+")
    if order.customer.email:
        customer["email"] = order.customer.email
    return {
        "reference": order.reference,
        "amount_cents": order.amount.to_provider(DECLARATION.exponents),
        "currency": order.amount.currency,
        "customer": customer,
        "callback_url": order.callback_url,
        "expires_in_seconds": SESSION_SECONDS,
    }


def _refused(answer: Answer) -> Result:
    error = _error(answer)
    failure = TOO_MANY if answer.status == 429 else REFUSALS.get((answer.status, error))
    raw_status = f"{answer.status} {error}".strip()
    if failure is None:
        return Result(Verdict.UNKNOWN, raw_status=raw_status)
    return Result(Verdict.REFUSED, raw_status=raw_status, failure=told(failure, error))


def _fetched(answer: Answer) -> Result:
    """The answer to a question."""
    if answer.status == 200:
        body = answer.json_object()
        return _result(word(body.get("processing_state")), body, body.get("ledger_entry_id"))
    error = _error(answer)
    verdict = Verdict.NOT_FOUND if (answer.status, error) == NOT_FOUND else Verdict.UNKNOWN
    return Result(verdict, raw_status=f"{answer.status} {error}".strip())


def _result(state: str, fields: Mapping[str, Any], ledger_entry_id: Any) -> Result:
    """A payment, from a status or an event. Unreadable where it does not say which payment of how much it is."""
    verdict = STATUSES.get(state, Verdict.UNKNOWN)
    reference, identity = word(fields.get("reference")), _ids(fields)
    if not (reference and identity):
        raise Unreadable("a payment without reference or sbp_txn_ref")
    amount = minor_units(fields.get("amount_cents"), fields.get("currency"), DECLARATION.exponents)
    failure = FAILURES.get(verdict)
    return Result(
        verdict,
        raw_status=state,
        reference=reference,
        provider_references=identity,
        receipt=word(ledger_entry_id) or None,
        requested=amount,
        paid=amount if verdict in (Verdict.COMPLETED, Verdict.REVERSED) else None,
        failure=told(failure, state) if failure else None,
        # While the bank still awaits the customer nothing is paid; should it be after all, that is believed as late.
        expirable=verdict in (Verdict.REQUIRES_ACTION, *FAILURES),
    )


def _event(body: Any) -> ProviderEvent:
    """An event that is not listed moves nothing, and keeps its references, so that it is found by them."""
    fields = body if isinstance(body, dict) else {}
    event_id, kind, details = word(fields.get("event_id")), word(fields.get("event_type")), fields.get("details")
    if not (event_id and kind):
        raise Unreadable("an event without event_id or event_type")
    entry = details.get("ledger_entry_id") if isinstance(details, dict) else None
    reference = word(fields.get("reference"))
    return ProviderEvent(
        type=kind,
        trust=Trust.SIGNED,
        dedupe_key=event_id,
        references=(reference,) if reference else (),
        provider_references=_ids(fields),
        result=_result(EVENTS[kind], fields, entry) if kind in EVENTS else None,
    )


def _ids(fields: Mapping[str, Any]) -> tuple[str, ...]:
    identity = word(fields.get("sbp_txn_ref"))
    return (identity,) if identity else ()


def _error(answer: Answer) -> str:
    """The answer's own words, only where they are listed: a message may repeat the key it refuses."""
    error = word(object_or_nothing(answer).get("error")).strip().rstrip(".").lower()
    return error if error == NOT_FOUND[1] or any(error == known for _, known in REFUSALS) else ""
